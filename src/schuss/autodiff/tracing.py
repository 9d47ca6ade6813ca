"""Running a function on stand-ins to get its body: for the ops of loops and branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import trees
from schuss.autodiff.custom import has_rules
from schuss.context import context, one_example
from schuss.errors import GradientError, TransformError, fail
from schuss.graph import Node, ancestors, data
from schuss.ops.body import Body, Type, body_of, stand_in

if TYPE_CHECKING:
    from schuss.tensor import Tensor

_NOTHING = np.zeros((), np.bool_)


@dataclass
class Traced:
    """What a function recorded on stand-ins.

    Attributes:
        where: what messages call it.
        stand_ins: for each argument its leaves.
        result: what the function returned.
        first: what it recorded has this number or larger ones.
    """

    where: str
    stand_ins: list[list[Tensor]]
    result: Any
    first: float

    def body(
        self, results: Sequence[Tensor], invariants: Sequence[Node], order: Sequence[int]
    ) -> Body:
        """The body, of invariants and then of the arguments in this order."""
        inner = [x._node for i in order for x in self.stand_ins[i]]
        return body_of([each._node for each in results], [*invariants, *inner])

    def invariants(self, results: Sequence[Tensor]) -> list[Node]:
        """What the results use from outside, or what is computed from that alone."""
        nodes = [each._node for each in results]
        varying = {x._node for part in self.stand_ins for x in part}
        found: dict[Node, None] = {}
        for node in ancestors(nodes, lambda n: n.number >= self.first and n.op is not None):
            if node in varying:
                continue
            random = node.op is not None and node.op.name == "random_bits"
            if not random and not any(each in varying for each in node.inputs):
                continue
            if has_rules(node):
                raise fail(
                    GradientError, self.where,
                    "functions with derivatives of their own (custom_gradient, checkpoint, "
                    "fixed_point) cannot stand in its body",
                )  # fmt: skip
            varying.add(node)
            for each in node.inputs:
                if each.constant is None:
                    found[each] = None
        for node in nodes:
            if node.constant is None:
                found[node] = None
        return [node for node in found if node not in varying]


def trace(
    where: str, f: Callable[..., Any], structures: Sequence[trees.Structure],
    types: Sequence[Sequence[Any]],
) -> Traced:  # fmt: skip
    """Run `f` on stand-ins: trees of these structures with leaves like `types`."""
    first = data(_NOTHING).number
    changed = len(context.unsettled)
    pending, context.pending = context.pending, []
    try:
        stand_ins = [[stand_in(Type(tuple(x.shape), x.dtype)) for x in part] for part in types]
        with one_example():
            result = f(*[s.unflatten(x) for s, x in zip(structures, stand_ins, strict=True)])
    finally:
        own, context.pending = context.pending, pending
    traced = Traced(where, stand_ins, result, first)
    _require_state_unchanged(traced, changed)
    context.pending += own
    return traced


def _require_state_unchanged(traced: Traced, changed: int) -> None:
    """Raise TransformError where a layer took on a state inside."""
    for ref in context.unsettled[changed:]:
        handle = ref()
        if handle is not None and handle._node.number >= traced.first:
            handle._settle()
            raise fail(
                TransformError, traced.where,
                "a layer would take on a state inside the function (running statistics, say)",
                state=handle, hint="hand the state on as a carry, or call model.eval() first",
            )  # fmt: skip
