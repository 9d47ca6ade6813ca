"""Random tensors, composed of the generator's bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes
from schuss.context import context
from schuss.errors import ArgumentError, DTypeError, fail
from schuss.functions.arguments import as_shape, cast
from schuss.functions.elementwise import cos, log, minimum, sin, sqrt
from schuss.functions.manipulation import concat, reshape
from schuss.graph import apply, data, wrap
from schuss.ops.random import random_bits
from schuss.ops.reduction import argsort
from schuss.philox import Generator, default_generator

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def _floating_dtype(where: str, dtype: Any) -> dtypes.DType:
    kind = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype)
    if not dtypes.is_floating(kind):
        raise fail(DTypeError, where, "needs a floating dtype", dtype=kind)
    return kind


def bits(shape: int | Sequence[int], *, generator: Generator | None = None) -> Tensor:
    """Random 32-bit numbers: uint32."""
    sizes = as_shape("random", shape)
    return apply(random_bits, draw(math.prod(sizes), generator), shape=sizes)


def draw(count: int, generator: Generator | None) -> Tensor:
    """The state of a generator from which `count` 32-bit numbers are drawn next."""
    source = generator or default_generator
    state = data(source.reserve(count))
    if context.recording is not None:
        context.recording.drew(state, source, count)
    return wrap(state)


_DIGITS = {dtypes.float32: 24, dtypes.float16: 11, dtypes.bfloat16: 8}


def uniform(
    shape: int | Sequence[int] = (),
    *,
    low: float = 0.0,
    high: float = 1.0,
    dtype: Any = None,
    generator: Generator | None = None,
) -> Tensor:
    """Numbers evenly distributed over low <= x < high. float32 by default.

    Each has as many random bits as its dtype has digits: 24, float64 52, float16 11, bfloat16 8.
    Raises DTypeError unless the dtype is a floating one.
    """
    kind = _floating_dtype("uniform", dtype)
    if not low <= high:
        raise fail(ArgumentError, "uniform", "low must not be above high", low=low, high=high)
    sizes = as_shape("uniform", shape)
    if kind == dtypes.float64:
        pairs = cast(bits((*sizes, 2), generator=generator), dtypes.float64)
        high_bits, low_bits = pairs[..., 0], pairs[..., 1]
        unit = ((high_bits * 2.0**20) + (low_bits * 2.0**-12).floor()) * 2.0**-52
    else:
        digits = _DIGITS[kind]  # more would round up to 1
        drawn = bits(sizes, generator=generator) >> (32 - digits)
        unit = cast(drawn, dtypes.float32) * 2.0**-digits
    if (low, high) == (0.0, 1.0):
        return cast(unit, kind)
    below = np.nextafter(np.asarray(high, kind), np.asarray(low, kind))  # rounding may reach `high`
    return minimum(cast(low + (high - low) * unit, kind), below)


def normal(
    shape: int | Sequence[int] = (),
    *,
    mean: float = 0.0,
    std: float = 1.0,
    dtype: Any = None,
    generator: Generator | None = None,
) -> Tensor:
    """Normally distributed numbers (Box and Muller, 1958). float32 by default.

    Raises DTypeError unless the dtype is a floating one.
    """
    kind = _floating_dtype("normal", dtype)
    wide = dtypes.float64 if kind == dtypes.float64 else dtypes.float32
    sizes = as_shape("normal", shape)
    count = math.prod(sizes)
    half = (count + 1) // 2
    both = uniform((2, half), dtype=wide, generator=generator)
    radius = sqrt(-2 * log(1 - both[0]))  # 1 - u lies in (0, 1]
    angle = (2 * math.pi) * both[1]
    drawn = concat([radius * cos(angle), radius * sin(angle)])[:count]
    return cast(mean + std * reshape(drawn, sizes), kind)


def randint(
    low: int, high: int, shape: int | Sequence[int] = (), *, generator: Generator | None = None
) -> Tensor:
    """Integers evenly distributed over low <= n < high: int64; at most 2**32 apart."""
    whole = isinstance(low, (int, np.integer)) and isinstance(high, (int, np.integer))
    if not whole or not 0 < int(high) - int(low) <= 2**32:
        problem = "needs integers low < high, at most 2**32 apart"
        raise fail(ArgumentError, "randint", problem, low=low, high=high)
    span = int(high) - int(low)
    # The upper half of a 64-bit product is an even choice among `span` up to a part in 2**32.
    wide = cast(bits(shape, generator=generator), dtypes.uint64)
    return cast((wide * span) >> 32, dtypes.int64) + int(low)


def permutation(n: int, *, generator: Generator | None = None) -> Tensor:
    """A random order of range(n): int64 of shape (n,)."""
    low, high = cast(bits((n, 2), generator=generator), dtypes.uint64).permute_dims((1, 0))
    return apply(argsort, low | (high << 32), axis=0)  # 64-bit keys, as in `Generator.permutation`


__all__ = ["bits", "normal", "permutation", "randint", "uniform"]
