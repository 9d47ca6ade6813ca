"""Every row of every table of docs/derivatives.md, against its formula and against differences."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss import grad, linalg

rng = np.random.default_rng(0)
n, k, m, l = 3, 2, 4, 5  # noqa: E741  # as in the table


def t(*shape: int) -> schuss.Tensor:
    return schuss.tensor(rng.uniform(0.5, 1.5, shape), dtype=schuss.float64)


def jacobian(f, x):
    y = f(x)
    rows = [grad(lambda x, i=i: f(x).reshape(-1)[i])(x) for i in range(y.size)]
    return schuss.stack(rows).reshape(y.shape + x.shape)


def same(found, expected) -> None:
    np.testing.assert_allclose(found.numpy(), np.asarray(expected), rtol=1e-10, atol=1e-12)


# --- the nine pairs ---

SHAPES = {"scalar": (), "vector": (n,), "matrix": (n, k)}
RESULTS = {"scalar": (), "vector": (m,), "matrix": (m, l)}


@pytest.mark.parametrize("of", RESULTS)
@pytest.mark.parametrize("by", SHAPES)
def test_the_nine_pairs(of, by) -> None:
    x, shape = t(*SHAPES[by]), RESULTS[of]
    weights = t(*shape, *SHAPES[by])
    axes = tuple(range(len(shape), len(shape) + x.ndim))

    def f(x):
        return schuss.sin(schuss.sum(weights * x * x, axis=axes))

    found = jacobian(f, x)
    assert found.shape == shape + x.shape
    inner = (weights * x * x).sum(axis=axes).numpy().reshape(shape + (1,) * x.ndim)
    same(found, np.cos(inner) * 2 * (weights * x).numpy())
    schuss.check_gradients(f, [x])


@pytest.mark.parametrize("by", SHAPES)
def test_products_with_a_jacobian(by) -> None:
    """A row times it is one gradient; it times a column, the gradient of that by its row."""
    x, u, v = t(*SHAPES[by]), t(*SHAPES[by]), t(m)
    weights = t(m, *SHAPES[by])
    axes = tuple(range(1, 1 + x.ndim))

    def f(x):
        return schuss.exp(schuss.sum(weights * x * x, axis=axes) * 0.1)

    full = jacobian(f, x).numpy()
    pull = lambda v: grad(lambda x: schuss.vecdot(v, f(x)))(x)
    same(pull(v), np.tensordot(v.numpy(), full, 1))
    push = grad(lambda v: (pull(v) * u).sum())(v)
    same(push, (full * u.numpy()).sum(axis=axes))


# --- scalars by a scalar ---

x0 = t()
a0 = t()
u0, du = (lambda x: x * x + 1), (lambda x: 2 * x)
v0, dv = (lambda x: 1 / x), (lambda x: -1 / (x * x))

SCALARS = {
    "a": (lambda x: a0 + 0 * x, lambda x: 0 * x),
    "x**n": (lambda x: x**5, lambda x: 5 * x**4),
    "x**-2.5": (lambda x: x**-2.5, lambda x: -2.5 * x**-3.5),
    "exp": (schuss.exp, schuss.exp),
    "log": (schuss.log, lambda x: 1 / x),
    "sin": (schuss.sin, schuss.cos),
    "u + v": (lambda x: u0(x) + v0(x), lambda x: du(x) + dv(x)),
    "u v": (lambda x: u0(x) * v0(x), lambda x: du(x) * v0(x) + dv(x) * u0(x)),
    "f(u)": (lambda x: schuss.sin(u0(x)), lambda x: schuss.cos(u0(x)) * du(x)),
}


@pytest.mark.parametrize("row", SCALARS)
def test_scalars_by_a_scalar(row) -> None:
    f, slope = SCALARS[row]
    same(grad(f)(x0), slope(x0).numpy())
    schuss.check_gradients(f, [x0])


def test_sub_gradients() -> None:
    zero = schuss.tensor(0.0)
    assert grad(schuss.abs)(zero).item() == 0
    assert grad(schuss.relu)(zero).item() == 0
    one = schuss.tensor(1.0)
    assert [g.item() for g in grad(schuss.maximum, argnums=(0, 1))(one, one)] == [0.5, 0.5]
    assert grad(schuss.max)(schuss.tensor([1.0, 3.0, 3.0])).tolist() == [0, 0.5, 0.5]
    assert grad(schuss.norm)(schuss.zeros(3)).tolist() == [0, 0, 0]


# --- a scalar by a vector ---

x1, A1, B1 = t(n), t(m, n), t(m, n)
square = lambda x: schuss.vecdot(x, x)
total = lambda x: schuss.sum(schuss.exp(x))

VECTORS = {
    "a": (lambda x: a0 + 0 * schuss.sum(x), lambda x: 0 * x),
    "a u": (lambda x: a0 * total(x), lambda x: a0 * schuss.exp(x)),
    "sum": (schuss.sum, lambda x: schuss.ones_like(x)),
    "|x|**2": (square, lambda x: 2 * x),
    "u + v": (lambda x: square(x) + total(x), lambda x: 2 * x + schuss.exp(x)),
    "u v": (
        lambda x: square(x) * total(x),
        lambda x: 2 * x * total(x) + schuss.exp(x) * square(x),
    ),
    "<u, v>": (
        lambda x: schuss.vecdot(A1 @ x, schuss.exp(B1 @ x)),
        lambda x: (A1 @ x) @ (schuss.exp(B1 @ x)[:, None] * B1) + schuss.exp(B1 @ x) @ A1,
    ),
}


@pytest.mark.parametrize("row", VECTORS)
def test_a_scalar_by_a_vector(row) -> None:
    f, gradient = VECTORS[row]
    same(grad(f)(x1), gradient(x1).numpy())
    schuss.check_gradients(f, [x1])


# --- a vector by a vector ---

C1 = t(l, m)
u1, du1 = (lambda x: schuss.sin(A1 @ x)), (lambda x: schuss.cos(A1 @ x)[:, None] * A1)

JACOBIANS = {
    "a": (lambda x: t(m) * 0 + 0 * schuss.sum(x), lambda x: schuss.zeros((m, n))),
    "x": (lambda x: x, lambda x: schuss.eye(n)),
    "A x": (lambda x: A1 @ x, lambda x: A1),
    "x A": (lambda x: x @ A1.mT, lambda x: A1),
    "a u": (lambda x: a0 * u1(x), lambda x: a0 * du1(x)),
    "A u": (lambda x: C1 @ u1(x), lambda x: C1 @ du1(x)),
    "u + v": (lambda x: u1(x) + B1 @ x, lambda x: du1(x) + B1),
}


@pytest.mark.parametrize("row", JACOBIANS)
def test_a_vector_by_a_vector(row) -> None:
    f, expected = JACOBIANS[row]
    same(jacobian(f, x1), expected(x1).numpy())
    schuss.check_gradients(f, [x1])


# --- the chain rule ---


def test_chains() -> None:
    inner, outer = (lambda x: schuss.tanh(A1 @ x)), (lambda u: schuss.exp(C1 @ u))
    u = inner(x1)
    same(jacobian(lambda x: outer(inner(x)), x1), jacobian(outer, u) @ jacobian(inner, x1))
    scalar = lambda u: schuss.sum(outer(u))
    same(grad(lambda x: scalar(inner(x)))(x1), grad(scalar)(u) @ jacobian(inner, x1))
    slope = grad(schuss.sin)(square(x1)) * grad(square)(x1)
    same(grad(lambda x: schuss.sin(square(x)))(x1), slope)


def test_squared_errors() -> None:
    x, y, w = t(n), t(), t(n)
    same(grad(lambda w: (schuss.vecdot(x, w) - y) ** 2)(w), 2 * (schuss.vecdot(x, w) - y) * x)
    X, y = t(m, n), t(m)
    found = grad(lambda w: schuss.sum((X @ w - y) ** 2))(w)
    same(found, 2 * (X @ w - y) @ X)


# --- matrices ---


def test_what_flows_through_matrices() -> None:
    X, W, G = t(m, n), t(n, k), t(m, k)
    into = grad(lambda X, W: schuss.sum(G * (X @ W)), argnums=(0, 1))(X, W)
    same(into[0], G @ W.mT)
    same(into[1], X.mT @ G)
    same(grad(lambda X: schuss.sum(X * X))(X), 2 * X)
    A, x = t(n, n) + 2 * schuss.eye(n, dtype=schuss.float64), t(n)
    S, F = A, t(n, n)
    inverse = linalg.inv(S).mT
    same(grad(lambda X: linalg.trace(F @ X))(S), F.mT)
    same(grad(linalg.det)(S), linalg.det(S) * inverse)
    same(grad(lambda X: linalg.slogdet(X).logabsdet)(S), inverse)
    same(grad(lambda X: schuss.sum(F * linalg.inv(X)))(S), -inverse @ F @ inverse)
    same(grad(lambda x: x @ A @ x)(x), (A + A.mT) @ x)


def test_eigenvalues_of_a_symmetric_matrix() -> None:
    x, g = t(n, n), t(n)
    symmetric = x + x.mT
    vectors = linalg.eigh(symmetric).eigenvectors
    found = grad(lambda x: schuss.vecdot(g, linalg.eigvalsh(x)))(symmetric)
    same(found, vectors @ (g[:, None] * vectors.mT))


def test_complex_numbers() -> None:
    z = schuss.tensor(1 + 2j, dtype=schuss.complex128)
    same(grad(lambda z: schuss.abs(z - 3.0) ** 2)(z), -4 + 4j)
