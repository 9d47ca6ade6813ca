"""What the tests of `schuss.jit` have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import schuss

ENOUGH = 6  # calls, after which a function that can be replayed is


def draw(*shape: int, seed: int = 0) -> schuss.Tensor:
    return schuss.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def same(a: schuss.Tensor, b: schuss.Tensor) -> bool:
    return a.dtype == b.dtype and np.array_equal(a.numpy(), b.numpy())


@contextmanager
def warned(reason: str) -> Iterator[None]:
    """For calls of functions that cannot be replayed."""
    with pytest.warns(UserWarning, match=f"runs as without jit: .*{reason}"):
        yield
