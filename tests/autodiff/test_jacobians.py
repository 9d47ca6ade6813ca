"""Jacobians, Hessians, and products with them."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss import (
    gauss_newton_at,
    gnvp,
    grad,
    hessian,
    hessian_at,
    hvp,
    jacfwd,
    jacobian,
    jacrev,
    nn,
    vjp,
    vmap,
)
from schuss.errors import ArgumentError, GradientError

from .helpers import assert_trees_close, t

rng = np.random.default_rng(0)
A, x3 = rng.standard_normal((2, 3)), rng.standard_normal(3)


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
def test_of_a_matrix_product(mode: str) -> None:
    assert_trees_close(jacobian(lambda x: t(A) @ x, mode=mode)(t(x3)), t(A))
    by_matrix = jacobian(lambda a: a @ t(x3), mode=mode)(t(A)).numpy()
    assert by_matrix.shape == (2, 2, 3)
    np.testing.assert_allclose(by_matrix, np.einsum("ij,k->ijk", np.eye(2), x3))


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_trees_of_trees(mode: str) -> None:
    f = lambda p, y: {"a": p["w"] * y, "b": [(p["w"] ** 2).sum()]}
    p, y = {"w": t([2.0, 3.0])}, t(5.0)
    by_p, by_y = jacobian(lambda p, y: f(p, y)["a"], (0, 1), mode=mode)(p, y)
    assert by_p["w"].tolist() == [[5, 0], [0, 5]]
    assert by_y.tolist() == [2, 3]
    j = jacobian(f, mode=mode)(p, y)
    assert j["a"]["w"].tolist() == [[5, 0], [0, 5]]
    assert j["b"][0]["w"].tolist() == [4, 6]
    both = jacobian(f, (0, 1), mode=mode)(p, y)
    assert both["b"][0][1].tolist() == 0


def test_modes_by_name() -> None:
    f = lambda x: schuss.sin(x).sum() * x
    assert_trees_close(jacfwd(f)(t(x3)), jacrev(f)(t(x3)))
    with pytest.raises(ArgumentError, match="mode is 'auto', 'forward' or 'reverse'"):
        jacobian(f, mode="backward")
    with pytest.raises(GradientError, match="the function must return a tensor, not int"):
        jacobian(lambda x: 1)(t(x3))


def test_jacobian_of_nothing() -> None:
    assert jacobian(lambda x: x * 2)(t([])).shape == (0, 0)


def test_hessian() -> None:
    f = lambda x: schuss.exp(x[0] * x[1]) + x[2] ** 3
    a, b, c = x3
    e = np.exp(a * b)
    expected = [[b * b * e, (1 + a * b) * e, 0], [(1 + a * b) * e, a * a * e, 0], [0, 0, 6 * c]]
    np.testing.assert_allclose(hessian(f)(t(x3)).numpy(), expected, atol=1e-12)
    for outer in (jacfwd, jacrev):
        for inner in (jacfwd, jacrev):
            assert_trees_close(outer(inner(f))(t(x3)), t(expected))


def test_hessian_of_trees() -> None:
    h = hessian(lambda p: p["a"] ** 2 * p["b"].sum())({"a": t(3.0), "b": t([1.0, 2.0])})
    assert h["a"]["a"].item() == 6
    assert h["a"]["b"].tolist() == [6, 6]
    assert h["b"]["a"].tolist() == [6, 6]
    assert h["b"]["b"].tolist() == [[0, 0], [0, 0]]


def test_third_derivatives() -> None:
    cube = jacobian(hessian(lambda x: (x**3).sum()))(t([1.0, 2.0])).numpy()
    expected = np.zeros((2, 2, 2))
    expected[0, 0, 0] = expected[1, 1, 1] = 6
    np.testing.assert_allclose(cube, expected)


def test_batches_of_hessians() -> None:
    f = lambda x: schuss.sin(x).prod()
    xs = rng.standard_normal((4, 3))
    many = vmap(hessian(f))(t(xs))
    assert_trees_close(many, schuss.stack([hessian(f)(t(x)) for x in xs]))


def test_hessian_products() -> None:
    f = lambda x: schuss.exp(schuss.sin(x) @ x)
    v = rng.standard_normal(3)
    expected = hessian(f)(t(x3)).numpy() @ v
    np.testing.assert_allclose(hvp(f, t(x3), t(v)).numpy(), expected)
    np.testing.assert_allclose(hessian_at(f, t(x3))(t(v)).numpy(), expected)
    product = grad(lambda x: (grad(f)(x) * t(v)).sum())(t(x3))
    np.testing.assert_allclose(product.numpy(), expected)


def test_gauss_newton_products() -> None:
    """J' H J v, with both matrices written out."""
    w = rng.standard_normal((5, 3))
    model = lambda p: schuss.tanh(t(w) @ p["x"]) * p["s"]
    loss = lambda y: schuss.logsumexp(y) + (y**4).sum()
    p = {"x": t(x3), "s": t(0.7)}
    v = {"x": t(rng.standard_normal(3)), "s": t(-0.3)}
    j = jacobian(model)(p)
    J = np.concatenate([j["x"].numpy(), j["s"].numpy()[:, None]], axis=1)
    H = hessian(loss)(model(p)).numpy()
    expected = J.T @ H @ J @ np.append(v["x"].numpy(), v["s"].numpy())
    for found in (gnvp(model, loss, p, v), gauss_newton_at(model, loss, p)(v)):
        np.testing.assert_allclose(np.append(found["x"].numpy(), found["s"].numpy()), expected)


