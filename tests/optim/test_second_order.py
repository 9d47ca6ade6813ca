"""Newton's method, Gauss-Newton and conjugate gradients, on problems with known answers."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss import nn, optim, trees
from schuss.errors import ArgumentError, NumericsError

rng = np.random.default_rng(0)


def t(values) -> schuss.Tensor:
    return schuss.tensor(values, dtype=schuss.float64)


def spd(n: int, condition: float = 100.0) -> np.ndarray:
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    return q @ np.diag(np.geomspace(1, condition, n)) @ q.T


# --- conjugate gradients ---


def test_conjugate_gradients_solve() -> None:
    a, b = spd(12), rng.standard_normal(12)
    x = optim.conjugate_gradient(lambda v: t(a) @ v, t(b), tolerance=1e-12)
    np.testing.assert_allclose(x.numpy(), np.linalg.solve(a, b), rtol=1e-8)


def test_as_many_steps_as_there_are_eigenvalues() -> None:
    products = []

    def product(v):
        products.append(1)
        return v * t([1.0, 1.0, 5.0, 5.0, 9.0])

    optim.conjugate_gradient(product, t(rng.standard_normal(5)), tolerance=1e-10)
    assert len(products) == 3


def test_trees_start_and_preconditioner() -> None:
    b = {"a": t([2.0, 8.0]), "b": [t(9.0)]}
    product = lambda v: {"a": v["a"] * t([1.0, 4.0]), "b": [9 * v["b"][0]]}
    exact = lambda v: {"a": v["a"] / t([1.0, 4.0]), "b": [v["b"][0] / 9]}
    calls = []

    def counted(v):
        calls.append(1)
        return product(v)

    x = optim.conjugate_gradient(counted, b, precondition=exact)
    assert len(calls) == 1, "with the inverse as preconditioner one step is enough"
    np.testing.assert_allclose(x["a"].numpy(), [2, 2])
    assert x["b"][0].item() == pytest.approx(1)
    again = optim.conjugate_gradient(counted, b, x=x)
    assert len(calls) == 2, "nothing to do at the solution but to look"
    np.testing.assert_allclose(again["a"].numpy(), [2, 2])


def test_negative_curvature_ends_it() -> None:
    step = optim.conjugate_gradient(lambda v: v * t([1.0, -1.0]), t([0.0, 1.0]))
    assert step.tolist() == [0, 1], "the gradient itself: a descent direction"
    most = optim.conjugate_gradient(lambda v: v * t([1.0, 4.0]), t([1.0, 1.0]), max_steps=1)
    assert np.linalg.norm(most.numpy()) > 0


def test_it_can_be_the_linear_solver_of_an_implicit_root() -> None:
    a = spd(6)
    c = t(1.0)
    solver = lambda product, b: optim.conjugate_gradient(product, b, tolerance=1e-12)
    f = lambda c: schuss.implicit_root(
        lambda x, c: t(a) @ x + c * x**3 - 1.0, t(np.zeros(6)), c, linear_solver=solver
    ).sum()
    dense = lambda c: schuss.implicit_root(
        lambda x, c: t(a) @ x + c * x**3 - 1.0, t(np.zeros(6)), c
    ).sum()
    assert schuss.grad(f)(c).item() == pytest.approx(schuss.grad(dense)(c).item(), rel=1e-8)


# --- Newton ---


def logistic() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((60, 4))
    p = 1 / (1 + np.exp(-(x @ [1.0, -2.0, 0.5, 0.0] + 0.3)))
    return x, (rng.random(60) < p).astype(float)


@pytest.mark.parametrize("solver", ["dense", "cg", "auto"])
def test_logistic_regression(solver: str) -> None:
    x, y = logistic()

    def loss(p):
        scores = t(x) @ p["w"] + p["b"]
        penalty = 0.01 * (p["w"] ** 2).sum()
        return nn.functional.binary_cross_entropy_with_logits(scores, t(y)) + penalty

    start = {"w": t(np.zeros(4)), "b": t(0.0)}
    fit = optim.newton(loss, start, solver=solver, tolerance=1e-10)
    assert fit.converged
    assert fit.steps <= 8
    assert np.diff(fit.losses).max() < 1e-12
    gradient = schuss.grad(loss)(fit.x)
    assert all(np.abs(g.numpy()).max() < 1e-10 for g in trees.leaves(gradient))
    assert not fit.x["w"].requires_grad


def test_digits_double_at_each_step() -> None:
    f = lambda x: schuss.exp(x).sum() - (x * t([1.0, 2.0])).sum()
    errors = []
    for steps in range(1, 6):
        x = optim.newton(f, t([0.5, 0.5]), steps=steps, tolerance=0.0).x.numpy()
        errors.append(np.abs(x - np.log([1.0, 2.0])).max())
    assert errors[2] < 2 * errors[1] ** 2
    assert errors[3] < 2 * errors[2] ** 2


@pytest.mark.parametrize("solver", ["dense", "cg"])
def test_a_narrow_valley(solver: str) -> None:
    rosenbrock = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    fit = optim.newton(rosenbrock, t([-1.2, 1.0]), solver=solver, tolerance=1e-9)
    np.testing.assert_allclose(fit.x.numpy(), [1, 1], atol=1e-8)


def test_a_saddle_is_left_downwards() -> None:
    f = lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4
    for solver in ("dense", "cg"):
        fit = optim.newton(f, t([1.0, 0.1]), solver=solver)
        np.testing.assert_allclose(abs(fit.x.numpy()), [0, 0.5**0.5], atol=1e-5)


def test_layers_can_be_fitted() -> None:
    schuss.manual_seed(0)
    model, (x, y) = nn.Linear(4, 1), logistic()
    features, labels = schuss.tensor(x, dtype=schuss.float32), schuss.tensor(y[:, None])
    loss = lambda m: nn.functional.binary_cross_entropy_with_logits(
        m(features), labels.astype(schuss.float32)
    )
    fit = optim.newton(loss, model, tolerance=1e-5, damping=1e-3)
    assert fit.converged
    model.load_state_dict(fit.x.state_dict())
    assert loss(model).item() == pytest.approx(fit.losses[-1], rel=1e-5)


def test_newton_errors() -> None:
    with pytest.raises(ArgumentError, match="solver is 'auto', 'dense' or 'cg'"):
        optim.newton(lambda x: x, t(1.0), solver="lu")
    with pytest.raises(NumericsError, match="the loss at the start is not finite"):
        optim.newton(lambda x: schuss.log(x), t(-1.0))
    with pytest.raises(NumericsError, match="the matrix is singular"):
        optim.newton(lambda x: (x[0] - 1) ** 2 + 0 * x[1], t([0.0, 0.0]))
    fit = optim.newton(lambda x: (x[0] - 1) ** 2 + 0 * x[1], t([0.0, 0.0]), damping=1e-3)
    np.testing.assert_allclose(fit.x.numpy(), [1, 0], atol=1e-5)


# --- Gauss-Newton ---


def test_curve_fitting() -> None:
    """Misra's exponential: residuals that a plain gradient takes ages to bring down."""
    x = np.linspace(0, 4, 30)
    y = 2.5 * (1 - np.exp(-0.9 * x))
    model = lambda p: p["a"] * (1 - schuss.exp(-p["b"] * t(x)))
    loss = lambda out: ((out - t(y)) ** 2).mean()
    fit = optim.gauss_newton(model, loss, {"a": t(1.0), "b": t(0.1)}, tolerance=1e-9)
    assert fit.converged
    assert fit.x["a"].item() == pytest.approx(2.5, rel=1e-5)
    assert fit.x["b"].item() == pytest.approx(0.9, rel=1e-5)
    assert fit.steps < 25


def test_natural_gradient_of_a_network() -> None:
    schuss.manual_seed(1)
    x = schuss.random.normal((40, 2))
    labels = (x[:, 0] * x[:, 1] > 0).astype(schuss.int64)
    model = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 2))
    loss = lambda out: nn.functional.cross_entropy(out, labels)
    fit = optim.gauss_newton(lambda m: m(x), loss, model, steps=15)
    assert fit.losses == sorted(fit.losses, reverse=True)
    assert fit.losses[-1] < 0.02 * fit.losses[0]
    assert isinstance(fit.x, nn.Sequential)


def test_a_start_at_the_minimum() -> None:
    fit = optim.gauss_newton(lambda p: p, lambda out: (out**2).sum(), t([0.0]))
    assert fit.converged
    assert fit.steps == 0
