"""Printing a kernel of loops as LLVM IR.

Every line of the kernel is printed once for each place where its value is needed: lines that vary
with nothing at the top of the function, lines of the outer loops once a row, all others as vectors
along the last axis, with a masked vector for what is left at the end. Rows are gone over once for
each reduction that waits for another (softmax: three times); what was dear to compute is kept in
scratch memory from one pass to the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from schuss import dtypes
from schuss.compiler.cpu.elementwise import TABLE, kind_of, number, rounded
from schuss.compiler.cpu.random import random_bits
from schuss.compiler.cpu.text import Text, memory_type, register_type, vector
from schuss.compiler.emit import COST
from schuss.compiler.index import Affine
from schuss.compiler.kernel import Kernel, Line, Store
from schuss.dtypes import DType

_DEAR = 8  # lines of this cost are kept between passes
_GRAIN = 48 * 1024  # cost of a part that is worth handing to another thread
_MOST_PARTS = 64
_LONGEST_SUM = 128  # so many numbers of a column are added up one after the other


@dataclass(frozen=True, slots=True)
class Printed:
    """A kernel as text. `counted` says that the word after the buffers is the number of elements,
    of which each part takes `piece`."""

    text: str
    parts: int
    scratch: int = 0
    counted: bool = False
    piece: int = 0


def print_loops(kernel: Kernel, name: str, lanes: int) -> Printed:
    """The kernel as the LLVM function `name`."""
    if 0 in kernel.sizes and not kernel.reduced:
        return Printed("", 0)
    if kernel.inner:
        return _Columns(kernel, name, lanes).print()
    return _Rows(kernel, name, lanes).print()


# Ops whose result is one of their inputs, or is rounded by itself.
_PICKING = "negative abs relu maximum minimum where copysign astype reduce.max reduce.min load"
_EXACT = frozenset(_PICKING.split())


def cost_of(line: Line) -> int:
    return COST.get(line.op, 1) if line.op != "random" else 25


Scope = dict[tuple[int, int], str]  # names of lines, by (line, lanes)


class Printer:
    """What all shapes of loops share: lines to instructions."""

    def __init__(self, kernel: Kernel, name: str, lanes: int) -> None:
        self.kernel = kernel
        self.name = name
        self.lanes = lanes
        self.t = Text()
        self.varies = kernel.axes_of()
        self.pointers: list[str] = []
        self.at: dict[int, str] = {}  # the counter of each loop axis
        self.vector_axis = len(kernel.sizes) - 1
        self.mask: str | None = None
        self.scopes: list[Scope] = [{}]

    def load_words(self, extra: int = 0, first: int = 0) -> list[str]:
        """Read the addresses of all buffers, and `extra` integers after them."""
        t = self.t
        for i in range(first, first + len(self.kernel.buffers)):
            place = t.new(f"getelementptr inbounds ptr, ptr %args, i64 {i}")
            self.pointers.append(t.new(f"load ptr, ptr {place}", "b"))
        more = []
        after = first + len(self.kernel.buffers)
        for i in range(after, after + extra):
            place = t.new(f"getelementptr inbounds i64, ptr %args, i64 {i}")
            more.append(t.new(f"load i64, ptr {place}"))
        return more

    def finish(self) -> str:
        self.t.put("ret void")
        signature = f"define void @{self.name}(ptr noalias %args, i64 %part, ptr noalias %scratch)"
        return self.t.function(signature)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Names found inside are not known outside: they need not have been computed."""
        self.scopes.append({})
        try:
            yield
        finally:
            self.scopes.pop()

    @contextmanager
    def masked(self, mask: str | None) -> Iterator[None]:
        before, self.mask = self.mask, mask
        try:
            yield
        finally:
            self.mask = before

    def known(self, number: int, lanes: int) -> str | None:
        for scope in reversed(self.scopes):
            found = scope.get((number, lanes))
            if found is not None:
                return found
        return None

    def set(self, number: int, lanes: int, name: str) -> str:
        self.scopes[-1][number, lanes] = name
        return name

    def line(self, number: int, lanes: int) -> str:
        """The name of a line's value in so many lanes, printing what is not known yet.

        A loop, not a recursion: expressions may be long.
        """
        stack = [(number, lanes)]
        while stack:
            current, width = stack[-1]
            if self.known(current, width) is not None:
                stack.pop()
                continue
            scalar = width > 1 and not self.along_vector(current)
            if scalar:
                needed = [(current, 1)]
            else:
                needed = [(each, width) for each in self.kernel.lines[current].inputs]
                if self.kernel.lines[current].op in ("random",):
                    needed = [(each, 1) for each in self.kernel.lines[current].inputs]
            missing = [each for each in needed if self.known(*each) is None]
            if missing:
                stack += missing
                continue
            stack.pop()
            if scalar:
                element = register_type(self.kernel.lines[current].dtype)
                one = self.known(current, 1)
                assert one is not None
                self.set(current, width, self.t.splat(one, element, width))
            else:
                self.set(current, width, self._print(current, width))
        found = self.known(number, lanes)
        assert found is not None
        return found

    def along_vector(self, number: int) -> bool:
        """Whether a line varies along the axis that vectors lie on."""
        return bool(self.varies[number] >> self.vector_axis & 1) and self.vector_axis >= 0

    def _print(self, number_: int, lanes: int) -> str:
        t, line = self.t, self.kernel.lines[number_]
        detail: Any = line.detail
        if line.op == "load":
            return self.load(detail[0], detail[1], line.dtype, lanes)
        if line.op == "constant":
            return number(detail, line.dtype, lanes)
        if line.op == "iota":
            return self._iota(detail, line.dtype, lanes)
        if line.op == "random":
            return self._random(line, detail, lanes)
        if line.op == "gather":
            return self._gather(line, lanes)
        assert not line.op.startswith("reduce."), (number_, line)
        xs = [self.known(each, lanes) for each in line.inputs]
        kinds = [self.kernel.lines[each].dtype for each in line.inputs]
        found = TABLE[line.op](t, xs, kinds, line.dtype, lanes)  # type: ignore[arg-type]
        return self.as_stored(line, found, lanes)

    def as_stored(self, line: Line, value: str, lanes: int) -> str:
        """Half precisions are rounded after each op: what is fused changes no number."""
        if line.dtype not in dtypes.HALF or line.op in _EXACT:
            return value
        return rounded(self.t, value, dtypes.float32, line.dtype, lanes)

    # --- memory ---

    def offset(self, affine: Affine, skip: int | None = None) -> str:
        """The linear position of the loop counters, without the axis `skip`."""
        t, total = self.t, str(affine[-1])
        for axis, step in enumerate(affine[:-1]):
            if step and axis != skip:
                total = t.plus(total, t.times(self.at[axis], step))
        return total

    def load(self, word: int, affine: Affine, dtype: DType, lanes: int) -> str:
        t, base = self.t, self.pointers[word]
        axis = self.vector_axis
        step = affine[axis] if axis >= 0 and len(affine) > 1 else 0
        if lanes == 1:
            return t.load(t.address(base, self.offset(affine), memory_type(dtype)), dtype, 1, None)
        if step == 1:
            pointer = t.address(base, self.offset(affine), memory_type(dtype))
            return t.load(pointer, dtype, lanes, self.mask)
        start = self.offset(affine)
        return t.load_at(base, t.lanes_from(start, step, lanes), dtype, lanes, self.mask)

    def store(self, word: int, affine: Affine, value: str, dtype: DType, lanes: int) -> None:
        t, base = self.t, self.pointers[word]
        step = affine[self.vector_axis] if len(affine) > 1 else 0
        if lanes == 1 or step == 1:
            pointer = t.address(base, self.offset(affine), memory_type(dtype))
            t.store(pointer, value, dtype, lanes, self.mask)
        else:
            indices = t.lanes_from(self.offset(affine), step, lanes)
            t.store_at(base, indices, value, dtype, lanes, self.mask)

    def store_all(self, stores: Sequence[Store], lanes: int) -> None:
        """All values first, then the stores: they may go to memory that the values came from."""
        values = [self.line(store.line, lanes) for store in stores]
        for store, value in zip(stores, values, strict=True):
            self.store(store.word, store.affine, value, store.dtype, lanes)

    def _iota(self, affine: Affine, dtype: DType, lanes: int) -> str:
        step = affine[self.vector_axis] if len(affine) > 1 else 0
        found = self.t.lanes_from(self.offset(affine), step, lanes)
        if dtype == dtypes.int64:
            return found
        return TABLE["astype"](self.t, [found], [dtypes.int64], dtype, lanes)

    def _random(self, line: Line, affine: Affine, lanes: int) -> str:
        words = [self.known(each, 1) for each in line.inputs]
        step = affine[self.vector_axis] if len(affine) > 1 else 0
        places = self.t.lanes_from(self.offset(affine), step, lanes)
        return random_bits(self.t, words, places, lanes)  # type: ignore[arg-type]

    def _gather(self, line: Line, lanes: int) -> str:
        """Elements at positions that are data. A position outside is 0: the check reports it."""
        t = self.t
        detail: Any = line.detail
        word, affine, pairs = detail
        along = lanes > 1 and any(self.along_vector(each) for each in line.inputs)
        width = lanes if along else 1
        kind = vector("i64", width)
        step = affine[self.vector_axis] if len(affine) > 1 else 0
        total = t.lanes_from(self.offset(affine), step, width)
        for each, (stride, size) in zip(line.inputs, pairs, strict=True):
            place = self.known(each, width) or self.line(each, width)
            dtype = self.kernel.lines[each].dtype
            place = TABLE["astype"](t, [place], [dtype], dtypes.int64, width)
            below = t.new(f"icmp slt {kind} {place}, {number(0, dtypes.int64, width)}")
            wrapped = t.new(f"add {kind} {place}, {number(size, dtypes.int64, width)}")
            bits = vector("i1", width)
            place = t.new(f"select {bits} {below}, {kind} {wrapped}, {kind} {place}")
            inside = t.new(f"icmp ult {kind} {place}, {number(size, dtypes.int64, width)}")
            zero = number(0, dtypes.int64, width)
            place = t.new(f"select {bits} {inside}, {kind} {place}, {kind} {zero}")
            moved = t.new(f"mul {kind} {place}, {number(stride, dtypes.int64, width)}")
            total = t.new(f"add {kind} {total}, {moved}")
        base = self.pointers[word]
        if lanes > 1 and along:
            return t.load_at(base, total, line.dtype, lanes, self.mask)
        pointer = t.address(base, total, memory_type(line.dtype))
        if lanes > 1 and step != 1:
            return t.load_at(pointer, t.lanes_from("0", step, lanes), line.dtype, lanes, self.mask)
        return t.load(pointer, line.dtype, lanes, self.mask)

    # --- what all reductions share ---

    def identity(self, line: Line) -> str:
        return number(_identity(line), line.dtype, self.lanes)

    def combine(self, line: Line, a: str, b: str, lanes: int) -> str:
        op = _COMBINE[line.op]
        return TABLE[op](self.t, [a, b], [line.dtype, line.dtype], _wide(line.dtype), lanes)


