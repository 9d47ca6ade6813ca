"""Rows of a small table: products and sums of the table instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import OutOfBoundsError
from schuss.execution.tiers import using

from .test_repeat import compiled

RNG = np.random.default_rng(0)
INDEX = schuss.tensor(RNG.integers(0, 5, (6, 8)))


def floats(*shape: int) -> schuss.Tensor:
    return schuss.tensor(RNG.standard_normal(shape), dtype=schuss.float64, requires_grad=True)


def products(*results: schuss.Tensor) -> list[tuple[int, ...]]:
    return [v.shape for v in compiled(*results).simplified.values if v.op == "matmul"]


def agree(f: Any) -> None:
    found = {}
    for tier in ("reference", "compiled"):
        with using(tier):
            results = f()
            schuss.evaluate(*results)
            found[tier] = [each.numpy() for each in results]
    for a, b in zip(found["compiled"], found["reference"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def test_products_and_their_gradients_are_of_the_table() -> None:
    table, w, b = floats(5, 3), floats(3, 7), floats(7)

    def run() -> list[schuss.Tensor]:
        y = schuss.tanh(table[INDEX.T] @ w + b)
        return [y, *schuss.grad(lambda t, w, b: (schuss.tanh(t[INDEX.T] @ w + b) ** 2).sum(),
                                (0, 1, 2))(table, w, b)]  # fmt: skip

    agree(run)
    assert all(5 in shape or shape == (3, 7) for shape in products(*run()))
    assert not any(48 in shape for shape in products(*run()))


def test_a_large_table_is_left_alone() -> None:
    table, w = floats(40, 3), floats(3, 7)
    assert products(table[INDEX] @ w) == [(48, 7)]
    agree(lambda: [table[INDEX] @ w])


def test_loops_look_up_their_rows() -> None:
    table, u = floats(5, 4), floats(4, 4)

    def run() -> list[schuss.Tensor]:
        def step(h: Any, row: Any) -> Any:
            h = schuss.tanh(h @ u + row)
            return h, h

        return [schuss.scan(step, schuss.zeros((8, 4), dtype=schuss.float64), table[INDEX])[1]]

    agree(run)
    (loop,) = [unit for unit in compiled(*run()).units if type(unit).__name__ == "Repeat"]
    assert any(line.op == "gather" for unit in loop.units for line in unit.kernel.lines)


def test_an_index_outside_is_still_found() -> None:
    model = nn.LSTM(3, 4)
    table = floats(5, 3).astype(schuss.float32)
    bad = schuss.tensor([[0, 1], [5, 2], [1, 1], [2, 2], [3, 3], [4, 4]])
    for index in (INDEX[:, :2], bad):
        with using("compiled"):
            y, _ = model(table[index])
            if index is bad:
                with pytest.raises(OutOfBoundsError, match="index 5 is outside axis 0"):
                    y.numpy()
            else:
                assert np.isfinite(y.numpy()).all()


def test_rows_added_up_in_any_order_of_axes() -> None:
    part = floats(8, 6, 3)
    agree(
        lambda: [
            schuss.grad(lambda t: (t[INDEX] * part.permute_dims((1, 0, 2))).sum())(floats(5, 3) * 0)
        ]
    )
