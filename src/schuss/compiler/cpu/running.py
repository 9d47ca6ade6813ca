"""Printing running sums and products along one axis.

Where the axis is not the last one, vectors of columns go down along it. Along the last axis a
vector of sums is made of a vector of numbers in log(lanes) additions of itself, shifted (Hillis and
Steele, "Data parallel algorithms", 1986), and the last of them is carried on. Products go one by
one: a part of a product may overflow where the product does not.
"""

from __future__ import annotations

import math

from schuss.compiler.cpu.elementwise import kind_of, number
from schuss.compiler.cpu.printer import GRAIN, MOST_PARTS, Printed, Printer, cost_of, neutral
from schuss.compiler.cpu.text import vector
from schuss.compiler.kernel import Kernel, Line

_WIDE = 4  # vectors of columns side by side


class Running(Printer):
    """Loops with a line `running.sum` or `running.prod` along their single reduced axis."""

    def __init__(self, kernel: Kernel, name: str, lanes: int) -> None:
        super().__init__(kernel, name, lanes)
        (self.number,) = (
            i for i, line in enumerate(kernel.lines) if line.op.startswith("running.")
        )
        line = kernel.lines[self.number]
        self.total = Line(line.op.replace("running", "reduce"), line.inputs, line.dtype)
        self.along = kernel.outer
        self.n = kernel.sizes[self.along]
        self.others = [i for i in range(len(kernel.sizes) - 1) if i != self.along]

    def print(self) -> Printed:
        columns = bool(self.kernel.inner)
        wide = _WIDE
        while wide > 1 and (wide - 1) * self.lanes >= self.kernel.sizes[-1]:
            wide //= 2
        blocks = -(-self.kernel.sizes[-1] // (wide * self.lanes)) if columns else 1
        units = math.prod(self.kernel.sizes[axis] for axis in self.others) * blocks
        cost = sum(map(cost_of, self.kernel.lines)) * self.n * (wide * self.lanes if columns else 1)
        per_part = max(1, min(units, GRAIN // cost), -(-units // MOST_PARTS))
        t = self.t
        self.load_words()
        first = t.times("%part", per_part)
        end = t.smaller(t.plus(first, str(per_part)), str(units))
        with t.loop(first, end) as unit, self.scope():
            if columns:
                self.decode(t.new(f"udiv i64 {unit}, {blocks}"), self.others)
                self._print_block(t.new(f"urem i64 {unit}, {blocks}"), wide)
            else:
                self.decode(unit, self.others)
                self._print_row()
        return Printed(self.finish(), -(-units // per_part))

    def _start(self, lanes: int) -> str:
        """What the first number is added to."""
        inputs = self.total.inputs
        if len(inputs) > 1:
            return self.line(inputs[1], lanes)
        return number(neutral(self.total), self.total.dtype, lanes)

    def _print_block(self, place: str, wide: int) -> None:
        """`wide` vectors of columns."""
        t, lanes, columns = self.t, self.lanes, self.kernel.sizes[-1]
        low = t.times(place, wide * lanes)
        kind = kind_of(self.total.dtype, lanes)
        lows = [t.plus(low, str(u * lanes)) for u in range(wide)]
        masks = [
            t.mask(t.new(f"sub i64 {columns}, {each}"), lanes) if columns % (wide * lanes) else None
            for each in lows
        ]
        held = [t.alloca(kind) for _ in lows]
        for each, at, mask in zip(held, lows, masks, strict=True):
            self.at[self.vector_axis] = at
            with self.scope(), self.masked(mask):
                t.put(f"store {kind} {self._start(lanes)}, ptr {each}, align 64")
        with t.loop("0", str(self.n)) as i:
            self.at[self.along] = i
            for each, at, mask in zip(held, lows, masks, strict=True):
                self.at[self.vector_axis] = at
                with self.scope(), self.masked(mask):
                    before = t.new(f"load {kind}, ptr {each}, align 64")
                    value = self.line(self.total.inputs[0], lanes)
                    total = self.combine(self.total, before, value, lanes)
                    t.put(f"store {kind} {total}, ptr {each}, align 64")
                    self._store(total, lanes)

    def _store(self, total: str, lanes: int) -> None:
        self.set(self.number, lanes, self.as_stored(self.total, total, lanes))
        self.store_all(self.kernel.stores, lanes)

    def _print_row(self) -> None:
        t = self.t
        lanes = self.lanes if self.total.op == "reduce.sum" else 1
        kind = kind_of(self.total.dtype, lanes)
        carried = t.alloca(kind)
        with self.scope():
            t.put(f"store {kind} {self._start(lanes)}, ptr {carried}, align 64")
        whole = self.n // lanes * lanes
        with t.loop("0", str(whole), lanes) as j:
            self._print_vector(j, carried, lanes)
        if self.n > whole:
            with self.masked(t.mask(str(self.n - whole), lanes)):
                self._print_vector(str(whole), carried, lanes)

    def _print_vector(self, place: str, carried: str, lanes: int) -> None:
        t, kind = self.t, kind_of(self.total.dtype, lanes)
        self.at[self.along] = place
        with self.scope():
            value = self.line(self.total.inputs[0], lanes)
            nothing = number(neutral(self.total), self.total.dtype, lanes)
            if self.mask is not None:
                bits = vector("i1", lanes)
                value = t.new(f"select {bits} {self.mask}, {kind} {value}, {kind} {nothing}")
            shift = 1
            while shift < lanes:
                places = ", ".join(
                    f"i32 {lanes + i - shift if i >= shift else 0}" for i in range(lanes)
                )
                moved = t.new(
                    f"shufflevector {kind} {nothing}, {kind} {value}, <{lanes} x i32> <{places}>"
                )
                value = self.combine(self.total, moved, value, lanes)
                shift *= 2
            before = t.new(f"load {kind}, ptr {carried}, align 64")
            total = self.combine(self.total, before, value, lanes)
            self._store(total, lanes)
            if lanes > 1:
                last = ", ".join([f"i32 {lanes - 1}"] * lanes)
                total = t.new(
                    f"shufflevector {kind} {total}, {kind} poison, <{lanes} x i32> <{last}>"
                )
            t.put(f"store {kind} {total}, ptr {carried}, align 64")