def _wide(dtype: DType) -> DType:
    """The dtype that a reduction adds up in: registers hold halves as floats anyway."""
    return dtypes.accumulator(dtype)


_COMBINE = {
    "reduce.sum": "add",
    "reduce.prod": "multiply",
    "reduce.max": "maximum",
    "reduce.min": "minimum",
    "reduce.any": "logical_or",
    "reduce.all": "logical_and",
}


def _identity(line: Line) -> Any:
    """What changes nothing when it is combined with a number."""
    if line.op in ("reduce.sum", "reduce.any"):
        return 0
    if line.op in ("reduce.prod", "reduce.all"):
        return 1
    smallest = line.op == "reduce.max"
    if dtypes.is_floating(line.dtype):
        return -math.inf if smallest else math.inf
    if line.dtype == dtypes.bool_:
        return not smallest
    import numpy as np

    info = np.iinfo(line.dtype)
    return int(info.min if smallest else info.max)


class _Rows(Printer):
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
        if not self.reducing and self.last * cost > 2 * _GRAIN:
            piece = _rounded_up(max(1, _GRAIN // cost), 4 * self.lanes)
            pieces = -(-self.last // piece)
        units = self.rows * pieces
        per_unit = cost * (piece if not self.reducing else self.length)
        per_part = max(1, min(units, _GRAIN // max(1, per_unit) or 1))
        per_part = max(per_part, -(-units // _MOST_PARTS))
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
        piece = _rounded_up(max(1, _GRAIN // cost), 4 * self.lanes)
        (count,) = self.load_words(extra=1)
        low = t.times("%part", piece)
        high = t.smaller(t.plus(low, str(piece)), count)
        with self.scope():
            self._print_row("0", low, high, None)
        parts = -(-self.last // piece)
        return Printed(self.finish(), parts, counted=True, piece=piece)

    def _scratch_bytes(self) -> int:
        return sum(
            _rounded_up(self.length * _wide(self.kernel.lines[i].dtype).itemsize, 64)
            for i in self.kept
        )

    def _kept_pointer(self, number_: int, position: str) -> str:
        start = 0
        for each in self.kept:
            if each == number_:
                break
            size = _wide(self.kernel.lines[each].dtype).itemsize
            start += _rounded_up(self.length * size, 64)
        base = self.t.address("%scratch", str(start), "i8")
        dtype = _wide(self.kernel.lines[number_].dtype)
        return self.t.address(base, position, memory_type(dtype))

    # --- rows ---

    def _print_row(self, row: str, low: str, high: str, length: int | None) -> None:
        """All passes over a row; `low` to `high` of its last axis."""
        self._decode(row, self.kernel.sizes[: self.first])
        if self.vector_axis < 0 and not self.reducing:
            self.store_all(self.kernel.stores, 1)
            return
        for step in range(self.passes):
            self._print_pass(step, low, high, length)
        rows = [s for i, s in enumerate(self.kernel.stores) if not self.is_full_store(i)]
        self.store_all(rows, 1)

    def _decode(self, linear: str, sizes: Sequence[int]) -> None:
        """The counters of the outer axes from their common one."""
        t = self.t
        for axis in reversed(range(len(sizes))):
            if axis == 0:
                self.at[0] = linear
            else:
                self.at[axis] = t.new(f"urem i64 {linear}, {sizes[axis]}")
                linear = t.new(f"udiv i64 {linear}, {sizes[axis]}")

    def _print_pass(self, step: int, low: str, high: str, length: int | None) -> None:
        t = self.t
        reductions, stores = self.roots(step)
        if self.length == 0:
            for i in reductions:
                line = self.kernel.lines[i]
                self.set(i, 1, number(_identity(line), line.dtype, 1))
            return
        # What is the same for the whole row, once before it.
        for i in sorted(self._row_level_inputs(step)):
            self.line(i, 1)
            self.line(i, self.lanes)
        few = sum(cost_of(self.kernel.lines[i]) for i in self._needed(step)) <= 12
        unroll = 4 if few and (length is None or length >= 4 * self.lanes) else 1
        accumulators: dict[int, list[str]] = {}
        for i in reductions:
            line = self.kernel.lines[i]
            kind = kind_of(line.dtype, self.lanes)
            accumulators[i] = [t.alloca(kind) for _ in range(unroll)]
            for each in accumulators[i]:
                t.put(f"store {kind} {self.identity(line)}, ptr {each}, align 64")
        middle = list(range(self.first, len(self.kernel.sizes) - 1))
        totals = self._totals(reductions) if middle else {}
        with self._nested(middle):
            self._vectors(step, reductions, stores, accumulators, low, high, length, unroll)
            for i in totals:
                self._move(self.kernel.lines[i], accumulators[i], totals[i])
        for i in reductions:
            held = [totals[i]] if middle else accumulators[i]
            line = self.kernel.lines[i]
            self.set(i, 1, self.as_stored(line, self._folded(line, held), 1))

    def _totals(self, reductions: list[int]) -> dict[int, str]:
        """Accumulators of the accumulators of each inner row: rounding errors grow less."""
        found = {}
        for i in reductions:
            line = self.kernel.lines[i]
            kind = kind_of(line.dtype, self.lanes)
            found[i] = self.t.alloca(kind)
            self.t.put(f"store {kind} {self.identity(line)}, ptr {found[i]}, align 64")
        return found

    def _move(self, line: Line, accumulators: list[str], total: str) -> None:
        """Add accumulators to their total and empty them."""
        t, kind = self.t, kind_of(line.dtype, self.lanes)
        held = t.new(f"load {kind}, ptr {total}, align 64")
        for each in accumulators:
            part = t.new(f"load {kind}, ptr {each}, align 64")
            held = self.combine(line, held, part, self.lanes)
            t.put(f"store {kind} {self.identity(line)}, ptr {each}, align 64")
        t.put(f"store {kind} {held}, ptr {total}, align 64")

    def _row_level_inputs(self, step: int) -> set[int]:
        needed = self._needed(step)
        found = {each for i in needed for each in self.kernel.lines[i].inputs}
        reductions, stores = self.roots(step)
        found |= {self.kernel.lines[i].inputs[0] for i in reductions}
        found |= {self.kernel.stores[i].line for i in stores}
        return {i for i in found if not self.full(i)}

    @contextmanager
    def _nested(self, axes: list[int]) -> Iterator[None]:
        """Loops over axes of the row before the last."""
        if not axes:
            yield
            return
        with self.t.loop("0", str(self.kernel.sizes[axes[0]])) as i:
            self.at[axes[0]] = i
            with self.scope(), self._nested(axes[1:]):
                yield

    def _vectors(
        self, step: int, reductions: list[int], stores: list[int],
        accumulators: dict[int, list[str]], low: str, high: str, length: int | None, unroll: int,
    ) -> None:  # fmt: skip
        """The last axis: several vectors at once, single ones, and a masked one at the end."""
        t, lanes, axis = self.t, self.lanes, self.vector_axis
        start = low
        for count in (unroll, 1) if unroll > 1 else (1,):
            width = count * lanes
            if length is not None:
                stop = str(length // width * width)
                if int(start) >= int(stop):
                    continue
            else:
                span = t.new(f"sub i64 {high}, {start}")
                whole = t.new(f"and i64 {span}, {-width}") if width & (width - 1) == 0 else span
                stop = t.plus(start, whole)
            with t.loop(start, stop, width) as j:
                for u in range(count):
                    self.at[axis] = t.plus(j, str(u * lanes))
                    self._vector(step, reductions, stores, accumulators, u)
            start = stop
        if length is not None:
            rest = length - int(start)
            if rest:
                self.at[axis] = start
                with self.masked(self._static_mask(rest)):
                    self._vector(step, reductions, stores, accumulators, 0)
            return
        rest_name = t.new(f"sub i64 {high}, {start}")
        more = t.new(f"icmp sgt i64 {rest_name}, 0")
        with t.when(more):
            self.at[axis] = start
            with self.masked(t.mask(rest_name, lanes)):
                self._vector(step, reductions, stores, accumulators, 0)

    def _static_mask(self, count: int) -> str:
        bits = ", ".join(f"i1 {'true' if i < count else 'false'}" for i in range(self.lanes))
        return f"<{bits}>"

    def _vector(
        self, step: int, reductions: list[int], stores: list[int],
        accumulators: dict[int, list[str]], u: int,
    ) -> None:  # fmt: skip
        t, lanes = self.t, self.lanes
        with self.scope():
            needed = self._needed(step)
            place = self._row_position()
            for i, first in self.kept.items():
                if i in needed and first < step:
                    dtype = _wide(self.kernel.lines[i].dtype)
                    pointer = self._kept_pointer(i, place)
                    self.set(i, lanes, t.load(pointer, dtype, lanes, self.mask))
            for i, first in self.kept.items():
                if first == step:
                    dtype = _wide(self.kernel.lines[i].dtype)
                    value = self.line(i, lanes)
                    t.store(self._kept_pointer(i, place), value, dtype, lanes, self.mask)
            self.store_all([self.kernel.stores[i] for i in stores], lanes)
            for i in reductions:
                line = self.kernel.lines[i]
                value = self.line(line.inputs[0], lanes)
                if line.op in ("reduce.any", "reduce.all"):
                    value = self._as_bool(line, value)
                kind = kind_of(line.dtype, lanes)
                if self.mask is not None:
                    nothing = self.identity(line)
                    bits = vector("i1", lanes)
                    value = t.new(f"select {bits} {self.mask}, {kind} {value}, {kind} {nothing}")
                held = t.new(f"load {kind}, ptr {accumulators[i][u]}, align 64")
                total = self.combine(line, held, value, lanes)
                t.put(f"store {kind} {total}, ptr {accumulators[i][u]}, align 64")

    def _as_bool(self, line: Line, value: str) -> str:
        start = self.kernel.lines[line.inputs[0]].dtype
        return TABLE["astype"](self.t, [value], [start], dtypes.bool_, self.lanes)

    def _row_position(self) -> str:
        """Where the vector stands in its row."""
        t, total, step = self.t, self.at[self.vector_axis], self.last
        for axis in reversed(range(self.first, len(self.kernel.sizes) - 1)):
            total = t.plus(total, t.times(self.at[axis], step))
            step *= self.kernel.sizes[axis]
        return total

    def _folded(self, line: Line, accumulators: list[str]) -> str:
        """All accumulators and lanes in one number, halving the lanes: always in one order."""
        t, lanes = self.t, self.lanes
        kind = kind_of(line.dtype, lanes)
        held = [t.new(f"load {kind}, ptr {each}, align 64") for each in accumulators]
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


def _rounded_up(n: int, to: int) -> int:
    return -(-n // to) * to


class Epilogue(Printer):
    """What is done with the vectors of a matrix product: runs of batch, row and column loops."""

    def __init__(
        self, kernel: Kernel, name: str, lanes: int, words: int, accumulator: DType
    ) -> None:
        super().__init__(kernel, name, lanes)
        self.words = words
        self.accumulator = accumulator

    def print(self) -> str:
        t, kernel = self.t, self.kernel
        self.load_words(first=self.words)
        self._decode("%batch", range(kernel.outer))
        self._decode("%m", range(kernel.outer, kernel.outer + kernel.reduced))
        self.at[self.vector_axis] = "%n"
        for i, line in enumerate(kernel.lines):
            if line.op == "given":
                self.set(i, self.lanes, self._given(line))
        with self.masked(t.mask("%count", self.lanes)):
            self.store_all(kernel.stores, self.lanes)
        t.put("ret void")
        element = register_type(self.accumulator)
        return t.function(
            f"define internal void @{self.name}(ptr %args, i64 %batch, i64 %m, i64 %n, "
            f"<{self.lanes} x {element}> %value, i64 %count) alwaysinline"
        )

    def _given(self, line: Line) -> str:
        """The sum in the dtype of the product: small integers are added up in wider ones."""
        if register_type(line.dtype) == register_type(self.accumulator):
            return self.as_stored(line, "%value", self.lanes)
        row = TABLE["astype"]
        return row(self.t, ["%value"], [self.accumulator], line.dtype, self.lanes)

    def _decode(self, linear: str, axes: range) -> None:
        t = self.t
        for axis in reversed(axes):
            if axis == axes[0]:
                self.at[axis] = linear
            else:
                self.at[axis] = t.new(f"urem i64 {linear}, {self.kernel.sizes[axis]}")
                linear = t.new(f"udiv i64 {linear}, {self.kernel.sizes[axis]}")


class _Columns(Printer):
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
        wide = 4 if len(self.kernel.lines) <= 16 else (2 if len(self.kernel.lines) <= 32 else 1)
        while wide > 1 and (wide - 1) * lanes >= self.columns:
            wide //= 2
        block = wide * lanes
        blocks = -(-self.columns // block)
        units = self.rows * blocks
        per_unit = count * block * sum(cost_of(line) for line in self.kernel.lines)
        per_part = max(1, min(units, _GRAIN // max(1, per_unit) or 1), -(-units // _MOST_PARTS))
        self.load_words()
        first = t.times("%part", per_part)
        end = t.smaller(t.plus(first, str(per_part)), str(units))
        with t.loop(first, end) as unit, self.scope():
            row = t.new(f"udiv i64 {unit}, {blocks}")
            place = t.new(f"urem i64 {unit}, {blocks}")
            self._decode(row)
            low = t.times(place, block)
            self._print_block(low, wide)
        return Printed(self.finish(), -(-units // per_part))

    def _decode(self, linear: str) -> None:
        t = self.t
        for axis in reversed(self.outer_axes):
            if axis == self.outer_axes[0]:
                self.at[axis] = linear
            else:
                self.at[axis] = t.new(f"urem i64 {linear}, {self.kernel.sizes[axis]}")
                linear = t.new(f"udiv i64 {linear}, {self.kernel.sizes[axis]}")

    def _print_block(self, low: str, wide: int) -> None:
        """`wide` vectors of columns from `low` on."""
        t, lanes = self.t, self.lanes
        left = t.new(f"sub i64 {self.columns}, {low}")
        whole = self.columns % (wide * lanes) == 0
        masks: list[str | None] = []
        for u in range(wide):
            rest = t.plus(left, str(-u * lanes))
            masks.append(None if whole else t.mask(rest, lanes))
        totals = self._reduce(low, wide, masks)
        for u in range(wide):
            self.at[self.vector_axis] = t.plus(low, str(u * lanes))
            with self.scope(), self.masked(masks[u]):
                for i in self.reductions:
                    self.set(i, lanes, self.as_stored(self.kernel.lines[i], totals[i][u], lanes))
                self.store_all(self.kernel.stores, lanes)

    def _reduce(self, low: str, wide: int, masks: list[str | None]) -> dict[int, list[str]]:
        t, lanes = self.t, self.lanes
        lines = self.kernel.lines
        held: dict[int, list[str]] = {}
        block: dict[int, list[str]] = {}
        for i in self.reductions:
            kind = kind_of(lines[i].dtype, lanes)
            held[i] = [t.alloca(kind) for _ in range(wide)]
            block[i] = [t.alloca(kind) for _ in range(wide)]
            for each in held[i]:
                t.put(f"store {kind} {self.identity(lines[i])}, ptr {each}, align 64")
        *others, last = self.reduced
        n = self.kernel.sizes[last]
        with self._nested(others), t.loop("0", str(n), _LONGEST_SUM) as start, self.scope():
            for i in self.reductions:
                kind = kind_of(lines[i].dtype, lanes)
                for each in block[i]:
                    t.put(f"store {kind} {self.identity(lines[i])}, ptr {each}, align 64")
            stop = t.smaller(t.plus(start, str(_LONGEST_SUM)), str(n))
            with t.loop(start, stop) as r:
                self.at[last] = r
                for u in range(wide):
                    self.at[self.vector_axis] = t.plus(low, str(u * lanes))
                    with self.scope(), self.masked(masks[u]):
                        for i in self.reductions:
                            value = self.line(lines[i].inputs[0], lanes)
                            if lines[i].op in ("reduce.any", "reduce.all"):
                                start_dtype = lines[lines[i].inputs[0]].dtype
                                value = TABLE["astype"](
                                    t, [value], [start_dtype], dtypes.bool_, lanes
                                )
                            self._into(block[i][u], lines[i], value)
            for i in self.reductions:
                kind = kind_of(lines[i].dtype, lanes)
                for total, part in zip(held[i], block[i], strict=True):
                    self._into(total, lines[i], t.new(f"load {kind}, ptr {part}, align 64"))
        return {
            i: [
                t.new(f"load {kind_of(lines[i].dtype, lanes)}, ptr {each}, align 64")
                for each in held[i]
            ]
            for i in self.reductions
        }

    def _into(self, accumulator: str, line: Line, value: str) -> None:
        t = self.t
        kind = kind_of(line.dtype, self.lanes)
        before = t.new(f"load {kind}, ptr {accumulator}, align 64")
        total = self.combine(line, before, value, self.lanes)
        t.put(f"store {kind} {total}, ptr {accumulator}, align 64")

    @contextmanager
    def _nested(self, axes: list[int]) -> Iterator[None]:
        if not axes:
            yield
            return
        with self.t.loop("0", str(self.kernel.sizes[axes[0]])) as i:
            self.at[axes[0]] = i
            with self.scope(), self._nested(axes[1:]):
                yield
