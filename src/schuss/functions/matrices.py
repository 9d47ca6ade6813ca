"""Matrices taken apart, inverted and measured. All work on stacks (..., M, N) of matrices.

float32, float64 and complex; integers become float32. Gradients flow where they exist; where they
do not (vectors that belong to equal values, phases that can be chosen freely) GradientError is
raised when the gradient is computed.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from schuss import dtypes
from schuss.errors import ArgumentError, ArgumentTypeError, ShapeError, fail
from schuss.functions.arguments import ArrayLike, as_tensor, cast, floating, operands
from schuss.functions.creation import arange, eye, triu
from schuss.functions.elementwise import abs, conj, real, where
from schuss.functions.linalg import matmul, norm_of, solve
from schuss.functions.manipulation import broadcast_to, concat, matrix_transpose, moveaxis, reshape
from schuss.functions.reduction import max, min, sum
from schuss.graph import apply, labelled
from schuss.ops import factorizations, inverses, spectra

if TYPE_CHECKING:
    from schuss.tensor import Tensor


class QRResult(NamedTuple):
    """x = Q @ R."""

    Q: Tensor
    R: Tensor


class SVDResult(NamedTuple):
    """x = U @ diag(S) @ Vh."""

    U: Tensor
    S: Tensor
    Vh: Tensor


class EighResult(NamedTuple):
    """x = V @ diag(w) @ V^H."""

    eigenvalues: Tensor
    eigenvectors: Tensor


class SlogdetResult(NamedTuple):
    """det(x) = sign * exp(logabsdet)."""

    sign: Tensor
    logabsdet: Tensor


class LstsqResult(NamedTuple):
    """The least-squares solution, and what is known of the system."""

    solution: Tensor
    residuals: Tensor
    rank: Tensor
    singular_values: Tensor


def _adjoint(x: Tensor) -> Tensor:
    return conj(matrix_transpose(x))


def cholesky(x: ArrayLike, /, *, upper: bool = False) -> Tensor:
    """The triangle L with L @ L^H = x, or with `upper` U with U^H @ U = x.

    The Hermitian part of x counts. Raises NumericsError, when the value is computed, unless it is
    positive definite.
    """
    lower = apply(factorizations.cholesky, floating(x, "cholesky"))
    return _adjoint(lower) if upper else lower


def qr(x: ArrayLike, /, *, mode: str = "reduced") -> QRResult:
    """Orthonormal columns Q and an upper triangle R with a positive diagonal: x = Q @ R.

    Args:
        mode: "reduced": Q (..., M, K) and R (..., K, N) with K = min(M, N); "complete": Q
            (..., M, M) and R (..., M, N). The columns that complete Q have no gradient.

    Gradients need the first K columns of x to be independent.
    """
    if mode not in ("reduced", "complete"):
        raise fail(ArgumentError, "qr", "mode is 'reduced' or 'complete'", mode=mode)
    x = floating(x, "qr")
    if x.ndim < 2:
        raise fail(ShapeError, "qr", "needs matrices (..., M, N)", x=x)
    m, n = x.shape[-2:]
    k = n if n < m else m
    packed = apply(factorizations.qr, x[..., :k])
    q, r = packed[..., :m, :], triu(matrix_transpose(packed[..., m:, :]))
    if n > m:
        r = concat([r, _adjoint(q) @ x[..., k:]], axis=-1)
    if mode == "complete" and m > n:
        q = concat([q, _rest_of_basis(q)], axis=-1)
        r = concat([r, broadcast_to(cast(as_tensor(0), x.dtype), (*x.shape[:-2], m - n, n))], -2)
    return QRResult(q, r)


def _rest_of_basis(q: Tensor) -> Tensor:
    return apply(factorizations.orthogonal_complement, q)


def svd(x: ArrayLike, /, *, full_matrices: bool = True) -> SVDResult:
    """Singular vectors and values: x = U @ diag(S) @ Vh, S descending.

    With K = min(M, N): U (..., M, K), S (..., K), Vh (..., K, N); with `full_matrices` U
    (..., M, M) and Vh (..., N, N), whose additional vectors have no gradient.
    """
    x = floating(x, "svd")
    packed = apply(spectra.svd, x)
    m, n = x.shape[-2:]
    u, s, v = packed[..., :m, :], real(packed[..., m, :]), packed[..., m + 1 :, :]
    if full_matrices:
        u = concat([u, _rest_of_basis(u)], axis=-1) if m > n else u
        v = concat([v, _rest_of_basis(v)], axis=-1) if n > m else v
    return SVDResult(u, s, _adjoint(v))


def svdvals(x: ArrayLike, /) -> Tensor:
    """The singular values in descending order: (..., M, N) to (..., min(M, N))."""
    return apply(spectra.svdvals, floating(x, "svdvals"))


def eigh(x: ArrayLike, /) -> EighResult:
    """Eigenvalues, ascending, and eigenvectors (as columns) of the Hermitian part of x."""
    x = floating(x, "eigh")
    packed = apply(spectra.eigh, x)
    n = x.shape[-1]
    return EighResult(real(packed[..., n, :]), packed[..., :n, :])


def eigvalsh(x: ArrayLike, /) -> Tensor:
    """The eigenvalues, ascending, of the Hermitian part of x."""
    return apply(spectra.eigvalsh, floating(x, "eigvalsh"))


def det(x: ArrayLike, /) -> Tensor:
    """The determinant: (..., N, N) to (...)."""
    return apply(inverses.det, floating(x, "det"))


def slogdet(x: ArrayLike, /) -> SlogdetResult:
    """The sign of the determinant (a phase for complex x) and the logarithm of its size."""
    x = floating(x, "slogdet")
    packed = apply(inverses.slogdet, x)
    return SlogdetResult(packed[..., 0], real(packed[..., 1]))


def inv(x: ArrayLike, /) -> Tensor:
    """The inverse. Raises NumericsError, when the value is computed, for a singular matrix."""
    x = floating(x, "inv")
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise fail(ShapeError, "inv", "needs square matrices (..., N, N)", x=x)
    return labelled(solve(x, eye(x.shape[-1], dtype=x.dtype)), "inv")


def _tolerance(x: Tensor, rtol: Any) -> Any:
    if rtol is not None:
        return rtol
    return _default_rtol(x.shape, x.dtype)


def _default_rtol(shape: Sequence[int], dtype: dtypes.DType) -> float:
    longest = shape[-1] if shape[-1] > shape[-2] else shape[-2]
    return longest * float(np.finfo(dtypes.real_of(dtype)).eps)


def matrix_rank(x: ArrayLike, /, *, rtol: float | ArrayLike | None = None) -> Tensor:
    """How many singular values are larger than `rtol` times the largest one: int64.

    By default rtol is max(M, N) times the dtype's distance from 1 to the next number.
    """
    x = floating(x, "matrix_rank")
    values = svdvals(x)
    if not values.shape[-1]:
        return sum(values > 0, axis=-1)
    limit = as_tensor(_tolerance(x, rtol))
    return sum(values > values[..., :1] * limit.expand_dims(-1), axis=-1)


def pinv(x: ArrayLike, /, *, rtol: float | ArrayLike | None = None) -> Tensor:
    """The pseudo-inverse (Moore and Penrose): (..., M, N) to (..., N, M).

    Singular values up to `rtol` times the largest one count as 0; `rtol` may be a tensor that
    broadcasts to (...). By default it is max(M, N) times the dtype's distance from 1 to the next
    number. Gradients assume that the rank does not change.
    """
    x = floating(x, "pinv")
    if x.ndim < 2:
        raise fail(ShapeError, "pinv", "needs matrices (..., M, N)", x=x)
    limit = _tolerance(x, rtol)
    if isinstance(limit, (int, float)):
        return apply(inverses.pinv, x, rtol=float(limit))
    u, s, vh = svd(x, full_matrices=False)
    kept = s > s[..., :1] * as_tensor(limit).expand_dims(-1)
    inverse = where(kept, 1 / where(kept, s, 1), 0)
    return _adjoint(vh) @ (inverse.expand_dims(-1) * _adjoint(u))


def lstsq(a: ArrayLike, b: ArrayLike, /, rcond: float | None = None) -> LstsqResult:
    """x of the smallest norm for which |a @ x - b| is smallest: (..., M, N), (..., M, K).

    b may be one right side (M,). `residuals` are the sums of squares over each column of b.
    Singular values up to `rcond` times the largest one count as 0 (`pinv` has the default).
    """
    matrix, right = operands("lstsq", floating(a, "lstsq"), floating(b, "lstsq"))
    vector = right.ndim == 1
    columns = reshape(right, (right.size, 1)) if vector else right
    if matrix.ndim < 2 or columns.shape[-2] != matrix.shape[-2]:
        raise fail(ShapeError, "lstsq", "b must be as high as a", a=matrix, b=right)
    x = labelled(matmul(pinv(matrix, rtol=rcond), columns), "lstsq")
    residuals = sum(abs(matrix @ x - columns) ** 2, axis=-2)
    solution = x[..., 0] if vector else x
    return LstsqResult(solution, residuals, matrix_rank(matrix, rtol=rcond), svdvals(matrix))


def matrix_power(x: ArrayLike, n: int, /) -> Tensor:
    """x multiplied by itself n times; for negative n its inverse, for 0 the identity."""
    x = floating(x, "matrix_power")
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise fail(ArgumentTypeError, "matrix_power", "n must be an integer", n=n)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise fail(ShapeError, "matrix_power", "needs square matrices (..., N, N)", x=x)
    if n < 0:
        x, n = inv(x), -n
    result = None
    while n:
        if n & 1:
            result = x if result is None else result @ x
        n >>= 1
        x = x @ x if n else x
    return broadcast_to(eye(x.shape[-1], dtype=x.dtype), x.shape) if result is None else result


def matrix_exp(x: ArrayLike, /) -> Tensor:
    """The exponential of square matrices, the sum of all x**k / k!: (..., N, N) to (..., N, N).

    By Pade's approximation and squaring (Higham, 2005), in float64 or complex128.
    """
    return apply(inverses.matrix_exp, floating(x, "matrix_exp"))


def diagonal(x: ArrayLike, /, *, offset: int = 0) -> Tensor:
    """The elements (i, i + offset) of the last two axes: (..., M, N) to (..., K)."""
    x = as_tensor(x, "diagonal")
    if x.ndim < 2:
        raise fail(ShapeError, "diagonal", "needs matrices (..., M, N)", x=x)
    m, n = x.shape[-2:]
    below, right = (-offset, 0) if offset < 0 else (0, offset)
    count = builtins.max(0, builtins.min(m - below, n - right))
    steps = arange(count)
    return x[..., steps + below, steps + right]


def trace(x: ArrayLike, /, *, offset: int = 0, dtype: Any = None) -> Tensor:
    """The sum of a diagonal of the last two axes; integers add up in 64 bits."""
    return sum(diagonal(x, offset=offset), axis=-1, dtype=dtype)


def cross(x1: ArrayLike, x2: ArrayLike, /, *, axis: int = -1) -> Tensor:
    """The vector product of vectors of 3 elements along `axis`; the other axes broadcast."""
    a, b = operands("cross", as_tensor(x1, "cross"), as_tensor(x2, "cross"))
    a, b = moveaxis(a, axis, -1), moveaxis(b, axis, -1)
    if a.shape[-1] != 3 or b.shape[-1] != 3:
        raise fail(ShapeError, "cross", "the vectors must have 3 elements", x1=x1, x2=x2)
    following, last = np.array([1, 2, 0]), np.array([2, 0, 1])
    product = a[..., following] * b[..., last] - a[..., last] * b[..., following]
    return moveaxis(product, -1, axis)


def vector_norm(
    x: ArrayLike,
    /,
    *,
    axis: int | Sequence[int] | None = None,
    keepdims: bool = False,
    ord: float = 2,
) -> Tensor:
    """(sum of |x|**ord)**(1 / ord) over `axis`, by default over all elements.

    Infinity gives the largest element, -infinity the smallest, 0 how many elements are not 0.
    """
    return norm_of("vector_norm", x, axis, keepdims, ord)


def matrix_norm(
    x: ArrayLike, /, *, keepdims: bool = False, ord: float | str | None = "fro"
) -> Tensor:
    """A norm of matrices (..., M, N).

    Args:
        ord: "fro" (the root of the sum of squares), "nuc" (the sum of singular values), 2 and -2
            (the largest and smallest singular value), 1 and -1 (of the column sums of |x|),
            infinity and -infinity (of the row sums).
    """
    x = floating(x, "matrix_norm")
    if x.ndim < 2:
        raise fail(ShapeError, "matrix_norm", "needs matrices (..., M, N)", x=x)
    if ord in ("fro", None):
        return norm_of("matrix_norm", x, (-2, -1), keepdims, 2)
    if ord in ("nuc", 2, -2):
        values = svdvals(x)
        chosen = {"nuc": sum, 2: max, -2: min}[ord]
        result = chosen(values, axis=-1)
    elif ord in (1, -1, math.inf, -math.inf):
        over, other = (-2, -1) if ord in (1, -1) else (-1, -2)
        sums = sum(abs(x), axis=over, keepdims=True)
        chosen = max if ord > 0 else min
        result = reshape(chosen(sums, axis=other), x.shape[:-2])
    else:
        problem = "ord is 'fro', 'nuc', 1, -1, 2, -2, infinity or -infinity"
        raise fail(ArgumentError, "matrix_norm", problem, ord=ord)
    return reshape(result, (*x.shape[:-2], 1, 1)) if keepdims else result


def multi_dot(arrays: Sequence[ArrayLike], /) -> Tensor:
    """The product of several matrices, multiplied in the order that costs least."""
    tensors = [as_tensor(each, "multi_dot") for each in arrays]
    if len(tensors) < 2:
        raise fail(ArgumentError, "multi_dot", "needs at least two matrices")
    first = reshape(tensors[0], (1, -1)) if tensors[0].ndim == 1 else tensors[0]
    last = reshape(tensors[-1], (-1, 1)) if tensors[-1].ndim == 1 else tensors[-1]
    chain = [first, *tensors[1:-1], last]
    if any(each.ndim != 2 for each in chain):
        raise fail(ShapeError, "multi_dot", "needs matrices; the first and last may be vectors")
    product = _in_best_order(chain, _split_points([*[t.shape[0] for t in chain], last.shape[1]]))
    shape = product.shape[tensors[0].ndim == 1 : 2 - (tensors[-1].ndim == 1)]
    return reshape(product, shape)


def _split_points(sizes: list[int]) -> dict[tuple[int, int], int]:
    """Where to split the chain from matrix i to j: dynamic programming over its length."""
    count = len(sizes) - 1
    cost: dict[tuple[int, int], int] = {(i, i): 0 for i in range(count)}
    split: dict[tuple[int, int], int] = {}
    for length in range(1, count):
        for i in range(count - length):
            j = i + length
            options = [
                (cost[i, k] + cost[k + 1, j] + sizes[i] * sizes[k + 1] * sizes[j + 1], k)
                for k in range(i, j)
            ]
            cost[i, j], split[i, j] = builtins.min(options)
    return split


def _in_best_order(chain: list[Tensor], split: dict[tuple[int, int], int]) -> Tensor:
    done: dict[tuple[int, int], Tensor] = {(i, i): each for i, each in enumerate(chain)}
    for i, j in sorted(split, key=lambda pair: pair[1] - pair[0]):
        if (i, j) == (0, len(chain) - 1) or any(
            (i, j) in ((a, split[a, b]), (split[a, b] + 1, b)) for a, b in split
        ):
            k = split[i, j]
            done[i, j] = done[i, k] @ done[k + 1, j]
    return done[0, len(chain) - 1]


__all__ = [
    "EighResult", "LstsqResult", "QRResult", "SVDResult", "SlogdetResult", "cholesky", "cross",
    "det", "diagonal", "eigh", "eigvalsh", "inv", "lstsq", "matrix_norm", "matrix_power",
    "matrix_rank", "multi_dot", "pinv", "qr", "slogdet", "svd", "svdvals", "trace", "vector_norm",
]  # fmt: skip
