"""What ops on matrices share: helpers of their rules, checks, samples, and LAPACK's errors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.errors import BadValueError, GradientError, NumericsError, ShapeError, fail
from schuss.graph import Node, Op, Sample, Shape, apply, data, define, wrap
from schuss.ops.elementwise import abs_, astype, conj, less_equal, real, select
from schuss.ops.infer import Rng, numbers, require_dtype
from schuss.ops.linalg import solve
from schuss.ops.movement import concat
from schuss.ops.reduction import max_
from schuss.ops.structure import repeated

if TYPE_CHECKING:
    from schuss.tensor import Tensor

LAPACK = (dtypes.float32, dtypes.float64, *dtypes.COMPLEX)
LAPACK_KINDS = "float32, float64 or complex"


# --- helpers of the rules ---


def adjoint(x: Tensor) -> Tensor:
    """The conjugate transpose."""
    return conjugate(x.mT)


def real_part(x: Tensor) -> Tensor:
    return apply(real, x) if dtypes.is_complex(x.dtype) else x


def textbook(rule: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A rule that is written for true gradients, where the walk carries their conjugates."""

    @functools.wraps(rule)
    def conjugated(g: Tensor, *rest: Tensor, **attributes: Any) -> Tensor:
        return conjugate(rule(conjugate(g), *rest, **attributes))

    return conjugated


def conjugate(x: Tensor) -> Tensor:
    return apply(conj, x) if dtypes.is_complex(x.dtype) else x


def mask_of(n: int, make: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    return wrap(data(make(np.ones((n, n), np.bool_))))


def lower_half(x: Tensor) -> Tensor:
    """The lower triangle with half of the diagonal, so that it and its adjoint give x back."""
    n = x.shape[-1]
    lower, diagonal = (
        mask_of(n, np.tril),
        mask_of(n, lambda ones: np.eye(len(ones), dtype=np.bool_)),
    )
    return select(diagonal, x * 0.5, select(lower, x, 0))


def on_diagonal(x: Tensor) -> Tensor:
    """Vectors (..., N) as diagonal matrices (..., N, N)."""
    n = x.shape[-1]
    eye = mask_of(n, lambda ones: np.eye(len(ones), dtype=np.bool_))
    return select(eye, x.reshape((*x.shape, 1)).broadcast_to((*x.shape, n)), 0)


def diagonal_of(x: Tensor) -> Tensor:
    """The diagonals (..., N) of square matrices."""
    eye = mask_of(x.shape[-1], lambda ones: np.eye(len(ones), dtype=np.bool_))
    return select(eye, x, 0).sum(axis=-1)


def widened(x: Tensor, dtype: DType) -> Tensor:
    """The real part of x, in a dtype that may be complex."""
    return apply(astype, real_part(x), dtype=dtype)


def imaginary(x: Tensor) -> Tensor:
    return real_part(x * -1j)


def stacked(*parts: Tensor) -> Tensor:
    """Matrices of as many columns below each other; vectors (..., N) are rows."""
    longest = max(each.ndim for each in parts)
    rows = [each if each.ndim == longest else each.expand_dims(-2) for each in parts]
    return apply(concat, *rows, axis=longest - 2)


def divide_on_the_right(x: Tensor, triangle: Tensor) -> Tensor:
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


def hermitian(x: np.ndarray) -> np.ndarray:
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


def positive_samples(rng: Rng) -> list[Sample]:
    made = square_samples(rng)
    for sample in made:
        x = sample.inputs[0]
        sample.inputs[0] = np.asarray(x @ x.swapaxes(-1, -2) + 0.5 * np.eye(x.shape[-1]))
    return made


def tall_samples(rng: Rng) -> list[Sample]:
    shapes: list[Shape] = [(3, 3), (4, 2), (1, 1), (2, 5, 3), (3, 0)]
    return [Sample([_spread_spectrum(rng, shape)]) for shape in shapes]


def any_samples(rng: Rng) -> list[Sample]:
    wide: list[Shape] = [(2, 4), (2, 3, 5), (0, 3)]
    return tall_samples(rng) + [Sample([_spread_spectrum(rng, shape)]) for shape in wide]


# --- where vectors have no derivative ---


_REASONS = {
    "free": (
        "this depends on vectors, or on phases of vectors, that can be chosen freely",
        "differentiate what does not: absolute values, products with the conjugate",
    ),
    "defective": (
        "the matrix has too few eigenvectors (it is defective), and so no derivative",
        "eigenvalues of symmetric matrices have one: eigh",
    ),
}


def _provided(x: np.ndarray, holds: np.ndarray, why: str) -> np.ndarray:
    if not holds.all():
        raise BadValueError(GradientError, *_REASONS[why])
    return x


def _provided_batch(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    x, holds = xs
    return apply(provided, x if batched[0] else repeated(x, size), holds, **node.attributes)


provided: Op = define(
    "provided",
    "x, provided that a condition holds everywhere",
    infer=lambda x, holds, why: (x.shape, x.dtype),
    reference=_provided,
    gradient=(lambda g, y, x, holds, why: g, None),
    samples=lambda rng: [
        Sample([numbers(rng, (2, 3)), np.ones((2,), np.bool_)], {"why": "free"}),
        Sample([numbers(rng, ()), np.ones((0,), np.bool_)], {"why": "free"}),
    ],
    tangent=lambda op, ts, y, x, holds, why: apply(provided, ts[0], holds, why=why),
    batch=_provided_batch,
)


def if_negligible(x: Tensor, rest: Tensor) -> Tensor:
    """x, provided that `rest` is 0 up to rounding; else an error when it is computed."""
    if not x.size:
        return x
    largest = apply(max_, apply(abs_, x), axes=tuple(range(x.ndim)))
    allowed = 1e4 * float(np.finfo(rest.dtype).eps) * (1 + largest)
    return apply(provided, x, apply(less_equal, apply(abs_, rest), allowed), why="free")
