"""Eigenvalues of any matrix and LU against their definitions, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss import linalg
from schuss.errors import DTypeError, GradientError, NumericsError, ShapeError

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order():
    rng.bit_generator.state = np.random.default_rng(0).bit_generator.state


KINDS = ["real", "complex"]
SQUARE = [(3, 3), (2, 4, 4), (1, 1), (0, 0), (0, 2, 2)]
ANY = [*SQUARE, (5, 3), (3, 5), (2, 4, 2), (3, 0), (0, 3)]


def matrix(*shape: int, kind: str = "real") -> np.ndarray:
    x = rng.standard_normal(shape)
    return x + 1j * rng.standard_normal(shape) if kind == "complex" else x


# --- eigenvalues ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SQUARE)
def test_eig(shape, kind) -> None:
    a = matrix(*shape, kind=kind)
    w, v = linalg.eig(a)
    assert (w.shape, v.shape) == (shape[:-1], shape)
    assert w.dtype == v.dtype == schuss.complex128
    np.testing.assert_allclose(a @ v.numpy(), v.numpy() * w.numpy()[..., None, :], atol=1e-12)
    np.testing.assert_allclose((np.abs(v.numpy()) ** 2).sum(axis=-2), np.ones(w.shape))
    np.testing.assert_allclose(linalg.eigvals(a).numpy(), w.numpy(), atol=1e-12)


def test_eig_of_other_dtypes() -> None:
    assert linalg.eigvals(schuss.eye(2)).dtype == schuss.complex64
    assert linalg.eig(schuss.tensor([[1, 2], [3, 4]])).eigenvectors.dtype == schuss.complex64
    rotation = schuss.tensor([[0.0, -1.0], [1.0, 0.0]])
    assert sorted(linalg.eigvals(rotation).tolist(), key=lambda w: w.imag) == [-1j, 1j]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_eig(kind) -> None:
    a = matrix(3, 3, kind=kind)
    total = lambda x: abs(x).sum() + schuss.real(x).sum()
    schuss.check_gradients(lambda x: total(linalg.eigvals(x)), [a])
    schuss.check_gradients(lambda x: total(linalg.eig(x).eigenvectors), [a])


def test_the_spectral_radius_descends() -> None:
    """A use: the derivative of the largest eigenvalue by a matrix without symmetry."""
    a = schuss.tensor([[0.5, 1.0], [0.1, 0.4]], dtype=schuss.float64)
    radius = lambda x: abs(linalg.eigvals(x)).max()
    assert radius(a - 0.1 * schuss.grad(radius)(a)).item() < radius(a).item()


def test_where_eigenvalues_have_no_derivative() -> None:
    defective = schuss.tensor([[1.0, 1.0], [0.0, 1.0]])
    with pytest.raises(GradientError, match=r"too few eigenvectors \(it is defective\)"):
        schuss.grad(lambda x: abs(linalg.eigvals(x)).sum())(defective).numpy()
    with pytest.raises(GradientError, match="vectors that belong to equal values"):
        schuss.grad(lambda x: schuss.real(linalg.eig(x).eigenvectors).sum())(schuss.eye(2)).numpy()
    slope = schuss.grad(lambda x: schuss.real(linalg.eigvals(x)).sum())(schuss.eye(2))
    np.testing.assert_allclose(slope.numpy(), np.eye(2))  # equal ones, but vectors enough


# --- LU ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ANY)
def test_lu(shape, kind) -> None:
    a = matrix(*shape, kind=kind)
    p, lower, upper = linalg.lu(a)
    *batch, m, n = shape
    k = min(m, n)
    assert (p.shape, lower.shape, upper.shape) == ((*batch, m, m), (*batch, m, k), (*batch, k, n))
    np.testing.assert_allclose((p @ lower @ upper).numpy(), a, atol=1e-14)
    np.testing.assert_array_equal(np.tril(lower.numpy()), lower.numpy())
    np.testing.assert_array_equal(np.triu(upper.numpy()), upper.numpy())
    assert (np.abs(lower.numpy()) <= 1.5).all()  # the largest elements were chosen
    np.testing.assert_array_equal(p.numpy().sum(axis=-1), np.ones((*batch, m)))


def test_lu_of_a_singular_matrix() -> None:
    a = schuss.tensor([[0.0, 1.0], [0.0, 2.0]])
    p, lower, upper = linalg.lu(a)
    assert (p @ lower @ upper).tolist() == a.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4)])
def test_gradients_of_lu(shape, kind) -> None:
    a = matrix(*shape, kind=kind)
    parts = lambda x: linalg.lu(x)[1:]
    schuss.check_gradients(lambda x: sum((abs(each) ** 2).sum() for each in parts(x)), [a])


def test_lu_solve() -> None:
    a, b = matrix(2, 4, 4), matrix(4, 3)
    x = linalg.lu_solve(linalg.lu_factor(a), b)
    np.testing.assert_allclose(x.numpy(), np.linalg.solve(a, b))
    schuss.check_gradients(lambda a, b: linalg.lu_solve(linalg.lu_factor(a), b), [a, b])


# --- errors ---


def test_errors() -> None:
    with pytest.raises(ShapeError, match="eig: needs square matrices"):
        linalg.eig(schuss.ones((2, 3)))
    with pytest.raises(ShapeError, match="eigvals: needs square matrices"):
        linalg.eigvals(schuss.ones(3))
    with pytest.raises(ShapeError, match="lu_factor: needs matrices"):
        linalg.lu(schuss.ones(3))
    with pytest.raises(DTypeError, match="row_order: needs float32, float64 or complex input"):
        linalg.lu(schuss.ones((2, 2), dtype=schuss.float16))
    with pytest.raises(ShapeError, match="lu_solve: needs factors of square matrices"):
        linalg.lu_solve(linalg.lu_factor(schuss.ones((2, 3))), schuss.ones((2, 1)))
    with pytest.raises(NumericsError, match="the matrix is singular"):
        linalg.lu_solve(linalg.lu_factor(schuss.zeros((2, 2))), schuss.ones((2, 1))).numpy()
    with pytest.raises(NumericsError, match="NaN or infinities"):
        linalg.eig(schuss.full((2, 2), float("nan"))).eigenvalues.numpy()
