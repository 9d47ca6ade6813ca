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


# --- convolution ---


def convolve(
    x: np.ndarray, w: np.ndarray, stride: Any, pads: Any, dilation: Any, groups: int
) -> np.ndarray:
    """Sum of products at each place, for x (N, C, H, W)."""
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    n, o, per_group = x.shape[0], w.shape[0], w.shape[1]
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, w.shape[2:], strict=True)]
    sizes = [(m - span) // s + 1 for m, span, s in zip(x.shape[2:], spans, stride, strict=True)]
    y = np.zeros((n, o, *sizes))
    for c_out in range(o):
        first = c_out // (o // groups) * per_group
        for i in range(sizes[0]):
            for j in range(sizes[1]):
                top, left = i * stride[0], j * stride[1]
                patch = x[
                    :,
                    first : first + per_group,
                    top : top + spans[0] : dilation[0],
                    left : left + spans[1] : dilation[1],
                ]
                y[:, c_out, i, j] = (patch * w[c_out]).sum(axis=(1, 2, 3))
    return y


CONV2D: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "plain": ({"kernel_size": 3}, (2, 2, 5, 6)),
    "one by one": ({"kernel_size": 1}, (1, 2, 1, 1)),
    "uneven kernel": ({"kernel_size": (2, 3)}, (2, 2, 4, 5)),
    "stride": ({"kernel_size": 2, "stride": (2, 3)}, (2, 2, 5, 7)),
    "padding": ({"kernel_size": 3, "padding": (2, 1)}, (1, 2, 3, 4)),
    "dilation": ({"kernel_size": 2, "dilation": (2, 3)}, (1, 2, 5, 6)),
    "groups": ({"kernel_size": 2, "groups": 2}, (2, 2, 3, 3)),
    "all": (
        {"kernel_size": (3, 2), "stride": 2, "padding": (2, 1), "dilation": (1, 2), "groups": 2},
        (2, 2, 5, 6),
    ),
    "no bias": ({"kernel_size": 2, "bias": False}, (1, 2, 3, 3)),
    "same": ({"kernel_size": (3, 4), "padding": "same", "dilation": (2, 1)}, (1, 2, 5, 5)),
    "valid": ({"kernel_size": 2, "padding": "valid"}, (1, 2, 3, 3)),
}


def as_pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def pads_of(options: dict[str, Any]) -> list[tuple[int, int]]:
    padding = options.get("padding", 0)
    if padding == "valid":
        padding = 0
    if padding == "same":
        kernel, dilation = as_pair(options["kernel_size"]), as_pair(options.get("dilation", 1))
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(p, p) for p in as_pair(padding)]


@pytest.mark.parametrize("name", CONV2D)
def test_conv2d(name: str, rng: Rng, check_layer: Check) -> None:
    options, shape = CONV2D[name]
    layer = nn.Conv2d(2, 4, **options, dtype=schuss.float64)
    x = rng.standard_normal(shape)
    expected = convolve(
        x,
        layer.weight.numpy(),
        as_pair(options.get("stride", 1)),
        pads_of(options),
        as_pair(options.get("dilation", 1)),
        options.get("groups", 1),
    )
    if layer.bias is not None:
        expected = expected + layer.bias.numpy()[:, None, None]
    y = layer(schuss.tensor(x))
    assert y.shape == expected.shape
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10, atol=1e-12)
    if options.get("padding") == "same":
        assert y.shape[2:] == shape[2:]
    check_layer(layer, x)


@pytest.mark.parametrize("name", CONV2D)
def test_conv1d(name: str, rng: Rng, check_layer: Check) -> None:
    """As conv2d along the last axis."""
    pairs, shape = CONV2D[name]
    options = {key: value[1] if isinstance(value, tuple) else value for key, value in pairs.items()}
    layer = nn.Conv1d(2, 4, **options, dtype=schuss.float64)
    x = rng.standard_normal((*shape[:2], shape[3]))
    expected = convolve(
        x[:, :, None],
        layer.weight.numpy()[:, :, None],
        (1, options.get("stride", 1)),
        [(0, 0), pads_of(options)[1]],
        (1, options.get("dilation", 1)),
        options.get("groups", 1),
    )[:, :, 0]
    if layer.bias is not None:
        expected = expected + layer.bias.numpy()[:, None]
    y = layer(schuss.tensor(x))
    assert y.shape == expected.shape
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10, atol=1e-12)
    check_layer(layer, x)


