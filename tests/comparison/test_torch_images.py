"""Functions and layers for images as in PyTorch: values and gradients, on awkward sizes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.comparison,
    pytest.mark.usefixtures("reference_tier"),  # many shapes, each of them once
]

F, T = nn.functional, torch.nn.functional
RNG = np.random.default_rng(0)
Array = np.ndarray[Any, Any]
SIZES = {1: (7,), 2: (5, 6), 3: (3, 4, 5)}


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def same(ours: Any, theirs: Any, *arrays: Array, tolerance: float = 1e-9) -> None:
    """Two functions of arrays: values and gradients."""
    mine = [schuss.tensor(x, requires_grad=True) for x in arrays]
    other = [torch.tensor(x, requires_grad=True) for x in arrays]
    y, z = ours(*mine), theirs(*other)
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=tolerance, atol=tolerance)
    gradient = normal(*y.shape)
    y.backward(schuss.tensor(gradient))
    z.backward(torch.tensor(gradient))
    for a, b in zip(mine, other, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=tolerance, atol=tolerance)


def both(name: str, *settings: Any, **named: Any) -> tuple[Any, Any]:
    """A function of that name here and there, with settings behind its arrays."""

    def made(place: Any) -> Any:
        function = getattr(place, name)
        return lambda *xs: function(*xs, *settings, **named)

    return made(F), made(T)


def same_layers(ours: nn.Module, theirs: Any, *shape: int) -> None:
    """Two layers with the same state."""
    ours.to(schuss.float64)
    theirs.double()
    names = list(ours.state_dict())
    assert names == list(theirs.state_dict())
    ours.load_state_dict({k: v.detach().numpy() for k, v in theirs.state_dict().items()})
    same(ours, theirs, normal(*shape))
    own = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), own[name].grad.numpy(), atol=1e-9)
    for name, value in ours.state_dict().items():
        np.testing.assert_allclose(value.numpy(), theirs.state_dict()[name].numpy(), atol=1e-9)


# --- convolution ---


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_transposed_convolution(rank: int) -> None:
    settings = itertools.product((1, 2, 3), (0, 1, 2), (0, 1, 2), (1, 2), (1, 3))
    allowed = [each for each in settings if each[2] < max(each[0], each[4])]
    for stride, padding, more, groups, dilation in allowed[:: 3 * rank]:
        x, bias = normal(2, 4, *(6, 5, 6)[:rank]), normal(3 * groups)
        weight = normal(4, 3, *(3, 2, 3)[:rank])
        pair = both(f"conv_transpose{rank}d", stride, padding, more, groups, dilation)
        same(*pair, x, weight, bias)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_layer_of_transposed_convolution(rank: int) -> None:
    kinds = [getattr(place, f"ConvTranspose{rank}d") for place in (nn, torch.nn)]
    for named in (
        {},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"groups": 2, "bias": False},
    ):
        same_layers(*[kind(4, 6, 3, **named) for kind in kinds], 2, 4, *SIZES[rank])


def test_output_size() -> None:
    ours, theirs = (place.ConvTranspose2d(2, 3, 3, stride=3, padding=1) for place in (nn, torch.nn))
    for size in ((13, 16), (15, 17)):
        y = ours(schuss.ones((1, 2, 5, 6)), output_size=size)
        z = theirs(torch.ones(1, 2, 5, 6), output_size=size)
        assert y.shape == tuple(z.shape)


@pytest.mark.parametrize(
    "named", [{"padding": 1, "groups": 2}, {"stride": 2, "dilation": (1, 2, 1)}]
)
def test_conv3d(named: dict[str, Any]) -> None:
    same_layers(nn.Conv3d(4, 2, 2, **named), torch.nn.Conv3d(4, 2, 2, **named), 2, 4, 4, 5, 3)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [2, "same", (1, 2), "valid"])
def test_padding_mode(mode: str, padding: Any) -> None:
    layers = [
        place.Conv2d(2, 3, (4, 3), padding=padding, padding_mode=mode) for place in (nn, torch.nn)
    ]
    same_layers(*layers, 2, 2, 5, 6)


@pytest.mark.parametrize("kind", ["Constant", "Zero", "Reflection", "Replication", "Circular"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_padding(kind: str, rank: int) -> None:
    more = (1.5,) if kind == "Constant" else ()
    for padding in (2, (1, 0, 2, 1, 0, 2)[: 2 * rank]):
        layers = [getattr(p, f"{kind}Pad{rank}d")(padding, *more) for p in (nn, torch.nn)]
        same_layers(*layers, 2, 3, *SIZES[rank])


@pytest.mark.parametrize("settings", list(itertools.product((2, (3, 2)), (1, 2), (0, 1), (1, 2))))
def test_unfold_and_fold(settings: Sequence[Any]) -> None:
    x = normal(2, 3, 6, 7)
    same(*both("unfold", *settings), x)
    columns = T.unfold(torch.tensor(x), *settings).numpy()
    same(*both("fold", (6, 7), *settings), columns)


# --- pooling ---


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pools(rank: int, ceil_mode: bool) -> None:
    x = np.round(1.5 * normal(2, 3, *(7, 6, 5)[:rank]))  # with ties
    for kernel, stride, padding in itertools.product((2, 3), (1, 2, 3), (0, 1)):
        place = kernel, stride, padding
        for dilation in (1, 2) if kernel == 2 else (1,):
            settings = (*place, dilation, ceil_mode)
            pair = both(f"max_pool{rank}d", *settings)
            same(*pair, x)
            found, expected = (
                function(tensor, *settings, return_indices=True)[1].numpy()
                for function, tensor in (
                    (getattr(F, f"max_pool{rank}d"), schuss.tensor(x)),
                    (getattr(T, f"max_pool{rank}d"), torch.tensor(x)),
                )
            )
            np.testing.assert_array_equal(found, expected)
        for counted in (True, False):
            same(*both(f"avg_pool{rank}d", *place, ceil_mode, counted), x)
        if rank > 1:
            same(*both(f"avg_pool{rank}d", *place, ceil_mode, divisor_override=5), x)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_unpooling(rank: int) -> None:
    x = normal(2, 3, *(7, 6, 5)[:rank])
    pooled, indices = getattr(T, f"max_pool{rank}d")(torch.tensor(x), 2, return_indices=True)
    ours, theirs = (getattr(place, f"MaxUnpool{rank}d")(2) for place in (nn, torch.nn))
    own, size = schuss.tensor(indices.numpy()), x.shape
    same(
        lambda y: ours(y, own, output_size=size),
        lambda y: theirs(y, indices, output_size=size),
        pooled.numpy(),
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_adaptive_pools(rank: int, kind: str) -> None:
    x = np.round(1.5 * normal(2, 3, *(7, 6, 5)[:rank]))
    for size in (1, 2, (3, None, 4)[:rank], (8, 5, 7)[:rank]):
        same(*both(f"adaptive_{kind}_pool{rank}d", size), x)


# --- other sizes ---

NEAREST = ["nearest", "nearest-exact", "area"]
MODES = {1: [*NEAREST, "linear"], 2: [*NEAREST, "bilinear", "bicubic"], 3: [*NEAREST, "trilinear"]}
TARGETS: list[dict[str, Any]] = [
    {"size": 9}, {"size": 1}, {"size": (4, 9, 13)}, {"size": 23}, {"scale_factor": 2},
    {"scale_factor": 0.5}, {"scale_factor": 1.7}, {"scale_factor": (3, 0.6, 1.5)},
]  # fmt: skip


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_interpolate(rank: int, target: dict[str, Any]) -> None:
    named = {k: v[:rank] if isinstance(v, tuple) else v for k, v in target.items()}
    x = normal(2, 2, *SIZES[rank])
    for mode in MODES[rank]:
        for align in (None,) if mode in NEAREST else (False, True):
            same(*both("interpolate", **named, mode=mode, align_corners=align), x)


@pytest.mark.parametrize("size", [(2, 5), (5, 1), (1, 1)])
def test_interpolation_of_single_rows(size: tuple[int, int]) -> None:
    for mode in ("nearest", "bilinear", "bicubic"):
        same(*both("interpolate", size=(4, 5), mode=mode), normal(1, 2, *size))


def test_upsampling_layers() -> None:
    makers: list[Callable[[Any], Any]] = [
        lambda place: place.Upsample(scale_factor=2, mode="bilinear"),
        lambda place: place.UpsamplingNearest2d(scale_factor=3),
        lambda place: place.UpsamplingBilinear2d(size=(7, 8)),
        lambda place: place.PixelShuffle(2),
        lambda place: place.ChannelShuffle(4),
        lambda place: place.Unfold(2, padding=1),
        lambda place: place.LocalResponseNorm(3, alpha=0.1, k=2.0),
    ]
    for make in makers:
        same_layers(make(nn), make(torch.nn), 2, 8, 3, 4)
    same_layers(nn.PixelUnshuffle(2), torch.nn.PixelUnshuffle(2), 3, 4, 6)
    same_layers(nn.Fold((4, 5), 2), torch.nn.Fold((4, 5), 2), 2, 8, 12)


# --- normalisation ---


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("named", [{}, {"affine": True}, {"track_running_stats": True}])
def test_instance_norm(rank: int, named: dict[str, Any]) -> None:
    ours, theirs = (getattr(p, f"InstanceNorm{rank}d")(3, **named) for p in (nn, torch.nn))
    same_layers(ours, theirs, 2, 3, *SIZES[rank])
    ours.eval().zero_grad()
    theirs.eval().zero_grad()
    same_layers(ours, theirs, 2, 3, *SIZES[rank])


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_group_norm(groups: int) -> None:
    for named in ({}, {"eps": 0.1, "affine": False}):
        layers = [place.GroupNorm(groups, 6, **named) for place in (nn, torch.nn)]
        same_layers(*layers, 2, 6, 3, 4)
        same_layers(*[place.GroupNorm(groups, 6) for place in (nn, torch.nn)], 2, 6)


@pytest.mark.parametrize("size", [1, 2, 5, 30])
def test_local_response_norm(size: int) -> None:
    same(*both("local_response_norm", size, 0.1, 0.6, 2.0), normal(2, 7, 3))


def test_rms_and_batch_norm() -> None:
    same_layers(nn.RMSNorm((3, 4)), torch.nn.RMSNorm((3, 4)), 2, 3, 4)
    same_layers(nn.RMSNorm(4, 0.1), torch.nn.RMSNorm(4, 0.1), 2, 4)
    same_layers(nn.BatchNorm3d(3), torch.nn.BatchNorm3d(3), 2, 3, 2, 2, 3)


# --- parametrizations ---


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("layer", ["Linear", "Conv2d", "ConvTranspose2d"])
def test_parametrizations(name: str, layer: str) -> None:
    arguments = (4, 3) if layer == "Linear" else (4, 3, 2)
    ours, theirs = (
        getattr(place.utils.parametrizations, name)(getattr(place, layer)(*arguments))
        for place in (nn, torch.nn)
    )
    shape = (5, 4) if layer == "Linear" else (2, 4, 5, 3)
    same_layers(ours, theirs, *shape)
    ours.eval().zero_grad()
    theirs.eval().zero_grad()
    same_layers(ours, theirs, *shape)
