from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ops
from common.machine import Limits
from common.op_cases import CASES
from common.op_sides import OpSide
from ops import Measured

LIMITS = Limits(multiply_adds=1e12, bandwidth=1e11)
SMALL = [name for name, case in CASES.items() if sum(each.size for each in case.inputs()) <= 50_000]


def test_names_are_one_to_one() -> None:
    assert set(ops.GROUPS) >= {"matmul", "softmax", "attention", "embedding", "transpose", "small"}
    assert len(SMALL) > 20


@pytest.fixture(scope="module")
def sides() -> dict[str, OpSide]:
    return {name: OpSide(name) for name in (*ops.OURS, "NumPy")}


@pytest.mark.parametrize("side", ops.OURS)
@pytest.mark.parametrize("name", SMALL)
def test_our_results_agree_with_numpy(name: str, side: str, sides: dict[str, OpSide]) -> None:
    ours, numpys = sides[side].build(name), sides["NumPy"].build(name)
    assert ours is not None
    if numpys is not None:
        assert ops.agrees(ours[0], numpys[0])
        assert ours[1] == numpys[1]


def test_another_result_does_not_agree() -> None:
    right = np.array([1.0, -2.0, 1e-9])
    assert ops.agrees(right + 1e-4, right)
    assert not ops.agrees(right + 1e-2, right)
    assert not ops.agrees(right[:2], right)
    assert not ops.agrees(np.array([1.0, np.nan, 0.0]), right)


def test_limit_is_arithmetic_or_memory_whichever_takes_longer() -> None:
    assert ops.limit(10**9, 0, LIMITS) == pytest.approx(1000)
    assert ops.limit(0, 10**9, LIMITS) == pytest.approx(10_000)
    assert ops.limit(10**9, 10**9, LIMITS) == pytest.approx(10_000)
    assert ops.limit(0, ops.CACHED, LIMITS) == 0


def test_line_marks_cliffs_and_unsteady_figures() -> None:
    case = CASES["matmul, 1000 x 1000 x 1000"]
    found = Measured(
        {"schuss": [30.0, 30.0, 30.0], "NumPy": [10.0, 20.0, 40.0], "JAX": [12.0, 12.0, 12.0]}
    )
    sides = ["schuss", "NumPy", "PyTorch", "JAX"]
    assert ops.line(case, found, sides, LIMITS) == [
        case.name, "1000", "30.0", "~20.0", "–", "12.0", "**0.40**"
    ]  # fmt: skip
    found.times["schuss"] = [12.0]
    assert ops.line(case, found, sides, LIMITS)[-1] == "1.00"
    found.times["schuss.jit"] = [6.0]
    both = ops.line(case, found, [*ops.OURS, "NumPy", "JAX"], LIMITS)
    assert both[-2:] == ["1.00", "2.00"]  # neither is the other's peer


def test_pieces_join_in_the_order_of_the_cases(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    later, earlier = "sort, 1,000,000", "matmul, 1 x 1 x 1"
    ops.joined(path, {later: Measured({"schuss": [3.0]}), earlier: Measured()}, LIMITS)
    again = {earlier: Measured({"schuss": [1.0]}, 8, {"JAX": "none"})}
    found, limits = ops.joined(path, again, Limits(2e12, 1e10))
    assert list(found) == [earlier, later]
    assert found[earlier] == again[earlier]
    assert found[later].times == {"schuss": [3.0]}
    assert limits == Limits(2e12, 1e11)


def test_page_has_a_table_for_each_group_and_names_problems() -> None:
    from argparse import Namespace

    found = {
        "matmul, 1 x 1 x 1": Measured({"schuss": [1.0]}),
        "sort, 1,000,000": Measured({}, problems={"JAX": "another result than its peers"}),
    }
    lines = ops.lines_of(found, ["schuss", "JAX"], LIMITS, Namespace(rounds=1, threads=1))
    assert "| matmul, 1 x 1 x 1 | – | 1.00 | – | – |" in lines
    assert "| sort | limit | schuss | JAX | best peer / schuss |" in lines
    assert "- sort, 1,000,000, JAX: another result than its peers" in lines
