"""Printing loops of which some loads walk down the columns of their memory: transposed operands.

The loops go over square blocks. What lies across is loaded along its own rows, transposed tile by
tile in registers and put into memory that never leaves the nearest cache; then the lines are
computed row by row, as ever.
"""

from __future__ import annotations

import math
from typing import Any

from schuss.compiler.cpu.crossing import axes_across
from schuss.compiler.cpu.printer import (
    GRAIN,
    MOST_PARTS,
    Printed,
    Printer,
    cost_of,
)
from schuss.compiler.cpu.text import Text, memory_type, suffix, vector
from schuss.compiler.kernel import Kernel, Line


class Tiles(Printer):
    """Loops without reductions: two axes block by block, all others one by one."""

    def __init__(self, kernel: Kernel, name: str, lanes: int, down: int) -> None:
        super().__init__(kernel, name, lanes)
        self.down = down
        self.outer = [axis for axis in range(len(kernel.sizes) - 1) if axis != down]
        self.across = [
            i for i, line in enumerate(kernel.lines) if down in axes_across(kernel, line)
        ]
        self.side = max(lanes, *[_side(kernel.lines[i]) for i in self.across])
        self.buffers: dict[int, str] = {}
        used = [store.line for store in kernel.stores]
        used += [i for n, line in enumerate(kernel.lines) if self.along_vector(n)
                 for i in line.inputs]  # fmt: skip
        self.of_rows = sorted({i for i in used if not self.along_vector(i)})

    def print(self) -> Printed:
        t, side, sizes = self.t, self.side, self.kernel.sizes
        downs, rights = -(-sizes[self.down] // side), -(-sizes[-1] // side)
        units = math.prod(sizes[axis] for axis in self.outer) * downs * rights
        cost = side * side * sum(cost_of(line) for line in self.kernel.lines)
        per_part = max(1, min(units, GRAIN // cost), -(-units // MOST_PARTS))
        self.load_words()
        for i in self.across:
            element = memory_type(self.kernel.lines[i].dtype)
            self.buffers[i] = t.alloca(f"[{side * side} x {element}]")
        first = t.times("%part", per_part)
        end = t.smaller(t.plus(first, str(per_part)), str(units))
        with t.loop(first, end) as unit, self.scope():
            rest = t.new(f"udiv i64 {unit}, {rights}")
            left = t.times(t.new(f"urem i64 {unit}, {rights}"), side)
            top = t.times(t.new(f"urem i64 {rest}, {downs}"), side)
            if self.outer:
                self.decode(t.new(f"udiv i64 {rest}, {downs}"), self.outer)
            self._print_block(top, left)
        return Printed(self.finish(), -(-units // per_part))

    def _print_block(self, top: str, left: str) -> None:
        t, lanes, sizes = self.t, self.lanes, self.kernel.sizes
        height = t.smaller(str(self.side), t.new(f"sub i64 {sizes[self.down]}, {top}"))
        width = t.smaller(str(self.side), t.new(f"sub i64 {sizes[-1]}, {left}"))
        with t.loop("0", width, lanes) as column, t.loop("0", height, lanes) as row:
            self.at[self.down], self.at[self.vector_axis] = t.plus(top, row), t.plus(left, column)
            columns = t.smaller(str(lanes), t.new(f"sub i64 {width}, {column}"))
            rows = t.smaller(str(lanes), t.new(f"sub i64 {height}, {row}"))
            for i in self.across:
                self._transpose(i, self._in_buffer(i, row, column), columns, rows)
        whole = t.new(f"and i64 {width}, {-lanes}")
        with t.loop("0", height) as row, self.scope():
            self.at[self.down] = t.plus(top, row)
            for i in self.of_rows:
                self.line(i, lanes)
            with t.loop("0", whole, lanes) as column:
                self._print_vector(row, column, left, None)
            if sizes[-1] % lanes:
                rest = t.new(f"sub i64 {width}, {whole}")
                with t.when(t.new(f"icmp sgt i64 {rest}, 0")):
                    self._print_vector(row, whole, left, t.mask(rest, lanes))

    def _in_buffer(self, i: int, row: str, column: str) -> str:
        place = self.t.plus(self.t.times(row, self.side), column)
        return self.t.address(self.buffers[i], place, memory_type(self.kernel.lines[i].dtype))

    def _transpose(self, i: int, to: str, rows: str, columns: str) -> None:
        """Fill a tile of the buffer of a load, whose own rows are the columns of the loops."""
        t, line = self.t, self.kernel.lines[i]
        detail: Any = line.detail
        word, affine = detail
        bits = 8 * line.dtype.itemsize
        symbol = f"@transposed_{bits}"
        if symbol not in t.defined:
            t.defined[symbol], needs = print_transposed(symbol, bits, self.lanes, self.side)
            t.declared |= needs
        pointer = t.address(self.pointers[word], self.offset(affine), memory_type(line.dtype))
        counts = f"i64 {affine[-2]}, i64 {rows}, i64 {columns}"
        t.put(f"call void {symbol}(ptr {pointer}, {counts}, ptr {to})")

    def _print_vector(self, row: str, column: str, left: str, mask: str | None) -> None:
        with self.scope(), self.masked(mask):
            self.at[self.vector_axis] = self.t.plus(left, column)
            for i in self.across:
                pointer = self._in_buffer(i, row, column)
                dtype = self.kernel.lines[i].dtype
                self.set(i, self.lanes, self.t.load(pointer, dtype, self.lanes, None))
            self.store_all(self.kernel.stores, self.lanes)


def _side(line: Line) -> int:
    """Of the blocks: at most 16 KiB, which stay in the nearest cache."""
    return 64 if line.dtype.itemsize <= 4 else 32


def print_transposed(symbol: str, bits: int, n: int, apart: int) -> tuple[str, set[str]]:
    """A function that makes rows of a tile's columns, and what it needs declared.

    Its arguments are where the tile starts, the step from row to row, how many rows and columns
    there are, and where `n` rows of `n` elements go, `apart` elements one from the next. Of a tile
    that is smaller a copy is made first, so that nothing outside of it is read.
    """
    t, element = Text(), f"i{bits}"
    kind, mask = vector(element, n), vector("i1", n)
    align = bits // 8
    padded = t.alloca(f"[{n * n} x {element}]")
    fewer = t.new(f"icmp slt i64 %rows, {n}")
    narrower = t.new(f"icmp slt i64 %columns, {n}")
    small = t.new(f"or i1 {fewer}, {narrower}")
    with t.when(small):
        wanted = t.mask("%columns", n)
        with t.loop("0", "%rows") as row:
            source = t.address("%from", t.new(f"mul i64 {row}, %step"), element)
            part = t.call(
                kind, f"llvm.masked.load.{suffix(element, n)}.p0", ("ptr", source),
                ("i32", str(align)), (mask, wanted), (kind, "zeroinitializer"),
            )  # fmt: skip
            target = t.address(padded, t.times(row, n), element)
            t.put(f"store {kind} {part}, ptr {target}, align {align}")
    start = t.new(f"select i1 {small}, ptr {padded}, ptr %from")
    step = t.new(f"select i1 {small}, i64 {n}, i64 %step")
    rows = []
    for i in range(n):
        source = t.address(start, t.new(f"mul i64 {step}, {i}"), element)
        rows.append(t.new(f"load {kind}, ptr {source}, align {align}"))
    for i, column in enumerate(_transposed(t, rows, kind, n)):
        target = t.address("%to", str(i * apart), element)
        t.put(f"store {kind} {column}, ptr {target}, align {align}")
    t.put("ret void")
    signature = (
        f"define internal void {symbol}(ptr %from, i64 %step, i64 %rows, i64 %columns, "
        "ptr noalias %to) noinline"
    )
    return t.definition(signature), t.declared


def _transposed(t: Text, rows: list[str], kind: str, n: int) -> list[str]:
    """The columns: rows i and i + n/2 dealt out like the halves of a deck of cards, log n times."""
    halves = [
        ", ".join(f"i32 {first + i // 2 + n * (i % 2)}" for i in range(n)) for first in (0, n // 2)
    ]
    length = n
    while length > 1:
        rows = [
            t.new(f"shufflevector {kind} {a}, {kind} {b}, <{n} x i32> <{half}>")
            for a, b in zip(rows[: n // 2], rows[n // 2 :], strict=True)
            for half in halves
        ]
        length //= 2
    return rows
