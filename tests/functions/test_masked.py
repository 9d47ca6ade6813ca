"""Reductions that leave elements out, against NumPy's masked arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest

import schuss
from schuss import masked
from schuss.errors import DTypeError, ShapeError

rng = np.random.default_rng(0)
X = rng.permutation(24).reshape(2, 3, 4) - 11.5
MASK = rng.random(X.shape) < 0.6
MASK[..., 0] = True  # something is left on every axis
MASK[1] |= ~MASK[0]


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)])
@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "mean", "var", "std"])
def test_reductions(name, axis) -> None:
    array = np.ma.array(X, mask=~MASK)
    expected = getattr(array, name)(axis=axis, keepdims=True)
    f = getattr(masked, name)
    found = f(X, MASK, axis=axis, keepdims=True)
    np.testing.assert_allclose(found.numpy(), np.asarray(expected))
    assert f(X, MASK, axis=axis).ndim == found.ndim - (3 if axis is None else np.size(axis))
    schuss.check_gradients(lambda x: f(x, MASK, axis=axis), [X * 0.1 + 0.3])


def test_positions() -> None:
    for name in ("argmax", "argmin"):
        array = np.ma.array(X, mask=~MASK)
        expected = getattr(array, name)(axis=1)
        np.testing.assert_array_equal(getattr(masked, name)(X, MASK, axis=1).numpy(), expected)


def test_softmax() -> None:
    x, mask = (
        np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]),
        np.array([[True, False, True], [False] * 3]),
    )
    shares = masked.softmax(x, mask).numpy()
    np.testing.assert_allclose(shares[0], [1 / (1 + math.e**2), 0, 1 / (1 + math.e**-2)])
    np.testing.assert_array_equal(shares[1], 0)
    logs = masked.log_softmax(x, mask).numpy()
    np.testing.assert_allclose(np.exp(logs), shares)
    total = masked.logsumexp(x, mask, axis=1).numpy()
    np.testing.assert_allclose(total, [math.log(math.e + math.e**3), -math.inf])
    schuss.check_gradients(lambda x: masked.softmax(x, mask), [x])


def test_what_is_left_out_may_be_nan() -> None:
    x = schuss.tensor([1.0, math.nan, 3.0])
    mask = schuss.tensor([True, False, True])
    for f in (masked.sum, masked.mean, masked.std, masked.max, masked.logsumexp):
        assert math.isfinite(f(x, mask).item())
        slope = schuss.grad(lambda x, f=f: f(x, mask))(x).numpy()
        assert np.isfinite(slope).all()
        assert slope[1] == 0


def test_where_nothing_counts() -> None:
    nothing = schuss.tensor([False, False])
    assert masked.sum([1.0, 2.0], nothing).item() == 0
    assert masked.prod([1.0, 2.0], nothing).item() == 1
    assert masked.max([1, 2], nothing).item() == np.iinfo(np.int64).min
    assert masked.min([1.0, 2.0], nothing).item() == math.inf
    assert math.isnan(masked.mean([1.0, 2.0], nothing).item())
    assert math.isnan(masked.var([1.0, 2.0], nothing).item())


def test_errors() -> None:
    with pytest.raises(DTypeError, match=r"masked\.sum: the mask must be bool"):
        masked.sum([1.0], [1])
    with pytest.raises(ShapeError, match=r"masked\.mean: the mask must broadcast to x"):
        masked.mean([1.0, 2.0], [True, False, True])
