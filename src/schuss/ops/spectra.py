"""Eigenvalues, singular values and their vectors, computed by LAPACK.

An op has one result, so vectors and values come packed: they have the same number of columns and
stand below each other. Of every eigenvector and left singular vector the element of largest size is
positive, so that every LAPACK gives the same ones.

The gradients of `eigh` and `svd` are those of M. Giles, "An extended collection of matrix
derivative results for forward and reverse mode algorithmic differentiation" (2008), for complex
matrices those of M. Seeger et al., "Auto-differentiating linear algebra" (2017).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.errors import BadValueError, GradientError
from schuss.graph import OUTPUT, Node, Op, Sample, Shape, apply, define
from schuss.ops.elementwise import abs_, astype, conj, detach, equal, guarded, less, round_
from schuss.ops.indexing import positions
from schuss.ops.infer import Rng, numbers, require_dtype
from schuss.ops.lapack import (
    LAPACK,
    LAPACK_KINDS,
    adjoint,
    any_samples,
    diagonal_of,
    hermitian,
    if_negligible,
    imaginary,
    lapack,
    matrices,
    on_diagonal,
    positive_samples,
    provided,
    real_part,
    square,
    stacked,
    textbook,
    widened,
)
from schuss.ops.linalg import solve
from schuss.ops.reduction import argmax
from schuss.ops.structure import Tangents, all_batched, leading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schuss.tensor import Tensor

# --- eigenvalues ---


def _turned(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns whose largest elements are positive, and what they were multiplied by."""
    if not vectors.size:
        return vectors, np.ones((*vectors.shape[:-2], vectors.shape[-1]), vectors.dtype)
    largest = np.abs(np.round(np.abs(vectors), 5)).argmax(axis=-2, keepdims=True)
    phases = np.sign(np.take_along_axis(vectors, largest, axis=-2))
    phases = np.where(phases == 0, np.ones((), vectors.dtype), phases).conj()
    return np.asarray(vectors * phases), phases[..., 0, :]


def _eigh_infer(x: Node) -> tuple[Shape, DType]:
    shape, dtype = square("eigh")(x)
    return (*shape[:-2], shape[-1] + 1, shape[-1]), dtype


def _eigh(x: np.ndarray) -> np.ndarray:
    values, vectors = lapack(np.linalg.eigh, hermitian(x))
    return np.concatenate([_turned(vectors)[0], values[..., None, :].astype(x.dtype)], axis=-2)


@textbook
def _eigh_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    n = x.shape[-1]
    vectors, values = y[..., :n, :], real_part(y[..., n, :])
    turning = adjoint(vectors) @ g[..., :n, :]
    if dtypes.is_complex(x.dtype):
        turning = if_negligible(turning, imaginary(diagonal_of(turning)))
    inner = apply(over_gaps, turning, values) + on_diagonal(widened(g[..., n, :], x.dtype))
    outer = vectors @ inner @ adjoint(vectors)
    return (outer + adjoint(outer)) * 0.5


def _eigh_tangent(op: Op, ts: Tangents, y: Tensor, x: Tensor) -> Tensor:
    t, n = cast("Tensor", ts[0]), x.shape[-1]
    vectors, values = y[..., :n, :], real_part(y[..., n, :])
    moved = adjoint(vectors) @ ((t + adjoint(t)) * 0.5) @ vectors
    turned = vectors @ apply(over_gaps, moved, values)
    return stacked(turned, widened(diagonal_of(moved), x.dtype))


eigh: Op = define(
    "eigh",
    "eigenvectors as columns above a row of ascending eigenvalues, of the Hermitian part of x",
    infer=_eigh_infer,
    reference=_eigh,
    gradient=(_eigh_rule,),
    saves=(OUTPUT,),
    samples=positive_samples,
    tangent=_eigh_tangent,
    batch=leading,
)


@textbook
def _eigvalsh_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    vectors = apply(eigh, x)[..., : x.shape[-1], :]
    return (vectors * widened(g, x.dtype).expand_dims(-2)) @ adjoint(vectors)


def _eigvalsh_tangent(op: Op, ts: Tangents, y: Tensor, x: Tensor) -> Tensor:
    vectors = apply(eigh, x)[..., : x.shape[-1], :]
    return _between(vectors, cast("Tensor", ts[0]), vectors)


