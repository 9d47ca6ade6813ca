"""Constant factors and terms behind products and convolutions go into the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.compiler.graphs import ops

import schuss
from schuss.compiler.absorb import absorb
from schuss.compiler.program import Program, compile_graph
from schuss.compiler.values import Graph
from schuss.compiler.verify import verify, verify_graph
from schuss.execution.capture import capture
from schuss.graph import ancestors
from schuss.nn import functional as F  # noqa: N812  # its name everywhere

RNG = np.random.default_rng(0)


def some(*shape: int, dtype: Any = np.float32) -> Any:
    return schuss.tensor(RNG.uniform(0.5, 1.5, shape).astype(dtype))


def with_constants(x: Any, *wanted: Any) -> Graph:
    """The graph that computes these tensors, in which all inputs but x never change."""
    nodes = [each._node for each in wanted]
    order = ancestors(nodes, lambda node: node.value is None)
    work = capture(order, set(nodes))
    graph = work.graph()
    leaves = [leaf for leaf in work.leaves if leaf.constant is None]
    for value, leaf in zip(graph.inputs, leaves, strict=True):
        if leaf is not x._node:
            value.array = leaf.value
    return graph


def absorbed(x: Any, *wanted: Any, rtol: float = 3e-6) -> Graph:
    """What the pass makes of the graph, which gives the same values."""
    made = absorb(with_constants(x, *wanted))
    verify_graph(made)
    program = Program(compile_graph(made))
    verify(program.compiled)
    for found, each in zip(program.run([x.numpy()]), wanted, strict=True):
        np.testing.assert_allclose(found, each.numpy(), rtol=rtol)
    return made


def normalised(y: Any, outputs: int, rank: int = 0) -> Any:
    """As batch normalisation does it: (y - mean) * scale * weight + bias."""
    shape = (1, outputs) + (1,) * rank
    return (y - some(*shape)) * some(*shape) * some(*shape) + some(*shape)


def test_a_linear_layer() -> None:
    x, w = some(4, 6), some(5, 6).mT
    w.numpy()  # computed, and transposed in memory
    graph = absorbed(x, normalised(x @ w + some(5), 5).relu())
    assert ops(graph) == ["matmul", "add", "relu"]
    assert len(graph.inputs) == 3  # x, weights, terms: the others are not kept


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution(groups: int) -> None:
    x = some(2, 4, 7, 6)
    y = F.conv2d(x, some(6, 4 // groups, 3, 3), None, 2, 1, 1, groups)
    assert ops(absorbed(x, normalised(y, 6, rank=2))) == ["convolve", "add"]


def test_divisors_and_numbers() -> None:
    x, w = some(4, 3), some(3, 5)
    graph = absorbed(x, (2 * (x @ w) - 0.25) / some(5) + 1)
    assert ops(graph) == ["matmul", "add"]
    assert ops(absorbed(x, (x @ w) * some(5))) == ["matmul"]


def test_what_several_look_at_stays() -> None:
    x, w = some(4, 3), some(3, 5)
    y = x @ w
    graph = absorbed(x, y * some(5), y + 1)
    assert ops(graph) == ["matmul", "multiply", "add"]
    scaled = (x @ w) * some(5)
    graph = absorbed(x, scaled, (scaled + some(5)).exp())
    assert ops(graph) == ["matmul", "add", "exp"]


@pytest.mark.parametrize("shape", [(4, 1), (4, 5)])
def test_what_changes_from_row_to_row_stays(shape: tuple[int, ...]) -> None:
    x = some(4, 3)
    assert ops(absorbed(x, (x @ some(3, 5)) * some(*shape))) == ["matmul", "multiply"]


@pytest.mark.parametrize("shape", [(3,), (2, 1, 1, 1), (1, 1, 3, 1)])
def test_what_changes_from_place_to_place_stays(shape: tuple[int, ...]) -> None:
    x = some(2, 3, 5, 5)
    y = F.conv2d(x, some(4, 3, 3, 3))
    assert ops(absorbed(x, y * some(*shape))) == ["convolve", "multiply"]


def test_what_depends_on_the_input_stays() -> None:
    x, w = some(4, 3), some(3, 5)
    assert ops(absorbed(x, (x @ w) * x[:1, :1])).count("multiply") == 1
    assert ops(absorbed(x, 20 - (x @ w) * 3)) == ["matmul", "subtract"]
    square = some(3, 3)
    assert "multiply" in ops(absorbed(square, (square @ square) * some(3)))


def test_factors_that_weights_cannot_hold_stay() -> None:
    x, w = some(4, 3), some(3, 2)
    scale = schuss.tensor(np.array([1, np.inf], np.float32))
    graph = absorb(with_constants(x, (x @ w) * scale))
    assert ops(graph) == ["matmul", "multiply"]
    half = some(4, 3, dtype=np.float16)
    graph = absorb(with_constants(half, (half @ some(3, 2, dtype=np.float16)) * 3))
    assert "multiply" in ops(graph)


def test_terms_alone_stay_where_they_are() -> None:
    x = some(4, 3)
    assert ops(absorbed(x, x @ some(3, 5) + some(5) + some(5))) == ["matmul", "add", "add"]
