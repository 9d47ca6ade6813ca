"""Convolutions said as matrix products of unfolded windows (Chellapilla, Puri and Simard, 2006).

    forward             unfold(x) @ w
    gradient of w       g @ unfold(x)
    gradient of x       the forward convolution of g, spread out by the stride and padded, with w
                        turned around

Unfolding is a view of a padded copy; the one copy that a product needs of it is made by the fusion
pass. Products know nothing of where their operands came from.
"""

from __future__ import annotations

import math
from typing import Any

from schuss import dtypes
from schuss.compiler.values import Shape, Value

Builder = Any


def applies(x: Value) -> bool:
    return dtypes.is_floating(x.dtype)


def forward(b: Builder, x: Value, w: Value, shape: Shape, named: dict[str, Any]) -> Value:
    """(N, C, sizes), (O, C / groups, kernel) -> (N, O, counts)."""
    groups, rank = named["groups"], len(w.shape) - 2
    columns = _unfolded(b, x, w.shape[2:], named)  # (groups, N * positions, C / groups * kernel)
    depth = columns.shape[-1]
    outputs = w.shape[0] // groups
    weights = b.reshape(w, (groups, outputs, depth))
    y = _product(b, columns, _permuted(b, weights, (0, 2, 1)))  # (groups, N * positions, outputs)
    y = b.reshape(y, (groups, x.shape[0], *shape[2:], outputs))
    y = _permuted(b, y, (1, 0, 2 + rank, *range(2, 2 + rank)))
    return b.reshape(y, shape)


def of_weight(b: Builder, x: Value, g: Value, shape: Shape, named: dict[str, Any]) -> Value:
    """(N, C, sizes), (N, O, counts) -> (O, C / groups, kernel)."""
    groups = named["groups"]
    columns = _unfolded(b, x, named["kernel"], named)
    n, outputs = g.shape[0], g.shape[1] // groups
    positions = math.prod(g.shape[2:])
    rows = b.reshape(g, (n, groups, outputs, positions))
    rows = _permuted(b, rows, (1, 2, 0, 3))
    rows = b.reshape(rows, (groups, outputs, n * positions))
    return b.reshape(_product(b, rows, columns), shape)


def of_input(b: Builder, g: Value, w: Value, shape: Shape, named: dict[str, Any]) -> Value:
    """(N, O, counts), (O, C / groups, kernel) -> (N, C, sizes)."""
    groups, rank = named["groups"], len(w.shape) - 2
    kernel = w.shape[2:]
    cut, kept, lengths = [], [], []
    for size, k, s, (before, _), d, count in zip(
        shape[2:], kernel, named["stride"], named["padding"], named["dilation"], g.shape[2:],
        strict=True,
    ):  # fmt: skip
        start, length = d * (k - 1) - before, size + d * (k - 1)
        first = max(0, -(start // s)) if start < 0 else 0
        last = min(count, (length - 1 - start) // s + 1)
        kept.append((first, max(0, last - first), 1))
        cut.append((start + first * s, max(0, last - first), s))
        lengths.append(length)
    lead = [(0, n, 1) for n in g.shape[:2]]
    inside = (*g.shape[:2], *[size for _, size, _ in kept])
    part = b.add("slice", (g,), {"cut": (*lead, *kept)}, inside, g.dtype)
    spread = _placed(b, part, (*g.shape[:2], *lengths), [*lead, *cut])
    outputs, inputs = w.shape[0] // groups, w.shape[1]
    turned = b.reshape(w, (groups, outputs, inputs, *kernel))
    turned = _permuted(b, turned, (0, 2, 1, *range(3, 3 + rank)))
    turned = b.reshape(turned, (groups * inputs, outputs, *kernel))
    axes = tuple(range(2, 2 + rank))
    turned = b.add("reverse", (turned,), {"axes": axes}, turned.shape, turned.dtype)
    plain = {
        "stride": (1,) * rank,
        "padding": ((0, 0),) * rank,
        "dilation": named["dilation"],
        "groups": groups,
    }
    return forward(b, spread, turned, shape, plain)


def put_back(b: Builder, w: Value, shape: Shape, named: dict[str, Any]) -> Value | None:
    """Windows (..., counts, kernel) that lie side by side, put back to where they came from."""
    sizes, stride = named["sizes"], tuple(named["stride"])
    rank = len(sizes)
    lead = len(w.shape) - 2 * rank
    counts, kernel = w.shape[lead : lead + rank], w.shape[lead + rank :]
    if stride != tuple(kernel) or any(d != 1 for d in named["dilation"]):
        return None
    pairs = [axis for i in range(rank) for axis in (lead + i, lead + rank + i)]
    together = _permuted(b, w, (*range(lead), *pairs))
    covered = tuple(c * k for c, k in zip(counts, kernel, strict=True))
    whole = b.reshape(together, (*w.shape[:lead], *covered))
    return _placed(b, whole, shape, [(0, n, 1) for n in whole.shape])


def _placed(b: Builder, part: Value, shape: Shape, cut: list[tuple[int, int, int]]) -> Value:
    """Zeros with `part` in them."""
    if part.shape == shape:
        return part
    if part.size == 0:
        zero = b.constant(0, part.dtype)
        return b.add("broadcast_to", (zero,), {"shape": shape}, shape, part.dtype)
    return b.add("pieces", (part,), {"cuts": (tuple(cut),)}, shape, part.dtype)


def _unfolded(b: Builder, x: Value, kernel: Shape, named: dict[str, Any]) -> Value:
    """All windows of x: (groups, N * positions, C / groups * kernel)."""
    groups, rank = named["groups"], len(kernel)
    n, channels = x.shape[:2]
    padding, stride, dilation = named["padding"], named["stride"], named["dilation"]
    sizes = [size + sum(pair) for size, pair in zip(x.shape[2:], padding, strict=True)]
    cut = [(0, n, 1), (0, channels, 1)]
    cut += [(before, size, 1) for (before, _), size in zip(padding, x.shape[2:], strict=True)]
    padded = _placed(b, x, (n, channels, *sizes), cut)
    padded = b.reshape(padded, (n, groups, channels // groups, *sizes))
    counts = tuple(
        (size - d * (k - 1) - 1) // s + 1
        for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True)
    )
    taps = {"kernel": tuple(kernel), "stride": tuple(stride), "dilation": tuple(dilation)}
    shape = (n, groups, channels // groups, *counts, *kernel)
    windows = b.add("windows", (padded,), taps, shape, x.dtype)
    order = (1, 0, *range(3, 3 + rank), 2, *range(3 + rank, 3 + 2 * rank))
    rows = _permuted(b, windows, order)
    depth = channels // groups * math.prod(kernel)
    return b.reshape(rows, (groups, n * math.prod(counts), depth))


def _permuted(b: Builder, x: Value, axes: tuple[int, ...]) -> Value:
    shape = tuple(x.shape[axis] for axis in axes)
    return b.add("permute", (x,), {"axes": axes}, shape, x.dtype)


def _product(b: Builder, x: Value, y: Value) -> Value:
    """x @ y for each group; plain matrices where there is one."""
    shape = (x.shape[0], x.shape[1], y.shape[2])
    if x.shape[0] == 1:
        flat = b.reshape(x, x.shape[1:]), b.reshape(y, y.shape[1:])
        return b.reshape(b.add("matmul", flat, {}, shape[1:], x.dtype), shape)
    return b.add("matmul", (x, y), {}, shape, x.dtype)
