"""Philox in vectors: the bits of `philox.py`, any element at once.

Element e of a draw is word e % 4 of block position + e // 4. Each lane runs the block of its own
element; neighbours in a block repeat work, which keeps the kernel free of any order of elements.
"""

from __future__ import annotations

from schuss.compiler.cpu.text import Text, vector

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF


def random_bits(t: Text, state: list[str], places: str, lanes: int) -> str:
    """uint32 for each of the i64 `places`, from the i64 words (seed, stream, position)."""
    kind = vector("i64", lanes)

    def splat(number: int | str) -> str:
        if isinstance(number, int):
            return str(number) if lanes == 1 else f"splat (i64 {number})"
        return t.splat(number, "i64", lanes)

    def op(name: str, a: str, b: str) -> str:
        return t.new(f"{name} {kind} {a}, {b}")

    low, shift = splat(_LOW), splat(32)
    seed, stream, position = state
    block = op("add", splat(position), op("lshr", places, splat(2)))
    c0, c1 = op("and", block, low), op("lshr", block, shift)
    wide = splat(stream)
    c2, c3 = op("and", wide, low), op("lshr", wide, shift)
    key = splat(seed)
    k0, k1 = op("and", key, low), op("lshr", key, shift)
    for _ in range(10):
        p0, p1 = op("mul", c0, splat(_M0)), op("mul", c2, splat(_M1))
        c0 = op("xor", op("xor", op("lshr", p1, shift), c1), k0)
        c2 = op("xor", op("xor", op("lshr", p0, shift), c3), k1)
        c1, c3 = op("and", p1, low), op("and", p0, low)
        k0 = op("and", op("add", k0, splat(_W0)), low)
        k1 = op("and", op("add", k1, splat(_W1)), low)
    word = op("and", places, splat(3))
    found = c3
    for i, each in ((2, c2), (1, c1), (0, c0)):
        here = t.new(f"icmp eq {kind} {word}, {splat(i)}")
        bits = vector("i1", lanes)
        found = t.new(f"select {bits} {here}, {kind} {each}, {kind} {found}")
    return t.new(f"trunc {kind} {found} to {vector('i32', lanes)}")
