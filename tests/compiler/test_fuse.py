"""Which values are computed together, as text: a change in fusion shows here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tests.compiler.graphs import filled, recorded

import schuss
from schuss import nn, optim
from schuss.compiler.fuse import _around, fuse
from schuss.compiler.layout import layout
from schuss.compiler.simplify import simplify
from schuss.compiler.units import Assemble, Host, Loops, Product, Unit
from schuss.compiler.verify import verify_units


def fused(*tensors: Any) -> list[Unit]:
    graph = layout(simplify(recorded(*tensors)))
    units = fuse(graph)
    verify_units(graph, units)
    return units


def kinds(units: list[Unit]) -> list[str]:
    return [type(unit).__name__ for unit in units]


def test_a_chain_is_one_kernel() -> None:
    x = filled(4, 5)
    (unit,) = fused(schuss.exp(x * 2.5 + 1.5) - x)
    assert str(unit) == "\n".join(
        [
            "for outer [20]:",
            "  %0 = load b0[i] : float32",
            "  %1 = load b1[0] : float32",
            "  %2 = multiply %0 %1 : float32",
            "  %3 = load b2[0] : float32",
            "  %4 = add %2 %3 : float32",
            "  %5 = exp %4 : float32",
            "  %6 = subtract %5 %0 : float32",
            "  store b3[i] <- %6",
            "  b0 is %0, b1 is %1, b2 is %2, b3 is %6",
        ]
    )


def test_softmax_is_one_kernel_that_goes_over_its_rows() -> None:
    (unit,) = fused(schuss.softmax(filled(4, 5), axis=-1))
    assert isinstance(unit, Loops)
    assert [line.op for line in unit.kernel.lines if line.op.startswith("reduce")] == [
        "reduce.max",
        "reduce.sum",
    ]


def test_layer_norm_is_one_kernel() -> None:
    x, w, b = filled(4, 8), filled(8), filled(8)
    assert kinds(fused(nn.functional.layer_norm(x, (8,), w, b))) == ["Loops"]


def test_bias_and_activation_go_into_the_epilogue() -> None:
    x, w, b = filled(4, 8), filled(3, 8), filled(3)
    (unit,) = fused(nn.functional.linear(x, w, b).relu())
    assert isinstance(unit, Product)
    assert [line.op for line in unit.kernel.lines] == ["given", "load", "add", "relu"]


def test_views_are_positions() -> None:
    x = filled(2, 3, 4)
    (unit,) = fused(schuss.flip(x.permute_dims((2, 0, 1)), axis=0) * 2.5)
    assert isinstance(unit, Loops)
    assert unit.kernel.lines[0].detail == (0, (-1, 4, 3)) or len(unit.kernel.sizes) == 2


def test_a_training_step_of_a_perceptron() -> None:
    """Five products; the activation's gradient and the updates are in their epilogues."""
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    schuss.evaluate(*model.parameters())
    loss = nn.functional.cross_entropy(model(filled(4, 8)), schuss.tensor([0, 2, 1, 1]))
    loss.backward()
    with schuss.no_grad():
        updated = [
            optimizer.update(p.detach(), p.grad, {}, optimizer.param_groups[0])
            for p in model.parameters()
        ]
    units = fused(loss, *updated)
    assert kinds(units).count("Product") == 5
    assert "Host" not in kinds(units)
    assert len(units) <= 10


def test_a_reshape_across_loops_is_a_copy() -> None:
    x = filled(4, 6)
    units = fused(x.mT.reshape(3, 8) * 2.5)
    assert all(isinstance(unit, (Loops, Host)) for unit in units)


def test_what_no_kernel_says_stays_on_the_host() -> None:
    (unit,) = fused(schuss.argsort(filled(5)))
    assert isinstance(unit, Host)


def test_a_group_never_needs_what_needs_it() -> None:
    x = filled(16, 16)
    y = x * 2.5
    total = schuss.sum(y @ x)  # y before, the sum after the product
    assert kinds(fused(y + total, y))[-1] == "Loops"


@pytest.mark.parametrize("length", [50, 700])
def test_long_chains_are_cut(length: int) -> None:
    y = filled(10)
    for _ in range(length):
        y = y * 1.5
    units = fused(y)
    assert all(len(unit.kernel.lines) < 450 for unit in units if isinstance(unit, Loops))


@pytest.mark.parametrize(
    "cut", [((0, 2, 1), (1, 3, 1), (0, 4, 1)), ((1, 1, 1), (0, 5, 1), (2, 2, 1)), ((0, 0, 1),) * 3]
)
def test_what_is_around_a_part(cut: tuple[tuple[int, int, int], ...]) -> None:
    """Every element is in the cut or in one of the boxes, and in one only."""
    shape = 2, 5, 4
    count = np.zeros(shape, int)
    for box in [cut, *(_around(cut, shape) or [])]:
        count[tuple(slice(first, first + n) for first, n, _ in box)] += 1
    assert (count == 1).all()
    assert _around(((0, 1, 2), (0, 5, 1), (0, 4, 1)), shape) is None


def test_only_the_border_is_filled_where_something_is_padded() -> None:
    x = filled(3, 4)
    (unit,) = fused(schuss.pad(x, ((0, 1), (1, 2))))
    assert isinstance(unit, Assemble)
    (side_by_side,) = unit.kernels
    assert sum(math.prod(kernel.sizes) for kernel in side_by_side) == 4 * 7
    (unit,) = fused(schuss.pad(x, ((0, 1), (1, 2)), 5))
    assert [len(group) for group in unit.kernels] == [4]
    whole, part = filled(6, 4), filled(3, 2)
    whole[::2, 1:3] = part
    (unit,) = fused(whole)
    assert [len(group) for group in unit.kernels] == [
        1,
        1,
    ]  # first all that is there, then every second row of it
