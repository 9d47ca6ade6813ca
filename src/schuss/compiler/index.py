"""Where in a value a loop stands: affine maps from loop counters to the indices of each axis.

An affine map is a tuple of integers, one coefficient for each loop axis and a constant at the end.
An index is one map for each axis of a value. Views turn an index of their result into one of their
input, so that no view ever moves memory on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from schuss.compiler.values import Shape, Value, strides_of

Affine = tuple[int, ...]
Index = tuple[Affine, ...]


class NotAffineError(Exception):
    """A reshape cannot be seen through: `value` has to exist in memory."""

    def __init__(self, value: Value) -> None:
        super().__init__(value)
        self.value = value


def identity(sizes: Sequence[int]) -> Index:
    """Each axis of the value is one loop axis."""
    n = len(sizes)
    return tuple((*[int(i == axis) for i in range(n)], 0) for axis in range(n))


def zero(loops: int) -> Affine:
    return (0,) * (loops + 1)


def scaled_sum(index: Index, scales: Sequence[int], loops: int, offset: int = 0) -> Affine:
    """The sum of the maps, each times its scale: a linear position, say."""
    total = [0] * loops + [offset]
    for affine, scale in zip(index, scales, strict=True):
        if scale:
            for i, coefficient in enumerate(affine):
                if coefficient:
                    total[i] += coefficient * scale
    return tuple(total)


def bounds_of(shape: Sequence[int]) -> frozenset[int]:
    """The products of sizes from the left."""
    found, product = set(), 1
    for n in shape:
        product *= n
        found.add(product)
    return frozenset(found | {1})


def sizes_between(bounds: frozenset[int]) -> tuple[int, ...] | None:
    """The loop sizes that these places cut into; None where they do not nest."""
    ordered = sorted(bounds)
    sizes = []
    for low, high in pairwise(ordered):
        if high % low:
            return None
        sizes.append(high // low)
    return tuple(sizes)


def through(view: Value, index: Index, sizes: Sequence[int]) -> Index:
    """The index into the input of `view` that `index` into its result means.

    `sizes` are those of the loop axes. Raises NotAffineError for a reshape that needs division.
    """
    return _THROUGH[view.op](view, index, sizes)


def broadcast(shape: Shape, index: Index, loops: int) -> Index:
    """The index of an operand of `shape` that broadcasts to what `index` points into."""
    lead = len(index) - len(shape)
    return tuple(
        zero(loops) if n == 1 else affine for n, affine in zip(shape, index[lead:], strict=True)
    )


def dense_memory(value: Value, in_memory: Callable[[Value], bool]) -> Value | None:
    """The memory that holds the elements of a view in row-major order, if there is one.

    Reshapes of such memory need no division, or (where its rows lie apart) a single one: see
    `position_in_rows`.
    """
    while value.op == "reshape" and not in_memory(value):
        value = value.inputs[0]
    if in_memory(value):
        return value if value.pitch else None
    if value.op != "permute" or not in_memory(value.inputs[0]):
        return None
    memory, axes = value.inputs[0], value.attributes["axes"]
    strides = memory.strides or strides_of(memory.shape)
    expected = strides_of(value.shape)
    if all(
        n == 1 or strides[axis] == step
        for n, axis, step in zip(value.shape, axes, expected, strict=True)
    ):
        return memory
    return None


def position_in_rows(view: Value, memory: Value, index: Index, sizes: Sequence[int]) -> Affine:
    """The place in its `dense_memory` of what a view has at `index`."""
    linear = scaled_sum(index, strides_of(view.shape), len(sizes))
    if memory.strides is None or not memory.pitch:
        return linear
    row, rest = _divided(view, linear, memory.shape[-1], sizes)
    return tuple(memory.pitch * r + c for r, c in zip(row, rest, strict=True))


def _permute(view: Value, index: Index, sizes: Sequence[int]) -> Index:
    made: list[Affine] = [()] * len(index)
    for place, axis in enumerate(view.attributes["axes"]):
        made[axis] = index[place]
    return tuple(made)


def _broadcast_to(view: Value, index: Index, sizes: Sequence[int]) -> Index:
    return broadcast(view.inputs[0].shape, index, len(sizes))


def _slice(view: Value, index: Index, sizes: Sequence[int]) -> Index:
    cut = view.attributes["cut"]
    return tuple(
        (*[c * step for c in affine[:-1]], affine[-1] * step + start)
        for affine, (start, _, step) in zip(index, cut, strict=True)
    )


def _reverse(view: Value, index: Index, sizes: Sequence[int]) -> Index:
    axes = view.attributes["axes"]
    return tuple(
        (*[-c for c in affine[:-1]], view.shape[axis] - 1 - affine[-1]) if axis in axes else affine
        for axis, affine in enumerate(index)
    )


def _windows(view: Value, index: Index, sizes: Sequence[int]) -> Index:
    kernel = view.attributes["kernel"]
    rank, lead = len(kernel), len(index) - 2 * len(kernel)
    made = list(index[:lead])
    steps = zip(view.attributes["stride"], view.attributes["dilation"], strict=True)
    for i, (stride, dilation) in enumerate(steps):
        position, tap = index[lead + i], index[lead + rank + i]
        made.append(tuple(p * stride + t * dilation for p, t in zip(position, tap, strict=True)))
    return tuple(made)


def _reshape(view: Value, index: Index, sizes: Sequence[int]) -> Index:
    shape = view.inputs[0].shape
    if 0 in shape:
        return tuple(zero(len(sizes)) for _ in shape)
    linear = scaled_sum(index, strides_of(view.shape), len(sizes))
    made: list[Affine] = []
    for n in reversed(shape[1:]):
        linear, rest = _divided(view, linear, n, sizes)
        made.append(rest)
    if shape:
        made.append(linear)
    return tuple(reversed(made))


def _divided(view: Value, linear: Affine, n: int, sizes: Sequence[int]) -> tuple[Affine, Affine]:
    """Quotient and remainder by `n`, where each loop axis goes wholly into one of them."""
    if n == 1:
        return linear, zero(len(sizes))
    quotient, rest, largest = [], [], linear[-1] % n
    for coefficient, size in zip(linear[:-1], sizes, strict=True):
        if coefficient % n == 0:
            quotient.append(coefficient // n)
            rest.append(0)
        elif coefficient < 0:
            raise NotAffineError(view)
        else:
            quotient.append(0)
            rest.append(coefficient)
            largest += coefficient * (size - 1)
    if largest >= n:
        raise NotAffineError(view)
    return (*quotient, linear[-1] // n), (*rest, linear[-1] % n)


_THROUGH = {
    "reshape": _reshape,
    "permute": _permute,
    "broadcast_to": _broadcast_to,
    "slice": _slice,
    "reverse": _reverse,
    "windows": _windows,
}
