"""Logarithms and powers as vector formulas."""

from __future__ import annotations

import math

from schuss.compiler.cpu import math_tables as tables
from schuss.compiler.cpu.math_exponential import LN2, _is_tiny, exp_of_sum
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
    truncate,
)

# Powers take the parts of math_fit.nodes, which begin at 0.6992.
NODE_ORIGIN = 0x3FE6600000000000
EXACT_LN2 = (0.6931471805598903, 5.497923018708371e-14)  # the first is a multiple of 2**-42


def log(x: Value) -> Value:
    e, m = exponent_and_mantissa(x)
    return _e_ln2_plus_log1p(e, m - 1.0)


def log1p(x: Value) -> Value:
    return select(_is_tiny(x), x, _corrected(x, _log1p(x), -1.0))


def _log1p(x: Value, doublings: Value | None = None) -> Value:
    """log((1 + x) 2^doublings) for finite x > -1 that are not tiny.

    The fraction f = (1 + x) / 2^e - 1 is taken from x itself, not from the rounded 1 + x.
    """
    places = MANTISSA_BITS[x.kind]
    exponent = ((1.0 + x).bits() - x.like(0.75).bits()) >> places
    # 2^(2 - e) and a quarter of x, since 2^-e is not a normal number for the largest x
    scale = ((EXPONENT_BIAS[x.kind] + 2 - exponent) << places).from_bits()
    f = fma(scale, x * 0.25, fma(scale, 0.25, -1.0))
    e = exponent.to(x.kind)
    return _e_ln2_plus_log1p(e if doublings is None else e + doublings, f)


def asinh(x: Value) -> Value:
    """log(a + sqrt(a^2 + 1)) as log1p(a + a^2 / (1 + sqrt(a^2 + 1))), or log(2 a) for a large a."""
    size = absolute(x)
    large = size > 2.0**60
    z = fma(size, size / (1.0 + square_root(fma(size, size, 1.0))), size)
    return copysign(select(_is_tiny(x), x, _log_or_double(size, large, z)), x)


def acosh(x: Value) -> Value:
    """log(x + sqrt(x^2 - 1)) as log1p(t + sqrt(t^2 + 2 t)) with t = x - 1, or log(2 x)."""
    t = x - 1.0
    large = x > 2.0**60
    z = t + square_root(fma(t, t, t + t))
    return select(x >= 1.0, _log_or_double(x, large, z), math.nan)


def _log_or_double(x: Value, large: Value, z: Value) -> Value:
    """log(1 + z), but log(2 x) where x is large, and x where that is infinite or NaN."""
    one = x.like(1.0)
    y = _log1p(select(large, x, z), select(large, one, 0.0))
    return select(x < math.inf, y, x)


def atanh(x: Value) -> Value:
    """log((1 + a) / (1 - a)) / 2 as log1p(2 a + 2 a a / (1 - a)) / 2."""
    size = absolute(x)
    double = size + size
    z = fma(double, size / (1.0 - size), double)
    y = copysign(0.5 * _corrected(z, _log1p(z), -1.0), x)
    return select(_is_tiny(x), x, y)


def _e_ln2_plus_log1p(e: Value, f: Value) -> Value:
    """e ln(2) + log(1 + f)."""
    if f.kind == "float":
        return fma(e, math.log(2), fma(f * f, polynomial(f, tables.LOG["float"]), f))
    high, low = LN2[f.kind]
    s = f / (2.0 + f)
    z = s * s
    rest = fma(-z, polynomial(z, tables.LOG["double"]), f)  # log(1 + f) = f - s (f - z q(z))
    return fma(e, high, f - fma(s, rest, e * -low))


def _corrected(x: Value, y: Value, pole: float) -> Value:
    """y, but -inf at the pole, NaN below it, and x where that is infinite or NaN."""
    outside = select(x.equals(pole), x.like(-math.inf), math.nan)
    return select(x > pole, select(x < math.inf, y, x), select(x <= pole, outside, x))


