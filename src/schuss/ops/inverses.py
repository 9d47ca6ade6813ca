"""Ops on whole matrices that give a number or an inverse: determinants and the pseudo-inverse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.graph import OUTPUT, Node, Op, Sample, Shape, apply, data, define, wrap
from schuss.ops.elementwise import conj
from schuss.ops.factorizations import (
    adjoint,
    any_samples,
    lapack,
    matrices,
    real_part,
    square,
    square_samples,
    textbook,
)
from schuss.ops.infer import Rng, numbers
from schuss.ops.linalg import solve

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


det: Op = define(
    "det",
    "the determinant",
    infer=_scalars("det"),
    reference=lambda x: np.asarray(np.linalg.det(x), x.dtype),
    gradient=(lambda g, y, x: g.expand_dims((-2, -1)) * apply(cofactors, x),),
    saves=(0,),
    samples=_singular_samples,
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


slogdet: Op = define(
    "slogdet",
    "the sign of the determinant and the logarithm of its size, along a new last axis",
    infer=_slogdet_infer,
    reference=_slogdet,
    gradient=(_slogdet_rule,),
    saves=(0,),
    samples=square_samples,
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


pinv: Op = define(
    "pinv",
    "the pseudo-inverse; singular values up to rtol times the largest count as 0",
    infer=_pinv_infer,
    reference=_pinv,
    gradient=(_pinv_rule,),
    saves=(0, OUTPUT),
    samples=lambda rng: [Sample(s.inputs, {"rtol": 1e-7}) for s in any_samples(rng)],
)
