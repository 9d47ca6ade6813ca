"""Rows of the elementwise table that take some steps: quotients rounded down, integer powers."""

from __future__ import annotations

import numpy as np

from schuss import dtypes
from schuss.compiler.cpu.elementwise import (
    TABLE,
    compare,
    intrinsic,
    is_float,
    is_signed,
    kind_of,
    number,
    row,
    select,
)
from schuss.compiler.cpu.text import Text, suffix, vector
from schuss.dtypes import DType


def _floor_divide(t: Text, xs: list[str], kinds: list[DType], out: DType, lanes: int) -> str:
    return _divided(t, xs, out, lanes)[0]


def _remainder(t: Text, xs: list[str], kinds: list[DType], out: DType, lanes: int) -> str:
    return _divided(t, xs, out, lanes)[1]


TABLE["floor_divide"], TABLE["remainder"] = _floor_divide, _remainder


def _divided(t: Text, xs: list[str], out: DType, lanes: int) -> tuple[str, str]:
    """Quotient rounded down and what is left, which has the sign of the divisor."""
    if is_float(out):
        return _divided_floats(t, xs, out, lanes)
    kind, (a, b) = kind_of(out, lanes), xs
    zero, one = number(0, out, lanes), number(1, out, lanes)
    nothing = t.new(f"icmp eq {kind} {b}, {zero}")
    safe = select(t, nothing, one, b, out, lanes)
    if not is_signed(out):
        q, r = t.new(f"udiv {kind} {a}, {safe}"), t.new(f"urem {kind} {a}, {safe}")
    else:
        negated = t.new(f"sub {kind} {zero}, {a}")  # a // -1, which overflows for the smallest
        minus = t.new(f"icmp eq {kind} {b}, {number(-1, out, lanes)}")
        safe = select(t, minus, one, safe, out, lanes)
        q, r = t.new(f"sdiv {kind} {a}, {safe}"), t.new(f"srem {kind} {a}, {safe}")
        bits = vector("i1", lanes)
        signs = t.new(f"xor {kind} {r}, {safe}")
        differ = t.new(f"icmp slt {kind} {signs}, {zero}")
        left = t.new(f"icmp ne {kind} {r}, {zero}")
        down = t.new(f"and {bits} {differ}, {left}")
        q = select(t, down, t.new(f"sub {kind} {q}, {one}"), q, out, lanes)
        r = select(t, down, t.new(f"add {kind} {r}, {safe}"), r, out, lanes)
        q = select(t, minus, negated, q, out, lanes)
        r = select(t, minus, zero, r, out, lanes)
    return select(t, nothing, zero, q, out, lanes), select(t, nothing, zero, r, out, lanes)


def _divided_floats(t: Text, xs: list[str], out: DType, lanes: int) -> tuple[str, str]:
    """As NumPy's divmod: from the exact remainder, so that q * b + r is a.

    At infinities the quotient is a / b, as the array API standard has it.
    """
    kind, (a, b) = kind_of(out, lanes), xs
    zero, one = number(0, out, lanes), number(1, out, lanes)
    mod = _exact_remainder(t, a, b, out, lanes)
    left = t.new(f"fcmp une {kind} {mod}, {zero}")
    b_negative = t.new(f"fcmp olt {kind} {b}, {zero}")
    mod_negative = t.new(f"fcmp olt {kind} {mod}, {zero}")
    bits = vector("i1", lanes)
    differ = t.new(f"xor {bits} {b_negative}, {mod_negative}")
    shift = t.new(f"and {bits} {differ}, {left}")
    shifted = select(t, shift, t.new(f"fadd {kind} {mod}, {b}"), mod, out, lanes)
    signed_zero = intrinsic(t, "copysign", out, lanes, zero, b)
    remainder = select(t, left, shifted, signed_zero, out, lanes)
    rest = t.new(f"fsub {kind} {a}, {mod}")
    div = t.new(f"fdiv {kind} {rest}, {b}")
    div = select(t, shift, t.new(f"fsub {kind} {div}, {one}"), div, out, lanes)
    whole = intrinsic(t, "floor", out, lanes, div)
    above = t.new(f"fsub {kind} {div}, {whole}")
    up = t.new(f"fcmp ogt {kind} {above}, {number(0.5, out, lanes)}")
    whole = select(t, up, t.new(f"fadd {kind} {whole}, {one}"), whole, out, lanes)
    plain = t.new(f"fdiv {kind} {a}, {b}")
    tiny = intrinsic(t, "copysign", out, lanes, zero, plain)
    is_zero = t.new(f"fcmp oeq {kind} {div}, {zero}")
    whole = select(t, is_zero, tiny, whole, out, lanes)
    special = t.new(f"fcmp oeq {kind} {b}, {zero}")
    for each in xs:
        size = intrinsic(t, "fabs", out, lanes, each)
        infinite = compare(t, "eq", size, number(np.inf, out, lanes), out, lanes)
        special = t.new(f"or {bits} {special}, {infinite}")
    return select(t, special, plain, whole, out, lanes), remainder


