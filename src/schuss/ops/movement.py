"""Ops that only move elements: new shapes, orders, parts.

Most references are views, which cost nothing. Attributes are already normal here: axes counted from
the front, sizes known, slices as (start, size, step).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss.dtypes import DType
from schuss.errors import ShapeError, fail
from schuss.graph import Node, Op, Sample, Shape, apply, define, wrap
from schuss.ops.broadcast import zeros
from schuss.ops.infer import Rng, numbers
from schuss.ops.structure import all_batched, later_axes, later_axis, leading, linear

if TYPE_CHECKING:
    from schuss.tensor import Tensor

# --- shape ---


def _reshape_infer(x: Node, shape: Shape) -> tuple[Shape, DType]:
    if math.prod(shape) != x.size:
        raise fail(ShapeError, "reshape", f"{x.size} elements do not fill the shape {shape}", x=x)
    return shape, x.dtype


def reshaped(x: Tensor, shape: Shape) -> Tensor:
    """x in another shape, for rules: without steps that undo each other."""
    node = x._node
    inner = node.inputs[0] if node.op is reshape and node.inputs else None  # computed: none
    if inner is not None and inner.requires_grad == node.requires_grad:
        x = wrap(inner)
    return x if x.shape == shape else apply(reshape, x, shape=shape)


reshape: Op = define(
    "reshape",
    "the same elements, in the same order, in another shape",
    infer=_reshape_infer,
    reference=lambda x, shape: x.reshape(shape),
    gradient=(lambda g, y, x, shape: apply(reshape, g, shape=x.shape),),
    samples=lambda rng: [
        Sample([numbers(rng, (2, 6))], {"shape": (3, 4)}),
        Sample([numbers(rng, ())], {"shape": (1, 1)}),
        Sample([numbers(rng, (0, 3))], {"shape": (3, 0, 2)}),
        Sample([numbers(rng, (3, 4)).T], {"shape": (12,)}),
    ],
    view=True,
    tangent=linear,
    batch=lambda node, size, xs, batched: reshaped(xs[0], (size, *node.shape)),
)


def inverse(axes: Sequence[int]) -> tuple[int, ...]:
    """The order of axes that undoes the order `axes`."""
    return tuple(axes.index(axis) for axis in range(len(axes)))


def _permute_batch(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    return apply(permute, *xs, axes=(0, *[axis + 1 for axis in node.attributes["axes"]]))


permute: Op = define(
    "permute",
    "the axes in another order",
    infer=lambda x, axes: (tuple(x.shape[axis] for axis in axes), x.dtype),
    reference=lambda x, axes: x.transpose(axes),
    gradient=(lambda g, y, x, axes: apply(permute, g, axes=inverse(axes)),),
    samples=lambda rng: [
        Sample([numbers(rng, (2, 3, 5))], {"axes": (2, 0, 1)}),
        Sample([numbers(rng, (4,))], {"axes": (0,)}),
        Sample([numbers(rng, (0, 3))], {"axes": (1, 0)}),
        Sample([numbers(rng, ())], {"axes": ()}),
    ],
    view=True,
    tangent=linear,
    batch=_permute_batch,
)


def _reverse(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return x[tuple(slice(None, None, -1 if axis in axes else None) for axis in range(x.ndim))]


reverse: Op = define(
    "reverse",
    "the elements along axes in reverse order",
    infer=lambda x, axes: (x.shape, x.dtype),
    reference=_reverse,
    gradient=(lambda g, y, x, axes: apply(reverse, g, axes=axes),),
    samples=lambda rng: [
        Sample([numbers(rng, (5,))], {"axes": (0,)}),
        Sample([numbers(rng, (2, 3, 4))], {"axes": (0, 2)}),
        Sample([numbers(rng, (0, 2))], {"axes": (0,)}),
    ],
    view=True,
    tangent=linear,
    batch=later_axes,
)

# --- parts ---

Cut = tuple[tuple[int, int, int], ...]  # (start, size, step) of each axis; steps may be negative


def as_slices(cut: Cut) -> tuple[slice, ...]:
    """The NumPy slices of a cut.

    A negative step that runs to the front has no stop: -1 would mean the end.
    """
    made = []
    for start, size, step in cut:
        stop = start + size * step
        made.append(slice(start, None if stop < 0 else stop, step))
    return tuple(made)


def _slice_infer(x: Node, cut: Cut) -> tuple[Shape, DType]:
    return tuple(size for _, size, _ in cut), x.dtype


def _slice_update_infer(x: Node, part: Node, cut: Cut) -> tuple[Shape, DType]:
    assert part.shape == tuple(size for _, size, _ in cut)
    return x.shape, x.dtype


def _slice_update(x: np.ndarray, part: np.ndarray, cut: Cut) -> np.ndarray:
    result = x.copy()
    result[as_slices(cut)] = part
    return result


def _cut_batch(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    cut = ((0, size, 1), *node.attributes["cut"])
    return apply(node.op, *all_batched(size, xs, batched), cut=cut)  # type: ignore[arg-type]


_CUTS: list[tuple[Shape, Cut]] = [
    ((5,), ((1, 3, 1),)),
    ((7, 4), ((6, 4, -2), (0, 2, 2))),
    ((3, 4), ((2, 3, -1), (3, 4, -1))),
    ((3, 4), ((0, 0, 1), (0, 4, 1))),
    ((1,), ((0, 1, 1),)),
    ((), ()),
]

slice_: Op = define(
    "slice",
    "a part of x: on each axis a start, a size and a step",
    infer=_slice_infer,
    reference=lambda x, cut: x[as_slices(cut)],
    gradient=(lambda g, y, x, cut: apply(slice_update, zeros(x.shape, g.dtype), g, cut=cut),),
    samples=lambda rng: [Sample([numbers(rng, shape)], {"cut": cut}) for shape, cut in _CUTS],
    view=True,
    tangent=linear,
    batch=_cut_batch,
)
slice_update: Op = define(
    "slice_update",
    "x with a part of it replaced",
    infer=_slice_update_infer,
    reference=_slice_update,
    gradient=(
        lambda g, y, x, part, cut: apply(slice_update, g, zeros(part.shape, g.dtype), cut=cut),
        lambda g, y, x, part, cut: apply(slice_, g, cut=cut),
    ),
    samples=lambda rng: [
        Sample([numbers(rng, shape), numbers(rng, tuple(size for _, size, _ in cut))], {"cut": cut})
        for shape, cut in _CUTS
    ],
    tangent=linear,
    batch=_cut_batch,
)


def _concat_infer(*xs: Node, axis: int) -> tuple[Shape, DType]:
    first = xs[0].shape
    for x in xs[1:]:
        if x.ndim != len(first) or any(
            n != m for i, (n, m) in enumerate(zip(x.shape, first, strict=True)) if i != axis
        ):
            raise fail(
                ShapeError,
                "concat",
                f"shapes may differ on axis {axis} only",
                shapes=[each.shape for each in xs],
            )
    return (*first[:axis], sum(x.shape[axis] for x in xs), *first[axis + 1 :]), xs[0].dtype


def _concat_rule(g: Tensor, y: Tensor, *xs: Tensor, axis: int) -> list[Tensor]:
    parts, start = [], 0
    for x in xs:
        cut = tuple((start if i == axis else 0, n, 1) for i, n in enumerate(x.shape))
        parts.append(apply(slice_, g, cut=cut))
        start += x.shape[axis]
    return parts


def _concat_samples(rng: Rng) -> list[Sample]:
    cases: list[tuple[list[Shape], int]] = [
        ([(2,), (3,)], 0), ([(2, 3), (2, 1), (2, 4)], 1), ([(0, 2), (3, 2)], 0), ([(4,)], 0)
    ]  # fmt: skip
    return [Sample([numbers(rng, s) for s in shapes], {"axis": axis}) for shapes, axis in cases]


concat: Op = define(
    "concat",
    "tensors joined along an axis",
    infer=_concat_infer,
    reference=lambda *xs, axis: np.concatenate(xs, axis=axis),
    gradient=(_concat_rule,),
    samples=_concat_samples,
    variadic=True,
    tangent=linear,
    batch=later_axis,
)

# --- windows ---


def window_counts(sizes: Shape, kernel: Shape, stride: Shape, dilation: Shape) -> Shape:
    """How many windows fit on each axis."""
    return tuple(
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True)
    )


def _windows_infer(x: Node, kernel: Shape, stride: Shape, dilation: Shape) -> tuple[Shape, DType]:
    lead = x.ndim - len(kernel)
    counts = window_counts(x.shape[lead:], kernel, stride, dilation)
    if any(count < 1 for count in counts):
        raise fail(ShapeError, "windows", "the kernel is larger than the input", x=x, kernel=kernel,
                   dilation=dilation, hint="use a smaller kernel or more padding")  # fmt: skip
    return (*x.shape[:lead], *counts, *kernel), x.dtype


def windows_view(x: np.ndarray, kernel: Shape, stride: Shape, dilation: Shape) -> np.ndarray:
    """The windows of the last axes: shape (..., counts, kernel), sharing the memory of x."""
    lead = x.ndim - len(kernel)
    counts = window_counts(x.shape[lead:], kernel, stride, dilation)
    steps = x.strides[lead:]
    strides = [*x.strides[:lead]]
    strides += [n * s for n, s in zip(steps, stride, strict=True)]
    strides += [n * d for n, d in zip(steps, dilation, strict=True)]
    shape = (*x.shape[:lead], *counts, *kernel)
    return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)


def _overlap_infer(w: Node, sizes: Shape, stride: Shape, dilation: Shape) -> tuple[Shape, DType]:
    return (*w.shape[: w.ndim - 2 * len(sizes)], *sizes), w.dtype


def overlap_add(w: np.ndarray, sizes: Shape, stride: Shape, dilation: Shape) -> np.ndarray:
    """Put windows (..., counts, kernel) back to where they came from, adding where they overlap."""
    rank = len(sizes)
    lead = w.ndim - 2 * rank
    counts, kernel = w.shape[lead : lead + rank], w.shape[lead + rank :]
    result = np.zeros((*w.shape[:lead], *sizes), w.dtype)
    for position in np.ndindex(*kernel):
        place: tuple[Any, ...] = tuple(
            slice(p * d, p * d + (c - 1) * s + 1, s)
            for p, d, c, s in zip(position, dilation, counts, stride, strict=True)
        )
        result[(..., *place)] += w[(..., *position)]
    return result


def _windows_cases() -> list[tuple[Shape, dict[str, Any]]]:
    return [
        ((2, 7), {"kernel": (3,), "stride": (2,), "dilation": (1,)}),
        ((1, 2, 5, 6), {"kernel": (2, 3), "stride": (1, 2), "dilation": (1, 1)}),
        ((7, 7), {"kernel": (3, 2), "stride": (2, 1), "dilation": (2, 3)}),
        ((0, 4), {"kernel": (2,), "stride": (2,), "dilation": (1,)}),
        ((1,), {"kernel": (1,), "stride": (3,), "dilation": (1,)}),
    ]


def _overlap_samples(rng: Rng) -> list[Sample]:
    made = []
    for shape, named in _windows_cases():
        kernel = named.pop("kernel")
        lead = len(shape) - len(kernel)
        counts = window_counts(shape[lead:], kernel, named["stride"], named["dilation"])
        w = numbers(rng, (*shape[:lead], *counts, *kernel))
        made.append(Sample([w], {"sizes": shape[lead:], **named}))
    return made


windows: Op = define(
    "windows",
    "all windows of the last axes: (..., sizes) becomes (..., counts, kernel)",
    infer=_windows_infer,
    reference=windows_view,
    gradient=(
        lambda g, y, x, kernel, stride, dilation: apply(
            overlap, g, sizes=x.shape[x.ndim - len(kernel) :], stride=stride, dilation=dilation
        ),
    ),
    samples=lambda rng: [Sample([numbers(rng, shape)], named) for shape, named in _windows_cases()],
    view=True,
    tangent=linear,
    batch=leading,
)
overlap: Op = define(
    "overlap",
    "windows added back to where they came from, the adjoint of `windows`",
    infer=_overlap_infer,
    reference=overlap_add,
    gradient=(
        lambda g, y, w, sizes, stride, dilation: apply(
            windows, g, kernel=w.shape[w.ndim - len(sizes) :], stride=stride, dilation=dilation
        ),
    ),
    samples=_overlap_samples,
    tangent=linear,
    batch=leading,
)
