"""Random bits. All distributions are composed from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.graph import Node, Op, Sample, Shape, apply, define
from schuss.philox import bits_at, substream_at

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def _infer(state: Node, shape: Shape) -> tuple[Shape, DType]:
    return shape, dtypes.uint32


substream: Op = define(
    "substream",
    "the start of a stream of random bits that belongs to this state of a generator alone",
    infer=lambda state: ((3,), dtypes.uint64),
    reference=lambda state: substream_at(state),
    gradient=None,
    samples=lambda rng: [
        Sample([np.array([1, 2, 3], np.uint64)]),
        Sample([np.array([5, 0, 100], np.uint64)]),
    ],
)


def _batch(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    """Numbers of its own for each example: the draws of a batch come from a stream of their own."""
    return apply(random_bits, apply(substream, xs[0]), shape=(size, *node.shape))


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
