"""What the tests of layers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn

Check = Callable[..., None]


def _owner(module: nn.Module, path: str) -> tuple[nn.Module, str]:
    above, _, name = path.rpartition(".")
    return dict(module.named_modules())[above], name


def _check_layer(layer: nn.Module, *inputs: np.ndarray, order: int = 2) -> None:
    """Compare the gradients by every input and every parameter with differences, in float64."""
    layer.to(schuss.float64)
    named = dict(layer.named_parameters())
    places = [_owner(layer, path) for path in named]

    def call(*tensors: Any) -> Any:
        for (owner, name), value in zip(places, tensors[len(inputs) :], strict=True):
            vars(owner)[name] = value
        return layer(*tensors[: len(inputs)])

    values = [each.numpy() for each in named.values()]
    schuss.check_gradients(call, [*inputs, *values], order=order, directions=1)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Initial values do not depend on which tests ran before."""
    schuss.manual_seed(0)


@pytest.fixture
def check_layer() -> Check:
    return _check_layer


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
