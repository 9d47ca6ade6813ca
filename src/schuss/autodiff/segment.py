"""A piece of the recorded graph as a function: it can be recorded again from other starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from schuss.autodiff.backward import is_leaf
from schuss.autodiff.custom import copy_rules
from schuss.context import context, grad_mode, rules
from schuss.graph import Node, ancestors, apply, wrap

if TYPE_CHECKING:
    from schuss.tensor import Tensor


class Segment:
    """What was recorded between some nodes and a result.

    Args:
        end: the node of the result.
        entering: the nodes that it starts from.
        first: what belongs to the piece has larger numbers than this.

    Attributes:
        inside: the nodes, in the order of recording.
        used: nodes from outside that it uses besides, and into which gradients flow.
        starts: the nodes that it starts from, those used, and the others from outside.
    """

    def __init__(self, end: Node, entering: Sequence[Node], first: float) -> None:
        self.end = end
        self.inside = ancestors([end], lambda node: node.number > first)
        outside: dict[Node, None] = {}
        for node in self.inside:
            if node not in entering:
                for each in node.inputs:
                    if each.number < first or (each.requires_grad and is_leaf(each)):
                        outside[each] = None
        self.used = [node for node in outside if node.requires_grad]
        others = [node for node in outside if not node.requires_grad]
        self.starts = [*entering, *self.used, *others]

    def again(self, *xs: Tensor) -> Tensor:
        """The result, recorded once more from other starts, the first few or all of them.

        Functions do not run again.
        """
        made = dict(zip(self.starts, xs, strict=False))
        with grad_mode(True), rules("recomputation"):
            for node in self.inside:
                if node in made or not any(each in made for each in node.inputs):
                    continue
                assert node.op is not None
                context.differentiating, context.grad_enabled = node, node.requires_grad
                inputs = [made[each] if each in made else wrap(each) for each in node.inputs]
                made[node] = apply(node.op, *inputs, **node.attributes)
                copy_rules(node, made[node]._node)
        return made[self.end]
