"""Trigonometric functions and their inverses as vector formulas."""

from __future__ import annotations

import math

from schuss.compiler.cpu import math_tables as tables
from schuss.compiler.cpu.math_values import (
    MANTISSA_BITS,
    Value,
    absolute,
    any_sum_with_rest,
    copysign,
    fma,
    gather,
    polynomial,
    select,
    square_root,
)


def sin(x: Value) -> Value:
    quadrant, r = reduced(x)
    return _rotated(quadrant, copysign(_sin(r), r), _cos(r))


def cos(x: Value) -> Value:
    quadrant, r = reduced(x)
    return _rotated(quadrant + 1, _sin(r), _cos(r))


def tan(x: Value) -> Value:
    """t = tan(r), or -1 / t in the quadrants with an odd number."""
    quadrant, r, rest = reduced_with_rest(x)
    z = r * r
    cube = r * z * polynomial(z, tables.TAN[x.kind])
    t = copysign(r + fma(rest, 1.0 + z, cube), r)  # the sign for -0
    return select((quadrant & 1).differs(0), -1.0 / t, t)


def _sin(r: Value) -> Value:
    z = r * r
    return fma(r * z, polynomial(z, tables.SIN[r.kind]), r)


def _cos(r: Value) -> Value:
    z = r * r
    return fma(z * z, polynomial(z, tables.COS[r.kind]), fma(z, -0.5, 1.0))


def _rotated(quadrant: Value, sine: Value, cosine: Value) -> Value:
    """sin(r + quadrant pi / 2): the sine or cosine by the lowest bit, negative by the next."""
    size = select((quadrant & 1).differs(0), cosine, sine).bits()
    sign = (quadrant & 2) << (30 if sine.kind == "float" else 62)
    return (size ^ sign).from_bits()


# pi / 2 as a sum whose first parts, taken n times away from x, leave no rounding error. They are
# rounded down, so that all are positive and -0 stays -0.
HALF_PI = {
    "float": (1.570796251296997, 7.549789415861596e-08, 5.390302529957765e-15),
    "double": (1.5707963267948966, 6.123233995736765e-17, 1.0828566739219139e-32),
}
# Up to here that reduction is accurate: the quotient by pi / 2 keeps enough digits.
LARGE = {"float": 1e5, "double": 2.0**30}


def reduced(x: Value) -> tuple[Value, Value]:
    """(quadrant, r) with x = quadrant pi / 2 + r and |r| < 0.79; the quadrant counts modulo 4.

    W. J. Cody and W. Waite, "Software Manual for the Elementary Functions", 1980, with fused
    multiply-adds. Lanes with large x go by M. Payne and R. Hanek's way.
    """
    shifted, n = _quadrant(x)
    r = x
    for part in HALF_PI[x.kind]:
        r = fma(n, -part, r)
    large = absolute(x) > LARGE[x.kind]
    common = shifted.bits(), r
    quadrant, r = x.body.unless_rare(large, common, lambda: _reduced_large(x, large)[:2])
    return quadrant, r


def reduced_with_rest(x: Value) -> tuple[Value, Value, Value]:
    """(quadrant, r, rest) with x = quadrant pi / 2 + r + rest, where the rest is r's rounding."""
    shifted, n = _quadrant(x)
    first, second, third = HALF_PI[x.kind]
    product = n * -second
    r, rest = any_sum_with_rest(fma(n, -first, x), product)
    rest = fma(n, -third, rest + fma(n, -second, -product))
    large = absolute(x) > LARGE[x.kind]
    common = shifted.bits(), r, rest
    quadrant, r, rest = x.body.unless_rare(large, common, lambda: _reduced_large(x, large))
    return quadrant, r, rest


def _quadrant(x: Value) -> tuple[Value, Value]:
    """The integer nearest to x 2/pi: as a number that has it in its lowest bits, and itself."""
    magic = 1.5 * 2.0 ** MANTISSA_BITS[x.kind]
    shifted = fma(x, 2 / math.pi, magic)
    return shifted, shifted - magic


def _reduced_large(x: Value, large: Value) -> tuple[Value, Value, Value]:
    if x.kind == "float":
        return _reduced_large_float(x, large)
    return _reduced_large_double(x, large)


LEADING_ZEROS = 32
TWO_OVER_PI_BITS = 1280
LOW_HALF = 0xFFFFFFFF


def _words(count: int) -> list[int]:
    """Word k has the bits 8 k to 8 k + 31 of 2 / pi, after some zeros, as a signed integer."""
    length = TWO_OVER_PI_BITS + LEADING_ZEROS
    words = [(tables.TWO_OVER_PI >> (length - 32 - 8 * k)) & LOW_HALF for k in range(count)]
    return [word - (word >> 31 << 32) for word in words]


def _window(x: Value, large: Value, words: int) -> tuple[Value, list[Value]]:
    """(m, [f0, f1, ...]): integers in i64 lanes whose product gives x 2/pi modulo 4.

    x = M 2^e with an integer M. Bits of 2/pi that stand before 2^-(e - 2) contribute multiples of 4
    and are left out (M. Payne and R. Hanek, "Radian reduction for trigonometric functions", SIGNUM
    Newsletter 18, 1983). The f are the 32-bit words that follow, from the most significant on: the
    first bit of f0 times m has the weight 2.
    """
    places = MANTISSA_BITS[x.kind]
    bits = select(large, absolute(x), 2.0**40).bits()  # other lanes would look outside the table
    bias = (127 if x.kind == "float" else 1023) + places
    first = (bits >> places) - bias - 2 + LEADING_ZEROS
    mantissa = (bits & (2**places - 1)) | 2**places
    m = (mantissa << (first & 7)).to("i64")
    count = 32 if x.kind == "float" else 156
    found = [
        gather(x.body, "two_over_pi", _words(count), (first >> 3) + 4 * k).to("i64") & LOW_HALF
        for k in range(words)
    ]
    return m, found


