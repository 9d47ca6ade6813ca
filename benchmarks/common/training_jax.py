"""Training steps in JAX: networks in flax nnx, optimizers in optax, one jitted step.

The loop is the functional one of flax's page on performance ("Performance considerations"): the
graph is split from the arrays once, and the arrays go through `jax.jit`, which may overwrite them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from common.workloads import (
    CONTEXT,
    DEPTH,
    EMBEDDING,
    HEADS,
    HIDDEN,
    SYMBOLS,
    WIDTH,
    Arrays,
    Workload,
)

if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def unavailable(workload: Workload, variant: str) -> str | None:
    """Why this row cannot be measured, if so."""
    return None if workload.precision == "float32" else "no autocast: JAX has none"


class Perceptron(nnx.Module):
    def __init__(self, sizes: tuple[int, ...], rngs: nnx.Rngs) -> None:
        pairs = pairwise(sizes)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


class LeNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(1, 6, (5, 5), padding="SAME", rngs=rngs)
        self.conv2 = nnx.Conv(6, 16, (5, 5), padding="VALID", rngs=rngs)
        self.linear1 = nnx.Linear(400, 120, rngs=rngs)
        self.linear2 = nnx.Linear(120, 84, rngs=rngs)
        self.linear3 = nnx.Linear(84, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.avg_pool(nnx.sigmoid(self.conv1(x)), (2, 2), (2, 2))
        x = nnx.avg_pool(nnx.sigmoid(self.conv2(x)), (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nnx.sigmoid(self.linear1(x))
        return self.linear3(nnx.sigmoid(self.linear2(x)))


class ConvNorm(nnx.Module):
    def __init__(self, a: int, b: int, kernel: int, stride: int, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(
            a, b, (kernel, kernel), stride, padding=kernel // 2, use_bias=False, rngs=rngs
        )
        self.norm = nnx.BatchNorm(b, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))


class ResidualBlock(nnx.Module):
    def __init__(self, a: int, b: int, stride: int, rngs: nnx.Rngs) -> None:
        self.conv1 = ConvNorm(a, b, 3, stride, rngs)
        self.conv2 = ConvNorm(b, b, 3, 1, rngs)
        self.conv3 = ConvNorm(a, b, 1, stride, rngs) if stride > 1 else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv2(nnx.relu(self.conv1(x)))
        return nnx.relu(y + (x if self.conv3 is None else self.conv3(x)))


class ResNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv1 = ConvNorm(3, 64, 3, 1, rngs)
        sizes = (64, 64, 64, 128, 128, 256, 256, 512, 512)
        pairs = pairwise(sizes)
        self.blocks = nnx.List([ResidualBlock(a, b, 1 if a == b else 2, rngs) for a, b in pairs])
        self.head = nnx.Linear(512, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.conv1(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class CharLSTM(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(SYMBOLS, EMBEDDING, rngs=rngs)
        self.lstm = nnx.RNN(nnx.OptimizedLSTMCell(EMBEDDING, HIDDEN, rngs=rngs), rngs=rngs)
        self.head = nnx.Linear(HIDDEN, SYMBOLS, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.lstm(self.embed(x)))


class GPTBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)
        self.qkv = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs)
        self.project = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)
        self.widen = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.narrow = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def attend(self, x: jax.Array) -> jax.Array:
        q, k, v = (
            each.reshape(*x.shape[:2], HEADS, WIDTH // HEADS)
            for each in jnp.split(self.qkv(x), 3, axis=-1)
        )
        return self.project(jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attend(self.norm1(x))
        return x + self.narrow(nnx.gelu(self.widen(self.norm2(x)), approximate=False))


class GPT(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.symbols = nnx.Embed(SYMBOLS, WIDTH, rngs=rngs)
        self.positions = nnx.Embed(CONTEXT, WIDTH, rngs=rngs)
        self.blocks = nnx.List([GPTBlock(rngs) for _ in range(DEPTH)])
        self.norm = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)
        self.head = nnx.Linear(WIDTH, SYMBOLS, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.symbols(x) + self.positions(jnp.arange(CONTEXT))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


_NETWORKS: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {
    "linear": lambda rngs: Perceptron((2, 1), rngs),
    "mlp-256": lambda rngs: Perceptron((784, 256, 10), rngs),
    "mlp-1024": lambda rngs: Perceptron((784, 1024, 10), rngs),
    "lenet": LeNet,
    "resnet": ResNet,
    "lstm": CharLSTM,
    "gpt": GPT,
}


def _affine(layer: Any, weights: Arrays, path: str) -> None:
    """Linear: (out, in) -> (in, out). Convolution: (out, in, h, w) -> (h, w, in, out)."""
    weight = weights[f"{path}.weight"]
    layer.kernel[...] = weight.T if weight.ndim == 2 else weight.transpose(2, 3, 1, 0)
    if f"{path}.bias" in weights:
        layer.bias[...] = weights[f"{path}.bias"]


def _norm(layer: Any, weights: Arrays, path: str) -> None:
    layer.scale[...], layer.bias[...] = weights[f"{path}.weight"], weights[f"{path}.bias"]


def _load(model: Any, weights: Arrays) -> None:
    """Copy weights of PyTorch's names and layouts into the network."""
    match model:
        case Perceptron():
            for i, layer in enumerate(model.layers):
                _affine(layer, weights, f"{2 * i}")
        case LeNet():
            # The first linear layer sees pixels before channels.
            first = weights["7.weight"].reshape(120, 16, 5, 5).transpose(0, 2, 3, 1)
            weights = weights | {"7.weight": first.reshape(120, 400)}
            layers = (model.conv1, model.conv2, model.linear1, model.linear2, model.linear3)
            for number, layer in zip((0, 3, 7, 9, 11), layers, strict=True):
                _affine(layer, weights, f"{number}")
        case ResNet():
            paths: list[tuple[str, Any]] = [("", model)]
            paths += [(f"blocks.{i}.", block) for i, block in enumerate(model.blocks)]
            for path, module in paths:
                for number in (1, 2, 3):
                    pair = getattr(module, f"conv{number}", None)
                    if pair is not None:
                        _affine(pair.conv, weights, f"{path}conv{number}")
                        _norm(pair.norm, weights, f"{path}norm{number}")
            _affine(model.head, weights, "head")
        case CharLSTM():
            model.embed.embedding[...] = weights["embed.weight"]
            cell = model.lstm.cell
            cell.dense_i.kernel[...] = weights["lstm.weight_ih_l0"].T
            cell.dense_h.kernel[...] = weights["lstm.weight_hh_l0"].T
            cell.dense_h.bias[...] = weights["lstm.bias_ih_l0"] + weights["lstm.bias_hh_l0"]
            _affine(model.head, weights, "head")
        case GPT():
            model.symbols.embedding[...] = weights["symbols.weight"]
            model.positions.embedding[...] = weights["positions.weight"]
            for i, block in enumerate(model.blocks):
                for name in ("qkv", "project", "widen", "narrow"):
                    _affine(getattr(block, name), weights, f"blocks.{i}.{name}")
                _norm(block.norm1, weights, f"blocks.{i}.norm1")
                _norm(block.norm2, weights, f"blocks.{i}.norm2")
            _norm(model.norm, weights, "norm")
            _affine(model.head, weights, "head")


