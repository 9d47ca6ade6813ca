"""Ops that gather axes: products, extremes, running sums, orders. `broadcast.py` has sums."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.errors import ShapeError, fail
from schuss.graph import OUTPUT, Node, Op, Sample, Shape, apply, data, define, scalar, wrap
from schuss.ops.broadcast import (
    Axes,
    broadcast_to,
    reduced,
    reducer,
    reduction_samples,
    spread,
    sum_,
    without,
)
from schuss.ops.elementwise import select
from schuss.ops.infer import Rng, numbers
from schuss.ops.movement import concat, inverse, reverse
from schuss.ops.structure import later_axes, later_axis, linear

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def _nonempty(name: str) -> Any:
    def infer(x: Node, axes: Axes) -> tuple[Shape, DType]:
        if any(x.shape[axis] == 0 for axis in axes):
            raise fail(ShapeError, name, "an empty axis has no extreme", x=x, axis=axes)
        return reduced(x, axes)

    return infer


def _prod_rule(g: Tensor, y: Tensor, x: Tensor, axes: Axes) -> Tensor:
    """Times the product of all the others, which (unlike y / x) is right where elements are 0."""
    rest = tuple(axis for axis in range(x.ndim) if axis not in axes)
    moved = x.permute_dims(rest + axes)
    flat = moved.reshape((*without(x.shape, axes), math.prod(x.shape[axis] for axis in axes)))
    last = flat.ndim - 1
    before = _shifted_product(flat, last)
    after = apply(reverse, _shifted_product(apply(reverse, flat, axes=(last,)), last), axes=(last,))
    others = (before * after).reshape(moved.shape).permute_dims(inverse(rest + axes))
    return spread(g, x, axes) * others


def _shifted_product(x: Tensor, axis: int) -> Tensor:
    """For each position the product of all that come before it on the last axis."""
    one = apply(broadcast_to, scalar(1, x.dtype), shape=(*x.shape[:-1], min(1, x.shape[-1])))
    return apply(cumprod, apply(concat, one, x[..., :-1], axis=axis), axis=axis)


def _extreme_rule(g: Tensor, y: Tensor, x: Tensor, axes: Axes) -> Tensor:
    """In equal parts to all elements that equal the extreme."""
    taken = (x == spread(y, x, axes)).astype(g.dtype)
    return taken * spread(g / apply(sum_, taken, axes=axes), x, axes)


def _first_rule(g: Tensor, y: Tensor, x: Tensor, axes: Axes) -> Tensor:
    """To the first of the elements that equal the largest, or that are NaN where it is."""
    sizes = [n if axis in axes else 1 for axis, n in enumerate(x.shape)]
    beyond = math.prod(sizes)
    order = wrap(data(np.arange(beyond, dtype=np.int32).reshape(sizes)))
    place = select((x == spread(y, x, axes)) | (x != x), order, beyond)
    first = apply(min_, place, axes=axes)
    return select(order == spread(first, x, axes), spread(g, x, axes), 0)


def _extreme_samples(rng: Rng) -> list[Sample]:
    """Elements so far apart that the differences of the gradient check never cross a tie."""
    made = reduction_samples(empty=False)(rng)
    for sample in made:
        x = sample.inputs[0]
        x[...] = rng.permutation(np.linspace(-2.0, 2.0, x.size)).reshape(x.shape)
    return made


prod: Op = define(
    "prod",
    "the product over axes",
    infer=reduced,
    reference=reducer(np.multiply),
    gradient=(_prod_rule,),
    saves=(0,),
    samples=reduction_samples(0.5, 1.5),
    batch=later_axes,
)
max_: Op = define(
    "max",
    "the largest element over axes; ties share the gradient",
    infer=_nonempty("max"),
    reference=reducer(np.maximum),
    gradient=(_extreme_rule,),
    saves=(0, OUTPUT),
    samples=_extreme_samples,
    batch=later_axes,
)
first_max: Op = define(
    "first_max",
    "the largest element over axes; of equals the first one in memory's order has the gradient",
    infer=_nonempty("first_max"),
    reference=reducer(np.maximum),
    gradient=(_first_rule,),
    saves=(0, OUTPUT),
    samples=_extreme_samples,
    batch=later_axes,
)
min_: Op = define(
    "min",
    "the smallest element over axes; ties share the gradient",
    infer=_nonempty("min"),
    reference=reducer(np.minimum),
    gradient=(_extreme_rule,),
    saves=(0, OUTPUT),
    samples=_extreme_samples,
    batch=later_axes,
)


def _truth(name: str, doc: str, ufunc: np.ufunc) -> Op:
    def samples(rng: Rng) -> list[Sample]:
        return [
            Sample([np.asarray(s.inputs[0] > 0)], s.attributes) for s in reduction_samples()(rng)
        ]

    return define(
        name,
        doc,
        infer=lambda x, axes: (without(x.shape, axes), dtypes.bool_),
        reference=lambda x, axes: ufunc.reduce(x, axis=axes, dtype=np.bool_),
        gradient=None,
        samples=samples,
        batch=later_axes,
    )


any_: Op = _truth("any", "whether any element over axes is true", np.logical_or)
all_: Op = _truth("all", "whether all elements over axes are true", np.logical_and)


def _position(name: str, doc: str, function: Any) -> Op:
    def infer(x: Node, axis: int) -> tuple[Shape, DType]:
        return _nonempty(name)(x, (axis,))[0], dtypes.int64

    def samples(rng: Rng) -> list[Sample]:
        cases = [((5,), 0), ((3, 4), 0), ((3, 4), 1), ((0, 4), 1), ((2, 1, 3), 1)]
        ties = Sample([np.array([[1.0, 2.0, 2.0], [3.0, 3.0, 1.0]])], {"axis": 1})
        return [Sample([numbers(rng, shape)], {"axis": axis}) for shape, axis in cases] + [ties]

    return define(
        name,
        doc,
        infer=infer,
        reference=lambda x, axis: np.asarray(function(x, axis=axis), np.int64),
        gradient=None,
        samples=samples,
        batch=later_axis,
    )


argmax: Op = _position(
    "argmax", "the position of the largest element on an axis, the first of equals", np.argmax
)
argmin: Op = _position(
    "argmin", "the position of the smallest element on an axis, the first of equals", np.argmin
)


def _argsort(x: np.ndarray, axis: int) -> np.ndarray:
    return np.argsort(x, axis=axis, kind="stable").astype(np.int64, copy=False)


argsort: Op = define(
    "argsort",
    "the positions of the elements on an axis in ascending order; equals keep theirs",
    infer=lambda x, axis: (x.shape, dtypes.int64),
    reference=_argsort,
    gradient=None,
    samples=lambda rng: [
        Sample([numbers(rng, (5,))], {"axis": 0}),
        Sample([numbers(rng, (3, 7))], {"axis": 0}),
        Sample([np.array([[2.0, 1.0, 2.0, 1.0]])], {"axis": 1}),
        Sample([numbers(rng, (0, 2))], {"axis": 0}),
    ],
    batch=later_axis,
)


def _same(x: Node, axis: int) -> tuple[Shape, DType]:
    return x.shape, x.dtype


def _cumulative_samples(rng: Rng) -> list[Sample]:
    cases = [((5,), 0), ((3, 4), 0), ((3, 4), 1), ((0, 4), 0), ((1, 1), 1), ((2, 3, 17), 2)]
    return [Sample([numbers(rng, shape, 0.5, 1.5)], {"axis": axis}) for shape, axis in cases]


def _cumsum_rule(g: Tensor, y: Tensor, x: Tensor, axis: int) -> Tensor:
    return apply(reverse, apply(cumsum, apply(reverse, g, axes=(axis,)), axis=axis), axes=(axis,))


def _running(ufunc: np.ufunc) -> Any:
    def reference(x: np.ndarray, axis: int) -> np.ndarray:
        return ufunc.accumulate(x, axis=axis, dtype=dtypes.accumulator(x.dtype)).astype(
            x.dtype, copy=False
        )

    return reference


cumsum: Op = define(
    "cumsum",
    "the running sum along an axis",
    infer=_same,
    reference=_running(np.add),
    gradient=(_cumsum_rule,),
    samples=_cumulative_samples,
    tangent=linear,
    batch=later_axis,
)


def _cumprod_rule(g: Tensor, y: Tensor, x: Tensor, axis: int) -> Tensor:
    """From the running products that leave out one factor: n * n of them, but right at zeros."""
    n = x.shape[axis]
    order = (*(each for each in range(x.ndim) if each != axis), axis)
    factors = x.permute_dims(order).reshape((*without(x.shape, (axis,)), 1, n))
    left_out, earlier = np.eye(n, dtype=np.bool_), np.tril(np.ones((n, n), np.bool_), -1)
    others = apply(cumprod, select(wrap(data(left_out)), 1, factors), axis=x.ndim)
    slopes = select(wrap(data(earlier)), 0, others)  # (..., left out, product)
    towards = g.permute_dims(order).reshape(factors.shape)
    return apply(sum_, towards * slopes, axes=(x.ndim,)).permute_dims(inverse(order))


cumprod: Op = define(
    "cumprod",
    "the running product along an axis",
    infer=_same,
    reference=_running(np.multiply),
    gradient=(_cumprod_rule,),
    saves=(0,),
    samples=_cumulative_samples,
    batch=later_axis,
)
