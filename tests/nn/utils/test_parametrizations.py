"""Weight norm and spectral norm against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import ArgumentError, ModuleError, ShapeError
from schuss.nn.utils.parametrizations import spectral_norm, weight_norm

pytestmark = pytest.mark.usefixtures("reference_tier")  # many shapes, each of them once


@pytest.mark.parametrize(("dim", "axes"), [(0, (1, 2)), (1, (0, 2)), (-1, (0, 1)), (None, None)])
def test_weight_norm(dim: Any, axes: Any) -> None:
    schuss.manual_seed(0)
    layer: Any = nn.Conv1d(2, 3, 4, dtype=schuss.float64)
    before = layer.weight.numpy()
    weight_norm(layer, dim=dim)
    np.testing.assert_allclose(layer.weight.numpy(), before, rtol=1e-12)
    made = layer.parametrizations["weight"]
    made.original0.assign(made.original0 * 3)
    made.original1.assign(made.original1 * 5)
    length = np.sqrt((before**2).sum(axes, keepdims=dim is not None))
    np.testing.assert_allclose(layer.weight.numpy(), 3 * before, rtol=1e-12)
    np.testing.assert_allclose(made.original0.numpy(), 3 * length, rtol=1e-12)


def test_gradients() -> None:
    """By differences, of what is learned."""
    rule = weight_norm(nn.Linear(3, 2)).parametrizations["weight"].rules[0]
    rng = np.random.default_rng(0)
    schuss.check_gradients(rule, [rng.uniform(1, 2, (2, 1)), rng.standard_normal((2, 3))])


def test_weight_norm_of_a_vector() -> None:
    layer: Any = weight_norm(nn.LayerNorm(3), "weight")
    np.testing.assert_array_equal(layer.weight.numpy(), 1)


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv1d, nn.ConvTranspose1d])
def test_spectral_norm(kind: Any) -> None:
    schuss.manual_seed(0)
    layer = kind(4, 5) if kind is nn.Linear else kind(4, 5, 3)
    before = layer.weight.numpy()
    rows = before.swapaxes(0, 1) if kind is nn.ConvTranspose1d else before
    largest = np.linalg.svd(rows.reshape(5, -1), compute_uv=False)[0]
    spectral_norm(layer, n_power_iterations=60)
    np.testing.assert_allclose(layer.weight.numpy(), before / largest, rtol=1e-3)


def test_power_iterations_in_training_only() -> None:
    layer: Any = spectral_norm(nn.Linear(6, 5))
    u = layer.parametrizations["weight"].rules[0]._u
    before = u.numpy()
    layer.eval()(schuss.ones((1, 6))).numpy()
    np.testing.assert_array_equal(u.numpy(), before)
    layer.train()(schuss.ones((1, 6))).numpy()
    assert (u.numpy() != before).any()


def test_spectral_norm_of_a_vector() -> None:
    layer: Any = spectral_norm(nn.LayerNorm(4), "weight")
    np.testing.assert_allclose(layer.weight.numpy(), 0.5)


def test_errors() -> None:
    with pytest.raises(ModuleError, match="weight_norm: ReLU has no parameter 'weight'"):
        weight_norm(nn.ReLU())
    with pytest.raises(ShapeError, match="weight_norm: weight has no axis 2"):
        weight_norm(nn.Linear(1, 1), dim=2)
    with pytest.raises(ArgumentError, match="n_power_iterations must be a positive integer"):
        spectral_norm(nn.Linear(1, 1), n_power_iterations=0)
