"""Ops that take a matrix apart, computed by LAPACK.

An op has one result, so the factors come packed: they have the same number of columns and stand
below each other. `functions/linalg_extension.py` cuts them apart again.

Where mathematics leaves a choice, it is made here, so that every LAPACK gives the same factors: the
diagonal of R is positive, and of every eigenvector and left singular vector the element of largest
size is positive.

The gradients are those of M. Giles, "An extended collection of matrix derivative results for
forward and reverse mode algorithmic differentiation" (2008), for complex matrices those of M.
Seeger et al., "Auto-differentiating linear algebra" (2017).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.errors import BadValueError, GradientError, NumericsError, ShapeError, fail
from schuss.graph import OUTPUT, Node, Op, Sample, Shape, apply, data, define, wrap
from schuss.ops.broadcast import zeros
from schuss.ops.elementwise import abs_, astype, conj, guarded, less_equal, real, select
from schuss.ops.infer import Rng, numbers, require_dtype
from schuss.ops.linalg import solve
from schuss.ops.reduction import max_

if TYPE_CHECKING:
    from schuss.tensor import Tensor

LAPACK = (dtypes.float32, dtypes.float64, *dtypes.COMPLEX)
LAPACK_KINDS = "float32, float64 or complex"


# --- helpers of the rules ---


def adjoint(x: Tensor) -> Tensor:
    """The conjugate transpose."""
    return _conjugate(x.mT)


def real_part(x: Tensor) -> Tensor:
    return apply(real, x) if dtypes.is_complex(x.dtype) else x


def textbook(rule: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A rule that is written for true gradients, where the walk carries their conjugates."""

    @functools.wraps(rule)
    def conjugated(g: Tensor, *rest: Tensor, **attributes: Any) -> Tensor:
        return _conjugate(rule(_conjugate(g), *rest, **attributes))

    return conjugated


def _conjugate(x: Tensor) -> Tensor:
    return apply(conj, x) if dtypes.is_complex(x.dtype) else x


