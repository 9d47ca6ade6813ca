"""Poolings without their borders: the largest elements of windows that are cut off at the edge.

A pooling with padding is recorded as that of a copy with a border of minus infinity, which nothing
is smaller than. Windows that begin before an axis or end behind it have a part inside, the same for
neighbours that stand equally far out: a few poolings of views, side by side, and no copy.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from schuss.compiler.simplify import Builder, number_of, without_dead
from schuss.compiler.values import Graph, Value, users_of

_MOST_PARTS = 9


class _Run(NamedTuple):
    """Neighbouring windows of one axis of which the same taps lie inside."""

    first: int
    many: int
    tap: int
    taps: int


def without_borders(graph: Graph) -> Graph:
    """The graph with largest elements of parts, where else a bordered copy would be needed."""
    users = users_of(graph.values)
    wanted = {*graph.outputs, *graph.checks}
    borders = {
        value
        for value in graph.values
        if _is_bordered(value) and value not in wanted and all(map(_is_largest, users[value]))
    }
    if not borders:
        return graph
    builder = Builder()
    renamed: dict[Value, Value] = {}
    for value in graph.values:
        if value.op in ("input", "constant"):
            renamed[value] = builder.keep(value)
            continue
        inputs = tuple([renamed[each] for each in value.inputs])
        if value.op == "max" and value.inputs[0] in borders:
            padded = value.inputs[0].inputs[0]
            renamed[value] = _in_parts(builder, value, renamed[padded.inputs[1]])
        else:
            renamed[value] = builder.again(value, inputs)
    outputs = [renamed[each] for each in graph.outputs]
    checks = [renamed[each] for each in graph.checks]
    return without_dead(Graph(builder.values, graph.inputs, outputs, checks))


def _is_bordered(value: Value) -> bool:
    """Whether these are windows of something within minus infinity, in a few runs."""
    if value.op != "windows" or value.inputs[0].op != "slice_update":
        return False
    around, part = value.inputs[0].inputs
    lead = len(part.shape) - len(value.attributes["kernel"])
    cut = value.inputs[0].attributes["cut"]
    plain = all(step == 1 for *_, step in cut) and part.shape[:lead] == value.shape[:lead]
    if not plain or number_of(around) != -math.inf or 0 in value.shape:
        return False
    runs = _runs(value)
    inside = all(run.taps > 0 for axis in runs for run in axis)
    return inside and math.prod(map(len, runs)) <= _MOST_PARTS


def _is_largest(value: Value) -> bool:
    """Whether a value is the largest element of each of its windows."""
    if value.op != "max":
        return False
    rank = len(value.inputs[0].attributes.get("kernel", ()))
    axes = len(value.inputs[0].shape)
    return tuple(value.attributes["axes"]) == tuple(range(axes - rank, axes))


def _runs(windows: Value) -> list[list[_Run]]:
    """For each axis of windows, the runs of such as have the same taps inside."""
    named = windows.attributes
    rank = len(named["kernel"])
    sizes = windows.inputs[0].inputs[1].shape[-rank:]
    cut = windows.inputs[0].attributes["cut"][-rank:]
    counts = windows.shape[-2 * rank : -rank]
    found = []
    for i, (n, (before, _, _), count) in enumerate(zip(sizes, cut, counts, strict=True)):
        kernel, stride, dilation = (named[k][i] for k in ("kernel", "stride", "dilation"))
        axis: list[_Run] = []
        for window in range(count):
            start = window * stride - before
            tap = max(0, -(start // dilation))  # the first one inside, rounded up
            taps = max(0, min(kernel, -((start - n) // dilation)) - tap)
            if axis and axis[-1][2:] == (tap, taps):
                axis[-1] = axis[-1]._replace(many=axis[-1].many + 1)
            else:
                axis.append(_Run(window, 1, tap, taps))
        found.append(axis)
    return found


def _in_parts(b: Builder, value: Value, x: Value) -> Value:
    """The largest elements of windows, from what lies inside of x."""
    windows = value.inputs[0]
    named = windows.attributes
    rank = len(named["kernel"])
    lead = x.shape[:-rank]
    before = [start for start, *_ in windows.inputs[0].attributes["cut"][-rank:]]
    parts, cuts = [], []
    for runs in itertools.product(*_runs(windows)):
        axes = list(zip(runs, named["stride"], named["dilation"], before, strict=True))
        starts = [r.first * s + r.tap * d - p for r, s, d, p in axes]
        sizes = tuple((r.many - 1) * s + (r.taps - 1) * d + 1 for r, s, d, _ in axes)
        counts, taps = tuple(r.many for r in runs), tuple(r.taps for r in runs)
        inside = [(start, n, 1) for start, n in zip(starts, sizes, strict=True)]
        seen = b.cut(x, tuple([(0, n, 1) for n in lead] + inside), lead + sizes)
        seen = b.add("windows", (seen,), {**named, "kernel": taps}, lead + counts + taps, x.dtype)
        places = tuple(range(len(lead) + rank, len(lead) + 2 * rank))
        parts.append(b.add("max", (seen,), {"axes": places}, lead + counts, value.dtype))
        cuts.append(tuple((0, n, 1) for n in lead) + tuple((r.first, r.many, 1) for r in runs))
    if len(parts) == 1:
        return parts[0]
    return b.add("pieces", tuple(parts), {"cuts": tuple(cuts)}, value.shape, value.dtype)


__all__ = ["without_borders"]
