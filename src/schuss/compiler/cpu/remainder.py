"""What is left of a division of floats, in vectors: C's `fmod`, which is exact.

LLVM's `frem` calls `fmod` lane by lane. As long as the quotient is not too large, its whole part
and the remainder come out exactly in a few instructions: two floats divided in double precision
round to the right side of every whole number below 2**29, for the quotient of numbers of 24 bits
is at least 2**-24 away from the next one unless it is whole; for doubles the quotient may be off by
one, which the fused remainder shows. Vectors with a larger quotient are left to `frem`.
"""

from __future__ import annotations

from schuss import dtypes
from schuss.compiler.cpu.host import host
from schuss.compiler.cpu.text import Text, constant, register_type, suffix, vector
from schuss.dtypes import DType

_LARGEST = {dtypes.float32: 2.0**29, dtypes.float64: 2.0**52}


def remainder(t: Text, a: str, b: str, dtype: DType, lanes: int) -> str:
    """`fmod(a, b)` for register values of float32 or float64: the sign is that of `a`."""
    kind = vector(register_type(dtype), lanes)
    if dtype == dtypes.float64 and not host().has_fma:
        return t.new(f"frem {kind} {a}, {b}")
    symbol = f"@remainder_{suffix(register_type(dtype), lanes)}"
    if symbol not in t.defined:
        t.defined[symbol], needs = _definition(symbol, dtype, lanes)
        t.declared |= needs
    return t.new(f"call {kind} {symbol}({kind} {a}, {kind} {b})")


def _definition(symbol: str, dtype: DType, lanes: int) -> tuple[str, set[str]]:
    t, kind = Text(), vector(register_type(dtype), lanes)
    wide, bits = vector("double", lanes), vector("i1", lanes)
    found = t.alloca(kind)

    def call(name: str, *xs: str) -> str:
        full = f"llvm.{name}.{suffix('double', lanes)}"
        return t.call(wide, full, *[(wide, x) for x in xs])

    def number(value: float) -> str:
        text = constant(value, dtypes.float64)
        return text if lanes == 1 else f"splat (double {text})"

    a, b = "%a", "%b"
    if dtype == dtypes.float32:
        a, b = (t.new(f"fpext {kind} {x} to {wide}") for x in (a, b))
    a, b = call("fabs", a), call("fabs", b)
    quotient = t.new(f"fdiv {wide} {a}, {b}")
    # Infinite quotients have no remainder, unless they only are too large for a double.
    large = t.new(f"fcmp oge {wide} {quotient}, {number(_LARGEST[dtype])}")
    finite = t.new(f"fcmp olt {wide} {a}, {number(float('inf'))}")
    divides = t.new(f"fcmp ogt {wide} {b}, {number(0.0)}")
    hard = t.new(f"and {bits} {large}, {t.new(f'and {bits} {finite}, {divides}')}")
    any_hard = hard
    if lanes > 1:
        any_hard = t.call("i1", f"llvm.vector.reduce.or.v{lanes}i1", (bits, hard))
    t.put(f"br i1 {any_hard}, label %exactly, label %quickly\nexactly:")
    t.put(f"store {kind} {t.new(f'frem {kind} %a, %b')}, ptr {found}")
    t.put("br label %end\nquickly:")
    whole = call("floor", quotient)
    if dtype == dtypes.float32:
        rest = t.new(f"fsub {wide} {a}, {t.new(f'fmul {wide} {whole}, {b}')}")
    else:
        rest = _corrected(t, call("fma", t.new(f"fneg {wide} {whole}"), b, a), b, wide, bits)
    below = t.new(f"fcmp oeq {wide} {whole}, {number(0.0)}")  # also of infinite divisors
    rest = t.new(f"select {bits} {below}, {wide} {a}, {wide} {rest}")
    if dtype == dtypes.float32:
        rest = t.new(f"fptrunc {wide} {rest} to {kind}")
    name = f"llvm.copysign.{suffix(register_type(dtype), lanes)}"
    t.put(f"store {kind} {t.call(kind, name, (kind, rest), (kind, '%a'))}, ptr {found}")
    t.label("end")
    t.put(f"ret {kind} {t.new(f'load {kind}, ptr {found}')}")
    signature = f"define internal {kind} {symbol}({kind} %a, {kind} %b) alwaysinline"
    return t.definition(signature), t.declared


def _corrected(t: Text, rest: str, b: str, wide: str, bits: str) -> str:
    """The remainder by the right whole number, from that by a neighbour of it."""
    zero = "0.0" if wide == "double" else "zeroinitializer"
    below = t.new(f"fcmp olt {wide} {rest}, {zero}")
    more = t.new(f"fadd {wide} {rest}, {b}")
    rest = t.new(f"select {bits} {below}, {wide} {more}, {wide} {rest}")
    beyond = t.new(f"fcmp oge {wide} {rest}, {b}")
    less = t.new(f"fsub {wide} {rest}, {b}")
    return t.new(f"select {bits} {beyond}, {wide} {less}, {wide} {rest}")
