"""What all shapes of loops share: the lines of a kernel as instructions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from schuss import dtypes
from schuss.compiler.cpu import arithmetic  # noqa: F401  # rows of TABLE
from schuss.compiler.cpu.crossing import near_steps
from schuss.compiler.cpu.elementwise import TABLE, number, rounded
from schuss.compiler.cpu.random import random_bits
from schuss.compiler.cpu.text import Text, memory_type, register_type, vector
from schuss.compiler.emit import COST
from schuss.compiler.index import Affine
from schuss.compiler.kernel import Kernel, Line, Store
from schuss.dtypes import DType

GRAIN = 192 * 1024  # cost of a part: smaller ones spend their time on being handed out
MOST_PARTS = 64


@dataclass(frozen=True, slots=True)
class Printed:
    """A kernel as text. `counted`: the word after the buffers is the number of elements."""

    text: str
    parts: int
    scratch: int = 0
    counted: bool = False


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

    # --- loops ---

    def decode(self, linear: str, axes: Sequence[int]) -> None:
        """The counters of several axes from the one that counts through all of them."""
        t = self.t
        for axis in reversed(axes):
            if axis == axes[0]:
                self.at[axis] = linear
            else:
                self.at[axis] = t.new(f"urem i64 {linear}, {self.kernel.sizes[axis]}")
                linear = t.new(f"udiv i64 {linear}, {self.kernel.sizes[axis]}")

    @contextmanager
    def nested(self, axes: Sequence[int]) -> Iterator[None]:
        """A loop over each of the axes, one in the other."""
        if not axes:
            yield
            return
        with self.t.loop("0", str(self.kernel.sizes[axes[0]])) as i:
            self.at[axes[0]] = i
            with self.scope(), self.nested(axes[1:]):
                yield

    # --- memory ---

    def offset(self, affine: Affine) -> str:
        """The linear position of the loop counters."""
        t, total = self.t, str(affine[-1])
        for axis, step in enumerate(affine[:-1]):
            if step:
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
        if step == -1:
            return t.load_backwards(base, start, dtype, lanes, self.mask)
        if self.mask is None and step and abs(step) <= near_steps(dtype):
            return t.load_every(base, start, step, dtype, lanes)
        return t.load_at(base, t.lanes_from(start, step, lanes), dtype, lanes, self.mask)

    def store(self, word: int, affine: Affine, value: str, dtype: DType, lanes: int) -> None:
        t, base = self.t, self.pointers[word]
        step = affine[self.vector_axis] if len(affine) > 1 else 0
        if lanes == 1 or step == 1:
            pointer = t.address(base, self.offset(affine), memory_type(dtype))
            t.store(pointer, value, dtype, lanes, self.mask, self.is_streamed(word, affine, lanes))
        else:
            indices = t.lanes_from(self.offset(affine), step, lanes)
            t.store_at(base, indices, value, dtype, lanes, self.mask)

    def is_streamed(self, word: int, affine: Affine, lanes: int) -> bool:
        """Whether a store is to go past the caches, of which it has to fill whole lines."""
        return False

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
        return number(neutral(line), line.dtype, self.lanes)

    def reduced_value(self, line: Line, lanes: int) -> str:
        """What a reduction takes in at one point of the loops."""
        (number_,) = line.inputs
        value = self.line(number_, lanes)
        if line.op in ("reduce.any", "reduce.all"):
            start = self.kernel.lines[number_].dtype
            value = TABLE["astype"](self.t, [value], [start], dtypes.bool_, lanes)
        return value

    def combine(self, line: Line, a: str, b: str, lanes: int) -> str:
        op = _COMBINE[line.op]
        return TABLE[op](self.t, [a, b], [line.dtype, line.dtype], wide_of(line.dtype), lanes)


def wide_of(dtype: DType) -> DType:
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


def neutral(line: Line) -> Any:
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
    info = np.iinfo(line.dtype)
    return int(info.min if smallest else info.max)


def rounded_up(n: int, to: int) -> int:
    return -(-n // to) * to