def test_gauss_newton_of_a_linear_model_is_the_hessian() -> None:
    w = t(rng.standard_normal((5, 3)))
    loss = lambda y: schuss.logsumexp(y)
    v = t(rng.standard_normal(3))
    found = gnvp(lambda x: w @ x, loss, t(x3), v)
    assert_trees_close(found, hvp(lambda x: loss(w @ x), t(x3), v))
    assert not found.requires_grad


def test_layers() -> None:
    model, x = nn.Linear(3, 1), schuss.ones(4, 3)
    f = lambda m: (m(x) ** 2).mean()
    with schuss.no_grad():
        product = hvp(f, model, schuss.trees.map(schuss.ones_like, model))
    np.testing.assert_allclose(product.weight.numpy(), [[8, 8, 8]], rtol=1e-6)
    assert not product.weight.requires_grad


# --- vjp ---


def test_vjp() -> None:
    f = lambda x, p: {"y": schuss.sin(x) * p["w"], "z": x.sum()}
    x, p = t([0.5, 1.0]), {"w": t([2.0, 3.0])}
    value, pull_back = vjp(f, x, p)
    g = {"y": t([1.0, 10.0]), "z": t(100.0)}
    gx, gp = pull_back(g)
    np.testing.assert_allclose(gx.numpy(), np.cos([0.5, 1]) * [2, 30] + 100)
    np.testing.assert_allclose(gp["w"].numpy(), np.sin([0.5, 1]) * [1, 10])
    assert_trees_close(pull_back(g), (gx, gp))  # it may be called again
    assert not value["y"].requires_grad


def test_vjp_with_aux_and_without_dependence() -> None:
    value, pull_back, aux = vjp(lambda x, y: (x * 2, "aux"), t([1.0]), t([2.0]), has_aux=True)
    assert (value.tolist(), aux) == ([2], "aux")
    assert [g.tolist() for g in pull_back(t([5.0]))] == [[10], [0]]


def test_vjp_of_a_result_given_twice() -> None:
    def f(x):
        y = x * 3
        return y, y, x

    _, pull_back = vjp(f, t(1.0))
    assert pull_back((t(1.0), t(10.0), t(100.0)))[0].item() == 3 + 30 + 100


def test_vjp_errors() -> None:
    _, pull_back = vjp(lambda x: x * 2, t([1.0, 2.0]))
    with pytest.raises(ArgumentError, match="the gradient must have the shape of the tensor"):
        pull_back(t(1.0))
    with pytest.raises(ArgumentError, match="the gradient has another structure"):
        pull_back([t([1.0, 2.0])])
    with pytest.raises(GradientError, match="the function must return a tensor, not NoneType"):
        vjp(lambda x: None, t(1.0))
