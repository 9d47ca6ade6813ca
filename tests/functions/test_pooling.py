"""Poolings by hand, ties, positions, and settings that make no sense."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss.errors import ArgumentError, DTypeError, OutOfBoundsError, ShapeError
from schuss.execution import tiers
from schuss.functions import pooling


def test_pooling_by_hand() -> None:
    x = schuss.tensor(np.arange(16.0).reshape(1, 1, 4, 4))
    assert pooling.max_pool2d(x, 2).tolist() == [[[[5, 7], [13, 15]]]]
    assert pooling.avg_pool2d(x, 2).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert pooling.max_pool2d(x, 3, 1, dilation=(1, 1)).tolist() == [[[[10, 11], [14, 15]]]]
    assert pooling.max_pool2d(-x, 2, padding=1)[0, 0, 0, 0].item() == 0, "padding is no candidate"
    assert pooling.avg_pool2d(x + 1, 2, padding=1)[0, 0, 0, 0].item() == 0.25
    assert pooling.avg_pool2d(x + 1, 2, padding=1, count_include_pad=False)[0, 0, 0, 0].item() == 1
    assert pooling.max_pool1d(x[:, 0], 2).shape == (1, 4, 2)
    assert pooling.avg_pool1d(x[:, 0], 3, 1).shape == (1, 4, 2)
    assert pooling.adaptive_avg_pool2d(x, 1).item() == 7.5
    assert pooling.adaptive_max_pool2d(x, (2, 3)).tolist() == [[[[5, 6, 7], [13, 14, 15]]]]
    assert pooling.adaptive_max_pool1d(x[:, 0], 3).shape == (1, 4, 3)
    assert pooling.adaptive_avg_pool1d(x[:, 0], 3).tolist()[0][0] == [0.5, 1.5, 2.5]


def ones(*shape: int) -> schuss.Tensor:
    return schuss.ones(shape)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: pooling.max_pool2d(ones(1, 5, 5), 2),
            ShapeError,
            "x must have 4 axes, batch and channels first",
        ),
        (
            lambda: pooling.max_pool2d(ones(1, 1, 5, 5), 2, padding=2),
            ArgumentError,
            "half the kernel at most",
        ),
        (
            lambda: pooling.max_pool2d(ones(1, 1, 2, 2), 3),
            ShapeError,
            "the kernel is larger than the input",
        ),
        (
            lambda: pooling.avg_pool3d(ones(1, 1, 2, 2, 2), 2, divisor_override=0),
            ArgumentError,
            "avg_pool3d: divisor_override must not be 0",
        ),
        (
            lambda: pooling.max_unpool1d(ones(1, 1, 2), ones(1, 1, 3), 2),
            ShapeError,
            "x and indices must have the same 3 axes",
        ),
        (
            lambda: pooling.max_unpool1d(ones(1, 1, 2), ones(1, 1, 2), 2),
            DTypeError,
            "max_unpool1d: indices must be integers",
        ),
        (lambda: pooling.adaptive_avg_pool2d(ones(1, 5, 5), 2), ShapeError, "x must have 4 axes"),
        (
            lambda: pooling.adaptive_avg_pool2d(ones(1, 1, 5, 5), 0),
            ArgumentError,
            "output_size must be an integer",
        ),
    ],
)
def test_errors(call, kind, message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert __file__ in str(caught.value)


# --- ties, positions, the way back ---


@pytest.mark.parametrize("mode", ["reference", "compiled"])
def test_the_first_of_equals_has_the_gradient(mode: str) -> None:
    """First in the order of rows, in windows that overlap too."""
    image = np.array([[[[1.0, 2, 2, 0], [2, 2, 0, 0], [0, 0, 0, 0]]]])
    with tiers.using(mode):
        x = schuss.tensor(image, requires_grad=True)
        pooling.max_pool2d(x, 2, 1).sum().backward()
        assert x.grad.tolist() == [[[[0, 2, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]]]
        x.grad = None
        pooling.adaptive_max_pool2d(x, 1).sum().backward()
        assert x.grad.tolist() == [[[[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]]


def test_nan_is_the_largest() -> None:
    x = schuss.tensor([[[1.0, np.nan, 3.0, np.nan]]], requires_grad=True)
    y, position = pooling.max_pool1d(x, 4, return_indices=True)
    y.backward()
    assert np.isnan(y.item())
    assert position.item() == 1
    assert x.grad.tolist() == [[[0, 1, 0, 0]]]


def test_gradients_of_gradients() -> None:
    x = np.random.default_rng(0).permutation(36).reshape(1, 1, 6, 6) / 10
    schuss.check_gradients(lambda x: pooling.max_pool2d(x, 3, 2, 1) ** 3, [x], order=2)


def test_positions() -> None:
    x = schuss.tensor(np.array([[[[1, 5, 2], [9, 0, 9], [3, 4, 7]]]]))
    y, places = pooling.max_pool2d(x, 2, 1, return_indices=True)
    assert y.tolist() == [[[[9, 9], [9, 9]]]]
    assert places.dtype == schuss.int64
    assert places.tolist() == [[[[3, 5], [3, 5]]]]
    _, places = pooling.max_pool2d(x, 2, padding=1, return_indices=True)
    assert places.tolist() == [[[[0, 1], [3, 5]]]], "they count in x, without its padding"


def test_ceil_mode() -> None:
    """The last window may be incomplete, but begins in x or in the padding before it."""
    x = schuss.tensor([[[1.0, 2, 3, 4, 5]]])
    assert pooling.max_pool1d(x, 2, ceil_mode=True).tolist() == [[[2, 4, 5]]]
    assert pooling.avg_pool1d(x, 2, ceil_mode=True).tolist() == [[[1.5, 3.5, 5]]]
    assert pooling.avg_pool1d(x, 3, 2, 1, ceil_mode=True).tolist() == [[[1, 3, 3]]]
    assert pooling.max_pool1d(x, 2, 3, 1, ceil_mode=True).shape == (1, 1, 2), "not behind x"
    assert pooling.max_pool1d(x, 1, 5, ceil_mode=True).shape == (1, 1, 1)
    assert pooling.avg_pool1d(x, 6, ceil_mode=True).tolist() == [[[3]]], "wider than x"
    with pytest.raises(ShapeError, match="the kernel is larger than the input"):
        pooling.avg_pool1d(x, 6, 1, ceil_mode=True)


def test_divisor() -> None:
    x = schuss.tensor(np.arange(8.0).reshape(1, 1, 2, 2, 2))
    assert pooling.avg_pool3d(x, 2, divisor_override=7).item() == pytest.approx(4)


def test_unpooling() -> None:
    x = schuss.tensor(np.arange(25.0).reshape(1, 1, 5, 5) + 1, requires_grad=True)
    y, places = pooling.max_pool2d(x, 2, return_indices=True)
    back = pooling.max_unpool2d(y, places, 2, output_size=(5, 5)).numpy()
    expected = np.zeros((5, 5))
    expected[1:4:2, 1:4:2] = [[7, 9], [17, 19]]
    np.testing.assert_array_equal(back[0, 0], expected)
    assert pooling.max_unpool2d(y * 0, places * 0, 2).shape == (1, 1, 4, 4)
    with pytest.raises(OutOfBoundsError, match="max_unpool2d: index 16 is outside axis 2"):
        pooling.max_unpool2d(y, places, 2).numpy()


def test_sizes_that_stay() -> None:
    assert pooling.adaptive_avg_pool3d(ones(1, 2, 3, 4, 5), (None, 2, None)).shape == (
        1,
        2,
        3,
        2,
        5,
    )
