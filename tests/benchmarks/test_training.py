from __future__ import annotations

from argparse import Namespace

import pytest

import training
from common.machine import Limits
from common.workloads import WORKLOADS
from training import Outcome

OPTIONS = Namespace(rounds=3, threads=2)
LIMITS = Limits(multiply_adds=1e11, bandwidth=1e10)


def outcome(ms: float, curve: tuple[float, ...] = (3.0, 2.0, 1.0)) -> Outcome:
    return Outcome(
        curve=list(curve), steps=[ms] * 3, cold=[4.0], warm=[1.0, 2.0, 3.0], memory=2**20,
        description="the tier",
    )  # fmt: skip


def test_losses_that_part_do_not_count() -> None:
    row = {
        "schuss": outcome(1.0, (3.0, 2.0, 1.5)),
        "PyTorch": outcome(2.0),
        "torch.compile": Outcome(problem="no C++ compiler", absent=True),
        "JAX": outcome(3.0),
    }
    training.compare(row)
    assert row["PyTorch"].counts
    assert row["JAX"].counts
    assert row["schuss"].problem == ("loss 1.5 at step 3, expected 1 (PyTorch): does not count")
    assert row["torch.compile"].problem == "no C++ compiler"


def test_losses_in_half_precision_may_differ_by_more() -> None:
    curves = {
        "PyTorch": (3.0, 2.0, 1.0),
        "schuss": (3.0, 2.0, 1.03),
        "schuss.jit": (3.0, 2.0, 1.05),
    }
    row = {side: outcome(1.0, curve) for side, curve in curves.items()}
    training.compare(row, tolerance=0.02)
    assert row["schuss"].counts
    assert not row["schuss.jit"].counts


def test_line_of_a_workload_in_half_precision() -> None:
    """The floor is that of float32, which does not hold there."""
    workload = WORKLOADS["gpt-bfloat16"]
    assert workload.network == "gpt"
    cells = training.step_cells(workload, {"schuss": outcome(2.0)}, ["schuss"], 1e11)
    assert cells == [workload.title, "–", "2.00 (2.00 to 2.00)", "–"]


def test_line_of_a_workload() -> None:
    row = {
        "schuss": outcome(2.0),
        "schuss.jit": outcome(1.0),
        "PyTorch": outcome(4.0),
        "JAX": outcome(3.0),
    }
    workload = WORKLOADS["mlp-256"]
    sides = ["schuss", "schuss.jit", "PyTorch", "channels-last", "JAX"]
    cells = training.step_cells(workload, row, sides, LIMITS.multiply_adds)
    assert cells == [
        workload.title,
        "1.56",
        "2.00 (2.00 to 2.00)",
        "1.00 (1.00 to 1.00)",
        "4.00 (4.00 to 4.00)",
        "–",
        "3.00 (3.00 to 3.00)",
        "1.50, 3.00 with jit",
    ]


def test_what_does_not_count_has_no_ratio_and_is_explained() -> None:
    row = {"schuss": Outcome(problem="not yet: nn.LSTM", absent=True), "PyTorch": outcome(4.0)}
    sides = ["schuss", "PyTorch"]
    lines = training.lines_of({"lstm": row}, sides, LIMITS, OPTIONS)
    title = WORKLOADS["lstm"].title
    steps = next(line for line in lines if line.startswith(f"| {title}"))
    assert "| not yet | 4.00 (4.00 to 4.00) | – |" in steps
    assert f"- {title}, schuss: not yet: nn.LSTM" in lines
    assert f"| {title} | – | 4.00 / 2.00 |" in lines
    assert f"| {title} | – | 1 |" in lines


def test_what_computed_our_steps_is_named() -> None:
    row = {"schuss": outcome(2.0)}
    lines = training.lines_of({"linear": row}, ["schuss"], LIMITS, OPTIONS)
    assert f"- {WORKLOADS['linear'].title}, schuss: the tier" in lines


@pytest.mark.parametrize(
    ("name", "left_out"),
    [("linear", {"channels-last"}), ("lenet", set()), ("gpt", {"channels-last"})],
)
def test_sides_where_they_make_sense(name: str, left_out: set[str]) -> None:
    sides = training.sides_of(WORKLOADS[name], list(training.SIDES))
    assert set(training.SIDES) - set(sides) == left_out


def test_turns_alternate_and_a_failure_ends_one_side_only() -> None:
    asked = []

    class Fake:
        def __init__(self, name: str) -> None:
            self.name = name

        def ask(self, method: str, repeats: int) -> float:
            asked.append((self.name, method, repeats))
            if self.name == "JAX" and len(asked) > 2:
                raise training.Failure("the process ended")
            return float(len(asked))

    row = {"schuss": Outcome(), "JAX": Outcome()}
    workers = {side: Fake(side) for side in row}
    training.take_turns(row, workers, {"schuss": 5, "JAX": 7}, rounds=3)  # type: ignore[arg-type]
    assert asked[:3] == [("schuss", "time", 5), ("JAX", "time", 7), ("schuss", "time", 5)]
    assert row["schuss"].steps == [1.0, 3.0, 5.0]
    assert row["JAX"].problem == "the process ended"
