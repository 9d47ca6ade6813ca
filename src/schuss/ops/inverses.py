"""Functions of whole matrices: determinants, the pseudo-inverse, the exponential."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.errors import BadValueError, NumericsError
from schuss.graph import OUTPUT, Node, Op, Sample, Shape, apply, data, define, wrap
from schuss.ops.broadcast import zeros
from schuss.ops.elementwise import conj
from schuss.ops.infer import Rng, numbers
from schuss.ops.lapack import (
    adjoint,
    any_samples,
    diagonal_of,
    imaginary,
    lapack,
    matrices,
    real_part,
    square,
    square_samples,
    textbook,
    widened,
)
from schuss.ops.linalg import solve
from schuss.ops.movement import concat
from schuss.ops.structure import Tangents, leading

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def _inverse(x: Tensor) -> Tensor:
    """The inverse, by solving for the columns of the identity."""
    return apply(solve, x, wrap(data(np.eye(x.shape[-1], dtype=x.dtype))))


def _scalars(name: str):  # type: ignore[no-untyped-def]
    def infer(x: Node) -> tuple[Shape, DType]:
        shape, dtype = square(name)(x)
        return shape[:-2], dtype

    return infer


def _singular_samples(rng: Rng) -> list[Sample]:
    singular = np.outer(numbers(rng, (3,), 0.5, 1.0), numbers(rng, (3,), 0.5, 1.0))
    return [*square_samples(rng), Sample([singular], differentiate=False)]


def _det_tangent(op: Op, ts: Tangents, y: Tensor, x: Tensor) -> Tensor:
    return (cast("Tensor", ts[0]) * apply(cofactors, x)).sum(axis=(-2, -1))


det: Op = define(
    "det",
    "the determinant",
    infer=_scalars("det"),
    reference=lambda x: np.asarray(np.linalg.det(x), x.dtype),
    gradient=(lambda g, y, x: g.expand_dims((-2, -1)) * apply(cofactors, x),),
    saves=(0,),
    samples=_singular_samples,
    tangent=_det_tangent,
    batch=leading,
)


def _cofactors(x: np.ndarray) -> np.ndarray:
    """det(x) times the transposed inverse, which exists for singular matrices too.

    From the singular values: x = U S V^H gives det(U) det(V^H) U' S' V', where S' holds the
    products of all singular values but one.
    """
    u, s, vh = lapack(np.linalg.svd, x)
    n = s.shape[-1]
    others = np.where(np.eye(n, dtype=np.bool_), np.ones((), s.dtype), s[..., None, :]).prod(-1)
    sign = np.linalg.det(u) * np.linalg.det(vh)
    scaled = u.conj() * (others * np.ones((), s.dtype))[..., None, :]
    return np.asarray(scaled @ vh.conj() * sign[..., None, None], x.dtype)


def _cofactors_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    inverse = _inverse(x).mT
    det_of_x = apply(det, x).expand_dims((-2, -1))
    along = (g * inverse).sum(axis=(-2, -1), keepdims=True)
    return det_of_x * (along * inverse - inverse @ g.mT @ inverse)


cofactors: Op = define(
    "cofactors",
    "det(x) times the transposed inverse of x: the gradient of the determinant",
    infer=square("cofactors"),
    reference=_cofactors,
    gradient=(_cofactors_rule,),
    saves=(0,),
    samples=_singular_samples,
    tangent=lambda op, ts, y, x: _cofactors_rule(ts[0], y, x),  # second derivatives of det
    batch=leading,
)


def _slogdet_infer(x: Node) -> tuple[Shape, DType]:
    shape, dtype = square("slogdet")(x)
    return (*shape[:-2], 2), dtype


def _slogdet(x: np.ndarray) -> np.ndarray:
    sign, size = np.linalg.slogdet(x)
    return np.stack([sign, size.astype(x.dtype)], axis=-1)


@textbook
def _slogdet_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The sign of a complex determinant turns with the imaginary part of tr(x^-1 dx)."""
    factor = real_part(g[..., 1])
    if dtypes.is_complex(x.dtype):
        turn = real_part(apply(conj, g[..., 0]) * y[..., 0] * 1j)
        factor = factor + 1j * turn
    return factor.expand_dims((-2, -1)) * adjoint(_inverse(x))


def _slogdet_tangent(op: Op, ts: Tangents, y: Tensor, x: Tensor) -> Tensor:
    turn = diagonal_of(apply(solve, x, cast("Tensor", ts[0]))).sum(axis=-1)
    size = widened(turn, x.dtype)
    if dtypes.is_complex(x.dtype):
        sign = 1j * widened(imaginary(turn), x.dtype) * y[..., 0]
    else:
        sign = zeros(size.shape, size.dtype)
    return apply(concat, sign.expand_dims(-1), size.expand_dims(-1), axis=size.ndim)