def _between(u: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """How values move with a matrix: the real parts of u_k^H t v_k for columns k."""
    return real_part((_conjugate(u) * (t @ v)).sum(axis=-2))


def _conjugate(x: Tensor) -> Tensor:
    return apply(conj, x) if dtypes.is_complex(x.dtype) else x


def _eigvalsh_infer(x: Node) -> tuple[Shape, DType]:
    shape, dtype = square("eigvalsh")(x)
    return shape[:-1], dtypes.real_of(dtype)


eigvalsh: Op = define(
    "eigvalsh",
    "ascending eigenvalues of the Hermitian part of x",
    infer=_eigvalsh_infer,
    reference=lambda x: lapack(np.linalg.eigvalsh, hermitian(x)),
    gradient=(_eigvalsh_rule,),
    saves=(0,),
    samples=positive_samples,
    tangent=_eigvalsh_tangent,
    batch=leading,
)

# --- eigenvalues of any square matrix ---


def _eig_infer(x: Node) -> tuple[Shape, DType]:
    shape, dtype = square("eig")(x)
    return (*shape[:-2], shape[-1] + 1, shape[-1]), dtypes.complex_of(dtype)


def _eig(x: np.ndarray) -> np.ndarray:
    values, vectors = lapack(np.linalg.eig, x)
    dtype = dtypes.complex_of(x.dtype)
    packed = [_turned(vectors.astype(dtype))[0], values[..., None, :].astype(dtype)]
    return np.concatenate(packed, axis=-2)


def _basis(y: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors, provided that there are enough of them, and eigenvalues."""
    n = y.shape[-1]
    vectors = y[..., :n, :]
    if n:
        smallest = apply(svdvals, vectors)[..., -1]
        limit = 8 * float(np.finfo(y.dtype).eps)
        holds = apply(less, limit * (smallest * 0 + 1), smallest)
        vectors = apply(provided, vectors, holds, why="defective")
    return vectors, y[..., n, :]


def _largest(vectors: Tensor) -> Tensor:
    """1 at the element of each column that is positive by convention, 0 elsewhere."""
    sizes = apply(detach, apply(abs_, vectors)) * 1e5
    place = apply(argmax, apply(round_, sizes), axis=vectors.ndim - 2).expand_dims(-2)
    rows = apply(positions, shape=vectors.shape, axis=vectors.ndim - 2)
    return apply(astype, apply(equal, rows, place), dtype=vectors.dtype)


@textbook
def _eig_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The way back of `_eig_tangent`, step by step."""
    n = x.shape[-1]
    vectors, values = _basis(y)
    g_vectors, g_values = g[..., :n, :], g[..., n, :]
    if n:
        here = _largest(vectors)
        turns = _inner(g_vectors, 1j * vectors) / (here * vectors).sum(axis=-2, keepdims=True)
        g_vectors = g_vectors - 1j * here * turns
        g_vectors = g_vectors - vectors * _inner(g_vectors, vectors)
    inner = apply(over_gaps, adjoint(vectors) @ g_vectors, apply(conj, values))
    inner = inner + on_diagonal(g_values)
    outer = apply(solve, adjoint(vectors), inner @ adjoint(vectors))
    return outer if dtypes.is_complex(x.dtype) else real_part(outer)


def _eig_tangent(op: Op, ts: Tangents, y: Tensor, x: Tensor) -> Tensor:
    """Of unit vectors whose largest elements are real."""
    vectors, values = _basis(y)
    t = apply(astype, cast("Tensor", ts[0]), dtype=y.dtype)
    moved = apply(solve, vectors, t @ vectors)
    turned = vectors @ apply(over_gaps, moved, values)
    if x.shape[-1]:
        turned = turned - vectors * _inner(turned, vectors)
        here = _largest(vectors)
        largest, moves = [(here * each).sum(axis=-2, keepdims=True) for each in (vectors, turned)]
        turned = turned - 1j * vectors * widened(imaginary(moves), y.dtype) / largest
    return stacked(turned, diagonal_of(moved))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """The real inner products of columns, as complex numbers (..., 1, N)."""
    products = (_conjugate(a) * b).sum(axis=-2, keepdims=True)
    return widened(products, a.dtype)


def _lopsided_samples(rng: Rng) -> list[Sample]:
    """Matrices with eigenvalues well apart, some of them complex, and vectors far from parallel."""
    turn = np.array([[1.0, 1.0, 0.2], [-1.0, 1.0, 0.1], [0.3, -0.2, 3.0]])
    stack = np.stack([np.diag([1.0, 2.5]), np.diag([-2.0, 1.0])]) + numbers(rng, (2, 2, 2), 0, 0.3)
    return [Sample([each]) for each in (turn, np.array([[2.0]]), stack, np.zeros((0, 0)))]


eig: Op = define(
    "eig",
    "eigenvectors of length 1 as columns above a row of eigenvalues, all complex",
    infer=_eig_infer,
    reference=_eig,
    gradient=(_eig_rule,),
    saves=(OUTPUT,),
    samples=_lopsided_samples,
    tangent=_eig_tangent,
    batch=leading,
)


def _eigvals_infer(x: Node) -> tuple[Shape, DType]:
    shape, dtype = square("eigvals")(x)
    return shape[:-1], dtypes.complex_of(dtype)


def _eigvals(x: np.ndarray) -> np.ndarray:
    return np.asarray(lapack(np.linalg.eigvals, x), dtypes.complex_of(x.dtype))


@textbook
def _eigvals_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    vectors, _ = _basis(apply(eig, x))
    outer = apply(solve, adjoint(vectors), g.expand_dims(-1) * adjoint(vectors))
    return outer if dtypes.is_complex(x.dtype) else real_part(outer)


def _eigvals_tangent(op: Op, ts: Tangents, y: Tensor, x: Tensor) -> Tensor:
    vectors, _ = _basis(apply(eig, x))
    t = apply(astype, cast("Tensor", ts[0]), dtype=y.dtype)
    return diagonal_of(apply(solve, vectors, t @ vectors))


eigvals: Op = define(
    "eigvals",
    "the eigenvalues of any square matrix, in no particular order",
    infer=_eigvals_infer,
    reference=_eigvals,
    gradient=(_eigvals_rule,),
    saves=(0,),
    samples=_lopsided_samples,
    tangent=_eigvals_tangent,
    batch=leading,
)

# --- singular values ---


def _svd_infer(x: Node) -> tuple[Shape, DType]:
    batch, m, n = matrices("svd", x)
    return (*batch, m + 1 + n, min(m, n)), x.dtype


def _svd(x: np.ndarray) -> np.ndarray:
    u, s, vh = lapack(np.linalg.svd, x, full_matrices=False)
    u, phases = _turned(u)
    v = vh.conj().swapaxes(-1, -2) * phases[..., None, :]
    return np.concatenate([u, s[..., None, :].astype(x.dtype), v], axis=-2)


@textbook
def _svd_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    m, n = x.shape[-2:]
    u, s, v = y[..., :m, :], real_part(y[..., m, :]), y[..., m + 1 :, :]
    gu, gs, gv = g[..., :m, :], real_part(g[..., m, :]), g[..., m + 1 :, :]
    for_u, for_v = adjoint(u) @ gu, adjoint(v) @ gv
    middle = widened(gs, x.dtype)
    if dtypes.is_complex(x.dtype):
        turns = imaginary(diagonal_of(for_u))
        for_u = if_negligible(for_u, turns + imaginary(diagonal_of(for_v)))
        middle = middle + 1j * _over(turns, s)
    squares = s * s
    by_u = apply(over_gaps, for_u - adjoint(for_u), squares) * s.expand_dims(-2)
    by_v = s.expand_dims(-1) * apply(over_gaps, for_v - adjoint(for_v), squares)
    result = u @ (by_u + by_v + on_diagonal(middle)) @ adjoint(v)
    if m > n:
        rest = gu - u @ (adjoint(u) @ gu)
        result = result + _over(rest, s.expand_dims(-2)) @ adjoint(v)
    if n > m:
        rest = gv - v @ (adjoint(v) @ gv)
        result = result + u @ adjoint(_over(rest, s.expand_dims(-2)))
    return result


def _over(x: Tensor, s: Tensor) -> Tensor:
    """x / s, but 0 where x is 0."""
    return guarded(x, 1 / s)


def _svd_tangent(op: Op, ts: Tangents, y: Tensor, x: Tensor) -> Tensor:
    """J. Townsend, "Differentiating the singular value decomposition" (2016)."""
    t, (m, n) = cast("Tensor", ts[0]), x.shape[-2:]
    u, s, v = y[..., :m, :], real_part(y[..., m, :]), y[..., m + 1 :, :]
    moved = adjoint(u) @ t @ v
    right, squares = moved * s.expand_dims(-2), s * s  # moved @ diag(s)
    left = s.expand_dims(-1) * moved
    inside_u = apply(over_gaps, right + adjoint(right), squares)
    inside_v = apply(over_gaps, left + adjoint(left), squares)
    values = diagonal_of(moved)
    if dtypes.is_complex(x.dtype):
        inside_u = inside_u + 1j * widened(on_diagonal(_over(imaginary(values), s)), x.dtype)
    tu, tv = u @ inside_u, v @ inside_v
    if m > n:
        rest = t @ v - u @ moved
        tu = tu + _over(rest, s.expand_dims(-2))
    if n > m:
        rest = adjoint(t) @ u - v @ adjoint(moved)
        tv = tv + _over(rest, s.expand_dims(-2))
    return stacked(tu, widened(values, x.dtype), tv)


svd: Op = define(
    "svd",
    "left vectors as columns, a row of descending singular values, right vectors as columns",
    infer=_svd_infer,
    reference=_svd,
    gradient=(_svd_rule,),
    saves=(OUTPUT,),
    samples=any_samples,
    tangent=_svd_tangent,
    batch=leading,
)


def _svdvals_infer(x: Node) -> tuple[Shape, DType]:
    batch, m, n = matrices("svdvals", x)
    return (*batch, min(m, n)), dtypes.real_of(x.dtype)


@textbook
def _svdvals_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    m = x.shape[-2]
    packed = apply(svd, x)
    u, v = packed[..., :m, :], packed[..., m + 1 :, :]
    return (u * widened(g, x.dtype).expand_dims(-2)) @ adjoint(v)


def _svdvals_tangent(op: Op, ts: Tangents, y: Tensor, x: Tensor) -> Tensor:
    m = x.shape[-2]
    packed = apply(svd, x)
    return _between(packed[..., :m, :], cast("Tensor", ts[0]), packed[..., m + 1 :, :])


svdvals: Op = define(
    "svdvals",
    "singular values in descending order",
    infer=_svdvals_infer,
    reference=lambda x: lapack(np.linalg.svd, x, compute_uv=False),
    gradient=(_svdvals_rule,),
    saves=(0,),
    samples=any_samples,
    tangent=_svdvals_tangent,
    batch=leading,
)

# --- where vectors have no derivative ---


def _over_gaps_infer(x: Node, w: Node) -> tuple[Shape, DType]:
    require_dtype("over_gaps", LAPACK, LAPACK_KINDS, x=x)
    require_dtype("over_gaps", LAPACK, LAPACK_KINDS, w=w)
    assert x.shape == (*w.shape, w.shape[-1])
    return x.shape, x.dtype


def _over_gaps(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    gaps = w[..., None, :] - w[..., :, None]
    scale = np.abs(w).max(axis=-1, initial=0)[..., None, None]
    closed = np.abs(gaps) <= 4 * np.finfo(w.dtype).eps * scale
    n = w.shape[-1]
    if (closed & (x != 0) & ~np.eye(n, dtype=np.bool_)).any():
        raise BadValueError(
            GradientError,
            "vectors that belong to equal values can be chosen freely and have no derivative",
            "differentiate the values alone, or move them apart",
        )
    return np.asarray(np.where(closed, 0, x / np.where(closed, 1, gaps)), x.dtype)


def _over_gaps_rule_w(g: Tensor, y: Tensor, x: Tensor, w: Tensor) -> Tensor:
    moved = apply(over_gaps, g * y, w)
    moved = moved if dtypes.is_complex(w.dtype) else real_part(moved)
    return moved.sum(axis=-1) - moved.sum(axis=-2)


def _over_gaps_tangent(op: Op, ts: Tangents, y: Tensor, x: Tensor, w: Tensor) -> Tensor:
    tx, tw = ts
    if tw is None:
        return apply(over_gaps, cast("Tensor", tx), w)
    moved = y * (tw.expand_dims(-2) - tw.expand_dims(-1))
    return apply(over_gaps, -moved if tx is None else tx - moved, w)


def _over_gaps_batch(
    node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]
) -> Tensor:
    return apply(over_gaps, *all_batched(size, xs, batched))


def _over_gaps_samples(rng: Rng) -> list[Sample]:
    cases: list[Shape] = [(3,), (1,), (2, 4), (0,)]
    return [
        Sample([numbers(rng, (*s, s[-1])), np.arange(s[-1]) + numbers(rng, s, 0.0, 0.2)])
        for s in cases
    ]


over_gaps: Op = define(
    "over_gaps",
    "x[i, j] / (w[j] - w[i]), 0 on the diagonal; the derivative of eigenvectors",
    infer=_over_gaps_infer,
    reference=_over_gaps,
    gradient=(lambda g, y, x, w: apply(over_gaps, g, w), _over_gaps_rule_w),
    saves=(1, OUTPUT),
    samples=_over_gaps_samples,
    tangent=_over_gaps_tangent,
    batch=_over_gaps_batch,
)