def _exact_remainder(t: Text, a: str, b: str, out: DType, lanes: int) -> str:
    """C's fmod. Where quotients are small, a - trunc(a / b) * b is exact, once b is given back.

    (It is a multiple of the last place of b, and not larger than b.) The others take long.
    """
    kind, bits = kind_of(out, lanes), vector("i1", lanes)
    zero, limit = number(0, out, lanes), number(_EXACT[dtypes.accumulator(out)], out, lanes)
    whole = intrinsic(t, "trunc", out, lanes, t.new(f"fdiv {kind} {a}, {b}"))
    rest = intrinsic(t, "fma", out, lanes, t.new(f"fneg {kind} {whole}"), b, a)
    signs = [t.new(f"fcmp olt {kind} {each}, {zero}") for each in (rest, a)]
    differ = t.new(f"xor {bits} {signs[0]}, {signs[1]}")
    beyond = t.new(f"and {bits} {differ}, {t.new(f'fcmp une {kind} {rest}, {zero}')}")
    back = t.new(f"fadd {kind} {rest}, {intrinsic(t, 'copysign', out, lanes, b, a)}")
    rest = select(t, beyond, back, rest, out, lanes)
    found = t.alloca(kind)
    t.put(f"store {kind} {rest}, ptr {found}, align 64")
    size = intrinsic(t, "fabs", out, lanes, whole)
    large = t.new(f"fcmp uge {kind} {size}, {limit}")
    lost = t.new(f"fcmp uno {kind} {rest}, {rest}")  # 0 times an infinite b, say
    with t.when(_any(t, t.new(f"or {bits} {large}, {lost}"), lanes)):
        t.put(f"store {kind} {t.new(f'frem {kind} {a}, {b}')}, ptr {found}, align 64")
    return t.new(f"load {kind}, ptr {found}, align 64")


_EXACT = {dtypes.float32: 2.0**22, dtypes.float64: 2.0**51}


def _any(t: Text, bits: str, lanes: int) -> str:
    if lanes == 1:
        return bits
    name = f"llvm.vector.reduce.or.{suffix('i1', lanes)}"
    return t.call("i1", name, (vector("i1", lanes), bits))


# --- powers of integers ---

_power_of_floats = TABLE["power"]


@row("power")
def _power(t: Text, xs: list[str], kinds: list[DType], out: DType, lanes: int) -> str:
    """By squaring, as long as an exponent has bits left; a check asks for exponents below 0."""
    if is_float(out):
        return _power_of_floats(t, xs, kinds, out, lanes)
    kind, (a, b) = kind_of(out, lanes), xs
    zero, one = number(0, out, lanes), number(1, out, lanes)
    places = [t.alloca(kind) for _ in range(3)]
    for start, place in zip((one, a, b), places, strict=True):
        t.put(f"store {kind} {start}, ptr {place}, align 64")

    def step() -> str:
        total, base, exponent = [t.new(f"load {kind}, ptr {p}, align 64") for p in places]
        odd = t.new(f"icmp ne {kind} {t.new(f'and {kind} {exponent}, {one}')}, {zero}")
        more = t.new(f"mul {kind} {total}, {base}")
        left = t.new(f"lshr {kind} {exponent}, {one}")
        after = select(t, odd, more, total, out, lanes), t.new(f"mul {kind} {base}, {base}"), left
        for each, place in zip(after, places, strict=True):
            t.put(f"store {kind} {each}, ptr {place}, align 64")
        return _any(t, t.new(f"icmp ne {kind} {left}, {zero}"), lanes)

    t.repeat(step)
    return t.new(f"load {kind}, ptr {places[0]}, align 64")
