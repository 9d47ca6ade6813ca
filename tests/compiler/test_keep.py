"""Which derivatives are kept from the way there, and that results stay what they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.compiler.graphs import agree, filled, numbers, ops, recorded

import schuss
from schuss.compiler.fuse import fuse
from schuss.compiler.keep import keep
from schuss.compiler.simplify import simplify
from schuss.compiler.units import Product
from schuss.compiler.values import Graph
from schuss.compiler.verify import verify_graph
from schuss.nn import functional as F  # noqa: N812

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu of tanh": lambda x: F.gelu(x, "tanh"),
    "silu": F.silu,
    "sin times x": lambda x: x * schuss.sin(x),
}


def gradients(activation: Callable[[Any], Any], *more: Any) -> list[Any]:
    """Those of a small network for its input and its weights."""
    x, w, b, v = filled(6, 4), filled(4, 8), filled(8), filled(8, 3)

    def loss(x: Any, w: Any, b: Any, v: Any) -> Any:
        return ((activation(x @ w + b) @ v) ** 2).sum()

    return [*schuss.grad(loss, (0, 1, 2, 3))(x, w, b, v), *more]


def kept(*tensors: Any) -> Graph:
    graph = keep(simplify(recorded(*tensors)))
    verify_graph(graph)
    return graph


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_gradient_of_an_activation_behind_a_product_is_one_product(name: str) -> None:
    graph = kept(*gradients(ACTIVATIONS[name]))
    (slope,) = graph.kept
    (user,) = [value for value in graph.values if slope in value.inputs]
    assert user.op == "multiply"
    assert slope.shape == user.shape == (6, 8)


def test_the_product_stores_the_derivative_in_place_of_its_result() -> None:
    graph = kept(*gradients(F.gelu))
    first = next(value for value in graph.values if value.op == "matmul")
    units = [unit for unit in fuse(graph) if isinstance(unit, Product)]
    (there,) = [unit for unit in units if unit.value is first]
    assert first not in there.writes()
    assert graph.kept < set(there.writes())
    dear = [line.op for unit in units for line in unit.kernel.lines if line.op in ("erf", "exp")]
    assert sorted(dear) == ["erf", "exp"]


def test_nothing_is_kept_where_the_result_is_stored_anyway() -> None:
    x, w = filled(6, 4), filled(4, 8)
    wide = x @ w

    def loss(x: Any) -> Any:
        return (F.gelu(x @ w) ** 2).sum()

    assert not kept(schuss.grad(loss)(x), wide).kept  # an output

    def twice(x: Any) -> Any:
        h = x @ w
        return (F.gelu(h) @ h.T).sum()  # an operand

    assert not kept(schuss.grad(twice)(x)).kept

    def later(x: Any) -> Any:
        h = x @ w
        return ((F.gelu(h) @ (w.T @ w)) * schuss.exp(h)).sum()  # looked at behind the next product

    assert not kept(schuss.grad(later)(x)).kept


def test_cheap_derivatives_are_computed_again() -> None:
    assert not kept(*gradients(lambda x: x * x + x * schuss.relu(x))).kept


def test_inputs_and_sums_keep_nothing() -> None:
    x = filled(6, 8)
    assert not kept(schuss.grad(lambda x: F.gelu(x).sum())(x)).kept
    assert not kept(schuss.grad(lambda x: F.gelu(x.sum(axis=1)).sum())(x)).kept


def test_a_graph_without_such_gradients_stays_as_it_is() -> None:
    graph = simplify(recorded(filled(6, 4) @ filled(4, 8)))
    assert keep(graph) is graph
    assert ops(graph) == ["matmul"]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_results_agree(name: str) -> None:
    def loss(x: Any, w: Any, b: Any, v: Any) -> Any:
        return ((ACTIVATIONS[name](x @ w + b) @ v) ** 2).sum()

    arrays = (numbers(7, 5), numbers(5, 9, seed=1), numbers(9, seed=2), numbers(9, 3, seed=3))
    agree(schuss.grad(loss, (0, 1, 2, 3)), *arrays, rtol=2e-5)


def test_second_derivatives_and_convolutions_agree() -> None:
    def slope(x: Any, w: Any) -> Any:
        return (schuss.grad(lambda x: F.gelu(x @ w).sum())(x) ** 2).sum()

    agree(schuss.grad(slope, (0, 1)), numbers(5, 4), numbers(4, 6, seed=1), rtol=1e-4)

    def convolved(x: Any, w: Any) -> Any:
        return (F.conv2d(F.gelu(F.conv2d(x, w, padding=1)), w, padding=1) ** 2).sum()

    images = numbers(2, 3, 6, 6) / 3, numbers(3, 3, 3, 3, seed=1) / 3
    agree(schuss.grad(convolved, (0, 1)), *images, rtol=1e-4)


def test_long_sums_and_powers_are_left_alone() -> None:
    sums = doubled = squared = filled(3)
    for _ in range(100):
        sums, doubled, squared = sums + 1.5, doubled + doubled, squared * squared
    for x in (sums, doubled, squared, squared + squared):
        graph = simplify(recorded(x))
        assert keep(graph) is graph
