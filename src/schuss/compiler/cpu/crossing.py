"""Loads that cross the vectors: along the axis that vectors lie on, their memory is far apart.

Gathering a vector element by element takes ten times as long as loading it, and more where every
element lies in another page. So loops with reductions are turned round where most of their loads
cross (`turned`), loops without go tile by tile (`tiles.py`), and what crosses then still is brought
into order by a copy (`straightened`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from schuss.compiler.index import Affine
from schuss.compiler.kernel import Kernel, Line, moved, position_of
from schuss.compiler.values import Value, strides_of
from schuss.dtypes import DType

_FEWEST = 4  # elements of an axis that is worth tiles
_WORTH_A_COPY = 1 << 14  # elements


def near_steps(dtype: DType) -> int:
    """Up to which step from lane to lane all elements in between are loaded too."""
    return min(8, 32 // dtype.itemsize)


def axes_across(kernel: Kernel, line: Line) -> list[int]:
    """The axes along which the memory of a load that crosses the vectors lies."""
    if line.op != "load" or len(kernel.sizes) < 2 or kernel.sizes[-1] < _FEWEST:
        return []
    affine = line.detail[1]  # type: ignore[index]
    if affine[-2] == 0 or abs(affine[-2]) <= near_steps(line.dtype):
        return []
    axes = range(len(kernel.sizes) - 1)
    return [axis for axis in axes if affine[axis] == 1 and kernel.sizes[axis] >= _FEWEST]


def crossing_axis(kernel: Kernel) -> int | None:
    """The axis along which the memory of most of the crossing loads lies; None if none crosses."""
    axes = Counter(axis for line in kernel.lines for axis in axes_across(kernel, line))
    return axes.most_common(1)[0][0] if axes else None


def turned(kernel: Kernel) -> Kernel:
    """Sums of rows as sums of columns or the other way round, where more loads run along those."""
    axis = crossing_axis(kernel)
    if axis is None or not kernel.reduced or max(kernel.passes_before()) > 1:
        return kernel
    reduced = range(kernel.outer, kernel.outer + kernel.reduced)
    across = sum(axis in axes_across(kernel, line) for line in kernel.lines)
    straight = sum(line.op == "load" and line.detail[1][-2] == 1 for line in kernel.lines)  # type: ignore[index]
    if across <= straight or any(store.affine[i] for store in kernel.stores for i in reduced):
        return kernel
    others = [i for i in range(len(kernel.sizes)) if i not in reduced]
    if axis in reduced:
        if axis != reduced[-1]:
            return kernel
        return _reordered(kernel, [*others, *reduced], len(others))
    if kernel.inner:
        return kernel
    others.remove(axis)
    return _reordered(kernel, [*others, *reduced, axis], len(others))


def _reordered(kernel: Kernel, axes: Sequence[int], outer: int) -> Kernel:
    """The kernel with its loops in another order."""

    def reordered(affine: Affine) -> Affine:
        return (*[affine[axis] for axis in axes], affine[-1])

    lines = [
        line if (affine := position_of(line)) is None else moved(line, reordered(affine))
        for line in kernel.lines
    ]
    stores = [store._replace(affine=reordered(store.affine)) for store in kernel.stores]
    sizes = tuple(kernel.sizes[axis] for axis in axes)
    return Kernel(sizes, outer, kernel.reduced, lines, stores, kernel.buffers)


def straightened(kernel: Kernel) -> tuple[list[Kernel], Kernel]:
    """Copies to make first, each into a buffer of its own, and the kernel that loads from them."""
    down = None if kernel.reduced else crossing_axis(kernel)
    copies, lines, buffers = [], list(kernel.lines), list(kernel.buffers)
    for i, line in enumerate(kernel.lines):
        across = axes_across(kernel, line)
        if not across or down in across:
            continue
        detail: Any = line.detail
        word, affine = detail
        axes = [axis for axis, step in enumerate(affine[:-1]) if step]
        sizes = tuple(kernel.sizes[axis] for axis in axes)
        if math.prod(sizes) < _WORTH_A_COPY:
            continue
        buffer = Value("copy", (), {}, sizes, line.dtype, -1)
        copies.append(_copy(kernel.buffers[word], affine, axes, buffer))
        steps = dict(zip(axes, strides_of(sizes), strict=True))
        dense = (*[steps.get(axis, 0) for axis in range(len(kernel.sizes))], 0)
        lines[i] = line._replace(detail=(len(buffers), dense))
        buffers.append(buffer)
    return copies, replace(kernel, lines=lines, buffers=buffers) if copies else kernel


def _copy(source: Value, affine: Affine, axes: Sequence[int], buffer: Value) -> Kernel:
    made = Kernel(buffer.shape, len(axes))
    steps = (*[affine[axis] for axis in axes], affine[-1])
    line = made.add("load", (), buffer.dtype, (made.word(source), steps))
    made.store(buffer, (*strides_of(buffer.shape), 0), line, buffer.dtype)
    return made
