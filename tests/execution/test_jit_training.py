"""Whole training steps under `schuss.jit`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.execution.jitted import ENOUGH, draw, same, warned

import schuss
from schuss import nn, optim
from schuss.errors import GradientError, OutOfBoundsError
from schuss.execution import tiers


@pytest.fixture(autouse=True)
def _compiled() -> Iterator[None]:
    """One tier, so that results are equal bit for bit."""
    with tiers.using("compiled"):
        yield


class Net(nn.Module):
    def __init__(self, drop: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.layers = [nn.Linear(4, 8), nn.Linear(8, 3)]
        self.norm = nn.BatchNorm1d(8) if norm else None
        self.drop = nn.Dropout(drop)

    def forward(self, x):
        x = self.layers[0](x)
        if self.norm is not None:
            x = self.norm(x)
        return self.layers[1](self.drop(x.relu()))


OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: optim.Adam(p, lr=0.01, weight_decay=1e-3),
    "amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.1, lr_decay=0.01),
}


def train(jit: bool, make: Callable[[Any], optim.Optimizer], steps: int = 14, **net: Any) -> Any:
    """Train, with a learning rate that shrinks; losses, all state, and the function."""
    schuss.manual_seed(3)
    model, loss_function = Net(**net), nn.CrossEntropyLoss()
    optimizer = make(model.parameters())
    schedule = optim.ExponentialLR(optimizer, gamma=0.9)

    def step(x, labels):
        optimizer.zero_grad()
        loss = loss_function(model(x), labels)
        loss.backward()
        optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        return loss

    call = schuss.jit(step) if jit else step
    losses, whys = [], []
    for i in range(steps):
        labels = schuss.tensor(np.arange(6) % 3)
        losses.append(call(draw(6, 4, seed=i), labels).item())
        whys.append(getattr(call, "why", ""))
        if i % 3 == 2:
            schedule.step()
    state = [each.numpy().copy() for each in [*model.parameters(), *model.buffers()]]
    state += [each.grad.numpy() for each in model.parameters()]
    for slots in optimizer.state.values():
        state += [np.asarray(each) for each in slots.values()]
    kinds = [type(v) for g in optimizer.param_groups for v in g.values()]
    kinds += [type(v) for slots in optimizer.state.values() for v in slots.values()]
    return losses, state, kinds, whys


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_whole_training_steps(name: str) -> None:
    plain, quick = (train(jit, OPTIMIZERS[name]) for jit in (False, True))
    assert quick[0] == plain[0]
    assert quick[2] == plain[2]
    assert len(quick[1]) == len(plain[1])
    assert all(np.array_equal(a, b) for a, b in zip(quick[1], plain[1], strict=True))
    assert quick[3][-3:] == ["", "", ""]  # the learning rate changed in between


@pytest.mark.parametrize("net", [{"drop": 0.5}, {"norm": True}, {"drop": 0.3, "norm": True}])
def test_dropout_and_batch_norm(net: dict[str, Any]) -> None:
    plain, quick = (train(jit, OPTIMIZERS["Adam"], **net) for jit in (False, True))
    assert quick[0] == plain[0]
    assert all(np.array_equal(a, b) for a, b in zip(quick[1], plain[1], strict=True))
    assert quick[3][-1] == ""


def test_training_and_evaluation_mode() -> None:
    model = Net(drop=0.5, norm=True)
    f = schuss.jit(lambda x: model(x))
    with schuss.no_grad():
        for _ in range(ENOUGH):
            model.eval()
            assert same(f(draw(6, 4)), model(draw(6, 4)))
            model.train()
            before = model.norm.num_batches_tracked.item()
            f(draw(6, 4))
            assert model.norm.num_batches_tracked.item() == before + 1
    assert f.why == ""


def test_gradients_add_up() -> None:
    def accumulate(jit: bool) -> np.ndarray:
        w = schuss.tensor([1.0, 2.0], requires_grad=True)

        def f(x):
            loss = ((w * x) ** 2).sum()
            loss.backward()
            return loss.detach()

        f = schuss.jit(f) if jit else f
        for i in range(8):
            f(draw(2, seed=i))
            if i == 5:
                w.grad = None
        assert not jit or f.why == ""
        return w.grad.numpy()

    assert np.array_equal(accumulate(True), accumulate(False))


def test_parameters_stay_the_same_objects_and_old_values_stay() -> None:
    w = schuss.tensor(np.ones(3000, np.float32), requires_grad=True)
    optimizer = optim.SGD([w], lr=0.5)

    @schuss.jit
    def step():
        optimizer.zero_grad()
        (w * w).sum().backward()
        optimizer.step()

    for i in range(10):
        old, view, graph = w.detach(), w.numpy(), w * 3
        value = view.copy()
        step()
        assert np.array_equal(old.numpy(), value)
        assert np.array_equal(view, value)
        assert np.array_equal(graph.numpy(), value * 3)
        assert np.array_equal(w.numpy(), value * 0)
        w.assign(schuss.full((3000,), float(i)))
    assert step.why == ""
    assert w.is_leaf
    assert w.requires_grad


def test_memory_of_replaced_parameters_is_taken_over() -> None:
    w = schuss.tensor(np.ones(3000, np.float32), requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1, momentum=0.9)

    @schuss.jit
    def step():
        optimizer.zero_grad()
        (w * w).sum().backward()
        optimizer.step()

    for _ in range(ENOUGH):
        step()
    values, memories = [], set()
    for _ in range(6):
        step()
        values.append(w.numpy().copy())
        memories.add(optimizer.state["param_0"]["momentum"]._node.value.ctypes.data)
    assert step.why == ""
    assert len(memories) == 1
    assert len({each.tobytes() for each in values}) == 6


def with_bad_batches(jit: bool) -> list[list[Any]]:
    """The state of a run after each step, every third of which fails."""
    schuss.manual_seed(0)
    model, loss_function = Net(norm=True), nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters())

    def step(x, labels):
        optimizer.zero_grad()
        loss = loss_function(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    call = schuss.jit(step) if jit else step
    good, bad = schuss.tensor([0, 1, 2, 0, 1, 2]), schuss.tensor([0, 1, 9, 0, 1, 2])
    states = []
    for i in range(3 * ENOUGH):
        if i % 3 == 2:
            with pytest.raises(OutOfBoundsError):
                call(draw(6, 4), bad)
        else:
            call(draw(6, 4, seed=i), good)
            assert not jit or i < 12 or call.why == ""
        state: list[Any] = [each.numpy() for each in model.state_dict().values()]
        for slots in optimizer.state.values():
            state += [np.asarray(each) for each in slots.values()]
        states.append(state)
    return states


def test_bad_batches() -> None:
    for plain, quick in zip(with_bad_batches(False), with_bad_batches(True), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(plain, quick, strict=True))


def test_results_that_require_gradients_are_not_cut() -> None:
    w = draw(3).requires_grad_()
    f = schuss.jit(lambda x: (w * x).sum())
    with warned("requires a gradient"):
        for i in range(5):
            w.grad = None
            f(draw(3, seed=i)).backward()
            assert same(w.grad, draw(3, seed=i))


def test_a_spent_loss_says_so() -> None:
    w = draw(3).requires_grad_()
    optimizer = optim.SGD([w], lr=0.1)

    @schuss.jit
    def step():
        loss = (w * w).sum()
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(ENOUGH):
        loss = step()
    assert step.why == ""
    assert loss.requires_grad
    with pytest.raises(GradientError, match="a backward pass went through"):
        loss.backward()


def test_inside_and_around_derivatives() -> None:
    f = schuss.jit(lambda x: (x**3).sum())
    slope = schuss.jit(schuss.grad(lambda x: (x**3).sum()))
    nested = schuss.jit(lambda x: f(x) * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(ENOUGH):
            x = draw(3, seed=i)
            assert np.allclose(schuss.grad(f)(x).numpy(), 3 * x.numpy() ** 2)
            assert same(slope(x), schuss.grad(lambda x: (x**3).sum())(x))
            assert same(nested(x), (x**3).sum() * 2)
            assert same(f(x), (x**3).sum())
    assert slope.why == nested.why == f.why == ""
