"""Convolutions against loops, and gradients against differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import ArgumentError, DTypeError, ShapeError

F = nn.functional
Check = Callable[..., None]
Rng = np.random.Generator


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
