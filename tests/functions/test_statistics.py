"""Counting, order statistics, running extremes, interpolation and segments, against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

import schuss
from schuss.errors import ArgumentError, DTypeError, OutOfBoundsError, ShapeError

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order():
    rng.bit_generator.state = np.random.default_rng(0).bit_generator.state


def numbers(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


def test_bincount() -> None:
    x = np.array([0, 3, 1, 3, 3])
    assert schuss.bincount(x).tolist() == [1, 1, 0, 3]
    assert schuss.bincount(x, minlength=6).tolist() == [1, 1, 0, 3, 0, 0]
    assert schuss.bincount(x, length=5).tolist() == [1, 1, 0, 3, 0]
    assert schuss.bincount(schuss.zeros(0, dtype=schuss.int64)).shape == (0,)
    weights = numbers(5)
    np.testing.assert_allclose(schuss.bincount(x, weights).numpy(), np.bincount(x, weights))
    schuss.check_gradients(lambda w: schuss.bincount(x, w), [weights])
    with pytest.raises(OutOfBoundsError, match="index 3 is outside axis 0"):
        schuss.bincount(x, length=3).numpy()


@pytest.mark.parametrize("density", [False, True])
@pytest.mark.parametrize("bins", [1, 5, [-1.0, 0.0, 0.5, 3.0]])
def test_histogram(bins, density) -> None:
    x = np.concatenate([numbers(50), [0.0, 0.5, 3.0, -1.0]])
    counts, edges = schuss.histogram(x, bins, density=density)
    expected, expected_edges = np.histogram(x, bins, density=density)
    np.testing.assert_allclose(edges.numpy(), expected_edges, rtol=1e-6)
    np.testing.assert_allclose(counts.numpy(), expected, rtol=1e-6)
    weights = rng.random(x.shape)
    found = schuss.histogram(x, 4, range=(-1, 1), weights=weights).counts
    np.testing.assert_allclose(found.numpy(), np.histogram(x, 4, (-1, 1), weights=weights)[0])


def test_histogram_of_one_value() -> None:
    assert schuss.histogram([2.0, 2.0], 2, range=(2, 2)).edges.tolist() == [1.5, 2, 2.5]


def test_interp() -> None:
    xp, fp = np.array([0.0, 1.0, 3.0, 4.0]), numbers(4)
    x = np.array([[-1.0, 0.0, 0.3], [2.2, 4.0, 9.0]])
    np.testing.assert_allclose(schuss.interp(x, xp, fp).numpy(), np.interp(x, xp, fp))
    np.testing.assert_allclose(
        schuss.interp(x, xp, fp, left=-5.0, right=7.0).numpy(), np.interp(x, xp, fp, -5.0, 7.0)
    )
    assert schuss.interp([1.0, 2.0], [0.0], [3.0]).tolist() == [3, 3]
    schuss.check_gradients(schuss.interp, [np.array([-1.0, 0.3, 2.2, 3.5, 9.0]), xp, fp])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_running_extremes(axis) -> None:
    x = rng.permutation(12).reshape(3, 4) * 1.0
    for found, ufunc in (
        (schuss.cumulative_max(x, axis), np.maximum),
        (schuss.cumulative_min(x, axis), np.minimum),
    ):
        expected = ufunc.accumulate(x, axis)
        np.testing.assert_array_equal(found.values.numpy(), expected)
        taken = np.take_along_axis(x, found.indices.numpy(), axis)
        np.testing.assert_array_equal(taken, expected)
    schuss.check_gradients(lambda x: schuss.cumulative_max(x, axis).values, [x])
    integers = schuss.tensor([3, 1, 2])
    assert schuss.cumulative_min(integers).values.tolist() == [3, 1, 1]
    assert schuss.cumulative_max([1.0, math.nan, 2.0]).indices.tolist() == [0, 1, 1]


def test_logcumsumexp() -> None:
    x = np.array([[-1000.0, 0.0, 1000.0, -5.0], [-math.inf, -math.inf, 1.0, 2.0]])
    expected = np.logaddexp.accumulate(x, axis=1)
    np.testing.assert_allclose(schuss.logcumsumexp(x, axis=1).numpy(), expected)
    slope = schuss.grad(lambda x: schuss.logcumsumexp(x, axis=1)[:, 2:].sum())(schuss.tensor(x))
    assert np.isfinite(slope.numpy()).all()
    with pytest.raises(DTypeError, match="logcumsumexp: is defined for real dtypes"):
        schuss.logcumsumexp([1j])


def test_trapezoids() -> None:
    y, x = numbers(3, 5), np.sort(numbers(5))
    for axis in (0, 1):
        np.testing.assert_allclose(
            schuss.trapezoid(y, dx=0.5, axis=axis).numpy(), np.trapezoid(y, dx=0.5, axis=axis)
        )
    np.testing.assert_allclose(schuss.trapezoid(y, x).numpy(), np.trapezoid(y, x))
    steps = schuss.cumulative_trapezoid(y, x)
    np.testing.assert_allclose(steps[:, -1].numpy(), np.trapezoid(y, x))
    grid = np.sort(numbers(3, 5), axis=0)
    np.testing.assert_allclose(
        schuss.trapezoid(y, grid, axis=0).numpy(), np.trapezoid(y, grid, axis=0)
    )


@pytest.mark.parametrize("method", ["linear", "lower", "higher", "nearest", "midpoint"])
@pytest.mark.parametrize("axis", [None, 0, (0, 2), -1])
def test_quantile(axis, method) -> None:
    x, q = numbers(3, 4, 5), np.array([0.0, 0.2, 0.5, 0.99, 1.0])
    for shares in (q, 0.3):
        for keepdims in (False, True):
            found = schuss.quantile(x, shares, axis=axis, keepdims=keepdims, method=method)
            expected = np.quantile(x, shares, axis=axis, keepdims=keepdims, method=method)
            np.testing.assert_allclose(found.numpy(), expected)
    schuss.check_gradients(lambda x: schuss.quantile(x, q[1:2], axis=axis, method=method), [x])


def test_median_and_nan() -> None:
    x = numbers(3, 4)
    np.testing.assert_allclose(schuss.median(x, axis=1).numpy(), np.median(x, axis=1))
    x[0, 1] = math.nan
    assert np.isnan(schuss.median(x, axis=1).numpy()).tolist() == [True, False, False]
    np.testing.assert_allclose(schuss.nansum(x, axis=0).numpy(), np.nansum(x, axis=0))
    np.testing.assert_allclose(schuss.nanmean(x, axis=1).numpy(), np.nanmean(x, axis=1))


def test_covariances() -> None:
    for x in (numbers(3, 6), numbers(3, 6) + 1j * numbers(3, 6)):
        np.testing.assert_allclose(schuss.cov(x).numpy(), np.cov(x))
        np.testing.assert_allclose(schuss.cov(x, correction=0).numpy(), np.cov(x, ddof=0))
        np.testing.assert_allclose(schuss.corrcoef(x).numpy(), np.corrcoef(x))
        schuss.check_gradients(schuss.corrcoef, [x])
    np.testing.assert_allclose(schuss.cov(x[0].real).numpy(), np.cov(x[0].real))
    assert schuss.corrcoef(x[0].real).item() == 1


def test_isclose() -> None:
    a = np.array([1.0, 1.0, math.inf, -math.inf, math.nan, 0.0])
    b = np.array([1.0 + 1e-7, 1.1, math.inf, math.inf, math.nan, 1e-9])
    for equal_nan in (False, True):
        found = schuss.isclose(a, b, equal_nan=equal_nan)
        assert found.tolist() == np.isclose(a, b, equal_nan=equal_nan).tolist()
    assert schuss.allclose(a[:1], b[:1]).item()
    assert not schuss.allclose(a, b).item()
    assert schuss.isclose([1, 2], [1, 3]).tolist() == [True, False]


IDS = np.array([2, 0, 2, 0, 3])


def test_segments() -> None:
    x = rng.permutation(10).reshape(5, 2) * 1.0
    for name, reduce, nothing in (
        ("segment_sum", np.sum, 0.0),
        ("segment_mean", np.mean, math.nan),
        ("segment_max", np.max, -math.inf),
        ("segment_min", np.min, math.inf),
    ):
        f = getattr(schuss, name)
        expected = [
            reduce(x[i == IDS], axis=0) if (i == IDS).any() else [nothing] * 2 for i in range(5)
        ]
        np.testing.assert_allclose(f(x, IDS, 5).numpy(), expected)
        np.testing.assert_allclose(f(x, IDS).numpy(), expected[:4])
        schuss.check_gradients(lambda x, f=f: f(x, np.array([1, 0, 1, 0, 2]), 3), [x])
    assert schuss.segment_max([5, -3], [0, 2], 3).tolist() == [5, np.iinfo(np.int64).min, -3]
    assert schuss.segment_min([5, -3], [0, 0], 1).tolist() == [-3]


def test_ties_of_segments_share_the_gradient() -> None:
    slope = schuss.grad(lambda x: schuss.segment_max(x, [0, 0, 0]).sum())
    assert slope(schuss.tensor([1.0, 2.0, 2.0])).tolist() == [0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: schuss.bincount([1.0]), DTypeError, "bincount: needs a vector of integers"),
        (lambda: schuss.bincount([1], [1.0, 2.0]), ShapeError, "a weight for each number"),
        (lambda: schuss.histogram([1.0], 0), ArgumentError, "needs bins, and a range that rises"),
        (lambda: schuss.interp([1.0], [1.0, 2.0], [1.0]), ShapeError, "vectors of one length"),
        (lambda: schuss.quantile([1.0], 0.5, method="best"), ArgumentError, "method is one of"),
        (lambda: schuss.quantile([1.0], [[0.5]]), ShapeError, "q is a number or a vector"),
        (lambda: schuss.quantile(schuss.zeros((0,)), 0.5), ShapeError, "nothing has no quantiles"),
        (lambda: schuss.segment_sum([1.0], [0.0]), ShapeError, "an integer id for each element"),
        (lambda: schuss.segment_max([1.0], [3], 2).numpy(), OutOfBoundsError,
         "segment 3 does not exist: there are 2"),
        (lambda: schuss.isclose([1.0], [1.0], rtol=-1.0), ArgumentError, "tolerances are not neg"),
        (lambda: schuss.diff([1.0], n=-1), ArgumentError, "diff: n must be an integer that is not"),
        (lambda: schuss.moveaxis(numbers(2, 2), (0, 1), (0, -2)), ArgumentError, "none of them t"),
        (lambda: schuss.nn.functional.hardtanh([1.0], 2, 1), ArgumentError, "hardtanh: min_val"),
        (lambda: schuss.nn.functional.embedding([1], numbers(2)), ShapeError, "must be a table"),
        (lambda: schuss.searchsorted([[1.0]], [1.0]), ShapeError, "x1 must be a vector"),
    ],
)  # fmt: skip
def test_errors(call, kind, message) -> None:
    with pytest.raises(kind, match=message):
        call()
