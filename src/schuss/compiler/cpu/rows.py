"""Printing loops whose reduced axes come last, and loops without reductions.

Rows are gone over once for each reduction that waits for another (softmax: three times); what was
dear to compute is kept in scratch memory from one pass to the next.
"""

from __future__ import annotations

import math

from schuss.compiler.cpu.cascade import BLOCK, Cascade, Nest, nest
from schuss.compiler.cpu.elementwise import kind_of, number
from schuss.compiler.cpu.printer import (
    GRAIN,
    MOST_PARTS,
    Printed,
    Printer,
    cost_of,
    neutral,
    rounded_up,
    wide_of,
)
from schuss.compiler.cpu.text import memory_type, register_type, vector
from schuss.compiler.kernel import Kernel, Line

_FEW_PARTS = 16
_UNROLL = 4  # vectors that are worked out at once ...
_CHEAP = 12  # ... where all lines for one cost no more than this
_DEAR = 8  # lines of this cost are kept between passes
# Ops without a quotient in them. LLVM 22 takes one of two lanes that it knows to be zero for zero,
# not NaN, and leaves out the mask that does away with it.
_PLAIN = frozenset(
    ["load", "constant", "iota", "astype", "add", "subtract", "multiply", "negative", "abs",
     "relu", "maximum", "minimum", "where"]
)  # fmt: skip


