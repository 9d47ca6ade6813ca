"""Activations: values against NumPy, gradients against differences, behaviour far out and at
kinks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import ArgumentError, ArgumentTypeError, ShapeError

F = nn.functional
Oracle = Callable[[np.ndarray], np.ndarray]


def elu(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x > 0, x, alpha * (np.exp(np.minimum(x, 0)) - 1))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)


def normal_distribution(x: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda v: 0.5 * (1 + math.erf(v / math.sqrt(2))))(x)


def tanh_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


CASES: dict[str, tuple[nn.Module, Oracle]] = {
    "ReLU": (nn.ReLU(), lambda x: np.maximum(x, 0)),
    "ReLU6": (nn.ReLU6(), lambda x: np.clip(x, 0, 6)),
    "Sigmoid": (nn.Sigmoid(), lambda x: 1 / (1 + np.exp(-x))),
    "Tanh": (nn.Tanh(), np.tanh),
    "SiLU": (nn.SiLU(), lambda x: x / (1 + np.exp(-x))),
    "SELU": (nn.SELU(), lambda x: 1.0507009873554805 * elu(x, 1.6732632423543772)),
    "Softplus": (nn.Softplus(), lambda x: np.log(1 + np.exp(x))),
    "Softsign": (nn.Softsign(), lambda x: x / (1 + np.abs(x))),
    "LogSigmoid": (nn.LogSigmoid(), lambda x: -np.log(1 + np.exp(-x))),
    "LeakyReLU": (nn.LeakyReLU(), lambda x: np.where(x > 0, x, 0.01 * x)),
    "LeakyReLU 0.3": (nn.LeakyReLU(0.3), lambda x: np.where(x > 0, x, 0.3 * x)),
    "ELU": (nn.ELU(), lambda x: elu(x, 1.0)),
    "ELU 0.7": (nn.ELU(alpha=0.7), lambda x: elu(x, 0.7)),
    "GELU": (nn.GELU(), lambda x: x * normal_distribution(x)),
    "GELU tanh": (nn.GELU(approximate="tanh"), tanh_gelu),
    "Hardtanh": (nn.Hardtanh(), lambda x: np.clip(x, -1, 1)),
    "Hardtanh -0.5 2": (nn.Hardtanh(-0.5, 2.0), lambda x: np.clip(x, -0.5, 2)),
    "Softmax": (nn.Softmax(), lambda x: softmax(x, -1)),
    "Softmax 0": (nn.Softmax(axis=0), lambda x: softmax(x, 0)),
    "LogSoftmax": (nn.LogSoftmax(), lambda x: np.log(softmax(x, -1))),
    "LogSoftmax 1": (nn.LogSoftmax(axis=1), lambda x: np.log(softmax(x, 1))),
    "PReLU": (nn.PReLU(), lambda x: np.where(x > 0, x, 0.25 * x)),
    "PReLU 3": (nn.PReLU(3, init=0.5), lambda x: np.where(x > 0, x, 0.5 * x)),
}
X = np.random.default_rng(1).uniform(0.1, 7, (2, 3, 5)) * np.tile([1, -1, 0.3, -0.3, 1], (2, 3, 1))


def test_every_activation_is_covered() -> None:
    known = {name.split()[0] for name in CASES}
    layers = [getattr(nn, name) for name in nn.__all__ if name[0].isupper()]
    assert {each.__name__ for each in layers if "activations" in each.__module__} == known


@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    layer, oracle = CASES[name]
    y = layer(schuss.tensor(X))
    assert y.dtype == schuss.float64
    np.testing.assert_allclose(y.numpy(), oracle(X), rtol=1e-7, atol=1e-12)  # weights are float32


@pytest.mark.parametrize("name", CASES)
def test_values_float32(name: str) -> None:
    layer, oracle = CASES[name]
    y = layer(schuss.tensor(X.astype(np.float32)))
    assert y.dtype == schuss.float32
    np.testing.assert_allclose(y.numpy(), oracle(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, check_layer: Callable[..., None]) -> None:
    layer, _ = CASES[name]
    check_layer(copy.deepcopy(layer), X)


@pytest.mark.parametrize("name", CASES)
def test_empty_batch(name: str) -> None:
    layer, _ = CASES[name]
    shape = (2, 3, 0) if name == "Softmax 0" else (0, 3, 2)
    assert layer(schuss.zeros(shape)).numpy().shape == shape


@pytest.mark.parametrize(
    "name", ["Softplus", "LogSigmoid", "SiLU", "Sigmoid", "ELU", "SELU", "GELU", "Tanh"]
)
def test_far_out(name: str) -> None:
    layer, _ = CASES[name]
    x = schuss.tensor([-1e4, 1e4], requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert x.grad is not None
    assert np.isfinite(y.numpy()).all()
    assert np.isfinite(x.grad.numpy()).all()


def test_softplus_at_infinity() -> None:
    x = schuss.tensor([-math.inf, math.inf, math.nan])
    np.testing.assert_array_equal(F.softplus(x).numpy(), [0, math.inf, math.nan])


def slope_at_zero(function: Callable[[schuss.Tensor], schuss.Tensor]) -> float:
    return float(schuss.grad(lambda x: function(x).sum())(schuss.tensor([0.0])).item())


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (F.relu, 0.0),
        (F.elu, 1.0),
        (F.selu, 1.0507009873554805 * 1.6732632423543772),
        (F.softplus, 0.5),
        (F.logsigmoid, 0.5),
        (F.silu, 0.5),
        (F.gelu, 0.5),
        (F.softsign, 1.0),
        (F.leaky_relu, 0.01),
    ],
)
def test_slope_at_zero(function: Callable[[schuss.Tensor], schuss.Tensor], slope: float) -> None:
    assert slope_at_zero(function) == pytest.approx(slope)


def test_curvature_of_softplus_at_zero() -> None:
    """Newton's method on a logistic regression starts there."""

    def slope(x: schuss.Tensor) -> schuss.Tensor:
        return schuss.grad(lambda v: F.softplus(v).sum())(x).sum()

    assert schuss.grad(slope)(schuss.tensor([0.0])).item() == pytest.approx(0.25)


