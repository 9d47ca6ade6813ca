"""Poolings without their borders: the largest elements of windows that are cut off at the edge.

A pooling with padding is recorded as that of a copy with a border of minus infinity, which nothing
is smaller than. Windows that begin before an axis or end behind it have a part inside, the same for
neighbours that stand equally far out: a few poolings of views, side by side, and no copy.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from schuss.compiler.channels import has_images
from schuss.compiler.simplify import Builder, number_of, rewritten
from schuss.compiler.values import Graph, Value, users_of

_MOST_PARTS = 9
# Where vectors lie along the last axis, parts at its edges have one column: it has so many windows
# for each of them, or it is not worth it.
_FEWEST_WINDOWS = 24


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
    cut = {
        value: runs
        for value in graph.values
        if value not in wanted and all(map(_is_largest, users[value])) and (runs := _runs(value))
    }
    if not has_images(graph):
        cut = {value: runs for value, runs in cut.items() if _is_wide(runs[-1])}
    if not cut:
        return graph

    def replacement(b: Builder, value: Value, renamed: dict[Value, Value]) -> Value | None:
        if value.op != "max" or value.inputs[0] not in cut:
            return None
        _, part = value.inputs[0].inputs[0].inputs
        return _in_parts(b, value, renamed[part], cut[value.inputs[0]])

    return rewritten(graph, replacement)


def _is_largest(value: Value) -> bool:
    """Whether a value is the largest element of each of its windows."""
    if value.op != "max":
        return False
    rank = len(value.inputs[0].attributes.get("kernel", ()))
    axes = len(value.inputs[0].shape)
    return tuple(value.attributes["axes"]) == tuple(range(axes - rank, axes))


def _is_wide(runs: list[_Run]) -> bool:
    """Whether the last axis has windows enough."""
    return sum(run.many for run in runs) >= _FEWEST_WINDOWS * (len(runs) - 1)


def _runs(windows: Value) -> list[list[_Run]]:
    """For each axis of windows of something within minus infinity the runs of such as have the same
    taps inside; [] for other values, and where parts would be too many or empty.
    """
    if windows.op != "windows" or windows.inputs[0].op != "slice_update" or 0 in windows.shape:
        return []
    around, part = windows.inputs[0].inputs
    cut = windows.inputs[0].attributes["cut"]
    rank = len(windows.attributes["kernel"])
    same = part.shape[:-rank] == windows.shape[: -2 * rank]
    if not same or number_of(around) != -math.inf or any(step != 1 for *_, step in cut):
        return []
    found = [
        _runs_of_axis(windows, axis, part.shape[axis - rank], cut[axis - rank][0])
        for axis in range(rank)
    ]
    inside = all(run.taps > 0 for axis in found for run in axis)
    return found if inside and math.prod(map(len, found)) <= _MOST_PARTS else []


def _runs_of_axis(windows: Value, axis: int, n: int, before: int) -> list[_Run]:
    """The runs of an axis with n elements, behind a border of `before`."""
    named = windows.attributes
    kernel, stride, dilation = (named[k][axis] for k in ("kernel", "stride", "dilation"))
    found: list[_Run] = []
    for window in range(windows.shape[axis - 2 * len(named["kernel"])]):
        start = window * stride - before
        tap = max(0, -(start // dilation))  # the first one inside, rounded up
        taps = max(0, min(kernel, -((start - n) // dilation)) - tap)
        if found and found[-1][2:] == (tap, taps):
            found[-1] = found[-1]._replace(many=found[-1].many + 1)
        else:
            found.append(_Run(window, 1, tap, taps))
    return found


def _in_parts(b: Builder, value: Value, x: Value, cut: list[list[_Run]]) -> Value:
    """The largest elements of windows, from what lies inside of x."""
    windows = value.inputs[0]
    named = windows.attributes
    rank = len(named["kernel"])
    lead = x.shape[:-rank]
    before = [start for start, *_ in windows.inputs[0].attributes["cut"][-rank:]]
    parts, cuts = [], []
    for runs in itertools.product(*cut):
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
