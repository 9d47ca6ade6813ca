"""PyTorch's attention and ours: the same outputs, weights and gradients."""

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


def close(a: Any, b: Any) -> None:
    assert a.shape == tuple(b.shape)
    np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-9)


def both(*arrays: Array) -> tuple[list[Any], list[Any]]:
    """The arrays as tensors that want gradients, ours and theirs."""
    ours = [schuss.tensor(x, requires_grad=True) for x in arrays]
    return ours, [torch.tensor(x, requires_grad=True) for x in arrays]


SEEN = np.array([[1, 0, 1, 1, 0, 1], [0, 1, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 0, 0]])
FUNCTION: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 5), {}),
    ((2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 5), {"scale": 0.2}),
    ((2, 4, 8), (2, 4, 8), (2, 4, 8), {"is_causal": True}),
    ((2, 4, 8), (2, 6, 8), (2, 6, 8), {"is_causal": True}),
    ((2, 6, 8), (2, 4, 8), (2, 4, 8), {"is_causal": True}),
    ((2, 4, 3), (2, 6, 3), (2, 6, 2), {"attn_mask": SEEN.astype(bool)}),
    ((2, 4, 3), (2, 6, 3), (2, 6, 2), {"attn_mask": RNG.standard_normal((2, 1, 6))}),
    ((2, 6, 4, 8), (2, 2, 6, 8), (2, 2, 6, 8), {"enable_gqa": True}),
]


@pytest.mark.parametrize(("q", "k", "v", "options"), FUNCTION)
def test_function(q: Any, k: Any, v: Any, options: dict[str, Any]) -> None:
    mine, other = both(normal(*q), normal(*k), normal(*v))
    theirs = {
        key: torch.tensor(x) if isinstance(x, np.ndarray) else x for key, x in options.items()
    }
    y = nn.functional.scaled_dot_product_attention(*mine, **options)
    z = torch.nn.functional.scaled_dot_product_attention(*other, **theirs)
    close(y, z)
    gradient = normal(*y.shape)
    y.backward(schuss.tensor(gradient))
    z.backward(torch.tensor(gradient))
    for a, b in zip(mine, other, strict=True):
        close(a.grad, b.grad)


N, L, S, E, H = 3, 4, 6, 8, 2
LAYERS: list[dict[str, Any]] = [
    {},
    {"batch_first": True},
    {"bias": False},
    {"kdim": 5, "vdim": 7},
    {"kdim": 5, "bias": False, "batch_first": True},
    {"add_bias_kv": True, "add_zero_attn": True},
]
PADDED = np.array([[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 1]], bool)
CALLS: list[dict[str, Any]] = [
    {},
    {"need_weights": False},
    {"average_attn_weights": False},
    {"key_padding_mask": PADDED},
    {"attn_mask": ~SEEN.astype(bool)},
    {"attn_mask": RNG.standard_normal((N * H, L, S)), "need_weights": False},
    {"attn_mask": RNG.standard_normal((L, S)), "key_padding_mask": RNG.standard_normal((N, S))},
]


def layers(options: dict[str, Any]) -> tuple[Any, Any]:
    theirs = torch.nn.MultiheadAttention(E, H, **options).double()
    for parameter in theirs.parameters():  # biases start as zeros
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    ours = nn.MultiheadAttention(E, H, **options).to(schuss.float64)
    state = {name: each.detach().numpy() for name, each in theirs.state_dict().items()}
    ours.load_state_dict(state)
    return ours, theirs


def run(ours: Any, theirs: Any, inputs: tuple[Array, ...], call: dict[str, Any]) -> None:
    """Outputs, weights, and the gradients by inputs and parameters."""
    mine, other = both(*inputs)
    if len(inputs) == 1:
        mine, other = mine * 3, other * 3
    masks = {key: x for key, x in call.items() if isinstance(x, np.ndarray)}
    rest = {key: x for key, x in call.items() if key not in masks}
    y, weights = ours(*mine, **{key: schuss.tensor(x) for key, x in masks.items()}, **rest)
    z, expected = theirs(*other, **{key: torch.tensor(x) for key, x in masks.items()}, **rest)
    close(y, z)
    gradient = normal(*y.shape)
    loss = (y * schuss.tensor(gradient)).sum()
    target = (z * torch.tensor(gradient)).sum()
    if call.get("need_weights", True):
        close(weights, expected)
        more = normal(*weights.shape)
        loss = loss + (weights * schuss.tensor(more)).sum()
        target = target + (expected * torch.tensor(more)).sum()
    else:
        assert weights is None
    loss.backward()
    target.backward()
    for a, b in zip(mine, other, strict=True):
        close(a.grad, b.grad)
    their_parameters = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        close(parameter.grad, their_parameters[name].grad)


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("options", LAYERS)
def test_layer(options: dict[str, Any], call: dict[str, Any]) -> None:
    kdim, vdim = options.get("kdim") or E, options.get("vdim") or E
    inputs = (normal(N, L, E), normal(N, S, kdim), normal(N, S, vdim))
    if not options.get("batch_first"):
        inputs = tuple(x.swapaxes(0, 1) for x in inputs)
    run(*layers(options), inputs, call)


@pytest.mark.parametrize("call", [{}, {"key_padding_mask": np.array([False, True, False, False])}])
def test_layer_without_batch(call: dict[str, Any]) -> None:
    run(*layers({}), (normal(L, E),), call)


@pytest.mark.parametrize("batch_first", [False, True])
def test_causal_self_attention(batch_first: bool) -> None:
    """PyTorch wants the mask beside the flag."""
    ours, theirs = layers({"batch_first": batch_first})
    x = normal(N, L, E) if batch_first else normal(L, N, E)
    mask = np.triu(np.ones((L, L), bool), 1)
    y, _ = ours(*[schuss.tensor(x)] * 3, need_weights=False, is_causal=True)
    z, _ = theirs(*[torch.tensor(x)] * 3, attn_mask=torch.tensor(mask), is_causal=True)
    close(y, z)
