"""What the first pass makes of recorded graphs."""

from __future__ import annotations

import numpy as np
import pytest
from tests.compiler.graphs import filled, ops, recorded

import schuss
from schuss.compiler.simplify import SPLIT_FROM, simplify
from schuss.compiler.verify import verify_graph


def simplified(*tensors: object) -> list[str]:
    graph = simplify(recorded(*tensors))
    verify_graph(graph)
    return ops(graph)


def test_equal_values_become_one() -> None:
    x = filled(3)
    assert simplified(schuss.exp(x) + schuss.exp(x)) == ["exp", "add"]


def test_names_without_a_meaning_go() -> None:
    assert simplified(filled(3).detach().reshape(1, 3).reshape(3) * 1) == []


def test_numbers_are_not_folded_unless_the_structure_holds_them() -> None:
    x = filled(3)
    assert simplified(x * 1.0) == []
    assert simplified(x * 3.0) == ["multiply"]
    assert simplified(x + 0) == ["add"]  # -0 + 0 is 0


def test_a_turned_product_is_a_product_of_turned_operands() -> None:
    x, y = filled(4, 3), filled(3, 5)
    assert simplified((x @ y).mT * 2.5) == ["permute", "permute", "matmul", "multiply"]
    z = x @ y
    assert "matmul" in simplified(z, z.mT * 2.5)


def test_a_cast_there_and_back_is_nothing_where_no_digit_is_lost() -> None:
    x = filled(3)
    assert simplified(x.astype(schuss.float64).astype(schuss.float32)) == []
    half = x.astype(schuss.bfloat16)
    assert simplified(half.astype(schuss.float32).astype(schuss.bfloat16)) == ["astype"]
    assert simplified(half.astype(schuss.float16).astype(schuss.bfloat16)) == ["astype"] * 3
    assert simplified(half.astype(schuss.float32)) == ["astype", "astype"]
    assert simplified(x.astype(schuss.int32).astype(schuss.float32)) == ["astype", "astype"]


def test_a_weight_is_cast_once() -> None:
    x, weight = filled(4, 3), filled(3, 3)
    with schuss.autocast():
        y = (x @ weight.mT) @ weight
    assert simplified(y).count("astype") == 2


def test_argmax_is_said_with_other_reductions() -> None:
    assert "min" in simplified(schuss.argmax(filled(3, 4), axis=1))


def test_long_sums_are_cut_in_two() -> None:
    assert simplified(filled(SPLIT_FROM).sum()).count("sum") == 2
    assert simplified(filled(100).sum()).count("sum") == 1


def test_gradients_of_slices_are_put_together() -> None:
    x = filled(2, 6)
    x.requires_grad = True
    first, second = x[:, :3], x[:, 3:]
    (first * 3 + second * 5).sum().backward()
    assert "pieces" in simplified(x.grad)
    assert "slice_update" not in simplified(x.grad)


def test_checks_are_values() -> None:
    graph = simplify(recorded(filled(4, 2)[schuss.tensor([0, 3])]))
    assert len(graph.checks) == 1
    assert graph.checks[0].dtype == schuss.bool_


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_empty_values_need_no_work(shape: tuple[int, ...]) -> None:
    assert simplified(schuss.exp(filled(*shape) + 1.5)) == ["broadcast_to"]


def test_a_sum_of_nothing_is_a_constant() -> None:
    graph = simplify(recorded(schuss.sum(schuss.tensor(np.zeros((0, 3), np.float32)), axis=0)))
    assert ops(graph) == ["broadcast_to"]
