"""`x[...]`, `x[...] = v`, and the named ways to take elements.

A key is split in two: integers, slices, None and `...` become one `slice` op and a reshape, integer
and boolean arrays become one `gather`. The rules are NumPy's, including those for where the axes of
array indices end up.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from schuss import dtypes
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    DTypeError,
    OutOfBoundsError,
    ShapeError,
    fail,
)
from schuss.functions.arguments import (
    ArrayLike,
    array_api_names,
    as_tensor,
    cast,
    number,
    operands,
    same,
)
from schuss.functions.elementwise import not_equal, where
from schuss.functions.manipulation import broadcast_to, permute_dims, reshape
from schuss.functions.reduction import argsort
from schuss.functions.reduction import sum as sum_of
from schuss.graph import Handle, apply, data, labelled, wrap
from schuss.ops import indexing as ops
from schuss.ops.broadcast import kept, without
from schuss.ops.infer import broadcast_shapes, normalize_axis
from schuss.ops.movement import Cut, inverse, reverse, slice_, slice_update
from schuss.ops.order import searchsorted as searchsorted_op
from schuss.ops.order import sort as sort_op

if TYPE_CHECKING:
    from schuss.tensor import Tensor


@dataclass
class _Plan:
    """A key taken apart: cut, bring to `shape`, then gather at `indices` on `axes` of that."""

    cut: Cut = ()
    shape: tuple[int, ...] = ()
    axes: tuple[int, ...] = ()
    indices: list[Tensor] = field(default_factory=list)
    result_first: bool = True  # array indices not side by side: their axes come first in the result
    position: int = 0  # else: where their axes go


def _is_array(key: Any) -> bool:
    return isinstance(key, (Handle, np.ndarray, list, np.bool_, bool))


def _expand(x: Tensor, key: Any) -> list[Any]:
    """The key with `...` written out and masks turned into integer arrays."""
    parts = list(key) if isinstance(key, tuple) else [key]
    made: list[Any] = []
    for part in parts:
        if _is_array(part):
            made.extend(_index_arrays(x, part))
        elif part is None or part is Ellipsis or isinstance(part, slice):
            made.append(part)
        else:
            made.append(_integer(part))
    if sum(part is Ellipsis for part in made) > 1:
        raise fail(ArgumentTypeError, "indexing", "a key may contain one ... only")
    used = sum(part is not None and part is not Ellipsis for part in made)
    if used > x.ndim:
        raise fail(OutOfBoundsError, "indexing", f"{used} indices for {x.ndim} axes", x=x)
    if not any(part is Ellipsis for part in made):
        made.append(Ellipsis)
    place = next(i for i, part in enumerate(made) if part is Ellipsis)
    whole: list[Any] = [slice(None)] * (x.ndim - used)
    made[place : place + 1] = whole or [Ellipsis]  # which separates arrays even so
    return made


def _integer(part: Any) -> int:
    try:
        return operator.index(part)
    except TypeError:
        raise fail(
            ArgumentTypeError,
            "indexing",
            f"cannot index with {type(part).__name__} {part!r}",
            hint="use integers, slices, None, ..., integer arrays or boolean masks",
        ) from None


def _index_arrays(x: Tensor, part: Any) -> list[Any]:
    if isinstance(part, list) and not part:
        part = np.zeros((0,), np.int64)
    index = as_tensor(part, "indexing")
    if index.dtype == dtypes.bool_:
        return [wrap(data(np.asarray(each))) for each in np.nonzero(_mask(x, index))]
    if not dtypes.is_integral(index.dtype):
        raise fail(
            DTypeError, "indexing", "an index array must be of integers or booleans", index=index
        )
    return [cast(index, dtypes.int64)]


def _mask(x: Tensor, mask: Tensor) -> np.ndarray:
    """A mask's value, computed now: how much of it is true decides the shape of the result."""
    if mask.ndim == 0 or mask.ndim > x.ndim:
        raise fail(ShapeError, "indexing", "a mask needs between 1 and x.ndim axes", x=x, mask=mask)
    return mask.numpy()


