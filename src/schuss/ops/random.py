"""Random bits. All distributions are composed from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.graph import Node, Op, Sample, Shape, apply, data, define, scalar, wrap
from schuss.ops.elementwise import bitwise_left_shift, bitwise_or
from schuss.ops.movement import concat
from schuss.philox import bits_at

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def _infer(state: Node, shape: Shape) -> tuple[Shape, DType]:
    return shape, dtypes.uint32


def _batch(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    """Numbers of its own for each example: the draws of a batch come from a stream of their own."""
    return apply(random_bits, _substream(xs[0]), shape=(size, *node.shape))


_FAR = np.array([0, 0x9E3779B97F4A7C15, 0], np.uint64)  # from each stream to one next to no other


def _substream(state: Tensor) -> Tensor:
    """The start of a stream that belongs to this state alone, keyed by four random words."""
    words = apply(random_bits, state + wrap(data(_FAR)), shape=(4,)).astype(dtypes.uint64)
    low, high = words[:2], words[2:]
    keys = apply(bitwise_or, low, apply(bitwise_left_shift, high, scalar(32, dtypes.uint64)))
    return apply(concat, keys, scalar(0, dtypes.uint64).reshape((1,)), axis=0)


random_bits: Op = define(
    "random_bits",
    "random 32-bit numbers, a pure function of the state (seed, stream, position) of a generator",
    infer=_infer,
    reference=lambda state, shape: bits_at(state, math.prod(shape)).reshape(shape),
    gradient=None,
    samples=lambda rng: [
        Sample([np.array([1, 2, 3], np.uint64)], {"shape": shape})
        for shape in [(), (0, 2), (5,), (3, 7)]
    ],
    batch=_batch,
)
