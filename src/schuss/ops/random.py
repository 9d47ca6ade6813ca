"""Random bits. All distributions are composed from them."""

from __future__ import annotations

import math

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.graph import Node, Op, Sample, Shape, define
from schuss.philox import bits_at


def _infer(state: Node, shape: Shape) -> tuple[Shape, DType]:
    return shape, dtypes.uint32


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
)
