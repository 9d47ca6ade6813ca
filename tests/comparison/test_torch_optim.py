"""PyTorch's optimizers, schedules and clipping beside ours, step by step on one problem."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import optim

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.comparison

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.4}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
    ("Adam", {"lr": 0.1}),
    ("Adam", {"lr": 0.1, "betas": (0.5, 0.8), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.1, "amsgrad": True, "betas": (0.9, 0.6)}),
    ("AdamW", {"lr": 0.1}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.3, "amsgrad": True, "betas": (0.9, 0.7)}),
    ("Adagrad", {"lr": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.05, "weight_decay": 0.1, "initial_accumulator_value": 0.2,
                 "eps": 1e-4}),
]  # fmt: skip

RNG = np.random.default_rng(0)
W, B = RNG.standard_normal((4, 3)), RNG.standard_normal(3)
X, Y = RNG.standard_normal((6, 4)), RNG.standard_normal((6, 3))


def loss_of(x: Any, y: Any, w: Any, b: Any) -> Any:
    difference = (x @ w + b).tanh() - y
    return (difference * difference).sum()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_twenty_steps(name: str, options: dict[str, Any]) -> None:
    ours = [schuss.tensor(each, requires_grad=True) for each in (W, B)]
    theirs = [torch.tensor(each, requires_grad=True) for each in (W, B)]
    first = getattr(optim, name)(
        [{"params": ours[:1]}, {"params": ours[1:], "lr": 0.02}], **options
    )
    second = getattr(torch.optim, name)(
        [{"params": theirs[:1]}, {"params": theirs[1:], "lr": 0.02}], **options
    )
    for _ in range(20):
        first.zero_grad()
        second.zero_grad()
        loss = loss_of(schuss.tensor(X), schuss.tensor(Y), *ours)
        expected = loss_of(torch.tensor(X), torch.tensor(Y), *theirs)
        loss.backward()
        expected.backward()
        first.step()
        second.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-9, atol=1e-11)


SCHEDULES: list[tuple[str, tuple[Any, ...]]] = [
    ("StepLR", (4, 0.3)),
    ("ExponentialLR", (0.9,)),
    ("LambdaLR", (lambda t: 1 / (1 + t),)),
    ("CosineAnnealingLR", (30, 0.01)),
]


def rates(optimizer: Any, schedule: Any) -> list[list[float]]:
    found = []
    for _ in range(30):
        found.append([group["lr"] for group in optimizer.param_groups])
        for group in optimizer.param_groups:  # PyTorch warns of a schedule before any step
            for p in group["params"]:
                p.grad = p.detach()
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(("name", "arguments"), SCHEDULES)
def test_schedule(name: str, arguments: tuple[Any, ...]) -> None:
    found = []
    makers: list[tuple[Any, Callable[..., Any]]] = [
        (optim, schuss.tensor),
        (torch.optim, torch.tensor),
    ]
    for package, tensor in makers:
        groups = [{"params": [tensor(W, requires_grad=True)], "lr": lr} for lr in (0.5, 0.1)]
        optimizer = package.SGD(groups)
        found.append(rates(optimizer, getattr(package.lr_scheduler, name)(optimizer, *arguments)))
    np.testing.assert_allclose(*found, rtol=1e-9)


@pytest.mark.parametrize("limit", [0.5, 100.0])
@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_clipping(limit: float, norm: float) -> None:
    ours = [schuss.tensor(each, requires_grad=True) for each in (W, B)]
    theirs = [torch.tensor(each, requires_grad=True) for each in (W, B)]
    for p, q, g in zip(ours, theirs, (W * 3, B - 1), strict=True):
        p.grad, q.grad = schuss.tensor(g), torch.tensor(g)
    total = optim.clip_grad_norm(ours, limit, norm)
    expected = torch.nn.utils.clip_grad_norm_(theirs, limit, norm)
    assert total.item() == pytest.approx(expected.item())
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(
            p.grad.numpy(), q.grad.numpy(), rtol=1e-5
        )  # theirs adds 1e-6 to the norm
    optim.clip_grad_value(ours, 0.1)
    torch.nn.utils.clip_grad_value_(theirs, 0.1)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-5)