def power(x: Value, y: Value) -> Value:
    """|x|^y, then what the sign of x makes of it; the special cases of C99, which NumPy follows."""
    size = absolute(x)
    z = _float_power(size, y) if x.kind == "float" else _double_power(size, y)
    half = y * 0.5
    whole = truncate(y).equals(y)
    odd = whole & truncate(half).differs(half)
    sign = select(odd, x, 0.0).bits() & sign_bit(x.kind)
    z = (z.bits() | sign).from_bits()
    z = select((x < 0.0) & (x > -math.inf) & ~whole, x.like(math.nan), z)
    return select(x.equals(1.0) | y.equals(0.0), x.like(1.0), z)


def sign_bit(kind: str) -> int:
    return -(2**31) if kind == "float" else -(2**63)


def _float_power(size: Value, y: Value) -> Value:
    """2^(y log2(size)) in float64, where float32's exponents and roundings are far away."""
    wide = size.to("double")
    e, i, m = _node(wide)
    r = fma(m, lookup(tables.NODE_INVERSE, i, "double"), -1.0)
    log2 = fma(r, polynomial(r, tables.SHORT_LOG2["double"]),
               e + lookup(tables.NODE_LOG2, i, "double"))  # fmt: skip
    log2 = _at_ends(wide, log2)
    t = larger(-200.0, smaller(200.0, _finite(y.to("double")) * log2))
    magic = 1.5 * 2.0**52 + 1023
    shifted = t + magic
    scale = (shifted.bits() << 52).from_bits()
    p = polynomial(t - (shifted - magic), tables.SHORT_EXP2["double"])
    return (p * scale).to("float")


def _node(x: Value) -> tuple[Value, Value, Value]:
    """(e, i, m) with x = 2^e m, m in the i-th of the 16 parts that the tables are for."""
    bits = x.bits()
    shifted = bits - NODE_ORIGIN
    exponent = shifted >> 52
    return exponent.to("double"), shifted.shifted_down(48), (bits - (exponent << 52)).from_bits()


def _at_ends(x: Value, logarithm: Value) -> Value:
    """The logarithm of x >= 0, with the right values at 0, infinity and NaN."""
    return select(x.equals(0.0), x.like(-math.inf), select(x < math.inf, logarithm, x))


def _finite(y: Value) -> Value:
    """An infinite y as a large number: times log(1) = 0 that is 0, as 1^inf = 1 needs."""
    return larger(-1e300, smaller(1e300, y))


def _double_power(size: Value, y: Value) -> Value:
    """exp(y log(size)), where the logarithm is the sum of two numbers, good to 64 bits or more."""
    subnormal = size < 2.0**-1022
    e, i, m = _node(select(subnormal, size * 2.0**52, size))
    e = select(subnormal, e - 52.0, e)
    r = fma(m, lookup(tables.EXACT_INVERSE, i, "double"), -1.0)  # exact
    high, low = EXACT_LN2
    start = fma(e, high, lookup(tables.EXACT_LOG_HIGH, i, "double"))  # exact
    rest = fma(e, low, lookup(tables.EXACT_LOG_LOW, i, "double"))
    half_square = r * r * -0.5
    square_rest = fma(r, r * -0.5, -half_square)
    cube = r * r * r * polynomial(r, tables.LONG_LOG["double"])
    a, a_rest = two_sum(start, r)
    b, b_rest = two_sum(a, half_square)
    log = b + (small := a_rest + b_rest + square_rest + rest + cube)
    log_rest = b - log + small
    log = _at_ends(size, log)

    y = _finite(y)
    product = y * log
    inside = absolute(product) < 800.0
    product_rest = select(inside, fma(y, log_rest, fma(y, log, -product)), 0.0)
    return exp_of_sum(larger(-800.0, smaller(800.0, product)), product_rest)


def two_sum(a: Value, b: Value) -> tuple[Value, Value]:
    """(s, t): s is a + b rounded and s + t is a + b exactly (D. E. Knuth)."""
    total = a + b
    from_b = total - a
    return total, (a - (total - from_b)) + (b - from_b)
