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


# --- three axes, other padding, transposed ---


def test_conv3d(rng: Rng, check_layer: Check) -> None:
    """With a kernel of one plane it is conv2d of each plane."""
    layer = nn.Conv3d(2, 4, (1, 3, 2), padding=(0, 1, 0), groups=2, dtype=schuss.float64)
    x = rng.standard_normal((2, 2, 3, 4, 5))
    y = layer(schuss.tensor(x)).numpy()
    for i in range(3):
        flat = schuss.tensor(x[:, :, i])
        plane = F.conv2d(flat, layer.weight[:, :, 0], layer.bias, padding=(1, 0), groups=2)
        np.testing.assert_allclose(y[:, :, i], plane.numpy(), rtol=1e-12)
    check_layer(nn.Conv3d(1, 2, 2), rng.standard_normal((1, 1, 2, 3, 2)))


@pytest.mark.parametrize(("mode", "numpys"), [("reflect", "reflect"), ("replicate", "edge"),
                                              ("circular", "wrap")])  # fmt: skip
def test_padding_mode(mode: str, numpys: Any, rng: Rng, check_layer: Check) -> None:
    layer = nn.Conv2d(2, 3, (4, 3), padding="same", padding_mode=mode, dtype=schuss.float64)
    x = rng.standard_normal((1, 2, 5, 4))
    wide = schuss.tensor(np.pad(x, [(0, 0), (0, 0), (1, 2), (1, 1)], mode=numpys))
    expected = F.conv2d(wide, layer.weight, layer.bias)
    np.testing.assert_allclose(layer(schuss.tensor(x)).numpy(), expected.numpy(), rtol=1e-12)
    check_layer(layer, x)
    with pytest.raises(ArgumentError, match="Conv2d: padding_mode is one of zeros, reflect"):
        nn.Conv2d(1, 1, 1, padding_mode="mirror")


def transposed(
    x: np.ndarray,
    w: np.ndarray,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    groups: int = 1,
    dilation: int = 1,
) -> np.ndarray:
    """Over one axis: each element adds its multiple of the kernel to the result."""
    (n, c, length), (_, part, k) = x.shape, w.shape
    whole = (length - 1) * stride + dilation * (k - 1) + 1 + output_padding
    y = np.zeros((n, part * groups, whole))
    for i, place, o, tap in np.ndindex(c, length, part, k):
        group = i // (c // groups)
        at = place * stride + tap * dilation
        y[:, group * part + o, at] += x[:, i, place] * w[i, o, tap]
    return y[:, :, padding : whole - padding]


TRANSPOSED: list[dict[str, int]] = [
    {}, {"stride": 2}, {"stride": 2, "padding": 1, "output_padding": 1}, {"padding": 2},
    {"stride": 3, "output_padding": 2, "groups": 2}, {"dilation": 2, "padding": 1},
    {"dilation": 3, "output_padding": 2}, {"groups": 4, "stride": 2},
]  # fmt: skip


@pytest.mark.parametrize("options", TRANSPOSED, ids=str)
def test_transposed(options: dict[str, int], rng: Rng, check_layer: Check) -> None:
    layer = nn.ConvTranspose1d(4, 8, 3, **options, dtype=schuss.float64)
    x = rng.standard_normal((2, 4, 5))
    weight, bias = layer.weight.numpy(), layer.bias.numpy()
    y = layer(schuss.tensor(x)).numpy()
    np.testing.assert_allclose(y, transposed(x, weight, **options) + bias[:, None], atol=1e-12)
    check_layer(layer, x)
    image = nn.ConvTranspose2d(4, 8, (1, 3), **rows_of(options), dtype=schuss.float64)
    image.weight.assign(layer.weight[:, :, None])
    image.bias.assign(layer.bias)
    z = image(schuss.tensor(x[:, :, None])).numpy()
    np.testing.assert_allclose(z[:, :, 0], y, atol=1e-12)


def rows_of(options: dict[str, int]) -> dict[str, Any]:
    """The same along the second axis, nothing along the first."""
    none = {"stride": 1, "dilation": 1, "padding": 0, "output_padding": 0}
    return {key: (none[key], n) if key in none else n for key, n in options.items()}


def test_it_is_the_transpose(rng: Rng) -> None:
    """<conv(x), y> = <x, transposed(y)>."""
    x, y = rng.standard_normal((1, 2, 4, 5, 4)), rng.standard_normal((1, 3, 2, 3, 2))
    w = schuss.tensor(rng.standard_normal((3, 2, 3, 3, 3)))
    there = F.conv3d(schuss.tensor(x), w, stride=2, padding=1)
    back = F.conv_transpose3d(schuss.tensor(y), w, None, 2, 1, (1, 0, 1))
    assert (there.numpy() * y).sum() == pytest.approx((back.numpy() * x).sum(), rel=1e-10)


def test_output_size() -> None:
    layer = nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1)
    x = schuss.ones((1, 1, 4, 4))
    assert layer(x, output_size=(7, 8)).shape == (1, 1, 7, 8)
    assert layer(x, output_size=(1, 1, 8, 8)).shape == (1, 1, 8, 8)
    message = r"ConvTranspose2d: output_size must lie between \(7, 7\) and \(8, 8\)"
    for size in ((9, 8), (6, 8), (8,)):
        with pytest.raises(ArgumentError, match=message):
            layer(x, output_size=size)


def test_transposed_errors() -> None:
    x, w = schuss.ones((1, 4, 5)), schuss.ones((4, 2, 3))
    with pytest.raises(ShapeError, match=r"ConvTranspose1d: expects 4 input channels on axis 1"):
        nn.ConvTranspose1d(4, 2, 3)(schuss.ones((1, 3, 5)))
    with pytest.raises(ShapeError, match="conv_transpose1d: x has 3 channels, the weight takes 4"):
        F.conv_transpose1d(x[:, :3], w)
    with pytest.raises(ShapeError, match=r"conv_transpose2d: x must have the 4 axes"):
        F.conv_transpose2d(x, w)
    with pytest.raises(ArgumentError, match="groups must divide the input channels"):
        F.conv_transpose1d(x, w, groups=3)
    message = "output_padding must be smaller than stride or dilation"
    with pytest.raises(ArgumentError, match=message):
        F.conv_transpose1d(x, w, None, 2, 0, 2)
    with pytest.raises(ShapeError, match="conv_transpose1d: the padding leaves nothing"):
        F.conv_transpose1d(x[:, :, :1], w, padding=2)
    with pytest.raises(ShapeError, match="unfold: x must have batch, channels, and axes to slide"):
        F.unfold(schuss.ones((3, 4)), 2)
    with pytest.raises(ShapeError, match=r"fold: x must have the shape \(N, C \* 4, 6\)"):
        F.fold(x, (3, 4), 2)


def test_printed_transposed() -> None:
    layer = nn.ConvTranspose1d(2, 4, 3, stride=2, padding=1, output_padding=1)
    assert repr(layer) == (
        "ConvTranspose1d(2, 4, kernel_size=(3,), stride=(2,), padding=(1,), output_padding=(1,))"
        "  # 28 parameters"
    )
    assert "padding_mode='circular'" in repr(nn.Conv1d(1, 1, 3, padding_mode="circular"))
