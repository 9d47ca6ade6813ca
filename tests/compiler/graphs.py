"""Graphs for the tests of the passes, recorded from tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

import schuss
from schuss.compiler.values import Graph
from schuss.execution.capture import capture
from schuss.graph import ancestors


def filled(*shape: int, dtype: Any = np.float32) -> Any:
    """A tensor that has a value, so that it is an input."""
    return schuss.tensor(np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype))


def recorded(*tensors: Any) -> Graph:
    """The graph that computes these tensors, as the compiler sees it."""
    nodes = [each._node for each in tensors]
    order = ancestors(nodes, lambda node: node.value is None)
    return capture(order, set(nodes)).graph()


def ops(graph: Graph) -> list[str]:
    return [value.op for value in graph.values if value.op not in ("input", "constant")]
