"""What a loop keeps of its steps for the gradient.

The backward loop gets histories of carries and stacks of what is dear to compute, such as products
and what is made of them; what is cheap elementwise from those is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from schuss.autodiff.backward import propagate, tape
from schuss.autodiff.recording import conjugated
from schuss.compiler.emit import COST
from schuss.compiler.values import VIEWS
from schuss.context import grad_mode
from schuss.dtypes import is_differentiable
from schuss.graph import Node, ancestors, apply
from schuss.ops.body import Type, body_of, derive_once, stand_in, types_of
from schuss.ops.elementwise import add
from schuss.ops.loop import HISTORY, Loop

if TYPE_CHECKING:
    from schuss.tensor import Tensor

_CHEAP = {*COST, *VIEWS, "alias", "detach", "slice_update", "concat"} - {"gather", "random_bits"}


@dataclass
class Recorded:
    """The body of a loop and its gradient, recorded on stand-ins.

    Attributes:
        invariants, xs, carries: the inputs of a step.
        values: all values of the body, by their numbers.
        results: the new carries and the ys.
        seeds: stand-ins for the gradients of the results, by index.
        found: gradients of the inputs.
    """

    invariants: list[Tensor]
    xs: list[Tensor]
    carries: list[Tensor]
    values: list[Tensor]
    results: list[Tensor]
    seeds: dict[int, Tensor]
    found: dict[Node, Tensor]

    @property
    def inputs(self) -> list[Tensor]:
        return [*self.invariants, *self.xs, *self.carries]


def record_gradient(
    loop: Loop, types: Sequence[Type], moving: Sequence[bool], given: Callable[[int], bool]
) -> Recorded:
    """Record a step and what it does with gradients.

    `moving` tells which invariants and xs want a gradient, `given` which results have one. New
    carries of floating dtypes always have: the gradient that the step behind says, plus, where
    `given`, that of the history (whose seed comes then at index -1 - k).
    """
    invariants, xs, carries = loop.sorted(types)
    steps = [Type(x.shape[1:], x.dtype) for x in xs]
    flags = [*moving[: loop.invariants + loop.xs], *[True] * len(carries)]
    made = [
        stand_in(each, flag and is_differentiable(each.dtype))
        for each, flag in zip([*invariants, *steps, *carries], flags, strict=True)
    ]
    with grad_mode(True):
        values = loop.body.record(made)
    results = [values[i] for i in loop.body.outputs]
    seeds: dict[int, Tensor] = {}
    roots: dict[Node, Tensor] = {}
    with grad_mode(False):
        for i, result in enumerate(results):
            if not is_differentiable(result.dtype):
                continue
            places = [i] if i < len(carries) else []
            places += [-1 - i if places else i] if given(i) else []
            for place in places:
                g = seeds[place] = stand_in(Type(result.shape, result.dtype))
                if result.requires_grad:
                    held = roots.get(result._node)
                    roots[result._node] = g if held is None else apply(add, held, g)
        targets = frozenset(x._node for x in made if x.requires_grad)
        inside = {node: conjugated(g) for node, g in roots.items()}  # rules run inside of a walk
        found = propagate(tape(*inside), inside, targets)
        found = {node: conjugated(g) for node, g in found.items()}
    return Recorded(*loop.sorted(made), values, results, seeds, found)


def _with_residuals(loop: Loop, types: tuple[Type, ...], moving: tuple[bool, ...]) -> Loop:
    recorded = record_gradient(loop, types, moving, lambda i: i >= len(loop.carries))
    forward = {each._node: i for i, each in enumerate(recorded.values)}
    inside = ancestors([g._node for g in recorded.found.values()], lambda n: n not in forward)
    used = {each for node in inside for each in node.inputs if each in forward}
    used.update(node for node in (g._node for g in recorded.found.values()) if node in forward)
    fixed = {x._node for x in (*recorded.invariants, *recorded.xs)}
    carries = [x._node for x in recorded.carries]
    results = [x._node for x in recorded.results]
    kept: set[Node] = set(fixed)
    dear: dict[Node, bool] = {}

    def is_dear(node: Node) -> bool:
        """Whether computing a value from what is kept takes more than cheap ops."""
        for each in ancestors([node], lambda n: n not in kept):
            costs = each.op is not None and each not in carries and each.op.name not in _CHEAP
            dear[each] = costs or any(dear[x] for x in each.inputs if x not in kept)
        return dear[node]

    histories: set[int] = set()
    extra: list[Node] = []
    for node in sorted(used - kept, key=lambda n: n.number):
        while node.op is not None and node.op.name in VIEWS and node not in kept:
            node = node.inputs[0]
        if node in kept or node in carries or not is_dear(node):
            continue
        kept.add(node)
        dear.clear()
        if node in results[: len(carries)]:
            histories.add(results.index(node))
        elif node not in results:
            extra.append(node)
    for node in ancestors(list(used), lambda n: n not in kept):
        if node in carries:
            histories.add(carries.index(node))
    # Only what has the dtype of other results can be looked up in the same packed tensor.
    wishes = tuple(HISTORY if k in histories else wish for k, wish in enumerate(loop.carries))
    body = body_of([*results, *extra], [each._node for each in recorded.inputs])
    return replace(loop, body=body, carries=wishes, ys=(*loop.ys, *[True] * len(extra)))


_extended = derive_once(_with_residuals)


def with_residuals(loop: Loop, inputs: Sequence[Tensor]) -> Loop:
    """The loop with more ys and histories: what its gradient will look at."""
    moving = tuple([x.requires_grad for x in inputs])
    return _extended(loop, types_of(inputs), moving) if any(moving) else loop


__all__ = ["Recorded", "record_gradient", "with_residuals"]
