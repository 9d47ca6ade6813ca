"""Learning rates step by step against their formulas, warm-up, saving, errors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

import schuss
from schuss import optim
from schuss.errors import ArgumentError

LR = 0.5


def optimizer(*lrs: float) -> optim.SGD:
    groups = [{"params": [schuss.ones(1).requires_grad_()], "lr": lr} for lr in lrs or (LR,)]
    return optim.SGD(groups)


def rates(schedule: Any, steps: int = 30) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        schedule.step()
    return found


Make = Callable[..., Any]
CASES: dict[str, tuple[Make, Callable[[int], float]]] = {
    "constant": (optim.ConstantLR, lambda t: LR),
    "step": (lambda o, **k: optim.StepLR(o, 4, 0.3, **k), lambda t: LR * 0.3 ** (t // 4)),
    "exponential": (lambda o, **k: optim.ExponentialLR(o, 0.9, **k), lambda t: LR * 0.9**t),
    "cosine": (
        lambda o, **k: optim.CosineAnnealingLR(o, 20, 0.1, **k),
        lambda t: 0.1 + 0.2 * (1 + math.cos(math.pi * min(t, 20) / 20)),
    ),
    "lambda": (
        lambda o, **k: optim.LambdaLR(o, lambda t: 1 / (t + 1), **k),
        lambda t: LR / (t + 1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_formula(name: str) -> None:
    make, formula = CASES[name]
    assert rates(make(optimizer())) == pytest.approx([formula(t) for t in range(30)])


@pytest.mark.parametrize("name", CASES)
def test_warmup(name: str) -> None:
    make, formula = CASES[name]
    expected = [LR * (t + 1) / 5 for t in range(4)] + [formula(t) for t in range(26)]
    assert rates(make(optimizer(), warmup=4)) == pytest.approx(expected)


@pytest.mark.parametrize("name", CASES)
def test_resumed(name: str) -> None:
    make, _ = CASES[name]
    whole = rates(make(optimizer(), warmup=3))
    first = make(optimizer(), warmup=3)
    rates(first, 10)
    saved = json.loads(json.dumps(first.state_dict()))
    second = make(optimizer(0.001), warmup=3)
    second.load_state_dict(saved)
    assert second.optimizer.param_groups[0]["lr"] == first.optimizer.param_groups[0]["lr"]
    assert rates(second, 20) == whole[10:]


def test_rates_reach_every_group() -> None:
    o = optimizer(1.0, 0.1)
    schedule = optim.StepLR(o, 1, 0.5)
    schedule.step()
    assert schedule.get_last_lr() == [0.5, 0.05]
    assert [group["lr"] for group in o.param_groups] == [0.5, 0.05]


def test_schedule_moves_the_parameters() -> None:
    o = optimizer(1.0)
    p = o.param_groups[0]["params"][0]
    schedule = optim.LambdaLR(o, lambda t: float(t))
    p.grad = schuss.ones(1)
    o.step()
    assert p.item() == 1
    schedule.step()
    o.step()
    assert p.item() == 0


def test_cosine_of_a_rate_of_zero() -> None:
    assert rates(optim.CosineAnnealingLR(optimizer(0.0), 5), 3) == [0, 0, 0]


def test_new_group_needs_a_new_schedule() -> None:
    o = optimizer()
    schedule = optim.StepLR(o, 2)
    o.add_param_group({"params": [schuss.ones(1).requires_grad_()]})
    with pytest.raises(
        ArgumentError,
        match=r"StepLR: has a rate for each group of the optimizer(.|\n)*"
        r"hint: make the schedule after the last add_param_group",
    ):
        schedule.step()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: optim.StepLR(o, 0), "StepLR: step_size must be positive"),
        (lambda o: optim.CosineAnnealingLR(o, 0), "CosineAnnealingLR: T_max must be positive"),
        (lambda o: optim.ConstantLR(o, warmup=-1), "ConstantLR: warmup must not be negative"),
        (lambda o: optim.ExponentialLR(o, warmup=-1), "ExponentialLR: warmup must not be negative"),
    ],
)
def test_errors(make: Make, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make(optimizer())
