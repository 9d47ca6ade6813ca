"""What a loop with a body computes, and how its results lie side by side in one tensor.

A loop has three kinds of inputs: *invariants*, the same in all steps; *carries*, which a step hands
to the next; and *xs*, of which step t gets the t-th part along the first axis. Its body gives the
next carries and *ys*, which are stacked. Results of one dtype are packed into one flat tensor:

    last carries        the carry after all steps
    histories           all `length + 1` values of a carry, in the order of time along the xs
    stacked ys

Ys of half precision are packed as float32 where there are results of float32 too: a loop that gives
results of several dtypes is several loops.

In a loop from front to back, `history[t]` goes into step t and `history[t + 1]` comes out of it; in
a reversed one it is the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.graph import REGISTRY, Node, Shape, apply
from schuss.ops.body import Body, Type, derive_once, types_of
from schuss.ops.movement import slice_

if TYPE_CHECKING:
    from schuss.tensor import Tensor

LAST, HISTORY, NOTHING = "last", "history", ""


@dataclass(frozen=True)
class Loop:
    """A loop without its inputs, which are invariants, xs and carries, in this order.

    Attributes:
        body: of invariants, xs of one step, and carries; gives carries and ys.
        invariants, xs: how many there are.
        carries: for each carry what is wanted: "last", "history", or "" for nothing.
        ys: for each y whether it is wanted.
        length: how many steps there are, at least 1.
        reverse: from the last step to the first.

    All that is wanted can be packed in one dtype.
    """

    body: Body
    invariants: int
    xs: int
    carries: tuple[str, ...]
    ys: tuple[bool, ...]
    length: int
    reverse: bool

    def __repr__(self) -> str:
        way = ", reversed" if self.reverse else ""
        return f"<{self.length} steps{way} of {self.body!r}>"

    def sorted(self, inputs: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """The inputs as invariants, xs and carries."""
        n, m = self.invariants, self.invariants + self.xs
        return list(inputs[:n]), list(inputs[n:m]), list(inputs[m:])

    @property
    def order(self) -> range:
        """The steps, first to last."""
        return range(self.length)[:: -1 if self.reverse else 1]


class Part(NamedTuple):
    """Where a result lies: `number` counts carries, and ys behind all carries."""

    number: int
    start: int
    shape: Shape
    dtype: DType

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Layout(NamedTuple):
    parts: tuple[Part, ...]
    size: int
    dtype: DType
    body: tuple[Type, ...]  # the types of all values of the body


def _layout(loop: Loop, inputs: tuple[Type, ...]) -> Layout:
    invariants, xs, carries = loop.sorted(inputs)
    steps = [Type(x.shape[1:], x.dtype) for x in xs]
    types = loop.body.types([*invariants, *steps, *carries])
    made = [types[i] for i in loop.body.outputs]
    for old, new in zip(carries, made, strict=False):
        assert old == new, (old, new)
    parts, start, kinds = [], 0, set()
    leads = {LAST: (), HISTORY: (loop.length + 1,), True: (loop.length,)}
    for index, (wish, type_) in enumerate(zip((*loop.carries, *loop.ys), made, strict=True)):
        if wish:
            parts.append(Part(index, start, (*leads[wish], *type_.shape), type_.dtype))
            start += parts[-1].size
            kinds.add(type_.dtype)
    if dtypes.float32 in kinds:
        kinds -= {part.dtype for part in parts if part.number >= len(carries)} & set(dtypes.HALF)
    assert len(kinds) == 1, "results of several dtypes in one loop"
    return Layout(tuple(parts), start, kinds.pop(), tuple(types))


layout = derive_once(_layout)


def layout_of(loop: Loop, inputs: Sequence[Any]) -> Layout:
    """The layout of the results for these inputs (tensors or arrays)."""
    return layout(loop, types_of(inputs))


def infer(*inputs: Node, loop: Loop) -> tuple[Shape, DType]:
    found = layout_of(loop, inputs)
    return (found.size,), found.dtype


def reference(*inputs: np.ndarray, loop: Loop) -> np.ndarray:
    """Step after step."""
    return in_steps(inputs, loop, loop.body.run)


def in_steps(
    inputs: Sequence[np.ndarray], loop: Loop, run: Callable[[list[Any]], Sequence[Any]]
) -> np.ndarray:
    """The packed results; `run` gives the carries and ys of a step, of invariants, xs and carries.

    Ys that are not wanted may be anything.
    """
    found = layout_of(loop, inputs)
    invariants, xs, carries = loop.sorted(inputs)
    result = np.empty(found.size, found.dtype)
    views = {p.number: result[p.start : p.start + p.size].reshape(p.shape) for p in found.parts}
    count = len(carries)
    out, into = (0, 1) if loop.reverse else (1, 0)
    for i, wish in enumerate(loop.carries):
        if wish == HISTORY:
            views[i][loop.order[0] + into] = carries[i]
    for t in loop.order:
        made = run([*invariants, *[x[t] for x in xs], *carries])
        carries = list(made[:count])
        for i, view in views.items():
            if i >= count:
                view[t] = made[i]
            elif loop.carries[i] == HISTORY:
                view[t + out] = made[i]
    for i, wish in enumerate(loop.carries):
        if wish == LAST:
            views[i][...] = carries[i]
    return result


def part_of(y: Tensor, part: Part) -> Tensor:
    """A result out of the packed ones."""
    whole = packed(y, part)
    if whole.dtype == part.dtype:
        return whole
    return apply(REGISTRY["astype"], whole, dtype=part.dtype)


def packed(y: Tensor, part: Part) -> Tensor:
    """The same in the dtype of the packed ones."""
    flat = apply(slice_, y, cut=((part.start, part.size, 1),))
    return flat.reshape(part.shape)


def incoming(history: Tensor, loop: Loop) -> Tensor:
    """What went into each step, of a history."""
    return _along(history, 1 if loop.reverse else 0, loop.length)


def outgoing(history: Tensor, loop: Loop) -> Tensor:
    """What came out of each step."""
    return _along(history, 0 if loop.reverse else 1, loop.length)


def at_end(history: Tensor, loop: Loop) -> Tensor:
    """What came out of the last step."""
    return _along(history, 0 if loop.reverse else loop.length, 1).reshape(history.shape[1:])


def at_start(history: Tensor, loop: Loop) -> Tensor:
    """What went into the first step."""
    return _along(history, loop.length if loop.reverse else 0, 1).reshape(history.shape[1:])


def _along(x: Tensor, start: int, size: int) -> Tensor:
    return apply(slice_, x, cut=((start, size, 1), *[(0, n, 1) for n in x.shape[1:]]))


def apply_loop(
    loop: Loop, invariants: Sequence[Tensor], xs: Sequence[Tensor], carries: Sequence[Tensor]
) -> dict[int, Tensor]:
    """Record a loop, once for each dtype that results are packed in: its results, by index."""
    inputs = [*invariants, *xs, *carries]
    found: dict[int, Tensor] = {}
    for each in _by_dtype(loop, types_of(inputs)):
        y = apply(REGISTRY["scan"], *inputs, loop=each)
        for part in layout_of(each, inputs).parts:
            found[part.number] = part_of(y, part)
    return found


def _split(loop: Loop, inputs: tuple[Type, ...]) -> tuple[Loop, ...]:
    """The loop for each dtype that results are packed in."""
    invariants, xs, carries = loop.sorted(inputs)
    steps = [Type(x.shape[1:], x.dtype) for x in xs]
    types = loop.body.types([*invariants, *steps, *carries])
    wishes = (*loop.carries, *loop.ys)
    kinds = [types[i].dtype for i in loop.body.outputs]
    n = len(loop.carries)
    wanted = dict.fromkeys(kind for kind, wish in zip(kinds, wishes, strict=True) if wish)
    if dtypes.float32 in wanted:
        kinds[n:] = [dtypes.float32 if kind in dtypes.HALF else kind for kind in kinds[n:]]
        wanted = dict.fromkeys(kind for kind, wish in zip(kinds, wishes, strict=True) if wish)
    made = []
    for dtype in wanted:
        mine: list[Any] = [
            wish if k == dtype else type(wish)() for k, wish in zip(kinds, wishes, strict=True)
        ]
        made.append(
            Loop(
                loop.body, loop.invariants, loop.xs, tuple(mine[:n]), tuple(mine[n:]),
                loop.length, loop.reverse,
            )
        )  # fmt: skip
    return tuple(made)


_by_dtype = derive_once(_split)