def _plan(x: Tensor, key: Any) -> _Plan:
    plan = _Plan()
    _check_masks(x, key)
    parts = _expand(x, key)
    arrays = [i for i, part in enumerate(parts) if isinstance(part, Handle)]
    # Beside arrays, integers are arrays of one element, as in NumPy.
    if arrays:
        arrays = [i for i, part in enumerate(parts) if isinstance(part, (Handle, int))]
        plan.result_first = arrays != list(range(arrays[0], arrays[-1] + 1))
    cut, shape, axis = [], [], 0
    axes = []
    for i, part in enumerate(parts):
        if part is None:
            shape.append(1)
            continue
        if part is Ellipsis:  # one that stands for no axes
            continue
        n = x.shape[axis]
        if isinstance(part, slice):
            start, size, step = _bounds(part, n)
            cut.append((start, size, step))
            shape.append(size)
        elif arrays:
            if i == arrays[0]:
                plan.position = len(shape)
            axes.append(len(shape))
            if not isinstance(part, Handle):
                part = wrap(data(np.asarray(_inside(part, n, axis))))
            plan.indices.append(part)
            cut.append((0, n, 1))
            shape.append(n)
        else:
            cut.append((_inside(part, n, axis), 1, 1))
        axis += 1
    plan.cut, plan.shape, plan.axes = tuple(cut), tuple(shape), tuple(axes)
    return plan


def _check_masks(x: Tensor, key: Any) -> None:
    """A mask must have the shape of the axes that it stands for."""
    parts = list(key) if isinstance(key, tuple) else [key]
    axis = 0
    for i, part in enumerate(parts):
        if part is Ellipsis:
            rest = parts[i + 1 :]
            axis = x.ndim - sum(_width(each) for each in rest)
        elif part is not None:
            width = _width(part)
            if _is_array(part) and width and _is_mask(part):
                shape = np.shape(part)
                stands_for = x.shape[axis : axis + width]
                # The standard lets a mask without elements stand for any sizes.
                if len(shape) != len(stands_for) or any(
                    n not in (0, m) for n, m in zip(shape, stands_for, strict=True)
                ):
                    raise fail(
                        OutOfBoundsError,
                        "indexing",
                        f"a mask of shape {shape} stands for axes of shape {stands_for}",
                        x=x,
                    )
            axis += width


def _is_mask(part: Any) -> bool:
    return getattr(part, "dtype", None) == dtypes.bool_ or (
        isinstance(part, list) and bool(part) and np.asarray(part).dtype == np.bool_
    )


def _width(part: Any) -> int:
    """How many axes a part of a key uses up."""
    if part is None:
        return 0
    return np.ndim(part) if _is_array(part) and _is_mask(part) else 1


def _bounds(part: slice, n: int) -> tuple[int, int, int]:
    try:
        start, stop, step = part.indices(n)
    except (TypeError, ValueError) as problem:
        raise fail(ArgumentTypeError, "indexing", f"bad slice {part}: {problem}") from None
    size = len(range(start, stop, step))
    return (start if size else 0), size, step


def _inside(index: int, n: int, axis: int) -> int:
    if not -n <= index < n:
        raise fail(
            OutOfBoundsError, "indexing", f"index {index} is outside axis {axis} of size {n}"
        )
    return index % n


def _is_scalar_mask(key: Any) -> bool:
    return isinstance(key, bool) or (_is_mask(key) and np.ndim(key) == 0)


def get_item(x: Tensor, key: Any) -> Tensor:
    """`x[key]`."""
    if _is_scalar_mask(key):  # adds an axis of size 0 or 1
        return reshape(x, (1, *x.shape))[np.asarray([bool(key)])]
    plan = _plan(x, key)
    part = _cut(x, plan)
    if not plan.indices:
        return part
    found = apply(ops.gather, part, *plan.indices, axes=plan.axes, wrap=True)
    return permute_dims(found, _order(plan, len(found.shape))) if _moves(plan) else found


def _cut(x: Tensor, plan: _Plan) -> Tensor:
    if any(
        (start, size, step) != (0, n, 1)
        for (start, size, step), n in zip(plan.cut, x.shape, strict=True)
    ):
        x = apply(slice_, x, cut=plan.cut)
    return reshape(x, plan.shape)


