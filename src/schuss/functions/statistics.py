"""Counting, order statistics, running extremes, interpolation, and segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from schuss import dtypes
from schuss.errors import ArgumentError, DTypeError, ShapeError, fail
from schuss.functions.arguments import (
    ArrayLike,
    array_api_names,
    as_tensor,
    cast,
    floating,
    operands,
)
from schuss.functions.creation import asarray, linspace, ones, zeros
from schuss.functions.elementwise import clip, conj, isnan, sqrt, where
from schuss.functions.indexing import searchsorted, sort, take, take_along_axis
from schuss.functions.manipulation import diff, moveaxis, reshape
from schuss.functions.reduction import all, any, mean, sum
from schuss.graph import apply
from schuss.ops import order
from schuss.ops.indexing import scatter_add
from schuss.ops.infer import normalize_axes, normalize_axis

if TYPE_CHECKING:
    from schuss.tensor import Tensor

Axis = int | Sequence[int] | None

# --- counting ---


def bincount(
    x: ArrayLike, /, weights: ArrayLike | None = None, minlength: int = 0, *,
    length: int | None = None,
) -> Tensor:  # fmt: skip
    """How often each of 0, 1, 2, ... occurs in integers, or the sums of the weights there.

    Args:
        length: how many numbers to count; without it x is computed at once to see its largest.

    int64, or the dtype of the weights, through which gradients flow.
    """
    numbers = as_tensor(x, "bincount")
    if not dtypes.is_integral(numbers.dtype) or numbers.ndim != 1:
        raise fail(DTypeError, "bincount", "needs a vector of integers", x=numbers)
    if length is None:
        largest = int(numbers.numpy().max()) + 1 if numbers.size else 0
        length = largest if largest > minlength else minlength
    part = ones(numbers.shape, dtype=dtypes.int64) if weights is None else as_tensor(weights)
    if part.shape != numbers.shape:
        raise fail(
            ShapeError, "bincount", "needs a weight for each number", x=numbers, weights=part
        )
    return _added_at(part, numbers, length)


def _added_at(part: Tensor, places: Tensor, count: int) -> Tensor:
    """Rows added up at places: (count, ...)."""
    start = zeros((count, *part.shape[1:]), dtype=part.dtype)
    return apply(scatter_add, start, part, cast(places, dtypes.int64), axes=(0,), wrap=False)


class HistogramResult(NamedTuple):
    """How many elements fall into each bin, and where the bins begin and end."""

    counts: Tensor
    edges: Tensor


def histogram(
    x: ArrayLike, /, bins: int | ArrayLike = 10, range: tuple[float, float] | None = None, *,
    weights: ArrayLike | None = None, density: bool = False,
) -> HistogramResult:  # fmt: skip
    """How the elements of x spread over bins. The last bin includes its end, others do not.

    Args:
        bins: how many bins of equal width, or their edges.
        range: where the first bin begins and the last one ends; by default at the extremes of x,
            which is then computed at once.
        density: divide by the total and the widths, so that the area is 1.
    """
    x = as_tensor(x, "histogram")
    flat = reshape(x, (x.size,))
    if isinstance(bins, (int, np.integer)):
        low, high = range if range is not None else _extremes(flat)
        if bins < 1 or not low <= high:
            raise fail(ArgumentError, "histogram", "needs bins, and a range that rises",
                       bins=bins, range=(low, high))  # fmt: skip
        if low == high:
            low, high = low - 0.5, high + 0.5
        kind = flat.dtype if dtypes.is_floating(flat.dtype) else dtypes.default_float
        edges = linspace(low, high, int(bins) + 1, dtype=kind)
    else:
        edges = as_tensor(bins, "histogram")
    count = edges.shape[0] - 1
    place = searchsorted(edges, flat, side="right") - 1
    place = where(flat == edges[-1], count - 1, place)
    inside = (place >= 0) & (place < count)
    part = ones(flat.shape, dtype=dtypes.int64) if weights is None else as_tensor(weights)
    part = where(inside, reshape(part, flat.shape), 0)
    counts = _added_at(part, clip(place, 0, count - 1), count)
    if density:
        counts = counts / (sum(counts) * diff(edges))
    return HistogramResult(counts, edges)


def _extremes(x: Tensor) -> tuple[float, float]:
    values = x.numpy()
    return (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)


def interp(
    x: ArrayLike, xp: ArrayLike, fp: ArrayLike, /, left: float | None = None,
    right: float | None = None,
) -> Tensor:  # fmt: skip
    """Straight lines through the points (xp, fp), at x. xp must rise.

    Outside the points: the first and the last value, or `left` and `right`. Gradients flow through
    all three.
    """
    given, places, values = (floating(v, "interp") for v in operands("interp", x, xp, fp))
    if places.ndim != 1 or places.shape != values.shape or not places.size:
        raise fail(
            ShapeError, "interp", "xp and fp are vectors of one length", xp=places, fp=values
        )
    n = places.size
    if n == 1:
        y = values[0] + given * 0
    else:
        after = clip(searchsorted(places.detach(), given.detach(), side="right"), 1, n - 1)
        x0, x1 = take(places, after - 1), take(places, after)
        y0, y1 = take(values, after - 1), take(values, after)
        inside = clip(given, places[0], places[-1])
        y = y0 + (y1 - y0) * ((inside - x0) / where(x1 == x0, 1, x1 - x0))
    y = y if left is None else where(given < places[0], left, y)
    return y if right is None else where(given > places[-1], right, y)


# --- running ---


class Extremes(NamedTuple):
    """Extremes so far, and where they are."""

    values: Tensor
    indices: Tensor


@array_api_names
def cumulative_max(x: ArrayLike, /, axis: int = -1) -> Extremes:
    """The largest element so far along `axis`, and its position (the last of equals)."""
    x = as_tensor(x, "cumulative_max")
    place = normalize_axis("cumulative_max", axis, x.ndim)
    found = apply(order.running_argmax, x, axis=place)
    return Extremes(take_along_axis(x, found, axis=place), found)


@array_api_names
def cumulative_min(x: ArrayLike, /, axis: int = -1) -> Extremes:
    """The smallest element so far along `axis`, and its position (the last of equals)."""
    x = as_tensor(x, "cumulative_min")
    values, found = cumulative_max(~x if dtypes.is_integral(x.dtype) else -x, axis=axis)
    return Extremes(~values if dtypes.is_integral(x.dtype) else -values, found)


@array_api_names
def logcumsumexp(x: ArrayLike, /, axis: int = -1) -> Tensor:
    """The logarithm of the running sum of exp(x) along `axis`, without overflow."""
    x = floating(x, "logcumsumexp")
    if dtypes.is_complex(x.dtype):
        raise fail(DTypeError, "logcumsumexp", "is defined for real dtypes", x=x)
    return apply(order.logcumsumexp, x, axis=normalize_axis("logcumsumexp", axis, x.ndim))


@array_api_names
def trapezoid(
    y: ArrayLike, /, x: ArrayLike | None = None, *, dx: float = 1.0, axis: int = -1
) -> Tensor:
    """The area under the points y along `axis`, which lie at x, or dx apart."""
    return sum(_strips("trapezoid", y, x, dx, axis), axis=axis)


@array_api_names
def cumulative_trapezoid(
    y: ArrayLike, /, x: ArrayLike | None = None, *, dx: float = 1.0, axis: int = -1
) -> Tensor:
    """The running area under the points y along `axis`: one element less."""
    strips = _strips("cumulative_trapezoid", y, x, dx, axis)
    return strips.cumulative_sum(axis)


def _strips(name: str, y: ArrayLike, x: ArrayLike | None, dx: float, axis: int) -> Tensor:
    y = floating(y, name)
    place = normalize_axis(name, axis, y.ndim)
    lead = (slice(None),) * place
    heights = y[(*lead, slice(1, None))] + y[(*lead, slice(None, -1))]
    if x is None:
        return heights * (0.5 * dx)
    at = as_tensor(x, name)
    if at.ndim == 1:
        return heights * reshape(diff(at), (-1,) + (1,) * (y.ndim - place - 1)) * 0.5
    return heights * diff(at, axis=place) * 0.5


# --- statistics ---


@array_api_names
def quantile(
    x: ArrayLike, q: ArrayLike, /, axis: Axis = None, keepdims: bool = False, *,
    method: str = "linear",
) -> Tensor:  # fmt: skip
    """Below which a share q (from 0 to 1) of the elements over `axis` lies.

    Args:
        q: one share or a vector of them, whose axis then comes first in the result.
        method: what is taken between two elements: "linear" (in proportion), "lower", "higher",
            "nearest" or "midpoint".

    NaN where there is one.
    """
    x = floating(x, "quantile")
    if method not in _BETWEEN:
        raise fail(ArgumentError, "quantile", f"method is one of {', '.join(_BETWEEN)}",
                   method=method)  # fmt: skip
    shares = asarray(q, dtype=dtypes.accumulator(x.dtype))
    if shares.ndim > 1:
        raise fail(ShapeError, "quantile", "q is a number or a vector", q=shares)
    axes = normalize_axes("quantile", axis, x.ndim)
    rest = tuple(n for i, n in enumerate(x.shape) if i not in axes)
    moved = moveaxis(x, axes, tuple(i - len(axes) for i, _ in enumerate(axes)))
    rows = sort(reshape(moved, (*rest, -1) if x.size else (*rest, 0)), axis=-1)
    if not rows.shape[-1]:
        raise fail(ShapeError, "quantile", "nothing has no quantiles", x=x, axis=axis)
    position = _BETWEEN[method](shares * (rows.shape[-1] - 1))
    low = position.floor()
    after = clip(cast(low, dtypes.int64) + 1, 0, rows.shape[-1] - 1)
    share = reshape(position - low, shares.shape + (1,) * len(rest))
    below, above = (
        moveaxis(rows[..., place], -1, 0) if shares.ndim else rows[..., place]
        for place in (cast(low, dtypes.int64), after)
    )
    found = cast(below + (above - below) * share, x.dtype)
    found = where(any(isnan(rows), axis=-1), float("nan"), found)
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    return reshape(found, (*shares.shape, *kept)) if keepdims else found


_BETWEEN = {
    "linear": lambda p: p,
    "lower": lambda p: p.floor(),
    "higher": lambda p: p.ceil(),
    "nearest": lambda p: p.round(),
    "midpoint": lambda p: (p.floor() + p.ceil()) * 0.5,
}


@array_api_names
def median(x: ArrayLike, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The middle element over `axis`, or the mean of the two in the middle."""
    return quantile(x, 0.5, axis=axis, keepdims=keepdims)


