"""What slides over the last axes: convolutions and their transposes. `pooling` has poolings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from schuss import dtypes
from schuss.errors import ArgumentError, ShapeError, fail
from schuss.functions.arguments import ArrayLike, as_tensor, cast
from schuss.functions.manipulation import pad, reshape
from schuss.functions.precision import for_products, plus_bias
from schuss.graph import apply
from schuss.ops import contraction
from schuss.ops.movement import inverse, overlap, permute, window_counts
from schuss.ops.movement import windows as windows_op
from schuss.patterns import repeating

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


@repeating
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
    x, weight = for_products(x, weight)
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
    return y if bias is None else plus_bias(y, reshape(bias, (-1,) + (1,) * rank))


_SIZES = {1: "L", 2: "H, W", 3: "D, H, W"}


def _check_axes(where_: str, rank: int, x: Tensor, weight: Tensor) -> None:
    if x.ndim != rank + 2 or weight.ndim != rank + 2:
        raise fail(
            ShapeError,
            where_,
            f"x must have the {rank + 2} axes (N, C, {_SIZES[rank]})",
            x=x,
            weight=weight,
            hint="add a batch axis with x[None]" if x.ndim == rank + 1 else None,
        )


def _check_convolution(where_: str, rank: int, x: Tensor, weight: Tensor, groups: int) -> None:
    _check_axes(where_, rank, x, weight)
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


def conv3d(x: ArrayLike, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1,
           padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1) -> Tensor:  # fmt: skip
    """Convolution over three axes: (N, C, D, H, W) with (O, C / groups, KD, KH, KW) -> (N, O, ...).

    As `conv1d`; stride, padding and dilation are an integer for all axes or one for each.
    """
    return _convolution("conv3d", 3, x, weight, bias, stride, padding, dilation, groups)


# --- transposed convolution ---


@repeating
def _transposed(
    where_: str,
    rank: int,
    x: ArrayLike,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    groups: int,
    dilation: Sizes,
) -> Tensor:
    x = as_tensor(x, where_)
    _check_axes(where_, rank, x, weight)
    steps = per_axis(where_, "stride", stride, rank, 1)
    around = per_axis(where_, "padding", padding, rank, 0)
    more = per_axis(where_, "output_padding", output_padding, rank, 0)
    spread = per_axis(where_, "dilation", dilation, rank, 1)
    _check_transposed(where_, x, weight, groups, more, steps, spread)
    x, weight = for_products(x, weight)
    each = zip(x.shape[2:], weight.shape[2:], steps, around, spread, strict=True)
    sizes = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in each]
    # What is asked for in addition lies in the padding behind; beyond that there are zeros.
    within = [min(p, m) for p, m in zip(around, more, strict=True)]
    sizes = [n + w for n, w in zip(sizes, within, strict=True)]
    if min(sizes) < 1:
        raise fail(ShapeError, where_, "the padding leaves nothing", x=x, weight=weight,
                   padding=around)  # fmt: skip
    x, weight = for_products(x, weight)
    dtype = dtypes.promote(x.dtype, weight.dtype)
    y = apply(
        contraction.convolve_input,
        cast(x, dtype),
        cast(weight, dtype),
        sizes=tuple(sizes),
        stride=steps,
        padding=tuple((p, p - w) for p, w in zip(around, within, strict=True)),
        dilation=spread,
        groups=groups,
    )
    if within != list(more):
        y = pad(y, [(0, m - w) for m, w in zip(more, within, strict=True)])
    return y if bias is None else plus_bias(y, reshape(bias, (-1,) + (1,) * rank))


def _check_transposed(
    where_: str,
    x: Tensor,
    weight: Tensor,
    groups: int,
    more: tuple[int, ...],
    steps: tuple[int, ...],
    spread: tuple[int, ...],
) -> None:
    if groups < 1 or weight.shape[0] % groups:
        raise fail(ArgumentError, where_, "groups must divide the input channels", weight=weight,
                   groups=groups)  # fmt: skip
    if x.shape[1] != weight.shape[0]:
        problem = f"x has {x.shape[1]} channels, the weight takes {weight.shape[0]}"
        raise fail(ShapeError, where_, problem, x=x, weight=weight)
    if any(m >= max(s, d) for m, s, d in zip(more, steps, spread, strict=True)):
        problem = "output_padding must be smaller than stride or dilation"
        raise fail(ArgumentError, where_, problem, output_padding=more, stride=steps,
                   dilation=spread)  # fmt: skip


def conv_transpose1d(x: ArrayLike, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1,
                     padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1,
                     dilation: Sizes = 1) -> Tensor:  # fmt: skip
    """The transpose of `conv1d`: (N, C, L) with (C, O / groups, K) -> (N, O, L').

    It spreads each element over the places that a convolution with the same settings would have
    read for it, and adds up what meets.

    Args:
        bias: (O,) numbers to add to the output channels.
        stride: how far apart in the result the kernels of neighbours begin.
        padding: how much of both ends is left out: what the convolution would have padded with.
        output_padding: how much longer the end is, smaller than stride or dilation. A convolution
            makes one size of several; this says which it was.
        groups, dilation: as in `conv1d`.

    L' = (L - 1) stride - 2 padding + dilation (K - 1) + output_padding + 1.
    Zeiler et al., "Deconvolutional networks" (2010).
    Raises ShapeError where axes or channels do not fit, ArgumentError for settings that do not.
    """
    return _transposed("conv_transpose1d", 1, x, weight, bias, stride, padding, output_padding,
                       groups, dilation)  # fmt: skip


def conv_transpose2d(x: ArrayLike, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1,
                     padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1,
                     dilation: Sizes = 1) -> Tensor:  # fmt: skip
    """The transpose of `conv2d`: (N, C, H, W) with (C, O / groups, KH, KW) -> (N, O, H', W').

    See `conv_transpose1d`.
    """
    return _transposed("conv_transpose2d", 2, x, weight, bias, stride, padding, output_padding,
                       groups, dilation)  # fmt: skip


def conv_transpose3d(x: ArrayLike, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1,
                     padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1,
                     dilation: Sizes = 1) -> Tensor:  # fmt: skip
    """The transpose of `conv3d`: (N, C, D, H, W) with (C, O / groups, KD, KH, KW) -> (N, O, ...).

    See `conv_transpose1d`.
    """
    return _transposed("conv_transpose3d", 3, x, weight, bias, stride, padding, output_padding,
                       groups, dilation)  # fmt: skip


# --- windows as columns ---


def unfold(x: ArrayLike, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0,
           stride: Sizes = 1) -> Tensor:  # fmt: skip
    """All windows as columns: (N, C, H, W) -> (N, C KH KW, L), L windows in the order of rows.

    The arguments are those of `conv2d`, which is a matrix product with these columns. Unlike
    PyTorch's, any number of axes may follow the channels.
    """
    x = as_tensor(x, "unfold")
    rank = x.ndim - 2
    if rank < 1:
        raise fail(ShapeError, "unfold", "x must have batch, channels, and axes to slide over", x=x)
    kernel = per_axis("unfold", "kernel_size", kernel_size, rank, 1)
    spread = per_axis("unfold", "dilation", dilation, rank, 1)
    around = per_axis("unfold", "padding", padding, rank, 0)
    steps = per_axis("unfold", "stride", stride, rank, 1)
    x = pad(x, [(n, n) for n in around])
    view = apply(windows_op, x, kernel=kernel, stride=steps, dilation=spread)
    columns = apply(permute, view, axes=_kernel_first(rank))
    n, c, *rest = columns.shape
    return reshape(columns, (n, c * math.prod(kernel), math.prod(rest[rank:])))


def fold(x: ArrayLike, output_size: Sizes, kernel_size: Sizes, dilation: Sizes = 1,
         padding: Sizes = 0, stride: Sizes = 1) -> Tensor:  # fmt: skip
    """The transpose of `unfold`: (N, C KH KW, L) -> (N, C, *output_size).

    Columns go back to where `unfold` reads them, and add up where they overlap. `output_size` is
    an integer for two axes, or one for each axis.

    Raises ShapeError where x is not what `unfold` gives for `output_size`.
    """
    x = as_tensor(x, "fold")
    rank = len(output_size) if isinstance(output_size, Sequence) else 2
    sizes = per_axis("fold", "output_size", output_size, rank, 1)
    kernel = per_axis("fold", "kernel_size", kernel_size, rank, 1)
    spread = per_axis("fold", "dilation", dilation, rank, 1)
    around = per_axis("fold", "padding", padding, rank, 0)
    steps = per_axis("fold", "stride", stride, rank, 1)
    padded = tuple(n + 2 * p for n, p in zip(sizes, around, strict=True))
    counts = window_counts(padded, kernel, steps, spread)
    size, columns = math.prod(kernel), math.prod(counts)
    if x.ndim != 3 or x.shape[1] % size or x.shape[2] != columns or min(counts) < 1:
        problem = f"x must have the shape (N, C * {size}, {columns}) for this output_size"
        raise fail(ShapeError, "fold", problem, x=x, output_size=sizes, kernel_size=kernel)
    view = reshape(x, (x.shape[0], x.shape[1] // size, *kernel, *counts))
    view = apply(permute, view, axes=inverse(_kernel_first(rank)))
    y = apply(overlap, view, sizes=padded, stride=steps, dilation=spread)
    inside: tuple[Any, ...] = tuple(slice(p, p + n) for p, n in zip(around, sizes, strict=True))
    return y[(..., *inside)]


def _kernel_first(rank: int) -> tuple[int, ...]:
    """The order that takes (N, C, counts..., kernel...) to (N, C, kernel..., counts...)."""
    return (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))


__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "fold",
    "unfold",
]
