"""Sums over the positions of channels, brought to as few as say the same.

The gradient of a batch normalisation asks for the sums of g and g * (x - mean), each several times,
times numbers that only vary from channel to channel. These are taken out of the sums, so that two
are left, which one pass over memory gives. It also asks for the sum of x - mean, which follows from
that of x, of which the mean has been made: one rounding error takes the place of another.

Where a number that is taken out is infinite, or divides and is zero, a sum may be infinite that
would be NaN as it was written.
"""

from __future__ import annotations

import math

from schuss import dtypes
from schuss.compiler.convolution import permuted
from schuss.compiler.simplify import Builder
from schuss.compiler.values import Shape, Value, memory_of
from schuss.dtypes import DType

Axes = tuple[int, ...]


class Sums:
    """Adds sums to a graph, and remembers which there are."""

    def __init__(self, builder: Builder) -> None:
        self.b = builder
        self._known: dict[tuple[Value, Axes, DType], Value] = {}

    def add(self, x: Value, axes: Axes, shape: Shape, dtype: DType) -> Value:
        """The sum of x over `axes`."""
        b, factors = self.b, list[tuple[str, Value | None]]()
        wide = dtype == x.dtype and dtype in (dtypes.float32, dtypes.float64)
        if wide:
            x = self._without_factors(x, axes, factors)
            if x.op == "multiply" and all(each.shape == x.shape for each in x.inputs):
                sides = [self._without_factors(each, axes, factors) for each in x.inputs]
                x = b.map("multiply", *sides)
        made = self._known.get((x, axes, dtype))
        if made is None and wide:
            made = self._about_mean(x, axes)
        if made is None:
            made = b.add("sum", (x,), {"axes": axes}, shape, dtype)
            self._known[x, axes, dtype] = made
        for op, factor in reversed(factors):
            made = b.map(op, made) if factor is None else b.map(op, made, factor)
        return made

    def _without_factors(
        self, x: Value, axes: Axes, factors: list[tuple[str, Value | None]]
    ) -> Value:
        """What is left of x without what is the same along the axes: that is added to `factors`."""
        while True:
            if x.op == "negative":
                factors.append(("negative", None))
                x = x.inputs[0]
            elif x.op == "add" and x.inputs[0] is x.inputs[1]:
                factors.append(("multiply", self.b.constant(2, x.dtype)))
                x = x.inputs[0]
            elif x.op in ("multiply", "divide"):
                one, other = x.inputs
                fixed = self._fixed(other, axes, x.shape)
                if fixed is None and x.op == "multiply":
                    one, other = other, one
                    fixed = self._fixed(other, axes, x.shape)
                if fixed is None or one.shape != x.shape:
                    return x
                factors.append((x.op, fixed))
                x = one
            else:
                return x

    def _about_mean(self, x: Value, axes: Axes) -> Value | None:
        """The sum of y - m, where m is the sum of y, which is known, divided by some number.

        For other m there is a digit or more to lose.
        """
        if x.op != "subtract" or x.inputs[0].shape != x.shape:
            return None
        y, centre = x.inputs
        known, fixed = self._known.get((y, axes, y.dtype)), self._fixed(centre, axes, x.shape)
        mean = memory_of(centre)
        if known is None or fixed is None or mean.op != "divide":
            return None
        if memory_of(mean.inputs[0]) is not memory_of(known):
            return None
        count = self.b.constant(math.prod(x.shape[axis] for axis in axes), x.dtype)
        return self.b.map("subtract", known, self.b.map("multiply", fixed, count))

    def _fixed(self, value: Value, axes: Axes, shape: Shape) -> Value | None:
        """A value that broadcasts to `shape`, without the axes; None where it varies along them."""
        if value.op == "permute" and _is_spread(value.inputs[0]):
            value = permuted(self.b, value.inputs[0].inputs[0], value.attributes["axes"])
        elif _is_spread(value):
            value = value.inputs[0]
        own = (1,) * (len(shape) - len(value.shape)) + value.shape
        if any(own[axis] != 1 for axis in axes):
            return None
        if not value.shape:
            return value
        return self.b.reshape(value, tuple(n for axis, n in enumerate(own) if axis not in axes))


def _is_spread(value: Value) -> bool:
    return value.op == "broadcast_to" and len(value.inputs[0].shape) == len(value.shape)
