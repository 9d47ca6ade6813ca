"""L-BFGS: against PyTorch's path, on valleys, with closures that fail, saved and loaded."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import schuss
from schuss import nn, optim
from schuss.errors import ArgumentError, ArgumentTypeError, GradientError


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def start(values=(-1.2, 1.0)) -> schuss.Tensor:
    return schuss.tensor(values, dtype=schuss.float64, requires_grad=True)


def closure_of(optimizer, loss):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def test_the_minimum_of_a_valley() -> None:
    x = start()
    optimizer = optim.LBFGS([x], line_search_fn="strong_wolfe", tolerance_change=1e-20, max_iter=60)
    loss = optimizer.step(closure_of(optimizer, lambda: rosenbrock(x)))
    assert loss.item() == pytest.approx(24.2), "the loss before"
    np.testing.assert_allclose(x.numpy(), [1, 1], atol=1e-8)


def test_a_quadratic_takes_few_steps() -> None:
    scales = schuss.tensor([1.0, 10.0, 100.0], dtype=schuss.float64)
    x = start((3.0, -2.0, 1.0))
    optimizer = optim.LBFGS([x], line_search_fn="strong_wolfe", max_iter=20, max_eval=60)
    optimizer.step(closure_of(optimizer, lambda: (scales * x * x).sum()))
    np.testing.assert_allclose(x.numpy(), 0, atol=1e-5)


@pytest.mark.comparison
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_the_path_is_that_of_pytorch() -> None:
    import torch

    x = start()
    y = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    ours = optim.LBFGS([x], lr=0.1, history_size=3, max_iter=7)
    theirs = torch.optim.LBFGS([y], lr=0.1, history_size=3, max_iter=7)
    for _ in range(4):
        a = ours.step(closure_of(ours, lambda: rosenbrock(x)))
        b = theirs.step(closure_of(theirs, lambda: rosenbrock(y)))
        np.testing.assert_allclose(a.item(), b.item(), rtol=1e-6)
        np.testing.assert_allclose(x.numpy(), y.detach().numpy(), rtol=1e-6)


def test_how_often_the_loss_is_computed() -> None:
    """PyTorch needs 47 evaluations for this one."""
    x, calls = start(), []
    optimizer = optim.LBFGS([x], line_search_fn="strong_wolfe", max_iter=100, max_eval=200)

    def loss():
        calls.append(1)
        return rosenbrock(x)

    optimizer.step(closure_of(optimizer, loss))
    assert rosenbrock(x).item() < 1e-8
    assert len(calls) <= 55


def test_several_parameters_of_a_layer() -> None:
    schuss.manual_seed(0)
    model = nn.Linear(3, 1)
    x, w = schuss.random.normal((20, 3)), schuss.tensor([[1.0, -2.0, 0.5]])
    y = x @ w.T + 3
    optimizer = optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")
    for _ in range(3):
        optimizer.step(closure_of(optimizer, lambda: nn.functional.mse_loss(model(x), y)))
    np.testing.assert_allclose(model.weight.numpy(), w.numpy(), atol=1e-3)
    np.testing.assert_allclose(model.bias.numpy(), [3], atol=1e-3)


def test_saved_and_loaded_it_goes_on_as_before() -> None:
    def run(split: bool):
        x = start()
        optimizer = optim.LBFGS([x], max_iter=3, line_search_fn="strong_wolfe", history_size=4)
        for i in range(4):
            if split and i == 2:
                saved, at = optimizer.state_dict(), x.detach()
                x = start(at.tolist())
                optimizer = optim.LBFGS([x], max_iter=3)
                optimizer.load_state_dict(saved)
            optimizer.step(closure_of(optimizer, lambda x=x: rosenbrock(x)))
        return x.numpy()

    np.testing.assert_allclose(run(True), run(False), rtol=1e-12)


def test_a_closure_that_fails_changes_nothing() -> None:
    x = start()
    optimizer = optim.LBFGS([x], max_iter=5)
    closure = closure_of(optimizer, lambda: rosenbrock(x))
    optimizer.step(closure)
    before, state = x.tolist(), optimizer.state_dict()["state"]["param_0"]["iterations"].item()
    calls = []

    def fails():
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of data")
        return closure()

    with pytest.raises(RuntimeError, match="out of data"):
        optimizer.step(fails)
    assert x.tolist() == before
    assert optimizer.state_dict()["state"]["param_0"]["iterations"].item() == state


def test_it_stops_at_the_minimum() -> None:
    x = start((1.0, 1.0))
    optimizer = optim.LBFGS([x])
    calls = []

    def loss():
        calls.append(1)
        return rosenbrock(x)

    optimizer.step(closure_of(optimizer, loss))
    assert len(calls) == 1
    assert x.tolist() == [1, 1]


def test_a_parameter_without_a_gradient_stays() -> None:
    x, unused = start(), start((5.0,))
    optimizer = optim.LBFGS([x, unused], max_iter=3)
    optimizer.step(closure_of(optimizer, lambda: rosenbrock(x)))
    assert unused.tolist() == [5]


def test_errors() -> None:
    x = start()
    optimizer = optim.LBFGS([x])
    with pytest.raises(ArgumentTypeError, match="needs a closure, which computes the loss"):
        optimizer.step()
    with pytest.raises(ArgumentTypeError, match="the closure must return the loss, not NoneType"):
        optimizer.step(lambda: None)
    with pytest.raises(GradientError, match="the closure left no gradient"):
        optimizer.step(lambda: rosenbrock(x))
    with pytest.raises(ArgumentError, match="line_search_fn is 'strong_wolfe' or None"):
        optim.LBFGS([x], line_search_fn="wolfe")
    with pytest.raises(ArgumentError, match="max_iter must be positive"):
        optim.LBFGS([x], max_iter=0)
    with pytest.raises(ArgumentError, match="all parameters belong to one group"):
        optim.LBFGS([{"params": [x]}, {"params": [start()]}])