slogdet: Op = define(
    "slogdet",
    "the sign of the determinant and the logarithm of its size, along a new last axis",
    infer=_slogdet_infer,
    reference=_slogdet,
    gradient=(_slogdet_rule,),
    saves=(0,),
    samples=square_samples,
    tangent=_slogdet_tangent,
    batch=leading,
)


def _pinv_infer(x: Node, rtol: float) -> tuple[Shape, DType]:
    batch, m, n = matrices("pinv", x)
    return (*batch, n, m), x.dtype


def _pinv(x: np.ndarray, rtol: float) -> np.ndarray:
    if not x.size:
        return np.zeros((*x.shape[:-2], x.shape[-1], x.shape[-2]), x.dtype)
    u, s, vh = lapack(np.linalg.svd, x, full_matrices=False)
    kept = s > rtol * s[..., :1]
    inverse = np.where(kept, 1 / np.where(kept, s, 1), 0).astype(s.dtype)
    return np.asarray(
        vh.conj().swapaxes(-1, -2) @ (inverse[..., :, None] * u.conj().swapaxes(-1, -2)), x.dtype
    )


@textbook
def _pinv_rule(g: Tensor, y: Tensor, x: Tensor, rtol: float) -> Tensor:
    """Of a matrix whose rank does not change nearby (Golub and Pereyra, 1973)."""
    yh, gh = adjoint(y), adjoint(g)
    first = yh @ (g @ yh) * -1
    inside = gh - x @ (y @ gh)
    second = inside @ y @ yh
    third = yh @ (y @ (gh - (gh @ y) @ x))
    return first + second + third


def _pinv_tangent(op: Op, ts: Tangents, y: Tensor, x: Tensor, rtol: float) -> Tensor:
    t = cast("Tensor", ts[0])
    yh, th = adjoint(y), adjoint(t)
    first = y @ (t @ y) * -1
    second = y @ yh @ (th - (th @ x) @ y)
    rest = th - y @ (x @ th)
    return first + second + rest @ yh @ y


pinv: Op = define(
    "pinv",
    "the pseudo-inverse; singular values up to rtol times the largest count as 0",
    infer=_pinv_infer,
    reference=_pinv,
    gradient=(_pinv_rule,),
    saves=(0, OUTPUT),
    samples=lambda rng: [Sample(s.inputs, {"rtol": 1e-7}) for s in any_samples(rng)],
    tangent=_pinv_tangent,
    batch=leading,
)

# --- the exponential ---

# Coefficients of Pade's approximation of degree 13 (N. Higham, "The scaling and squaring method
# for the matrix exponential revisited", 2005), and the norm up to which it is exact in float64.
_PADE = (
    64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0,
    129060195264000.0, 10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0,
    40840800.0, 960960.0, 16380.0, 182.0, 1.0,
)  # fmt: skip
_PADE_NORM = 5.371920351148152


def _matrix_exp(x: np.ndarray) -> np.ndarray:
    """exp(x / 2**k) by Pade's approximation, squared k times; k for each matrix of its own."""
    wide = x.astype(np.result_type(x.dtype, np.float64))
    norms = np.abs(wide).sum(axis=-2).max(axis=-1, initial=0)
    if not np.isfinite(norms).all():
        raise BadValueError(NumericsError, "the matrix has NaN or infinities in it")
    halvings = np.ceil(np.log2(np.maximum(norms / _PADE_NORM, 1))).astype(np.int64)
    a = wide / np.exp2(halvings)[..., None, None]
    eye, a2 = np.eye(x.shape[-1]), a @ a
    a4 = a2 @ a2
    powers = (eye, a2, a4, a4 @ a2)
    b = _PADE
    low_odd, low_even = (sum(b[2 * i + k] * powers[i] for i in range(4)) for k in (1, 0))
    high_odd, high_even = (sum(b[2 * i + 6 + k] * powers[i] for i in range(1, 4)) for k in (1, 0))
    odd = a @ (powers[3] @ high_odd + low_odd)
    even = powers[3] @ high_even + low_even
    y = np.linalg.solve(even - odd, even + odd)
    for k in range(halvings.max(initial=0)):
        y = np.where((k < halvings)[..., None, None], y @ y, y)
    return np.asarray(y, x.dtype)


def _exp_along(x: Tensor, t: Tensor) -> Tensor:
    """The derivative of exp at x along t: above the diagonal of exp([[x, t], [0, x]])."""
    n, rows = x.shape[-1], x.ndim - 2
    beside = apply(concat, x, t, axis=rows + 1)
    below = apply(concat, zeros(x.shape, x.dtype), x, axis=rows + 1)
    return apply(matrix_exp, apply(concat, beside, below, axis=rows))[..., :n, n:]


matrix_exp: Op = define(
    "matrix_exp",
    "the exponential series of a square matrix",
    infer=square("matrix_exp"),
    reference=_matrix_exp,
    gradient=(lambda g, y, x: _exp_along(x.mT, g),),
    saves=(0,),
    samples=square_samples,
    tangent=lambda op, ts, y, x: _exp_along(x, ts[0]),
    batch=leading,
)