class Rows(Printer):
    """Loops whose reduced axes, if any, come last: one row after the other."""

    def __init__(self, kernel: Kernel, name: str, lanes: int) -> None:
        super().__init__(kernel, name, lanes)
        rank = len(kernel.sizes)
        self.reducing = any(line.op.startswith("reduce.") for line in kernel.lines)
        # Without reductions the last axis is the row.
        self.first = kernel.outer if self.reducing else max(0, rank - 1)
        self.row_bits = sum(1 << axis for axis in range(self.first, rank))
        if not kernel.sizes or self.first == rank:
            self.vector_axis = -1
        self.length = math.prod(kernel.sizes[self.first :])
        self.rows = math.prod(kernel.sizes[: self.first])
        self.last = kernel.sizes[-1] if self.vector_axis >= 0 else 1
        self.ready = kernel.passes_before()
        self.kept = self._kept_between_passes()

    def full(self, number_: int) -> bool:
        """Whether a line varies along the row."""
        return bool(self.varies[number_] & self.row_bits)

    def roots(self, step: int) -> tuple[list[int], list[int]]:
        """The reductions that pass `step` computes, and the stores that it does."""
        lines = self.kernel.lines
        reductions = [
            i
            for i, line in enumerate(lines)
            if line.op.startswith("reduce.") and self.ready[i] == step + 1
        ]
        stores = [
            i
            for i, store in enumerate(self.kernel.stores)
            if self.is_full_store(i) and self.ready[store.line] == step
        ]
        return reductions, stores

    def is_full_store(self, i: int) -> bool:
        """Stores that point along the row; what they store may be the same all along it."""
        store = self.kernel.stores[i]
        return self.full(store.line) or any(store.affine[self.first : -1])

    def _needed(self, step: int) -> set[int]:
        reductions, stores = self.roots(step)
        stack = [self.kernel.lines[i].inputs[0] for i in reductions]
        stack += [self.kernel.stores[i].line for i in stores]
        found: set[int] = set()
        while stack:
            i = stack.pop()
            if i not in found and self.full(i):
                found.add(i)
                stack += self.kernel.lines[i].inputs
        return found

    @property
    def passes(self) -> int:
        deepest = [self.ready[i] for i, line in enumerate(self.kernel.lines)
                   if line.op.startswith("reduce.")]  # fmt: skip
        stores = [self.ready[s.line] + 1 for i, s in enumerate(self.kernel.stores)
                  if self.is_full_store(i)]  # fmt: skip
        return max([*deepest, *stores], default=0)

    def _kept_between_passes(self) -> dict[int, int]:
        """Dear lines that more than one pass needs, with the pass that computes them first."""
        seen: dict[int, list[int]] = {}
        for step in range(self.passes):
            for i in self._needed(step):
                seen.setdefault(i, []).append(step)
        return {
            i: steps[0]
            for i, steps in sorted(seen.items())
            if len(steps) > 1 and cost_of(self.kernel.lines[i]) >= _DEAR and self.length <= 1 << 16
        }

    # --- shares of the work ---

    def print(self) -> Printed:
        t = self.t
        per_element = sum(
            cost_of(self.kernel.lines[i]) for i in range(len(self.kernel.lines)) if self.full(i)
        )
        cost = max(1, per_element + 2 * len(self.kernel.stores))
        counted = not self.reducing and self.first == 0 and self.vector_axis == 0
        if counted:
            return self._print_counted(cost)
        pieces, piece = 1, self.last
        if not self.reducing and self.last * cost > 2 * GRAIN:
            piece = rounded_up(max(1, GRAIN // cost), 4 * self.lanes)
            pieces = -(-self.last // piece)
        units = self.rows * pieces
        per_unit = cost * (piece if not self.reducing else self.length)
        per_part = max(1, min(units, GRAIN // max(1, per_unit) or 1))
        per_part = max(per_part, -(-units // MOST_PARTS))
        parts = -(-units // per_part)
        if parts % 2 and 1 < parts < _FEW_PARTS:  # two threads would wait for the last one
            per_part = -(-units // (parts + 1))
            parts = -(-units // per_part)
        self.load_words()
        first = t.times("%part", per_part)
        end = t.smaller(t.plus(first, str(per_part)), str(units))
        with t.loop(first, end) as unit, self.scope():
            if pieces > 1:
                row = t.new(f"udiv i64 {unit}, {pieces}")
                place = t.new(f"urem i64 {unit}, {pieces}")
                low = t.times(place, piece)
                high = t.smaller(t.plus(low, str(piece)), str(self.last))
                self._print_row(row, low, high, None)
            else:
                self._print_row(unit, "0", str(self.last), self.last)
        return Printed(self.finish(), parts, self._scratch_bytes())

    def _print_counted(self, cost: int) -> Printed:
        """One long row, whose length is a word, so that one text serves all lengths."""
        t = self.t
        at_once = max(1, self.lanes // 16)  # bytes: more of them in the same time
        piece = rounded_up(max(1, at_once * GRAIN // cost), 4 * self.lanes)
        (count,) = self.load_words(extra=1)
        low = t.times("%part", piece)
        high = t.smaller(t.plus(low, str(piece)), count)
        with self.scope():
            self._print_row("0", low, high, None)
        parts = -(-self.last // piece)
        return Printed(self.finish(), parts, counted=True)

    def _scratch_bytes(self) -> int:
        return sum(
            rounded_up(self.length * wide_of(self.kernel.lines[i].dtype).itemsize, 64)
            for i in self.kept
        )

    def _kept_pointer(self, number_: int, position: str) -> str:
        start = 0
        for each in self.kept:
            if each == number_:
                break
            size = wide_of(self.kernel.lines[each].dtype).itemsize
            start += rounded_up(self.length * size, 64)
        base = self.t.address("%scratch", str(start), "i8")
        dtype = wide_of(self.kernel.lines[number_].dtype)
        return self.t.address(base, position, memory_type(dtype))

    # --- rows ---

    def _print_row(self, row: str, low: str, high: str, length: int | None) -> None:
        """All passes over a row; `low` to `high` of its last axis."""
        self.decode(row, range(self.first))
        if self.vector_axis < 0 and not self.reducing:
            self.store_all(self.kernel.stores, 1)
            return
        for step in range(self.passes):
            self._print_pass(step, low, high, length)
        rows = [s for i, s in enumerate(self.kernel.stores) if not self.is_full_store(i)]
        self.store_all(rows, 1)

    def _print_pass(self, step: int, low: str, high: str, length: int | None) -> None:
        reductions, stores = self.roots(step)
        if self.length == 0:
            for i in reductions:
                line = self.kernel.lines[i]
                self.set(i, 1, number(neutral(line), line.dtype, 1))
            return
        # What is the same for the whole row, once before it.
        for i in sorted(self._row_level_inputs(step)):
            self.line(i, 1)
            self.line(i, self.lanes)
        if length is None:
            self._piece(step, stores, Cascade(self, [], 0, 0, 0), low, high)
            return
        unroll = _UNROLL if self._is_cheap(step) and length >= _UNROLL * self.lanes else 1
        width, sizes = unroll * self.lanes, self.kernel.sizes
        most = BLOCK if reductions else math.inf
        row, added, level = nest([(len(sizes) - 1, length // width * width, width)], most=most)
        added += -(-(length % width) // self.lanes)
        middle = [(axis, sizes[axis], 1) for axis in range(self.first, len(sizes) - 1)]
        around, _, levels = nest(middle, added, level, most)
        sums = Cascade(self, reductions, unroll, 1, levels)
        with sums.loops(around):
            self._whole_row(step, stores, sums, row, unroll)
            for each in range(level):
                sums.move(each)
        for i in reductions:
            line = self.kernel.lines[i]
            self.set(i, 1, self.as_stored(line, self._folded(line, sums.totals(i)), 1))

    def _row_level_inputs(self, step: int) -> set[int]:
        needed = self._needed(step)
        found = {each for i in needed for each in self.kernel.lines[i].inputs}
        reductions, stores = self.roots(step)
        found |= {self.kernel.lines[i].inputs[0] for i in reductions}
        found |= {self.kernel.stores[i].line for i in stores}
        return {i for i in found if not self.full(i)}

    def _whole_row(
        self, step: int, stores: list[int], sums: Cascade, nests: list[Nest], unroll: int
    ) -> None:
        """The last axis: several vectors at once, single ones, and a masked one at the end."""
        lanes, axis = self.lanes, self.vector_axis
        several, single = (self.last // width * width for width in (unroll * lanes, lanes))
        if several:
            with sums.loops(nests):
                first = self.at[axis]
                for u in range(unroll):
                    self.at[axis] = self.t.plus(first, str(u * lanes))
                    self._vector(step, stores, sums, u)
        if several < single:  # three rounds at most, but written out they are slower
            with self.t.loop(str(several), str(single), lanes) as self.at[axis]:
                self._vector(step, stores, sums, 0)
        if single < self.last:
            self.at[axis] = str(single)
            with self.masked(self._static_mask(self.last - single)):
                self._vector(step, stores, sums, 0)

    def _piece(self, step: int, stores: list[int], sums: Cascade, low: str, high: str) -> None:
        """The same for a piece of the last axis of a kernel without reductions."""
        t, lanes, axis = self.t, self.lanes, self.vector_axis
        start = low
        for count in (_UNROLL, 1) if self._is_cheap(step) else (1,):
            span = t.new(f"sub i64 {high}, {start}")
            stop = t.plus(start, t.new(f"and i64 {span}, {-count * lanes}"))
            with t.loop(start, stop, count * lanes) as j:
                for u in range(count):
                    self.at[axis] = t.plus(j, str(u * lanes))
                    self._vector(step, stores, sums, u)
            start = stop
        rest = t.new(f"sub i64 {high}, {start}")
        with t.when(t.new(f"icmp sgt i64 {rest}, 0")):
            self.at[axis] = start
            with self.masked(t.mask(rest, lanes)):
                self._vector(step, stores, sums, 0)

    def _is_cheap(self, step: int) -> bool:
        """Whether several vectors are worked out at once."""
        return sum(cost_of(self.kernel.lines[i]) for i in self._needed(step)) <= _CHEAP

    def _static_mask(self, count: int) -> str:
        bits = ", ".join(f"i1 {'true' if i < count else 'false'}" for i in range(self.lanes))
        return f"<{bits}>"

    def _vector(self, step: int, stores: list[int], sums: Cascade, u: int) -> None:
        """The loads, stores and sums of a vector, the `u`-th of those worked out at once."""
        t, lanes = self.t, self.lanes
        with self.scope():
            needed = self._needed(step)
            place = self._row_position()
            for i, first in self.kept.items():
                if i in needed and first < step:
                    dtype = wide_of(self.kernel.lines[i].dtype)
                    pointer = self._kept_pointer(i, place)
                    self.set(i, lanes, t.load(pointer, dtype, lanes, self.mask))
            for i, first in self.kept.items():
                if first == step:
                    dtype = wide_of(self.kernel.lines[i].dtype)
                    value = self.line(i, lanes)
                    t.store(self._kept_pointer(i, place), value, dtype, lanes, self.mask)
            self.store_all([self.kernel.stores[i] for i in stores], lanes)
            for i in sums.reductions:
                line = self.kernel.lines[i]
                value, kind = self.reduced_value(line, lanes), kind_of(line.dtype, lanes)
                if self.mask is not None:
                    nothing, bits = self.identity(line), vector("i1", lanes)
                    is_plain = all(self.kernel.lines[each].op in _PLAIN for each in needed)
                    mask = self.mask if is_plain else t.hidden(self.mask, lanes)
                    value = t.new(f"select {bits} {mask}, {kind} {value}, {kind} {nothing}")
                sums.add(i, u, value)

    def _row_position(self) -> str:
        """Where the vector stands in its row."""
        t, total, step = self.t, self.at[self.vector_axis], self.last
        for axis in reversed(range(self.first, len(self.kernel.sizes) - 1)):
            total = t.plus(total, t.times(self.at[axis], step))
            step *= self.kernel.sizes[axis]
        return total

    def _folded(self, line: Line, held: list[str]) -> str:
        """All accumulators and lanes in one number, halving the lanes: always in one order."""
        lanes = self.lanes
        while len(held) > 1:
            held = [self.combine(line, a, b, lanes) for a, b in zip(held[::2], held[1::2])]  # noqa: B905
        return folded_lanes(self, line, held[0], lanes)


def folded_lanes(printer: Printer, line: Line, value: str, lanes: int) -> str:
    t, element = printer.t, register_type(line.dtype)
    while lanes > 1:
        half = lanes // 2
        kind = vector(element, lanes)
        low = ", ".join(f"i32 {i}" for i in range(half))
        high = ", ".join(f"i32 {i + half}" for i in range(half))
        a = t.new(f"shufflevector {kind} {value}, {kind} poison, <{half} x i32> <{low}>")
        b = t.new(f"shufflevector {kind} {value}, {kind} poison, <{half} x i32> <{high}>")
        lanes = half
        if half == 1:
            a = t.new(f"extractelement <1 x {element}> {a}, i64 0")
            b = t.new(f"extractelement <1 x {element}> {b}, i64 0")
        value = printer.combine(line, a, b, lanes)
    return value
