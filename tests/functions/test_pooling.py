"""Poolings by hand, ties, positions, and settings that make no sense."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss.errors import ArgumentError, ShapeError
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
