"""Linear, convolution, embedding, dropout, flatten, sequential."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    DTypeError,
    OutOfBoundsError,
    ShapeError,
)

F = nn.functional
Check = Callable[..., None]
Rng = np.random.Generator


# --- linear ---


@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 4), (2, 3, 4), (0, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape: tuple[int, ...], bias: bool, rng: Rng) -> None:
    layer = nn.Linear(4, 3, bias=bias)
    x = rng.standard_normal(shape).astype(np.float32)
    expected = np.einsum("...i,oi->...o", x, layer.weight.numpy())
    if layer.bias is not None:
        expected = expected + layer.bias.numpy()
    y = layer(schuss.tensor(x))
    assert y.shape == (*shape[:-1], 3)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert (layer.bias is not None) == bias


@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (2, 3, 4)])
def test_linear_gradients(shape: tuple[int, ...], rng: Rng, check_layer: Check) -> None:
    check_layer(nn.Linear(4, 3), rng.standard_normal(shape))


def test_linear_of_one_feature(rng: Rng, check_layer: Check) -> None:
    check_layer(nn.Linear(1, 1, bias=False), rng.standard_normal((5, 1)))


def test_initial_values_lie_within_one_over_root_of_fan_in() -> None:
    linear, conv = nn.Linear(16, 300), nn.Conv2d(2, 300, 3, groups=2)
    for layer, fan_in in ((linear, 16), (conv, 9)):
        for values in (layer.weight.numpy(), layer.bias.numpy()):
            bound = 1 / math.sqrt(fan_in)
            assert np.abs(values).max() < bound
            assert np.abs(values).max() > 0.9 * bound
            assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.2)


@pytest.mark.usefixtures("one_tier")
@pytest.mark.parametrize(
    "make",
    [
        lambda g: nn.Linear(3, 2, generator=g),
        lambda g: nn.Conv1d(3, 2, 3, generator=g),
        lambda g: nn.Conv2d(3, 2, 3, generator=g),
        lambda g: nn.Embedding(3, 2, generator=g),
    ],
    ids=["Linear", "Conv1d", "Conv2d", "Embedding"],
)
def test_generator_makes_initial_values_repeat(make: Callable[[Any], nn.Module]) -> None:
    first, second, third = (make(schuss.Generator(seed)) for seed in (1, 1, 2))
    for a, b, c in zip(first.parameters(), second.parameters(), third.parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
        assert not np.array_equal(a.numpy(), c.numpy())


@pytest.mark.parametrize("dtype", [schuss.float64, schuss.bfloat16])
def test_dtype_of_parameters(dtype: Any) -> None:
    layers = [
        nn.Linear(2, 2, dtype=dtype),
        nn.Conv1d(1, 1, 1, dtype=dtype),
        nn.Embedding(2, 2, dtype=dtype),
        nn.BatchNorm1d(2, dtype=dtype),
        nn.LayerNorm(2, dtype=dtype),
    ]
    assert {p.dtype for layer in layers for p in layer.parameters()} == {dtype}


def test_linear_of_wrong_features() -> None:
    with pytest.raises(
        ShapeError,
        match=r"Linear: the last axis must have in_features=4 elements"
        r"\n  x: \(2, 3\) float32\n  weight: \(5, 4\) float32\n  in: Linear",
    ):
        nn.Linear(4, 5)(schuss.ones((2, 3)))
    with pytest.raises(ShapeError, match=r"in_features=4"):
        nn.Linear(4, 5)(schuss.ones(()))


def test_linear_of_images_hints_at_flatten() -> None:
    with pytest.raises(ShapeError, match=r"hint: flatten all but the batch axis first: x.flatten"):
        nn.Linear(12, 5)(schuss.ones((2, 3, 4)))


def test_linear_of_integers() -> None:
    with pytest.raises(DTypeError, match=r"Linear: needs floating input\n  x: \(2, 4\) int64"):
        nn.Linear(4, 5)(schuss.ones((2, 4), dtype=schuss.int64))


def test_linear_of_an_array() -> None:
    with pytest.raises(ArgumentTypeError, match="Linear: needs a tensor, got ndarray"):
        nn.Linear(4, 5)(np.ones((2, 4)))


@pytest.mark.parametrize("sizes", [(0, 1), (1, -1), (2.0, 1), (True, 1)])
def test_linear_sizes(sizes: tuple[Any, Any]) -> None:
    with pytest.raises(
        ArgumentError, match=r"Linear: (in|out)_features must be a positive integer"
    ):
        nn.Linear(*sizes)


def test_function_linear_of_wrong_features() -> None:
    with pytest.raises(ShapeError, match="linear: the last axis of x must have 4 features"):
        F.linear(schuss.ones((2, 3)), schuss.ones((5, 4)))


# --- embedding ---


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (0,)])
def test_embedding(shape: tuple[int, ...], rng: Rng) -> None:
    layer = nn.Embedding(5, 3)
    indices = rng.integers(0, 5, shape)
    y = layer(schuss.tensor(indices))
    assert y.shape == (*shape, 3)
    np.testing.assert_array_equal(y.numpy(), layer.weight.numpy()[indices])


def test_embedding_gradients() -> None:
    """Repeated rows add up."""
    layer = nn.Embedding(4, 2)
    gradient = np.float32([[1, 2], [3, 4], [5, 6]])
    layer(schuss.tensor([2, 0, 2])).backward(schuss.tensor(gradient))
    np.testing.assert_array_equal(layer.weight.grad.numpy(), [[3, 4], [0, 0], [6, 8], [0, 0]])
    schuss.check_gradients(lambda w: F.embedding([[2, 0], [2, 1]], w), [np.ones((4, 2))])


@pytest.mark.parametrize("dtype", [schuss.uint8, schuss.int32, schuss.int64])
def test_embedding_takes_any_integers(dtype: Any) -> None:
    layer = nn.Embedding(4, 2)
    y = layer(schuss.tensor([3]).astype(dtype))
    np.testing.assert_array_equal(y.numpy(), layer.weight.numpy()[[3]])


def test_embedding_padding() -> None:
    layer = nn.Embedding(4, 2, padding_idx=1)
    np.testing.assert_array_equal(layer.weight.numpy()[1], [0, 0])
    layer(schuss.tensor([[1, 2], [1, 1]])).sum().backward()
    np.testing.assert_array_equal(layer.weight.grad.numpy(), [[0, 0], [0, 0], [1, 1], [0, 0]])
    assert repr(layer) == "Embedding(4, 2, padding_idx=1)  # 8 parameters"


@pytest.mark.parametrize("index", [4, -1])
def test_embedding_outside_the_table(index: int) -> None:
    layer = nn.Embedding(4, 2)
    rows = layer(schuss.tensor([0, index]))
    with pytest.raises(OutOfBoundsError, match=rf"index {index} is outside(.|\n)*in: Embedding"
                       r"(.|\n)*at: .*test_layers.py:\d+"):  # fmt: skip
        rows.numpy()


def test_embedding_errors() -> None:
    with pytest.raises(OutOfBoundsError, match="Embedding: padding_idx is outside the table"):
        nn.Embedding(4, 2, padding_idx=4)
    with pytest.raises(ArgumentError, match="num_embeddings must be a positive integer"):
        nn.Embedding(0, 2)
    with pytest.raises(DTypeError, match=r"embedding: indices must be integers\n  indices: \(1,\)"):
        nn.Embedding(4, 2)(schuss.ones(1))
    with pytest.raises(ArgumentTypeError, match="Embedding: needs a tensor, got list"):
        nn.Embedding(4, 2)([1])


# --- dropout ---


def test_dropout_in_training() -> None:
    layer = nn.Dropout(0.25, generator=schuss.Generator(1))
    y = layer(schuss.ones(40_000)).numpy()
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.75], rtol=1e-6)
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.01)
    assert y.mean() == pytest.approx(1, abs=0.02)


def test_dropout_draws_anew_each_time() -> None:
    layer = nn.Dropout(0.5, generator=schuss.Generator(1))
    x = schuss.ones(100)
    assert not np.array_equal(layer(x).numpy(), layer(x).numpy())


def test_dropout_repeats_with_the_generator() -> None:
    x = schuss.ones(100)
    first, second = (nn.Dropout(generator=schuss.Generator(7))(x).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_dropout_drops_the_same_gradients() -> None:
    layer = nn.Dropout(0.5, generator=schuss.Generator(1))
    x = schuss.ones(50).requires_grad_()
    y = layer(x)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())


def test_dropout_in_evaluation() -> None:
    x = schuss.ones(3)
    for y in (nn.Dropout(0.9).eval()(x), nn.Dropout(0.0)(x)):
        y += 1
        np.testing.assert_array_equal(y.numpy(), [2, 2, 2])
    np.testing.assert_array_equal(x.numpy(), [1, 1, 1])


def test_dropout_of_everything() -> None:
    np.testing.assert_array_equal(nn.Dropout(1.0)(schuss.ones(3)).numpy(), [0, 0, 0])


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_dropout_probability(p: float) -> None:
    with pytest.raises(ArgumentError, match="Dropout: p is a probability"):
        nn.Dropout(p)
    with pytest.raises(ArgumentError, match="dropout: p is a probability"):
        F.dropout(schuss.ones(1), p)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_dropout_of_channels(rank: int) -> None:
    layer = getattr(nn, f"Dropout{rank}d")(0.25)
    x = schuss.ones((40, 50, *(2,) * rank))
    y = layer(x).numpy()
    flat = y.reshape(2000, -1)
    assert (flat == flat[:, :1]).all(), "whole channels"
    assert set(np.unique(flat)) == {np.float32(0), np.float32(4 / 3)}
    assert (flat[:, 0] == 0).mean() == pytest.approx(0.25, abs=0.05)
    assert (layer.eval()(x).numpy() == 1).all()
    assert (getattr(nn, f"Dropout{rank}d")(1.0)(x).numpy() == 0).all()
    message = f"dropout{rank}d: x must have {rank + 2} axes, batch and channels first"
    with pytest.raises(ShapeError, match=message):
        layer(schuss.ones((2, 2)))


# --- shapes and sequences ---


def test_flatten() -> None:
    x = schuss.ones((2, 3, 4, 5))
    assert nn.Flatten()(x).shape == (2, 60)
    assert nn.Flatten(0)(x).shape == (120,)
    assert nn.Flatten(1, 2)(x).shape == (2, 12, 5)
    assert nn.Flatten()(schuss.ones((0, 3, 4))).shape == (0, 12)


def test_identity() -> None:
    x = schuss.ones(3)
    assert nn.Identity()(x) is x


def test_sequential() -> None:
    first, second = nn.Linear(2, 3), nn.Linear(3, 1)
    model = nn.Sequential(first, nn.ReLU(), second)
    x = schuss.ones((4, 2))
    np.testing.assert_array_equal(model(x).numpy(), second(first(x).relu()).numpy())
    assert list(dict(model.named_parameters())) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(model) == 3
    assert next(iter(model)) is first
    assert model[-1] is second
    assert isinstance(model[1:], nn.Sequential)
    assert list(dict(model[1:].named_parameters())) == ["1.weight", "1.bias"]
    assert model[1:][1] is second


def test_sequential_grows() -> None:
    model = nn.Sequential()
    x = schuss.ones(2)
    assert model(x) is x
    assert model.append(nn.Linear(2, 1)) is model
    assert model(x).shape == (1,)


def test_subclass_of_sequential_keeps_its_own_layers() -> None:
    class Net(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(2, 2))
            self.head = nn.Linear(2, 1)

    assert list(dict(Net().named_parameters())) == [
        "0.weight",
        "0.bias",
        "head.weight",
        "head.bias",
    ]


def test_sequential_of_functions() -> None:
    with pytest.raises(ArgumentTypeError, match="Sequential: layer 1 is no Module but function"):
        nn.Sequential(nn.Linear(2, 2), schuss.relu)
    with pytest.raises(ArgumentTypeError, match=r"layer 0 is no Module but list(.|\n)*\*layers"):
        nn.Sequential([nn.Linear(2, 2)])
    with pytest.raises(ArgumentTypeError, match="Sequential: layer 0 is no Module but float"):
        nn.Sequential().append(2.0)
