"""The gradients of q, k and v are written side by side where they are parts of one product."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.compiler.graphs import agree, filled, numbers, recorded

import schuss
from schuss.compiler.program import compile_graph
from schuss.compiler.units import Assemble, Attention, Unit
from schuss.compiler.verify import verify
from schuss.nn import functional as F  # noqa: N812

BATCH, TIME, HEADS, WIDTH = 2, 5, 3, 4
ALL = HEADS * WIDTH


def attended(x: Any, w: Any, order: tuple[int, int, int] = (0, 1, 2)) -> Any:
    """Attention whose q, k and v are parts, in some order, of one product."""
    joint = x @ w
    parts = [joint[..., i * ALL : (i + 1) * ALL] for i in order]
    heads = [each.reshape(BATCH, TIME, HEADS, WIDTH).permute(0, 2, 1, 3) for each in parts]
    y = F.scaled_dot_product_attention(*heads, is_causal=True)
    return (y**2).sum()


def units_of(*tensors: Any) -> list[Unit]:
    compiled = compile_graph(recorded(*tensors))
    verify(compiled)
    return compiled.units


def joined(units: list[Unit]) -> list[Attention]:
    return [unit for unit in units if isinstance(unit, Attention) and unit.into is not None]


def test_parts_of_one_product_need_no_copy() -> None:
    x, w = filled(BATCH, TIME, ALL), filled(ALL, 3 * ALL)
    units = units_of(*schuss.grad(attended, (0, 1))(x, w))
    (unit,) = joined(units)
    assert not any(isinstance(each, Assemble) for each in units)
    memory, places = unit.into or (None, ())
    assert unit.writes() == [memory]
    assert [place[-1] for place in places] == [0, ALL, 2 * ALL]
    row = 3 * ALL
    assert {place[:-1] for place in places} == {(TIME * row, WIDTH, row, 1)}


def test_what_else_looks_at_the_gradients_needs_them_where_they_are() -> None:
    x, w = filled(BATCH, TIME, ALL), filled(ALL, 3 * ALL)
    joint = x @ w
    parts = [joint[..., i * ALL : (i + 1) * ALL] for i in range(3)]
    heads = [each.reshape(BATCH, TIME, HEADS, WIDTH).permute(0, 2, 1, 3) for each in parts]

    def loss(*heads: Any) -> Any:
        return (F.scaled_dot_product_attention(*heads) ** 2).sum()

    found = schuss.grad(loss, (0, 1, 2))(*heads)
    flat = [each.permute(0, 2, 1, 3).reshape(BATCH, TIME, ALL) for each in found]
    units = units_of(schuss.concat(flat, axis=2) @ w.T, found[0])
    assert not joined(units)
    assert any(isinstance(each, Assemble) for each in units)


def test_results_agree() -> None:
    arrays = numbers(BATCH, TIME, ALL) / 9, numbers(ALL, 3 * ALL, seed=1) / 9
    for order in ((0, 1, 2), (2, 0, 1)):
        gradients = schuss.grad(partial(attended, order=order), (0, 1))
        agree(gradients, *arrays, rtol=1e-3)


def test_gradients_that_are_copied_twice_are_copied() -> None:
    def f(*heads: Any) -> Any:
        def loss(*heads: Any) -> Any:
            return (F.scaled_dot_product_attention(*heads) ** 2).sum()

        found = schuss.grad(loss, (0, 1, 2))(*heads)
        dq, dk, dv = [each.permute(0, 2, 1, 3).reshape(BATCH, TIME, ALL) for each in found]
        return schuss.concat([dq, dk, dv, dv, dk, dq], axis=2)

    shape = (BATCH, HEADS, TIME, WIDTH)
    assert not joined(units_of(f(*[filled(*shape) for _ in range(3)])))
    agree(f, *[numbers(*shape, seed=i) / 9 for i in range(3)], rtol=1e-3)