def test_softmax_of_large_logits() -> None:
    x = schuss.tensor([[1e4, 0.0, -1e4]])
    np.testing.assert_array_equal(F.softmax(x).numpy(), [[1, 0, 0]])
    np.testing.assert_array_equal(F.log_softmax(x).numpy(), [[0, -1e4, -2e4]])


def test_softmax_with_masked_logits() -> None:
    x = schuss.tensor([[1.0, -math.inf]], requires_grad=True)
    F.log_softmax(x)[0, 0].backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [[0, 0]])


def test_prelu_for_each_channel() -> None:
    layer = nn.PReLU(3)
    layer.weight.assign(np.float32([0, 0.5, 2]))
    np.testing.assert_array_equal(layer(-schuss.ones((1, 3))).numpy(), [[0, -0.5, -2]])
    y = layer(-schuss.ones((1, 3, 1, 2))).numpy()
    np.testing.assert_array_equal(y[0, :, 0, 1], [0, -0.5, -2])


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 4), (3, 2, 3)])
def test_prelu_of_other_channels(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"PReLU: x must have 3 channels on axis 1"):
        nn.PReLU(3)(schuss.ones(shape))


def test_prelu_needs_parameters() -> None:
    with pytest.raises(ArgumentError, match="PReLU: num_parameters must be a positive integer"):
        nn.PReLU(0)


def test_unknown_approximation() -> None:
    with pytest.raises(ArgumentError, match="gelu: approximate is 'none' or 'tanh'"):
        nn.GELU(approximate="erf")(schuss.ones(2))


@pytest.mark.parametrize("layer", [nn.Softmax, nn.LogSoftmax])
def test_dim_is_called_axis(layer: type[nn.Module]) -> None:
    with pytest.raises(ArgumentTypeError, match="the argument 'dim' is called 'axis' here"):
        layer(dim=1)


def test_needs_a_tensor() -> None:
    with pytest.raises(ArgumentTypeError, match="ReLU: needs a tensor, got ndarray"):
        nn.ReLU()(np.ones(2))
    with pytest.raises(ArgumentTypeError, match=r"hint: schuss.tensor\(array\)"):
        nn.PReLU()([1.0])


def test_printed_settings() -> None:
    assert repr(nn.LeakyReLU(0.2)) == "LeakyReLU(negative_slope=0.2)"
    assert repr(nn.Softmax(axis=1)) == "Softmax(axis=1)"
    assert repr(nn.ReLU()) == "ReLU()"
    assert repr(nn.PReLU(3)) == "PReLU()  # 3 parameters"
