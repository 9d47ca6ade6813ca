"""Reductions, statistics, running sums, sorting and searching."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from schuss import dtypes
from schuss.dtypes import DType
from schuss.errors import ArgumentError, DTypeError, fail
from schuss.functions.arguments import ArrayLike, array_api_names, as_tensor, cast, floating
from schuss.functions.elementwise import exp, isfinite, log, root_of_squares, where
from schuss.functions.precision import for_sums
from schuss.graph import Handle, Op, apply, scalar
from schuss.ops import reduction as ops
from schuss.ops.broadcast import broadcast_to, kept, sum_, without
from schuss.ops.infer import normalize_axes, normalize_axis
from schuss.ops.movement import concat, reshape, reverse

if TYPE_CHECKING:
    from schuss.tensor import Tensor

Axis = int | Sequence[int] | None


def _reduce(op: Op, x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    axes = normalize_axes(op.name, axis, x.ndim)
    result = apply(op, x, axes=axes)
    return apply(reshape, result, shape=kept(x.shape, axes)) if keepdims else result


def _summing_dtype(dtype: DType) -> DType:
    """Sums of small integers are gathered in 64 bits."""
    if dtype == dtypes.bool_ or dtype in dtypes.SIGNED:
        return dtypes.int64
    return dtypes.uint64 if dtype in dtypes.UNSIGNED else dtype


def _for_sum(x: ArrayLike, dtype: Any, where: str) -> Tensor:
    if dtype is None and isinstance(x, Handle) and x._node.dtype.kind == "f":
        return for_sums(x)  # type: ignore[arg-type]  # Tensor is the only handle
    x = for_sums(as_tensor(x, where))
    return cast(x, _summing_dtype(x.dtype) if dtype is None else dtypes.as_dtype(dtype))


def _real(x: ArrayLike, where: str) -> Tensor:
    x = as_tensor(x, where)
    if x.dtype == dtypes.bool_ or dtypes.is_complex(x.dtype):
        raise fail(DTypeError, where, "is defined for real dtypes", x=x)
    return x


def _floating(x: ArrayLike, where: str) -> Tensor:
    x = as_tensor(x, where)
    if not dtypes.is_inexact(x.dtype):
        raise fail(
            DTypeError,
            where,
            "is defined for floating dtypes",
            x=x,
            hint="cast with x.astype(schuss.float32)",
        )
    return for_sums(x)


@array_api_names
def sum(x: ArrayLike, /, axis: Axis = None, keepdims: bool = False, *, dtype: Any = None) -> Tensor:
    """The sum over `axis`: an integer, several, or (None) all.

    Integers add up in 64 bits, half precisions in float32.
    """
    return _reduce(sum_, _for_sum(x, dtype, "sum"), axis, keepdims)


@array_api_names
def prod(
    x: ArrayLike, /, axis: Axis = None, keepdims: bool = False, *, dtype: Any = None
) -> Tensor:
    """The product over `axis`."""
    return _reduce(ops.prod, _for_sum(x, dtype, "prod"), axis, keepdims)


@array_api_names
def max(x: ArrayLike, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest element over `axis`; NaN if there is one. Ties share the gradient."""
    return _reduce(ops.max_, _real(x, "max"), axis, keepdims)


