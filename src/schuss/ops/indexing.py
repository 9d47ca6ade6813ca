"""Ops that take or put elements at positions which are data.

`axes` says which axes of x the index tensors point into, ascending. The indices broadcast against
each other; their shape comes first in the result, then the axes of x that are not indexed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from schuss.dtypes import DType, accumulator, int64
from schuss.errors import BadValueError, OutOfBoundsError
from schuss.graph import Node, Op, Sample, Shape, apply, data, define, wrap
from schuss.ops.broadcast import Axes, without, zeros
from schuss.ops.infer import Rng, broadcast_shapes, numbers
from schuss.ops.structure import all_batched, batch_first, batch_last, leading, linear

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def _layout(x_shape: Shape, indices: tuple[Node, ...], axes: Axes) -> Shape:
    positions = broadcast_shapes("indexing", *[index.shape for index in indices])
    return positions + without(x_shape, axes)


def _to_front(x: np.ndarray, axes: Axes) -> np.ndarray:
    """x with the indexed axes first."""
    return x.transpose(*axes, *[axis for axis in range(x.ndim) if axis not in axes])


def _checked(
    indices: tuple[np.ndarray, ...], shape: Shape, axes: Axes, wrap: bool, shown: Axes = ()
) -> tuple[np.ndarray, ...]:
    """The indices counted from the front; each is checked, so that none reads astray.

    `shown` is what messages call the axes, where that differs.
    """
    made = []
    for index, axis, name in zip(indices, axes, shown or axes, strict=True):
        n = shape[axis]
        low = -n if wrap else 0
        if index.size and (index.min() < low or index.max() >= n):
            bad = index[(index < low) | (index >= n)].flat[0]
            allowed = f"from {low} to {n - 1}" if n else "none, the axis is empty"
            raise BadValueError(
                OutOfBoundsError, f"index {bad} is outside axis {name}: allowed are {allowed}"
            )
        made.append(np.where(index < 0, index + n, index) if wrap else index)
    return tuple(made)


def _checked_index(index: np.ndarray, size: int, axis: int, ignored: int | None) -> np.ndarray:
    looked_at = index if ignored is None else np.where(index == ignored, 0, index)
    if size or looked_at is index:
        _checked((looked_at,), (size,), (0,), wrap=False, shown=(axis,))
    return index


def _positions(shape: Shape, axis: int) -> np.ndarray:
    along = np.arange(shape[axis], dtype=np.int64)
    return np.broadcast_to(along.reshape(-1, *[1] * (len(shape) - axis - 1)), shape)


def _gather_infer(x: Node, *indices: Node, axes: Axes, wrap: bool) -> tuple[Shape, DType]:
    return _layout(x.shape, indices, axes), x.dtype


def _gather(x: np.ndarray, *indices: np.ndarray, axes: Axes, wrap: bool) -> np.ndarray:
    return _to_front(x, axes)[_checked(indices, x.shape, axes, wrap)]


def _scatter_infer(
    x: Node, part: Node, *indices: Node, axes: Axes, wrap: bool
) -> tuple[Shape, DType]:
    assert part.shape == _layout(x.shape, indices, axes)
    return x.shape, x.dtype


def _scatter(
    x: np.ndarray, part: np.ndarray, *indices: np.ndarray, axes: Axes, wrap: bool
) -> np.ndarray:
    result = x.copy()
    _to_front(result, axes)[_checked(indices, x.shape, axes, wrap)] = part
    return result


def _scatter_add(
    x: np.ndarray, part: np.ndarray, *indices: np.ndarray, axes: Axes, wrap: bool
) -> np.ndarray:
    """Rows that go to one place are added up first, in their order: the same bits every time."""
    result = x.copy()
    if not part.size:
        return result
    front = _to_front(result, axes)
    lead = front.shape[: len(axes)]
    checked = np.broadcast_arrays(*_checked(indices, x.shape, axes, wrap))
    place = np.ravel_multi_index(tuple(each.reshape(-1) for each in checked), lead)
    order = np.argsort(place, kind="stable")
    place = place[order]
    rows = part.reshape(place.size, -1)[order]
    first = np.flatnonzero(np.r_[True, place[1:] != place[:-1]])
    totals = np.add.reduceat(rows, first, axis=0, dtype=accumulator(x.dtype)).astype(x.dtype)
    target = np.unravel_index(place[first], lead)
    front[target] += totals.reshape(len(first), *front.shape[len(axes) :])
    return result


def _scatter_part_rule(
    g: Tensor, y: Tensor, x: Tensor, part: Tensor, *indices: Tensor, axes: Axes, wrap: bool
) -> Tensor:
    """What is written over again gets no gradient: only the last one at a place does."""
    numbered = data_range(part.shape)
    start = zeros(x.shape, numbered.dtype) - 1
    written = apply(scatter, start, numbered, *indices, axes=axes, wrap=wrap)
    lasting = apply(gather, written, *indices, axes=axes, wrap=wrap) == numbered
    return apply(gather, g, *indices, axes=axes, wrap=wrap) * lasting.astype(g.dtype)


def data_range(shape: Shape) -> Tensor:
    """0, 1, 2, ... in the given shape."""
    return wrap(data(np.arange(math.prod(shape)).reshape(shape)))


def _cases(rng: Rng) -> list[tuple[Shape, list[np.ndarray], Axes]]:
    return [
        ((5,), [rng.integers(-5, 5, (3,))], (0,)),
        ((4, 3), [rng.integers(0, 4, (2, 2))], (0,)),
        ((4, 3), [rng.integers(0, 3, (6,))], (1,)),
        ((3, 4, 5), [rng.integers(0, 3, (2, 1)), rng.integers(-5, 5, (3,))], (0, 2)),
        ((4, 3), [rng.integers(0, 4, (0,))], (0,)),
        ((2, 3), [np.asarray(1), np.asarray(-1)], (0, 1)),
    ]


def _gather_samples(rng: Rng) -> list[Sample]:
    return [
        Sample([numbers(rng, shape), *indices], {"axes": axes, "wrap": True})
        for shape, indices, axes in _cases(rng)
    ]


def _scatter_samples(rng: Rng) -> list[Sample]:
    made = []
    for shape, indices, axes in _cases(rng):
        lead = np.broadcast_shapes(*[index.shape for index in indices])
        inputs = [numbers(rng, shape), numbers(rng, lead + without(shape, axes)), *indices]
        made.append(Sample(inputs, {"axes": axes, "wrap": True}))
    return made


def _gather_batch(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    x, *indices = xs
    axes, wrapped = node.attributes["axes"], node.attributes["wrap"]
    if not batched[0]:
        return apply(gather, *_align_indices(node, 1, xs, batched), axes=axes, wrap=wrapped)
    later = tuple(axis + 1 for axis in axes)
    if not any(batched[1:]):
        y = apply(gather, x, *indices, axes=later, wrap=wrapped)
        return batch_first(y, _index_axes(node, 1))  # (positions, B, rest)
    indices = [_each_its_own(node, 1, size), *_align_indices(node, 1, xs, batched)[1:]]
    return apply(gather, x, *indices, axes=(0, *later), wrap=wrapped)


def _scatter_batch(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    assert node.op is not None
    x, part = all_batched(size, xs[:2], batched[:2])
    later, wrapped = tuple(axis + 1 for axis in node.attributes["axes"]), node.attributes["wrap"]
    if not any(batched[2:]):
        part = batch_last(part, _index_axes(node, 2))
        return apply(node.op, x, part, *xs[2:], axes=later, wrap=wrapped)
    indices = [_each_its_own(node, 2, size), *_align_indices(node, 2, xs, batched)[2:]]
    return apply(node.op, x, part, *indices, axes=(0, *later), wrap=wrapped)


def _index_axes(node: Node, first: int) -> int:
    """How many axes the indices have together; they start at input `first`."""
    return max(index.ndim for index in node.inputs[first:])


def _align_indices(
    node: Node, first: int, xs: Sequence[Tensor], batched: Sequence[bool]
) -> list[Tensor]:
    """The inputs; batched indices with axes of size 1 behind the batch axis, to broadcast."""
    longest = _index_axes(node, first)
    made = list(xs)
    for i in range(first, len(made)):
        if batched[i]:
            shape = node.inputs[i].shape
            ones = (1,) * (longest - len(shape))
            made[i] = made[i].reshape((made[i].shape[0], *ones, *shape))
    return made


def _each_its_own(node: Node, first: int, size: int) -> Tensor:
    """The index that keeps each example with itself."""
    return wrap(data(np.arange(size).reshape((size, *(1,) * _index_axes(node, first)))))


checked_index: Op = define(
    "checked_index",
    "integers, all of which but the ignored one must point into an axis of the given size",
    infer=lambda index, size, axis, ignored: (index.shape, index.dtype),
    reference=_checked_index,
    gradient=None,
    samples=lambda rng: [
        Sample([rng.integers(0, 4, (3, 2))], {"size": 4, "axis": 1, "ignored": None}),
        Sample([np.array([3, -7, 0])], {"size": 4, "axis": 0, "ignored": -7}),
        Sample([np.zeros((0,), np.int64)], {"size": 0, "axis": 0, "ignored": None}),
    ],
    view=True,
    batch=leading,
)
positions: Op = define(
    "positions",
    "for each element of a shape where it stands along an axis",
    infer=lambda shape, axis: (shape, int64),
    reference=_positions,
    gradient=None,
    samples=lambda rng: [
        Sample([], {"shape": (3,), "axis": 0}),
        Sample([], {"shape": (2, 3, 4), "axis": 1}),
        Sample([], {"shape": (2, 0), "axis": 0}),
    ],
    view=True,
)
gather: Op = define(
    "gather",
    "elements of x at positions; `wrap` allows negative ones, counted from the end",
    infer=_gather_infer,
    reference=_gather,
    gradient=(
        lambda g, y, x, *indices, axes, wrap: apply(
            scatter_add, zeros(x.shape, g.dtype), g, *indices, axes=axes, wrap=wrap
        ),
        *[None] * 32,
    ),
    saves=tuple(range(1, 33)),
    samples=_gather_samples,
    tangent=linear,
    batch=_gather_batch,
)
scatter: Op = define(
    "scatter",
    "x with elements at positions replaced; of several for one place the last one stays",
    infer=_scatter_infer,
    reference=_scatter,
    gradient=(
        lambda g, y, x, part, *indices, axes, wrap: apply(
            scatter, g, zeros(part.shape, g.dtype), *indices, axes=axes, wrap=wrap
        ),
        _scatter_part_rule,
        *[None] * 32,
    ),
    saves=tuple(range(2, 34)),
    samples=_scatter_samples,
    tangent=linear,
    batch=_scatter_batch,
)
scatter_add: Op = define(
    "scatter_add",
    "x with elements added at positions",
    infer=_scatter_infer,
    reference=_scatter_add,
    gradient=(
        lambda g, y, x, part, *indices, axes, wrap: g,
        lambda g, y, x, part, *indices, axes, wrap: apply(
            gather, g, *indices, axes=axes, wrap=wrap
        ),
        *[None] * 32,
    ),
    saves=tuple(range(2, 34)),
    samples=_scatter_samples,
    tangent=linear,
    batch=_scatter_batch,
)
