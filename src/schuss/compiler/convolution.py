"""Convolutions, on values with channels last, said in what targets know.

    kernels of one element     matrix products
    one channel a group        sums over windows, which are loops
    everything else            `convolution` and `convolution_weight`, which targets have templates
                               for (geometry.py has what they mean)

`convolution` (x, w) has rows of positions (N * counts, outputs), with w in `panels`: weights
(groups, outputs, channels, taps) as (groups, panels, taps, channels, width), in the type of the
sums, with zeros behind the last output. The gradient for the input is a convolution too.
`convolution_weight` (x, g) is ([groups,] kernel * channels, outputs).
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

from schuss import dtypes
from schuss.compiler.cpu.convolution import panel_width
from schuss.compiler.geometry import UNIT, Axis, forward_axis, input_axis
from schuss.compiler.values import Shape, Value

Builder = Any


def applies(value: Value) -> bool:
    """Whether a convolution or gradient of one can be said so: the other sizes are left alone."""
    full = all(each.size for each in (value, *value.inputs))
    return dtypes.is_floating(value.dtype) and len(value.shape) in (3, 4, 5) and full


def forward(b: Builder, x: Value, w: Value, shape: Shape, named: dict[str, Any]) -> Value:
    """x (N, sizes, C), w (O, C / groups, kernel) -> (N, counts, O); `shape` is (N, O, counts)."""
    groups, kernel = named["groups"], w.shape[2:]
    result = (shape[0], *shape[2:], shape[1])
    if _is_pointwise(kernel, named):
        rows = _every(b, x, shape[2:], named["stride"])
        weights = _permuted(b, b.reshape(w, w.shape[:2]), (1, 0))
        rows = b.reshape(rows, (math.prod(rows.shape[:-1]), rows.shape[-1]))
        return b.reshape(_product(b, rows, weights), result)
    if w.shape[1] == 1 and groups > 1:
        taps = _permuted(b, b.reshape(w, (groups, shape[1] // groups, *kernel)), _behind(w))
        windows = b.reshape(_windows(b, x, kernel, named), _with_one(shape, kernel, groups))
        y = b.map("multiply", windows, taps)
        return b.reshape(_sum_of_taps(b, y, len(kernel)), result)
    axes = tuple(
        forward_axis(size, k, s, before, d, count)
        for size, k, s, (before, _), d, count in zip(
            x.shape[1:-1], kernel, named["stride"], named["padding"], named["dilation"], shape[2:],
            strict=True,
        )
    )  # fmt: skip
    weights = b.reshape(w, (groups, w.shape[0] // groups, *w.shape[1:]))
    return _convolution(b, x, weights, axes, result)


def of_input(b: Builder, g: Value, w: Value, shape: Shape, named: dict[str, Any]) -> Value:
    """g (N, counts, O), w (O, C / groups, kernel) -> (N, sizes, C); `shape` is (N, C, sizes)."""
    groups, kernel = named["groups"], w.shape[2:]
    result = (shape[0], *shape[2:], shape[1])
    if _is_pointwise(kernel, named):
        rows = b.reshape(g, (math.prod(g.shape[:-1]), g.shape[-1]))
        dx = _product(b, rows, b.reshape(w, w.shape[:2]))
        dx = b.reshape(dx, (*g.shape[:-1], shape[1]))
        spans = zip(g.shape[1:-1], named["stride"], strict=True)
        cut = [(0, shape[0], 1), *[(0, count, s) for count, s in spans], (0, shape[1], 1)]
        return placed(b, dx, result, cut)
    axes = tuple(
        input_axis(size, k, s, before, d, count)
        for size, k, s, (before, _), d, count in zip(
            shape[2:], kernel, named["stride"], named["padding"], named["dilation"],
            g.shape[1:-1], strict=True,
        )
    )  # fmt: skip
    if w.shape[1] == 1 and shape[1] == w.shape[0] and groups > 1:
        return _depthwise_input(b, g, w, result, named)
    weights = b.reshape(w, (groups, w.shape[0] // groups, *w.shape[1:]))
    weights = _permuted(b, weights, (0, 2, 1, *range(3, len(weights.shape))))
    return _convolution(b, g, weights, axes, result)


def of_weight(b: Builder, x: Value, g: Value, shape: Shape, named: dict[str, Any]) -> Value:
    """x (N, sizes, C), g (N, counts, O) -> (O, C / groups, kernel)."""
    groups, kernel, rank = named["groups"], shape[2:], len(shape) - 2
    channels, outputs = shape[1], shape[0] // groups
    if _is_pointwise(kernel, named):
        rows = _every(b, x, g.shape[1:-1], named["stride"])
        rows = b.reshape(rows, (math.prod(rows.shape[:-1]), rows.shape[-1]))
        columns = b.reshape(g, (math.prod(g.shape[:-1]), g.shape[-1]))
        return b.reshape(_product(b, _permuted(b, columns, (1, 0)), rows), shape)
    if channels == 1 and groups > 1:
        y = g.shape[0], g.shape[-1], *g.shape[1:-1]
        windows = b.reshape(_windows(b, x, kernel, named), _with_one(y, kernel, groups))
        each = b.reshape(g, (*g.shape[:-1], *[1] * rank, groups, outputs))
        products = b.map("multiply", windows, each)
        axes = tuple(range(rank + 1))
        dw = b.add("sum", (products,), {"axes": axes}, products.shape[rank + 1 :], x.dtype)
        return b.reshape(_permuted(b, dw, (rank, rank + 1, *range(rank))), shape)
    geometry = tuple(
        forward_axis(size, k, s, before, d, count)
        for size, k, s, (before, _), d, count in zip(
            x.shape[1:-1], kernel, named["stride"], named["padding"], named["dilation"],
            g.shape[1:-1], strict=True,
        )
    )  # fmt: skip
    named = {"axes": _three(geometry), "groups": groups}
    lead = (groups,) if groups > 1 else ()
    made = b.add(
        "convolution_weight",
        (x, g),
        named,
        (*lead, math.prod(kernel) * channels, outputs),
        x.dtype,
    )
    made = b.reshape(made, (groups, *kernel, channels, outputs))
    order = (0, rank + 2, rank + 1, *range(1, rank + 1))
    return b.reshape(_permuted(b, made, order), shape)


def put_back(b: Builder, w: Value, shape: Shape, named: dict[str, Any]) -> Value | None:
    """Windows (N, counts, kernel, C), put back to where they came from: (N, sizes, C).

    Where windows overlap, positions are sorted by their remainder by the stride: each sort is a sum
    of a few parts of w.
    """
    sizes, stride, dilation = (tuple(named[key]) for key in ("sizes", "stride", "dilation"))
    rank = len(sizes)
    counts, kernel = w.shape[1 : 1 + rank], w.shape[1 + rank : 1 + 2 * rank]
    n, channels = shape[0], shape[-1]
    if stride == tuple(kernel) and all(d == 1 for d in dilation):
        pairs = [axis for i in range(rank) for axis in (1 + i, 1 + rank + i)]
        together = _permuted(b, w, (0, *pairs, 1 + 2 * rank))
        covered = tuple(c * k for c, k in zip(counts, kernel, strict=True))
        whole = b.reshape(together, (n, *covered, channels))
        return placed(b, whole, shape, [(0, m, 1) for m in whole.shape])
    if math.prod(kernel) > 64:
        return None
    return _overlapping(b, w, shape, (sizes, counts, kernel, stride, dilation))


def _overlapping(b: Builder, w: Value, shape: Shape, spans: Any) -> Value:
    """A part for each remainder by the stride, the sum of those taps that meet it."""
    sizes, counts, kernel, stride, dilation = spans
    rank = len(sizes)
    axes = [
        input_axis(size, k, s, 0, d, count)
        for size, k, s, d, count in zip(sizes, kernel, stride, dilation, counts, strict=True)
    ]
    # With zeros around, every tap of a phase has a window for every position.
    lows = [max(0, -axis.lowest) for axis in axes]
    highs = [max(0, axis.lowest + axis.reach(axis.most) - axis.size) for axis in axes]
    padded = [count + low + high for count, low, high in zip(counts, lows, highs, strict=True)]
    cut = [(0, shape[0], 1), *[(low, n, 1) for low, n in zip(lows, counts, strict=True)]]
    cut += [(0, k, 1) for k in kernel] + [(0, shape[-1], 1)]
    w = placed(b, w, (shape[0], *padded, *kernel, shape[-1]), cut)
    parts, cuts = [], []
    for phases in product(*[axis.phases for axis in axes]):
        number = (shape[0], *[phase.outputs for phase in phases], shape[-1])
        total = None
        for taps in product(*[range(phase.taps) for phase in phases]):
            cut = [(0, shape[0], 1)]
            for phase, t, low in zip(phases, taps, lows, strict=True):
                cut.append((phase.place + t * phase.place_step + low, phase.outputs, 1))
            cut += [
                (phase.tap + t * phase.tap_step, 1, 1)
                for phase, t in zip(phases, taps, strict=True)
            ]
            cut.append((0, shape[-1], 1))
            one = (*number[:-1], *[1] * rank, shape[-1])
            part = b.add("slice", (w,), {"cut": tuple(cut)}, one, w.dtype)
            part = b.reshape(part, number)
            total = part if total is None else b.map("add", total, part)
        if total is not None:
            parts.append(total)
            places = [(phase.first, phase.outputs, phase.every) for phase in phases]
            cuts.append(((0, shape[0], 1), *places, (0, shape[-1], 1)))
    return b.add("pieces", tuple(parts), {"cuts": tuple(cuts)}, shape, w.dtype)


def placed(b: Builder, part: Value, shape: Shape, cut: list[tuple[int, int, int]]) -> Value:
    """Zeros with `part` in them."""
    if part.shape == shape:
        return part
    if part.size == 0:
        zero = b.constant(0, part.dtype)
        return b.add("broadcast_to", (zero,), {"shape": shape}, shape, part.dtype)
    return b.add("pieces", (part,), {"cuts": (tuple(cut),)}, shape, part.dtype)


def _is_pointwise(kernel: Shape, named: dict[str, Any]) -> bool:
    unpadded = all(tuple(pair) == (0, 0) for pair in named["padding"])
    return named["groups"] == 1 and all(k == 1 for k in kernel) and unpadded


def _every(b: Builder, x: Value, counts: Shape, stride: Shape) -> Value:
    """The positions of x (N, sizes, C) that windows of one element look at."""
    spans = zip(counts, stride, strict=True)
    cut = ((0, x.shape[0], 1), *[(0, count, s) for count, s in spans], (0, x.shape[-1], 1))
    return b.add("slice", (x,), {"cut": cut}, (x.shape[0], *counts, x.shape[-1]), x.dtype)


def _three(axes: tuple[Axis, ...]) -> tuple[Axis, Axis, Axis]:
    first, second, third = ((UNIT,) * 3 + axes)[-3:]
    return first, second, third


def _convolution(b: Builder, x: Value, w: Value, axes: tuple[Axis, ...], result: Shape) -> Value:
    """x (N, sizes, channels of all groups), w (groups, outputs, channels, kernel)."""
    groups, outputs, channels, *kernel = w.shape
    three = _three(axes)
    width = panel_width(x.dtype, x.shape[0], channels, outputs, three)
    flat = b.reshape(w, (groups, outputs, channels, math.prod(kernel)))
    packed = (groups, -(-outputs // width), math.prod(kernel), channels, width)
    w = b.add("panels", (flat,), {"width": width}, packed, dtypes.accumulator(x.dtype))
    named = {"axes": three, "groups": groups, "outputs": outputs}
    rows = math.prod(result[:-1])
    y = b.add("convolution", (x, w), named, (rows, groups * outputs), x.dtype)
    return b.reshape(y, result)


def _windows(b: Builder, x: Value, kernel: Shape, named: dict[str, Any]) -> Value:
    """All windows of x (N, sizes, C): (N, counts, kernel, C)."""
    rank = len(kernel)
    padding = named["padding"]
    sizes = [size + sum(pair) for size, pair in zip(x.shape[1:-1], padding, strict=True)]
    cut = [(0, x.shape[0], 1)]
    cut += [(before, n, 1) for (before, _), n in zip(padding, x.shape[1:-1], strict=True)]
    cut.append((0, x.shape[-1], 1))
    padded = placed(b, x, (x.shape[0], *sizes, x.shape[-1]), cut)
    first = _permuted(b, padded, (0, rank + 1, *range(1, rank + 1)))
    taps = {key: tuple(named[key]) for key in ("stride", "dilation")} | {"kernel": tuple(kernel)}
    counts = tuple(
        (size - d * (k - 1) - 1) // s + 1
        for size, k, s, d in zip(sizes, kernel, taps["stride"], taps["dilation"], strict=True)
    )
    shape = (*first.shape[:2], *counts, *kernel)
    windows = b.add("windows", (first,), taps, shape, x.dtype)
    return _permuted(b, windows, (0, *range(2, len(shape)), 1))


def _depthwise_input(b: Builder, g: Value, w: Value, result: Shape, named: dict[str, Any]) -> Value:
    """Windows over g, spread out by the stride and padded, times the taps turned around."""
    kernel, rank = w.shape[2:], len(w.shape) - 2
    cut, kept, lengths = [], [], []
    for size, k, s, (before, _), d, count in zip(
        result[1:-1], kernel, named["stride"], named["padding"], named["dilation"], g.shape[1:-1],
        strict=True,
    ):  # fmt: skip
        start, length = d * (k - 1) - before, size + d * (k - 1)
        first = max(0, -(start // s)) if start < 0 else 0
        last = min(count, (length - 1 - start) // s + 1)
        kept.append((first, max(0, last - first), 1))
        cut.append((start + first * s, max(0, last - first), s))
        lengths.append(length)
    ends = (0, g.shape[0], 1), (0, g.shape[-1], 1)
    inside = (g.shape[0], *[n for _, n, _ in kept], g.shape[-1])
    part = b.add("slice", (g,), {"cut": (ends[0], *kept, ends[1])}, inside, g.dtype)
    spread = placed(b, part, (g.shape[0], *lengths, g.shape[-1]), [ends[0], *cut, ends[1]])
    plain = {"stride": (1,) * rank, "padding": ((0, 0),) * rank, "dilation": named["dilation"]}
    windows = _windows(b, spread, kernel, plain)
    axes = tuple(range(2, 2 + rank))
    turned = b.add("reverse", (w,), {"axes": axes}, w.shape, w.dtype)
    taps = _permuted(b, b.reshape(turned, (w.shape[0], *kernel)), (*range(1, rank + 1), 0))
    y = b.map("multiply", windows, taps)
    shape = (*y.shape[: 1 + rank], y.shape[-1])
    return b.add("sum", (y,), {"axes": tuple(range(1 + rank, 1 + 2 * rank))}, shape, y.dtype)


def _behind(w: Value) -> tuple[int, ...]:
    """(groups, outputs, kernel) -> (kernel, groups, outputs)"""
    rank = len(w.shape) - 2
    return (*range(2, 2 + rank), 0, 1)


def _with_one(shape: Shape, kernel: Shape, groups: int) -> Shape:
    """Of windows (N, counts, kernel, groups, 1)."""
    return (shape[0], *shape[2:], *kernel, groups, 1)


def _sum_of_taps(b: Builder, y: Value, rank: int) -> Value:
    """(N, counts, kernel, ...) without the kernel."""
    axes = tuple(range(1 + rank, 1 + 2 * rank))
    shape = (*y.shape[: 1 + rank], *y.shape[1 + 2 * rank :])
    return b.add("sum", (y,), {"axes": axes}, shape, y.dtype)


def _permuted(b: Builder, x: Value, axes: tuple[int, ...]) -> Value:
    shape = tuple(x.shape[axis] for axis in axes)
    return b.add("permute", (x,), {"axes": axes}, shape, x.dtype)


def _product(b: Builder, x: Value, y: Value) -> Value:
    return b.add("matmul", (x, y), {}, (x.shape[0], y.shape[1]), x.dtype)
