"""Fourier transforms, without their scale: each is then the adjoint of another.

fft: y[k] = sum over j of x[j] exp(-2 pi i j k / n)      inverse: + in place of -
rfft: the first n // 2 + 1 of these, for real x
irfft: real x from those
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.errors import ShapeError, fail
from schuss.graph import Node, Op, Sample, Shape, apply, data, define, wrap
from schuss.ops.elementwise import conj
from schuss.ops.infer import Rng, numbers, require_dtype
from schuss.ops.structure import later_axis, linear

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def _require_length(name: str, x: Node, n: int) -> None:
    if n < 1:
        raise fail(ShapeError, name, "an empty axis has no transform", x=x)


def _fft_infer(x: Node, axis: int, inverse: bool) -> tuple[Shape, DType]:
    require_dtype("fft", dtypes.COMPLEX, "complex", x=x)
    _require_length("fft", x, x.shape[axis])
    return x.shape, x.dtype


def _fft(x: np.ndarray, axis: int, inverse: bool) -> np.ndarray:
    if inverse:
        return np.fft.ifft(x, axis=axis, norm="forward")
    return np.fft.fft(x, axis=axis)


def _complex_numbers(rng: Rng, shape: Shape) -> np.ndarray:
    return np.asarray(numbers(rng, shape) + 1j * numbers(rng, shape))


_CASES: list[tuple[Shape, int]] = [((5,), 0), ((3, 4), 0), ((3, 4), 1), ((0, 3), 1), ((2, 1), 1)]

fft: Op = define(
    "fft",
    "the Fourier transform along an axis, not scaled, or its inverse times n",
    infer=_fft_infer,
    reference=_fft,
    gradient=(lambda g, y, x, axis, inverse: apply(fft, g, axis=axis, inverse=inverse),),
    samples=lambda rng: [
        Sample([_complex_numbers(rng, shape)], {"axis": axis, "inverse": inverse})
        for shape, axis in _CASES
        for inverse in (False, True)
    ],
    tangent=linear,
    batch=later_axis,
)


def _half(shape: Shape, axis: int, n: int) -> Shape:
    return (*shape[:axis], n, *shape[axis + 1 :])


def _rfft_infer(x: Node, axis: int) -> tuple[Shape, DType]:
    require_dtype("rfft", (dtypes.float32, dtypes.float64), "float32 or float64", x=x)
    _require_length("rfft", x, x.shape[axis])
    return _half(x.shape, axis, x.shape[axis] // 2 + 1), dtypes.complex_of(x.dtype)


def _twice_inside(n: int, like: Tensor, axis: int, inside: float) -> Tensor:
    """Weights of the half spectrum: `inside` but for what has no mirror image, 1."""
    weights = np.full(n // 2 + 1, inside, dtypes.real_of(like.dtype))
    weights[0] = 1
    if n % 2 == 0:
        weights[-1] = 1
    return wrap(data(weights.reshape((-1, *[1] * (like.ndim - 1 - axis)))))


def _rfft_rule(g: Tensor, y: Tensor, x: Tensor, axis: int) -> Tensor:
    n = x.shape[axis]
    return apply(irfft, apply(conj, g) * _twice_inside(n, g, axis, 0.5), axis=axis, n=n)


rfft: Op = define(
    "rfft",
    "the first half of the Fourier transform of real numbers along an axis, not scaled",
    infer=_rfft_infer,
    reference=lambda x, axis: np.fft.rfft(x, axis=axis),
    gradient=(_rfft_rule,),
    samples=lambda rng: [Sample([numbers(rng, shape)], {"axis": axis}) for shape, axis in _CASES],
    tangent=linear,
    batch=later_axis,
)


def _irfft_infer(x: Node, axis: int, n: int) -> tuple[Shape, DType]:
    require_dtype("irfft", dtypes.COMPLEX, "complex", x=x)
    _require_length("irfft", x, n)
    assert x.shape[axis] == n // 2 + 1
    return _half(x.shape, axis, n), dtypes.real_of(x.dtype)


def _irfft_rule(g: Tensor, y: Tensor, x: Tensor, axis: int, n: int) -> Tensor:
    return apply(conj, apply(rfft, g, axis=axis)) * _twice_inside(n, x, axis, 2.0)


def _irfft_samples(rng: Rng) -> list[Sample]:
    made = []
    for shape, axis in _CASES:
        n = shape[axis]
        attributes: dict[str, Any] = {"axis": axis, "n": n}
        made.append(Sample([_complex_numbers(rng, _half(shape, axis, n // 2 + 1))], attributes))
    return made


irfft: Op = define(
    "irfft",
    "n real numbers along an axis from the first half of their Fourier transform, times n",
    infer=_irfft_infer,
    reference=lambda x, axis, n: np.fft.irfft(x, n, axis=axis, norm="forward"),
    gradient=(_irfft_rule,),
    samples=_irfft_samples,
    tangent=linear,
    batch=later_axis,
)
