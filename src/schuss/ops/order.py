"""Ops about order: sorting, searching, running extremes, extremes of segments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.errors import BadValueError, OutOfBoundsError
from schuss.graph import OUTPUT, Node, Op, Sample, Shape, apply, data, define, scalar, wrap
from schuss.ops.broadcast import broadcast_to, sum_
from schuss.ops.elementwise import exp, select
from schuss.ops.indexing import scatter
from schuss.ops.infer import Rng, numbers
from schuss.ops.movement import inverse
from schuss.ops.reduction import argsort
from schuss.ops.structure import later_axis

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def _searchsorted_samples(rng: Rng) -> list[Sample]:
    line = np.array([-1.0, 0.0, 0.0, 2.0])
    values = [np.array([[-2.0, 0.0], [1.0, 2.0]]), np.array(0.0), numbers(rng, (0, 3))]
    return [Sample([line, each], {"side": side}) for each in values for side in ("left", "right")]


searchsorted: Op = define(
    "searchsorted",
    "where in a sorted line values belong: before (left) or after (right) what equals them",
    infer=lambda line, values, side: (values.shape, dtypes.int64),
    reference=lambda line, values, side: np.asarray(np.searchsorted(line, values, side), np.int64),
    gradient=None,
    samples=_searchsorted_samples,
)


def _line_samples(rng: Rng) -> list[Sample]:
    cases: list[tuple[Shape, int]] = [((5,), 0), ((3, 4), 0), ((3, 4), 1), ((0, 4), 1)]
    ties = Sample([np.array([[1.0, 2.0, 2.0, 0.0, 3.0]])], {"axis": 1})
    return [Sample([numbers(rng, shape)], {"axis": axis}) for shape, axis in cases] + [ties]


def _sort_rule(g: Tensor, y: Tensor, x: Tensor, axis: int) -> Tensor:
    """Back to where each element came from."""
    grids = [
        wrap(data(np.arange(n).reshape((-1,) + (1,) * (x.ndim - i - 1))))
        for i, n in enumerate(x.shape)
    ]
    grids[axis] = apply(argsort, x, axis=axis)
    zeros = apply(broadcast_to, scalar(0, g.dtype), shape=x.shape)
    return apply(scatter, zeros, g, *grids, axes=tuple(range(x.ndim)), wrap=False)


sort: Op = define(
    "sort",
    "the elements on an axis in ascending order; faster than to look up those of argsort",
    infer=lambda x, axis: (x.shape, x.dtype),
    reference=lambda x, axis: np.sort(x, axis=axis),
    gradient=(_sort_rule,),
    saves=(0,),
    samples=lambda rng: [
        Sample([rng.permutation(np.linspace(-2.0, 2.0, math.prod(shape))).reshape(shape)],
               {"axis": axis})
        for shape, axis in [((5,), 0), ((3, 4), 0), ((3, 4), 1), ((0, 4), 1)]
    ],
    batch=later_axis,
)  # fmt: skip


def _running_argmax(x: np.ndarray, axis: int) -> np.ndarray:
    """A NaN counts as the largest, and stays."""
    if not x.size:
        return np.zeros(x.shape, np.int64)
    best = np.maximum.accumulate(x, axis=axis)
    taken = (x == best) | np.isnan(x)
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    place = np.where(taken, np.arange(x.shape[axis]).reshape(shape), 0)
    return np.maximum.accumulate(place, axis=axis)


running_argmax: Op = define(
    "running_argmax",
    "the position of the largest element so far along an axis, the last of equals",
    infer=lambda x, axis: (x.shape, dtypes.int64),
    reference=_running_argmax,
    gradient=None,
    samples=_line_samples,
    batch=later_axis,
)


def _logcumsumexp(x: np.ndarray, axis: int) -> np.ndarray:
    wide = x.astype(dtypes.accumulator(x.dtype), copy=False)
    return np.logaddexp.accumulate(wide, axis=axis).astype(x.dtype, copy=False)


def _logcumsumexp_rule(g: Tensor, y: Tensor, x: Tensor, axis: int) -> Tensor:
    """The sum over j >= i of g[j] exp(x[i] - y[j]): n * n shares, none of which is above 1."""
    n = x.shape[axis]
    order = (*(each for each in range(x.ndim) if each != axis), axis)
    lead = tuple(x.shape[each] for each in order[:-1])
    mine = x.permute_dims(order).reshape((*lead, n, 1))
    totals, flows = (t.permute_dims(order).reshape((*lead, 1, n)) for t in (y, g))
    finite = select(totals == -np.inf, 0, totals)
    counts = wrap(data(np.triu(np.ones((n, n), np.bool_))))
    shares = apply(exp, select(counts, mine - finite, -np.inf))
    return apply(sum_, shares * flows, axes=(x.ndim,)).permute_dims(inverse(order))


logcumsumexp: Op = define(
    "logcumsumexp",
    "the logarithm of the running sum of exp(x) along an axis, without overflow",
    infer=lambda x, axis: (x.shape, x.dtype),
    reference=_logcumsumexp,
    gradient=(_logcumsumexp_rule,),
    saves=(0, OUTPUT),
    samples=_line_samples,
    batch=later_axis,
)


def _segment_max_infer(x: Node, ids: Node, count: int) -> tuple[Shape, DType]:
    return (count, *x.shape[1:]), x.dtype


def lowest(dtype: DType) -> Any:
    """The smallest number of a real dtype: what the largest of nothing is."""
    return np.iinfo(dtype).min if dtypes.is_integral(dtype) else -np.inf


def _segment_max(x: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
    if ids.size and (ids.min() < 0 or ids.max() >= count):
        bad = ids[(ids < 0) | (ids >= count)].flat[0]
        problem = f"segment {bad} does not exist: there are {count}"
        raise BadValueError(OutOfBoundsError, problem)
    result = np.full((count, *x.shape[1:]), lowest(x.dtype), x.dtype)
    np.maximum.at(result, ids, x)
    return result


def _segment_samples(rng: Rng) -> list[Sample]:
    cases: list[tuple[Shape, int]] = [((6,), 3), ((5, 2), 4), ((0, 2), 2)]
    return [
        Sample([numbers(rng, shape), rng.integers(0, count, shape[:1])], {"count": count})
        for shape, count in cases
    ]


segment_max: Op = define(
    "segment_max",
    "the largest rows of x that have the same id, for each id from 0 to count - 1",
    infer=_segment_max_infer,
    reference=_segment_max,
    gradient=None,
    samples=_segment_samples,
)