def _moves(plan: _Plan) -> bool:
    return not plan.result_first and plan.position > 0


def _order(plan: _Plan, ndim: int) -> tuple[int, ...]:
    """From the order of `gather`, indices first, to NumPy's."""
    k = ndim - (len(plan.shape) - len(plan.axes))
    rest = list(range(k, ndim))
    return (*rest[: plan.position], *range(k), *rest[plan.position :])


def set_item(x: Tensor, key: Any, value: ArrayLike) -> Tensor:
    """What x is after `x[key] = value`: a new tensor."""
    if isinstance(value, (bool, int, float, complex)) and not isinstance(value, np.generic):
        value = number("assignment", value, x.dtype)
    value = as_tensor(value, "assignment")
    if value.dtype != x.dtype:
        lossy = dtypes.promote(value.dtype, x.dtype) != x.dtype
        if lossy and (value.ndim or dtypes.is_complex(value.dtype)):
            raise fail(
                DTypeError,
                "assignment",
                f"{value.dtype} does not fit into {x.dtype}",
                x=x,
                value=value,
                hint="cast the value with astype",
            )
        value = cast(value, x.dtype)
    if _is_scalar_mask(key):
        if value.ndim > x.ndim and not bool(key):  # x[False] has no elements to assign to
            _spread(value, (0, *x.shape))
            return same(x)
        return where(as_tensor(key), _spread(value, x.shape), x)
    if _is_full_mask(x, key) and value.ndim == 0:
        return where(as_tensor(key), value, x)
    plan = _plan(x, key)
    part_shape = tuple(size for _, size, _ in plan.cut)
    if not plan.indices:
        filled = reshape(_spread(value, plan.shape), part_shape)
        return apply(slice_update, x, filled, cut=plan.cut)
    part = _cut(x, plan)
    lead = broadcast_shapes("indexing", *[each.shape for each in plan.indices])
    rest = without(plan.shape, plan.axes)
    if _moves(plan):
        natural = (*rest[: plan.position], *lead, *rest[plan.position :])
        filled = permute_dims(_spread(value, natural), inverse(_order(plan, len(natural))))
    else:
        filled = _spread(value, (*lead, *rest))
    changed = apply(ops.scatter, part, filled, *plan.indices, axes=plan.axes, wrap=True)
    return apply(slice_update, x, reshape(changed, part_shape), cut=plan.cut)


def _is_full_mask(x: Tensor, key: Any) -> bool:
    return _is_array(key) and _is_mask(key) and np.shape(key) == x.shape


