"""What is to be computed, as a structure: ops, attributes, shapes and wiring, without values.

Two evaluations of one structure share a Program. Numbers are inputs of the structure, apart from
the few that rules are made of (0, 1, 2 ...): those are part of it, by their value.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from schuss.compiler.values import Graph, Value
from schuss.graph import Node

_leaf_kinds: dict[Hashable, int] = {}  # of those that are not dense arrays
_DENSE = -2_000_000  # what kinds of leaves begin with, apart from places


class Key(tuple[int, ...]):
    """The key of a structure. It may be long, so its hash is worked out once."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self.hash = tuple.__hash__(self)

    def __hash__(self) -> int:
        return self.hash


@dataclass(slots=True)
class Capture:
    """One evaluation's structure and what goes into it.

    Attributes:
        key: equal for evaluations of one structure.
        order: the nodes to compute, inputs first.
        leaves: the nodes whose values go in.
        outputs: the nodes of `order` whose values are wanted.
    """

    key: Key
    order: Sequence[Node]
    leaves: list[Node]
    outputs: list[Node]

    def graph(self) -> Graph:
        """The structure as the compiler sees it."""
        values: list[Value] = []
        inputs: list[Value] = []
        made: dict[Node, Value] = {}
        for node in self.leaves:
            if node.constant is not None:
                value = Value("constant", (), {"value": node.constant}, node.shape, node.dtype)
            else:
                value = Value("input", (), {}, node.shape, node.dtype)
                value.strides = strides_of(node.value)  # type: ignore[arg-type]
                inputs.append(value)
            made[node] = value
            value.number = len(values)
            values.append(value)
        for node in self.order:
            operands = tuple([made[each] for each in node.inputs])
            value = Value(node.op.name, operands, node.attributes, node.shape, node.dtype)  # type: ignore[union-attr]
            value.number = len(values)
            value.definition = node.op
            made[node] = value
            values.append(value)
        return Graph(values, inputs, [made[node] for node in self.outputs])


def strides_of(array: np.ndarray) -> tuple[int, ...] | None:
    """The strides in elements; None for an array that is dense in row-major order."""
    if array.flags.c_contiguous:
        return None
    return tuple([step // array.itemsize for step in array.strides])


def capture(order: Sequence[Node], kept: set[Node]) -> Capture:
    """The structure of the nodes in `order`, of which those in `kept` are wanted."""
    key: list[int] = []
    leaves: list[Node] = []
    number: dict[Node, int] = {}
    outputs: list[Node] = []
    for node in order:
        key.append(node.kind.number)
        for each in node.inputs:
            place = number.get(each)
            if place is None:  # a leaf, met for the first time
                place = number[each] = -1 - len(leaves)
                leaves.append(each)
                key.append(leaf_kind(each))
            key.append(place)
        number[node] = len(number)
        if node in kept:
            outputs.append(node)
            key.append(-1_000_000)
    return Capture(Key(key), order, leaves, outputs)


def leaf_kind(leaf: Node) -> int:
    """What a structural key says of a leaf: its type and layout, or the number that it holds."""
    number = leaf.kind.type
    if leaf.constant is not None:
        described: Hashable = leaf.constant, number
    elif leaf.value.flags.c_contiguous:  # type: ignore[union-attr]
        return _DENSE - 2 * number
    else:
        described = leaf.value.strides, number  # type: ignore[union-attr]
    found = _leaf_kinds.get(described)
    if found is None:
        found = _leaf_kinds[described] = _DENSE - 1 - 2 * len(_leaf_kinds)
    return found
