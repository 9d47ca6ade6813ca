"""Affine positions through views, against NumPy's own views."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from schuss.compiler.index import NotAffineError, identity, scaled_sum, through
from schuss.compiler.values import Value, strides_of
from schuss.dtypes import float32
from schuss.graph import REGISTRY

VIEWS: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("reshape", (4, 6), {"shape": (4, 2, 3)}),
    ("reshape", (4, 2, 3), {"shape": (8, 3)}),
    ("reshape", (2, 1, 3), {"shape": (6,)}),
    ("permute", (2, 3, 4), {"axes": (2, 0, 1)}),
    ("broadcast_to", (3, 1), {"shape": (2, 3, 4)}),
    ("slice", (7, 4), {"cut": ((6, 3, -2), (1, 2, 2))}),
    ("reverse", (3, 4), {"axes": (1,)}),
    ("windows", (2, 9), {"kernel": (3,), "stride": (2,), "dilation": (2,)}),
]


def viewed(op: str, shape: tuple[int, ...], attributes: dict[str, Any]) -> tuple[Value, Any]:
    """The view as a value of an input, and NumPy's view of 0, 1, 2, ..."""
    base = Value("input", (), {}, shape, float32)
    places = np.arange(np.prod(shape)).reshape(shape)
    expected = REGISTRY[op].reference(places, **attributes)
    return Value(op, (base,), attributes, expected.shape, float32), expected


@pytest.mark.parametrize(("op", "shape", "attributes"), VIEWS)
def test_positions_are_those_of_numpy_views(op: str, shape: Any, attributes: Any) -> None:
    view, expected = viewed(op, shape, attributes)
    sizes = view.shape
    if op == "reshape" and sizes in ((8, 3), (6,)):  # loops that both shapes are made of
        sizes = (4, 2, 3) if sizes == (8, 3) else (2, 3)
    index = identity(sizes)
    if sizes != view.shape:
        linear = scaled_sum(index, strides_of(sizes), len(sizes))
        splits = strides_of(view.shape)
        index = tuple(
            (*[c // step if c // step and c // step < n else 0 for c in linear[:-1]], 0)
            for step, n in zip(splits, view.shape, strict=True)
        )
    inner = through(view, index, sizes)
    affine = scaled_sum(inner, strides_of(shape), len(sizes))
    for place in itertools.product(*[range(n) for n in sizes]):
        found = sum(c * i for c, i in zip(affine, place, strict=False)) + affine[-1]
        assert found == expected.reshape(sizes)[place]


def test_a_reshape_that_cuts_across_loops_says_so() -> None:
    view, _ = viewed("reshape", (4, 6), {"shape": (3, 8)})
    with pytest.raises(NotAffineError) as caught:
        through(view, identity((3, 8)), (3, 8))
    assert caught.value.value is view
