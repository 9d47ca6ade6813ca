"""Kernels: what one pass of loops over memory computes, said without any target.

A kernel has loop axes and lines. Each line is one scalar operation at one point of the loops:

    %0 = load b0[i*256 + j]          memory, at an affine position
    %1 = exp %0
    %2 = reduce.sum %1               over the reduced axes, where nothing else remains
    store b1[i] <- %2

Loop axes come in three runs: `outer` ones, whose iterations are independent, `reduced` ones, and
`inner` kept ones. A kernel without reductions has outer axes only. With `inner == 0` each outer
iteration owns a row that it may go over several times (softmax: largest, sum, result); with inner
axes the sums of whole columns are gathered while rows go by.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from schuss.compiler.index import Affine
from schuss.compiler.values import Shape, Value
from schuss.dtypes import DType


class Line(NamedTuple):
    """One operation.

    `detail` is what else it needs: for "load" (word, affine), "constant" the number, "iota" an
    affine map, "random" an affine map of the position, "gather" (word, affine, pairs of stride and
    size for the indices), "reduce.*" and "partial.*" nothing, "given" the number of a template's
    value.
    """

    op: str
    inputs: tuple[int, ...]
    dtype: DType
    detail: Hashable = None


class Store(NamedTuple):
    word: int
    affine: Affine
    line: int
    dtype: DType


@dataclass(slots=True)
class Kernel:
    """Loops with lines, and which buffers their words stand for."""

    sizes: tuple[int, ...]
    outer: int
    reduced: int = 0
    lines: list[Line] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    buffers: list[Value] = field(default_factory=list)
    _known: dict[Line, int] = field(default_factory=dict, repr=False)
    _words: dict[Value, int] = field(default_factory=dict, repr=False)

    @property
    def inner(self) -> int:
        return len(self.sizes) - self.outer - self.reduced

    def word(self, buffer: Value) -> int:
        """The number of a buffer in this kernel."""
        found = self._words.get(buffer)
        if found is None:
            found = self._words[buffer] = len(self.buffers)
            self.buffers.append(buffer)
        return found

    def add(self, op: str, inputs: tuple[int, ...], dtype: DType, detail: Hashable = None) -> int:
        """Add a line, or find the one that says the same."""
        line = Line(op, inputs, dtype, detail)
        found = self._known.get(line)
        if found is None:
            found = self._known[line] = len(self.lines)
            self.lines.append(line)
        return found

    def store(self, buffer: Value, affine: Affine, line: int, dtype: DType) -> None:
        self.stores.append(Store(self.word(buffer), affine, line, dtype))

    def written(self) -> list[Value]:
        return list(dict.fromkeys(self.buffers[store.word] for store in self.stores))

    def read(self) -> list[Value]:
        words = {line.detail[0] for line in self.lines if line.op in ("load", "gather")}  # type: ignore[index]
        return [self.buffers[word] for word in sorted(words)]

    def passes_before(self) -> list[int]:
        """For each line how many reductions, one after the other, have to end before it."""
        found: list[int] = []
        for line in self.lines:
            after = max((found[each] for each in line.inputs), default=0)
            found.append(after + 1 if line.op.startswith("reduce.") else after)
        return found

    def axes_of(self) -> list[int]:
        """For each line the loop axes along which it varies, as a set of bits."""
        found: list[int] = []
        reduced = sum(1 << axis for axis in range(self.outer, self.outer + self.reduced))
        rows = (1 << (self.outer + self.reduced)) - 1
        for line in self.lines:
            bits = 0
            for each in line.inputs:
                bits |= found[each]
            affine = position_of(line)
            if affine is not None:
                bits |= sum(1 << axis for axis, step in enumerate(affine[:-1]) if step)
            if line.op == "given":
                bits = (1 << len(self.sizes)) - 1
            if line.op.startswith("reduce."):
                bits &= ~reduced
            if line.op.startswith("partial."):
                bits &= ~rows
            found.append(bits)
        return found

    def __str__(self) -> str:
        runs = [self.sizes[: self.outer], self.sizes[self.outer : self.outer + self.reduced]]
        runs.append(self.sizes[self.outer + self.reduced :])
        names = ("outer", "reduced", "inner")
        head = ", ".join(
            f"{name} {list(run)}" for name, run in zip(names, runs, strict=True) if run
        )
        lines = [f"for {head or 'one point'}:"]
        for number, line in enumerate(self.lines):
            lines.append(f"  %{number} = {_line_text(line)} : {line.dtype}")
        for store in self.stores:
            lines.append(f"  store b{store.word}[{affine_text(store.affine)}] <- %{store.line}")
        lines.append("  " + ", ".join(f"b{i} is {b.name}" for i, b in enumerate(self.buffers)))
        return "\n".join(lines)


def position_of(line: Line) -> Affine | None:
    """The affine map in a line, if it has one."""
    detail: Any = line.detail
    if line.op in ("load", "gather"):
        return detail[1]
    return detail if line.op in ("iota", "random") else None


def moved(line: Line, affine: Affine) -> Line:
    """The line with another affine map."""
    if line.op in ("load", "gather"):
        detail: Any = line.detail
        return line._replace(detail=(detail[0], affine, *detail[2:]))
    return line._replace(detail=affine)


def affine_text(affine: Affine) -> str:
    terms = [
        f"{'ijklmnopqr'[axis % 10]}{'*' + str(step) if step != 1 else ''}"
        for axis, step in enumerate(affine[:-1])
        if step
    ]
    if affine[-1] or not terms:
        terms.append(str(affine[-1]))
    return " + ".join(terms)


def _line_text(line: Line) -> str:
    detail: Any = line.detail
    operands = " ".join(f"%{each}" for each in line.inputs)
    if line.op == "load":
        return f"load b{detail[0]}[{affine_text(detail[1])}]"
    if line.op == "gather":
        return f"gather b{detail[0]}[{affine_text(detail[1])} + indices {operands}]"
    if line.op in ("iota", "random"):
        return f"{line.op} {operands} [{affine_text(detail)}]".replace("  ", " ")
    if line.op == "constant":
        return f"constant {detail}"
    return f"{line.op} {operands}" + (f" {detail}" if detail is not None else "")


def collapse(kernel: Kernel, keep_last: bool = False) -> Kernel:
    """Merge neighbouring loop axes that all accesses walk through as one; drop those of size 1.

    Runs stay apart. `keep_last` leaves at least one axis in the last run.
    """
    runs = [kernel.outer, kernel.reduced, kernel.inner]
    axes, start = [], 0
    kept_runs = []
    affines = [position_of(line) for line in kernel.lines]
    tracked = [a for a in affines if a is not None] + [s.affine for s in kernel.stores]
    for length in runs:
        groups: list[list[int]] = []
        for axis in range(start, start + length):
            if kernel.sizes[axis] == 1 and not (keep_last and axis == len(kernel.sizes) - 1):
                continue
            n = kernel.sizes[axis]
            if groups and all(a[groups[-1][-1]] == a[axis] * n for a in tracked):
                groups[-1].append(axis)
            else:
                groups.append([axis])
        axes += groups
        kept_runs.append(len(groups))
        start += length

    def narrowed(affine: Affine) -> Affine:
        return (*[affine[group[-1]] for group in axes], affine[-1])

    lines = [
        line if affine is None else moved(line, narrowed(affine))
        for line, affine in zip(kernel.lines, affines, strict=True)
    ]
    sizes = tuple(math.prod(kernel.sizes[axis] for axis in group) for group in axes)
    stores = [store._replace(affine=narrowed(store.affine)) for store in kernel.stores]
    return Kernel(sizes, kept_runs[0], kept_runs[1], lines, stores, kernel.buffers)


def epilogue(kernel: Kernel, shape: Shape) -> Kernel:
    """The kernel of the epilogue of a product of this shape, with few loops.

    Those over the batch, the rows and the columns are its three runs.
    """
    return collapse(_runs(kernel, shape), keep_last=True)


def _runs(kernel: Kernel, shape: Shape) -> Kernel:
    """The kernel of an epilogue, with the loops over batch, rows and columns as its three runs."""
    counts = []
    first = len(kernel.sizes)
    for n in shape[-1:-3:-1]:
        product, end = 1, first
        while product < n:
            first -= 1
            product *= kernel.sizes[first]
        assert product == n or 0 in shape, (kernel.sizes, shape)
        counts.append(end - first)
    sizes = kernel.sizes
    lines, stores = kernel.lines, kernel.stores
    if not counts[0]:  # a single column still is an axis
        sizes, counts[0] = (*sizes, 1), 1

        def longer(affine: Affine) -> Affine:
            return (*affine[:-1], 0, affine[-1])

        lines = [
            line if position_of(line) is None else moved(line, longer(position_of(line)))  # type: ignore[arg-type]
            for line in lines
        ]
        stores = [store._replace(affine=longer(store.affine)) for store in stores]
    return Kernel(sizes, first, counts[1], lines, stores, kernel.buffers)
