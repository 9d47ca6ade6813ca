"""The same weights in PyTorch's layers and ours: the same outputs and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.comparison

RNG = np.random.default_rng(0)
Array = np.ndarray[Any, Any]


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def compare(ours: nn.Module, theirs: Any, *inputs: Array, tolerance: float = 1e-9) -> None:
    """Outputs and the gradients by inputs and parameters, in float64."""
    ours.to(schuss.float64)
    theirs.double()
    state = {name: each.detach().numpy() for name, each in theirs.state_dict().items()}
    ours.load_state_dict(state)
    floating = [x.dtype.kind == "f" for x in inputs]
    mine = [schuss.tensor(x, requires_grad=f) for x, f in zip(inputs, floating, strict=True)]
    other = [torch.tensor(x, requires_grad=f) for x, f in zip(inputs, floating, strict=True)]
    y, z = ours(*mine), theirs(*other)
    close(y.numpy(), z.detach().numpy(), tolerance)
    gradient = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(schuss.tensor(gradient))
    z.backward(torch.tensor(gradient))
    for a, b, f in zip(mine, other, floating, strict=True):
        if f:
            close(a.grad.numpy(), b.grad.numpy(), tolerance)
    their_parameters = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        close(parameter.grad.numpy(), their_parameters[name].grad.numpy(), tolerance)
    for name, value in ours.state_dict().items():
        close(value.numpy(), theirs.state_dict()[name].numpy(), tolerance)


def close(a: Array, b: Array, tolerance: float) -> None:
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape: tuple[int, ...], bias: bool) -> None:
    compare(nn.Linear(4, 3, bias), torch.nn.Linear(4, 3, bias), normal(*shape))


CONV: list[tuple[dict[str, Any], tuple[int, int]]] = [
    ({"kernel_size": 3}, (7, 6)),
    ({"kernel_size": 1, "bias": False}, (3, 3)),
    ({"kernel_size": (2, 3), "stride": (3, 2)}, (8, 9)),
    ({"kernel_size": 3, "padding": 2}, (4, 5)),
    ({"kernel_size": (3, 2), "padding": (2, 0), "stride": 2}, (5, 6)),
    ({"kernel_size": 3, "dilation": (2, 1), "padding": 1}, (7, 6)),
    ({"kernel_size": 3, "padding": "same"}, (5, 4)),
    ({"kernel_size": (4, 2), "padding": "same", "dilation": (1, 3)}, (6, 7)),
    ({"kernel_size": 2, "padding": "valid"}, (5, 4)),
    ({"kernel_size": 3, "groups": 2, "stride": 2, "padding": 1}, (7, 7)),
    ({"kernel_size": 3, "groups": 4, "bias": False}, (5, 5)),
    ({"kernel_size": 2, "groups": 2, "dilation": 2, "stride": 2, "padding": 1}, (9, 8)),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize(("options", "size"), CONV)
@pytest.mark.parametrize("batch", [1, 3])
def test_conv(options: dict[str, Any], size: tuple[int, int], batch: int) -> None:
    compare(nn.Conv2d(4, 8, **options), torch.nn.Conv2d(4, 8, **options), normal(batch, 4, *size))
    flat = {key: value[1] if isinstance(value, tuple) else value for key, value in options.items()}
    compare(nn.Conv1d(4, 8, **flat), torch.nn.Conv1d(4, 8, **flat), normal(batch, 4, size[1]))


POOL: list[tuple[dict[str, Any], tuple[int, int]]] = [
    ({"kernel_size": 2}, (6, 5)),
    ({"kernel_size": (2, 3), "stride": (1, 2)}, (5, 8)),
    ({"kernel_size": 3, "stride": 2, "padding": 1}, (7, 6)),
    ({"kernel_size": (3, 2), "stride": 1, "padding": (1, 1)}, (5, 4)),
    ({"kernel_size": 1}, (1, 1)),
]


@pytest.mark.parametrize(("options", "size"), POOL)
@pytest.mark.parametrize("name", ["MaxPool", "AvgPool"])
@pytest.mark.parametrize("rank", [1, 2])
def test_pool(options: dict[str, Any], size: tuple[int, int], name: str, rank: int) -> None:
    if rank == 1:
        size = size[1:]
        options = {
            key: value[1] if isinstance(value, tuple) else value for key, value in options.items()
        }
    variants: list[dict[str, Any]] = [{}]
    if name == "MaxPool":
        variants += [{"dilation": 2}] if min(size) >= 5 else []
    else:
        variants += [{"count_include_pad": False}]
    for more in variants:
        both = [getattr(kind, f"{name}{rank}d")(**options, **more) for kind in (nn, torch.nn)]
        compare(*both, normal(2, 3, *size))


@pytest.mark.parametrize(
    ("size", "output"),
    [((6, 4), 2), ((5, 7), (3, 2)), ((3, 2), (5, 3)), ((1, 1), 1), ((10, 9), (7, 4))],
)
@pytest.mark.parametrize("name", ["AdaptiveAvgPool", "AdaptiveMaxPool"])
def test_adaptive_pool(size: tuple[int, int], output: Any, name: str) -> None:
    compare(
        getattr(nn, f"{name}2d")(output),
        getattr(torch.nn, f"{name}2d")(output),
        normal(2, 3, *size),
    )
    output = output[1] if isinstance(output, tuple) else output
    compare(
        getattr(nn, f"{name}1d")(output),
        getattr(torch.nn, f"{name}1d")(output),
        normal(2, 3, size[1]),
    )


NORMS: list[tuple[str, tuple[int, ...]]] = [("BatchNorm1d", (6, 3)), ("BatchNorm1d", (2, 3, 5)),
                                            ("BatchNorm2d", (2, 3, 4, 5))]  # fmt: skip
NORM_OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.3, "eps": 1e-2},
    {"momentum": None},
    {"affine": False},
    {"track_running_stats": False},
]


@pytest.mark.parametrize(("name", "shape"), NORMS)
@pytest.mark.parametrize("options", NORM_OPTIONS)
def test_batch_norm(name: str, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    ours, theirs = (getattr(kind, name)(3, **options) for kind in (nn, torch.nn))
    for _ in range(3):
        ours.zero_grad()
        theirs.zero_grad()
        compare(ours, theirs, 3 * normal(*shape) + 1)
    ours.eval().zero_grad()
    theirs.eval().zero_grad()
    compare(ours, theirs, normal(*shape))


@pytest.mark.parametrize(("shape", "size"), [(4, (3, 4)), ((2, 3), (5, 2, 3)), (1, (3, 1))])
@pytest.mark.parametrize(
    "options", [{}, {"eps": 0.1}, {"elementwise_affine": False}, {"bias": False}]
)
def test_layer_norm(shape: Any, size: tuple[int, ...], options: dict[str, Any]) -> None:
    compare(nn.LayerNorm(shape, **options), torch.nn.LayerNorm(shape, **options), normal(*size))


@pytest.mark.parametrize("padding", [None, 0, 2])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_embedding(padding: int | None, shape: tuple[int, ...]) -> None:
    indices = RNG.integers(0, 4, shape)
    compare(nn.Embedding(4, 3, padding), torch.nn.Embedding(4, 3, padding), np.asarray(indices))


ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("ReLU", {}),
    ("ReLU6", {}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("SiLU", {}),
    ("SELU", {}),
    ("Softplus", {}),
    ("Softsign", {}),
    ("LogSigmoid", {}),
    ("LeakyReLU", {"negative_slope": 0.2}),
    ("ELU", {"alpha": 0.7}),
    ("GELU", {}),
    ("GELU", {"approximate": "tanh"}),
    ("Hardtanh", {"min_val": -0.5, "max_val": 2.0}),
    ("PReLU", {}),
    ("PReLU", {"num_parameters": 3, "init": 0.1}),
]


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS)
def test_activation(name: str, options: dict[str, Any]) -> None:
    ours, theirs = (getattr(kind, name)(**options) for kind in (nn, torch.nn))
    compare(ours, theirs, 4 * normal(2, 3, 5), tolerance=1e-8)  # their softplus is linear beyond 20


@pytest.mark.parametrize(
    "name", ["ReLU", "SiLU", "SELU", "Softplus", "Softsign", "LogSigmoid", "ELU", "GELU"]
)
def test_activation_at_zero(name: str) -> None:
    compare(getattr(nn, name)(), getattr(torch.nn, name)(), np.zeros(3))


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(name: str, axis: int) -> None:
    compare(getattr(nn, name)(axis=axis), getattr(torch.nn, name)(dim=axis), normal(2, 3, 4))


def test_network() -> None:
    def make(kind: Any) -> Any:
        return kind.Sequential(
            kind.Conv2d(1, 4, 3, padding=1), kind.BatchNorm2d(4), kind.ReLU(), kind.MaxPool2d(2),
            kind.Conv2d(4, 8, 3), kind.Tanh(), kind.Flatten(), kind.Linear(32, 10),
        )  # fmt: skip

    compare(make(nn), make(torch.nn), normal(3, 1, 8, 8), tolerance=1e-8)


FILLS: list[tuple[str, dict[str, Any]]] = [
    ("xavier_uniform_", {"gain": 2.0}), ("xavier_normal_", {}), ("kaiming_uniform_", {"a": 0.3}),
    ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}),
    ("trunc_normal_", {"std": 0.5, "a": -0.7, "b": 1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), FILLS)
def test_spread_of_initial_values(name: str, options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    theirs = torch.empty(64, 20, 3, 5)
    getattr(torch.nn.init, name)(theirs, **options, generator=generator)
    ours = getattr(nn.init, name)(
        schuss.zeros((64, 20, 3, 5)), **options, generator=schuss.Generator(0)
    )
    np.testing.assert_allclose(ours.numpy().std(), theirs.numpy().std(), rtol=0.02)
    np.testing.assert_allclose(np.abs(ours.numpy()).mean(), theirs.abs().mean().item(), rtol=0.02)


@pytest.mark.parametrize("name", ["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
def test_gain(name: str) -> None:
    assert nn.init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