@array_api_names
def min(x: ArrayLike, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest element over `axis`; NaN if there is one. Ties share the gradient."""
    return _reduce(ops.min_, _real(x, "min"), axis, keepdims)


@array_api_names
def any(x: ArrayLike, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether any element over `axis` is true (not 0)."""
    return _reduce(ops.any_, as_tensor(x, "any"), axis, keepdims)


@array_api_names
def all(x: ArrayLike, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether all elements over `axis` are true (not 0)."""
    return _reduce(ops.all_, as_tensor(x, "all"), axis, keepdims)


def _count(x: Tensor, axis: Axis) -> int:
    if axis is None:
        return x.size
    return math.prod([x.shape[i] for i in normalize_axes("mean", axis, x.ndim)])


def _wide(x: Tensor) -> Tensor:
    """x in float32 where it is of half precision, in which totals soon overflow."""
    return cast(x, dtypes.accumulator(x.dtype))


@array_api_names
def mean(x: ArrayLike, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The arithmetic mean over `axis`. NaN over nothing. Raises DTypeError for integers."""
    x = _floating(x, "mean")
    total = _reduce(sum_, _wide(x), axis, keepdims)
    count = _count(x, axis)
    return cast(total / float(count) if count else total * math.nan, x.dtype)


@array_api_names
def var(
    x: ArrayLike, /, axis: Axis = None, keepdims: bool = False, *, correction: float = 0.0
) -> Tensor:
    """The variance over `axis`: squared distances from the mean, divided by N - correction."""
    x = _real(_floating(x, "var"), "var")
    centred = _wide(x) - mean(_wide(x), axis=axis, keepdims=True)
    total = sum(centred * centred, axis=axis, keepdims=keepdims)
    freedom = _count(x, axis) - correction
    return cast(total / float(freedom) if freedom > 0 else total * math.nan, x.dtype)


@array_api_names
def std(
    x: ArrayLike, /, axis: Axis = None, keepdims: bool = False, *, correction: float = 0.0
) -> Tensor:
    """The standard deviation over `axis`: the root of `var`. Gradient 0 where it is 0."""
    x = _floating(x, "std")
    spread = var(_wide(x), axis=axis, correction=correction, keepdims=keepdims)
    return cast(root_of_squares(spread), x.dtype)


@array_api_names
def logsumexp(x: ArrayLike, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) over `axis`, without overflow."""
    given = for_sums(floating(x, "logsumexp"))
    x = _wide(given)
    largest = max(x, axis=axis, keepdims=True).detach()
    shift = where(isfinite(largest), largest, 0)
    result = log(sum(exp(x - shift), axis=axis, keepdims=True)) + shift
    axes = normalize_axes("logsumexp", axis, x.ndim)
    shape = kept(x.shape, axes) if keepdims else without(x.shape, axes)
    return cast(result.reshape(shape), given.dtype)


def _position(op: Op, x: ArrayLike, axis: int | None, keepdims: bool) -> Tensor:
    x = _real(x, op.name)
    if axis is None:
        found = apply(op, x.reshape((x.size,)), axis=0)
        return found.reshape((1,) * x.ndim) if keepdims else found
    place = normalize_axis(op.name, axis, x.ndim)
    found = apply(op, x, axis=place)
    return found.reshape(kept(x.shape, (place,))) if keepdims else found


@array_api_names
def argmax(x: ArrayLike, /, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The position of the largest element along `axis`, or of all: int64, the first of equals."""
    return _position(ops.argmax, x, axis, keepdims)


@array_api_names
def argmin(x: ArrayLike, /, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The position of the smallest element along `axis`, or of all: int64, the first of equals."""
    return _position(ops.argmin, x, axis, keepdims)


def _running(
    op: Op, x: ArrayLike, axis: int | None, dtype: Any, include_initial: bool, start: int
) -> Tensor:
    x = _for_sum(x, dtype, op.name)
    if axis is None:
        if x.ndim != 1:
            raise fail(ArgumentError, op.name, "axis may be left out for 1-d input only", x=x)
        axis = 0
    place = normalize_axis(op.name, axis, x.ndim)
    result = apply(op, x, axis=place)
    if include_initial:
        first = apply(broadcast_to, scalar(start, x.dtype), shape=kept(x.shape, (place,)))
        result = apply(concat, first, result, axis=place)
    return result


@array_api_names
def cumulative_sum(
    x: ArrayLike, /, axis: int | None = None, *, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """The running sum along `axis`; with `include_initial` a leading 0."""
    return _running(ops.cumsum, x, axis, dtype, include_initial, 0)


@array_api_names
def cumulative_prod(
    x: ArrayLike, /, axis: int | None = None, *, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """The running product along `axis`; with `include_initial` a leading 1."""
    return _running(ops.cumprod, x, axis, dtype, include_initial, 1)


@array_api_names
def argsort(
    x: ArrayLike, /, axis: int = -1, *, descending: bool = False, stable: bool = True
) -> Tensor:
    """The positions that sort x along `axis`: int64. Always stable: equals keep their order."""
    x = _real(x, "argsort")
    place = normalize_axis("argsort", axis, x.ndim)
    if not descending:
        return apply(ops.argsort, x, axis=place)
    backwards = apply(ops.argsort, apply(reverse, x, axes=(place,)), axis=place)
    return (x.shape[place] - 1) - apply(reverse, backwards, axes=(place,))
