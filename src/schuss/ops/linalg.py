"""Ops on whole matrices, computed by LAPACK."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.errors import BadValueError, NumericsError, ShapeError, fail
from schuss.graph import OUTPUT, Node, Op, Sample, Shape, apply, define
from schuss.ops.infer import Rng, broadcast_shapes, numbers, require_dtype
from schuss.ops.structure import Tangents, aligned

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def _solve_infer(a: Node, b: Node) -> tuple[Shape, DType]:
    require_dtype(
        "solve",
        (dtypes.float32, dtypes.float64, *dtypes.COMPLEX),
        "float32, float64 or complex",
        a=a,
        b=b,
    )
    if a.ndim < 2 or a.shape[-1] != a.shape[-2] or b.ndim < 2 or b.shape[-2] != a.shape[-1]:
        raise fail(ShapeError, "solve", "a must be square and b as high as a", a=a, b=b)
    batch = broadcast_shapes("solve", a.shape[:-2], b.shape[:-2])
    return (*batch, *b.shape[-2:]), a.dtype


def _solve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(a, b)
    except np.linalg.LinAlgError:
        raise BadValueError(
            NumericsError, "the matrix is singular", "add a small multiple of the identity to a"
        ) from None


def _solve_rule_a(g: Tensor, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return -(apply(solve, a.mT, g) @ x.mT)


def _solve_tangent(op: Op, ts: Tangents, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    ta, tb = ts  # from ta @ x + a @ tx = tb
    if ta is None:
        assert tb is not None
        return apply(solve, a, tb)
    return apply(solve, a, -(ta @ x) if tb is None else tb - ta @ x)


def _solve_samples(rng: Rng) -> list[Sample]:
    shapes: list[tuple[Shape, Shape]] = [
        ((3, 3), (3, 2)),
        ((1, 1), (1, 1)),
        ((2, 4, 4), (2, 4, 1)),
        ((3, 3), (2, 3, 2)),
        ((2, 1, 3, 3), (3, 2)),
        ((0, 0), (0, 2)),
    ]
    return [Sample([numbers(rng, a) + 4 * np.eye(a[-1]), numbers(rng, b)]) for a, b in shapes]


solve: Op = define(
    "solve",
    "x such that a @ x = b",
    infer=_solve_infer,
    reference=_solve,
    gradient=(_solve_rule_a, lambda g, x, a, b: apply(solve, a.mT, g)),
    saves=(0, OUTPUT),
    samples=_solve_samples,
    broadcasts=True,
    tangent=_solve_tangent,
    batch=aligned,
)
