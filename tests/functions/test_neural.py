"""Activations, normalisation, convolution and pooling as functions: values, extremes, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

import schuss
from schuss.errors import ArgumentError, ArgumentTypeError, DTypeError, OutOfBoundsError, ShapeError
from schuss.functions import neural, pooling, windows

X = np.array([-800.0, -2.0, -0.5, 0.0, 0.5, 2.0, 800.0])


def phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


ACTIVATIONS = {
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x)),
    "softplus": lambda x: math.log1p(math.exp(-abs(x))) + max(x, 0),
    "logsigmoid": lambda x: min(x, 0) - math.log1p(math.exp(-abs(x))),
    "silu": lambda x: x / (1 + math.exp(-x)) if x > -700 else 0.0,
    "gelu": lambda x: x * phi(x),
    "softsign": lambda x: x / (1 + abs(x)),
    "hardtanh": lambda x: max(-1, min(1, x)),
    "relu6": lambda x: max(0, min(6, x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    found = getattr(neural, name)(schuss.tensor(X)).numpy()
    expected = [ACTIVATIONS[name](x) for x in X.tolist()]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", [*ACTIVATIONS, "softmax", "log_softmax"])
def test_gradients_stay_finite_far_out(name: str) -> None:
    x = schuss.tensor(X, requires_grad=True)
    getattr(neural, name)(x).sum().backward()
    assert np.isfinite(x.grad.numpy()).all()


def test_gelu_approximation() -> None:
    x = schuss.tensor([0.3])
    assert neural.gelu(x, "tanh").item() == pytest.approx(neural.gelu(x).item(), abs=1e-3)
    with pytest.raises(ArgumentError, match="approximate is 'none' or 'tanh'"):
        neural.gelu(x, "erf")


def test_softmax() -> None:
    x = np.array([[1000.0, 1000.0], [-1000.0, 0.0], [-np.inf, 0.0]])
    np.testing.assert_allclose(schuss.softmax(x).numpy(), [[0.5, 0.5], [0, 1], [0, 1]])
    np.testing.assert_allclose(
        schuss.log_softmax(x).numpy(), [[-math.log(2)] * 2, [-1000, 0], [-np.inf, 0]]
    )
    np.testing.assert_allclose(schuss.softmax(x, axis=0).numpy()[:, 0], [1, 0, 0])
    assert schuss.softmax([1, 2]).dtype == schuss.float32
    for function in (schuss.softmax, schuss.log_softmax):
        with pytest.raises(ArgumentTypeError, match="'dim' is called 'axis' here"):
            function(x, dim=1)


def test_linear() -> None:
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((2, 3, 4)), rng.standard_normal((5, 4)), rng.standard_normal(5)
    found = neural.linear(x, schuss.tensor(w), schuss.tensor(b))
    np.testing.assert_allclose(found.numpy(), x @ w.T + b)
    with pytest.raises(ShapeError, match="linear: the last axis of x must have 4 features"):
        neural.linear(x[..., :3], schuss.tensor(w))


def test_embedding() -> None:
    weight = schuss.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    rows = neural.embedding([[0, 1, 0]], weight)
    assert rows.tolist() == [[[1, 2], [3, 4], [1, 2]]]
    rows.sum().backward()
    assert weight.grad.tolist() == [[2, 2], [1, 1]]
    with pytest.raises(DTypeError, match="embedding: indices must be integers"):
        neural.embedding([0.5], weight)
    for bad in (-1, 2):
        with pytest.raises(
            OutOfBoundsError, match=f"index {bad} is outside axis 0: allowed are from 0 to 1"
        ):
            neural.embedding([bad], weight).numpy()


def test_layer_norm() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    y = neural.layer_norm(x, (3, 4), eps=0.0).numpy().reshape(2, -1)
    np.testing.assert_allclose(y.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=1), 1)
    with pytest.raises(ShapeError, match=r"the last axes of x must have the shape \(3,\)"):
        neural.layer_norm(x, (3,))


def same_as_padded(x: np.ndarray, w: np.ndarray, dilation: int) -> None:
    found = windows.conv1d(x, schuss.tensor(w), padding="same", dilation=dilation)
    total = dilation * (w.shape[-1] - 1)
    padded = np.pad(x, [(0, 0), (0, 0), (total // 2, total - total // 2)])
    plain = windows.conv1d(padded, schuss.tensor(w), dilation=dilation)
    np.testing.assert_allclose(found.numpy(), plain.numpy())
    assert found.shape[-1] == x.shape[-1]


def test_padding_same() -> None:
    rng = np.random.default_rng(0)
    for k in (1, 2, 3, 4):
        for dilation in (1, 2):
            same_as_padded(rng.standard_normal((1, 2, 9)), rng.standard_normal((3, 2, k)), dilation)


def test_convolution_of_half_precision() -> None:
    x = schuss.ones((1, 64, 8, 8), dtype=schuss.float16)
    w = schuss.ones((1, 64, 3, 3), dtype=schuss.float16)
    y = windows.conv2d(x, w)
    assert y.dtype == schuss.float16
    assert (y == 576).all()


def test_convolution_of_an_empty_batch() -> None:
    w = schuss.ones((3, 2, 3, 3))
    w.requires_grad = True
    y = windows.conv2d(schuss.zeros((0, 2, 5, 5)), w, schuss.ones(3))
    assert y.shape == (0, 3, 3, 3)
    y.sum().backward()
    assert w.grad.sum().item() == 0


def ones(*shape: int) -> schuss.Tensor:
    return schuss.ones(shape)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: windows.conv2d(ones(3, 5, 5), ones(1, 3, 3, 3)),
            ShapeError,
            r"the 4 axes \(N, C, H, W\)",
        ),
        (
            lambda: windows.conv1d(ones(1, 5, 5, 5), ones(1, 3, 3)),
            ShapeError,
            r"the 3 axes \(N, C, L\)",
        ),
        (
            lambda: windows.conv2d(ones(1, 4, 5, 5), ones(1, 3, 3, 3)),
            ShapeError,
            "x has 4 channels, the weight takes 3",
        ),
        (
            lambda: windows.conv2d(ones(1, 4, 5, 5), ones(3, 2, 3, 3), groups=2),
            ArgumentError,
            "groups must divide",
        ),
        (
            lambda: windows.conv2d(ones(1, 3, 2, 5), ones(1, 3, 3, 3)),
            ShapeError,
            "larger than the padded input",
        ),
        (
            lambda: windows.conv2d(ones(1, 1, 5, 5), ones(1, 1, 3, 3), stride=0),
            ArgumentError,
            "stride must be",
        ),
        (
            lambda: windows.conv2d(ones(1, 1, 5, 5), ones(1, 1, 3, 3), stride=(1, 1, 1)),
            ArgumentError,
            "or 2 of them",
        ),
        (
            lambda: windows.conv2d(ones(1, 1, 5, 5), ones(1, 1, 3, 3), padding=-1),
            ArgumentError,
            "padding must be",
        ),
        (
            lambda: windows.conv2d(ones(1, 1, 5, 5), ones(1, 1, 3, 3), padding="all"),
            ArgumentError,
            "'same' or 'valid'",
        ),
        (
            lambda: windows.conv2d(ones(1, 1, 5, 5), ones(1, 1, 3, 3), stride=2, padding="same"),
            ArgumentError,
            "padding='same' needs stride 1",
        ),
    ],
)
def test_errors(call, kind, message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert __file__ in str(caught.value)


@pytest.mark.comparison
def test_convolutions_and_pools_as_in_torch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for _ in range(60):
        groups = int(rng.integers(1, 3))
        n, c, o = 2, groups * int(rng.integers(1, 3)), groups * int(rng.integers(1, 3))
        kernel, size = rng.integers(1, 4, 2).tolist(), rng.integers(7, 10, 2).tolist()
        named = {
            "stride": tuple(rng.integers(1, 4, 2).tolist()),
            "padding": tuple(rng.integers(0, 3, 2).tolist()),
            "dilation": tuple(rng.integers(1, 3, 2).tolist()),
            "groups": groups,
        }
        arrays = [rng.standard_normal(s) for s in ((n, c, *size), (o, c // groups, *kernel), (o,))]
        ours = [schuss.tensor(a, requires_grad=True) for a in arrays]
        theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
        y, z = windows.conv2d(*ours, **named), torch.nn.functional.conv2d(*theirs, **named)
        np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-10, atol=1e-12)
        (y * y).sum().backward()
        (z * z).sum().backward()
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-9, atol=1e-9)
        pool = {
            "kernel_size": 3,
            "stride": named["stride"],
            "padding": 1,
            "dilation": named["dilation"],
        }
        np.testing.assert_array_equal(
            pooling.max_pool2d(ours[0], **pool).numpy(),
            torch.nn.functional.max_pool2d(theirs[0], **pool).detach().numpy(),
        )


def test_large_logits_lose_no_digits():
    """log_softmax of equal logits is -log 2 however large they are, in every dtype."""
    for dtype, size in ((schuss.float32, 3e7), (schuss.float16, 1e4), (schuss.bfloat16, 1e4)):
        x = schuss.tensor([size, size, -size], dtype=dtype)
        found = neural.log_softmax(x).astype(schuss.float32).tolist()
        assert found[:2] == pytest.approx([-0.6931, -0.6931], rel=4e-3)


def test_half_precision_over_many_classes():
    x = schuss.zeros(100_000, dtype=schuss.float16)
    assert neural.softmax(x).astype(schuss.float32)[0].item() == pytest.approx(1e-5, rel=0.1)
    assert neural.log_softmax(x)[0].item() == pytest.approx(-11.51, rel=1e-2)


def test_half_precision_statistics_do_not_overflow():
    x = schuss.tensor([3000.0, -3000.0, 2000.0, 1000.0], dtype=schuss.float16)
    assert schuss.std(x).item() == pytest.approx(2278, rel=1e-3)
    assert schuss.norm(x).item() == pytest.approx(4796, rel=1e-3)
    normal = neural.layer_norm(x, (4,)).astype(schuss.float32).numpy()
    np.testing.assert_allclose(normal, [0.988, -1.646, 0.549, 0.110], atol=2e-3)
