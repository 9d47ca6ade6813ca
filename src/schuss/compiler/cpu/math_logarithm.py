"""Logarithms, inverse hyperbolic functions and powers as vector formulas."""

from __future__ import annotations

import math

from schuss.compiler.cpu import math_tables as tables
from schuss.compiler.cpu.math_exponential import exp_of_sum, is_tiny
from schuss.compiler.cpu.math_values import (
    EXPONENT_BIAS,
    MANTISSA_BITS,
    Value,
    absolute,
    copysign,
    exponent_and_mantissa,
    fma,
    larger,
    lookup,
    polynomial,
    select,
    smaller,
    square_root,
    sum_with_rest,
    truncate,
)


def log(x: Value) -> Value:
    e, m = exponent_and_mantissa(x)
    return _e_ln2_plus_log1p(e, m - 1.0)


def log1p(x: Value) -> Value:
    return select(is_tiny(x), x, _corrected(x, _log1p(x), -1.0))


def _log1p(x: Value, doublings: Value | None = None, rest: Value | None = None) -> Value:
    """log((1 + x + rest) 2^doublings) for finite x > -1 that are not tiny.

    The fraction f = (1 + x) / 2^e - 1 is taken from x itself, not from the rounded 1 + x.
    """
    places = MANTISSA_BITS[x.kind]
    exponent = ((1.0 + x).bits() - x.like(0.75).bits()) >> places
    # 2^(2 - e) and a quarter of x, since 2^-e is not a normal number for the largest x
    scale = ((EXPONENT_BIAS[x.kind] + 2 - exponent) << places).from_bits()
    f = fma(scale, x * 0.25, fma(scale, 0.25, -1.0))
    e = exponent.to(x.kind)
    if doublings is not None:
        e = e + doublings
    return _e_ln2_plus_log1p(e, f, None if rest is None else rest * (scale * 0.25))


def asinh(x: Value) -> Value:
    """log(a + sqrt(a^2 + 1)) as log1p(a + a^2 / (1 + sqrt(a^2 + 1))), or log(2 a) for a large a."""
    size = absolute(x)
    large = size > 2.0**60
    z = fma(size, size / (1.0 + square_root(fma(size, size, 1.0))), size)
    return copysign(select(is_tiny(x), x, _log_or_double(size, large, z)), x)


def acosh(x: Value) -> Value:
    """log(x + sqrt(x^2 - 1)) as log1p(t + sqrt(t^2 + 2 t)) with t = x - 1, or log(2 x)."""
    t = x - 1.0
    large = x > 2.0**60
    z, rest = sum_with_rest(square_root(fma(t, t, t + t)), t)
    return select(x >= 1.0, _log_or_double(x, large, z, rest), math.nan)


def _log_or_double(x: Value, large: Value, z: Value, rest: Value | None = None) -> Value:
    """log(1 + z + rest), but log(2 x) where x is large, and x where that is infinite or NaN."""
    zero, one = x.like(0.0), x.like(1.0)
    if rest is not None:
        rest = select(large, zero, rest)
    y = _log1p(select(large, x, z), select(large, one, zero), rest)
    return select(x < math.inf, y, x)


def atanh(x: Value) -> Value:
    """log((1 + a) / (1 - a)) / 2 as log1p(2 a + 2 a a / (1 - a)) / 2."""
    size = absolute(x)
    double = size + size
    z = fma(double, size / (1.0 - size), double)
    y = select(z < math.inf, 0.5 * _log1p(z), z)
    y = select(size > 1.0, x.like(math.nan), y)
    return select(is_tiny(x), x, copysign(y, x))


def _e_ln2_plus_log1p(e: Value, f: Value, rest: Value | None = None) -> Value:
    """e ln(2) + log(1 + f) + rest, where the rest is much smaller than the others."""
    if f.kind == "float":
        q = polynomial(f, tables.LOG["float"])
        near = fma(f * f, q, f) if rest is None else f + fma(f * f, q, rest)
        return fma(e, math.log(2), near)
    high, low = tables.LN2[f.kind]
    s = f / (2.0 + f)
    z = s * s
    inner = fma(-z, polynomial(z, tables.LOG["double"]), f)  # log(1 + f) = f - s (f - z q(z))
    small = e * -low if rest is None else fma(e, -low, -rest)
    return fma(e, high, f - fma(s, inner, small))


def _corrected(x: Value, y: Value, pole: float) -> Value:
    """y, but -inf at the pole, NaN below it, and x where that is infinite or NaN."""
    outside = select(x.equals(pole), x.like(-math.inf), math.nan)
    return select(x > pole, select(x < math.inf, y, x), select(x <= pole, outside, x))


def power(x: Value, y: Value) -> Value:
    """|x|^y, then what the sign of x makes of it; the special cases of C99, which NumPy follows."""
    z = _power_of_size(absolute(x), y)
    half = y * 0.5
    whole = truncate(y).equals(y)
    odd = whole & truncate(half).differs(half)
    sign = select(odd, x, 0.0).bits() & (-(2**31) if x.kind == "float" else -(2**63))
    z = (z.bits() | sign).from_bits()
    z = select((x < 0.0) & (x > -math.inf) & ~whole, x.like(math.nan), z)
    return select(x.equals(1.0) | y.equals(0.0), x.like(1.0), z)


def _power_of_size(size: Value, y: Value) -> Value:
    """exp(y log(size)) with the logarithm and its product with y as sums of two numbers."""
    log, log_rest = _log_with_rest(size)
    # An infinite y becomes a large number: times log(1) = 0 that is 0, as 1^inf = 1 needs.
    huge = 2.0**100 if y.kind == "float" else 2.0**1000
    y = larger(-huge, smaller(huge, y))
    limit = 160.0 if y.kind == "float" else 1000.0  # exp is 0 or infinite there
    product = y * log
    rest = fma(y, log_rest, fma(y, log, -product))
    rest = select(absolute(product) < limit, rest, 0.0)
    return exp_of_sum(larger(-limit, smaller(limit, product)), rest)


def _log_with_rest(x: Value) -> tuple[Value, Value]:
    """log(x) as the sum of two numbers, good to 33 bits (float32) or 65 (float64), for x >= 0.

    P.-T. P. Tang, "Table-driven implementation of the logarithm function in IEEE floating-point
    arithmetic", ACM Transactions on Mathematical Software 16 (1990): x = 2^e c (1 + r) with c from
    a table.
    """
    e, m = exponent_and_mantissa(x)
    i = m.bits() >> (MANTISSA_BITS[x.kind] - 4)
    inverse, c_high, c_low = (
        lookup(table[x.kind], i, x.kind)
        for table in (tables.NODE_INVERSE, tables.NODE_LOG_HIGH, tables.NODE_LOG_LOW)
    )
    r = fma(m, inverse, -1.0)  # exact, as is the next sum
    high, low = tables.LN2[x.kind]
    start = fma(e, high, c_high)
    half = r * -0.5
    square = r * half
    a, a_rest = sum_with_rest(start, r)
    b, b_rest = sum_with_rest(a, square)
    small = fma(r * r * r, polynomial(r, tables.POWER_LOG[x.kind]), fma(e, low, c_low))
    small = small + (a_rest + b_rest + fma(r, half, -square))
    log, rest = sum_with_rest(b, small)
    at_end = x.equals(0.0) | x.equals(math.inf)
    return select(at_end, e, log), rest