def test_conv_of_an_empty_batch() -> None:
    layer = nn.Conv2d(2, 3, 3, padding=1)
    y = layer(schuss.zeros((0, 2, 5, 5)))
    assert y.numpy().shape == (0, 3, 5, 5)
    y.sum().backward()
    np.testing.assert_array_equal(layer.weight.grad.numpy(), np.zeros((3, 2, 3, 3)))


def test_conv_is_not_mirrored() -> None:
    layer = nn.Conv1d(1, 1, 2, bias=False)
    layer.weight.assign(np.float32([[[1, 10]]]))
    y = layer(schuss.tensor([[[1.0, 2, 3]]]))
    np.testing.assert_array_equal(y.numpy(), [[[21, 32]]])


def test_conv_of_wrong_channels() -> None:
    layer = nn.Conv2d(3, 4, 3)
    with pytest.raises(ShapeError, match=r"Conv2d: expects 3 input channels on axis 1, got 5\n"
                       r"  x: \(1, 5, 8, 8\) float32"):  # fmt: skip
        layer(schuss.ones((1, 5, 8, 8)))
    with pytest.raises(ShapeError, match=r"hint: channels come before the sizes: \(N, C, ...\)"):
        layer(schuss.ones((1, 8, 8, 3)))


def test_conv_without_batch_axis() -> None:
    with pytest.raises(
        ShapeError,
        match=r"conv2d: x must have the 4 axes \(N, C, H, W\)\n"
        r"  x: \(3, 8, 8\)(.|\n)*hint: add a batch axis with x\[None\]",
    ):
        nn.Conv2d(3, 4, 3)(schuss.ones((3, 8, 8)))
    with pytest.raises(ShapeError, match=r"conv1d: x must have the 3 axes \(N, C, L\)"):
        nn.Conv1d(3, 4, 3)(schuss.ones((3,)))


def test_conv_kernel_larger_than_input() -> None:
    with pytest.raises(ShapeError, match=r"the kernel is larger than the padded input\n"
                       r"  x: \(1, 1, 2, 2\)(.|\n)*in: Conv2d"):  # fmt: skip
        nn.Conv2d(1, 1, 3)(schuss.ones((1, 1, 2, 2)))


def test_conv_of_integers() -> None:
    with pytest.raises(DTypeError, match="Conv1d: needs floating input"):
        nn.Conv1d(1, 1, 1)(schuss.ones((1, 1, 1), dtype=schuss.int64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 0}, "kernel_size must be an integer of at least 1, or 2 of them"),
        ({"kernel_size": (1, 2, 3)}, "kernel_size must be an integer of at least 1, or 2"),
        ({"kernel_size": 2.0}, "kernel_size must be an integer of at least 1, or 2 of them"),
        ({"kernel_size": None}, "kernel_size must be an integer of at least 1, or 2 of them"),
        ({"kernel_size": 2, "stride": 0}, "stride must be an integer of at least 1, or 2"),
        ({"kernel_size": 2, "padding": -1}, "padding must be an integer of at least 0, or 2"),
        ({"kernel_size": 2, "dilation": True}, "dilation must be an integer of at least 1, or"),
        ({"kernel_size": 2, "padding": "full"}, "padding is an integer, a sequence, 'same' or"),
        ({"kernel_size": 2, "padding": "same", "stride": 2}, "padding='same' needs stride 1"),
        ({"kernel_size": 2, "groups": 3}, "groups must divide the channels"),
        ({"kernel_size": 2, "groups": 0}, "groups must be a positive integer"),
    ],
)
def test_conv_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"Conv2d: {message}"):
        nn.Conv2d(4, 4, **options)


def test_function_conv_errors() -> None:
    weight = schuss.ones((4, 2, 3))
    with pytest.raises(ShapeError, match="conv1d: x has 3 channels, the weight takes 2"):
        F.conv1d(schuss.ones((1, 3, 5)), weight)
    with pytest.raises(ArgumentError, match="conv1d: groups must divide the output channels"):
        F.conv1d(schuss.ones((1, 6, 5)), weight, groups=3)


def test_printed_conv() -> None:
    layer = nn.Conv2d(2, 4, 3, stride=2, padding="valid", dilation=(1, 2), groups=2, bias=False)
    assert repr(layer) == (
        "Conv2d(2, 4, kernel_size=(3, 3), stride=(2, 2), padding='valid', dilation=(1, 2), "
        "groups=2, bias=False)  # 36 parameters"
    )
    assert repr(nn.Linear(2, 3, bias=False)) == "Linear(2, 3, bias=False)  # 6 parameters"


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
