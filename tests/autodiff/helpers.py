"""What the tests of the transforms share."""

from __future__ import annotations

from typing import Any

import numpy as np

import schuss
from schuss import trees


def t(values: Any, requires_grad: bool = False) -> schuss.Tensor:
    return schuss.tensor(values, dtype=schuss.float64, requires_grad=requires_grad)


def assert_trees_close(a: Any, b: Any, tolerance: float = 1e-10) -> None:
    (xs, first), (ys, second) = trees.flatten(a), trees.flatten(b)
    assert first == second
    for x, y in zip(xs, ys, strict=True):
        assert x.shape == y.shape
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=tolerance, atol=tolerance)
