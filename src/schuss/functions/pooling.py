"""Pooling: the largest element or the mean of windows that slide over the last axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes
from schuss.errors import ArgumentError, DTypeError, ShapeError, fail
from schuss.functions.arguments import ArrayLike, as_tensor, cast
from schuss.functions.creation import zeros
from schuss.functions.elementwise import where
from schuss.functions.manipulation import concat, pad, reshape
from schuss.functions.reduction import mean, min
from schuss.functions.windows import Sizes, per_axis
from schuss.graph import apply, data, labelled, wrap
from schuss.ops import indexing
from schuss.ops.movement import windows as windows_op
from schuss.ops.reduction import first_max
from schuss.patterns import repeating

if TYPE_CHECKING:
    from schuss.tensor import Tensor

Steps = Sizes | None


class _Windows:
    """Where windows lie: the arguments that poolings share, one number for each axis."""

    def __init__(
        self,
        where_: str,
        rank: int,
        x: Tensor,
        kernel_size: Sizes,
        stride: Steps,
        padding: Sizes,
        dilation: Sizes,
        ceil_mode: bool,
    ) -> None:
        if x.ndim != rank + 2:
            raise fail(
                ShapeError, where_, f"x must have {rank + 2} axes, batch and channels first", x=x
            )
        self.sizes = x.shape[2:]
        self.kernel = per_axis(where_, "kernel_size", kernel_size, rank, 1)
        self.stride = self.kernel if stride is None else per_axis(where_, "stride", stride, rank, 1)
        self.padding = per_axis(where_, "padding", padding, rank, 0)
        self.dilation = per_axis(where_, "dilation", dilation, rank, 1)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise fail(ArgumentError, where_, "padding may be half the kernel at most",
                       padding=self.padding, kernel_size=self.kernel)  # fmt: skip
        each = zip(self.sizes, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        self.behind = [
            p + (_to_complete(n, k, s, p, d) if ceil_mode else 0) for n, k, s, p, d in each
        ]
        self.axes = tuple(range(2 + rank, 2 + 2 * rank))

    def of(self, x: Tensor, fill: float) -> Tensor:
        """The windows (N, C, counts..., kernel...), with `fill` around x."""
        x = pad(x, list(zip(self.padding, self.behind, strict=True)), fill)
        return apply(windows_op, x, kernel=self.kernel, stride=self.stride, dilation=self.dilation)

    def bordered(self, x: Tensor) -> Tensor:
        """The same, with a border around x that is nowhere the largest."""
        return self.of(x, np.iinfo(x.dtype).min if dtypes.is_integral(x.dtype) else -math.inf)

    def counted(self, count_include_pad: bool) -> np.ndarray | None:
        """How many elements of each window count (counts...), or None where all do."""
        rows = []
        each = zip(self.sizes, self.kernel, self.stride, self.padding, self.behind, strict=True)
        for n, k, s, p, behind in each:
            first, last = (-p, n + p) if count_include_pad else (0, n)
            starts = np.arange(0, n + p + behind - k + 1, s) - p
            rows.append(np.minimum(starts + k, last) - np.maximum(starts, first))
        counts = math.prod(np.ix_(*rows), start=np.ones((), np.int64))
        return None if (counts == math.prod(self.kernel)).all() else counts


def _to_complete(n: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """How much has to follow an axis for one more window, which must begin before its end."""
    free = n + 2 * padding - dilation * (kernel - 1) - 1
    start = -(-free // stride) * stride
    return start - free if 0 <= start < n + padding and free < start else 0


# --- the largest element ---


def _max_pool(
    where_: str,
    rank: int,
    x: ArrayLike,
    kernel_size: Sizes,
    stride: Steps,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    settings = kernel_size, stride, padding, dilation, ceil_mode
    if not return_indices:
        return _largest(where_, rank, x, *settings)
    x = as_tensor(x, where_)
    places = _Windows(where_, rank, x, *settings)
    view = places.bordered(x)
    y = apply(first_max, view, axes=places.axes)
    return y, _indices(places, view, y)


@repeating
def _largest(where_: str, rank: int, x: ArrayLike, *settings: Any) -> Tensor:
    x = as_tensor(x, where_)
    places = _Windows(where_, rank, x, *settings)
    return apply(first_max, places.bordered(x), axes=places.axes)


def _indices(places: _Windows, view: Tensor, y: Tensor) -> Tensor:
    """Where in its plane (the sizes of x, flattened) the first largest of each window stands.

    In memory's order that is the smallest of the places that hold it.
    """
    beyond = math.prod(places.sizes)
    numbers = np.arange(beyond, dtype=np.int64).reshape(1, 1, *places.sizes)
    wide = reshape(y, (*y.shape, *(1,) * len(places.axes)))
    candidates = where(
        (view == wide) | (view != view), places.of(wrap(data(numbers)), beyond), beyond
    )
    return min(candidates, axis=places.axes)


def max_pool1d(x: ArrayLike, kernel_size: Sizes, stride: Steps = None, padding: Sizes = 0,
               dilation: Sizes = 1, ceil_mode: bool = False,
               return_indices: bool = False) -> Any:  # fmt: skip
    """The largest element of each window: (N, C, L) -> (N, C, L').

    Args:
        kernel_size: the length of a window.
        stride: how far apart windows begin; by default `kernel_size`.
        padding: how much of nothing is put on both sides, at most half of `kernel_size`.
        dilation: the distance of a window's elements from each other.
        ceil_mode: let a last window begin where it does not fit completely: L' is rounded up.
        return_indices: give their positions too, int64 (N, C, L'), for `max_unpool1d`.

    L' = (L + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1. Of equal elements the first
    one has the gradient and the position.
    Raises ShapeError where no window fits, ArgumentError for settings that make no sense.
    """
    return _max_pool("max_pool1d", 1, x, kernel_size, stride, padding, dilation, ceil_mode,
                     return_indices)  # fmt: skip


def max_pool2d(x: ArrayLike, kernel_size: Sizes, stride: Steps = None, padding: Sizes = 0,
               dilation: Sizes = 1, ceil_mode: bool = False,
               return_indices: bool = False) -> Any:  # fmt: skip
    """The largest element of each window: (N, C, H, W) -> (N, C, H', W'). See `max_pool1d`.

    Positions count through the rows of a plane: h * W + w.
    """
    return _max_pool("max_pool2d", 2, x, kernel_size, stride, padding, dilation, ceil_mode,
                     return_indices)  # fmt: skip


def max_pool3d(x: ArrayLike, kernel_size: Sizes, stride: Steps = None, padding: Sizes = 0,
               dilation: Sizes = 1, ceil_mode: bool = False,
               return_indices: bool = False) -> Any:  # fmt: skip
    """As `max_pool2d`, for volumes: (N, C, D, H, W) -> (N, C, D', H', W')."""
    return _max_pool("max_pool3d", 3, x, kernel_size, stride, padding, dilation, ceil_mode,
                     return_indices)  # fmt: skip


def _max_unpool(
    where_: str,
    rank: int,
    x: ArrayLike,
    indices: ArrayLike,
    kernel_size: Sizes,
    stride: Steps,
    padding: Sizes,
    output_size: Sequence[int] | None,
) -> Tensor:
    x, places = as_tensor(x, where_), as_tensor(indices, where_)
    if x.ndim != rank + 2 or places.shape != x.shape:
        problem = f"x and indices must have the same {rank + 2} axes, batch and channels first"
        raise fail(ShapeError, where_, problem, x=x, indices=places)
    if not dtypes.is_integral(places.dtype):
        raise fail(DTypeError, where_, "indices must be integers", indices=places)
    kernel = per_axis(where_, "kernel_size", kernel_size, rank, 1)
    steps = kernel if stride is None else per_axis(where_, "stride", stride, rank, 1)
    around = per_axis(where_, "padding", padding, rank, 0)
    each = zip(x.shape[2:], kernel, steps, around, strict=True)
    sizes = tuple((n - 1) * s - 2 * p + k for n, k, s, p in each)
    if output_size is not None:
        sizes = per_axis(where_, "output_size", tuple(output_size)[-rank:], rank, 1)
    n, c = x.shape[:2]
    grid = [np.arange(n).reshape(n, 1, 1), np.arange(c).reshape(1, c, 1)]
    flat = reshape(cast(places, dtypes.int64), (n, c, math.prod(x.shape[2:])))
    y = apply(
        indexing.scatter,
        zeros((n, c, math.prod(sizes)), dtype=x.dtype),
        reshape(x, flat.shape),
        *[wrap(data(each)) for each in grid],
        flat,
        axes=(0, 1, 2),
        wrap=False,
    )
    return reshape(labelled(y, where_), (n, c, *sizes))


def max_unpool1d(x: ArrayLike, indices: ArrayLike, kernel_size: Sizes, stride: Steps = None,
                 padding: Sizes = 0, output_size: Sequence[int] | None = None
                 ) -> Tensor:  # fmt: skip
    """The way back of `max_pool1d(..., return_indices=True)`: each element where it came from.

    Args:
        indices: the positions that the pooling gave.
        kernel_size, stride, padding: those of the pooling.
        output_size: the sizes of the result, of which poolings round down several to one; by
            default the smallest of those.

    Zeros elsewhere. Raises OutOfBoundsError, when the value is computed, for a position outside.
    """
    return _max_unpool("max_unpool1d", 1, x, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(x: ArrayLike, indices: ArrayLike, kernel_size: Sizes, stride: Steps = None,
                 padding: Sizes = 0, output_size: Sequence[int] | None = None
                 ) -> Tensor:  # fmt: skip
    """The way back of `max_pool2d(..., return_indices=True)`. See `max_unpool1d`."""
    return _max_unpool("max_unpool2d", 2, x, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(x: ArrayLike, indices: ArrayLike, kernel_size: Sizes, stride: Steps = None,
                 padding: Sizes = 0, output_size: Sequence[int] | None = None
                 ) -> Tensor:  # fmt: skip
    """The way back of `max_pool3d(..., return_indices=True)`. See `max_unpool1d`."""
    return _max_unpool("max_unpool3d", 3, x, indices, kernel_size, stride, padding, output_size)


# --- means ---


@repeating
def _avg_pool(
    where_: str,
    rank: int,
    x: ArrayLike,
    kernel_size: Sizes,
    stride: Steps,
    padding: Sizes,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    x = as_tensor(x, where_)
    places = _Windows(where_, rank, x, kernel_size, stride, padding, 1, ceil_mode)
    y = mean(places.of(x, 0), axis=places.axes)
    full = math.prod(places.kernel)
    if divisor_override is not None:
        if divisor_override == 0:
            raise fail(ArgumentError, where_, "divisor_override must not be 0")
        return y * (full / divisor_override)
    counts = places.counted(count_include_pad)
    return y if counts is None else y * wrap(data((full / counts).astype(x.dtype)))


def avg_pool1d(x: ArrayLike, kernel_size: Sizes, stride: Steps = None, padding: Sizes = 0,
               ceil_mode: bool = False, count_include_pad: bool = True) -> Tensor:  # fmt: skip
    """The mean of each window: (N, C, L) -> (N, C, L').

    `count_include_pad` counts the zeros of the padding as elements. The rest is as in `max_pool1d`.
    """
    return _avg_pool("avg_pool1d", 1, x, kernel_size, stride, padding, ceil_mode,
                     count_include_pad, None)  # fmt: skip


def avg_pool2d(x: ArrayLike, kernel_size: Sizes, stride: Steps = None, padding: Sizes = 0,
               ceil_mode: bool = False, count_include_pad: bool = True,
               divisor_override: int | None = None) -> Tensor:  # fmt: skip
    """The mean of each window: (N, C, H, W) -> (N, C, H', W'). See `avg_pool1d`.

    `divisor_override` is what sums are divided by instead of the number of elements.
    """
    return _avg_pool("avg_pool2d", 2, x, kernel_size, stride, padding, ceil_mode,
                     count_include_pad, divisor_override)  # fmt: skip


def avg_pool3d(x: ArrayLike, kernel_size: Sizes, stride: Steps = None, padding: Sizes = 0,
               ceil_mode: bool = False, count_include_pad: bool = True,
               divisor_override: int | None = None) -> Tensor:  # fmt: skip
    """The mean of each window: (N, C, D, H, W) -> (N, C, D', H', W'). See `avg_pool2d`."""
    return _avg_pool("avg_pool3d", 3, x, kernel_size, stride, padding, ceil_mode,
                     count_include_pad, divisor_override)  # fmt: skip


# --- windows of given numbers ---

OutputSize = int | None | Sequence[int | None]


@repeating
def _adaptive(
    where_: str, rank: int, x: ArrayLike, output_size: OutputSize, largest: bool
) -> Tensor:
    x = as_tensor(x, where_)
    if x.ndim != rank + 2:
        raise fail(
            ShapeError, where_, f"x must have {rank + 2} axes, batch and channels first", x=x
        )
    given = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * rank
    if len(given) == rank:
        given = tuple(n if c is None else c for c, n in zip(given, x.shape[2:], strict=True))
    counts = per_axis(where_, "output_size", given, rank, 1)
    for i in reversed(range(rank)):  # rows come last, so that the first of equals has the gradient
        x = _adaptive_axis(x, 2 + i, counts[i], largest)
    return x


def _adaptive_axis(x: Tensor, axis: int, count: int, largest: bool) -> Tensor:
    """One axis as `count` elements: i covers floor(i n / count) to ceil((i + 1) n / count)."""
    n = x.shape[axis]

    def reduced(part: Tensor, along: int) -> Tensor:
        return apply(first_max, part, axes=(along,)) if largest else mean(part, axis=along)

    if n % count == 0:
        shape = (*x.shape[:axis], count, n // count, *x.shape[axis + 1 :])
        return reduced(reshape(x, shape), axis + 1)
    lead = (slice(None),) * axis
    pieces = [
        reduced(x[(*lead, slice(i * n // count, -(-(i + 1) * n // count)))], axis)
        for i in range(count)
    ]
    return concat([each.expand_dims(axis) for each in pieces], axis=axis)


def adaptive_avg_pool1d(x: ArrayLike, output_size: OutputSize) -> Tensor:
    """Means over windows so chosen that (N, C, L) becomes (N, C, output_size).

    Window i goes from floor(i L / output_size) to ceil((i + 1) L / output_size). None keeps L.
    """
    return _adaptive("adaptive_avg_pool1d", 1, x, output_size, False)


def adaptive_avg_pool2d(x: ArrayLike, output_size: OutputSize) -> Tensor:
    """Means over windows so chosen that (N, C, H, W) becomes (N, C, *output_size)."""
    return _adaptive("adaptive_avg_pool2d", 2, x, output_size, False)


def adaptive_avg_pool3d(x: ArrayLike, output_size: OutputSize) -> Tensor:
    """Means over windows so chosen that (N, C, D, H, W) becomes (N, C, *output_size)."""
    return _adaptive("adaptive_avg_pool3d", 3, x, output_size, False)


def adaptive_max_pool1d(x: ArrayLike, output_size: OutputSize) -> Tensor:
    """As `adaptive_avg_pool1d`, with the largest element; of equals the first has the gradient."""
    return _adaptive("adaptive_max_pool1d", 1, x, output_size, True)


def adaptive_max_pool2d(x: ArrayLike, output_size: OutputSize) -> Tensor:
    """As `adaptive_avg_pool2d`, with the largest element."""
    return _adaptive("adaptive_max_pool2d", 2, x, output_size, True)


def adaptive_max_pool3d(x: ArrayLike, output_size: OutputSize) -> Tensor:
    """As `adaptive_avg_pool3d`, with the largest element."""
    return _adaptive("adaptive_max_pool3d", 3, x, output_size, True)


__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "max_pool1d", "max_pool2d", "max_pool3d", "max_unpool1d", "max_unpool2d", "max_unpool3d",
]  # fmt: skip
