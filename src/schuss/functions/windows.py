"""What slides over the last axes: convolution and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes
from schuss.errors import ArgumentError, ShapeError, fail
from schuss.functions.arguments import ArrayLike, as_tensor, cast
from schuss.functions.creation import ones
from schuss.functions.manipulation import concat, pad, reshape
from schuss.functions.reduction import max, mean, sum
from schuss.graph import apply
from schuss.ops import contraction
from schuss.ops.movement import windows as windows_op

if TYPE_CHECKING:
    from schuss.tensor import Tensor

Sizes = int | Sequence[int]


def per_axis(where_: str, name: str, value: Any, rank: int, least: int) -> tuple[int, ...]:
    """A size for each of `rank` axes, from one integer or from a sequence."""
    sizes = tuple(value) if isinstance(value, Sequence) else (value,) * rank
    if len(sizes) != rank or any(
        isinstance(n, bool) or not isinstance(n, int) or n < least for n in sizes
    ):
        raise fail(
            ArgumentError,
            where_,
            f"{name} must be an integer of at least {least}, or {rank} of them",
            **{name: value},
        )
    return sizes


def pairs_of_padding(
    where_: str,
    padding: Sizes | str,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[tuple[int, int], ...]:
    """Pairs (before, after). "same" keeps the size at stride 1, "valid" is none."""
    rank = len(kernel)
    if padding == "valid":
        return ((0, 0),) * rank
    if padding == "same":
        if stride != (1,) * rank:
            raise fail(ArgumentError, where_, "padding='same' needs stride 1", stride=stride)
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if isinstance(padding, str):
        raise fail(
            ArgumentError,
            where_,
            "padding is an integer, a sequence, 'same' or 'valid'",
            padding=padding,
        )
    return tuple((n, n) for n in per_axis(where_, "padding", padding, rank, 0))


def _convolution(
    where_: str,
    rank: int,
    x: ArrayLike,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes | str,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    x = as_tensor(x, where_)
    _check_convolution(where_, rank, x, weight, groups)
    steps = per_axis(where_, "stride", stride, rank, 1)
    spread = per_axis(where_, "dilation", dilation, rank, 1)
    around = pairs_of_padding(where_, padding, weight.shape[2:], steps, spread)
    dtype = dtypes.promote(x.dtype, weight.dtype)
    y = apply(
        contraction.convolve,
        cast(x, dtype),
        cast(weight, dtype),
        stride=steps,
        padding=around,
        dilation=spread,
        groups=groups,
    )
    return y if bias is None else y + reshape(bias, (-1,) + (1,) * rank)


def _check_convolution(where_: str, rank: int, x: Tensor, weight: Tensor, groups: int) -> None:
    if x.ndim != rank + 2 or weight.ndim != rank + 2:
        sizes = "L" if rank == 1 else "H, W"
        raise fail(
            ShapeError,
            where_,
            f"x must have the {rank + 2} axes (N, C, {sizes})",
            x=x,
            weight=weight,
            hint="add a batch axis with x[None]" if x.ndim == rank + 1 else None,
        )
    if groups < 1 or weight.shape[0] % groups:
        raise fail(
            ArgumentError,
            where_,
            "groups must divide the output channels",
            weight=weight,
            groups=groups,
        )
    if x.shape[1] != weight.shape[1] * groups:
        raise fail(
            ShapeError,
            where_,
            f"x has {x.shape[1]} channels, the weight takes {weight.shape[1] * groups}",
            x=x,
            weight=weight,
            groups=groups,
        )


def conv1d(x: ArrayLike, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1,
           padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1) -> Tensor:  # fmt: skip
    """Convolution over one axis: (N, C, L) with (O, C / groups, K) -> (N, O, L').

    Args:
        bias: (O,) numbers to add to the output channels.
        stride: how far the kernel moves from one output to the next.
        padding: zeros on both sides; or "same", which keeps the size at stride 1, or "valid": none.
        dilation: the distance of the kernel's elements from each other.
        groups: the channels are worked on in so many separate groups.

    L' = (L + 2 padding - dilation (K - 1) - 1) // stride + 1. As everywhere in this field, the
    kernel is not mirrored: it is a correlation. Half precisions accumulate in float32.

    Raises ShapeError where axes or channels do not fit, or the kernel is larger than the input.
    """
    return _convolution("conv1d", 1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(x: ArrayLike, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1,
           padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1) -> Tensor:  # fmt: skip
    """Convolution over two axes: (N, C, H, W) with (O, C / groups, KH, KW) -> (N, O, H', W').

    As `conv1d`; stride, padding and dilation are an integer for both axes or one for each.
    """
    return _convolution("conv2d", 2, x, weight, bias, stride, padding, dilation, groups)


# --- pooling ---


def _pool_windows(
    where_: str,
    rank: int,
    x: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    dilation: Sizes,
    fill: float,
    ceil_mode: bool = False,
) -> tuple[Tensor, tuple[int, ...]]:
    """The windows (N, C, counts..., kernel...) and the axes of the kernel."""
    x = as_tensor(x, where_)
    if x.ndim != rank + 2:
        raise fail(
            ShapeError, where_, f"x must have {rank + 2} axes, batch and channels first", x=x
        )
    kernel = per_axis(where_, "kernel_size", kernel_size, rank, 1)
    steps = kernel if stride is None else per_axis(where_, "stride", stride, rank, 1)
    around = per_axis(where_, "padding", padding, rank, 0)
    if any(2 * p > k for p, k in zip(around, kernel, strict=True)):
        raise fail(ArgumentError, where_, "padding may be half the kernel at most", padding=around,
                   kernel_size=kernel)  # fmt: skip
    spread = per_axis(where_, "dilation", dilation, rank, 1)
    if fill == -math.inf and dtypes.is_integral(x.dtype):
        fill = np.iinfo(x.dtype).min
    sides = [(n, n) for n in around]
    if ceil_mode:
        each = zip(x.shape[2:], kernel, steps, around, spread, strict=True)
        sides = [(p, p + _to_complete(n, k, s, p, d)) for n, k, s, p, d in each]
    x = pad(x, sides, fill)
    axes = tuple(range(2 + rank, 2 + 2 * rank))
    return apply(windows_op, x, kernel=kernel, stride=steps, dilation=spread), axes


def _to_complete(n: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """How much has to follow an axis for one more window, which must begin before its end."""
    free = n + 2 * padding - dilation * (kernel - 1) - 1
    start = -(-free // stride) * stride
    return start - free if 0 <= free < start < n + padding else 0


def max_pool1d(x: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               dilation: Sizes = 1, ceil_mode: bool = False) -> Tensor:  # fmt: skip
    """The largest element of each window: (N, C, L) -> (N, C, L').

    Args:
        kernel_size: the length of a window.
        stride: how far apart windows begin; by default `kernel_size`.
        padding: how much of nothing is put on both sides, at most half of `kernel_size`.
        dilation: the distance of a window's elements from each other.
        ceil_mode: let a last window begin where it does not fit completely: L' is rounded up.

    L' = (L + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1. Ties share the gradient.
    Raises ShapeError where no window fits, ArgumentError for settings that make no sense.
    """
    view, axes = _pool_windows(
        "max_pool1d", 1, x, kernel_size, stride, padding, dilation, -math.inf, ceil_mode
    )
    return max(view, axis=axes)


def max_pool2d(x: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               dilation: Sizes = 1, ceil_mode: bool = False) -> Tensor:  # fmt: skip
    """The largest element of each window: (N, C, H, W) -> (N, C, H', W'). See `max_pool1d`."""
    view, axes = _pool_windows(
        "max_pool2d", 2, x, kernel_size, stride, padding, dilation, -math.inf, ceil_mode
    )
    return max(view, axis=axes)


def _average(
    where_: str,
    rank: int,
    x: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    count_include_pad: bool,
) -> Tensor:
    view, axes = _pool_windows(where_, rank, x, kernel_size, stride, padding, 1, 0.0)
    if count_include_pad or not any(per_axis(where_, "padding", padding, rank, 0)):
        return mean(view, axis=axes)
    x = as_tensor(x, where_)
    inside = ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    counts, _ = _pool_windows(where_, rank, inside, kernel_size, stride, padding, 1, 0.0)
    return sum(view, axis=axes) / sum(counts, axis=axes)


def avg_pool1d(x: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               count_include_pad: bool = True) -> Tensor:  # fmt: skip
    """The mean of each window: (N, C, L) -> (N, C, L').

    `count_include_pad` counts the zeros of the padding as elements. The rest is as in `max_pool1d`.
    """
    return _average("avg_pool1d", 1, x, kernel_size, stride, padding, count_include_pad)


def avg_pool2d(x: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               count_include_pad: bool = True) -> Tensor:  # fmt: skip
    """The mean of each window: (N, C, H, W) -> (N, C, H', W'). See `avg_pool1d`."""
    return _average("avg_pool2d", 2, x, kernel_size, stride, padding, count_include_pad)


def _adaptive(where_: str, rank: int, x: ArrayLike, output_size: Sizes, largest: bool) -> Tensor:
    x = as_tensor(x, where_)
    if x.ndim != rank + 2:
        raise fail(
            ShapeError, where_, f"x must have {rank + 2} axes, batch and channels first", x=x
        )
    for axis, count in enumerate(per_axis(where_, "output_size", output_size, rank, 1), start=2):
        x = _adaptive_axis(x, axis, count, largest)
    return x


def _adaptive_axis(x: Tensor, axis: int, count: int, largest: bool) -> Tensor:
    """One axis as `count` elements: i covers floor(i n / count) to ceil((i + 1) n / count)."""
    n = x.shape[axis]
    reduce = max if largest else mean
    if n % count == 0:
        shape = (*x.shape[:axis], count, n // count, *x.shape[axis + 1 :])
        return reduce(reshape(x, shape), axis=axis + 1)
    lead = (slice(None),) * axis
    pieces = [
        reduce(
            x[(*lead, slice(i * n // count, -(-(i + 1) * n // count)))], axis=axis, keepdims=True
        )
        for i in range(count)
    ]
    return concat(pieces, axis=axis)


def adaptive_avg_pool1d(x: ArrayLike, output_size: Sizes) -> Tensor:
    """Means over windows so chosen that (N, C, L) becomes (N, C, output_size).

    Window i goes from floor(i L / output_size) to ceil((i + 1) L / output_size).
    """
    return _adaptive("adaptive_avg_pool1d", 1, x, output_size, False)


def adaptive_avg_pool2d(x: ArrayLike, output_size: Sizes) -> Tensor:
    """Means over windows so chosen that (N, C, H, W) becomes (N, C, *output_size)."""
    return _adaptive("adaptive_avg_pool2d", 2, x, output_size, False)


def adaptive_max_pool1d(x: ArrayLike, output_size: Sizes) -> Tensor:
    """As `adaptive_avg_pool1d`, with the largest element."""
    return _adaptive("adaptive_max_pool1d", 1, x, output_size, True)


def adaptive_max_pool2d(x: ArrayLike, output_size: Sizes) -> Tensor:
    """As `adaptive_avg_pool2d`, with the largest element."""
    return _adaptive("adaptive_max_pool2d", 2, x, output_size, True)


__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "conv1d",
    "conv2d",
    "max_pool1d",
    "max_pool2d",
]
