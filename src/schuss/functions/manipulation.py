"""New shapes and orders of the same elements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes
from schuss.errors import ArgumentError, ShapeError, fail
from schuss.functions.arguments import (
    ArrayLike,
    array_api_names,
    as_shape,
    as_tensor,
    cast,
    operands,
    same,
)
from schuss.graph import apply, data, scalar, wrap
from schuss.ops import movement as ops
from schuss.ops.broadcast import broadcast_to as broadcast_op
from schuss.ops.indexing import gather
from schuss.ops.infer import broadcast_shapes as common_shape
from schuss.ops.infer import normalize_axes, normalize_axis

if TYPE_CHECKING:
    from schuss.tensor import Tensor

Axes = int | Sequence[int]


def _integers(where: str, values: tuple[Any, ...]) -> tuple[int, ...]:
    """`f(2, 3)` and `f((2, 3))` alike."""
    if len(values) == 1 and isinstance(values[0], Iterable):
        values = tuple(values[0])
    if {*map(type, values)} == {int}:
        return values
    if any(isinstance(each, bool) or not isinstance(each, (int, np.integer)) for each in values):
        raise fail(ArgumentError, where, f"takes integers, got {values}")
    return tuple(int(each) for each in values)


def reshape(x: ArrayLike, /, shape: Axes, *more: int, copy: bool | None = None) -> Tensor:
    """The same elements in another shape; one size may be -1 and follows from the others."""
    x = as_tensor(x, "reshape")
    sizes = _integers("reshape", (shape, *more))
    if sizes.count(-1) > 1 or (sizes and min(sizes) < -1):
        raise fail(
            ArgumentError, "reshape", "sizes are not negative, but for one -1", x=x, shape=sizes
        )
    if -1 in sizes:
        known = math.prod(n for n in sizes if n != -1)
        if known == 0 or x.size % known:
            raise fail(
                ShapeError, "reshape", f"{x.size} elements do not fill the shape {sizes}", x=x
            )
        sizes = tuple(x.size // known if n == -1 else n for n in sizes)
    return same(x) if sizes == x.shape else apply(ops.reshape, x, shape=sizes)


def permute_dims(x: ArrayLike, /, axes: Axes, *more: int) -> Tensor:
    """The axes in the given order: `permute_dims(x, (2, 0, 1))`."""
    x = as_tensor(x, "permute_dims")
    given = _integers("permute_dims", (axes, *more))
    order = tuple(normalize_axis("permute_dims", axis, x.ndim) for axis in given)
    if sorted(order) != list(range(x.ndim)):
        raise fail(
            ArgumentError, "permute_dims", "axes must name each axis of x once", x=x, axes=given
        )
    return apply(ops.permute, x, axes=order)


def matrix_transpose(x: ArrayLike, /) -> Tensor:
    """The last two axes swapped."""
    x = as_tensor(x, "matrix_transpose")
    if x.ndim < 2:
        raise fail(ShapeError, "matrix_transpose", "needs at least 2 axes", x=x)
    axes = (1, 0) if x.ndim == 2 else (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)
    return apply(ops.permute, x, axes=axes)


def moveaxis(x: ArrayLike, source: Axes, destination: Axes, /) -> Tensor:
    """Axes moved to new places; the others keep their order."""
    x = as_tensor(x, "moveaxis")
    sources = _integers("moveaxis", (source,))
    targets = _integers("moveaxis", (destination,))
    sources = tuple(normalize_axis("moveaxis", axis, x.ndim) for axis in sources)
    targets = tuple(normalize_axis("moveaxis", axis, x.ndim) for axis in targets)
    if len(set(sources)) != len(targets) or len(sources) != len(set(targets)):
        raise fail(
            ArgumentError,
            "moveaxis",
            "as many destinations as sources are needed, and none of them twice",
            source=source,
            destination=destination,
        )
    order = [axis for axis in range(x.ndim) if axis not in sources]
    for target, axis in sorted(zip(targets, sources, strict=True)):
        order.insert(target, axis)
    return permute_dims(x, tuple(order))


@array_api_names
def expand_dims(x: ArrayLike, /, axis: Axes = 0) -> Tensor:
    """New axes of size 1, at `axis` of the result."""
    x = as_tensor(x, "expand_dims")
    given = _integers("expand_dims", (axis,))
    places = normalize_axes("expand_dims", given, x.ndim + len(given))
    sizes = iter(x.shape)
    shape = tuple(1 if i in places else next(sizes) for i in range(x.ndim + len(given)))
    return apply(ops.reshape, x, shape=shape)


@array_api_names
def squeeze(x: ArrayLike, /, axis: Axes | None = None) -> Tensor:
    """x without the named axes of size 1; without `axis`, without all of them."""
    x = as_tensor(x, "squeeze")
    if axis is None:
        axis = tuple(i for i, n in enumerate(x.shape) if n == 1)
    places = normalize_axes("squeeze", axis, x.ndim)
    if any(x.shape[i] != 1 for i in places):
        raise fail(ShapeError, "squeeze", "only axes of size 1 can be removed", x=x, axis=axis)
    return apply(ops.reshape, x, shape=tuple(n for i, n in enumerate(x.shape) if i not in places))


def flatten(x: ArrayLike, /, start_axis: int = 0, end_axis: int = -1) -> Tensor:
    """The axes from `start_axis` to `end_axis` (included) joined into one."""
    x = as_tensor(x, "flatten")
    if x.ndim == 0:
        return reshape(x, (1,))
    first = normalize_axis("flatten", start_axis, x.ndim)
    last = normalize_axis("flatten", end_axis, x.ndim)
    if first > last:
        raise fail(
            ArgumentError,
            "flatten",
            "start_axis comes after end_axis",
            x=x,
            start_axis=start_axis,
            end_axis=end_axis,
        )
    joined = math.prod(x.shape[first : last + 1])
    return reshape(x, (*x.shape[:first], joined, *x.shape[last + 1 :]))


def broadcast_to(x: ArrayLike, /, shape: Sequence[int]) -> Tensor:
    """x repeated along axes of size 1 and along new axes in front, to the given shape."""
    x = as_tensor(x, "broadcast_to")
    return apply(broadcast_op, x, shape=as_shape("broadcast_to", shape))


def broadcast_arrays(*arrays: ArrayLike) -> list[Tensor]:
    """All tensors in the shape that they broadcast to together."""
    if not arrays:
        return []
    tensors = [as_tensor(each, "broadcast_arrays") for each in arrays]
    shape = common_shape("broadcast_arrays", *[each.shape for each in tensors])
    return [broadcast_to(each, shape) for each in tensors]


def broadcast_shapes(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that tensors of these shapes broadcast to together."""
    return common_shape("broadcast_shapes", (), *[tuple(each) for each in shapes])


