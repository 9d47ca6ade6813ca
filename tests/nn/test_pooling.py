"""Pooling against loops over windows, and gradients against differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import ArgumentError, ArgumentTypeError, ShapeError

F = nn.functional
Check = Callable[..., None]


def distinct(shape: tuple[int, ...]) -> np.ndarray:
    """No two elements alike, so that the largest one is always clear."""
    return np.random.default_rng(0).permutation(math.prod(shape)).reshape(shape) / 10


def pool(
    x: np.ndarray,
    largest: bool,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    dilation: int = 1,
    count_include_pad: bool = True,
) -> np.ndarray:
    """Over the last axis."""
    stride = kernel_size if stride is None else stride
    wide = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(padding, padding)], constant_values=np.nan)
    span = dilation * (kernel_size - 1) + 1
    starts = range(0, wide.shape[-1] - span + 1, stride)
    windows = [wide[..., i : i + span : dilation] for i in starts]
    if largest:
        return np.stack([np.nanmax(w, axis=-1) for w in windows], axis=-1)
    if not count_include_pad:
        return np.stack([np.nanmean(w, axis=-1) for w in windows], axis=-1)
    return np.stack([np.nan_to_num(w).mean(axis=-1) for w in windows], axis=-1)


def pool2d(x: np.ndarray, largest: bool, kernel_size: Any, **options: Any) -> np.ndarray:
    """Rows, then columns: largest elements and means (of full rectangles) can be taken one axis at
    a time.
    """

    def of_axis(i: int) -> dict[str, Any]:
        named = {"kernel_size": kernel_size, **options}
        return {
            key: value[i] if isinstance(value, tuple) else value for key, value in named.items()
        }

    rows = pool(x, largest, **of_axis(1))
    return pool(rows.swapaxes(-1, -2), largest, **of_axis(0)).swapaxes(-1, -2)


MAX = [
    ((2, 3, 6, 4), {"kernel_size": 2}),
    ((1, 1, 5, 7), {"kernel_size": (2, 3)}),
    ((2, 1, 5, 5), {"kernel_size": 3, "stride": 1}),
    ((1, 2, 5, 6), {"kernel_size": 3, "stride": (2, 1), "padding": 1}),
    ((1, 2, 7, 6), {"kernel_size": 2, "stride": 1, "dilation": (2, 3)}),
    ((1, 1, 1, 1), {"kernel_size": 1}),
]
AVG = [
    *MAX[:4],
    (
        (1, 2, 5, 6),
        {"kernel_size": (3, 2), "stride": 2, "padding": (1, 0), "count_include_pad": False},
    ),
    ((1, 1, 3, 3), {"kernel_size": 2, "padding": 1, "count_include_pad": False}),
]


def last(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value[1] if isinstance(value, tuple) else value for key, value in options.items()}


@pytest.mark.parametrize(("shape", "options"), MAX)
def test_max_pool(shape: tuple[int, ...], options: dict[str, Any], check_layer: Check) -> None:
    x = distinct(shape)
    y = nn.MaxPool2d(**options)(schuss.tensor(x))
    np.testing.assert_array_equal(y.numpy(), pool2d(x, True, **options))
    check_layer(nn.MaxPool2d(**options), x)
    row, options = x[:, :, 0], last(options)
    y = nn.MaxPool1d(**options)(schuss.tensor(row))
    np.testing.assert_array_equal(y.numpy(), pool(row, True, **options))
    check_layer(nn.MaxPool1d(**options), row)


@pytest.mark.parametrize(("shape", "options"), AVG)
def test_avg_pool(shape: tuple[int, ...], options: dict[str, Any], check_layer: Check) -> None:
    x = distinct(shape)
    y = nn.AvgPool2d(**options)(schuss.tensor(x))
    np.testing.assert_allclose(y.numpy(), pool2d(x, False, **options), rtol=1e-12)
    check_layer(nn.AvgPool2d(**options), x)
    row, options = x[:, :, 0], last(options)
    y = nn.AvgPool1d(**options)(schuss.tensor(row))
    np.testing.assert_allclose(y.numpy(), pool(row, False, **options), rtol=1e-12)
    check_layer(nn.AvgPool1d(**options), row)


ADAPTIVE = [((2, 3, 6, 4), 2), ((1, 2, 5, 7), (3, 2)), ((1, 1, 3, 2), (5, 3)), ((1, 1, 1, 1), 1)]


def adaptive(x: np.ndarray, sizes: tuple[int, int], reduce: Callable[..., Any]) -> np.ndarray:
    height, width = x.shape[2:]
    y = np.empty((*x.shape[:2], *sizes))
    for i in range(sizes[0]):
        rows = slice(i * height // sizes[0], math.ceil((i + 1) * height / sizes[0]))
        for j in range(sizes[1]):
            columns = slice(j * width // sizes[1], math.ceil((j + 1) * width / sizes[1]))
            y[:, :, i, j] = reduce(x[:, :, rows, columns], axis=(2, 3))
    return y


@pytest.mark.parametrize(("shape", "size"), ADAPTIVE)
@pytest.mark.parametrize(
    ("flat", "image", "reduce"),
    [
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, np.mean),
        (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, np.max),
    ],
    ids=["mean", "max"],
)
def test_adaptive_pool(shape: tuple[int, ...], size: Any, flat: Any, image: Any, reduce: Any,
                       check_layer: Check) -> None:  # fmt: skip
    x = distinct(shape)
    pair = (size, size) if isinstance(size, int) else size
    y = image(size)(schuss.tensor(x))
    np.testing.assert_allclose(y.numpy(), adaptive(x, pair, reduce), rtol=1e-12)
    check_layer(image(size), x)
    row = x[:, :, :1]
    y = flat(pair[1])(schuss.tensor(row[:, :, 0]))
    np.testing.assert_allclose(y.numpy(), adaptive(row, (1, pair[1]), reduce)[:, :, 0], rtol=1e-12)
    check_layer(flat(pair[1]), row[:, :, 0])


def test_padding_never_wins() -> None:
    y = F.max_pool1d(-schuss.ones((1, 1, 4)), 3, padding=1)
    np.testing.assert_array_equal(y.numpy(), [[[-1, -1]]])


def test_max_pool_of_integers() -> None:
    y = F.max_pool1d(schuss.tensor([[[-5, -3, -4]]]), 2, padding=1)
    assert y.dtype == schuss.int64
    np.testing.assert_array_equal(y.numpy(), [[[-5, -3]]])


def test_pool_of_an_empty_batch() -> None:
    for layer in (nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2)):
        assert layer(schuss.zeros((0, 3, 4, 4))).numpy().shape == (0, 3, 2, 2)


@pytest.mark.parametrize(
    ("layer", "name", "axes"),
    [
        (nn.MaxPool1d(2), "max_pool1d", 3),
        (nn.MaxPool2d(2), "max_pool2d", 4),
        (nn.AvgPool1d(2), "avg_pool1d", 3),
        (nn.AvgPool2d(2), "avg_pool2d", 4),
        (nn.AdaptiveAvgPool1d(2), "adaptive_avg_pool1d", 3),
        (nn.AdaptiveAvgPool2d(2), "adaptive_avg_pool2d", 4),
        (nn.AdaptiveMaxPool1d(2), "adaptive_max_pool1d", 3),
        (nn.AdaptiveMaxPool2d(2), "adaptive_max_pool2d", 4),
    ],
)
def test_pool_errors(layer: nn.Module, name: str, axes: int) -> None:
    with pytest.raises(ShapeError, match=f"{name}: x must have {axes} axes, batch and channels "
                       r"first\n  x: \(4, 4\) float32\n  in: " + type(layer).__name__):  # fmt: skip
        layer(schuss.ones((4, 4)))
    with pytest.raises(ArgumentTypeError, match=f"{type(layer).__name__}: needs a tensor"):
        layer(np.ones((1, 1, 4, 4)))


def test_pool_options() -> None:
    x = schuss.ones((1, 1, 4))
    with pytest.raises(ArgumentError, match="padding may be half the kernel at most"):
        F.max_pool1d(x, 3, padding=2)
    with pytest.raises(ArgumentError, match="kernel_size must be an integer of at least 1, or 1"):
        F.avg_pool1d(x, 0)
    with pytest.raises(ArgumentError, match="output_size must be an integer of at least 1, or 1"):
        F.adaptive_avg_pool1d(x, 0)
    with pytest.raises(ShapeError, match="window"):
        F.max_pool1d(x, 5)


def test_printed_pool() -> None:
    assert repr(nn.MaxPool2d(2, padding=1)) == "MaxPool2d(kernel_size=2, padding=1, dilation=1)"
    assert repr(nn.AdaptiveAvgPool2d((1, 1))) == "AdaptiveAvgPool2d(output_size=(1, 1))"


def test_poolings_of_volumes(rng: np.random.Generator, check_layer: Check) -> None:
    x = distinct((2, 2, 4, 5, 6))
    blocks = x[:, :, :, :4].reshape(2, 2, 2, 2, 2, 2, 3, 2)
    y = nn.MaxPool3d(2)(schuss.tensor(x)).numpy()
    np.testing.assert_array_equal(y, blocks.max((3, 5, 7)))
    y = nn.AvgPool3d(2)(schuss.tensor(x)).numpy()
    np.testing.assert_allclose(y, blocks.mean((3, 5, 7)), rtol=1e-12)
    for layer, reduce in ((nn.AdaptiveAvgPool3d(1), np.mean), (nn.AdaptiveMaxPool3d(1), np.max)):
        expected = reduce(x, axis=(2, 3, 4))
        y = layer(schuss.tensor(x)).numpy()
        np.testing.assert_allclose(y.reshape(2, 2), expected, rtol=1e-12)
        check_layer(layer, x)
    check_layer(nn.MaxPool3d(2, 1), x[:1, :1])


def test_there_and_back() -> None:
    for rank, pool_, back in ((1, nn.MaxPool1d, nn.MaxUnpool1d), (3, nn.MaxPool3d, nn.MaxUnpool3d)):
        x = schuss.tensor(distinct((1, 2, *(4,) * rank)))
        y, indices = pool_(2, return_indices=True)(x)
        z = back(2)(y, indices)
        assert z.shape == x.shape
        assert (z == x).sum().item() >= y.size  # an element may be 0
        assert z.sum().item() == pytest.approx(y.sum().item())
    with pytest.raises(ArgumentTypeError, match="MaxUnpool2d: needs a tensor"):
        nn.MaxUnpool2d(2)(schuss.ones((1, 1, 1, 1)), [0])


@pytest.mark.parametrize("length", range(3, 12))
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(3, 2, 0, 1), (2, 2, 1, 1), (3, 3, 1, 1), (2, 3, 1, 2), (2, 5, 0, 1)],
)
def test_windows_that_do_not_fit_completely(
    length: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:  # fmt: skip
    """Every window that begins inside, or in the padding before it, and what of it is there."""
    x = np.random.default_rng(0).standard_normal((1, 1, length))
    reach = dilation * (kernel - 1)
    if length + 2 * padding <= reach:
        return
    inside = np.concatenate([np.full(padding, -np.inf), x[0, 0]])
    free = length + 2 * padding - reach - 1
    count = -(-free // stride) + 1
    starts = [i * stride for i in range(count) if i * stride < length + padding]
    expected = [inside[start : start + reach + 1 : dilation].max() for start in starts]
    layer = nn.MaxPool1d(kernel, stride, padding, dilation, ceil_mode=True)
    np.testing.assert_array_equal(layer(schuss.tensor(x)).numpy()[0, 0], expected)
