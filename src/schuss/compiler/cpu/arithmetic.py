"""Integer powers: a row of the elementwise table that takes a loop."""

from __future__ import annotations

from schuss.compiler.cpu.elementwise import TABLE, is_float, kind_of, number, row, select
from schuss.compiler.cpu.text import Text, suffix, vector
from schuss.dtypes import DType

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


def _any(t: Text, bits: str, lanes: int) -> str:
    if lanes == 1:
        return bits
    name = f"llvm.vector.reduce.or.{suffix('i1', lanes)}"
    return t.call("i1", name, (vector("i1", lanes), bits))