@array_api_names
def flip(x: ArrayLike, /, axis: Axes | None = None) -> Tensor:
    """The elements along `axis` (all axes by default) in reverse order."""
    x = as_tensor(x, "flip")
    return apply(ops.reverse, x, axes=normalize_axes("flip", axis, x.ndim))


@array_api_names
def roll(x: ArrayLike, /, shift: Axes, axis: Axes | None = None) -> Tensor:
    """The elements moved along `axis` by `shift`; what leaves comes in at the other end."""
    x = as_tensor(x, "roll")
    if axis is None:
        return reshape(roll(reshape(x, (x.size,)), shift, axis=0), x.shape)
    places, shifts = _integers("roll", (axis,)), _integers("roll", (shift,))
    if len(shifts) == 1:
        shifts = shifts * len(places)
    if len(shifts) != len(places):
        raise fail(
            ArgumentError, "roll", "as many shifts as axes are needed", shift=shift, axis=axis
        )
    for place, by in zip(places, shifts, strict=True):
        place = normalize_axis("roll", place, x.ndim)
        n = x.shape[place]
        if n and by % n:
            cut = n - by % n
            lead = (slice(None),) * place
            x = concat([x[(*lead, slice(cut, None))], x[(*lead, slice(None, cut))]], axis=place)
    return same(x)


