"""Factorizations, inverses and norms of matrices against NumPy, and their gradients."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import schuss
from schuss import linalg
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    DTypeError,
    GradientError,
    NumericsError,
    ShapeError,
)

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order():
    rng.bit_generator.state = np.random.default_rng(0).bit_generator.state


KINDS = ["real", "complex"]


def matrix(*shape: int, kind: str = "real") -> np.ndarray:
    """Singular values that lie apart, between 1 and 2.5."""
    *batch, m, n = shape
    k = min(m, n)
    u, v = (np.linalg.qr(numbers((*batch, each, each), kind))[0][..., :k] for each in (m, n))
    return (u * np.linspace(2.5, 1, k)) @ v.conj().swapaxes(-1, -2)


def numbers(shape: tuple[int, ...], kind: str) -> np.ndarray:
    x = rng.standard_normal(shape)
    return x + 1j * rng.standard_normal(shape) if kind == "complex" else x


def adjoint(x):
    return schuss.conj(x.mT)


SQUARE = [(3, 3), (2, 4, 4), (1, 1), (0, 0), (0, 2, 2)]
ANY = [*SQUARE, (5, 3), (3, 5), (2, 4, 2), (3, 0), (0, 3)]


# --- values ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SQUARE)
def test_cholesky(shape, kind) -> None:
    a = matrix(*shape, kind=kind)
    a = a @ a.conj().swapaxes(-1, -2)
    lower, upper = linalg.cholesky(a), linalg.cholesky(a, upper=True)
    np.testing.assert_allclose(lower.numpy(), np.linalg.cholesky(a), atol=1e-12)
    np.testing.assert_allclose((adjoint(upper) @ upper).numpy(), a, atol=1e-12)
    np.testing.assert_array_equal(np.tril(upper.numpy(), -1), 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["reduced", "complete"])
@pytest.mark.parametrize("shape", ANY)
def test_qr(shape, mode, kind) -> None:
    a = matrix(*shape, kind=kind)
    q, r = linalg.qr(a, mode=mode)
    m, n = shape[-2:]
    k = m if mode == "complete" else min(m, n)
    assert q.shape == (*shape[:-2], m, k)
    assert r.shape == (*shape[:-2], k, n)
    np.testing.assert_allclose((q @ r).numpy(), a, atol=1e-12)
    identity = np.broadcast_to(np.eye(k), (*shape[:-2], k, k))
    np.testing.assert_allclose((adjoint(q) @ q).numpy(), identity, atol=1e-12)
    np.testing.assert_array_equal(np.tril(r.numpy(), -1), 0)
    diagonal = np.diagonal(r.numpy(), axis1=-2, axis2=-1)
    assert (diagonal.real > 0).all()
    np.testing.assert_allclose(diagonal.imag, 0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("shape", ANY)
def test_svd(shape, full, kind) -> None:
    a = matrix(*shape, kind=kind)
    u, s, vh = linalg.svd(a, full_matrices=full)
    m, n = shape[-2:]
    k = min(m, n)
    assert u.shape == (*shape[:-2], m, m if full else k)
    assert vh.shape == (*shape[:-2], n if full else k, n)
    assert s.dtype == schuss.float64
    product = (u[..., :k] * s.expand_dims(-2)) @ vh[..., :k, :]
    np.testing.assert_allclose(product.numpy(), a, atol=1e-12)
    for each in (adjoint(u) @ u, vh @ adjoint(vh)):
        identity = np.broadcast_to(np.eye(each.shape[-1]), each.shape)
        np.testing.assert_allclose(each.numpy(), identity, atol=1e-12)
    np.testing.assert_allclose(linalg.svdvals(a).numpy(), s.numpy(), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SQUARE)
def test_eigh(shape, kind) -> None:
    a = matrix(*shape, kind=kind)
    a = a + a.conj().swapaxes(-1, -2)
    w, v = linalg.eigh(a)
    assert w.dtype == schuss.float64
    np.testing.assert_allclose(w.numpy(), np.linalg.eigvalsh(a), atol=1e-12)
    np.testing.assert_allclose(linalg.eigvalsh(a).numpy(), w.numpy(), atol=1e-12)
    np.testing.assert_allclose((v * w.expand_dims(-2) @ adjoint(v)).numpy(), a, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SQUARE)
def test_determinants_and_inverses(shape, kind) -> None:
    a = matrix(*shape, kind=kind)
    np.testing.assert_allclose(linalg.det(a).numpy(), np.linalg.det(a), rtol=1e-12)
    sign, size = linalg.slogdet(a)
    np.testing.assert_allclose((sign * schuss.exp(size)).numpy(), np.linalg.det(a), rtol=1e-12)
    assert size.dtype == schuss.float64
    np.testing.assert_allclose(linalg.inv(a).numpy(), np.linalg.inv(a), atol=1e-12)
    for n in (-2, -1, 0, 1, 2, 5):
        expected = np.linalg.matrix_power(a, n) if a.size else a
        np.testing.assert_allclose(linalg.matrix_power(a, n).numpy(), expected, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ANY)
def test_pinv_and_rank(shape, kind) -> None:
    a = matrix(*shape, kind=kind)
    found = linalg.pinv(a)
    assert found.shape == (*shape[:-2], shape[-1], shape[-2])
    if a.size:
        np.testing.assert_allclose(found.numpy(), np.linalg.pinv(a), atol=1e-12)
        np.testing.assert_array_equal(linalg.matrix_rank(a).numpy(), np.linalg.matrix_rank(a))
    assert linalg.matrix_rank(a).dtype == schuss.int64


def test_rank_and_pinv_with_a_tolerance() -> None:
    a = np.diag([4.0, 2.0, 1e-3])
    for rtol, rank in ((1e-6, 3), (1e-2, 2), (0.6, 1)):
        assert linalg.matrix_rank(a, rtol=rtol).item() == rank
        expected = np.linalg.pinv(a, rtol=rtol)
        np.testing.assert_allclose(linalg.pinv(a, rtol=rtol).numpy(), expected)
        limit = schuss.tensor([rtol, rtol], dtype=schuss.float64)
        both = linalg.pinv(np.stack([a, a]), rtol=limit)
        np.testing.assert_allclose(both.numpy(), [expected, expected])
    np.testing.assert_array_equal(
        linalg.matrix_rank(np.stack([a, a]), rtol=schuss.tensor([1e-6, 0.6])).numpy(), [3, 1]
    )


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)])
def test_lstsq(shape) -> None:
    a, b = matrix(*shape), numbers((shape[0], 2), "real")
    x, residuals, rank, values = linalg.lstsq(a, b)
    expected, squares, expected_rank, expected_values = np.linalg.lstsq(a, b)
    np.testing.assert_allclose(x.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(values.numpy(), expected_values)
    assert rank.item() == expected_rank
    if squares.size:
        np.testing.assert_allclose(residuals.numpy(), squares)
    np.testing.assert_allclose(
        linalg.lstsq(a, b[:, 0]).solution.numpy(), expected[:, 0], atol=1e-12
    )
    nothing = linalg.lstsq(a, b, rcond=2.0)
    assert not nothing.rank.numpy().any()
    assert not nothing.solution.numpy().any()
    schuss.check_gradients(lambda a, b: linalg.lstsq(a, b).solution, [a, b])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("ord_", ["fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf])
def test_matrix_norm(ord_, keepdims, kind) -> None:
    a = matrix(2, 4, 3, kind=kind)
    found = linalg.matrix_norm(a, ord=ord_, keepdims=keepdims)
    np.testing.assert_allclose(
        found.numpy(), np.linalg.norm(a, ord_, axis=(-2, -1), keepdims=keepdims)
    )
    assert found.dtype == schuss.float64
    schuss.check_gradients(lambda x: linalg.matrix_norm(x, ord=ord_), [a])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ord_", [0, 0.5, 1, 2, 3, -1, -2, math.inf, -math.inf])
def test_vector_norm(ord_, kind) -> None:
    x = numbers((3, 4), kind)
    for axis in (0, -1):
        expected = np.linalg.norm(x, ord_, axis=axis, keepdims=True)
        found = linalg.vector_norm(x, axis=axis, ord=ord_, keepdims=True)
        np.testing.assert_allclose(found.numpy(), expected)
    np.testing.assert_allclose(
        linalg.vector_norm(x, ord=ord_).numpy(), np.linalg.norm(x.ravel(), ord_)
    )
    assert linalg.vector_norm(x, axis=(), ord=2).shape == (3, 4)
    if ord_:
        schuss.check_gradients(lambda x: linalg.vector_norm(x, axis=1, ord=ord_), [x])


def test_norms_at_zero_have_no_slope() -> None:
    for ord_ in (0.5, 1, 2, 3):
        slope = schuss.grad(lambda x, ord_=ord_: linalg.vector_norm(x, ord=ord_))
        assert slope(schuss.zeros(3)).tolist() == [0, 0, 0]


def test_diagonals() -> None:
    a = numbers((2, 3, 5), "real")
    for offset in (-4, -2, -1, 0, 1, 4, 6):
        expected = np.diagonal(a, offset, -2, -1)
        np.testing.assert_array_equal(linalg.diagonal(a, offset=offset).numpy(), expected)
        np.testing.assert_allclose(linalg.trace(a, offset=offset).numpy(), expected.sum(-1))
    assert linalg.trace(np.eye(3, dtype=np.int8)).dtype == schuss.int64
    schuss.check_gradients(lambda x: linalg.trace(x, offset=1), [a])


def test_cross() -> None:
    a, b = numbers((2, 3), "complex"), numbers((4, 1, 3), "complex")
    np.testing.assert_allclose(linalg.cross(a, b).numpy(), np.cross(a, b))
    np.testing.assert_allclose(
        linalg.cross(a.T, a.T[:, ::-1], axis=-2).numpy(), np.cross(a.T, a.T[:, ::-1], axis=0)
    )
    schuss.check_gradients(linalg.cross, [a, b])


def test_multi_dot() -> None:
    sizes = [2, 7, 1, 5, 3]
    chain = [numbers(pair, "real") for pair in itertools.pairwise(sizes)]
    np.testing.assert_allclose(linalg.multi_dot(chain).numpy(), np.linalg.multi_dot(chain))
    ends = [numbers((2,), "real"), *chain, numbers((3,), "real")]
    np.testing.assert_allclose(linalg.multi_dot(ends).numpy(), np.linalg.multi_dot(ends))
    np.testing.assert_allclose(linalg.multi_dot(chain[:2]).numpy(), chain[0] @ chain[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SQUARE)
def test_matrix_exp(shape, kind) -> None:
    """Of x = V diag(w) V^-1, it is V diag(exp(w)) V^-1; large and small ones in one stack."""
    a = matrix(*shape, kind=kind) * (rng.uniform(0.01, 8, (*shape[:-2], 1, 1)))
    w, v = np.linalg.eig(a)
    expected = v * np.exp(w)[..., None, :] @ np.linalg.inv(v)
    found = linalg.matrix_exp(a).numpy()
    assert found.dtype == a.dtype
    np.testing.assert_allclose(
        found, expected, rtol=1e-11, atol=1e-11 * abs(expected).max(initial=1)
    )


def test_matrix_exp_of_a_rotation() -> None:
    angle = schuss.tensor([[0.0, -1.0], [1.0, 0.0]]) * 100.0
    found = linalg.matrix_exp(angle)
    assert found.dtype == schuss.float32
    expected = [[np.cos(100), -np.sin(100)], [np.sin(100), np.cos(100)]]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


# --- gradients of what does not depend on free choices ---


def symmetric(x):
    return x + adjoint(x)


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3)])
def test_gradients_of_complex_eigenvectors(shape) -> None:
    a = matrix(*shape, kind="complex")
    fixed = schuss.tensor(numbers(shape, "complex"))

    def weighted_projections(x):
        w, v = linalg.eigh(symmetric(x))
        return v * schuss.exp(w).expand_dims(-2) @ adjoint(v) * fixed

    def sizes(x):
        return schuss.abs(linalg.eigh(symmetric(x)).eigenvectors)

    schuss.check_gradients(weighted_projections, [a])
    schuss.check_gradients(sizes, [a], order=1)


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4)])
def test_gradients_of_complex_singular_vectors(shape) -> None:
    a = matrix(*shape, kind="complex")

    def soft(x):
        u, s, vh = linalg.svd(x, full_matrices=False)
        return (u * schuss.exp(s).expand_dims(-2)) @ vh

    def sizes(x):
        u, s, vh = linalg.svd(x, full_matrices=False)
        return schuss.concat([schuss.abs(u), schuss.abs(vh.mT), s.expand_dims(0)])

    schuss.check_gradients(soft, [a])
    schuss.check_gradients(sizes, [a], order=1)


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4)])
def test_gradients_of_qr(shape) -> None:
    for kind in KINDS:
        a = matrix(*shape, kind=kind)
        schuss.check_gradients(lambda x: linalg.qr(x).Q, [a])
        schuss.check_gradients(lambda x: linalg.qr(x).R, [a])


def test_gradients_of_complex_determinants() -> None:
    a = matrix(2, 3, 3, kind="complex")
    schuss.check_gradients(lambda x: linalg.slogdet(x).sign, [a])
    schuss.check_gradients(lambda x: linalg.slogdet(x).logabsdet, [a])
    schuss.check_gradients(linalg.inv, [a])
    schuss.check_gradients(lambda x: linalg.matrix_power(x, -3), [a])


def test_the_determinant_of_a_singular_matrix_has_a_gradient() -> None:
    a = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 1.0]])
    schuss.check_gradients(linalg.det, [a], order=1)
    assert schuss.grad(linalg.det)(schuss.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]


def test_values_of_equal_size_have_gradients() -> None:
    identity = schuss.eye(3, dtype=schuss.float64)
    for f in (linalg.eigvalsh, linalg.svdvals, lambda x: linalg.eigh(x).eigenvalues,
              lambda x: linalg.svd(x).S):  # fmt: skip
        slope = schuss.grad(lambda x, f=f: f(x).sum())(identity)
        np.testing.assert_allclose(slope.numpy(), np.eye(3), atol=1e-12)
    slope = schuss.grad(lambda x: linalg.pinv(x).sum())(identity)
    np.testing.assert_allclose(slope.numpy(), -np.ones((3, 3)), atol=1e-12)


# --- where mathematics gives no gradient ---


def test_vectors_of_equal_values_have_no_gradient() -> None:
    identity = schuss.eye(3)
    weights = schuss.arange(9.0, dtype=schuss.float32).reshape(3, 3)
    with pytest.raises(GradientError, match="vectors that belong to equal values") as caught:
        schuss.grad(lambda x: (linalg.eigh(x).eigenvectors * weights).sum())(identity).numpy()
    assert "over_gaps in the gradient of eigh" in str(caught.value)
    assert "hint: differentiate the values alone" in str(caught.value)
    with pytest.raises(GradientError, match="in the gradient of svd"):
        schuss.grad(lambda x: (linalg.svd(x).U * weights).sum())(identity).numpy()


def test_free_phases_have_no_gradient() -> None:
    a = schuss.tensor(matrix(3, 3, kind="complex"))
    weights = schuss.arange(9.0, dtype=schuss.float64).reshape(3, 3)
    with pytest.raises(GradientError, match="phases of vectors, that can be chosen freely"):
        schuss.grad(lambda x: schuss.real(linalg.eigh(symmetric(x)).eigenvectors * weights).sum())(
            a
        ).numpy()
    with pytest.raises(GradientError, match="phases of vectors, that can be chosen freely"):
        schuss.grad(lambda x: schuss.real(linalg.svd(x).U * weights).sum())(a).numpy()


def test_vectors_that_fill_a_basis_have_no_gradient() -> None:
    a = schuss.tensor(matrix(4, 2))
    slope = schuss.grad(lambda x: linalg.svd(x).U[:, :2].abs().sum())(a)
    assert np.isfinite(slope.numpy()).all()
    for f in (lambda x: linalg.svd(x).U, lambda x: linalg.qr(x, mode="complete").Q):
        with pytest.raises(GradientError, match=r"this depends on vectors, .* chosen freely"):
            schuss.grad(lambda x, f=f: f(x).abs().sum())(a).numpy()


def test_singular_matrices() -> None:
    ones = schuss.ones((2, 2))
    with pytest.raises(NumericsError, match="inv: the matrix is singular"):
        linalg.inv(ones).numpy()
    with pytest.raises(NumericsError, match="in the gradient of slogdet: the matrix is singular"):
        schuss.grad(lambda x: linalg.slogdet(x).logabsdet)(ones).numpy()
    with pytest.raises(NumericsError, match="cholesky: the matrix is not positive definite"):
        linalg.cholesky(-ones).numpy()
    with pytest.raises(NumericsError, match="svd: svd did not converge"):
        linalg.svd(ones * math.nan).S.numpy()


def test_vectors_that_complete_a_basis_do_not_move() -> None:
    """Forward mode says so too, where it is asked for them."""
    a = schuss.tensor(matrix(4, 2))
    move = lambda f: schuss.jvp(f, (a,), (schuss.ones_like(a),))[1].numpy()
    assert np.isfinite(move(lambda x: linalg.svd(x, full_matrices=False).U)).all()
    assert np.isfinite(move(lambda x: linalg.svd(x).S)).all()
    with pytest.raises(GradientError, match="that can be chosen freely"):
        move(lambda x: linalg.svd(x).U)
    with pytest.raises(GradientError, match="that can be chosen freely"):
        move(lambda x: linalg.qr(x, mode="complete").Q)


# --- arguments ---


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: linalg.cholesky(schuss.ones((2, 3))), ShapeError, "cholesky: needs square"),
        (lambda: linalg.qr(schuss.ones(2)), ShapeError, r"qr: needs matrices \(..., M, N\)"),
        (lambda: linalg.qr(schuss.ones((2, 2)), mode="r"), ArgumentError, "mode is 'reduced' or"),
        (lambda: linalg.svd(schuss.ones(2)), ShapeError, "svd: needs matrices"),
        (lambda: linalg.eigh(schuss.ones((2, 3))), ShapeError, "eigh: needs square matrices"),
        (lambda: linalg.det(schuss.ones(3)), ShapeError, "det: needs square matrices"),
        (lambda: linalg.inv(schuss.ones((2, 3))), ShapeError, "inv: needs square matrices"),
        (lambda: linalg.matrix_power(schuss.ones((2, 3)), 2), ShapeError, "needs square matrices"),
        (lambda: linalg.matrix_power(schuss.eye(2), 0.5), ArgumentTypeError, "must be an integer"),
        (lambda: linalg.pinv(schuss.ones(3)), ShapeError, "pinv: needs matrices"),
        (lambda: linalg.lstsq(schuss.eye(2), schuss.ones(3)), ShapeError, "b must be as high as a"),
        (lambda: linalg.matrix_norm(schuss.ones(3)), ShapeError, "matrix_norm: needs matrices"),
        (lambda: linalg.matrix_norm(schuss.eye(3), ord=3), ArgumentError, "ord is 'fro', 'nuc'"),
        (lambda: linalg.vector_norm([1.0], ord="fro"), ArgumentError, "ord must be a number"),
        (lambda: linalg.matrix_exp(schuss.ones(3)), ShapeError, "matrix_exp: needs square"),
        (lambda: linalg.matrix_exp([[float("inf")]]).numpy(), NumericsError, "NaN or infinities"),
        (lambda: linalg.diagonal(schuss.ones(3)), ShapeError, "diagonal: needs matrices"),
        (lambda: linalg.cross(schuss.ones(2), schuss.ones(2)), ShapeError, "have 3 elements"),
        (lambda: linalg.multi_dot([schuss.eye(2)]), ArgumentError, "at least two matrices"),
        (lambda: linalg.multi_dot([schuss.eye(2)] * 2 + [schuss.ones((2, 2, 2))]), ShapeError,
         "the first and last may be vectors"),
        (lambda: linalg.svd(schuss.ones((2, 2), dtype=schuss.float16)), DTypeError,
         "svd: needs float32, float64 or complex input"),
    ],
)  # fmt: skip
def test_errors(call, kind, message) -> None:
    with pytest.raises(kind, match=message):
        call()
