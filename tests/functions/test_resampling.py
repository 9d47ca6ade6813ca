"""Interpolation: what no layer test covers, and settings that do not fit together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import schuss
from schuss.errors import ArgumentError, ShapeError
from schuss.functions.resampling import (
    channel_shuffle,
    interpolate,
    pixel_shuffle,
    pixel_unshuffle,
)


def test_lines_and_constants() -> None:
    """Linear interpolation of a line gives the line, away from its ends. Cubic weights add to 1."""
    x = schuss.tensor(np.arange(40.0).reshape(1, 1, 1, 40))
    for width in (80, 61):  # slices, and a product with a matrix
        line = (np.arange(width) + 0.5) * 40 / width - 0.5
        y = interpolate(x, size=(1, width), mode="bilinear").numpy()[0, 0, 0]
        np.testing.assert_allclose(y[5:-5], line[5:-5], rtol=1e-12)
        y = interpolate(x * 0 + 3, size=(1, width), mode="bicubic").numpy()
        np.testing.assert_allclose(y, 3, rtol=1e-12)


def test_scale_factor_rounds_down() -> None:
    assert interpolate(schuss.ones((1, 1, 5)), scale_factor=1.5).shape == (1, 1, 7)
    assert interpolate(schuss.ones((1, 1, 5, 4)), scale_factor=(2, 0.5)).shape == (1, 1, 10, 2)


def test_nearest_is_exact() -> None:
    """Multiples of 1/49 in floating point fall short of the integers that they should reach."""
    y = interpolate(schuss.arange(49.0).reshape((1, 1, 49)), size=49 * 3)
    np.testing.assert_array_equal(y.numpy()[0, 0], np.repeat(np.arange(49), 3))
    y = interpolate(schuss.arange(100.0).reshape((1, 1, 100)), size=49)
    np.testing.assert_array_equal(y.numpy()[0, 0], np.arange(49) * 100 // 49)


def test_infinities_stay_where_they_are() -> None:
    x = schuss.tensor([[[0.0, 0.0, 0.0, np.inf]]])
    y = interpolate(x, scale_factor=2, mode="linear").numpy()[0, 0]
    np.testing.assert_array_equal(np.isfinite(y), [True] * 5 + [False] * 3)


def test_dtypes() -> None:
    whole = schuss.tensor([[[1, 2]]])
    assert interpolate(whole, size=4).dtype == schuss.int64
    assert interpolate(whole, size=3).tolist() == [[[1, 1, 2]]]
    half = schuss.ones((1, 1, 3), dtype=schuss.float16)
    assert interpolate(half, size=5, mode="linear").dtype == schuss.float16
    assert interpolate(schuss.zeros((0, 2, 4)), size=6, mode="linear").shape == (0, 2, 6)


IMAGE, LINE = schuss.ones((1, 4, 3, 3)), schuss.ones((1, 1, 3))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((IMAGE,), ArgumentError, "needs either size or scale_factor"),
        ((IMAGE, 2, 2.0), ArgumentError, "needs either size or scale_factor"),
        ((IMAGE, 0), ArgumentError, "size must be a positive integer, or 2 of them"),
        ((IMAGE, 2.5), ArgumentError, "size must be a positive integer, or 2 of them"),
        ((IMAGE, (2, 2, 2)), ArgumentError, "size must be a positive integer, or 2 of them"),
        ((IMAGE, None, -1), ArgumentError, "scale_factor must be a positive number"),
        ((IMAGE, None, float("nan")), ArgumentError, "scale_factor must be a positive number"),
        ((IMAGE, None, 0.1), ShapeError, "scale_factor leaves nothing"),
        ((IMAGE, 2, None, "cubic"), ArgumentError, "mode is one of nearest, nearest-exact"),
        ((LINE, 2, None, "bilinear"), ShapeError, "mode 'bilinear' takes x with 4 axes, batch"),
        ((IMAGE[0, 0], 2), ShapeError, "mode 'nearest' takes x with 3 or 4 or 5 axes"),
        ((IMAGE, 2, None, "area", True), ArgumentError, "align_corners is for the linear and"),
        ((schuss.ones((1, 1, 0)), 2), ShapeError, "an empty axis has nothing to take"),
    ],
)
def test_interpolation_errors(arguments: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=f"interpolate: {message}"):
        interpolate(*arguments)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: pixel_shuffle(IMAGE, 3), ShapeError, r"pixel_shuffle: x must have the shape "
         r"\(..., C \* 9, H, W\)"),
        (lambda: pixel_unshuffle(IMAGE, 2), ShapeError, r"shape \(..., C, 2 \* H, 2 \* W\)"),
        (lambda: channel_shuffle(IMAGE, 3), ShapeError, r"shape \(N, C \* 3, ...\)"),
        (lambda: pixel_shuffle(IMAGE, 0), ArgumentError, "upscale_factor must be a positive int"),
        (lambda: pixel_unshuffle(IMAGE, 1.0), ArgumentError, "downscale_factor must be a posit"),
        (lambda: channel_shuffle(IMAGE, True), ArgumentError, "groups must be a positive integer"),
    ],
)  # fmt: skip
def test_shuffling_errors(call: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
