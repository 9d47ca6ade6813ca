"""Upsampling, shuffling, unfolding: layers against loops, and gradients against differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import ArgumentTypeError

pytestmark = pytest.mark.usefixtures("reference_tier")  # many shapes, each of them once

Check = Callable[..., None]
Rng = np.random.Generator


def bilinear(x: np.ndarray, height: int, width: int, corners: bool) -> np.ndarray:
    """Each pixel from the four around its place."""

    def place(i: int, n: int, m: int) -> tuple[int, int, float]:
        at = i * (n - 1) / (m - 1) if corners else max(0.0, (i + 0.5) * n / m - 0.5)
        low = min(int(at + 1e-9), n - 1)
        return low, min(low + 1, n - 1), at - low

    y = np.empty((*x.shape[:2], height, width))
    for i in range(height):
        a, b, t = place(i, x.shape[2], height)
        rows = x[:, :, a] * (1 - t) + x[:, :, b] * t
        for j in range(width):
            a, b, t = place(j, x.shape[3], width)
            y[:, :, i, j] = rows[:, :, a] * (1 - t) + rows[:, :, b] * t
    return y


@pytest.mark.parametrize("size", [(8, 10), (2, 3), (7, 13), (4, 5)])
def test_bilinear(size: tuple[int, int], rng: Rng, check_layer: Check) -> None:
    x = rng.standard_normal((2, 3, 4, 5))
    layer: nn.Module = nn.Upsample(size, mode="bilinear")
    y = layer(schuss.tensor(x)).numpy()
    np.testing.assert_allclose(y, bilinear(x, *size, corners=False), atol=1e-12)
    check_layer(layer, x[:1, :1])
    layer = nn.UpsamplingBilinear2d(size)
    y = layer(schuss.tensor(x)).numpy()
    np.testing.assert_allclose(y, bilinear(x, *size, corners=True), atol=1e-12)


@pytest.mark.parametrize("size", [(8, 10), (2, 3), (11, 23)])
def test_nearest(size: tuple[int, int], rng: Rng, check_layer: Check) -> None:
    x = rng.standard_normal((2, 3, 4, 5))
    rows, columns = (np.arange(m) * n // m for n, m in zip((4, 5), size, strict=True))
    layer = nn.UpsamplingNearest2d(size)
    np.testing.assert_array_equal(layer(schuss.tensor(x)).numpy(), x[:, :, rows][..., columns])
    check_layer(layer, x)


def test_pixel_shuffle(rng: Rng, check_layer: Check) -> None:
    x = rng.standard_normal((2, 12, 3, 4))
    y = nn.PixelShuffle(2)(schuss.tensor(x))
    expected = np.empty((2, 3, 6, 8))
    for c, i, j in np.ndindex(3, 2, 2):
        expected[:, c, i::2, j::2] = x[:, 4 * c + 2 * i + j]
    np.testing.assert_array_equal(y.numpy(), expected)
    np.testing.assert_array_equal(nn.PixelUnshuffle(2)(y).numpy(), x)
    check_layer(nn.PixelShuffle(2), x)


def test_channel_shuffle() -> None:
    x = schuss.arange(6.0).reshape((1, 6, 1))
    assert nn.ChannelShuffle(2)(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_unfold_and_fold(rng: Rng, check_layer: Check) -> None:
    x = rng.standard_normal((2, 3, 4, 5))
    columns = nn.Unfold((2, 3))(schuss.tensor(x))
    assert columns.shape == (2, 18, 9)
    window = x[:, :, 1:3, 2:5].reshape(2, 18)  # in the second row of windows the last
    np.testing.assert_array_equal(columns.numpy()[:, :, 5], window)
    times = nn.Fold((4, 5), (2, 3))(nn.Unfold((2, 3))(schuss.ones((1, 1, 4, 5)))).numpy()
    np.testing.assert_array_equal(times[0, 0], np.outer([1, 2, 2, 1], [1, 2, 3, 2, 1]))
    check_layer(nn.Unfold(2, 2, 1, 2), x)
    check_layer(nn.Fold((3, 4), 2, padding=1), rng.standard_normal((1, 4, 20)))


def test_layers_in_messages_and_print() -> None:
    with pytest.raises(ArgumentTypeError, match="Upsample: needs a tensor"):
        nn.Upsample(scale_factor=2)(np.ones((1, 1, 2)))
    printed = repr(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    assert printed == "Upsample(scale_factor=2, mode='bilinear')"
    assert repr(nn.PixelShuffle(2)) == "PixelShuffle(upscale_factor=2)"
