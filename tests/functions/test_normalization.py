"""Group, instance, RMS and response norm as functions: values by NumPy, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import schuss
from schuss.errors import ArgumentError, ShapeError
from schuss.functions.normalization import (
    group_norm,
    instance_norm,
    local_response_norm,
    rms_norm,
)

X = 2 + np.random.default_rng(0).standard_normal((2, 6, 3, 4))
SCALE, SHIFT = np.arange(1.0, 7), np.arange(6.0)


def column(each: np.ndarray) -> np.ndarray:
    return each.reshape(6, 1, 1)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm(groups: int) -> None:
    parts = X.reshape(2, groups, -1)
    expected = parts - parts.mean(2, keepdims=True)
    expected /= np.sqrt(parts.var(2, keepdims=True) + 1e-3)
    expected = expected.reshape(X.shape) * column(SCALE) + column(SHIFT)
    y = group_norm(X, groups, schuss.tensor(SCALE), schuss.tensor(SHIFT), 1e-3)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10)


def test_instance_norm() -> None:
    expected = (X - X.mean((2, 3), keepdims=True)) / X.std((2, 3), keepdims=True)
    np.testing.assert_allclose(instance_norm(X, eps=0).numpy(), expected, rtol=1e-10)
    mean, var = schuss.tensor(SHIFT), schuss.tensor(SCALE)
    y = instance_norm(X, mean, var, use_input_stats=False, eps=0)
    expected = (X - column(SHIFT)) / np.sqrt(column(SCALE))
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10)


def test_rms_norm() -> None:
    y = rms_norm(X, (3, 4), eps=0.5)
    expected = X / np.sqrt((X * X).mean((2, 3), keepdims=True) + 0.5)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10)
    for dtype in (np.float32, np.float64):  # the default is that of the dtype
        tiny = np.zeros(4, dtype)
        tiny[0] = 1e-12
        expected = tiny / np.sqrt(np.finfo(dtype).eps)
        np.testing.assert_allclose(rms_norm(tiny, (4,)).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 20])
def test_local_response_norm(size: int) -> None:
    expected = np.empty_like(X)
    for c in range(6):
        near = X[:, max(0, c - size // 2) : c + (size - 1) // 2 + 1]
        expected[:, c] = X[:, c] / (2 + 0.3 / size * (near**2).sum(1)) ** 0.6
    y = local_response_norm(X, size, 0.3, 0.6, 2)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10)


def test_half_precisions_are_summed_in_single() -> None:
    x = np.full((1, 2, 64, 64), 200, np.float16)
    assert np.isfinite(local_response_norm(x, 2, alpha=1.0).numpy()).all()
    assert rms_norm(x, (64, 64)).numpy().max() == 1


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: group_norm(X, 4), ShapeError, r"group_norm: x must have the shape \(N, C \* 4"),
        (lambda: group_norm(X, 0), ArgumentError, "num_groups must be a positive integer"),
        (lambda: instance_norm(X[0, 0]), ShapeError, r"must have the shape \(N, C, sizes\)"),
        (
            lambda: instance_norm(X, use_input_stats=False),
            ArgumentError,
            "instance_norm: needs running_mean and running_var, or the statistics of the input",
        ),
        (lambda: rms_norm(X, (4, 4)), ShapeError, r"rms_norm: the last axes of x must have"),
        (lambda: local_response_norm(X[0, 0], 2), ShapeError, r"shape \(N, C, sizes\)"),
        (lambda: local_response_norm(X, 0), ArgumentError, "size must be a positive integer"),
    ],
)
def test_errors(call: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
