"""Elementwise functions: ops under the array API standard's names, and what is composed of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from schuss import dtypes
from schuss.dtypes import DType
from schuss.errors import DTypeError, fail
from schuss.functions.arguments import (
    ArrayLike,
    as_tensor,
    cast,
    floating,
    operands,
    quick_operands,
    same,
)
from schuss.graph import Handle, Op, apply, record, wrap
from schuss.ops import elementwise as ops
from schuss.ops.broadcast import zeros

if TYPE_CHECKING:
    from schuss.tensor import Tensor

Unary = Callable[[ArrayLike], "Tensor"]
Binary = Callable[[ArrayLike, ArrayLike], "Tensor"]

_NUMERIC, _REAL = dtypes.NUMERIC, dtypes.REAL
_BITS = (dtypes.bool_, *dtypes.INTEGRAL)


def _described(function: Any, op: Op, signature: str) -> Any:
    function.__name__ = function.__qualname__ = op.name
    function.__module__ = __name__
    function.__doc__ = f"{op.name}({signature}): {op.doc}, elementwise."
    return function


def _floating_function(op: Op) -> Unary:
    """A function of floating numbers; integers are cast to float32 first."""

    def function(x: ArrayLike, /) -> Tensor:
        if isinstance(x, Handle) and x._node.dtype.kind == "f":
            return wrap(record(op, (x._node,), {}))
        return apply(op, floating(x, op.name))

    return _described(function, op, "x")


def _function(
    op: Op, allowed: tuple[DType, ...], kind: str, unchanged: tuple[DType, ...] = ()
) -> Unary:
    """A function of numbers of the allowed dtypes; those in `unchanged` are their own result."""

    permitted = frozenset(allowed)

    def function(x: ArrayLike, /) -> Tensor:
        x = as_tensor(x, op.name)
        if x.dtype in unchanged:
            return same(x)
        if x.dtype not in permitted:
            raise fail(DTypeError, op.name, f"is defined for {kind} dtypes", x=x)
        return apply(op, x)

    return _described(function, op, "x")


exp = _floating_function(ops.exp)
expm1 = _floating_function(ops.expm1)
log = _floating_function(ops.log)
log1p = _floating_function(ops.log1p)
sqrt = _floating_function(ops.sqrt)
sin = _floating_function(ops.sin)
cos = _floating_function(ops.cos)
tan = _floating_function(ops.tan)
asin = _floating_function(ops.asin)
acos = _floating_function(ops.acos)
atan = _floating_function(ops.atan)
sinh = _floating_function(ops.sinh)
cosh = _floating_function(ops.cosh)
tanh = _floating_function(ops.tanh)
asinh = _floating_function(ops.asinh)
acosh = _floating_function(ops.acosh)
atanh = _floating_function(ops.atanh)
erf = _floating_function(ops.erf)
sigmoid = _floating_function(ops.sigmoid)

negative = _function(ops.negative, _NUMERIC, "numeric")
abs = _function(ops.abs_, _NUMERIC, "numeric", dtypes.UNSIGNED)
_real_sign = _function(ops.sign, _REAL, "numeric")
floor = _function(ops.floor, dtypes.FLOATING, "real", dtypes.INTEGRAL)
ceil = _function(ops.ceil, dtypes.FLOATING, "real", dtypes.INTEGRAL)
trunc = _function(ops.trunc, dtypes.FLOATING, "real", dtypes.INTEGRAL)
round = _function(ops.round_, _NUMERIC, "numeric", dtypes.INTEGRAL)
relu = _function(ops.relu, _REAL, "real")
isnan = _function(ops.isnan, _NUMERIC, "numeric")
isinf = _function(ops.isinf, _NUMERIC, "numeric")
isfinite = _function(ops.isfinite, _NUMERIC, "numeric")
logical_not = _function(ops.logical_not, (dtypes.bool_,), "bool")
bitwise_invert = _function(ops.bitwise_invert, _BITS, "integer and bool")
real = _function(ops.real, dtypes.COMPLEX, "numeric", _REAL)
imag = _function(ops.imag, dtypes.COMPLEX, "complex")
conj = _function(ops.conj, dtypes.COMPLEX, "numeric", _REAL)


def _binary(op: Op, allowed: tuple[DType, ...], kind: str) -> Binary:
    """A function of two operands, which meet in one dtype and broadcast."""

    permitted = frozenset(allowed)

    def function(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
        met = quick_operands(x1, x2)
        if met is not None and met[0].dtype in permitted:
            return wrap(record(op, met, {}))
        a, b = operands(op.name, x1, x2)
        if a.dtype not in permitted:
            raise fail(DTypeError, op.name, f"is defined for {kind} dtypes", x1=x1, x2=x2)
        return apply(op, a, b)

    return _described(function, op, "x1, x2")


add = _binary(ops.add, dtypes.ALL, "all")
subtract = _binary(ops.subtract, _NUMERIC, "numeric")
multiply = _binary(ops.multiply, dtypes.ALL, "all")
remainder = _binary(ops.remainder, _REAL, "real")
floor_divide = _binary(ops.floor_divide, _REAL, "real")
maximum = _binary(ops.maximum, _REAL, "real")
minimum = _binary(ops.minimum, _REAL, "real")
atan2 = _binary(ops.atan2, dtypes.FLOATING, "floating")
copysign = _binary(ops.copysign, dtypes.FLOATING, "floating")
nextafter = _binary(ops.nextafter, dtypes.FLOATING, "floating")
equal = _binary(ops.equal, dtypes.ALL, "all")
not_equal = _binary(ops.not_equal, dtypes.ALL, "all")
less = _binary(ops.less, _REAL, "real")
less_equal = _binary(ops.less_equal, _REAL, "real")
logical_and = _binary(ops.logical_and, (dtypes.bool_,), "bool")
logical_or = _binary(ops.logical_or, (dtypes.bool_,), "bool")
logical_xor = _binary(ops.logical_xor, (dtypes.bool_,), "bool")
bitwise_and = _binary(ops.bitwise_and, _BITS, "integer and bool")
bitwise_or = _binary(ops.bitwise_or, _BITS, "integer and bool")
bitwise_xor = _binary(ops.bitwise_xor, _BITS, "integer and bool")
bitwise_left_shift = _binary(ops.bitwise_left_shift, dtypes.INTEGRAL, "integer")
bitwise_right_shift = _binary(ops.bitwise_right_shift, dtypes.INTEGRAL, "integer")


def greater(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """greater(x1, x2): whether x1 > x2, elementwise."""
    return less(x2, x1)


def greater_equal(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """greater_equal(x1, x2): whether x1 >= x2, elementwise."""
    return less_equal(x2, x1)


def divide(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """divide(x1, x2): x1 / x2, elementwise; the quotient of integers is float32."""
    met = quick_operands(x1, x2)
    if met is not None and met[0].dtype.kind == "f":
        return wrap(record(ops.divide, met, {}))
    a, b = operands("divide", x1, x2)
    return apply(ops.divide, floating(a, "divide"), floating(b, "divide"))


def pow(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """pow(x1, x2): x1 raised to the power x2, elementwise.

    Raises DTypeError for integers with a negative Python exponent, whose results are no integers.
    """
    if isinstance(x2, (int, float)) and not isinstance(x2, bool):
        base = as_tensor(x1, "pow")
        if x2 == 2 and dtypes.meet_scalar(x2, base.dtype) == base.dtype:
            return base * base  # the common case, without a logarithm in sight
        if x2 < 0 and dtypes.is_integral(base.dtype) and isinstance(x2, int):
            raise fail(
                DTypeError,
                "pow",
                "an integer to a negative power is not an integer",
                x1=base,
                x2=x2,
                hint="write a float exponent or cast the base",
            )
    a, b = operands("pow", x1, x2)
    if a.dtype == dtypes.bool_:
        raise fail(DTypeError, "pow", "is defined for numeric dtypes", x1=a, x2=b)
    return apply(ops.power, a, b)


def where(condition: ArrayLike, x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """where(condition, x1, x2): x1 where the condition holds, else x2; all three broadcast.

    The side that is not taken gets a zero gradient, even where its derivative is infinite.
    """
    chosen = as_tensor(condition, "where")
    if chosen.dtype != dtypes.bool_:
        raise fail(
            DTypeError,
            "where",
            "the condition must be bool",
            condition=chosen,
            hint="compare, say x != 0",
        )
    met = quick_operands(x1, x2)
    if met is not None:
        return wrap(record(ops.where, (chosen._node, *met), {}))
    a, b = operands("where", x1, x2)
    return apply(ops.where, chosen, a, b)


def clip(x: ArrayLike, /, min: ArrayLike | None = None, max: ArrayLike | None = None) -> Tensor:
    """x limited to min <= x <= max; None leaves a side open.

    The gradient passes inside and on the limits. Raises DTypeError for an integer x with limits
    that are none.
    """
    x = same(as_tensor(x, "clip"))
    for limit, below in ((min, True), (max, False)):
        if limit is not None:
            _, bound = operands("clip", x, limit)
            if dtypes.is_integral(x.dtype) and not dtypes.is_integral(bound.dtype):
                raise fail(DTypeError, "clip", "integers need integer limits", x=x, limit=limit)
            bound = cast(bound, x.dtype)
            outside = less(x, bound) if below else less(bound, x)
            x = where(outside, bound, x)
    return x


def positive(x: ArrayLike, /) -> Tensor:
    """positive(x): the same values."""
    return same(as_tensor(x, "positive"))


def square(x: ArrayLike, /) -> Tensor:
    """square(x): x * x, elementwise."""
    x = as_tensor(x, "square")
    return multiply(x, x)


def reciprocal(x: ArrayLike, /) -> Tensor:
    """reciprocal(x): 1 / x, elementwise."""
    return divide(1, x)


def rsqrt(x: ArrayLike, /) -> Tensor:
    """rsqrt(x): 1 / sqrt(x), elementwise."""
    return divide(1, sqrt(x))


def log2(x: ArrayLike, /) -> Tensor:
    """log2(x): the logarithm to base 2, elementwise."""
    return multiply(log(x), 1 / math.log(2))


def log10(x: ArrayLike, /) -> Tensor:
    """log10(x): the logarithm to base 10, elementwise."""
    return multiply(log(x), 1 / math.log(10))


def logaddexp(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """logaddexp(x1, x2): log(exp(x1) + exp(x2)) without overflow, elementwise."""
    a, b = (floating(each, "logaddexp") for each in operands("logaddexp", x1, x2))
    largest = maximum(a, b).detach()
    shift = where(isfinite(largest), largest, 0)
    return log(exp(a - shift) + exp(b - shift)) + shift


def hypot(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """hypot(x1, x2): sqrt(x1**2 + x2**2) without overflow, elementwise."""
    a, b = (floating(each, "hypot") for each in operands("hypot", x1, x2))
    largest = maximum(abs(a), abs(b)).detach()
    scale = where(logical_and(largest > 0, isfinite(largest)), largest, 1)
    total = square(a / scale) + square(b / scale)
    infinite = logical_or(isinf(a), isinf(b))  # even beside a NaN
    return where(infinite, math.inf, scale * root_of_squares(total))


def root_of_squares(total: Tensor) -> Tensor:
    """sqrt(total) of a sum of squares: with the gradient 0 at 0, where the cone has no slope."""
    zero = equal(total, 0)
    return where(zero, 0, sqrt(where(zero, 1, total)))


def sign(x: ArrayLike, /) -> Tensor:
    """sign(x): -1, 0 or 1, elementwise; of complex numbers x / |x|, and 0 at 0."""
    x = as_tensor(x, "sign")
    return apply(ops.phase, x) if dtypes.is_complex(x.dtype) else _real_sign(x)


def angle(x: ArrayLike, /) -> Tensor:
    """angle(x): the angle of complex numbers in radians, from -pi to pi, elementwise."""
    x = floating(x, "angle")
    if dtypes.is_complex(x.dtype):
        return atan2(imag(x), real(x))
    return apply(ops.atan2, zeros(x.shape, x.dtype), x)


def signbit(x: ArrayLike, /) -> Tensor:
    """signbit(x): whether the sign of x is minus, elementwise; true for -0.0."""
    return less(copysign(1.0, x), 0)