def _reduced_large_float(x: Value, large: Value) -> tuple[Value, Value, Value]:
    m, (f0, f1, f2) = _window(x, large, 3)
    product = ((m * f0) << 32) + m * f1 + (m * f2).shifted_down(32)
    quadrant, fraction = _nearest(product)
    exact = fraction.to("double") * (math.pi / 2 / 2.0**62)
    r = exact.to("float")
    return _with_sign(x, quadrant.to("i32"), r, (exact - r.to("double")).to("float"))


def _nearest(product: Value) -> tuple[Value, Value]:
    """The integer nearest to product / 2^62, and what is left."""
    quadrant = (product + 2**61).shifted_down(62)
    return quadrant, product - (quadrant << 62)


def _with_sign(x: Value, quadrant: Value, r: Value, rest: Value) -> tuple[Value, Value, Value]:
    """The same for -|x| if x is negative; NaN for infinities."""
    negative = x < 0.0
    r = select(absolute(x) < math.inf, select(negative, -r, r), math.nan)
    return select(negative, 0 - quadrant, quadrant), r, select(negative, -rest, rest)


def _reduced_large_double(x: Value, large: Value) -> tuple[Value, Value, Value]:
    """As for float, by 32-bit words: products of two are summed by where their halves belong."""
    m, f = _window(x, large, 6)
    m_low, m_high = m & LOW_HALF, m.shifted_down(32)
    words = []
    carry = (m_low * f[4]).shifted_down(32) + (m_high * f[5]).shifted_down(32)
    upper = None
    for k in (3, 2, 1, 0):
        products = m_low * f[k], m_high * f[k + 1]
        total = carry + (products[0] & LOW_HALF) + (products[1] & LOW_HALF)
        if upper is not None:
            total = total + upper
        upper = products[0].shifted_down(32) + products[1].shifted_down(32)
        words.append(total)
        carry = total.shifted_down(32)
    high = (words[3] << 32) | (words[2] & LOW_HALF)
    low = (words[1] << 32) | (words[0] & LOW_HALF)
    quadrant, fraction = _nearest(high)
    # Two numbers hold the fraction: the low part counts where little is left of the high one.
    high = fraction.to("double")
    low = (fraction - high.to("i64")).to("double") + low.shifted_down(1).to("double") * 2.0**-63
    scale, scale_rest = (each / 2.0**62 for each in HALF_PI["double"][:2])
    r = high * scale
    rest = fma(high, scale, -r) + fma(low, scale, high * scale_rest)
    total = r + rest
    return _with_sign(x, quadrant, total, r - total + rest)


def asin(x: Value) -> Value:
    """By the series for |x| <= 1/2, else pi / 2 - 2 asin(sqrt((1 - |x|) / 2))."""
    outer, s, tail = _arcsine(absolute(x))
    # pi / 2 as the sum of 1, which is added last, and two more
    high, low = HALF_PI[x.kind][0] - 1.0, HALF_PI[x.kind][1]
    from_right_angle = 1.0 + (fma(s, -2.0, high) + fma(tail, -2.0, low))
    return copysign(select(outer, from_right_angle, s + tail), x)


def acos(x: Value) -> Value:
    """pi / 2 - asin(x) for |x| <= 1/2, else 2 asin(sqrt((1 - |x|) / 2)), taken from pi if x < 0."""
    outer, s, tail = _arcsine(absolute(x))
    high, low, _ = HALF_PI[x.kind]
    series = s + tail
    double = series + series
    away = select(x < 0.0, 2.0 * high - (double - 2.0 * low), double)
    return select(outer, away, high - (copysign(series, x) - low))


def _arcsine(size: Value) -> tuple[Value, Value, Value]:
    """(size > 1/2, s, asin(s) - s) with s = size, or sqrt((1 - size) / 2) where size > 1/2."""
    outer = size > 0.5
    z = select(outer, fma(size, -0.5, 0.5), size * size)
    s = select(outer, square_root(z), size)
    return outer, s, s * z * polynomial(z, tables.ASIN[size.kind])


def atan(x: Value) -> Value:
    """By the series for |x| <= 1, else pi / 2 - atan(1 / |x|)."""
    size = absolute(x)
    outer = size > 1.0
    one = x.like(1.0)
    series = _arctangent(select(outer, one / size, size))
    high, low, _ = HALF_PI[x.kind]
    return copysign(select(outer, high - (series - low), series), x)


def _arctangent(t: Value) -> Value:
    z = t * t
    return fma(t * z, polynomial(z, tables.ATAN[t.kind]), t)


def atan2(y: Value, x: Value) -> Value:
    """The angle of the point (x, y): atan of the smaller size by the larger, then its octant."""
    a, b = absolute(y), absolute(x)
    steep = a > b
    largest, smallest = select(steep, a, b), select(steep, b, a)
    t = smallest / largest
    t = select(smallest.equals(largest), select(largest > 0.0, t.like(1.0), 0.0), t)
    series = _arctangent(t)
    left = x.bits() < 0
    high, low, _ = HALF_PI[x.kind]
    zero = x.like(0.0)
    start = select(steep, x.like(high), select(left, x.like(2 * high), zero))
    start_rest = select(steep, x.like(low), select(left, x.like(2 * low), zero))
    signed = select(steep ^ left, -series, series)
    return copysign(start + (signed + start_rest), y)
