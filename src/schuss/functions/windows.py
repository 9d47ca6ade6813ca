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
from schuss.ops.reduction import first_max

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


