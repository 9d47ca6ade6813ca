"""Special functions of floating numbers; integers become float32."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from schuss import dtypes
from schuss.errors import ArgumentError, DTypeError, fail
from schuss.functions.arguments import ArrayLike, floating, operands
from schuss.functions.elementwise import abs, erf, exp, log, log1p, sigmoid, sin, where
from schuss.functions.elementwise import clip as limited
from schuss.graph import Op, apply
from schuss.ops import special as ops

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def _real(x: ArrayLike, name: str) -> Tensor:
    x = floating(x, name)
    if dtypes.is_complex(x.dtype):
        raise fail(DTypeError, name, "is defined for real dtypes", x=x)
    return x


def _function(op: Op) -> Any:
    def function(x: ArrayLike, /) -> Tensor:
        return apply(op, _real(x, op.name))

    function.__name__ = function.__qualname__ = op.name
    function.__doc__ = f"{op.name}(x): {op.doc}, elementwise."
    return function


erfc = _function(ops.erfc)
erfcx = _function(ops.erfcx)
erfinv = _function(ops.erfinv)
i0e = _function(ops.i0e)
i1e = _function(ops.i1e)


def gammaln(x: ArrayLike, /) -> Tensor:
    """The logarithm of the size of the gamma function."""
    return apply(ops.lgamma, _real(x, "gammaln"))


def digamma(x: ArrayLike, /) -> Tensor:
    """The derivative of `gammaln`."""
    return apply(ops.polygamma, _real(x, "digamma"), order=0)


def polygamma(n: int, x: ArrayLike, /) -> Tensor:
    """The n-th derivative of `digamma`."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise fail(ArgumentError, "polygamma", "n must be an integer that is not negative", n=n)
    return apply(ops.polygamma, _real(x, "polygamma"), order=n)


def multigammaln(x: ArrayLike, /, d: int) -> Tensor:
    """The logarithm of the gamma function of dimension d. x must be above (d - 1) / 2."""
    x = _real(x, "multigammaln")
    total = gammaln(x)
    for j in range(1, d):
        total = total + gammaln(x - j / 2)
    return total + d * (d - 1) / 4 * math.log(math.pi)


def i0(x: ArrayLike, /) -> Tensor:
    """The modified Bessel function of the first kind of order 0."""
    x = _real(x, "i0")
    return i0e(x) * exp(abs(x))


def i1(x: ArrayLike, /) -> Tensor:
    """The modified Bessel function of the first kind of order 1."""
    x = _real(x, "i1")
    return i1e(x) * exp(abs(x))


def ndtr(x: ArrayLike, /) -> Tensor:
    """The normal distribution function: how likely a standard normal number is below x."""
    return 0.5 * erfc(_real(x, "ndtr") * -math.sqrt(0.5))


def ndtri(p: ArrayLike, /) -> Tensor:
    """The inverse of `ndtr`."""
    return apply(ops.ndtri, _real(p, "ndtri"))


def log_ndtr(x: ArrayLike, /) -> Tensor:
    """The logarithm of `ndtr`, exact far below 0 too."""
    x = _real(x, "log_ndtr")
    z = x * math.sqrt(0.5)
    low = x < -1
    tail = log(erfcx(where(low, -z, 1)) * 0.5) - where(low, z * z, 0)
    return where(low, tail, log1p(-0.5 * erfc(where(low, 0, z))))


def expit(x: ArrayLike, /) -> Tensor:
    """1 / (1 + exp(-x)): another name of `schuss.sigmoid`."""
    return sigmoid(x)


def logit(x: ArrayLike, /, eps: float | None = None) -> Tensor:
    """log(x / (1 - x)); with `eps` x is limited to [eps, 1 - eps] first."""
    x = _real(x, "logit")
    x = x if eps is None else limited(x, eps, 1 - eps)
    return log(x) - log1p(-x)


def exp2(x: ArrayLike, /) -> Tensor:
    """2 raised to the power x."""
    return 2.0 ** floating(x, "exp2")


def xlogy(x: ArrayLike, y: ArrayLike, /) -> Tensor:
    """x * log(y), 0 where x is 0 (unless y is NaN)."""
    a, b = (floating(each, "xlogy") for each in operands("xlogy", x, y))
    nothing = (a == 0) & (b == b)
    return where(nothing, 0, a * log(where(nothing, 1, b)))


def xlog1py(x: ArrayLike, y: ArrayLike, /) -> Tensor:
    """x * log1p(y), 0 where x is 0 (unless y is NaN)."""
    a, b = (floating(each, "xlog1py") for each in operands("xlog1py", x, y))
    nothing = (a == 0) & (b == b)
    return where(nothing, 0, a * log1p(where(nothing, 0, b)))


def entr(x: ArrayLike, /) -> Tensor:
    """-x * log(x): 0 at 0, -infinity below."""
    x = _real(x, "entr")
    return where(x < 0, -math.inf, -xlogy(x, where(x < 0, 1, x)))


def sinc(x: ArrayLike, /) -> Tensor:
    """sin(pi x) / (pi x), 1 at 0."""
    x = floating(x, "sinc") * math.pi
    nothing = x == 0
    # 1 - x**2 / 6 has the value and both first derivatives of the quotient at 0.
    return where(nothing, 1 - x * x / 6, sin(x) / where(nothing, 1, x))


__all__ = [
    "digamma", "entr", "erf", "erfc", "erfcx", "erfinv", "exp2", "expit", "gammaln", "i0", "i0e",
    "i1", "i1e", "log_ndtr", "logit", "multigammaln", "ndtr", "ndtri", "polygamma", "sinc",
    "xlog1py", "xlogy",
]  # fmt: skip
