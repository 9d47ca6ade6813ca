"""Derivatives of fixed points and roots, against those of closed forms and of the steps."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss import fixed_point, grad, hessian, implicit_root, jacobian, jvp, nn, vmap
from schuss.errors import ArgumentError, DTypeError, NumericsError

from .helpers import assert_trees_close, t

rng = np.random.default_rng(0)
A, b = rng.standard_normal((4, 4)) * 0.2, rng.standard_normal(4)
ZERO = np.zeros(4)


def root_by_steps(a):
    return fixed_point(lambda x: 0.5 * (x + a / x), t(1.0), tolerance=1e-12)


def root_by_newton(a):
    return implicit_root(lambda x, a: x * x - a, t(1.0), a)


def one_unknown(product, b):
    return b / product(schuss.ones_like(b))


def root_by_products(a):
    return implicit_root(lambda x, a: x * x - a, t(1.0), a, linear_solver=one_unknown)


@pytest.mark.parametrize("root", [root_by_steps, root_by_newton, root_by_products])
def test_square_roots(root) -> None:
    """Derivatives up to the third, in every mode, of what is sqrt(a)."""
    a, one = t(2.0), t(1.0)
    first, second, third = 0.5 * 2**-0.5, -0.25 * 2**-1.5, 0.375 * 2**-2.5
    assert root(a).item() == pytest.approx(2**0.5)
    assert grad(root)(a).item() == pytest.approx(first)
    assert grad(grad(root))(a).item() == pytest.approx(second)
    assert grad(grad(grad(root)))(a).item() == pytest.approx(third)
    slope = lambda a: jvp(root, (a,), (one,))[1]
    assert slope(a).item() == pytest.approx(first)
    assert grad(slope)(a).item() == pytest.approx(second)
    assert jvp(grad(root), (a,), (one,))[1].item() == pytest.approx(second)
    assert jvp(slope, (a,), (one,))[1].item() == pytest.approx(second)


def deep(A, b):
    return fixed_point(lambda x: schuss.tanh(A @ x + b), t(ZERO), tolerance=1e-13)


def deep_root(A, b):
    return implicit_root(lambda x, A, b: x - schuss.tanh(A @ x + b), t(ZERO), A, b)


@pytest.mark.parametrize("f", [deep, deep_root])
def test_against_differences(f) -> None:
    schuss.check_gradients(f, [A, b])


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_jacobians(mode: str) -> None:
    found = jacobian(deep, (0, 1), mode=mode)(t(A), t(b))
    assert_trees_close(found, jacobian(deep_root, (0, 1), mode=mode)(t(A), t(b)), 1e-9)


def test_the_gradient_of_the_steps_is_the_same() -> None:
    def unrolled(A, b):
        x = t(ZERO)
        for _ in range(100):
            x = schuss.tanh(A @ x + b)
        return (x**2).sum()

    implicit = lambda A, b: (deep(A, b) ** 2).sum()
    assert_trees_close(grad(implicit, (0, 1))(t(A), t(b)), grad(unrolled, (0, 1))(t(A), t(b)), 1e-9)


@pytest.mark.parametrize("f", [deep, deep_root])
def test_batches(f) -> None:
    bs = t(rng.standard_normal((3, 4)))
    loss = lambda A, b: (f(A, b) ** 2).sum()
    one_by_one = [grad(loss, (0, 1))(t(A), bs[i]) for i in range(3)]
    inside = vmap(grad(loss, (0, 1)), (None, 0))(t(A), bs)
    outside = grad(lambda A, bs: vmap(loss, (None, 0))(A, bs).sum(), (0, 1))(t(A), bs)
    total = sum(g[0].numpy() for g in one_by_one)
    np.testing.assert_allclose(outside[0].numpy(), total, atol=1e-9)
    for i in range(3):
        assert_trees_close((inside[0][i], inside[1][i]), one_by_one[i], 1e-9)
        assert_trees_close(outside[1][i], one_by_one[i][1], 1e-9)


def test_batches_of_second_derivatives() -> None:
    xs = t([1.0, 2.0, 3.0])
    expected = -0.25 * xs.numpy() ** -1.5
    np.testing.assert_allclose(vmap(grad(grad(root_by_steps)))(xs).numpy(), expected)
    total = lambda a: vmap(root_by_newton)(a).sum()
    np.testing.assert_allclose(hessian(total)(xs).numpy(), np.diag(expected), atol=1e-12)


def test_trees_of_unknowns() -> None:
    def f(state, c):
        return {"x": 0.5 * state["y"][0] + c, "y": [0.25 * state["x"]]}

    start = {"x": t(0.0), "y": [t(0.0)]}
    found = lambda c: fixed_point(f, start, c, tolerance=1e-12)
    assert found(t(1.0))["x"].item() == pytest.approx(1 / (1 - 0.125))
    assert grad(lambda c: found(c)["y"][0])(t(1.0)).item() == pytest.approx(0.25 / 0.875)


def test_layers_and_backward() -> None:
    """A deep equilibrium model: the layer is used besides the arguments."""
    schuss.manual_seed(0)
    layer = nn.Linear(4, 4)
    layer.weight.assign(layer.weight * 0.3)
    x = schuss.random.normal((2, 4))
    z = fixed_point(lambda z: schuss.tanh(layer(z) + x), schuss.zeros(2, 4), tolerance=1e-7)
    (z**2).sum().backward()
    found = [p.grad.numpy() for p in layer.parameters()]
    layer.zero_grad()
    z = schuss.zeros(2, 4)
    for _ in range(60):
        z = schuss.tanh(layer(z) + x)
    (z**2).sum().backward()
    for mine, steps in zip(found, layer.parameters(), strict=True):
        np.testing.assert_allclose(mine, steps.grad.numpy(), atol=1e-5)


def test_the_solver_may_be_anything() -> None:
    looked = []

    def bisection(x, a):
        low, high = 0.0, 10.0
        while high - low > 1e-14:
            middle = (low + high) / 2
            looked.append(middle)
            low, high = (middle, high) if middle**2 < a.item() else (low, middle)
        return t(low)

    f = lambda a: implicit_root(lambda x, a: x * x - a, t(0.0), a, solver=bisection)
    assert grad(f)(t(2.0)).item() == pytest.approx(0.5 * 2**-0.5)
    assert looked


def test_a_minimum_by_its_gradient() -> None:
    """Ridge regression: how the solution changes with the penalty."""
    x, y = t(rng.standard_normal((6, 3))), t(rng.standard_normal(6))
    cost = lambda w, c: ((x @ w - y) ** 2).sum() + c * (w**2).sum()
    fitted = lambda c: implicit_root(grad(cost), t(np.zeros(3)), c)
    closed = lambda c: schuss.solve(x.T @ x + c * schuss.eye(3, dtype=schuss.float64), x.T @ y)
    assert_trees_close(fitted(t(0.5)), closed(t(0.5)))
    assert_trees_close(jacobian(fitted)(t(0.5)), jacobian(closed)(t(0.5)), 1e-9)


def test_without_gradients() -> None:
    with schuss.no_grad():
        assert not fixed_point(lambda x: x * 0.5, t(1.0)).requires_grad
    assert fixed_point(lambda x: x * 0.5 + 1, t([])).shape == (0,)


def test_errors() -> None:
    with pytest.raises(NumericsError, match="fixed_point: 1000 steps did not converge to a") as e:
        fixed_point(lambda x: 2 * x, t(1.0))
    assert "hint: f must bring any two points closer together" in str(e.value)
    with pytest.raises(NumericsError, match="steps did not converge"):
        vmap(lambda a: fixed_point(lambda x: 2 * x + a, t(1.0)))(t([1.0])).numpy()
    with pytest.raises(NumericsError, match="implicit_root: Newton's method found no root"):
        implicit_root(lambda x: x * x + 1, t(0.5))
    with pytest.raises(ArgumentError, match="the result has another structure"):
        fixed_point(lambda x: [x], t(1.0))
    with pytest.raises(DTypeError, match="fixed_point: gradients exist for floating and complex"):
        fixed_point(lambda x: x, schuss.tensor(1))
