"""Ops that multiply and add up: matrix products and convolutions.

Half precisions accumulate in float32. The three convolution ops are each other's gradients:

    y = convolve(x, w)                        forward
    x' = convolve_input(y', w)                transposed: what dy says about x
    w' = convolve_weight(x, y')               correlated: what dy says about w
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType, accumulator
from schuss.errors import ShapeError, fail
from schuss.graph import Node, Op, Sample, Shape, apply, define
from schuss.ops.elementwise import multiply
from schuss.ops.infer import Rng, broadcast_shapes, numbers, require_dtype, strided
from schuss.ops.movement import overlap_add, reshaped, window_counts, windows_view
from schuss.ops.structure import (
    align,
    aligned,
    all_batched,
    batch_first,
    batch_last,
    merged,
    multilinear,
)

if TYPE_CHECKING:
    from schuss.tensor import Tensor

Padding = tuple[tuple[int, int], ...]  # (before, after) for each axis


def _wide(*arrays: np.ndarray) -> list[np.ndarray]:
    """Arrays of one dtype, in the one that their products are gathered in."""
    dtype = accumulator(arrays[0].dtype)
    return [each.astype(dtype, copy=False) for each in arrays]


# --- matrix product ---


def _matmul_infer(x: Node, y: Node) -> tuple[Shape, DType]:
    require_dtype("matmul", dtypes.NUMERIC, "numeric", x=x, y=y)
    if x.shape[-1] != y.shape[-2]:
        inner = f"the last axis of x ({x.shape[-1]})"
        problem = f"{inner} must be as long as the second-last of y ({y.shape[-2]})"
        hint = "y.mT swaps the last two axes of y" if x.shape[-1] == y.shape[-1] else None
        raise fail(ShapeError, "matmul", problem, x=x, y=y, hint=hint)
    batch = broadcast_shapes("matmul", x.shape[:-2], y.shape[:-2])
    return (*batch, x.shape[-2], y.shape[-1]), x.dtype


def _matmul(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b = (_for_blas(each) for each in _wide(x, y))
    return np.matmul(a, b).astype(x.dtype, copy=False)


def _for_blas(x: np.ndarray) -> np.ndarray:
    """A matrix that is one row or element seen many times is copied: BLAS cannot read it."""
    return np.ascontiguousarray(x) if x.size > 1 and 0 in x.strides[-2:] else x


def _matmul_samples(rng: Rng) -> list[Sample]:
    shapes: list[tuple[Shape, Shape]] = [
        ((3, 4), (4, 5)), ((1, 1), (1, 1)), ((0, 3), (3, 2)), ((2, 0), (0, 3)), ((17, 33), (33, 7)),
        ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((4, 5), (3, 5, 2)),
    ]  # fmt: skip
    made = [Sample([numbers(rng, a), numbers(rng, b)]) for a, b in shapes]
    return [*made, Sample([strided(numbers(rng, (3, 4))), numbers(rng, (5, 4)).T])]


def _matmul_batch(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    """With one matrix for all examples, one tall product instead of a stack of small ones."""
    x, y = xs
    if all(batched) and node.inputs[0].shape[-1] == 1:  # (..., M, 1) @ (..., 1, N)
        return apply(multiply, *align(node, xs, batched))
    if any(each.ndim != 2 for each in node.inputs) or all(batched):
        return aligned(node, size, xs, batched)
    if batched[0]:  # (B, M, K) @ (K, N)
        return reshaped(apply(matmul, reshaped(x, merged(x.shape, 0)), y), (size, *node.shape))
    rows = reshaped(y.mT, (size * y.shape[2], y.shape[1]))  # (M, K) @ (B, K, N)
    return reshaped(apply(matmul, rows, x.mT), (size, *node.shape[::-1])).mT


matmul: Op = define(
    "matmul",
    "the matrix product over the last two axes; the axes before broadcast",
    infer=_matmul_infer,
    reference=_matmul,
    gradient=(
        lambda g, z, x, y: apply(matmul, g, y.mT),
        lambda g, z, x, y: apply(matmul, x.mT, g),
    ),
    saves=(0, 1),
    samples=_matmul_samples,
    broadcasts=True,
    tangent=multilinear,
    batch=_matmul_batch,
)

# --- convolution ---


def _padded_sizes(sizes: Shape, padding: Padding) -> Shape:
    return tuple(n + before + after for n, (before, after) in zip(sizes, padding, strict=True))


def _columns(
    x: np.ndarray, kernel: Shape, stride: Shape, padding: Padding, dilation: Shape, groups: int
) -> np.ndarray:
    """All windows side by side: (groups, channels of a group * kernel, N * positions)."""
    if any(pair != (0, 0) for pair in padding):
        x = np.pad(x, ((0, 0), (0, 0), *padding))
    view = windows_view(x, kernel, stride, dilation)  # (N, C, positions..., kernel...)
    rank = len(kernel)
    order = (1, *range(2 + rank, 2 + 2 * rank), 0, *range(2, 2 + rank))
    depth = x.shape[1] // groups * math.prod(kernel)
    return view.transpose(order).reshape(groups, depth, -1)


def _by_group(x: np.ndarray, groups: int) -> np.ndarray:
    """(N, channels, positions...) as (groups, channels of a group, N * positions)."""
    return np.moveaxis(x, 1, 0).reshape(groups, x.shape[1] // groups, -1)


def _from_groups(y: np.ndarray, n: int, sizes: Shape) -> np.ndarray:
    """The way back of `_by_group`."""
    channels = y.shape[0] * y.shape[1]
    return np.ascontiguousarray(np.moveaxis(y.reshape(channels, n, *sizes), 0, 1))


def _convolve_infer(
    x: Node, w: Node, stride: Shape, padding: Padding, dilation: Shape, groups: int
) -> tuple[Shape, DType]:
    sizes, kernel = _padded_sizes(x.shape[2:], padding), w.shape[2:]
    if x.shape[1] != w.shape[1] * groups:
        raise fail(ShapeError, "convolution", f"x has {x.shape[1]} channels, the weight takes "
                   f"{w.shape[1] * groups}", x=x, weight=w, groups=groups)  # fmt: skip
    counts = window_counts(sizes, kernel, stride, dilation)
    if any(count < 1 for count in counts):
        raise fail(
            ShapeError,
            "convolution",
            "the kernel is larger than the padded input",
            x=x,
            weight=w,
            padding=padding,
            dilation=dilation,
        )
    return (x.shape[0], w.shape[0], *counts), x.dtype


def _convolve(
    x: np.ndarray, w: np.ndarray, stride: Shape, padding: Padding, dilation: Shape, groups: int
) -> np.ndarray:
    dtype = x.dtype
    x, w = _wide(x, w)
    kernel = w.shape[2:]
    counts = window_counts(_padded_sizes(x.shape[2:], padding), kernel, stride, dilation)
    columns = _columns(x, kernel, stride, padding, dilation, groups)
    y = np.matmul(w.reshape(groups, w.shape[0] // groups, -1), columns)
    return _from_groups(y, x.shape[0], counts).astype(dtype, copy=False)


def _convolve_input_infer(
    g: Node, w: Node, sizes: Shape, stride: Shape, padding: Padding, dilation: Shape, groups: int
) -> tuple[Shape, DType]:
    if g.shape[1] != w.shape[0]:
        raise fail(
            ShapeError,
            "transposed convolution",
            f"x has {g.shape[1]} channels, the weight takes {w.shape[0]}",
            x=g,
            weight=w,
        )
    return (g.shape[0], w.shape[1] * groups, *sizes), g.dtype


def _convolve_input(
    g: np.ndarray,
    w: np.ndarray,
    sizes: Shape,
    stride: Shape,
    padding: Padding,
    dilation: Shape,
    groups: int,
) -> np.ndarray:
    dtype = g.dtype
    g, w = _wide(g, w)
    n, kernel, counts = g.shape[0], w.shape[2:], g.shape[2:]
    rank = len(kernel)
    columns = np.matmul(
        w.reshape(groups, w.shape[0] // groups, -1).swapaxes(1, 2), _by_group(g, groups)
    )
    spread = columns.reshape(w.shape[1] * groups, *kernel, n, *counts)
    order = (1 + rank, 0, *range(2 + rank, 2 + 2 * rank), *range(1, 1 + rank))
    padded = overlap_add(spread.transpose(order), _padded_sizes(sizes, padding), stride, dilation)
    inside: tuple[Any, ...] = tuple(
        slice(before, before + size) for (before, _), size in zip(padding, sizes, strict=True)
    )
    return padded[(..., *inside)].astype(dtype)


def _convolve_weight_infer(
    x: Node, g: Node, kernel: Shape, stride: Shape, padding: Padding, dilation: Shape, groups: int
) -> tuple[Shape, DType]:
    return (g.shape[1], x.shape[1] // groups, *kernel), x.dtype


def _convolve_weight(
    x: np.ndarray,
    g: np.ndarray,
    kernel: Shape,
    stride: Shape,
    padding: Padding,
    dilation: Shape,
    groups: int,
) -> np.ndarray:
    dtype = x.dtype
    x, g = _wide(x, g)
    columns = _columns(x, kernel, stride, padding, dilation, groups)
    w = np.matmul(_by_group(g, groups), columns.swapaxes(1, 2))
    return w.reshape(g.shape[1], x.shape[1] // groups, *kernel).astype(dtype, copy=False)


def _convolution_cases() -> list[tuple[Shape, Shape, dict[str, Any]]]:
    def named(
        rank: int,
        stride: int = 1,
        padding: Padding | None = None,
        dilation: int = 1,
        groups: int = 1,
    ) -> Any:
        return {
            "stride": (stride,) * rank,
            "padding": padding or ((0, 0),) * rank,
            "dilation": (dilation,) * rank,
            "groups": groups,
        }

    return [
        ((2, 3, 7), (4, 3, 3), named(1)),
        ((1, 1, 1), (1, 1, 1), named(1)),
        ((2, 2, 9), (2, 1, 3), named(1, stride=2, padding=((1, 2),), dilation=2, groups=2)),
        ((2, 3, 5, 6), (4, 3, 3, 2), named(2, padding=((1, 1), (0, 1)))),
        ((2, 4, 8, 7), (6, 2, 3, 3), named(2, stride=2, padding=((1, 1), (1, 1)), groups=2)),
        ((1, 2, 7, 7), (2, 1, 2, 3), named(2, stride=3, dilation=2, groups=2)),
        ((0, 2, 5, 5), (3, 2, 3, 3), named(2)),
        ((1, 2, 4, 3, 5), (2, 2, 2, 2, 3), named(3, padding=((0, 0), (1, 0), (1, 1)))),
    ]


def _shapes_of(x: Shape, w: Shape, named: dict[str, Any]) -> Shape:
    counts = window_counts(
        _padded_sizes(x[2:], named["padding"]), w[2:], named["stride"], named["dilation"]
    )
    return (x[0], w[0], *counts)


def _convolve_samples(rng: Rng) -> list[Sample]:
    return [
        Sample([numbers(rng, x), numbers(rng, w)], named) for x, w, named in _convolution_cases()
    ]


def _convolve_input_samples(rng: Rng) -> list[Sample]:
    return [
        Sample([numbers(rng, _shapes_of(x, w, named)), numbers(rng, w)], {"sizes": x[2:], **named})
        for x, w, named in _convolution_cases()
    ]


def _convolve_weight_samples(rng: Rng) -> list[Sample]:
    return [
        Sample([numbers(rng, x), numbers(rng, _shapes_of(x, w, named))], {"kernel": w[2:], **named})
        for x, w, named in _convolution_cases()
    ]


def _input_of(g: Tensor, w: Tensor, like: Tensor, **named: Any) -> Tensor:
    return apply(convolve_input, g, w, sizes=like.shape[2:], **named)


def _weight_of(x: Tensor, g: Tensor, like: Tensor, **named: Any) -> Tensor:
    return apply(convolve_weight, x, g, kernel=like.shape[2:], **named)


# A batch of convolutions with one weight is a convolution of more samples; with a weight each, one
# of more groups. Every operand has (rows, channels) in front, those of x, w or y.


def _rows_hold_it(x: Tensor) -> Tensor:
    return x.reshape(merged(x.shape, 0))  # (B, N, C, ...) -> (B * N, C, ...)


def _channels_hold_it(x: Tensor) -> Tensor:
    moved = batch_last(x, 1)  # (B, N, C, ...) -> (N, B * C, ...)
    return moved.reshape(merged(moved.shape, 1))


def _split_channels(y: Tensor, size: int) -> Tensor:
    split = y.reshape((y.shape[0], size, y.shape[1] // size, *y.shape[2:]))
    return batch_first(split, 1)


def _convolve_batch(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    """Of `convolve` and `convolve_input`."""
    assert node.op is not None
    x, w = xs
    if not batched[1]:
        return apply(node.op, _rows_hold_it(x), w, **node.attributes).reshape((size, *node.shape))
    x, w = all_batched(size, xs, batched)
    named = {**node.attributes, "groups": size * node.attributes["groups"]}
    y = apply(node.op, _channels_hold_it(x), _rows_hold_it(w), **named)
    return _split_channels(y, size)


def _convolve_weight_batch(
    node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]
) -> Tensor:
    x, g = (_channels_hold_it(each) for each in all_batched(size, xs, batched))
    named = {**node.attributes, "groups": size * node.attributes["groups"]}
    return apply(convolve_weight, x, g, **named).reshape((size, *node.shape))


convolve: Op = define(
    "convolve",
    "convolution (as correlation) of x (N, C, sizes) with w (O, C / groups, kernel)",
    infer=_convolve_infer,
    reference=_convolve,
    gradient=(
        lambda g, y, x, w, **named: _input_of(g, w, x, **named),
        lambda g, y, x, w, **named: _weight_of(x, g, w, **named),
    ),
    saves=(0, 1),
    samples=_convolve_samples,
    tangent=multilinear,
    batch=_convolve_batch,
)
convolve_input: Op = define(
    "convolve_input",
    "transposed convolution: the gradient of `convolve` for its input, which had the given sizes",
    infer=_convolve_input_infer,
    reference=_convolve_input,
    gradient=(
        lambda h, x, g, w, sizes, **named: apply(convolve, h, w, **named),
        lambda h, x, g, w, sizes, **named: _weight_of(h, g, w, **named),
    ),
    saves=(0, 1),
    samples=_convolve_input_samples,
    tangent=multilinear,
    batch=_convolve_batch,
)
convolve_weight: Op = define(
    "convolve_weight",
    "the gradient of `convolve` for its weight, which had the given kernel sizes",
    infer=_convolve_weight_infer,
    reference=_convolve_weight,
    gradient=(
        lambda h, w, x, g, kernel, **named: _input_of(g, h, x, **named),
        lambda h, w, x, g, kernel, **named: apply(convolve, x, h, **named),
    ),
    saves=(0, 1),
    samples=_convolve_weight_samples,
    tangent=multilinear,
    batch=_convolve_weight_batch,
)
