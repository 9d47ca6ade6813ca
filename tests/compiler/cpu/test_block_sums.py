"""Which rows of a convolution are a block, and what templates say of them."""

from __future__ import annotations

from itertools import product

import pytest

from schuss.compiler.cpu.block_sums import Block, row_blocks, rows_of, sums_up
from schuss.compiler.cpu.cascade import BLOCK
from schuss.compiler.cpu.matmul_text import Function
from schuss.compiler.cpu.text import together
from schuss.compiler.geometry import UNIT, forward_axis, input_axis

PHASES = {
    "forward": [UNIT.phases, forward_axis(40, 3, 1, 1, 1, 40).phases],
    "gradient": [UNIT.phases, input_axis(41, 3, 2, 1, 1, 21).phases],
    "two axes": [input_axis(7, 2, 2, 0, 1, 3).phases, input_axis(10, 3, 3, 1, 1, 4).phases],
}


@pytest.mark.parametrize("high", [1, 3])
@pytest.mark.parametrize("positions", [1, 30, 50, 500])
@pytest.mark.parametrize("phases", PHASES.values(), ids=PHASES)
def test_every_row_has_a_block_and_every_block_a_first_row(phases, positions, high) -> None:  # type: ignore[no-untyped-def]
    images = 3
    blocks = row_blocks(images, product(*phases), positions, high)
    assert blocks.rows % high == 0
    assert blocks.rows * positions <= max(BLOCK, high * positions)
    f, found, begun = Function("define void @f()"), {}, set()
    for phase, (depth, height) in enumerate(product(*phases)):
        for n, z, y in product(range(images), range(depth.outputs), range(height.outputs)):
            block, inside = (int(x) for x in blocks.at(f, phase, str(n), str(z), str(y)))
            found.setdefault(block, set()).add((phase, n, z))
            assert inside == y % blocks.rows
            if inside == 0:
                assert block not in begun
                begun.add(block)
    assert begun == set(found) == set(range(blocks.total))
    assert all(len(each) == 1 for each in found.values())


def test_parts_have_whole_blocks() -> None:
    blocks = row_blocks(1, [(UNIT.phases[0], forward_axis(40, 1, 1, 0, 1, 40).phases[0])], 30)
    assert blocks.rows == 4
    assert [blocks.whole(rows, 40) for rows in (1, 4, 10, 39, 40)] == [4, 4, 12, 40, 40]


def test_calls_of_templates() -> None:
    f = Function("define void @f(ptr %args)")
    with rows_of(f, Block("%b", "%is"), "%n", "16") as rows:
        assert rows is not None
        assert rows.arguments(f) == f", i1 %is, ptr {rows.sums}"
        assert rows.arguments(f, "false") == f", i1 false, ptr {rows.sums}"
        assert rows.arguments(f, "%begins") == f", i1 %t2, ptr {rows.sums}"
    lines = str(f).splitlines()
    assert lines[2].strip() == f"{rows.sums} = alloca %block_sums, align 64"
    place = f"(ptr %args, i64 %n, i64 16, i64 %b, ptr {rows.sums}"
    assert lines[3].strip() == f"call void @epilogue_load{place}, i1 %is)"
    assert lines[4].strip() == "%t2 = and i1 %begins, %is"
    assert lines[5].strip() == f"call void @epilogue_store{place})"
    with rows_of(f, None, "%n", "16") as rows:
        assert rows is None
    assert sums_up("%block_sums = type {float}")
    assert not sums_up("define void @epilogue()")


def test_what_texts_have_in_common_is_there_once() -> None:
    help_ = "define internal void @help() {\n  ret void\n}"
    one = f"declare float @a(float)\n{help_}\ndefine void @x() {{\n}}"
    other = f"declare float @a(float)\ndeclare void @b()\n{help_}"
    assert together([one, other, "define void @y() {\n}"]).splitlines() == [
        "declare float @a(float)", *help_.splitlines(), "define void @x() {", "}",
        "declare void @b()", "define void @y() {", "}",
    ]  # fmt: skip