@array_api_names
def concat(arrays: Sequence[ArrayLike], /, axis: int | None = 0) -> Tensor:
    """Tensors joined along an existing axis; with `axis=None` all are flattened first."""
    if not arrays:
        raise fail(ArgumentError, "concat", "needs at least one tensor")
    tensors = list(operands("concat", *[as_tensor(each, "concat") for each in arrays]))
    if axis is None:
        tensors, axis = [reshape(each, (each.size,)) for each in tensors], 0
    if any(each.ndim == 0 for each in tensors):
        raise fail(ShapeError, "concat", "scalars have no axis to join along", hint="use stack")
    return apply(ops.concat, *tensors, axis=normalize_axis("concat", axis, tensors[0].ndim))


@array_api_names
def stack(arrays: Sequence[ArrayLike], /, axis: int = 0) -> Tensor:
    """Tensors of one shape joined along a new axis."""
    if not arrays:
        raise fail(ArgumentError, "stack", "needs at least one tensor")
    tensors = [as_tensor(each, "stack") for each in arrays]
    shapes = {each.shape for each in tensors}
    if len(shapes) > 1:
        raise fail(ShapeError, "stack", "all tensors must have one shape", shapes=sorted(shapes))
    place = normalize_axis("stack", axis, tensors[0].ndim + 1)
    return concat([expand_dims(each, axis=place) for each in tensors], axis=place)


@array_api_names
def unstack(x: ArrayLike, /, axis: int = 0) -> tuple[Tensor, ...]:
    """The slices of x along `axis`, without that axis."""
    x = as_tensor(x, "unstack")
    place = normalize_axis("unstack", axis, x.ndim)
    lead = (slice(None),) * place
    return tuple(x[(*lead, i)] for i in range(x.shape[place]))


