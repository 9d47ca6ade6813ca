"""Convolutions, on values with channels last, said in what targets have templates for.

geometry.py has what `axes` mean. Rows of `convolution` (x, w) are positions, (N * counts, outputs);
its w is in `panels`: weights (groups, outputs, channels, taps) as (groups, panels, taps, channels,
width), in the type of the sums, with zeros behind the last output. Where the machine multiplies
numbers of half precision in pairs, w is (..., channels / 2, width, 2) of them; with `minimal` it is
for the filter with so many outputs (cpu/winograd_filter.py). The gradient for the input is a
convolution too. `convolution_weight` (x, g) is ([groups,] kernel * channels, outputs). Positions
outside of the input add nothing: kernels leave them out or multiply zeros there, as it suits the
tile, so that beside the border an infinite weight may or may not make NaN; so may an infinite input
behind the last one of a row, where pairs of positions are multiplied.

Where groups are small, as in depthwise convolutions, the outputs of all of them lie side by side
instead: w is (taps, channels, groups, outputs), and `convolution_weight` is (kernel * channels,
groups * outputs).
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

from schuss import dtypes
from schuss.compiler.cpu import winograd
from schuss.compiler.cpu.convolution import has_pairs, panel_width
from schuss.compiler.cpu.depthwise import applies as has_small_groups
from schuss.compiler.cpu.winograd_filter import Filter
from schuss.compiler.geometry import UNIT, Axis, forward_axis, input_axis
from schuss.compiler.values import VIEWS, Shape, Value

Builder = Any


def applies(value: Value) -> bool:
    """Whether a convolution or gradient of one can be said so: the other sizes are left alone."""
    full = all(each.size for each in (value, *value.inputs))
    return dtypes.is_floating(value.dtype) and len(value.shape) in (3, 4, 5) and full


def forward(b: Builder, x: Value, w: Value, shape: Shape, named: dict[str, Any]) -> Value:
    """x (N, sizes, C), w (O, C / groups, kernel) -> (N, counts, O); `shape` is (N, O, counts)."""
    groups, kernel = named["groups"], w.shape[2:]
    result = (shape[0], *shape[2:], shape[1])
    x, stride = _without_gaps(b, x, kernel, shape[2:], named)
    axes = tuple(
        forward_axis(size, k, s, before, d, count)
        for size, k, s, (before, _), d, count in zip(
            x.shape[1:-1], kernel, stride, named["padding"], named["dilation"], shape[2:],
            strict=True,
        )
    )  # fmt: skip
    return _convolution(b, x, _flat(b, w, groups), axes, result)


def of_input(b: Builder, g: Value, w: Value, shape: Shape, named: dict[str, Any]) -> Value:
    """g (N, counts, O), w (O, C / groups, kernel) -> (N, sizes, C); `shape` is (N, C, sizes)."""
    groups, kernel = named["groups"], w.shape[2:]
    result = (shape[0], *shape[2:], shape[1])
    axes = tuple(
        input_axis(size, k, s, before, d, count)
        for size, k, s, (before, _), d, count in zip(
            shape[2:], kernel, named["stride"], named["padding"], named["dilation"],
            g.shape[1:-1], strict=True,
        )
    )  # fmt: skip
    return _convolution(b, g, permuted(b, _flat(b, w, groups), (0, 2, 1, 3)), axes, result)


def of_weight(b: Builder, x: Value, g: Value, shape: Shape, named: dict[str, Any]) -> Value:
    """x (N, sizes, C), g (N, counts, O) -> (O, C / groups, kernel)."""
    groups, kernel = named["groups"], shape[2:]
    channels, outputs = shape[1], shape[0] // groups
    x, stride = _without_gaps(b, x, kernel, g.shape[1:-1], named)
    geometry = tuple(
        forward_axis(size, k, s, before, d, count)
        for size, k, s, (before, _), d, count in zip(
            x.shape[1:-1], kernel, stride, named["padding"], named["dilation"],
            g.shape[1:-1], strict=True,
        )
    )  # fmt: skip
    if math.prod(kernel) == 1 and x.op == "slice" and has_pairs(x.dtype):
        x = b.map("copy", x)  # it is a product of matrices: cpu/convolution_weight.py
    axes = _three(geometry)
    named = {"axes": axes, "groups": groups, "outputs": outputs}
    minimal = winograd.choose(x.dtype, x.shape[0], channels, outputs, axes)
    if groups == 1 and minimal is not None:
        named["minimal"] = minimal.outputs
        x, g = _with_channels_together(b, x), _with_channels_together(b, g)
    taps = math.prod(kernel)
    sizes = groups, taps, channels, outputs
    if has_small_groups(x.dtype, groups, channels, outputs):
        sizes = 1, taps, channels, groups * outputs
    lead = sizes[:1] if sizes[0] > 1 else ()
    matrix = (*lead, taps * channels, sizes[-1])
    made = b.add("convolution_weight", (x, g), named, matrix, x.dtype)
    made = b.reshape(made, sizes)
    if taps > 1 and channels > 1:
        made = b.map("copy", made)  # in another order in memory: layout.py
    return b.reshape(permuted(b, made, (0, 3, 2, 1)), shape)


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
        together = permuted(b, w, (0, *pairs, 1 + 2 * rank))
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


def _without_gaps(
    b: Builder, x: Value, kernel: Shape, counts: Shape, named: dict[str, Any]
) -> tuple[Value, tuple[int, ...]]:
    """What a convolution looks at of x (N, sizes, C), and its strides there: where a kernel has one
    tap and a stride, nothing between the positions that it meets is ever packed.
    """
    cut, strides = [(0, x.shape[0], 1)], []
    for size, k, s, (before, _), count in zip(
        x.shape[1:-1], kernel, named["stride"], named["padding"], counts, strict=True
    ):
        skips = k == 1 and before == 0 and (count - 1) * s < size
        cut.append((0, count, s) if skips else (0, size, 1))
        strides.append(1 if skips else s)
    cut.append((0, x.shape[-1], 1))
    sizes = (x.shape[0], *[count for _, count, _ in cut[1:-1]], x.shape[-1])
    return (x if sizes == x.shape else b.cut(x, tuple(cut), sizes)), tuple(strides)


def _three(axes: tuple[Axis, ...]) -> tuple[Axis, Axis, Axis]:
    first, second, third = ((UNIT,) * 3 + axes)[-3:]
    return first, second, third


def _convolution(b: Builder, x: Value, w: Value, axes: tuple[Axis, ...], result: Shape) -> Value:
    """x (N, sizes, channels of all groups), w (groups, outputs, channels, taps)."""
    groups, outputs, channels, count = w.shape
    three, dtype = _three(axes), dtypes.accumulator(x.dtype)
    named = {"axes": three, "groups": groups, "outputs": outputs}
    rows = (math.prod(result[:-1]), groups * outputs)
    pairs = has_pairs(x.dtype)
    minimal = winograd.choose(x.dtype, x.shape[0], channels, outputs, three, pairs)
    if groups == 1 and minimal is not None:
        return _minimal(b, x, w, minimal, three, result)
    if has_small_groups(x.dtype, groups, channels, outputs):
        taps = permuted(b, w, (3, 2, 0, 1))
        if dtype == x.dtype:
            taps = b.map("copy", taps)
        else:
            taps = b.map("astype", taps, dtype=dtype, attributes={"dtype": dtype})
        return b.reshape(b.add("convolution", (x, taps), named, rows, x.dtype), result)
    pairs = pairs and (channels % 2 == 0 or (groups == 1 and channels > 1))
    width = panel_width(x.dtype, x.shape[0], channels, outputs, three, pairs)
    packed: Shape = (groups, -(-outputs // width), count, channels, width)
    if pairs:
        packed, dtype = (*packed[:3], -(-channels // 2), width, 2), x.dtype
        x, named["pairs"] = _with_channels_together(b, _with_even_channels(b, x)), True
    w = b.add("panels", (w,), {"width": width, "pairs": pairs}, packed, dtype)
    y = b.add("convolution", (x, w), named, rows, x.dtype)
    return b.reshape(y, result)


def _minimal(
    b: Builder, x: Value, w: Value, filter: Filter, axes: tuple[Axis, Axis, Axis], result: Shape
) -> Value:
    """The same by minimal filtering, with as many taps of weights as the filter has."""
    _, outputs, channels, _ = w.shape
    width = winograd.panel_width(outputs)
    packed = (1, -(-outputs // width), filter.taps, channels, width)
    named = {"width": width, "minimal": filter.outputs, "turned": winograd.is_backwards(axes[1])}
    w = b.add("panels", (w,), named, packed, dtypes.accumulator(x.dtype))
    x = _with_channels_together(b, x)
    how = {"axes": axes, "groups": 1, "outputs": outputs, "minimal": filter.outputs}
    y = b.add("convolution", (x, w), how, (math.prod(result[:-1]), outputs), x.dtype)
    return b.reshape(y, result)


def _with_channels_together(b: Builder, x: Value) -> Value:
    """A copy, if x is a view in which the channels of a position may lie apart."""
    memory = x
    while memory.op == "reshape" or _is_slice_of_positions(memory, x.shape[-1]):
        memory = memory.inputs[0]
    return b.map("copy", x) if memory.op in (*VIEWS, "input") else x


def _with_even_channels(b: Builder, x: Value) -> Value:
    """x, with a channel of zeros behind an odd number of others."""
    *sizes, channels = x.shape
    even = (*sizes, channels + channels % 2)
    return placed(b, x, even, [(0, size, 1) for size in x.shape])


def _is_slice_of_positions(x: Value, channels: int) -> bool:
    """Whether it is a slice that takes all channels, which lie as in what it is a slice of."""
    return x.op == "slice" and x.inputs[0].shape[-1] == x.shape[-1] == channels


def _flat(b: Builder, w: Value, groups: int) -> Value:
    """(O, C / groups, kernel) -> (groups, O / groups, C / groups, taps)"""
    return b.reshape(w, (groups, w.shape[0] // groups, w.shape[1], math.prod(w.shape[2:])))


def permuted(b: Builder, x: Value, axes: tuple[int, ...]) -> Value:
    shape = tuple(x.shape[axis] for axis in axes)
    return b.add("permute", (x,), {"axes": axes}, shape, x.dtype)
