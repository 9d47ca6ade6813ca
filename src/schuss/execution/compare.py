"""SCHUSS_CHECK=1: what both tiers computed, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schuss import dtypes
from schuss.errors import NumericsError, fail
from schuss.graph import Node

# Sums in another order and functions within some units in the last place differ, and so does a sum
# of half precision that is rounded to the other neighbour. A wrong kernel is wrong by far more than
# this share of the largest number. Products of bfloat16 that take subnormal factors for zeros
# (matmul_pairs) count as wrong where these are all there is.
_TOLERANCE = {
    dtypes.float64: 1e-9,
    dtypes.float32: 1e-3,
    dtypes.float16: 3e-2,
    dtypes.bfloat16: 1e-1,
}


def compare(nodes: Sequence[Node], compiled: Sequence[np.ndarray]) -> None:
    """Raise NumericsError for the first node whose compiled value is not that of its own."""
    for node, found in zip(nodes, compiled, strict=True):
        if not _alike(node.value, found):  # type: ignore[arg-type]
            raise fail(
                NumericsError,
                node.name,
                "the compiled tier and the reference tier disagree (SCHUSS_CHECK=1)",
                result=node,
                location=node.location,
                scope=node.scope.path() if node.scope else None,
                reference=_summary(node.value),  # type: ignore[arg-type]
                compiled=_summary(found),
                hint="please report it, with the program; SCHUSS_EXECUTION=reference avoids it",
            )


def _alike(expected: np.ndarray, found: np.ndarray) -> bool:
    tolerance = _TOLERANCE.get(dtypes.real_of(expected.dtype))
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    if tolerance is None or expected.size == 0:
        return np.array_equal(expected, found)
    wide = np.complex128 if dtypes.is_complex(expected.dtype) else np.float64
    a, b = expected.astype(wide), found.astype(wide)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    if not finite.any():
        return True
    with np.errstate(all="ignore"):
        largest = np.abs(a[finite]).max()
        return bool(np.abs(a[finite] - b[finite]).max() <= tolerance * max(largest, 1e-30))


def _summary(array: np.ndarray) -> list[object]:
    return [str(each) for each in array.ravel()[:4]]
