"""Padding layers against NumPy's padding, and gradients against differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import ArgumentError, ArgumentTypeError, ShapeError

Check = Callable[..., None]
Rng = np.random.Generator

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("ZeroPad", {"mode": "constant"}), ("ReflectionPad", {"mode": "reflect"}),
    ("ReplicationPad", {"mode": "edge"}), ("CircularPad", {"mode": "wrap"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "mode"), KINDS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_padding(name: str, mode: dict[str, Any], rank: int, rng: Rng, check_layer: Check) -> None:
    """The list begins with the last axis: left, right, top, bottom, front, back."""
    x = rng.standard_normal((2, 3, *(3, 4, 5)[:rank]))
    pairs = [(1, 2), (2, 0), (0, 1)][:rank]
    layer = getattr(nn, f"{name}{rank}d")(tuple(n for pair in reversed(pairs) for n in pair))
    expected = np.pad(x, [(0, 0), (0, 0), *pairs], **mode)
    np.testing.assert_array_equal(layer(schuss.tensor(x)).numpy(), expected)
    check_layer(layer, x)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_constant(rank: int, rng: Rng) -> None:
    x = rng.standard_normal((2, 3, *(3, 4, 5)[:rank]))
    y = getattr(nn, f"ConstantPad{rank}d")(1, 2.5)(schuss.tensor(x))
    expected = np.pad(x, [(0, 0), (0, 0), *[(1, 1)] * rank], constant_values=2.5)
    np.testing.assert_array_equal(y.numpy(), expected)


def test_errors() -> None:
    message = "ZeroPad2d: padding must be an integer of at least 0, or 4 of them"
    for padding in ((1, 2), -1, 1.5):
        with pytest.raises(ArgumentError, match=message):
            nn.ZeroPad2d(padding)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="CircularPad2d: x must have channels and 2 more axes"):
        nn.CircularPad2d(1)(schuss.ones((3, 4)))
    with pytest.raises(ArgumentTypeError, match="ReplicationPad1d: needs a tensor"):
        nn.ReplicationPad1d(1)(np.ones((3, 4)))
    message = r"ReflectionPad1d: padding must be smaller than the sizes that it mirrors"
    with pytest.raises(ArgumentError, match=message):
        nn.ReflectionPad1d((0, 4))(schuss.ones((1, 2, 4)))


def test_printed() -> None:
    assert repr(nn.ReflectionPad1d(2)) == "ReflectionPad1d((2, 2))"
    assert repr(nn.ConstantPad1d((1, 0), 0.5)) == "ConstantPad1d((1, 0), value=0.5)"