@array_api_names
def nansum(x: ArrayLike, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The sum over `axis`, without NaN."""
    x = as_tensor(x, "nansum")
    return sum(where(isnan(x), 0, x), axis=axis, keepdims=keepdims)


@array_api_names
def nanmean(x: ArrayLike, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The mean over `axis`, without NaN; NaN where there is nothing else."""
    x = floating(x, "nanmean")
    counts = sum(cast(~isnan(x), dtypes.real_of(x.dtype)), axis=axis, keepdims=keepdims)
    return nansum(x, axis=axis, keepdims=keepdims) / counts


def cov(x: ArrayLike, /, *, correction: float = 1) -> Tensor:
    """Covariances of variables, the rows of x: (..., V, N) to (..., V, V).

    Sums of products are divided by N - correction. A vector is one variable: its variance.
    """
    x = floating(x, "cov")
    alone = x.ndim < 2
    x = reshape(x, (1, x.size)) if alone else x
    centred = x - mean(x, axis=-1, keepdims=True)
    found = centred @ conj(centred).mT / float(x.shape[-1] - correction)
    return found[0, 0] if alone else found


def corrcoef(x: ArrayLike, /) -> Tensor:
    """Correlations of variables, the rows of x (V, N): (V, V)."""
    found = cov(x)
    if found.ndim == 0:
        return found / found
    n = found.shape[-1]
    places = np.arange(n)
    spread = sqrt(found[..., places, places])
    return found / (spread.expand_dims(-1) * conj(spread).expand_dims(-2))


def isclose(
    x1: ArrayLike, x2: ArrayLike, /, *, rtol: float = 1e-05, atol: float = 1e-08,
    equal_nan: bool = False,
) -> Tensor:  # fmt: skip
    """Whether |x1 - x2| <= atol + rtol * |x2|, elementwise; infinities must be equal."""
    if rtol < 0 or atol < 0:
        raise fail(ArgumentError, "isclose", "tolerances are not negative", rtol=rtol, atol=atol)
    a, b = operands("isclose", x1, x2)
    if not dtypes.is_inexact(a.dtype):
        a, b = cast(a, dtypes.float64), cast(b, dtypes.float64)
    size = b.abs()
    near = ((a - b).abs() <= atol + rtol * size) & size.isfinite()
    same = (a == b) | (near & a.isfinite())
    return same | (isnan(a) & isnan(b)) if equal_nan else same


def allclose(
    x1: ArrayLike, x2: ArrayLike, /, *, rtol: float = 1e-05, atol: float = 1e-08,
    equal_nan: bool = False,
) -> Tensor:  # fmt: skip
    """Whether all elements are close, as `isclose` says."""
    return all(isclose(x1, x2, rtol=rtol, atol=atol, equal_nan=equal_nan))


# --- segments ---


def _segments(name: str, x: ArrayLike, ids: ArrayLike, count: int | None) -> Any:
    x, ids = as_tensor(x, name), as_tensor(ids, name)
    if not dtypes.is_integral(ids.dtype) or ids.ndim != 1 or x.shape[:1] != ids.shape:
        problem = "needs an integer id for each element on axis 0"
        raise fail(ShapeError, name, problem, x=x, segment_ids=ids)
    if count is None:
        count = int(ids.numpy().max()) + 1 if ids.size else 0
    return x, cast(ids, dtypes.int64), count


def segment_sum(x: ArrayLike, segment_ids: ArrayLike, /, num_segments: int | None = None) -> Tensor:
    """Sums of the rows of x that have the same id: (N, ...) to (num_segments, ...).

    Without `num_segments` the ids are computed at once, to see the largest.
    """
    return _added_at(*_segments("segment_sum", x, segment_ids, num_segments))


def segment_mean(
    x: ArrayLike, segment_ids: ArrayLike, /, num_segments: int | None = None
) -> Tensor:
    """Means of the rows of x that have the same id; NaN for ids that do not occur."""
    x, ids, count = _segments("segment_mean", floating(x, "mean"), segment_ids, num_segments)
    how_many = _added_at(ones(ids.shape, dtype=dtypes.real_of(x.dtype)), ids, count)
    return _added_at(x, ids, count) / reshape(how_many, (count,) + (1,) * (x.ndim - 1))


def segment_max(x: ArrayLike, segment_ids: ArrayLike, /, num_segments: int | None = None) -> Tensor:
    """The largest of the rows of x that have the same id, element by element.

    For ids that do not occur, the smallest number of the dtype. Ties share the gradient.
    """
    x, ids, count = _segments("segment_max", x, segment_ids, num_segments)
    largest = apply(order.segment_max, x, ids, count=count)
    if not dtypes.is_floating(x.dtype):
        return largest
    taken = x.detach() == take(largest, ids, axis=0)
    shares = _added_at(cast(taken, x.dtype), ids, count)
    found = _added_at(where(taken, x, 0), ids, count) / where(shares == 0, 1, shares)
    return where(shares == 0, largest, found)


def segment_min(x: ArrayLike, segment_ids: ArrayLike, /, num_segments: int | None = None) -> Tensor:
    """As `segment_max`, the smallest; for ids that do not occur, the largest number."""
    x = as_tensor(x, "segment_min")
    flipped = ~x if dtypes.is_integral(x.dtype) else -x
    found = segment_max(flipped, segment_ids, num_segments)
    return ~found if dtypes.is_integral(x.dtype) else -found


__all__ = [
    "Extremes", "HistogramResult", "allclose", "bincount", "corrcoef", "cov", "cumulative_max",
    "cumulative_min", "cumulative_trapezoid", "histogram", "interp", "isclose",
    "logcumsumexp", "median", "nanmean", "nansum", "quantile", "segment_max", "segment_mean",
    "segment_min", "segment_sum", "trapezoid",
]  # fmt: skip