def _optimizer(workload: Workload) -> optax.GradientTransformation:
    settings = workload.settings
    if workload.optimizer == "SGD":
        return optax.sgd(settings["lr"], momentum=settings.get("momentum"))
    method = optax.adam(settings["lr"])
    if workload.name != "lstm":
        return method
    # PyTorch's cell has two biases that are added, so that their sum moves twice as far.
    return optax.chain(method, optax.masked(optax.scale(2.0), _is_cell_bias))


def _is_cell_bias(state: Any) -> Any:
    """True at the bias of the LSTM's cell, False elsewhere."""
    where = jax.tree_util.keystr
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "dense_h" in where(path) and "bias" in where(path), state
    )


def make(workload: Workload, variant: str, weights: Arrays, batch: Any) -> Callable[[], Any]:
    """A function that does one training step and returns the loss."""
    model = _NETWORKS[workload.name](nnx.Rngs(0))
    _load(model, weights)
    x, y = batch
    if workload.images:
        x = x.transpose(0, 2, 3, 1)
    x, y = (
        jnp.asarray(each.astype(np.int32) if each.dtype == np.int64 else each) for each in (x, y)
    )
    optimizer = nnx.Optimizer(model, _optimizer(workload), wrt=nnx.Param)

    def loss_of(model: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = model(x)
        if workload.labels is None:
            return jnp.mean((logits - y) ** 2)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    graph, state = nnx.split((model, optimizer))
    leaves, tree = jax.tree.flatten(state)

    @jax.jit(donate_argnums=0)
    def update(leaves: list[jax.Array], x: jax.Array, y: jax.Array) -> Any:
        model, optimizer = nnx.merge(graph, jax.tree.unflatten(tree, leaves))
        loss, gradients = nnx.value_and_grad(loss_of)(model, x, y)
        optimizer.update(model, gradients)
        return loss, jax.tree.leaves(nnx.state((model, optimizer)))

    def step() -> jax.Array:
        nonlocal leaves
        loss, leaves = update(leaves, x, y)
        return loss

    return step


def describe() -> str:
    """What computed the last step."""
    return f"{jax.devices()[0].platform}"
