"""Special functions: known values, relations between them, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest

import schuss
from schuss import special
from schuss.errors import ArgumentError, DTypeError


def wide(*values: float) -> schuss.Tensor:
    return schuss.tensor(list(values), dtype=schuss.float64)


def test_tails_keep_their_digits() -> None:
    assert special.erfc(wide(10.0)).item() == pytest.approx(2.088487583762545e-45, rel=1e-13)
    assert special.erfcx(wide(1e8)).item() == pytest.approx(5.6418958354775625e-09, rel=1e-14)
    assert special.log_ndtr(wide(-40.0)).item() == pytest.approx(-804.6084420137538, rel=1e-14)
    assert special.ndtri(wide(1e-10)).item() == pytest.approx(-6.361340902404056, rel=1e-9)
    assert special.erfinv(wide(1 - 2**-53)).item() == pytest.approx(5.863584748755167, rel=1e-10)


def test_edges() -> None:
    found = special.erfinv(wide(-1, 1, 0, 1.5)).tolist()
    assert found[:3] == [-math.inf, math.inf, 0]
    assert math.isnan(found[3])
    assert special.gammaln(wide(1, 2, 0, -1, math.inf)).tolist() == [0, 0, *[math.inf] * 3]
    assert special.gammaln(wide(1e300)).item() == pytest.approx(1e300 * (math.log(1e300) - 1))
    assert special.digamma(wide(1)).item() == pytest.approx(-0.5772156649015329, rel=1e-15)
    assert special.digamma(wide(-0.5)).item() == pytest.approx(0.03648997397857652, rel=1e-13)
    assert special.polygamma(1, wide(-1.5)).item() == pytest.approx(9.37924664498912, rel=1e-13)
    assert special.xlogy(wide(0, 0), wide(0, math.inf)).tolist() == [0, 0]
    assert special.xlog1py(wide(0, 2), wide(-1, 1)).tolist() == [0, 2 * math.log(2)]
    assert special.entr(wide(0, -1, 1)).tolist() == [0, -math.inf, 0]
    assert special.sinc(wide(0, 0.5)).tolist() == pytest.approx([1, 2 / math.pi])
    assert special.i0(wide(0)).item() == 1
    assert special.i1(wide(-2)).item() == pytest.approx(-1.5906368546373291)


def test_inverses() -> None:
    x = np.linspace(-3, 3, 31)
    np.testing.assert_allclose(special.ndtri(special.ndtr(x)).numpy(), x, atol=1e-12)
    np.testing.assert_allclose(special.logit(special.expit(x)).numpy(), x, atol=1e-12)
    np.testing.assert_allclose(special.exp2(schuss.log2(np.exp(x))).numpy(), np.exp(x), rtol=1e-13)
    assert special.logit(wide(0), eps=0.25).item() == pytest.approx(-math.log(3))


@pytest.mark.parametrize(
    "name",
    ["entr", "exp2", "expit", "i0", "i1", "log_ndtr", "logit", "ndtr", "ndtri", "gammaln", "sinc"],
)
def test_gradients(name) -> None:
    schuss.check_gradients(getattr(special, name), [np.array([0.2, 0.5, 0.7])])


def test_gradients_of_functions_of_two() -> None:
    a, b = np.array([0.5, -1.0]), np.array([0.3, 2.0])
    schuss.check_gradients(special.xlogy, [a, b])
    schuss.check_gradients(special.xlog1py, [a, b])
    schuss.check_gradients(lambda x: special.multigammaln(x, 3), [b + 2])
    schuss.check_gradients(lambda x: special.polygamma(2, x), [b])
    schuss.check_gradients(special.sinc, [np.zeros(1)])
    slope = schuss.grad(lambda x: special.xlogy(x, x).sum())(schuss.zeros(1))
    assert slope.tolist() == [0]


def test_multigammaln() -> None:
    expected = 0.5 * math.log(math.pi) + math.lgamma(3) + math.lgamma(2.5)
    assert special.multigammaln(wide(3), 2).item() == pytest.approx(expected)


def test_errors() -> None:
    with pytest.raises(DTypeError, match="erfc: is defined for real dtypes"):
        special.erfc([1j])
    with pytest.raises(ArgumentError, match="n must be an integer that is not negative"):
        special.polygamma(-1, [1.0])
