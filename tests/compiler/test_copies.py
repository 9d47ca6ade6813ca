"""What is only copied is written to where the copy would lie: gradients of attention, what is
joined, and what stands inside of something larger.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.compiler.graphs import agree, filled, numbers, recorded

import schuss
from schuss.compiler.program import compile_graph
from schuss.compiler.units import Assemble, Attention, Convolution, Product, Unit
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


def branches(x: Any, *weights: Any) -> Any:
    """What several convolutions make of the same, side by side."""
    return schuss.concat([F.relu(F.conv2d(x, w)) for w in weights], axis=1)


def test_convolutions_write_to_their_part_of_what_joins_them() -> None:
    x, weights = filled(2, 3, 4, 4), [filled(n, 3, 1, 1) for n in (16, 5, 32)]
    behind = filled(2, 53, 1, 1)
    units = units_of(F.conv2d(branches(x, *weights), behind))
    assert not any(isinstance(each, Assemble) for each in units)
    makers = [unit for unit in units if isinstance(unit, Convolution)][:3]
    assert len({unit.writes()[0] for unit in makers}) == 1
    assert [unit.kernel.stores[0].affine for unit in makers] == [
        (53, 1, 0),
        (53, 1, 16),
        (53, 1, 21),
    ]
    arrays = [numbers(2, 3, 4, 4), *[numbers(n, 3, 1, 1, seed=n) for n in (16, 5, 32)]]
    agree(branches, *arrays, rtol=1e-4)
    agree(lambda x, y, *w: F.conv2d(branches(x, *w), y), arrays[0], numbers(2, 53, 1, 1),
          *arrays[1:], rtol=1e-3, atol=1e-4)  # fmt: skip


def test_products_write_to_their_part() -> None:
    def f(a: Any, b: Any, c: Any) -> Any:
        rows = schuss.concat([a @ b + 1.0, c @ b], axis=0)
        return rows, schuss.concat([a @ b, a @ b * 2.0], axis=1), schuss.concat([c @ b], axis=1)

    arrays = numbers(3, 5), numbers(5, 7, seed=1), numbers(4, 5, seed=2)
    units = units_of(*f(*map(schuss.tensor, arrays)))
    agree(f, *arrays)
    joined = [unit for unit in units if isinstance(unit, Assemble)]
    assert len(joined) == 1  # a @ b is asked for twice, and stays where it is
    agree(lambda *xs: schuss.stack([schuss.concat(list(f(*xs)[:1]), axis=1)] * 2), *arrays)


def test_loops_are_cut_where_places_are_further_apart() -> None:
    """A product of rows (2, 3), which go to a box inside of larger rows."""

    def f(a: Any, b: Any) -> Any:
        return schuss.pad((a @ b).reshape(2, 3, 4), ((1, 0), (0, 2), (3, 1)))

    arrays = numbers(6, 5), numbers(5, 4, seed=1)
    (product, assemble) = units_of(f(*map(schuss.tensor, arrays)))
    assert isinstance(product, Product)
    assert isinstance(assemble, Assemble)
    assert [line.op for each in assemble.kernels[0] for line in each.lines] == ["constant"] * 4
    assert product.kernel.sizes == (2, 3, 4)
    assert product.kernel.stores[0].affine == (40, 8, 1, 43)
    agree(f, *arrays)


def test_what_cannot_be_cut_is_copied() -> None:
    """Rows of 4 from rows of 6; sums of columns whose vectors would be torn; a result that is
    looked at elsewhere, and one that is an output.
    """

    def torn(a: Any, b: Any) -> Any:
        return schuss.pad((a @ b).reshape(6, 4), ((0, 0), (0, 1)))

    def seen(a: Any, b: Any) -> Any:
        y = a @ b
        return schuss.concat([y, y[:1]]), y.sum()

    def given(a: Any, b: Any) -> Any:
        y = a @ b
        return schuss.concat([y, a @ b + 1.0]), y

    arrays = numbers(4, 5), numbers(5, 6, seed=1)
    for f in (torn, seen, given):
        made = f(*map(schuss.tensor, arrays))
        units = units_of(*made if isinstance(made, tuple) else (made,))
        loads = [line for unit in units if isinstance(unit, Assemble)
                 for group in unit.kernels for kernel in group
                 for line in kernel.lines if line.op == "load"]  # fmt: skip
        assert loads, f.__name__
        agree(f, *arrays)


def test_memories_of_several_writers_take_over_nothing() -> None:
    """The input would be overwritten in places that another one of them still reads."""

    def f(x: Any, a: Any, b: Any) -> Any:
        top = a @ b + x[:3] * 2.0
        return schuss.concat([top, a @ b * 3.0 + x[:3] + x[3:]])

    arrays = numbers(6, 8), numbers(3, 4, seed=1), numbers(4, 8, seed=2)
    compiled = compile_graph(recorded(f(*map(schuss.tensor, arrays))))
    assert not compiled.plan.donations
    agree(f, *arrays)


def test_running_sums_are_not_cut() -> None:
    """They would start over where their axis is divided."""

    def padded(x: Any) -> Any:
        return schuss.pad(x.cumulative_sum(0).reshape(2, 3, 4), ((0, 0), (0, 1), (0, 0)))

    def joined(x: Any) -> Any:
        parts = [x.cumulative_prod(0).reshape(2, 3, 4), (x * 2).reshape(2, 3, 4)]
        return schuss.concat(parts, axis=1)

    for f in (padded, joined):
        units_of(f(filled(6, 4)))
        agree(f, numbers(6, 4) / 3)
        agree(schuss.grad(lambda x, f=f: (f(x) ** 2).sum()), numbers(6, 4) / 3, rtol=1e-4)


def test_running_sums_of_whole_axes_are_written_in_place() -> None:
    def f(x: Any) -> Any:
        return schuss.pad(x.cumulative_sum(1), ((0, 0), (2, 1), (0, 3)))

    units = units_of(f(filled(3, 4, 5)))
    assert not any(line.op == "load" for unit in units if isinstance(unit, Assemble)
                   for kernel in unit.kernels[0] for line in kernel.lines)  # fmt: skip
    agree(f, numbers(3, 4, 5))
