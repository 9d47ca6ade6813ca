"""The compiler's picture of a graph: values, each one op applied to values.

It is a copy of the recorded nodes without what belongs to running them (arrays, handles, lines of
the user), so that passes can rewrite it freely.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from schuss.dtypes import DType

Shape = tuple[int, ...]

VIEWS = frozenset({"reshape", "permute", "broadcast_to", "slice", "reverse", "windows"})
"""Ops whose result is the input seen through other indices."""

TEMPLATES = ("matmul", "convolution", "convolution_weight")

REDUCTIONS = frozenset({"sum", "prod", "max", "min", "any", "all"})


@dataclass(eq=False, slots=True)
class Value:
    """One op applied to values.

    Attributes:
        op: a primitive's name; "input" for what comes from outside, "constant" for a number that
            the structure fixes (in `attributes["value"]`).
        number: its place in the order; inputs of a value have smaller numbers.
        definition: the record of the op, for what stays on the host.
        array: of an input that is always the same: what it holds. What is made of such inputs alone
            is computed once, when the Program is made.
        is_streamed: it is better written past the caches, which it would fill.
        strides: of memory whose elements are not in row-major order, in elements; else None.
    """

    op: str
    inputs: tuple[Value, ...]
    attributes: dict[str, Any]
    shape: Shape
    dtype: DType
    number: int = -1
    strides: tuple[int, ...] | None = None
    definition: Any = None
    array: np.ndarray | None = None
    is_streamed: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def room(self) -> int:
        """Bytes of its memory, with what lies between its elements."""
        if self.strides is None or not self.size:
            return self.nbytes
        steps = zip(self.strides, self.shape, strict=True)
        return (1 + sum(abs(step) * (n - 1) for step, n in steps)) * self.dtype.itemsize

    @property
    def pitch(self) -> int:
        """Elements from each row to the next, where rows are all that may lie apart; else 0."""
        if self.strides is None:
            return self.shape[-1] or 1 if self.shape else 1
        if len(self.shape) < 2:
            return 0
        *rows, step = self.strides
        pitch = rows[-1]
        dense = rows == [n * pitch for n in strides_of(self.shape[:-1])]
        return pitch if dense and step == 1 and pitch >= self.shape[-1] else 0

    @property
    def name(self) -> str:
        return f"%{self.number}"

    def __repr__(self) -> str:
        return f"{self.name} = {self.text()}"

    def text(self) -> str:
        """The value as a line of a listing."""
        shown = [each.name for each in self.inputs]
        shown += [f"{key}={value}" for key, value in self.attributes.items()]
        shown += [] if self.strides is None else [f"strides={self.strides}"]
        return f"{self.op}({', '.join(shown)}) : {self.dtype}{list(self.shape)}"


@dataclass(slots=True)
class Graph:
    """Values in order, those that come from outside, and those that are wanted.

    `checks` are wanted too: each holds whether some index points outside. `kept` are stored rather
    than computed again where they are used.
    """

    values: list[Value]
    inputs: list[Value]
    outputs: list[Value]
    checks: list[Value] = field(default_factory=list)
    kept: set[Value] = field(default_factory=set)

    def __str__(self) -> str:
        lines = [repr(value) for value in self.values]
        wanted = ", ".join(value.name for value in self.outputs)
        return "\n".join([*lines, f"return {wanted}"])


def memory_of(value: Value, forced: Collection[Value] = ()) -> Value:
    """The value whose memory a view looks at; those that are `forced` have one of their own."""
    while value.op in VIEWS and value not in forced:
        value = value.inputs[0]
    return value


def frozen(value: Any) -> Hashable:
    """Attributes as something that can be a key."""
    if isinstance(value, dict):
        return tuple([(key, frozen(each)) for key, each in value.items()])
    if isinstance(value, (list, tuple)):
        return tuple([frozen(each) for each in value])
    return value


def strides_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides, in elements."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def made_of(values: Iterable[Value], parts: Iterable[Value]) -> dict[Value, int]:
    """For each value those of the parts that it is made of, as a set of bits in their order."""
    bits = {value: 1 << i for i, value in enumerate(parts)}
    found: dict[Value, int] = {}
    for value in values:
        found[value] = bits.get(value, 0)
        for each in value.inputs:
            found[value] |= found[each]
    return found


def users_of(values: Iterable[Value]) -> dict[Value, list[Value]]:
    """For each value those that have it as an input (once for each time)."""
    users: dict[Value, list[Value]] = {}
    for value in values:
        users.setdefault(value, [])
        for each in value.inputs:
            users.setdefault(each, []).append(value)
    return users
