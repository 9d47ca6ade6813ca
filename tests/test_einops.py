"""einops, where it is installed, on our tensors."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import schuss
from schuss import nn

einops = pytest.importorskip("einops")
layers = pytest.importorskip("schuss.einops")

pytestmark = pytest.mark.comparison
rng = np.random.default_rng(0)
IMAGES = rng.standard_normal((2, 4, 6, 3))

FUNCTIONS = {
    "rearrange": lambda x: einops.rearrange(x, "b (h p) (w q) c -> b (h w) (p q c)", p=2, q=3),
    "ellipsis": lambda x: einops.rearrange(x, "b ... c -> c ... b"),
    "repeat": lambda x: einops.repeat(x, "b h w c -> b h 5 w (c r)", r=2),
    "einsum": lambda x: einops.einsum(x, x, "b h w c, b h w d -> b c d"),
    "pack": lambda x: einops.pack([x, x[:, 0]], "b * c")[0],
    "unpack": lambda x: einops.unpack(x, [[2], [2]], "b * w c")[1],
    "list": lambda x: einops.rearrange([x, x], "n b h w c -> b (n h) w c"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    f = FUNCTIONS[name]
    found = f(schuss.tensor(IMAGES))
    assert isinstance(found, schuss.Tensor)
    np.testing.assert_allclose(found.numpy(), f(IMAGES))
    schuss.check_gradients(f, [IMAGES])


@pytest.mark.parametrize("operation", ["min", "max", "sum", "mean", "prod", "any", "all"])
def test_reductions(operation: str) -> None:
    x = IMAGES > 0 if operation in ("any", "all") else IMAGES
    found = einops.reduce(schuss.tensor(x), "b h (w p) c -> b w c", operation, p=3)
    np.testing.assert_allclose(
        found.numpy(), einops.reduce(x, "b h (w p) c -> b w c", operation, p=3)
    )


def test_other_functions() -> None:
    x = schuss.tensor(IMAGES)
    assert einops.parse_shape(x, "b h _ c") == {"b": 2, "h": 4, "c": 3}
    assert (einops.asnumpy(x) == IMAGES).all()
    with pytest.raises(NotImplementedError, match="reduce_mean is not available"):
        einops.reduce(schuss.arange(4), "a -> ", "mean")


def test_transforms_go_through() -> None:
    columns = lambda x: einops.reduce(x, "h (w two) -> w", "sum", two=2)
    x = schuss.tensor(IMAGES[0, :, :, 0])
    many = schuss.vmap(columns)(schuss.tensor(IMAGES[..., 0]))
    np.testing.assert_allclose(many[0].numpy(), columns(x).numpy())
    assert schuss.jacobian(columns)(x).shape == (3, 4, 6)


def test_layers() -> None:
    model = nn.Sequential(
        layers.Rearrange("b (h p) (w q) c -> b (h w) (p q c)", p=2, q=3),
        layers.EinMix("b t i -> b t (n o)", weight_shape="i n o", bias_shape="n o", i=18, n=2, o=4),
        nn.ReLU(),
        layers.Reduce("b t c -> b c", "mean"),
    )
    x = schuss.tensor(IMAGES.astype(np.float32))
    y = model(x)
    assert y.shape == (2, 8)
    (y**2).sum().backward()
    assert {name: p.grad.shape for name, p in model.named_parameters()} == {
        "1.weight": (18, 2, 4), "1.bias": (1, 1, 2, 4),
    }  # fmt: skip
    assert "0: Rearrange('b (h p) (w q) c" in repr(model)
    assert "3: Reduce('b t c -> b c', 'mean')" in repr(model)
    np.testing.assert_array_equal(copy.deepcopy(model)(x).numpy(), y.numpy())


def test_einmix_without_bias() -> None:
    layer = layers.EinMix("t b c -> t b c", weight_shape="c", c=5)
    assert layer.bias is None
    x = schuss.ones((2, 3, 5))
    np.testing.assert_array_equal(layer(x)[0, 0].numpy(), layer.weight.numpy())
