"""exp and what is made of it, tanh and erf, as vector formulas."""

from __future__ import annotations

import math

from schuss.compiler.cpu import math_tables as tables
from schuss.compiler.cpu.math_values import (
    EXPONENT_BIAS,
    MANTISSA_BITS,
    Value,
    absolute,
    copysign,
    fma,
    larger,
    lookup,
    polynomial,
    rounded,
    select,
    smaller,
    times_power_of_two,
)

# Where exp is certainly 0 or infinite. Beyond these the powers of two below would wrap around.
LOWEST = {"float": -104.0, "double": -746.0}
HIGHEST = {"float": 89.0, "double": 710.0}


def exp(x: Value) -> Value:
    return _exp_of_clamped(larger(LOWEST[x.kind], smaller(HIGHEST[x.kind], x)))


def exp_of_negative(x: Value) -> Value:
    """exp(x) for x <= 0."""
    return _exp_of_clamped(larger(LOWEST[x.kind], x))


def _exp_of_clamped(x: Value) -> Value:
    bits, n, r = _reduced(x)
    return times_power_of_two(_exp_of_reduced(r), bits, n)


def exp_of_sum(x: Value, rest: Value) -> Value:
    """exp(x + rest) for a small rest and x within twice the range where exp is finite."""
    bits, n, r = _reduced(x)
    return times_power_of_two(_exp_of_reduced(r + rest), bits, n)


def _exp_of_reduced(r: Value) -> Value:
    return polynomial(r, (1.0, 1.0, *tables.EXP[r.kind]))


def _reduced(x: Value) -> tuple[Value, Value, Value]:
    """(bits of n, n, r) with x = n ln(2) + r and |r| <= ln(2) / 2."""
    bits, n = rounded(x, 1 / math.log(2))
    high, low = tables.LN2[x.kind]  # n times high is exact
    return bits, n, fma(n, -low, fma(n, -high, x))


def expm1(x: Value) -> Value:
    """2^n expm1(r) + (2^n - 1), doubled at the end since 2^n may be too large."""
    lowest = -18.0 if x.kind == "float" else -38.0  # where it is certainly -1
    clamped = larger(lowest, smaller(HIGHEST[x.kind], x))
    return select(is_tiny(x), x, _expm1_of_clamped(clamped))


def is_tiny(x: Value) -> Value:
    """Whether x is so small, or 0, that expm1(x) = x (and log1p(x), ...)."""
    return absolute(x) < 2.0 ** -(MANTISSA_BITS[x.kind] + 2)


def _expm1_of_clamped(x: Value) -> Value:
    bits, _, r = _reduced(x)
    p = fma(r * r, polynomial(r, tables.EXPM1[x.kind]), r)
    places = MANTISSA_BITS[x.kind]
    half = ((bits - (EXPONENT_BIAS[x.kind] + 1)) << places).from_bits()  # 2**(n - 1)
    return fma(half, p, half - 0.5) * 2.0


def sinh(x: Value) -> Value:
    size = absolute(x)
    e = _half_exp(size)
    z = size * size
    small = fma(size * z, polynomial(z, tables.SINH[x.kind]), size)
    return copysign(select(size < 1.0, small, e - 0.25 / e), x)


def cosh(x: Value) -> Value:
    e = _half_exp(absolute(x))
    return e + 0.25 / e


def _half_exp(x: Value) -> Value:
    """exp(x) / 2 for x >= 0, which is finite a little longer than exp(x)."""
    bits, n, r = _reduced(smaller(HIGHEST[x.kind] + 1, x))
    return times_power_of_two(_exp_of_reduced(r), bits - 1, n - 1.0)


def sigmoid(x: Value) -> Value:
    """1 - q or, for negative x, e - e q, with e = exp(-|x|) and q = e / (1 + e).

    This is 1 / (1 + e) or e / (1 + e), with less rounding than there.
    """
    e = exp_of_negative(-absolute(x))
    q = e / (1.0 + e)
    scale = select(x < 0.0, e, e.like(1.0))
    return fma(-scale, q, scale)


def tanh(x: Value) -> Value:
    if x.kind == "float":
        return _odd_pieces(x, tables.TANH_STEP, tables.TANH_PIECES)
    e = _expm1_of_clamped(larger(-44.0, absolute(x) * -2.0))  # expm1(-2|x|)
    y = copysign(e / (2.0 + e), x)
    return select(is_tiny(x), x, y)


def erf(x: Value) -> Value:
    """In float64 -expm1(-x q(x)), where q is smooth: x q(x) = -log(1 - erf(x))."""
    if x.kind == "float":
        return _odd_pieces(x, tables.ERF_STEP, tables.ERF_PIECES)
    size = smaller(5.95, absolute(x))
    e = _expm1_of_clamped(-size * polynomial(size, tables.ERF["double"]))
    y = copysign(e, x)
    # expm1's last doubling loses a bit of subnormal numbers
    return select(absolute(x) < 1e-300, x * (2 / math.sqrt(math.pi)), y)


def _odd_pieces(x: Value, step: float, pieces: tuple[tuple[float, ...], ...]) -> Value:
    """An odd function of float32 that is 1 from 15.5 steps on, by a polynomial for each step.

    The coefficients are looked up, which takes an instruction each with AVX-512. One polynomial for
    all x would have several times the degree, and a quotient a division.
    """
    magic = 1.5 * 2.0**23
    size = smaller(15.499 * step, absolute(x))
    shifted = fma(size, 1 / step, magic)
    index = shifted.bits()
    h = fma(shifted - magic, -step, size)
    constant, *rest = [lookup(row, index, "float") for row in pieces]
    start = select(constant > h, constant, h)  # h itself near 0, where the constant is 0
    return copysign(fma(h, polynomial(h, rest), start), x)
