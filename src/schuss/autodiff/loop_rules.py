"""How derivatives and batches pass a loop: each rule records another loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from schuss.autodiff.batching import batch
from schuss.autodiff.forward import push_forward
from schuss.autodiff.loop_residuals import Recorded, record_gradient
from schuss.autodiff.loop_split import Source, run_loop
from schuss.autodiff.loop_totals import Totals
from schuss.context import grad_mode
from schuss.dtypes import is_differentiable
from schuss.functions.manipulation import concat
from schuss.graph import Node, Op, ancestors, apply, wrap
from schuss.ops.body import Body, Type, body_of, derive_once, stand_in, types_of
from schuss.ops.broadcast import zeros
from schuss.ops.elementwise import add
from schuss.ops.loop import (
    HISTORY,
    LAST,
    NOTHING,
    Layout,
    Loop,
    apply_loop,
    at_end,
    at_start,
    incoming,
    layout_of,
    outgoing,
    packed,
    part_of,
)
from schuss.ops.structure import repeated

if TYPE_CHECKING:
    from schuss.tensor import Tensor

# --- gradient ---


@dataclass(frozen=True)
class Adjoint:
    """The gradient of a loop as another one, backwards.

    Attributes:
        body: of invariants, `xs`, and as carries the gradients of the carries and `sums`.
        xs: what it looks at of each step: "x", "in", "out" and "y" of the loop itself, gradients
            "of y", and gradients "of history", with the index of a result.
        sums: the types of what it adds up.
        gx: for each x the place of its gradient among the ys of the body; -1 for none.
        behind: of the invariants, the other ys, and the sums; gives gradients of invariants.
        gc: for each invariant the place of its gradient in that; -1 for none.
    """

    body: Body
    xs: tuple[Source, ...]
    sums: tuple[Type, ...]
    gx: tuple[int, ...]
    behind: Body
    gc: tuple[int, ...]


def _adjoint(
    loop: Loop, types: tuple[Type, ...], moving: tuple[bool, ...], given: tuple[bool, ...]
) -> Adjoint:
    recorded = record_gradient(loop, types, moving, given.__getitem__)
    count = len(loop.carries)
    known = _known(loop, recorded)
    found = recorded.found
    floating = [x for x in recorded.carries if is_differentiable(x.dtype)]
    gk = [found[x._node] if x._node in found else zeros(x.shape, x.dtype) for x in floating]
    entering = [*known, *[seed._node for seed in recorded.seeds.values()]]
    gx = [found[x._node] for x in recorded.xs if x._node in found]
    totals = Totals(_varying(recorded, [*found.values()]), loop.length)
    gc = [totals.of(found[x._node]._node) for x in recorded.invariants if x._node in found]
    sums = [stand_in(Type(node.shape, node.dtype)) for node in totals.added]
    added = [apply(add, s, wrap(node)) for s, node in zip(sums, totals.added, strict=True)]
    ends = [*gk, *added, *gx, *[wrap(node) for node in totals.stacks]]
    used = {each for node in ancestors([e._node for e in ends], lambda n: n not in entering)
            for each in node.inputs} | {e._node for e in ends}  # fmt: skip
    sources = {node: source for node, source in known.items() if node in used}
    for i, seed in recorded.seeds.items():
        if (i < 0 or i >= count) and seed._node in used:
            sources[seed._node] = Source("of y", i) if i >= 0 else Source("of history", -1 - i)
    inputs = [*recorded.invariants, *[wrap(node) for node in sources]]
    inputs += [*_carry_seeds(recorded), *sums]
    outer = [*recorded.invariants, *totals.stacks.values(), *totals.added.values()]
    return Adjoint(
        body=body_of([e._node for e in ends], [x._node for x in inputs]),
        xs=tuple(sources.values()),
        sums=types_of(sums),
        gx=_places(recorded.xs, found),
        behind=body_of([g._node for g in gc], [x._node for x in outer]),
        gc=_places(recorded.invariants, found),
    )


def _places(xs: Sequence[Tensor], found: dict[Node, Tensor]) -> tuple[int, ...]:
    have = [x._node in found for x in xs]
    return tuple(sum(have[:i]) if flag else -1 for i, flag in enumerate(have))


def _carry_seeds(recorded: Recorded) -> list[Tensor]:
    """The gradients that come from the step behind, for the carries that have one."""
    return [recorded.seeds[k] for k in range(len(recorded.carries)) if k in recorded.seeds]


def _varying(recorded: Recorded, ends: Sequence[Tensor]) -> list[Node]:
    starts = {x._node for x in (*recorded.xs, *recorded.carries, *recorded.seeds.values())}
    found = set(starts)
    for node in ancestors([e._node for e in ends], lambda n: True):
        if any(each in found for each in node.inputs):
            found.add(node)
    return list(found)


def _known(loop: Loop, recorded: Recorded) -> dict[Node, Source]:
    """Values of a step that need not be computed again, and where they are stacked."""
    found: dict[Node, Source] = {}
    count = len(loop.carries)
    for i, result in enumerate(recorded.results):
        if i >= count and loop.ys[i - count]:
            found[result._node] = Source("y", i)
        elif i < count and loop.carries[i] == HISTORY:
            found[result._node] = Source("out", i)
    for k, x in enumerate(recorded.carries):
        found[x._node] = Source("in", k)
    for i, x in enumerate(recorded.xs):
        found[x._node] = Source("x", i)
    for x in recorded.invariants:
        found.pop(x._node, None)
    return found


adjoint = derive_once(_adjoint)


def gradient(g: Tensor, y: Tensor, *inputs: Tensor, loop: Loop) -> list[Any]:
    """The gradients of all inputs, by a loop in the other direction."""
    lay = layout_of(loop, inputs)
    invariants, _, carries = loop.sorted(inputs)
    gradients = _split_gradient(g, lay)
    ends, histories, ys = _sort_gradients(loop, gradients)
    count = len(loop.carries)
    given = [k in histories for k in range(count)]
    given += [count + i in ys for i in range(len(loop.ys))]
    moving = tuple([x.requires_grad or not y.requires_grad for x in inputs])
    made: Adjoint = adjoint(loop, types_of(inputs), moving, tuple(given))
    stacks = _Stacks(loop, lay, y, inputs, histories, ys)
    floating = [k for k in range(count) if is_differentiable(carries[k].dtype)]
    entering = [ends[k] if k in ends else zeros(carries[k].shape, carries[k].dtype)
                for k in floating]  # fmt: skip
    entering += [zeros(each.shape, each.dtype) for each in made.sums]
    first_carry = loop.invariants + loop.xs
    wanted = [moving[first_carry + k] for k in floating] + [True] * len(made.sums)
    last, stacked = run_loop(
        made.body, invariants, [stacks.of(each) for each in made.xs], entering,
        loop.length, not loop.reverse, wanted,
    )  # fmt: skip
    n = sum(place >= 0 for place in made.gx)
    sums = last[len(floating) :]
    totals = made.behind([*invariants, *stacked[n:], *sums])  # type: ignore[list-item]
    found: list[Any] = [None if place < 0 else totals[place] for place in made.gc]
    found += [None if place < 0 else stacked[place] for place in made.gx]
    first = dict(zip(floating, last, strict=False))
    for k in range(count):
        part = first.get(k)
        if part is not None and loop.carries[k] == HISTORY:
            whole = gradients.get(k)
            start = None if whole is None else _start_of(whole, loop)
            part = part if start is None else apply(add, part, start)
        found.append(part)
    return found


class _Stacks:
    """Looks up what the backward loop needs of each step."""

    def __init__(
        self, loop: Loop, lay: Layout, y: Tensor, inputs: Sequence[Tensor],
        histories: dict[int, Tensor], ys: dict[int, Tensor],
    ) -> None:  # fmt: skip
        self.loop, self.inputs, self.histories, self.ys = loop, inputs, histories, ys
        self.results = {part.number: part_of(y, part) for part in lay.parts}

    def of(self, source: Source) -> Tensor:
        kind, i = source
        if kind == "x":
            return self.inputs[self.loop.invariants + i]
        if kind == "of y":
            return self.ys[i]
        if kind == "of history":
            return self.histories[i]
        if kind == "y":
            return self.results[i]
        history = self._history(i)
        return incoming(history, self.loop) if kind == "in" else outgoing(history, self.loop)

    def _history(self, k: int) -> Tensor:
        """All values of a carry; where they were not kept, the loop has to run again."""
        loop = self.loop
        if loop.carries[k] != HISTORY:
            wishes = [HISTORY if i == k else NOTHING for i in range(len(loop.carries))]
            again = replace(loop, carries=tuple(wishes), ys=(False,) * len(loop.ys))
            self.results[k] = apply_loop(again, *loop.sorted(self.inputs))[k]
        return self.results[k]


def _split_gradient(g: Tensor, lay: Layout) -> dict[int, Tensor]:
    """The gradients of the results out of that of the packed tensor.

    The gradient of a slice is zeros with the gradient in it; where g is a sum of such, nothing is
    unpacked, and results without a gradient are left out.
    """
    cuts = {((part.start, part.size, 1),): part for part in lay.parts}
    pieces = _pieces(g._node)
    if pieces is None or any(cut not in cuts for cut, _ in pieces):
        return {part.number: part_of(g, part) for part in lay.parts}
    found: dict[int, Tensor] = {}
    for cut, piece in pieces:
        part = cuts[cut]
        shaped = _unshaped(piece, part.shape)
        if shaped.dtype != part.dtype:
            shaped = shaped.astype(part.dtype)
        held = found.get(part.number)
        found[part.number] = shaped if held is None else apply(add, held, shaped)
    return found


def _unshaped(node: Node, shape: tuple[int, ...]) -> Tensor:
    """A node in another shape, which is that of its own input where it was only reshaped."""
    reshaped = node.op is not None and node.op.name == "reshape" and node.inputs
    if reshaped and node.inputs[0].shape == shape:
        return wrap(node.inputs[0])
    return wrap(node).reshape(shape)


def _pieces(node: Node) -> list[tuple[Any, Node]] | None:
    """The parts that a sum of padded parts is made of; None where it is anything else."""
    found, stack = [], [node]
    while stack:
        node = stack.pop()
        if node.op is None or not node.inputs:
            return None
        if node.op is add and all(each.shape == node.shape for each in node.inputs):
            stack += reversed(node.inputs)
        elif node.op.name == "slice_update" and _is_zero(node.inputs[0]):
            found.append((tuple(node.attributes["cut"]), node.inputs[1]))
        elif not _is_zero(node):
            return None
    return found


def _is_zero(node: Node) -> bool:
    while node.op is not None and node.op.name in ("broadcast_to", "reshape") and node.inputs:
        node = node.inputs[0]
    return node.constant == 0 and node.constant is not None


def _sort_gradients(
    loop: Loop, gradients: dict[int, Tensor]
) -> tuple[dict[int, Tensor], dict[int, Tensor], dict[int, Tensor]]:
    """The gradients of last carries, of what comes out of each step, and of the ys."""
    count = len(loop.carries)
    ends: dict[int, Tensor] = {}
    histories: dict[int, Tensor] = {}
    ys: dict[int, Tensor] = {}
    for i, g in gradients.items():
        if i >= count:
            ys[i] = g
        elif loop.carries[i] == LAST:
            ends[i] = g
        else:
            _sort_history(loop, i, g, ends, histories)
    return ends, histories, ys


def _sort_history(
    loop: Loop, k: int, g: Tensor, ends: dict[int, Tensor], histories: dict[int, Tensor]
) -> None:
    rest = [(0, n, 1) for n in g.shape[1:]]
    after = ((0 if loop.reverse else 1, loop.length, 1), *rest)
    end = ((0 if loop.reverse else loop.length, 1, 1), *rest)
    pieces = _pieces(g._node)
    if pieces is None or any(cut not in (after, end) for cut, _ in pieces):
        histories[k] = outgoing(g, loop)
        return
    for cut, piece in pieces:
        into, part = (histories, wrap(piece)) if cut == after and loop.length > 1 else (
            ends, wrap(piece).reshape(g.shape[1:]))  # fmt: skip
        into[k] = apply(add, into[k], part) if k in into else part


def _start_of(g: Tensor, loop: Loop) -> Tensor | None:
    """The gradient of what went into the first step, out of that of a history."""
    rest = [(0, n, 1) for n in g.shape[1:]]
    after = ((0 if loop.reverse else 1, loop.length, 1), *rest)
    end = ((0 if loop.reverse else loop.length, 1, 1), *rest)
    pieces = _pieces(g._node)
    if pieces is not None and all(cut in (after, end) for cut, _ in pieces):
        return None
    return at_start(g, loop)


# --- tangent ---


def _moved(loop: Loop, types: tuple[Type, ...], moving: tuple[bool, ...]) -> Loop:
    """The loop that carries tangents beside the values."""
    invariants, xs, carries = loop.sorted(types)
    flags = [*moving[: loop.invariants + loop.xs], *[is_differentiable(x.dtype) for x in carries]]
    steps = [Type(x.shape[1:], x.dtype) for x in xs]
    like = [*invariants, *steps, *carries]
    with grad_mode(True):
        made = [stand_in(each, flag) for each, flag in zip(like, flags, strict=True)]
        values = loop.body.record(made)
    ts = {x._node: stand_in(each)
          for x, each, flag in zip(made, like, flags, strict=True) if flag}  # fmt: skip
    with grad_mode(False):
        found = push_forward([each._node for each in values if each.requires_grad], ts)
        results = [values[i] for i in loop.body.outputs]
        moved = [found[r._node] if r._node in found else zeros(r.shape, r.dtype) for r in results]
    n, m = loop.invariants, loop.invariants + loop.xs
    parts = [made[:n], made[n:m], made[m:]]
    inputs: list[Tensor] = []
    counts = []
    for part in parts:
        extra = [ts[x._node] for x in part if x._node in ts]
        inputs += [*part, *extra]
        counts.append(len(part) + len(extra))
    count = len(loop.carries)
    floating = [k for k in range(count) if is_differentiable(carries[k].dtype)]
    ends = [*results[:count], *[moved[k] for k in floating], *moved[count:]]
    body = body_of([each._node for each in ends], [x._node for x in inputs])
    wishes = (*[NOTHING] * count, *[loop.carries[k] for k in floating])
    return Loop(body, counts[0], counts[1], wishes, loop.ys, loop.length, loop.reverse)


moved_loop = derive_once(_moved)


def tangent(op: Op, ts: Sequence[Any], y: Tensor, *inputs: Tensor, loop: Loop) -> Tensor:
    """The tangent of the packed results, by a loop of the values and their tangents."""
    moving = tuple([t is not None for t in ts])
    made: Loop = moved_loop(loop, types_of(inputs), moving)
    invariants, xs, carries = loop.sorted(list(zip(inputs, ts, strict=True)))
    given: list[Tensor] = []
    for part in (invariants, xs):
        given += [x for x, _ in part]
        given += [t for _, t in part if t is not None]
    given += [x for x, _ in carries]
    for x, t in carries:
        if is_differentiable(x.dtype):
            given.append(zeros(x.shape, x.dtype) if t is None else t)
    return apply(op, *given, loop=made)


# --- batch ---


def _mapped(loop: Loop, types: tuple[Type, ...], batched: tuple[bool, ...], size: int) -> Any:
    """The loop for all examples, and which carries differ from example to example."""
    invariants, xs, carries = loop.sorted(types)
    like = [*invariants, *[Type(x.shape[1:], x.dtype) for x in xs], *carries]
    flags = list(batched)
    first = loop.invariants + loop.xs
    while True:
        tick, clock = stand_in(Type((), types[-1].dtype)), stand_in(Type((size,), types[-1].dtype))
        made = [stand_in(each) for each in like]
        many = [stand_in(Type((size, *each.shape), each.dtype)) if flag else x
                for each, x, flag in zip(like, made, flags, strict=True)]  # fmt: skip
        results = loop.body(made)
        pairs = zip(made, many, strict=True)
        known = {tick._node: clock} | {x._node: xs for x, xs in pairs if x is not xs}
        with grad_mode(False):
            found = batch([each._node for each in results], known, size)
        more = [
            k for k in range(len(carries)) if results[k]._node in found and not flags[first + k]
        ]
        if not more:
            break
        for k in more:
            flags[first + k] = True
    ends = []
    for i, result in enumerate(results):
        whole = i >= len(carries) or flags[first + i]
        y = found.get(result._node)
        ends.append(y if y is not None else repeated(result, size) if whole else result)
    body = body_of([each._node for each in ends], [x._node for x in many])
    return replace(loop, body=body), tuple(flags[first:])


mapped_loop = derive_once(_mapped)


def batch_rule(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    """A loop whose steps compute all examples."""
    assert node.op is not None
    loop: Loop = node.attributes["loop"]
    made, wide = mapped_loop(loop, types_of(node.inputs), tuple(batched), size)
    first, inputs = loop.invariants + loop.xs, []
    for i, (x, flag) in enumerate(zip(xs, batched, strict=True)):
        if flag and loop.invariants <= i < first:
            x = x.permute_dims((1, 0, *range(2, x.ndim)))
        elif not flag and i >= first and wide[i - first]:
            x = repeated(x, size)
        inputs.append(x)
    y = apply(node.op, *inputs, loop=made)
    parts = []
    for part in layout_of(made, inputs).parts:
        whole = packed(y, part)
        stacked = part.number >= len(loop.carries) or loop.carries[part.number] == HISTORY
        if part.number < len(loop.carries) and not wide[part.number]:
            parts.append(repeated(whole.reshape((part.size,)), size))
            continue
        if stacked:
            whole = whole.permute_dims((1, 0, *range(2, whole.ndim)))
        parts.append(whole.reshape((size, part.size // size)))
    return parts[0] if len(parts) == 1 else concat(parts, axis=1)


__all__ = ["at_end", "batch_rule", "gradient", "tangent"]
