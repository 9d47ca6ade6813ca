"""The functions that `op_cases` uses, in each framework, and the process that times them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from common.op_cases import CASES


class MissingFunctionError(AttributeError):
    """The framework has no such function."""


class Side:
    """What a framework offers, beside the operators of its arrays."""

    def array(self, value: np.ndarray) -> Any:
        raise NotImplementedError

    def ready(self, result: Any) -> Any:
        """Return once the result is computed."""
        return result

    def prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What the framework's users do with a function that is called often."""
        return function

    def __getattr__(self, name: str) -> Any:
        raise MissingFunctionError(name)


class NumPySide(Side):
    def __init__(self) -> None:
        self.exp, self.tanh, self.sort = np.exp, np.tanh, np.sort
        self.argsort = lambda x, axis: np.argsort(x, axis, kind="stable")
        self.flip = np.flip
        self.float32, self.int8 = (lambda x: x.astype("float32")), (lambda x: x.astype("int8"))
        self.relu = lambda x: np.maximum(x, 0)
        self.sigmoid = lambda x: 1 / (1 + np.exp(-x))
        self.where = lambda x, y: np.where(x > 0, x, y)
        self.sum = lambda x, axis: x.sum(axis)
        self.max = lambda x, axis: x.max(axis)
        self.var = lambda x, axis: x.var(axis)
        self.argmax = lambda x, axis: x.argmax(axis)
        self.channel_means = lambda x: x.mean((0, 2, 3))
        self.cumsum, self.cumprod = np.cumsum, np.cumprod
        self.concat = lambda x, y: np.concatenate([x, y], 1)
        self.permute = lambda x, axes: x.transpose(axes)
        self.rows = lambda table, index: table[index]

    def array(self, value: np.ndarray) -> Any:
        return value

    def softmax(self, x: np.ndarray) -> np.ndarray:
        powers = np.exp(x - x.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    def layer_norm(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        spread = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return (x - x.mean(-1, keepdims=True)) / spread * weight + bias

    def attention(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        scores = q @ k.swapaxes(-1, -2) * np.float32(q.shape[-1] ** -0.5)
        scores[..., np.triu(np.ones(scores.shape[-2:], bool), 1)] = -np.inf
        return self.softmax(scores) @ v


class PyTorchSide(Side):
    def __init__(self) -> None:
        import torch
        from torch.nn import functional

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self.torch, self.functional = torch, functional
        self.exp, self.tanh, self.sigmoid = torch.exp, torch.tanh, torch.sigmoid
        self.relu, self.gelu = torch.relu, functional.gelu
        self.where = lambda x, y: torch.where(x > 0, x, y)
        self.sum = lambda x, axis: torch.sum(x, dim=axis)
        self.max = lambda x, axis: torch.amax(x, dim=axis)
        self.var = lambda x, axis: torch.var(x, dim=axis, correction=0)
        self.argmax = lambda x, axis: torch.argmax(x, dim=axis)
        self.channel_means = lambda x: x.mean((0, 2, 3))
        self.cumsum, self.cumprod = torch.cumsum, torch.cumprod
        self.argsort = lambda x, axis: torch.argsort(x, dim=axis, stable=True)
        self.sort = lambda x, axis: torch.sort(x, axis).values
        self.flip = lambda x: torch.flip(x, (0,))
        self.float32, self.int8 = torch.Tensor.float, lambda x: x.to(torch.int8)
        self.concat = lambda x, y: torch.cat([x, y], 1)
        self.permute = lambda x, axes: x.permute(axes)
        self.rows = lambda table, index: functional.embedding(index, table)
        self.softmax = lambda x: torch.softmax(x, -1)
        self.layer_norm = lambda x, w, b: functional.layer_norm(x, x.shape[-1:], w, b)
        self.convolve = lambda x, w, padding: functional.conv2d(x, w, padding=padding)
        self.max_pool = lambda x: functional.max_pool2d(x, 2)

    def array(self, value: np.ndarray) -> Any:
        return self.torch.from_numpy(value)

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        return self.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    def ctc_loss(self, x: Any, targets: Any) -> Any:
        lengths = [self.torch.full((x.shape[1],), n) for n in (x.shape[0], targets.shape[1])]
        loss = self.functional.ctc_loss
        return loss(x.log_softmax(-1), targets, *lengths, reduction="none")

    def gradient(self, function: Callable[[Any], Any], x: Any, g: Any) -> Any:
        x = x.detach().requires_grad_()
        function(x).backward(g)
        return x.grad


class JAXSide(Side):
    def __init__(self) -> None:
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)  # else its float64 is float32
        self.jax, self.jnp = jax, jnp
        nn = jax.nn
        self.exp, self.tanh, self.sigmoid, self.relu = jnp.exp, jnp.tanh, nn.sigmoid, nn.relu
        self.gelu = lambda x: nn.gelu(x, approximate=False)
        self.where = lambda x, y: jnp.where(x > 0, x, y)
        self.sum = lambda x, axis: x.sum(axis)
        self.max = lambda x, axis: x.max(axis)
        self.var = lambda x, axis: x.var(axis)
        self.argmax = lambda x, axis: x.argmax(axis)
        self.channel_means = lambda x: x.mean((0, 2, 3))
        self.cumsum, self.cumprod, self.sort, self.argsort = (
            jnp.cumsum, jnp.cumprod, jnp.sort, jnp.argsort
        )  # fmt: skip
        self.flip = jnp.flip
        self.float32, self.int8 = (lambda x: x.astype("float32")), (lambda x: x.astype("int8"))
        self.concat = lambda x, y: jnp.concatenate([x, y], 1)
        self.permute = jnp.transpose
        self.rows = lambda table, index: table[index]
        self.softmax = nn.softmax

    def array(self, value: np.ndarray) -> Any:
        return self.jnp.asarray(value)

    def ready(self, result: Any) -> Any:
        return result.block_until_ready()

    def prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self.jax.jit(function)

    def layer_norm(self, x: Any, weight: Any, bias: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        spread = self.jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)
        return centred * spread * weight + bias

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        q, k, v = (each.swapaxes(1, 2) for each in (q, k, v))  # its order is (N, T, heads, size)
        return self.jax.nn.dot_product_attention(q, k, v, is_causal=True).swapaxes(1, 2)

    def convolve(self, x: Any, weight: Any, padding: int) -> Any:
        return self.jax.lax.conv(x, weight, (1, 1), "SAME")

    def max_pool(self, x: Any) -> Any:
        window = (1, 1, 2, 2)
        return self.jax.lax.reduce_window(x, -math.inf, self.jax.lax.max, window, window, "VALID")

    def gradient(self, function: Callable[[Any], Any], x: Any, g: Any) -> Any:
        return self.jax.vjp(function, x)[1](g)[0]


class SchussSide(Side):
    def __init__(self) -> None:
        import schuss
        from schuss.nn import functional

        self.schuss = schuss
        self.exp, self.tanh, self.sigmoid = schuss.exp, schuss.tanh, schuss.sigmoid
        self.relu, self.gelu = functional.relu, functional.gelu
        self.where = lambda x, y: schuss.where(x > 0, x, y)
        self.sum = lambda x, axis: schuss.sum(x, axis=axis)
        self.max = lambda x, axis: schuss.max(x, axis=axis)
        self.var = lambda x, axis: schuss.var(x, axis=axis)
        self.argmax = lambda x, axis: schuss.argmax(x, axis=axis)
        self.channel_means = lambda x: schuss.mean(x, axis=(0, 2, 3))
        self.cumsum = lambda x, axis: schuss.cumulative_sum(x, axis=axis)
        self.cumprod = lambda x, axis: schuss.cumulative_prod(x, axis=axis)
        self.sort = lambda x, axis: schuss.sort(x, axis=axis)
        self.argsort = lambda x, axis: schuss.argsort(x, axis=axis)
        self.flip = schuss.flip
        self.float32 = lambda x: x.astype(schuss.float32)
        self.int8 = lambda x: x.astype(schuss.int8)
        self.concat = lambda x, y: schuss.concat([x, y], axis=1)
        self.permute = schuss.permute_dims
        self.rows = lambda table, index: functional.embedding(index, table)
        self.softmax = functional.softmax
        self.layer_norm = lambda x, w, b: functional.layer_norm(x, x.shape[-1:], w, b)
        self.attention = lambda q, k, v: functional.scaled_dot_product_attention(
            q, k, v, is_causal=True
        )
        self.convolve = lambda x, w, padding: functional.conv2d(x, w, padding=padding)
        self.max_pool = lambda x: functional.max_pool2d(x, 2)

    def array(self, value: np.ndarray) -> Any:
        return self.schuss.tensor(value)

    def ready(self, result: Any) -> Any:
        self.schuss.evaluate(result)
        return result

    def ctc_loss(self, x: Any, targets: Any) -> Any:
        functional = self.schuss.nn.functional
        lengths = [self.schuss.full((x.shape[1],), n) for n in (x.shape[0], targets.shape[1])]
        loss = functional.ctc_loss
        return loss(functional.log_softmax(x), targets, *lengths, reduction="none")

    def gradient(self, function: Callable[[Any], Any], x: Any, g: Any) -> Any:
        x = x.detach().requires_grad_()
        function(x).backward(g)
        return x.grad


class JitSide(SchussSide):
    def prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self.schuss.jit(function)


SIDES: dict[str, type[Side]] = {
    "schuss": SchussSide,
    "schuss.jit": JitSide,
    "NumPy": NumPySide,
    "PyTorch": PyTorchSide,
    "JAX": JAXSide,
}


class OpSide:
    """A framework that computes cases, served from a process of its own."""

    def __init__(self, name: str) -> None:
        self._side = SIDES[name]()

    def build(self, name: str) -> tuple[np.ndarray, int] | None:
        """Compute the case once; a thousand numbers of the result, and the bytes in and out.

        None where the framework has no such function.
        """
        case = CASES[name]
        given = case.inputs()
        try:
            inputs = [self._side.array(each) for each in given]
            function = self._side.prepare(lambda *arrays: case.run(self._side, *arrays))
            self._call = lambda: self._side.ready(function(*inputs))
            result = np.asarray(self._call())
        except MissingFunctionError:
            return None
        nbytes = result.nbytes + sum(each.nbytes for each in given)
        flat = result.ravel()
        return flat[:: max(1, flat.size // 1000)].astype(np.float64), nbytes

    def time(self, repeats: int) -> float:
        """Microseconds for a call."""
        for _ in range(1 + repeats // 10):
            self._call()
        started = time.perf_counter()
        for _ in range(repeats):
            self._call()
        return (time.perf_counter() - started) / repeats * 1e6
