"""Computed parameters: found, learned, saved, replayed, undone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn, optim
from schuss.errors import ModuleError, ShapeError
from schuss.nn.utils import parametrize


class Symmetric(nn.Module):
    def forward(self, x: schuss.Tensor) -> schuss.Tensor:
        return (x + x.mT) / 2


class Doubled(nn.Module):
    def forward(self, x: schuss.Tensor) -> schuss.Tensor:
        return 2 * x

    def right_inverse(self, x: schuss.Tensor) -> schuss.Tensor:
        return x / 2


def test_computed_at_each_use() -> None:
    layer = parametrize.register_parametrization(nn.Linear(3, 3), "weight", Symmetric())
    names = [name for name, _ in layer.named_parameters()]
    assert names == ["bias", "parametrizations.weight.original"]
    original = layer.state_dict()["parametrizations.weight.original"].numpy()
    np.testing.assert_allclose(layer.weight.numpy(), (original + original.T) / 2)
    layer.load_state_dict({"bias": np.zeros(3), "parametrizations.weight.original": np.eye(3)})
    np.testing.assert_array_equal(layer.weight.numpy(), np.eye(3))


def test_right_inverse_keeps_the_value() -> None:
    layer: Any = nn.Linear(3, 3)
    before = layer.weight.numpy()
    parametrize.register_parametrization(layer, "weight", Doubled())
    np.testing.assert_array_equal(layer.weight.numpy(), before)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    np.testing.assert_allclose(layer.weight.numpy(), (before + before.T) / 2)
    assert len(layer.parameters()) == 2


@pytest.mark.parametrize("replayed", [False, True])
def test_training(replayed: bool) -> None:
    """What is learned makes the weight; `jit` reads it anew in each step."""
    rng = np.random.default_rng(0)
    layer: Any = nn.Linear(3, 3, bias=False)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    x = schuss.tensor(rng.standard_normal((64, 3)).astype(np.float32))
    target = np.array([[1.0, 2, 0], [2, 0, 1], [0, 1, 3]], np.float32)
    y = x @ schuss.tensor(target)
    optimizer = optim.SGD(layer.parameters(), lr=0.3)

    def step() -> Any:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(layer(x), y)
        loss.backward()
        optimizer.step()
        return loss

    run = schuss.jit(step) if replayed else step
    for _ in range(150):
        run()
    np.testing.assert_allclose(layer.weight.numpy(), target, atol=1e-3)


def test_copies_and_trees() -> None:
    layer: Any = parametrize.register_parametrization(nn.Linear(2, 2), "weight", Symmetric())
    twin = copy.deepcopy(layer)
    twin.parametrizations["weight"].original.assign(schuss.zeros((2, 2)))
    assert (twin.weight.numpy() == 0).all()
    assert (layer.weight.numpy() != 0).any()
    x = schuss.ones((1, 2))
    gradient = schuss.grad(lambda layer: layer(x).sum())(layer)
    np.testing.assert_array_equal(gradient.parametrizations["weight"].original.numpy(), 1)


@pytest.mark.parametrize("leave", [True, False])
def test_removing(leave: bool) -> None:
    layer: Any = parametrize.register_parametrization(nn.Linear(2, 2), "weight", Symmetric())
    assert parametrize.is_parametrized(layer)
    assert parametrize.is_parametrized(layer, "weight")
    assert not parametrize.is_parametrized(layer, "bias")
    original, value = layer.parametrizations["weight"].original.numpy(), layer.weight.numpy()
    parametrize.remove_parametrizations(layer, "weight", leave)
    assert isinstance(layer.weight, nn.Parameter)
    np.testing.assert_array_equal(layer.weight.numpy(), value if leave else original)
    assert not parametrize.is_parametrized(layer)
    assert set(layer.state_dict()) == {"weight", "bias"}


def test_errors() -> None:
    layer: Any = nn.Linear(2, 3)
    with pytest.raises(ModuleError, match="register_parametrization: Linear has no parameter 'w'"):
        parametrize.register_parametrization(layer, "w", Symmetric())
    with pytest.raises(ShapeError, match="a parametrization must keep the shape and the dtype"):
        parametrize.register_parametrization(layer, "weight", nn.Flatten(0))
    assert isinstance(layer.weight, nn.Parameter), "nothing has changed"
    assert not parametrize.is_parametrized(layer)
    with pytest.raises(ModuleError, match="remove_parametrizations: Linear computes no 'weight'"):
        parametrize.remove_parametrizations(layer, "weight")
    nn.utils.parametrizations.weight_norm(layer)
    with pytest.raises(ModuleError, match="'weight' is computed from 2 tensors, none of which"):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    with pytest.raises(ModuleError, match=r"Linear.weight: is computed from its parametrization"):
        layer.weight = nn.Parameter(schuss.ones((3, 2)))
