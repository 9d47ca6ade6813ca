"""Graphs for the tests of the passes, recorded from tensors, and functions on both tiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import schuss
from schuss.compiler.values import Graph
from schuss.execution.capture import capture
from schuss.execution.tiers import using
from schuss.functions.arguments import adopt
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


def numbers(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return (3 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def agree(
    f: Callable[..., Any], *arrays: np.ndarray, rtol: float = 1e-5, atol: float = 1e-6
) -> None:
    """The outputs of `f` are the same on both tiers."""
    found = {}
    for tier in ("reference", "compiled"):
        with using(tier):
            made = f(*[adopt(each) for each in arrays])
            outputs = made if isinstance(made, (list, tuple)) else [made]
            schuss.evaluate(*outputs)
            assert schuss.last_run().tier == tier
            found[tier] = [each.numpy() for each in outputs]
    for a, b in zip(found["compiled"], found["reference"], strict=True):
        assert a.dtype == b.dtype
        wide = "c16" if a.dtype.kind == "c" else "f8"
        np.testing.assert_allclose(a.astype(wide), b.astype(wide), rtol=rtol, atol=atol)
