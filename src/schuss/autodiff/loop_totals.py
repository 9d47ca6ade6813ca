"""Sums over the steps of a loop of what each step says about an invariant.

The gradient of a weight is the sum over all steps of products, `h[t].T @ g[t]`. Nothing is added up
in the loop: its operands are stacked, and one product over all steps and rows gives the sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from schuss.graph import Node, apply, scalar, wrap
from schuss.ops.body import Type, stand_in
from schuss.ops.broadcast import sum_
from schuss.ops.contraction import matmul
from schuss.ops.elementwise import add, multiply

if TYPE_CHECKING:
    from schuss.tensor import Tensor

_LINEAR = {"permute", "reshape", "reverse", "negative"}


class Totals:
    """Records the sums over all steps of values of one step.

    Args:
        varying: the nodes that are another value in each step.
        length: how many steps there are.

    Attributes:
        stacks: for values whose stacks are needed, stand-ins for these.
        added: values that are best added up in the loop, with stand-ins for their sums.
    """

    def __init__(self, varying: Iterable[Node], length: int) -> None:
        self.varying = set(varying)
        self.length = length
        self.stacks: dict[Node, Tensor] = {}
        self.added: dict[Node, Tensor] = {}

    def of(self, node: Node) -> Tensor:
        """The sum over all steps of a node."""
        terms, total = [node], None
        while terms:
            term = terms.pop()
            if self._is_sum(term):
                terms += reversed(term.inputs)
                continue
            found = self._term(term)
            total = found if total is None else apply(add, total, found)
        assert total is not None
        return total

    def _is_sum(self, node: Node) -> bool:
        return (
            node.op is add
            and node in self.varying
            and all(each.shape == node.shape for each in node.inputs)
        )

    def _term(self, node: Node) -> Tensor:
        if node not in self.varying:
            return apply(multiply, wrap(node), scalar(self.length, node.dtype))
        assert node.op is not None
        if node.op.name in _LINEAR and self._gathers(node):
            return apply(node.op, self.of(node.inputs[0]), **node.attributes)
        if node.op is sum_:
            return self._sum(node)
        if node.op is matmul:
            return self._product(node)
        if node not in self.added:
            self.added[node] = stand_in(Type(node.shape, node.dtype))
        return self.added[node]

    def _gathers(self, node: Node) -> bool:
        """Whether a node is made of products or sums by linear ops that know no other operands."""
        while node.op is not None and node.op.name in _LINEAR:
            node = node.inputs[0]
        return node.op in (matmul, sum_) or (
            self._is_sum(node) and all(each.op in (matmul, sum_) for each in node.inputs)
        )

    def _sum(self, node: Node) -> Tensor:
        (x,), axes = node.inputs, node.attributes["axes"]
        if x.op is matmul:
            return apply(sum_, self.of(x), axes=axes)
        return apply(sum_, self.stack(x), axes=(0, *[axis + 1 for axis in axes]))

    def _product(self, node: Node) -> Tensor:
        a, b = node.inputs
        if a not in self.varying:
            return apply(matmul, wrap(a), self.of(b))
        if b not in self.varying:
            return apply(matmul, self.of(a), wrap(b))
        if a.shape[:-2] != b.shape[:-2]:
            return apply(sum_, self._products(a, b), axes=(0,))
        return apply(matmul, self._rows(a, last=True), self._rows(b, last=False))

    def _products(self, a: Node, b: Node) -> Tensor:
        """The products of all steps, for operands whose batches broadcast."""
        rank = max(len(a.shape), len(b.shape))
        stacks = []
        for each in (a, b):
            whole = self.stack(each)
            fill = (1,) * (rank - len(each.shape))
            stacks.append(whole.reshape((self.length, *fill, *each.shape)))
        return apply(matmul, *stacks)

    def _rows(self, node: Node, last: bool) -> Tensor:
        """The stack with the summed axis of all steps as one: the last or the second-last axis."""
        rank = len(node.shape)
        turned = (*range(rank - 2), rank - 1, rank - 2)
        is_turned = node.op is not None and node.attributes.get("axes") == turned
        if is_turned and node.op.name == "permute" and node.inputs[0] in self.varying:  # type: ignore[union-attr]
            return self._rows(node.inputs[0], not last).mT
        whole = self.stack(node)
        batch = tuple(range(1, rank - 1))
        axes = (*batch, rank - 1, 0, rank) if last else (*batch, 0, rank - 1, rank)
        moved = whole.permute_dims(axes) if axes != tuple(range(rank + 1)) else whole
        m, n = node.shape[-2:]
        shape = (m, self.length * n) if last else (self.length * m, n)
        return moved.reshape((*node.shape[:-2], *shape))

    def stack(self, node: Node) -> Tensor:
        """The values of all steps along a new first axis."""
        if node not in self.stacks:
            self.stacks[node] = stand_in(Type((self.length, *node.shape), node.dtype))
        return self.stacks[node]
