"""Spreading over axes and adding up over axes: each is the gradient of the other.

Reductions take `axes` (ascending, counted from the front) and drop them; for `keepdims` the
functions on top put them back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.errors import ShapeError, fail
from schuss.graph import Node, Op, Sample, Shape, apply, define, scalar
from schuss.ops.infer import Rng, numbers, strided
from schuss.ops.structure import later_axes, linear

if TYPE_CHECKING:
    from schuss.tensor import Tensor

Axes = tuple[int, ...]


def without(shape: Shape, axes: Axes) -> Shape:
    """A shape that lacks the given axes."""
    return tuple([n for axis, n in enumerate(shape) if axis not in axes])


def kept(shape: Shape, axes: Axes) -> Shape:
    """A shape in which the given axes have size 1."""
    return tuple([1 if axis in axes else n for axis, n in enumerate(shape)])


def spread(y: Tensor, like: Tensor, axes: Axes) -> Tensor:
    """A reduced tensor, broadcast back to the shape that it was reduced from."""
    return apply(broadcast_to, y.reshape(kept(like.shape, axes)), shape=like.shape)


def _broadcast_infer(x: Node, shape: Shape) -> tuple[Shape, DType]:
    lead = len(shape) - x.ndim
    if lead < 0 or any(n not in (1, m) for n, m in zip(x.shape, shape[lead:], strict=True)):
        raise fail(ShapeError, "broadcast_to", f"cannot be broadcast to {shape}", x=x)
    return shape, x.dtype


def sum_to(g: Tensor, shape: Shape) -> Tensor:
    """`g` summed over the axes along which `shape` was broadcast to it."""
    lead = g.ndim - len(shape)
    axes = tuple(range(lead))
    axes += tuple(lead + i for i, n in enumerate(shape) if n == 1 and g.shape[lead + i] != 1)
    if axes:
        g = apply(sum_, g, axes=axes)
    return g.reshape(shape) if g.shape != shape else g


def _broadcast_batch(
    node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]
) -> Tensor:
    x, shape = node.inputs[0], node.attributes["shape"]
    aligned = xs[0].reshape((size, *(1,) * (len(shape) - x.ndim), *x.shape))
    return apply(broadcast_to, aligned, shape=(size, *shape))


broadcast_to: Op = define(
    "broadcast_to",
    "x repeated along axes of size 1 and new axes in front",
    infer=_broadcast_infer,
    reference=np.broadcast_to,
    gradient=(lambda g, y, x, shape: sum_to(g, x.shape),),
    samples=lambda rng: [
        Sample([numbers(rng, (3, 1))], {"shape": (2, 3, 4)}),
        Sample([numbers(rng, ())], {"shape": (5,)}),
        Sample([numbers(rng, (1,))], {"shape": (0,)}),
        Sample([numbers(rng, (2, 3))], {"shape": (2, 3)}),
    ],
    view=True,
    tangent=linear,
    batch=_broadcast_batch,
)


def zeros(shape: Shape, dtype: DType) -> Tensor:
    """Zeros that take no memory: one zero, broadcast."""
    return apply(broadcast_to, scalar(0, dtype), shape=shape)


def reduced(x: Node, axes: Axes) -> tuple[Shape, DType]:
    return without(x.shape, axes), x.dtype


_FEW = 32  # up to so many reduced elements a loop beats NumPy's reduction of short inner axes


def reducer(ufunc: np.ufunc) -> Any:
    def reference(x: np.ndarray, axes: Axes) -> np.ndarray:
        wide = dtypes.accumulator(x.dtype)
        few = math.prod(x.shape[axis] for axis in axes)
        if 1 < few <= _FEW and x.size >= 64 * few and axes[-1] == x.ndim - 1 and wide == x.dtype:
            return _reduce_few(ufunc, x, axes)
        if ufunc is np.add:
            return _add_up(x, axes, wide).astype(x.dtype, copy=False)
        if ufunc is np.multiply:
            return ufunc.reduce(x, axis=axes, dtype=wide).astype(x.dtype, copy=False)
        return ufunc.reduce(x, axis=axes)

    return reference


def _reduce_few(ufunc: np.ufunc, x: np.ndarray, axes: Axes) -> np.ndarray:
    """Combine whole slices, one for each reduced position: those of a pooling window, say."""
    rest = [axis for axis in range(x.ndim) if axis not in axes]
    moved = x.transpose(*axes, *rest)
    positions = np.ndindex(*moved.shape[: len(axes)])
    result = moved[next(positions)].copy()
    for position in positions:
        ufunc(result, moved[position], out=result)
    return result


_BLOCK = 256  # so many numbers may be added up one after the other


def _add_up(x: np.ndarray, axes: Axes, dtype: DType) -> np.ndarray:
    """The sum over axes, in blocks, so that rounding errors do not grow with the length.

    NumPy adds in pairs where the reduced axes are the last ones in memory. Elsewhere it adds slice
    after slice: of 5,000,000 times 0.1 in float32 that makes 478,275.
    """
    count = math.prod(x.shape[axis] for axis in axes)
    last = x.flags.c_contiguous and axes == tuple(range(x.ndim - len(axes), x.ndim))
    if count <= _BLOCK or last or not dtypes.is_inexact(dtype):
        return np.add.reduce(x, axis=axes, dtype=dtype)
    first, *rest = axes
    return _add_up(_add_slices(x, first, dtype), tuple(axis - 1 for axis in rest), dtype)


def _add_slices(x: np.ndarray, axis: int, dtype: DType) -> np.ndarray:
    blocks = x.shape[axis] // _BLOCK
    if not blocks:
        return np.add.reduce(x, axis=axis, dtype=dtype)
    whole, rest = np.split(x, [blocks * _BLOCK], axis=axis)
    parts = whole.reshape(*x.shape[:axis], blocks, _BLOCK, *x.shape[axis + 1 :])
    total = _add_slices(np.add.reduce(parts, axis=axis + 1, dtype=dtype), axis, dtype)
    return total + np.add.reduce(rest, axis=axis, dtype=dtype)


def reduction_samples(low: float = -2.0, high: float = 2.0, empty: bool = True) -> Any:
    def samples(rng: Rng) -> list[Sample]:
        cases: list[tuple[Shape, Axes]] = [
            ((), ()),
            ((1,), (0,)),
            ((17,), (0,)),
            ((3, 5), (0,)),
            ((3, 5), (1,)),
            ((3, 5), ()),
            ((2, 3, 5), (0, 2)),
            ((2, 3, 5), (0, 1, 2)),
            ((0, 3), (1,)),
            ((5, 40, 2, 3), (2, 3)),
        ]
        cases += [((0, 3), (0,)), ((4, 0), (0, 1))] if empty else []
        made = [Sample([numbers(rng, shape, low, high)], {"axes": axes}) for shape, axes in cases]
        made.append(Sample([strided(numbers(rng, (4, 3, 5), low, high))], {"axes": (0, 2)}))
        return made

    return samples


sum_: Op = define(
    "sum",
    "the sum over axes",
    infer=reduced,
    reference=reducer(np.add),
    gradient=(lambda g, y, x, axes: spread(g, x, axes),),
    samples=reduction_samples(),
    tangent=linear,
    batch=later_axes,
)
