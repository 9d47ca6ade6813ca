"""Printing sums over other than the last axes: vectors of columns, down along the rows."""

from __future__ import annotations

import math

from schuss.compiler.cpu.cascade import Cascade, nest
from schuss.compiler.cpu.printer import GRAIN, MOST_PARTS, Printed, Printer, cost_of
from schuss.compiler.kernel import Kernel

_MANY = 64  # vectors of columns

Vector = tuple[int, str | None]  # where one begins, and the mask of one that is not full


class Columns(Printer):
    """Reductions over other than the last axes: vectors of columns, down along the rows."""

    def __init__(self, kernel: Kernel, name: str, lanes: int) -> None:
        super().__init__(kernel, name, lanes)
        self.reduced = list(range(kernel.outer, kernel.outer + kernel.reduced))
        self.reductions = [
            i for i, line in enumerate(kernel.lines) if line.op.startswith("reduce.")
        ]
        for i, line in enumerate(kernel.lines):  # sums lie on vectors, even if all are the same
            on_vector = line.op.startswith("reduce.") or any(
                self.varies[each] >> self.vector_axis & 1 for each in line.inputs
            )
            self.varies[i] |= on_vector << self.vector_axis
        inner = kernel.sizes[kernel.outer + kernel.reduced :]
        self.columns = inner[-1]
        self.rows = math.prod(kernel.sizes[: kernel.outer]) * math.prod(inner[:-1])
        self.outer_axes = [
            *range(kernel.outer),
            *range(kernel.outer + kernel.reduced, len(kernel.sizes) - 1),
        ]

    def print(self) -> Printed:
        t, lanes = self.t, self.lanes
        count = math.prod(self.kernel.sizes[axis] for axis in self.reduced)
        lines = len(self._added_up())
        wide = 4 if lines <= 16 else (2 if lines <= 32 else 1)
        if lines <= 4 and self.columns * self.rows >= _MANY * lanes:
            wide = 8  # longer runs of memory in each row, and still some parts
        while wide > 1 and (wide - 1) * lanes >= self.columns:
            wide //= 2
        wide = self._even(wide)
        block = wide * lanes
        blocks = -(-self.columns // block)
        units = self.rows * blocks
        per_unit = count * block * sum(cost_of(line) for line in self.kernel.lines)
        per_part = max(1, min(units, GRAIN // max(1, per_unit) or 1), -(-units // MOST_PARTS))
        self.load_words()
        first = t.times("%part", per_part)
        end = t.smaller(t.plus(first, str(per_part)), str(units))
        with t.loop(first, end) as unit, self.scope():
            row = t.new(f"udiv i64 {unit}, {blocks}")
            place = t.new(f"urem i64 {unit}, {blocks}")
            self.decode(row, self.outer_axes)
            low = t.times(place, block)
            left = t.new(f"sub i64 {self.columns}, {low}")
            is_whole = t.new(f"icmp sge i64 {left}, {block}")
            if self.columns >= block:
                with t.when(is_whole), self.scope():
                    self._print_block(low, [(u * lanes, None) for u in range(wide)])
            if self.columns % block:
                with t.when(t.new(f"xor i1 {is_whole}, true")), self.scope():
                    self._print_block(low, self._vectors_of(self.columns % block))
        return Printed(self.finish(), -(-units // per_part))

    def _added_up(self) -> set[int]:
        """The lines that are worked out for every row: the sums are made of them."""
        found: set[int] = set()
        stack = [self.kernel.lines[i].inputs[0] for i in self.reductions]
        while stack:
            i = stack.pop()
            if i not in found:
                found.add(i)
                stack += self.kernel.lines[i].inputs
        return found

    def _even(self, wide: int) -> int:
        """Up to so many vectors, three at least, of which blocks can be without the last one being
        narrower; `wide` where there is no such number.
        """
        vectors, rest = divmod(self.columns, self.lanes)
        fewest = min(3, wide)
        even = [] if rest else [i for i in range(fewest, wide + 1) if vectors % i == 0]
        return max(even, default=wide)

    def _vectors_of(self, columns: int) -> list[Vector]:
        """The vectors of the last block. Masks cost more than columns that are worked out twice."""
        whole, rest = divmod(columns, self.lanes)
        vectors: list[Vector] = [(u * self.lanes, None) for u in range(whole)]
        kernel = self.kernel
        if rest and whole and not set(kernel.read()) & set(kernel.written()):
            vectors.append((columns - self.lanes, None))
        elif rest:
            vectors.append((whole * self.lanes, self.t.mask(str(rest), self.lanes)))
        return vectors

    def _print_block(self, low: str, vectors: list[Vector]) -> None:
        """Vectors of columns, which begin so far behind `low`."""
        t, lanes = self.t, self.lanes
        sums = self._reduce(low, vectors)
        totals = {i: sums.totals(i) for i in self.reductions}
        for u, (first, mask) in enumerate(vectors):
            self.at[self.vector_axis] = t.plus(low, str(first))
            with self.scope(), self.masked(mask):
                for i in self.reductions:
                    self.set(i, lanes, self.as_stored(self.kernel.lines[i], totals[i][u], lanes))
                self.store_all(self.kernel.stores, lanes)

    def _reduce(self, low: str, vectors: list[Vector]) -> Cascade:
        t, lanes = self.t, self.lanes
        nests, _, levels = nest([(axis, self.kernel.sizes[axis], 1) for axis in self.reduced])
        sums = Cascade(self, self.reductions, len(vectors), len(vectors), levels)
        with sums.loops(nests):
            for u, (first, mask) in enumerate(vectors):
                self.at[self.vector_axis] = t.plus(low, str(first))
                with self.scope(), self.masked(mask):
                    for i in self.reductions:
                        sums.add(i, u, self.reduced_value(self.kernel.lines[i], lanes))
        return sums
