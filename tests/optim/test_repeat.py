"""Updates out of memory: the same bits as recorded ones, whatever changes in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn, optim
from schuss.errors import OutOfBoundsError
from schuss.execution import tiers
from schuss.optim import repeat
from schuss.patterns import Memory

STEPS = 9
Make = Callable[[list[schuss.Tensor]], optim.Optimizer]


def parameters() -> list[schuss.Tensor]:
    rng = np.random.default_rng(0)
    shapes = [(3, 2), (3, 2), (4,), ()]
    return [schuss.tensor(rng.standard_normal(s).astype("f4")).requires_grad_() for s in shapes]


def gradients(step: int) -> list[schuss.Tensor]:
    rng = np.random.default_rng(step + 1)
    shapes = [(3, 2), (3, 2), (4,), ()]
    return [schuss.tensor(rng.standard_normal(s).astype("f4")) for s in shapes]


def trained(make: Make, between: Callable[[int, Any, list[Any]], None]) -> list[Any]:
    """What the parameters and the state are after each step."""
    found: list[Any] = []
    params = parameters()
    optimizer = make(params)
    for step in range(STEPS):
        for p, g in zip(params, gradients(step), strict=False):
            p.grad = g
        between(step, optimizer, params)
        optimizer.step()
        state = {
            (name, slot): value.tolist() if isinstance(value, schuss.Tensor) else value
            for name, slots in optimizer.state.items()
            for slot, value in slots.items()
        }
        found.append(([p.tolist() for p in params], state))
    return found


def nothing(step: int, optimizer: Any, params: list[Any]) -> None:
    pass


def new_rates(step: int, optimizer: Any, params: list[Any]) -> None:
    optimizer.param_groups[0]["lr"] = [0.1, 0.5, 1.0, 0.0, -0.0, 2, 200.0, 0.3, 1e30][step]


def freezing(step: int, optimizer: Any, params: list[Any]) -> None:
    params[1].requires_grad = step % 4 < 2
    if step % 3 == 0:
        params[2].grad = None


def sharing(step: int, optimizer: Any, params: list[Any]) -> None:
    if step >= 4:
        params[0].grad = params[1].grad


def later_group(step: int, optimizer: Any, params: list[Any]) -> None:
    if step == 4:
        late = schuss.tensor([1.0, 2.0]).requires_grad_()
        optimizer.add_param_group({"params": [late], "lr": 0.01})
        params.append(late)
    for late in params[4:]:
        late.grad = late.detach()


OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "dampened": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "Adam": lambda p: optim.Adam(p, lr=0.1),
    "amsgrad": lambda p: optim.Adam(p, lr=0.1, amsgrad=True, weight_decay=0.1),
    "AdamW": lambda p: optim.AdamW(p, lr=0.1),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.1, lr_decay=0.1, initial_accumulator_value=0.5),
    "groups": lambda p: optim.Adam([{"params": p[:2], "lr": 0.2}, {"params": p[2:]}], lr=0.1),
}


@pytest.mark.parametrize("between", [nothing, new_rates, freezing, sharing, later_group])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_bits_as_recorded(
    name: str, between: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tiers.using("reference"):  # compiling takes long
        repeated = trained(OPTIMIZERS[name], between)
        monkeypatch.setattr(Memory, "get", lambda self, key: None)
        monkeypatch.setattr(Memory, "comes_again", lambda self, key: False)
        assert trained(OPTIMIZERS[name], between) == repeated


def test_updates_come_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters()
    optimizer = optim.Adam(params, lr=0.1)
    for step in range(STEPS):
        for p, g in zip(params, gradients(step), strict=True):
            p.grad = g
        if step == 5:
            monkeypatch.setattr(optim.Adam, "_assign_all", None)  # nobody calls it any more
        optimizer.step()
    assert optimizer.state["param_0"]["step"] == STEPS


def test_updates_of_users_are_called_each_time() -> None:
    calls = []

    class Mine(optim.SGD):
        def update(self, p: Any, g: Any, state: Any, group: Any) -> Any:
            calls.append(p)
            return p - len(calls) * g

    w = schuss.tensor([0.0]).requires_grad_()
    optimizer = Mine([w], lr=0.1)
    for _ in range(5):
        w.grad = schuss.tensor([1.0])
        optimizer.step()
    assert w.item() == -15


def test_numbers_that_do_not_fit_are_an_error_as_ever() -> None:
    w = schuss.tensor([1.0]).requires_grad_()
    optimizer = optim.SGD([w], lr=1)
    for rate in (1, 1, 1, 10**400):
        w.grad = schuss.tensor([1.0])
        optimizer.param_groups[0]["lr"] = rate
        if rate == 1:
            optimizer.step()
    with pytest.raises(schuss.errors.DTypeError, match="does not fit into float32"):
        optimizer.step()


def test_a_failing_step_changes_nothing_and_the_next_one_works() -> None:
    layer = nn.Linear(2, 3)
    optimizer = optim.Adam(layer.parameters(), lr=0.1)
    x = schuss.ones((4, 2))

    def step(label: int) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(layer(x), schuss.full((4,), label, dtype="int64")).backward()
        optimizer.step()

    for _ in range(STEPS):
        step(1)
    before = layer.weight.numpy().copy(), optimizer.state["weight"]["m"].numpy().copy()
    with pytest.raises(OutOfBoundsError, match="cross_entropy: target"):
        step(7)
    assert optimizer.state["weight"]["step"] == STEPS
    assert np.array_equal(layer.weight.numpy(), before[0])
    assert np.array_equal(optimizer.state["weight"]["m"].numpy(), before[1])
    step(1)
    assert optimizer.state["weight"]["step"] == STEPS + 1
    assert not np.array_equal(layer.weight.numpy(), before[0])


def test_numbers_that_cannot_be_computed_are_recorded_again() -> None:
    """Then the plain recording says what is wrong, at the user's line."""
    w = schuss.tensor([1.0]).requires_grad_()
    optimizer = optim.Adagrad([w], lr=0.1, lr_decay=1.0)
    for _ in range(STEPS):
        w.grad = schuss.tensor([1.0])
        optimizer.step()
    optimizer.param_groups[0]["lr_decay"] = -1 / STEPS  # 1 + (t - 1) * lr_decay is 0
    w.grad = schuss.tensor([1.0])
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert optimizer.state["param_0"]["step"] == STEPS


def test_old_values_stay_with_who_holds_them() -> None:
    w = schuss.zeros(5000).requires_grad_()
    optimizer = optim.SGD([w], lr=1.0)
    held = []
    for _ in range(STEPS):
        w.grad = -schuss.ones(5000)
        held.append((w.detach(), w.numpy()))
        optimizer.step()
    for i, (tensor, array) in enumerate(held):
        assert (tensor.numpy() == i).all()
        assert (array == i).all()


def test_states_of_unknown_things_are_recorded() -> None:
    w = schuss.tensor([1.0]).requires_grad_()
    optimizer = optim.SGD([w], lr=0.5)
    optimizer.state["param_0"] = {"note": [1]}
    for _ in range(4):
        w.grad = schuss.tensor([1.0])
        assert not repeat.repeated(optimizer, [])
        optimizer.step()
    assert w.item() == -1
