"""Micro-kernels of the matrix product for a single row of A.

Each element of B is used once, so nothing counts but how fast B comes. These kernels go along its
rows, several of them side by side: long runs of memory, which the processor fetches ahead by
itself. Meanwhile the row of C, too long for registers, lies in the first-level cache.
"""

from __future__ import annotations

from schuss.compiler.cpu.matmul_elements import (
    converted,
    declare_masked_load,
    masked_load,
    size,
)
from schuss.compiler.cpu.matmul_micro import Micro, declare_fma, fma, read_a, read_b, signature
from schuss.compiler.cpu.matmul_text import Function

_SIDE_BY_SIDE = 8  # rows of B


def definition(micro: Micro) -> str:
    """The module of a kernel that does what `matmul_micro.definition` says, for one row of A."""
    f = Function(signature(micro))
    zero = f.let("icmp eq i64 %more, 0")
    with f.when(zero), f.loop(0, micro.width, micro.lanes) as j:
        f.line(f"store {micro.vector} zeroinitializer, {_in_tile(f, micro, j)}")
    whole = f.let(f"and i64 %k, {-_SIDE_BY_SIDE}")
    for start, stop, count in (("0", whole, _SIDE_BY_SIDE), (whole, "%k", 1)):
        with f.loop(start, stop, count) as i:
            _add_rows(f, micro, [f.add(i, r) for r in range(count)])
    f.line("ret void")
    needs = declare_fma(micro.element, micro.lanes), declare_masked_load(micro.read, micro.lanes)
    return f"{f}\n{''.join(needs)}"


def _add_rows(f: Function, micro: Micro, rows: list[str]) -> None:
    """Add to the row of C these rows of B, each times its element of A."""
    factors = [read_a(f, micro, f.at(micro.read, "%a", f.mul(k, "%a_k"))) for k in rows]
    sources = [f.at(micro.read, "%b", f.mul(k, "%b_k")) for k in rows]

    def add_vector(j: str | int, mask: str = "") -> None:
        place = _in_tile(f, micro, j)
        total = f.let(f"load {micro.vector}, {place}")
        for factor, source in zip(factors, sources, strict=True):
            value = _read(f, micro, f.at(micro.read, source, j), mask)
            total = f.let(fma(f, micro.element, micro.lanes, factor, value, total))
        f.line(f"store {micro.vector} {total}, {place}")

    columns = micro.width - micro.beyond
    whole = columns // micro.lanes * micro.lanes
    with f.loop(0, whole, micro.lanes) as j:
        add_vector(j)
    if micro.beyond:
        bits = ", ".join(f"i1 {int(whole + i < columns)}" for i in range(micro.lanes))
        add_vector(whole, f"<{bits}>")


def _read(f: Function, micro: Micro, pointer: str, mask: str) -> str:
    """A vector of B, or those of its elements that the mask has."""
    if not mask:
        return read_b(f, micro, pointer)
    value = masked_load(f, micro.read, micro.lanes, pointer, mask)
    return converted(f, micro.read, micro.element, micro.lanes, value, micro.lanes > 4)


def _in_tile(f: Function, micro: Micro, j: str | int) -> str:
    """A place in the row of C, as loads and stores have it."""
    return f"ptr {f.at(micro.element, '%tile', j)}, align {size(micro.element) * micro.lanes}"