def _mask(n: int, make: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    return wrap(data(make(np.ones((n, n), np.bool_))))


def lower_half(x: Tensor) -> Tensor:
    """The lower triangle with half of the diagonal, so that it and its adjoint give x back."""
    n = x.shape[-1]
    lower, diagonal = _mask(n, np.tril), _mask(n, lambda ones: np.eye(len(ones), dtype=np.bool_))
    return select(diagonal, x * 0.5, select(lower, x, 0))


def on_diagonal(x: Tensor) -> Tensor:
    """Vectors (..., N) as diagonal matrices (..., N, N)."""
    n = x.shape[-1]
    eye = _mask(n, lambda ones: np.eye(len(ones), dtype=np.bool_))
    return select(eye, x.reshape((*x.shape, 1)).broadcast_to((*x.shape, n)), 0)


def diagonal_of(x: Tensor) -> Tensor:
    """The diagonals (..., N) of square matrices."""
    eye = _mask(x.shape[-1], lambda ones: np.eye(len(ones), dtype=np.bool_))
    return select(eye, x, 0).sum(axis=-1)


def _divide_on_the_right(x: Tensor, triangle: Tensor) -> Tensor:
    """x @ inverse(triangle)."""
    return adjoint(apply(solve, adjoint(triangle), adjoint(x)))


# --- checks ---


def square(name: str) -> Callable[[Node], tuple[Shape, DType]]:
    def infer(x: Node) -> tuple[Shape, DType]:
        require_dtype(name, LAPACK, LAPACK_KINDS, x=x)
        if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
            raise fail(ShapeError, name, "needs square matrices (..., N, N)", x=x)
        return x.shape, x.dtype

    return infer


def matrices(name: str, x: Node) -> tuple[Shape, int, int]:
    require_dtype(name, LAPACK, LAPACK_KINDS, x=x)
    if x.ndim < 2:
        raise fail(ShapeError, name, "needs matrices (..., M, N)", x=x)
    return x.shape[:-2], x.shape[-2], x.shape[-1]


def _hermitian(x: np.ndarray) -> np.ndarray:
    return np.asarray((x + x.conj().swapaxes(-1, -2)) * np.asarray(0.5, x.dtype))


def lapack(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except np.linalg.LinAlgError as problem:
        text = str(problem).lower().rstrip(".")
        raise BadValueError(NumericsError, text, "are there NaN or infinities in it?") from None


# --- samples ---


def _spread_spectrum(rng: Rng, shape: Shape) -> np.ndarray:
    """Matrices whose singular values lie well apart, and are not small."""
    *batch, m, n = shape
    k = min(m, n)
    if not k:
        return numbers(rng, shape)
    u = np.linalg.qr(rng.standard_normal((*batch, m, m)))[0][..., :k]
    v = np.linalg.qr(rng.standard_normal((*batch, n, n)))[0][..., :k]
    return np.asarray((u * np.linspace(1.0, 2.5, k)) @ v.swapaxes(-1, -2))


def square_samples(rng: Rng) -> list[Sample]:
    shapes: list[Shape] = [(3, 3), (1, 1), (2, 4, 4), (0, 0), (0, 2, 2)]
    return [Sample([_spread_spectrum(rng, shape)]) for shape in shapes]


def _positive_samples(rng: Rng) -> list[Sample]:
    made = square_samples(rng)
    for sample in made:
        x = sample.inputs[0]
        sample.inputs[0] = np.asarray(x @ x.swapaxes(-1, -2) + 0.5 * np.eye(x.shape[-1]))
    return made


def _tall_samples(rng: Rng) -> list[Sample]:
    shapes: list[Shape] = [(3, 3), (4, 2), (1, 1), (2, 5, 3), (3, 0)]
    return [Sample([_spread_spectrum(rng, shape)]) for shape in shapes]


def any_samples(rng: Rng) -> list[Sample]:
    wide: list[Shape] = [(2, 4), (2, 3, 5), (0, 3)]
    return _tall_samples(rng) + [Sample([_spread_spectrum(rng, shape)]) for shape in wide]


# --- Cholesky ---


def _cholesky(x: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.cholesky(_hermitian(x))
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
    outer = _divide_on_the_right(apply(solve, upper, inner), y)
    return (outer + adjoint(outer)) * 0.5


cholesky: Op = define(
    "cholesky",
    "the lower triangle L with L @ L^H = x, of the Hermitian part of x",
    infer=square("cholesky"),
    reference=_cholesky,
    gradient=(_cholesky_rule,),
    saves=(OUTPUT,),
    samples=_positive_samples,
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
    return _divide_on_the_right(gq + q @ (inner + adjoint(inner)), adjoint(r))


qr: Op = define(
    "qr",
    "Q (M, N) above R^T (N, N), with Q @ R = x, Q^H @ Q = 1 and R upper triangular; M >= N",
    infer=_qr_infer,
    reference=_qr,
    gradient=(_qr_rule,),
    saves=(OUTPUT,),
    samples=_tall_samples,
)


def _complement_infer(q: Node) -> tuple[Shape, DType]:
    batch, m, n = matrices("orthogonal_complement", q)
    return (*batch, m, m - n), q.dtype


def _complement(q: np.ndarray) -> np.ndarray:
    n = q.shape[-1]
    return lapack(np.linalg.qr, q, mode="complete")[0][..., n:]


def _complement_rule(g: Tensor, y: Tensor, q: Tensor) -> Tensor:
    """There is no derivative; nothing is what may flow in."""
    return apply(provided, zeros(q.shape, q.dtype), g == 0)


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
)

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
    values, vectors = lapack(np.linalg.eigh, _hermitian(x))
    return np.concatenate([_turned(vectors)[0], values[..., None, :].astype(x.dtype)], axis=-2)


@textbook
def _eigh_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    n = x.shape[-1]
    vectors, values = y[..., :n, :], real_part(y[..., n, :])
    turning = adjoint(vectors) @ g[..., :n, :]
    if dtypes.is_complex(x.dtype):
        turning = if_negligible(turning, _imaginary(diagonal_of(turning)))
    inner = apply(over_gaps, turning, values) + on_diagonal(_widened(g[..., n, :], x.dtype))
    outer = vectors @ inner @ adjoint(vectors)
    return (outer + adjoint(outer)) * 0.5


def _widened(x: Tensor, dtype: DType) -> Tensor:
    """The real part of x, in a dtype that may be complex."""
    return apply(astype, real_part(x), dtype=dtype)


def _imaginary(x: Tensor) -> Tensor:
    return real_part(x * -1j)


eigh: Op = define(
    "eigh",
    "eigenvectors as columns above a row of ascending eigenvalues, of the Hermitian part of x",
    infer=_eigh_infer,
    reference=_eigh,
    gradient=(_eigh_rule,),
    saves=(OUTPUT,),
    samples=_positive_samples,
)


@textbook
def _eigvalsh_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    vectors = apply(eigh, x)[..., : x.shape[-1], :]
    return (vectors * _widened(g, x.dtype).expand_dims(-2)) @ adjoint(vectors)


def _eigvalsh_infer(x: Node) -> tuple[Shape, DType]:
    shape, dtype = square("eigvalsh")(x)
    return shape[:-1], dtypes.real_of(dtype)


eigvalsh: Op = define(
    "eigvalsh",
    "ascending eigenvalues of the Hermitian part of x",
    infer=_eigvalsh_infer,
    reference=lambda x: lapack(np.linalg.eigvalsh, _hermitian(x)),
    gradient=(_eigvalsh_rule,),
    saves=(0,),
    samples=_positive_samples,
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
    middle = _widened(gs, x.dtype)
    if dtypes.is_complex(x.dtype):
        turns = _imaginary(diagonal_of(for_u))
        for_u = if_negligible(for_u, turns + _imaginary(diagonal_of(for_v)))
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


svd: Op = define(
    "svd",
    "left vectors as columns, a row of descending singular values, right vectors as columns",
    infer=_svd_infer,
    reference=_svd,
    gradient=(_svd_rule,),
    saves=(OUTPUT,),
    samples=any_samples,
)


def _svdvals_infer(x: Node) -> tuple[Shape, DType]:
    batch, m, n = matrices("svdvals", x)
    return (*batch, min(m, n)), dtypes.real_of(x.dtype)


@textbook
def _svdvals_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    m = x.shape[-2]
    packed = apply(svd, x)
    u, v = packed[..., :m, :], packed[..., m + 1 :, :]
    return (u * _widened(g, x.dtype).expand_dims(-2)) @ adjoint(v)


svdvals: Op = define(
    "svdvals",
    "singular values in descending order",
    infer=_svdvals_infer,
    reference=lambda x: lapack(np.linalg.svd, x, compute_uv=False),
    gradient=(_svdvals_rule,),
    saves=(0,),
    samples=any_samples,
)

# --- where vectors have no derivative ---


def _over_gaps_infer(x: Node, w: Node) -> tuple[Shape, DType]:
    require_dtype("over_gaps", LAPACK, LAPACK_KINDS, x=x)
    require_dtype("over_gaps", (dtypes.float32, dtypes.float64), "float32 or float64", w=w)
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
    moved = real_part(apply(over_gaps, g * y, w))
    return moved.sum(axis=-1) - moved.sum(axis=-2)


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
)


def _provided(x: np.ndarray, holds: np.ndarray) -> np.ndarray:
    if not holds.all():
        raise BadValueError(
            GradientError,
            "this depends on vectors, or on phases of vectors, that can be chosen freely",
            "differentiate what does not: absolute values, products with the conjugate",
        )
    return x


provided: Op = define(
    "provided",
    "x, provided that a condition holds everywhere",
    infer=lambda x, holds: (x.shape, x.dtype),
    reference=_provided,
    gradient=(lambda g, y, x, holds: g, None),
    samples=lambda rng: [
        Sample([numbers(rng, (2, 3)), np.ones((2,), np.bool_)]),
        Sample([numbers(rng, ()), np.ones((0,), np.bool_)]),
    ],
)


def if_negligible(x: Tensor, rest: Tensor) -> Tensor:
    """x, provided that `rest` is 0 up to rounding; else an error when it is computed."""
    if not x.size:
        return x
    largest = apply(max_, apply(abs_, x), axes=tuple(range(x.ndim)))
    allowed = 1e4 * float(np.finfo(rest.dtype).eps) * (1 + largest)
    return apply(provided, x, apply(less_equal, apply(abs_, rest), allowed))
