"""Printing loops whose last axis is narrower than a vector: several axes side by side in vectors.

Images with channels last and few channels have such loops. Their last axes are gone over as one,
which the stores fill densely. Loads may lie otherwise, as where poolings spread their gradients:
whole vectors are loaded then, of which lanes are picked. Blocks begin where all axes but the first
of these begin anew, so that it is known beforehand which lanes.
"""

from __future__ import annotations

import itertools
import math

from schuss.compiler.cpu.printer import GRAIN, MOST_PARTS, Printed, Printer, cost_of
from schuss.compiler.cpu.text import memory_type
from schuss.compiler.index import Affine
from schuss.compiler.kernel import Kernel
from schuss.dtypes import DType

_VECTORS = 4  # along the axes that are gone over as one, at least, ...
_MOST_VECTORS = 12  # ... and in a block at most
_SPREAD = 4  # vectors in which all lanes of a load must lie
_MOST_SUMMED = 16  # elements of a reduction, which are written out
_FILLED = 0.8  # share of the lanes that a last axis must fill to be left as it is
_OPS = ("iota", "random", "gather")  # whose positions are no loads


def grouped_axes(kernel: Kernel, lanes: int) -> list[int]:
    """The axes that `Narrow` should go over as one; none where the last one is wide enough."""
    sizes, kept = kernel.sizes, _kept(kernel)
    if 0 in sizes or len(kept) < 2 or kept[-1] < len(sizes) - 1:
        return []
    if sizes[-1] >= _FILLED * lanes * -(-sizes[-1] // lanes):
        return []
    summed = math.prod(sizes[axis] for axis in _reduced(kernel))
    if summed > _MOST_SUMMED or max(kernel.passes_before()) > 1:
        return []
    if any(line.op in _OPS for line in kernel.lines):
        return []
    for first in range(len(kept) - 2, -1, -1):
        group = kept[first:]
        if math.prod(sizes[axis] for axis in group) >= _VECTORS * lanes:
            return group if _fits(kernel, group, lanes) else []
    return []


def _reduced(kernel: Kernel) -> range:
    return range(kernel.outer, kernel.outer + kernel.reduced)


def _kept(kernel: Kernel) -> list[int]:
    """The axes that are not reduced."""
    return [axis for axis in range(len(kernel.sizes)) if axis not in _reduced(kernel)]


def _fits(kernel: Kernel, group: list[int], lanes: int) -> bool:
    """Whether the stores are dense and the lanes of all loads near each other."""
    vectors, _ = _block(kernel, group, lanes)
    count = vectors * lanes
    if vectors > _MOST_VECTORS:
        return False
    for store in kernel.stores:
        if _positions(kernel, group, store.affine, count) != list(range(count)):
            return False
    for line in kernel.lines:
        if line.op == "load":
            places = _positions(kernel, group, line.detail[1], count)  # type: ignore[index]
            each = [places[i : i + lanes] for i in range(0, count, lanes)]
            if any(max(some) - min(some) >= _SPREAD * lanes for some in each):
                return False
    return True


def _block(kernel: Kernel, group: list[int], lanes: int) -> tuple[int, int]:
    """Vectors of a block, and how many steps of the group's first axis they are."""
    period = math.prod(kernel.sizes[axis] for axis in group[1:])
    vectors = period // math.gcd(period, lanes)
    return vectors, vectors * lanes // period


def _positions(kernel: Kernel, group: list[int], affine: Affine, count: int) -> list[int]:
    """Where the first elements of a group lie, seen from the very first."""
    found = []
    for number in range(count):
        i, place = number, 0
        for axis in reversed(group[1:]):
            i, counter = divmod(i, kernel.sizes[axis])
            place += counter * affine[axis]
        found.append(place + i * affine[group[0]])
    return found


class Narrow(Printer):
    """Loops over axes of which `group`, the last ones that are kept, are gone over as one."""

    def __init__(self, kernel: Kernel, name: str, lanes: int, group: list[int]) -> None:
        super().__init__(kernel, name, lanes)
        self.group = group
        self.vectors, self.steps = _block(kernel, group, lanes)
        self.reduced = _reduced(kernel)
        self.others = [axis for axis in _kept(kernel) if axis not in group]
        self.reductions = [i for i, x in enumerate(kernel.lines) if x.op.startswith("reduce.")]
        bits = sum(1 << axis for axis in group)
        for i, line in enumerate(kernel.lines):  # what varies along the group is in vectors
            along = self.varies[i] & bits or line.op.startswith("reduce.")
            along = along or any(self.along_vector(each) for each in line.inputs)
            self.varies[i] |= bool(along) << self.vector_axis
        self.u = 0  # the vector of the block that is printed
        self.active = lanes  # its lanes that are not masked
        self.patterns: dict[Affine, list[int]] = {}

    def print(self) -> Printed:
        t, sizes = self.t, self.kernel.sizes
        top = sizes[self.group[0]]
        whole, rest = divmod(top, self.steps)
        blocks = whole + (rest > 0)
        units = math.prod(sizes[axis] for axis in self.others) * blocks
        summed = math.prod(sizes[axis] for axis in self.reduced)
        cost = sum(cost_of(line) for line in self.kernel.lines) * summed
        per_unit = cost * self.vectors * self.lanes
        per_part = max(1, min(units, GRAIN // per_unit), -(-units // MOST_PARTS))
        self.load_words()
        first = t.times("%part", per_part)
        end = t.smaller(t.plus(first, str(per_part)), str(units))
        with t.loop(first, end) as unit, self.scope():
            self.at |= dict.fromkeys(self.group, "0")
            block = t.new(f"urem i64 {unit}, {blocks}")
            if self.others:
                self.decode(t.new(f"udiv i64 {unit}, {blocks}"), self.others)
            self.at[self.group[0]] = t.times(block, self.steps)
            if whole:
                with t.when(t.new(f"icmp slt i64 {block}, {whole}")), self.scope():
                    self._print_block(self.steps)
            if rest:
                with t.when(t.new(f"icmp eq i64 {block}, {whole}")), self.scope():
                    self._print_block(rest)
        return Printed(self.finish(), -(-units // per_part))

    def _print_block(self, steps: int) -> None:
        """So many steps of the first axis of the group."""
        count = math.prod(self.kernel.sizes[axis] for axis in self.group[1:]) * steps
        for u in range(-(-count // self.lanes)):
            self.u, self.active = u, min(self.lanes, count - u * self.lanes)
            bits = ", ".join(f"i1 {str(i < self.active).lower()}" for i in range(self.lanes))
            with self.scope(), self.masked(f"<{bits}>" if self.active < self.lanes else None):
                for i in self.reductions:
                    self._reduce(i)
                self.store_all(self.kernel.stores, self.lanes)

    def _reduce(self, number: int) -> None:
        line = self.kernel.lines[number]
        total = ""
        ranges = [range(self.kernel.sizes[axis]) for axis in self.reduced]
        for counters in itertools.product(*ranges):
            self.at |= {axis: str(n) for axis, n in zip(self.reduced, counters, strict=True)}
            with self.scope():
                value = self.reduced_value(line, self.lanes)
            total = self.combine(line, total, value, self.lanes) if total else value
        self.set(number, self.lanes, self.as_stored(line, total, self.lanes))

    def load(self, word: int, affine: Affine, dtype: DType, lanes: int) -> str:
        """A vector of the block; see `Text.load_places`."""
        if lanes == 1:
            return super().load(word, affine, dtype, 1)
        if affine not in self.patterns:
            count = self.vectors * lanes
            self.patterns[affine] = _positions(self.kernel, self.group, affine, count)
        places = self.patterns[affine][self.u * lanes :][: self.active]
        return self.t.load_places(self.pointers[word], self.offset(affine), places, dtype, lanes)

    def store(self, word: int, affine: Affine, value: str, dtype: DType, lanes: int) -> None:
        start = self.t.plus(self.offset(affine), str(self.u * lanes))
        pointer = self.t.address(self.pointers[word], start, memory_type(dtype))
        self.t.store(pointer, value, dtype, lanes, self.mask)
