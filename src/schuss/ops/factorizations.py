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
    stacked,
    tall_samples,
    textbook,
    widened,
)
from schuss.ops.linalg import solve
from schuss.ops.movement import concat
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


def _row_order_infer(x: Node) -> tuple[Shape, DType]:
    batch, m, _ = matrices("row_order", x)
    return (*batch, m), dtypes.int64


def _row_order(x: np.ndarray) -> np.ndarray:
    """Gaussian elimination, for its choice of rows only."""
    left, (m, n) = x.copy(), x.shape[-2:]
    order = np.broadcast_to(np.arange(m), x.shape[:-1]).copy()
    for k in range(min(m, n)):
        largest = _size(left[..., k:, k]).argmax(axis=-1)[..., None, None] + k
        _exchange(left, k, largest)
        _exchange(order[..., None], k, largest)
        _eliminate(left, k)
    return order


def _size(x: np.ndarray) -> np.ndarray:
    """What LAPACK goes by: of complex numbers the sum of both parts' sizes."""
    return np.abs(x.real) + np.abs(x.imag) if np.iscomplexobj(x) else np.abs(x)


def _exchange(x: np.ndarray, k: int, other: np.ndarray) -> None:
    """Row k in place of the other one, and the other way round."""
    chosen = np.take_along_axis(x, other, axis=-2)
    np.put_along_axis(x, other, x[..., k : k + 1, :], axis=-2)
    x[..., k : k + 1, :] = chosen


def _eliminate(x: np.ndarray, k: int) -> None:
    """Row k times what takes column k out of the rows below it; the factors stay there."""
    pivot = x[..., k, k, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(pivot == 0, 0, x[..., k + 1 :, k] / pivot)
    x[..., k + 1 :, k] = factors
    x[..., k + 1 :, k + 1 :] -= factors[..., :, None] * x[..., k, None, k + 1 :]


row_order: Op = define(
    "row_order",
    "the order in which Gaussian elimination takes the rows: the largest element below comes next",
    infer=_row_order_infer,
    reference=_row_order,
    gradient=None,
    samples=any_samples,
    batch=leading,
)


def _lu_infer(x: Node) -> tuple[Shape, DType]:
    batch, m, n = matrices("lu", x)
    return (*batch, m, n), x.dtype


def _lu(x: np.ndarray) -> np.ndarray:
    y = x.copy()
    for k in range(min(x.shape[-2:])):
        _eliminate(y, k)
    return y


def _below(x: Tensor) -> Tensor:
    """What stands below the diagonal of a square matrix."""
    return select(mask_of(x.shape[-1], lambda ones: np.tril(ones, -1)), x, 0)


def _above(x: Tensor) -> Tensor:
    """What stands on and above it."""
    return select(mask_of(x.shape[-1], np.triu), x, 0)


def _triangles(y: Tensor) -> tuple[Tensor, Tensor]:
    """The square parts of L, with its ones, and of U."""
    k = min(y.shape[-2:])
    y = y[..., :k, :k]
    eye = mask_of(k, lambda ones: np.eye(len(ones), dtype=np.bool_))
    return select(eye, 1, _below(y)), _above(y)


@textbook
def _lu_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """For x = [[a, b], [c, d]] with a square: of a = L U; c = (rest of L) U; b = L (rest of U)."""
    k, (m, n) = min(x.shape[-2:]), x.shape[-2:]
    lower, upper = _triangles(y)
    g_lower, g_upper = _below(g[..., :k, :k]), _above(g[..., :k, :k])
    rest: Tensor | None = None
    if m > k:
        rest = divide_on_the_right(g[..., k:, :], adjoint(upper))
        g_upper = g_upper - _above(adjoint(y[..., k:, :]) @ rest)
    if n > k:
        rest = apply(solve, adjoint(lower), g[..., k:])
        g_lower = g_lower - _below(rest @ adjoint(y[..., k:]))
    inner = _below(adjoint(lower) @ g_lower) + _above(g_upper @ adjoint(upper))
    of_square = apply(solve, adjoint(lower), divide_on_the_right(inner, adjoint(upper)))
    return of_square if rest is None else apply(concat, of_square, rest, axis=x.ndim - 1 - (m > k))


def _lu_tangent(op: Op, ts: Tangents, y: Tensor, x: Tensor) -> Tensor:
    t = ts[0]
    assert t is not None
    k, (m, n) = min(x.shape[-2:]), x.shape[-2:]
    lower, upper = _triangles(y)
    inner = divide_on_the_right(apply(solve, lower, t[..., :k, :k]), upper)
    t_lower, t_upper = lower @ _below(inner), _above(inner) @ upper
    rest: Tensor | None = None
    if m > k:
        rest = divide_on_the_right(t[..., k:, :] - y[..., k:, :] @ t_upper, upper)
    if n > k:
        rest = apply(solve, lower, t[..., k:] - t_lower @ y[..., k:])
    of_square = t_lower + t_upper
    return of_square if rest is None else apply(concat, of_square, rest, axis=x.ndim - 1 - (m > k))


def _dominant_samples(rng: Rng) -> list[Sample]:
    """Rows that need not change places."""
    made = any_samples(rng)
    for sample in made:
        sample.inputs[0] = np.asarray(sample.inputs[0] + 3 * np.eye(*sample.inputs[0].shape[-2:]))
    return made


lu: Op = define(
    "lu",
    "U, and below its diagonal L without its ones, with L @ U = x; rows do not change places",
    infer=_lu_infer,
    reference=_lu,
    gradient=(_lu_rule,),
    saves=(OUTPUT,),
    samples=_dominant_samples,
    tangent=_lu_tangent,
    batch=leading,
)
