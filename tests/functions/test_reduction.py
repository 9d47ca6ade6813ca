"""Reductions, statistics and orders against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    DTypeError,
    OutOfBoundsError,
    ShapeError,
)

X = np.random.default_rng(0).standard_normal((3, 4, 5))
AXES = [None, 0, 1, -1, (0, 2), (2, 0), (-1, 1), ()]
NAMES = ["sum", "prod", "max", "min", "mean", "var", "std"]


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_against_numpy(name: str, keepdims: bool) -> None:
    for axis in AXES:
        found = getattr(schuss, name)(schuss.tensor(X), axis=axis, keepdims=keepdims)
        expected = getattr(np, name)(X, axis=axis, keepdims=keepdims)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-14)
        assert getattr(schuss.tensor(X), name)(axis, keepdims).shape == expected.shape


@pytest.mark.parametrize(
    ("shape", "axis"), [((300_000, 2), 0), ((600, 500, 2), (0, 1)), ((2, 1000, 3, 100), (1, 3))]
)
def test_long_sums_do_not_gather_rounding_errors(shape, axis) -> None:
    x = np.full(shape, 0.1, np.float32)
    expected = x.astype(np.float64).sum(axis)
    np.testing.assert_allclose(schuss.sum(x, axis=axis).numpy(), expected, rtol=1e-5)
    swapped = schuss.tensor(x).permute(*reversed(range(x.ndim)))
    axes = [x.ndim - 1 - each for each in np.atleast_1d(axis).tolist()]
    np.testing.assert_allclose(schuss.sum(swapped, axis=axes).numpy().T, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["all", "any"])
def test_truth(name: str) -> None:
    x = np.random.default_rng(1).random((3, 4)) < 0.5
    for axis in (None, 0, 1, (0, 1)):
        found = getattr(schuss, name)(x, axis=axis)
        np.testing.assert_array_equal(found.numpy(), getattr(np, name)(x, axis=axis))
    assert schuss.any(schuss.tensor([0.0, 2.0])).item() is True
    assert schuss.all(schuss.zeros((0,))).item() is True


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_positions(name: str) -> None:
    for axis in (None, 0, 1, -1):
        for keepdims in (False, True):
            found = getattr(schuss, name)(X, axis=axis, keepdims=keepdims)
            expected = getattr(np, name)(X, axis=axis, keepdims=keepdims)
            np.testing.assert_array_equal(found.numpy(), expected)
            assert found.dtype == schuss.int64


def test_nan_wins() -> None:
    x = np.array([1.0, np.nan, 3.0])
    assert np.isnan(schuss.max(x).item())
    assert np.isnan(schuss.min(x).item())
    assert schuss.argmax(x).item() == 1
    many = np.ones((100, 4))
    many[7, 2] = np.nan
    assert np.isnan(schuss.max(many, axis=1).numpy()).nonzero()[0].tolist() == [7]


def test_integers_add_up_in_64_bits() -> None:
    for dtype in (schuss.int8, schuss.int32, schuss.bool):
        total = schuss.ones(300, dtype=dtype).sum()
        assert total.dtype == schuss.int64
        assert total.item() == 300
    assert schuss.ones(300, dtype=schuss.uint8).sum().dtype == schuss.uint64
    assert schuss.ones(3, dtype=schuss.uint8).prod().dtype == schuss.uint64
    assert schuss.ones(3, dtype=schuss.int8).cumulative_sum().dtype == schuss.int64
    assert schuss.ones(3).sum(dtype=schuss.float64).dtype == schuss.float64
    assert schuss.max(schuss.ones(3, dtype=schuss.int8)).dtype == schuss.int8


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precisions_add_up_in_float32(dtype: str) -> None:
    x = schuss.ones(5000, dtype=dtype)
    assert x.sum().item() == pytest.approx(5000, rel=0.01)
    assert x.cumulative_sum()[-1].item() == pytest.approx(5000, rel=0.01)
    long = schuss.ones(100_000, dtype=dtype) * 3
    for found, expected in ((long.mean(), 3), (long.var(), 0), (long.std(), 0)):
        assert found.item() == expected
        assert found.dtype == schuss.dtypes.as_dtype(dtype)


def test_variance_is_not_lost_beside_a_large_mean() -> None:
    x = schuss.tensor([1e4 + 1, 1e4 + 2, 1e4 + 3])
    assert x.var(correction=1).item() == pytest.approx(1, rel=1e-3)


def test_corrections() -> None:
    for correction in (0, 1, 1.5):
        np.testing.assert_allclose(
            schuss.var(X, axis=1, correction=correction).numpy(), X.var(axis=1, ddof=correction)
        )
    assert np.isnan(schuss.var([1.0], correction=1).item())


def test_of_nothing() -> None:
    empty = schuss.zeros((0, 3))
    assert empty.sum(axis=0).tolist() == [0] * 3
    assert empty.prod(axis=0).tolist() == [1] * 3
    assert np.isnan(empty.mean(axis=0).numpy()).all()
    assert empty.max(axis=1).shape == (0,)
    for name in ("max", "min", "argmax", "argmin"):
        with pytest.raises(ShapeError, match=f"{name}: an empty axis has no extreme"):
            getattr(empty, name)(axis=0)


def test_logsumexp() -> None:
    x = np.array(
        [[1000.0, 1000.0], [-1000.0, -1000.0], [-np.inf, 0.0], [-np.inf, -np.inf], [np.inf, 0.0]]
    )
    expected = [1000 + np.log(2), -1000 + np.log(2), 0, -np.inf, np.inf]
    np.testing.assert_allclose(schuss.logsumexp(x, axis=1).numpy(), expected)
    assert schuss.logsumexp(x, axis=1, keepdims=True).shape == (5, 1)
    assert schuss.logsumexp(x[:3]).shape == ()


def test_cumulative() -> None:
    for axis in (0, 1, -1):
        x = schuss.tensor(X)
        np.testing.assert_allclose(schuss.cumulative_sum(x, axis=axis).numpy(), np.cumsum(X, axis))
        np.testing.assert_allclose(
            schuss.cumulative_prod(x, axis=axis).numpy(), np.cumprod(X, axis)
        )
    assert schuss.cumulative_sum([1, 2, 3], include_initial=True).tolist() == [0, 1, 3, 6]
    assert schuss.cumulative_prod([2, 3], include_initial=True).tolist() == [1, 2, 6]
    with pytest.raises(ArgumentError, match="axis may be left out for 1-d input only"):
        schuss.cumulative_sum(X)


def test_argsort_is_stable_both_ways() -> None:
    x = np.array([2.0, 1, 2, 1, np.nan])
    assert schuss.argsort(x).tolist() == [1, 3, 0, 2, 4]
    assert schuss.argsort(x, descending=True).tolist() == [4, 0, 2, 1, 3]
    np.testing.assert_array_equal(
        schuss.argsort(X, axis=1).numpy(), np.argsort(X, 1, kind="stable")
    )


@pytest.mark.parametrize("name", [*NAMES, "all", "any", "argmax", "argmin", "logsumexp", "argsort"])
def test_other_names_are_answered(name: str) -> None:
    function = getattr(schuss, name)
    with pytest.raises(
        ArgumentTypeError, match=f"{name}: the argument 'dim' is called 'axis' here"
    ) as e:
        function(schuss.tensor(X), dim=1)
    assert "hint: write axis=1" in str(e.value)
    if name != "argsort":
        with pytest.raises(
            ArgumentTypeError, match="the argument 'keepdim' is called 'keepdims' here"
        ):
            getattr(schuss.tensor(X), name)(axis=0, keepdim=True)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: schuss.sum(X, axis=3),
            OutOfBoundsError,
            "axis 3 does not exist: there are 3 axes",
        ),
        (lambda: schuss.sum(X, axis=(0, -3)), ArgumentError, r"axis \(0, -3\) names an axis twice"),
        (lambda: schuss.sum(X, axis="0"), ArgumentTypeError, "axis must be an integer, got '0'"),
        (
            lambda: schuss.argmax(X, axis=True),
            ArgumentTypeError,
            "axis must be an integer, got True",
        ),
        (lambda: schuss.mean([1, 2]), DTypeError, "mean: is defined for floating dtypes"),
        (lambda: schuss.var([1, 2]), DTypeError, "var: is defined for floating dtypes"),
        (lambda: schuss.var([1j]), DTypeError, "var: is defined for real dtypes"),
        (lambda: schuss.max([True]), DTypeError, "max: is defined for real dtypes"),
        (lambda: schuss.argsort([1j]), DTypeError, "argsort: is defined for real dtypes"),
    ],
)
def test_errors(call, kind, message) -> None:
    with pytest.raises(kind, match=message):
        call()