@array_api_names
def split(x: ArrayLike, /, size: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """x cut along `axis` into pieces of `size` (the last may be smaller), or of the given sizes."""
    x = as_tensor(x, "split")
    place = normalize_axis("split", axis, x.ndim)
    n = x.shape[place]
    if isinstance(size, (int, np.integer)):
        if size < 1:
            raise fail(ArgumentError, "split", "size must be positive", size=size)
        sizes = [min(int(size), n - start) for start in range(0, n, int(size))]
    else:
        sizes = [int(each) for each in size]
        if sum(sizes) != n or min(sizes, default=0) < 0:
            raise fail(ShapeError, "split", f"sizes {sizes} do not add up to {n}", x=x, axis=axis)
    lead = (slice(None),) * place
    ends = np.cumsum(sizes).tolist()
    return tuple(x[(*lead, slice(end - part, end))] for end, part in zip(ends, sizes, strict=True))


@array_api_names
def repeat(x: ArrayLike, repeats: int, /, *, axis: int | None = None) -> Tensor:
    """Each element along `axis` (of the flattened tensor by default) `repeats` times in a row."""
    x = as_tensor(x, "repeat")
    if isinstance(repeats, bool) or not isinstance(repeats, (int, np.integer)):
        counts = as_tensor(repeats, "repeat").numpy()
        flat = reshape(x, (x.size,)) if axis is None else x
        place = normalize_axis("repeat", axis or 0, flat.ndim)
        if counts.shape not in ((), (1,), (flat.shape[place],)) or counts.min(initial=0) < 0:
            raise fail(
                ArgumentError,
                "repeat",
                "needs one count, not negative, for each element",
                x=flat,
                repeats=counts,
            )
        from_ = np.repeat(np.arange(flat.shape[place]), counts)
        return flat[(*[slice(None)] * place, from_)]
    if repeats < 0:
        raise fail(ArgumentError, "repeat", "repeats must not be negative", repeats=repeats)
    if axis is None:
        x, axis = reshape(x, (x.size,)), 0
    place = normalize_axis("repeat", axis, x.ndim)
    shape = x.shape
    wide = broadcast_to(
        reshape(x, (*shape[: place + 1], 1, *shape[place + 1 :])),
        (*shape[: place + 1], int(repeats), *shape[place + 1 :]),
    )
    return reshape(wide, (*shape[:place], shape[place] * int(repeats), *shape[place + 1 :]))


def tile(x: ArrayLike, repetitions: int | Sequence[int], /) -> Tensor:
    """x laid side by side, `repetitions` times along each axis.

    Where fewer repetitions than axes are given, they are those of the last axes.
    """
    x = as_tensor(x, "tile")
    counts = _integers("tile", (repetitions,))
    if any(n < 0 for n in counts):
        raise fail(ArgumentError, "tile", "repetitions are not negative", repetitions=repetitions)
    ndim = max(x.ndim, len(counts))
    counts = (1,) * (ndim - len(counts)) + counts
    sizes = (1,) * (ndim - x.ndim) + x.shape
    thin = reshape(x, tuple(n for size in sizes for n in (1, size)))
    wide = broadcast_to(
        thin, tuple(n for c, size in zip(counts, sizes, strict=True) for n in (c, size))
    )
    return reshape(wide, tuple(c * size for c, size in zip(counts, sizes, strict=True)))


_PADDING = ("edge", "reflect", "symmetric", "wrap")


def pad(
    x: ArrayLike,
    /,
    widths: Sequence[tuple[int, int]],
    value: float = 0,
    *,
    mode: str = "constant",
) -> Tensor:
    """x with something around it: (before, after) for each of the last axes.

    Args:
        widths: how many elements to add before and after, at most one pair for each axis.
        value: what "constant" adds.
        mode: "constant", or elements of x: "edge" repeats the outermost, "wrap" goes on at the
            other end, "reflect" mirrors at the outermost, "symmetric" beside it.
    """
    x = as_tensor(x, "pad")
    pairs = [_integers("pad", (pair,)) for pair in widths]
    if len(pairs) > x.ndim or any(len(pair) != 2 or min(pair) < 0 for pair in pairs):
        raise fail(
            ArgumentError,
            "pad",
            "widths are pairs (before, after), at most one for each axis",
            x=x,
            widths=widths,
        )
    pairs = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    if mode in _PADDING:
        return _pad_with_own(x, pairs, mode)
    if mode != "constant":
        known = ", ".join(["constant", *_PADDING])
        raise fail(ArgumentError, "pad", f"mode is one of {known}", mode=mode)
    if all(pair == (0, 0) for pair in pairs):
        return same(x)
    shape = tuple(n + before + after for n, (before, after) in zip(x.shape, pairs, strict=True))
    around = apply(broadcast_op, scalar(value, x.dtype), shape=shape)
    cut = tuple((before, n, 1) for n, (before, _) in zip(x.shape, pairs, strict=True))
    return apply(ops.slice_update, around, x, cut=cut)


def _pad_with_own(x: Tensor, pairs: Sequence[tuple[int, ...]], mode: str) -> Tensor:
    """Each axis taken at the positions that NumPy's padding of its own positions names."""
    for axis, pair in enumerate(pairs):
        if pair == (0, 0):
            continue
        n = x.shape[axis]
        if n == 0:
            raise fail(ShapeError, "pad", f"an empty axis has nothing to pad with ({mode})", x=x)
        places = np.pad(np.arange(n), pair, mode=mode)  # type: ignore[call-overload]
        rows = apply(gather, x, wrap(data(places)), axes=(axis,), wrap=False)
        x = moveaxis(rows, 0, axis)
    return same(x)


@array_api_names
def diff(
    x: ArrayLike,
    /,
    n: int = 1,
    axis: int = -1,
    *,
    prepend: ArrayLike | None = None,
    append: ArrayLike | None = None,
) -> Tensor:
    """Differences of neighbours along `axis`, taken n times; with tensors joined on before that."""
    x = as_tensor(x, "diff")
    place = normalize_axis("diff", axis, x.ndim)
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
        raise fail(ArgumentError, "diff", "n must be an integer that is not negative", n=n)
    if n == 0:
        return same(x)
    parts = [as_tensor(each, "diff") for each in (prepend, x, append) if each is not None]
    if len(parts) > 1:
        x = concat(parts, axis=place)
    lead = (slice(None),) * place
    for _ in range(n):
        later, earlier = x[(*lead, slice(1, None))], x[(*lead, slice(None, -1))]
        x = later != earlier if x.dtype == dtypes.bool_ else later - earlier
    return x


def astype(x: ArrayLike, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Tensor:
    """x with another dtype. Floats are cut off towards 0 when they become integers."""
    x, kind = as_tensor(x, "astype"), dtypes.as_dtype(dtype)
    return same(x) if x.dtype == kind else cast(x, kind)
