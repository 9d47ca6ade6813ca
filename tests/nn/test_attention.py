"""MultiheadAttention: parameters, causal masks, dropout, laziness of the weights, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import ArgumentError, DTypeError, ShapeError
from schuss.graph import ancestors
from schuss.philox import Generator

Rng = np.random.Generator


def test_parameters() -> None:
    layer = nn.MultiheadAttention(8, 2, add_bias_kv=True)
    shapes = {name: each.shape for name, each in layer.named_parameters()}
    assert shapes == {
        "in_proj_weight": (24, 8),
        "in_proj_bias": (24,),
        "bias_k": (1, 1, 8),
        "bias_v": (1, 1, 8),
        "out_proj.weight": (8, 8),
        "out_proj.bias": (8,),
    }
    assert not layer.in_proj_bias.numpy().any()
    assert not layer.out_proj.bias.numpy().any()
    assert 0 < np.abs(layer.in_proj_weight.numpy()).max() <= (6 / 32) ** 0.5
    split = nn.MultiheadAttention(8, 2, kdim=3, bias=False, dtype=schuss.float64)
    shapes = {name: each.shape for name, each in split.named_parameters()}
    assert shapes == {
        "q_proj_weight": (8, 8),
        "k_proj_weight": (8, 3),
        "v_proj_weight": (8, 8),
        "out_proj.weight": (8, 8),
    }
    assert split.q_proj_weight.dtype == schuss.float64
    assert "8, num_heads=2, bias=False" in repr(split)


def test_gradients(check_layer: Callable[..., None], rng: Rng) -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.inner(x, x, x, is_causal=True)[0]

    check_layer(First(), rng.standard_normal((2, 3, 4)))


@pytest.mark.parametrize("options", [{}, {"add_zero_attn": True}, {"add_bias_kv": True}])
def test_causal_flag_is_the_causal_mask(options: dict[str, Any], rng: Rng) -> None:
    layer = nn.MultiheadAttention(4, 2, batch_first=True, **options)
    x = schuss.tensor(rng.standard_normal((2, 5, 4)).astype(np.float32))
    mask = schuss.tensor(np.triu(np.ones((5, 5), bool), 1))
    y, weights = layer(x, x, x, is_causal=True)
    z, expected = layer(x, x, x, attn_mask=mask)
    np.testing.assert_allclose(y.numpy(), z.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)
    assert weights.shape == (2, 5, 5 + len(options))


def test_dropout_is_on_in_training_only(rng: Rng) -> None:
    layer = nn.MultiheadAttention(4, 1, dropout=0.5, batch_first=True, generator=Generator(0))
    x = schuss.tensor(rng.standard_normal((1, 20, 4)).astype(np.float32))
    weights = layer(x, x, x)[1].numpy()
    assert 0.3 < (weights == 0).mean() < 0.7
    first, second = (layer(x, x, x, need_weights=False)[0].numpy() for _ in range(2))
    assert (first != second).any()
    layer.eval()
    weights = layer(x, x, x)[1].numpy()
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert (weights > 0).all()


def test_results_do_not_wait_for_the_weights(rng: Rng) -> None:
    """The weights are computed beside the results, and only if somebody looks at them."""
    layer = nn.MultiheadAttention(4, 2, batch_first=True)
    x = schuss.tensor(rng.standard_normal((2, 3, 4)).astype(np.float32))
    y, weights = layer(x, x, x)
    y.numpy()
    used = {node.op.name for node in ancestors([weights._node], lambda node: True) if node.op}
    assert "exp" in used
    assert weights._node.value is None


def test_errors() -> None:
    with pytest.raises(ArgumentError, match="num_heads must divide embed_dim"):
        nn.MultiheadAttention(6, 4)
    with pytest.raises(ArgumentError, match="dropout is a probability"):
        nn.MultiheadAttention(4, 2, dropout=2.0)
    layer = nn.MultiheadAttention(4, 2)
    x = schuss.zeros((5, 3, 4))
    with pytest.raises(ShapeError, match=r"must have \(4, 4, 4\) features"):
        layer(x, x, x[..., :3])
    with pytest.raises(ShapeError, match="two axes each, or three with a batch"):
        layer(x, x[0], x)
    with pytest.raises(ShapeError, match="key and value must agree"):
        layer(x, x, x[:4])
    with pytest.raises(ShapeError, match=r"the batches \(axis 1\) differ in size"):
        layer(x, x[:, :2], x[:, :2])
    with pytest.raises(ShapeError, match=r"attn_mask must have the shape \(5, 5\) or \(6, 5, 5\)"):
        layer(x, x, x, attn_mask=schuss.zeros((3, 5)))
    with pytest.raises(ShapeError, match=r"key_padding_mask must have the shape \(3, 5\)"):
        layer(x, x, x, key_padding_mask=schuss.zeros((5, 3)))
    with pytest.raises(DTypeError, match="masks are boolean or floating"):
        layer(x, x, x, key_padding_mask=schuss.zeros((3, 5), dtype=schuss.int64))
    with pytest.raises(DTypeError, match="MultiheadAttention: needs floating input"):
        layer(x.astype(schuss.int64), x, x)