def _spread(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    extra = value.ndim - len(shape)
    if extra > 0 and all(n == 1 for n in value.shape[:extra]):
        value = reshape(value, value.shape[extra:])
    try:
        return broadcast_to(value, shape)
    except ShapeError:
        raise fail(
            ShapeError, "assignment", f"the value does not broadcast to {shape}", value=value
        ) from None


@array_api_names
def take(x: ArrayLike, indices: ArrayLike, /, axis: int | None = None) -> Tensor:
    """Elements of x at integer `indices` along `axis`, which may be left out for 1-d x.

    Raises OutOfBoundsError, when the value is computed, for an index outside the axis.
    """
    x = as_tensor(x, "take")
    if axis is None:
        if x.ndim != 1:
            raise fail(ArgumentTypeError, "take", "axis may be left out for 1-d input only", x=x)
        axis = 0
    place = normalize_axis("take", axis, x.ndim)
    return x[(*[slice(None)] * place, as_tensor(indices, "take"))]


@array_api_names
def take_along_axis(x: ArrayLike, indices: ArrayLike, /, axis: int = -1) -> Tensor:
    """Elements of x at `indices` along `axis`, at the same place on the other axes.

    PyTorch's gather. Indices have as many axes as x, and broadcast against it but for `axis`.
    Raises OutOfBoundsError, when the value is computed, for an index outside the axis.
    """
    x, index = as_tensor(x, "take_along_axis"), as_tensor(indices, "take_along_axis")
    place = normalize_axis("take_along_axis", axis, x.ndim)
    if index.ndim != x.ndim:
        raise fail(
            ShapeError, "take_along_axis", "indices need as many axes as x", x=x, indices=index
        )
    sizes = broadcast_shapes(
        "take_along_axis",
        kept(x.shape, (place,)),
        kept(index.shape, (place,)),
    )
    if any(m != n for i, (m, n) in enumerate(zip(sizes, x.shape, strict=True)) if i != place):
        x = broadcast_to(x, tuple(x.shape[place] if i == place else n for i, n in enumerate(sizes)))
    grids: list[Any] = [
        wrap(data(np.arange(n).reshape((1,) * i + (n,) + (1,) * (x.ndim - i - 1))))
        for i, n in enumerate(x.shape)
    ]
    grids[place] = index
    return x[tuple(grids)]


@array_api_names
def sort(
    x: ArrayLike, /, axis: int = -1, *, descending: bool = False, stable: bool = True
) -> Tensor:
    """The elements along `axis` in order. Gradients go back to where each came from."""
    x = as_tensor(x, "sort")
    if dtypes.is_complex(x.dtype):
        raise fail(DTypeError, "sort", "is defined for real dtypes", x=x)
    place = normalize_axis("sort", axis, x.ndim)
    ordered = apply(sort_op, x, axis=place)
    return apply(reverse, ordered, axes=(place,)) if descending else ordered


@array_api_names
def topk(x: ArrayLike, k: int, /, axis: int = -1) -> tuple[Tensor, Tensor]:
    """The k largest elements along `axis`, in descending order, and their positions."""
    x = as_tensor(x, "topk")
    place = normalize_axis("topk", axis, x.ndim)
    if not 0 <= k <= x.shape[place]:
        raise fail(ShapeError, "topk", f"k must lie between 0 and {x.shape[place]}", x=x, k=k)
    order = argsort(x, axis=place, descending=True)[(*[slice(None)] * place, slice(0, k))]
    return take_along_axis(x, order, axis=place), order


def nonzero(x: ArrayLike, /) -> tuple[Tensor, ...]:
    """The positions of the elements that are not 0: one int64 tensor for each axis.

    Their number decides the shape, so this is computed at once.
    """
    x = as_tensor(x, "nonzero")
    if x.ndim == 0:
        raise fail(ShapeError, "nonzero", "a scalar has no positions", x=x)
    return tuple(wrap(data(each)) for each in np.nonzero(x.numpy()))


def count_nonzero(
    x: ArrayLike, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False
) -> Tensor:
    """How many elements over `axis` are not 0: int64."""
    return sum_of(not_equal(as_tensor(x, "count_nonzero"), 0), axis, keepdims)


def searchsorted(
    x1: ArrayLike,
    x2: ArrayLike,
    /,
    *,
    side: Literal["left", "right"] = "left",
    sorter: ArrayLike | None = None,
) -> Tensor:
    """Where in the sorted 1-d x1 the elements of x2 (a number, say) belong: int64.

    Args:
        side: before ("left") or after ("right") the elements that equal it.
        sorter: the positions that sort x1, where it is not sorted.
    """
    if side not in ("left", "right"):
        raise fail(ArgumentError, "searchsorted", "side is 'left' or 'right'", side=side)
    line, values = operands("searchsorted", as_tensor(x1, "searchsorted"), x2)
    if line.ndim != 1:
        raise fail(ShapeError, "searchsorted", "x1 must be a vector", x1=line, x2=values)
    line = line if sorter is None else take(line, sorter)
    return apply(searchsorted_op, line, values, side=side)


def one_hot(labels: ArrayLike, /, num_classes: int, *, dtype: Any = None) -> Tensor:
    """1 at the label and 0 elsewhere, along a new last axis: integers (...) to (..., num_classes).

    float32 by default. Raises OutOfBoundsError, when the value is computed, for a label outside 0
    to num_classes - 1.
    """
    index = as_tensor(labels, "one_hot")
    if not dtypes.is_integral(index.dtype):
        raise fail(DTypeError, "one_hot", "labels must be integers", labels=index)
    kind = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype)
    classes = wrap(data(np.arange(num_classes)))
    place = cast(index, dtypes.int64)
    checked = labelled(apply(ops.gather, classes, place, axes=(0,), wrap=False), "one_hot")
    return cast(checked.expand_dims(-1) == classes, kind)
