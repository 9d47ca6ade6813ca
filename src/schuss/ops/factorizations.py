"""Ops that take a matrix apart into triangles and orthogonal columns.

An op has one result, so the factors come packed: they have the same number of columns and stand
below each other, or above and below a diagonal. `functions/` cuts them apart again.

Where mathematics leaves a choice, it is made here, so that every LAPACK gives the same factors: the
diagonal of R is positive.

The gradients are those of M. Giles, "An extended collection of matrix derivative results for
forward and reverse mode algorithmic differentiation" (2008), for complex matrices those of M.
Seeger et al., "Auto-differentiating linear algebra" (2017).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.errors import BadValueError, NumericsError
from schuss.graph import OUTPUT, Node, Op, Sample, Shape, apply, define
from schuss.ops.broadcast import zeros
from schuss.ops.elementwise import select
from schuss.ops.infer import Rng, numbers
from schuss.ops.lapack import (
    adjoint,
    any_samples,
    diagonal_of,
    divide_on_the_right,
    hermitian,
    imaginary,
    lapack,
    lower_half,
    mask_of,
    matrices,
    on_diagonal,
    positive_samples,
    provided,
    square,
    square_samples,
    stacked,
    tall_samples,
    textbook,
    widened,
)
from schuss.ops.linalg import solve
from schuss.ops.structure import Tangents, leading

if TYPE_CHECKING:
    from schuss.tensor import Tensor

# --- Cholesky ---


def _cholesky(x: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.cholesky(hermitian(x))
    except np.linalg.LinAlgError:
        raise BadValueError(
            NumericsError,
            "the matrix is not positive definite",
            "add a small multiple of the identity to it",
        ) from None


@textbook
def _cholesky_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    upper = adjoint(y)
    inner = lower_half(upper @ g)
    outer = divide_on_the_right(apply(solve, upper, inner), y)
    return (outer + adjoint(outer)) * 0.5


def _cholesky_tangent(op: Op, ts: Tangents, y: Tensor, x: Tensor) -> Tensor:
    (t,) = ts
    assert t is not None
    moved = (t + adjoint(t)) * 0.5
    return y @ lower_half(divide_on_the_right(apply(solve, y, moved), adjoint(y)))


cholesky: Op = define(
    "cholesky",
    "the lower triangle L with L @ L^H = x, of the Hermitian part of x",
    infer=square("cholesky"),
    reference=_cholesky,
    gradient=(_cholesky_rule,),
    saves=(OUTPUT,),
    samples=positive_samples,
    tangent=_cholesky_tangent,
    batch=leading,
)

# --- QR ---


def _qr_infer(x: Node) -> tuple[Shape, DType]:
    batch, m, n = matrices("qr", x)
    assert m >= n
    return (*batch, m + n, n), x.dtype


def _qr(x: np.ndarray) -> np.ndarray:
    q, r = lapack(np.linalg.qr, x)
    phases = np.sign(np.diagonal(r, axis1=-2, axis2=-1))
    phases = np.where(phases == 0, np.ones((), x.dtype), phases)
    r = r * phases.conj()[..., :, None]
    return np.concatenate([q * phases[..., None, :], r.swapaxes(-1, -2)], axis=-2)


@textbook
def _qr_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    m = x.shape[-2]
    q, r = y[..., :m, :], y[..., m:, :].mT
    gq, gr = g[..., :m, :], g[..., m:, :].mT
    inner = lower_half(adjoint(gr @ adjoint(r) - adjoint(q) @ gq))
    return divide_on_the_right(gq + q @ (inner + adjoint(inner)), adjoint(r))


def _qr_tangent(op: Op, ts: Tangents, y: Tensor, x: Tensor) -> Tensor:
    """Of dx R^-1 = dQ + Q dR R^-1: Q^H dQ is skew, dR R^-1 an upper triangle."""
    (t,) = ts
    assert t is not None
    m, n = x.shape[-2:]
    q, r = y[..., :m, :], y[..., m:, :].mT
    moved = divide_on_the_right(t, r)
    inside = adjoint(q) @ moved
    below = select(mask_of(n, lambda ones: np.tril(ones, -1)), inside, 0)
    skew = below - adjoint(below)
    if dtypes.is_complex(x.dtype):  # the diagonal of R is real
        skew = skew + 1j * widened(on_diagonal(imaginary(diagonal_of(inside))), x.dtype)
    upper = inside - skew
    return stacked(moved - q @ upper, (upper @ r).mT)


qr: Op = define(
    "qr",
    "Q (M, N) above R^T (N, N), with Q @ R = x, Q^H @ Q = 1 and R upper triangular; M >= N",
    infer=_qr_infer,
    reference=_qr,
    gradient=(_qr_rule,),
    saves=(OUTPUT,),
    samples=tall_samples,
    tangent=_qr_tangent,
    batch=leading,
)


def _complement_infer(q: Node) -> tuple[Shape, DType]:
    batch, m, n = matrices("orthogonal_complement", q)
    return (*batch, m, m - n), q.dtype


def _complement(q: np.ndarray) -> np.ndarray:
    n = q.shape[-1]
    return lapack(np.linalg.qr, q, mode="complete")[0][..., n:]


def _complement_rule(g: Tensor, y: Tensor, q: Tensor) -> Tensor:
    """There is no derivative; nothing is what may flow in."""
    return apply(provided, zeros(q.shape, q.dtype), g == 0, why="free")


def _complement_tangent(op: Op, ts: Tangents, y: Tensor, q: Tensor) -> Tensor:
    (t,) = ts
    assert t is not None
    still = zeros(y.shape, y.dtype)
    return apply(provided, still, t == 0, why="free") if y.size else still


def _complement_samples(rng: Rng) -> list[Sample]:
    made = [Sample([np.linalg.qr(rng.standard_normal((3, 3)))[0]])]
    shapes: list[Shape] = [(4, 2), (2, 3, 1)]
    for shape in shapes:
        made.append(Sample([np.linalg.qr(numbers(rng, shape))[0]], differentiate=False))
    return made


orthogonal_complement: Op = define(
    "orthogonal_complement",
    "columns (M, M - N) that make orthonormal columns (M, N) a basis",
    infer=_complement_infer,
    reference=_complement,
    gradient=(_complement_rule,),
    samples=_complement_samples,
    tangent=_complement_tangent,
    batch=leading,
)


# --- LU ---


def _pivots_infer(x: Node) -> tuple[Shape, DType]:
    batch, m, n = matrices("pivots", x)
    return (*batch, min(m, n)), dtypes.int64


def _pivots(x: np.ndarray) -> np.ndarray:
    """Gaussian elimination, for its choice of rows only."""
    left = x.copy()
    batch, (m, n) = x.shape[:-2], x.shape[-2:]
    found = np.zeros((*batch, min(m, n)), np.int64)
    for k in range(min(m, n)):
        pivot = np.abs(left[..., k:, k]).argmax(axis=-1) + k
        found[..., k] = pivot
        place = pivot[..., None, None]
        chosen = np.take_along_axis(left, place, axis=-2)
        np.put_along_axis(left, place, left[..., k : k + 1, :], axis=-2)
        left[..., k : k + 1, :] = chosen
        _eliminate(left, k)
    return found


def _eliminate(x: np.ndarray, k: int) -> None:
    """Row k times what takes column k out of the rows below it; the factors stay there."""
    pivot = x[..., k, k][..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(pivot == 0, 0, x[..., k + 1 :, k] / pivot)
    x[..., k + 1 :, k] = factors
    x[..., k + 1 :, k + 1 :] -= factors[..., :, None] * x[..., k, None, k + 1 :]


pivots: Op = define(
    "pivots",
    "the row with which each row k changes places in Gaussian elimination: the largest below",
    infer=_pivots_infer,
    reference=_pivots,
    gradient=None,
    samples=any_samples,
    batch=leading,
)


def _lu(x: np.ndarray) -> np.ndarray:
    y = x.copy()
    for k in range(x.shape[-1]):
        _eliminate(y, k)
    return y


def _triangles(y: Tensor) -> tuple[Tensor, Tensor]:
    """L with ones on its diagonal, and U."""
    n = y.shape[-1]
    below = mask_of(n, lambda ones: np.tril(ones, -1))
    eye = mask_of(n, lambda ones: np.eye(len(ones), dtype=np.bool_))
    return select(eye, 1, select(below, y, 0)), select(below, 0, y)


@textbook
def _lu_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    lower, upper = _triangles(y)
    below = mask_of(x.shape[-1], lambda ones: np.tril(ones, -1))
    inner = select(
        below, adjoint(lower) @ select(below, g, 0), select(below, 0, g) @ adjoint(upper)
    )
    return apply(solve, adjoint(lower), divide_on_the_right(inner, adjoint(upper)))


def _lu_tangent(op: Op, ts: Tangents, y: Tensor, x: Tensor) -> Tensor:
    (t,) = ts
    assert t is not None
    lower, upper = _triangles(y)
    below = mask_of(x.shape[-1], lambda ones: np.tril(ones, -1))
    inner = divide_on_the_right(apply(solve, lower, t), upper)
    return lower @ select(below, inner, 0) + select(below, 0, inner) @ upper


def _dominant_samples(rng: Rng) -> list[Sample]:
    """Rows that need not change places."""
    made = square_samples(rng)
    for sample in made:
        sample.inputs[0] = np.asarray(sample.inputs[0] + 3 * np.eye(sample.inputs[0].shape[-1]))
    return made


lu: Op = define(
    "lu",
    "U, and below its diagonal L without its ones, with L @ U = x; rows do not change places",
    infer=square("lu"),
    reference=_lu,
    gradient=(_lu_rule,),
    saves=(OUTPUT,),
    samples=_dominant_samples,
    tangent=_lu_tangent,
    batch=leading,
)
