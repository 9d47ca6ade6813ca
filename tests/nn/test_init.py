"""Initial values: bounds and deviations, orthogonality, generators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import ArgumentError, ShapeError
from schuss.nn import init

CONV = (64, 20, 3, 5)  # fan-in 300, fan-out 960


def drawn(
    function: Callable[..., Any], shape: tuple[int, ...] = CONV, **options: Any
) -> np.ndarray:
    parameter = nn.Parameter(schuss.zeros(shape))
    assert function(parameter, generator=schuss.Generator(3), **options) is parameter
    assert parameter.requires_grad
    assert parameter.is_leaf
    assert parameter.dtype == schuss.float32
    return parameter.numpy()


def test_fans() -> None:
    assert init.fans(schuss.zeros(CONV)) == (300, 960)
    assert init.fans(schuss.zeros((3, 2))) == (2, 3)


RELU = math.sqrt(2)
UNIFORM = [
    (init.xavier_uniform_, {}, math.sqrt(6 / 1260)),
    (init.xavier_uniform_, {"gain": 2.0}, 2 * math.sqrt(6 / 1260)),
    (init.kaiming_uniform_, {}, RELU * math.sqrt(3 / 300)),
    (init.kaiming_uniform_, {"a": math.sqrt(5)}, 1 / math.sqrt(300)),
    (init.kaiming_uniform_, {"mode": "fan_out", "nonlinearity": "relu"}, RELU * math.sqrt(3 / 960)),
    (init.uniform_, {"a": -3.0, "b": 3.0}, 3.0),
]
NORMAL = [
    (init.xavier_normal_, {}, math.sqrt(2 / 1260)),
    (init.xavier_normal_, {"gain": 5 / 3}, 5 / 3 * math.sqrt(2 / 1260)),
    (init.kaiming_normal_, {}, RELU / math.sqrt(300)),
    (init.kaiming_normal_, {"mode": "fan_out", "nonlinearity": "linear"}, 1 / math.sqrt(960)),
    (init.normal_, {"std": 0.3}, 0.3),
]


@pytest.mark.parametrize(("function", "options", "bound"), UNIFORM)
def test_uniform(function: Any, options: dict[str, Any], bound: float) -> None:
    values = drawn(function, **options)
    assert np.abs(values).max() <= bound * (1 + 1e-6)
    assert np.abs(values).max() > 0.99 * bound
    assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert values.mean() == pytest.approx(0, abs=0.02 * bound)


@pytest.mark.parametrize(("function", "options", "std"), NORMAL)
def test_normal(function: Any, options: dict[str, Any], std: float) -> None:
    values = drawn(function, **options)
    assert values.std() == pytest.approx(std, rel=0.02)
    assert values.mean() == pytest.approx(0, abs=0.02 * std)
    assert np.abs(values).max() > 3 * std


def test_normal_around_a_mean() -> None:
    assert drawn(init.normal_, mean=5.0).mean() == pytest.approx(5, abs=0.05)


def test_trunc_normal() -> None:
    values = drawn(init.trunc_normal_, mean=0.5, std=2.0, a=-1.0, b=2.0)
    assert values.min() >= -1
    assert values.max() <= 2
    assert np.unique(values).size > 0.9 * values.size, "nothing piles up at the limits"
    assert values.mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("limits", [(2.0, 1.0), (9.0, 10.0), (-10.0, -9.0)])
def test_trunc_normal_of_nothing(limits: tuple[float, float]) -> None:
    with pytest.raises(ArgumentError, match="trunc_normal_: the interval holds next to nothing"):
        drawn(init.trunc_normal_, a=limits[0], b=limits[1])


def test_constants() -> None:
    x = nn.Parameter(schuss.ones((2, 3), dtype=schuss.float64))
    assert init.zeros_(x) is x
    np.testing.assert_array_equal(x.numpy(), np.zeros((2, 3)))
    np.testing.assert_array_equal(init.ones_(x).numpy(), np.ones((2, 3)))
    np.testing.assert_array_equal(init.constant_(x, 0.1).numpy(), np.full((2, 3), 0.1))
    assert x.dtype == schuss.float64


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (2, 3, 2, 2), (1, 1)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    matrix = drawn(init.orthogonal_, shape, gain=2.0).reshape(shape[0], -1)
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    np.testing.assert_allclose(matrix @ matrix.T, 4 * np.eye(len(matrix)), atol=1e-5)


DRAWS = [
    init.uniform_, init.normal_, init.trunc_normal_, init.xavier_uniform_, init.xavier_normal_,
    init.kaiming_uniform_, init.kaiming_normal_, init.orthogonal_,
]  # fmt: skip


@pytest.mark.usefixtures("one_tier")
@pytest.mark.parametrize("function", DRAWS)
def test_generators_repeat(function: Any) -> None:
    tensors = [schuss.zeros((6, 5)) for _ in range(3)]
    for tensor, seed in zip(tensors, (1, 1, 2), strict=True):
        function(tensor, generator=schuss.Generator(seed))
    first, second, third = (each.numpy() for each in tensors)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


@pytest.mark.parametrize("function", DRAWS)
@pytest.mark.parametrize("dtype", [schuss.float64, schuss.float16, schuss.bfloat16])
def test_dtypes(function: Any, dtype: Any) -> None:
    x = function(schuss.zeros((6, 5), dtype=dtype))
    assert x.dtype == dtype
    assert np.unique(x.numpy().astype(np.float64)).size > 15


@pytest.mark.usefixtures("one_tier")
def test_default_generator() -> None:
    values = []
    for _ in range(2):
        schuss.manual_seed(5)
        values.append(init.normal_(schuss.zeros(7)).numpy())
    np.testing.assert_array_equal(*values)
    assert not np.array_equal(init.normal_(schuss.zeros(7)).numpy(), values[0])


@pytest.mark.parametrize(
    ("name", "param", "gain"),
    [
        ("linear", None, 1),
        ("conv", None, 1),
        ("sigmoid", None, 1),
        ("tanh", None, 5 / 3),
        ("relu", None, math.sqrt(2)),
        ("selu", None, 0.75),
        ("leaky_relu", None, math.sqrt(2 / 1.0001)),
        ("leaky_relu", 1.0, 1),
    ],
)
def test_gain(name: str, param: float | None, gain: float) -> None:
    assert init.calculate_gain(name, param) == pytest.approx(gain)


@pytest.mark.parametrize("function", DRAWS[3:7])
def test_fans_need_two_axes(function: Any) -> None:
    with pytest.raises(
        ShapeError, match=r"init: fans need a weight of at least 2 axes\n  tensor: \(3,\)"
    ):
        function(schuss.zeros(3))


def test_errors() -> None:
    with pytest.raises(ShapeError, match="orthogonal_: needs at least 2 axes"):
        init.orthogonal_(schuss.zeros(3))
    with pytest.raises(ArgumentError, match="init: mode is 'fan_in' or 'fan_out'"):
        init.kaiming_normal_(schuss.zeros((2, 2)), mode="fan_avg")  # type: ignore[arg-type]
    with pytest.raises(
        ArgumentError, match=r"no gain is known for 'gelu'(.|\n)*hint: one of linear, "
    ):
        init.calculate_gain("gelu")
