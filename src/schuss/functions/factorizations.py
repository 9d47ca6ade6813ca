"""Factorizations of matrices without symmetry: eigenvalues of any matrix, LU.

float32, float64 and complex; integers become float32. All work on stacks (..., M, N) of matrices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from schuss.errors import ShapeError, fail
from schuss.functions.arguments import ArrayLike, cast, floating, operands
from schuss.functions.creation import arange, eye, tril, triu
from schuss.functions.indexing import take_along_axis
from schuss.functions.linalg import solve
from schuss.functions.manipulation import broadcast_to, reshape
from schuss.graph import apply
from schuss.ops import factorizations, spectra
from schuss.ops.infer import broadcast_shapes

if TYPE_CHECKING:
    from schuss.tensor import Tensor


class EigResult(NamedTuple):
    """x @ eigenvectors = eigenvectors * eigenvalues."""

    eigenvalues: Tensor
    eigenvectors: Tensor


class LUResult(NamedTuple):
    """x = P @ L @ U."""

    P: Tensor
    L: Tensor
    U: Tensor


class LUFactors(NamedTuple):
    """L below the diagonal of LU, U on and above it, and the order in which they have x's rows."""

    LU: Tensor
    order: Tensor


def eig(x: ArrayLike, /) -> EigResult:
    """Eigenvalues and eigenvectors of any square matrix, both complex: (..., N), (..., N, N).

    The eigenvectors stand in columns of length 1, whose largest element is positive. The order is
    LAPACK's, which means nothing; `eigh` is for symmetric and Hermitian matrices.

    Gradients raise GradientError, when they are computed, for equal eigenvalues and where there
    are fewer independent eigenvectors than rows.
    """
    x = floating(x, "eig")
    packed = apply(spectra.eig, x)
    n = x.shape[-1]
    return EigResult(packed[..., n, :], packed[..., :n, :])


def eigvals(x: ArrayLike, /) -> Tensor:
    """The eigenvalues of any square matrix, complex, in LAPACK's order: (..., N, N) to (..., N)."""
    return apply(spectra.eigvals, floating(x, "eigvals"))


def lu(x: ArrayLike, /) -> LUResult:
    """Gaussian elimination: a permutation P (..., M, M) and triangles L (..., M, K), U (..., K, N).

    K = min(M, N); the diagonal of L is 1. P has no gradient: it changes in jumps.
    """
    packed, order = lu_factor(x)
    m, n = packed.shape[-2:]
    k = n if n < m else m
    places = order.expand_dims(-2) == reshape(arange(m), (m, 1))
    lower = tril(packed[..., :k], k=-1) + eye(m, k, dtype=packed.dtype)
    return LUResult(cast(places, packed.dtype), lower, triu(packed[..., :k, :]))


def lu_factor(x: ArrayLike, /) -> LUFactors:
    """What `lu_solve` needs of a matrix: L and U in one (..., M, N), the order of rows (..., M)."""
    x = floating(x, "lu_factor")
    if x.ndim < 2:
        raise fail(ShapeError, "lu_factor", "needs matrices (..., M, N)", x=x)
    order = apply(factorizations.row_order, x)
    return LUFactors(apply(factorizations.lu, _rows(x, order)), order)


def lu_solve(factors: LUFactors, b: ArrayLike, /) -> Tensor:
    """x with a @ x = b, from `lu_factor(a)`: (..., N, N) and (..., N, K) give (..., N, K).

    Raises NumericsError, when the value is computed, where a is singular.
    """
    packed, order = factors
    packed, right = operands("lu_solve", packed, floating(b, "lu_solve"))
    n = packed.shape[-1]
    if packed.shape[-2] != n or right.ndim < 2 or right.shape[-2] != n:
        problem = "needs factors of square matrices, and b as high as these"
        raise fail(ShapeError, "lu_solve", problem, LU=packed, b=right)
    lower = tril(packed, k=-1) + eye(n, dtype=packed.dtype)
    return solve(triu(packed), solve(lower, _rows(right, order)))


def _rows(x: Tensor, order: Tensor) -> Tensor:
    """The rows of matrices in an order."""
    batch = broadcast_shapes("lu", x.shape[:-2], order.shape[:-1])
    x = broadcast_to(x, (*batch, *x.shape[-2:]))
    places = broadcast_to(order.expand_dims(-1), (*batch, order.shape[-1], x.shape[-1]))
    return take_along_axis(x, places, axis=-2)


__all__ = ["EigResult", "LUFactors", "LUResult", "eig", "eigvals", "lu", "lu_factor", "lu_solve"]
