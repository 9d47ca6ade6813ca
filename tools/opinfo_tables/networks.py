"""What networks are made of."""

from __future__ import annotations

import builtins
import math
from typing import Any

import schuss as s
from opinfo_tables.base import TABLE, entry, no
from schuss import linalg
from schuss.nn import functional as F  # noqa: N812


def layer(f: Any) -> Any:
    def call(x: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> Any:
        return f(x, *args, **kwargs)

    return call


for name in [
    "relu",
    "relu6",
    "elu",
    "selu",
    "silu",
    "softplus",
    "softsign",
    "logsigmoid",
    "hardtanh",
    "leaky_relu",
    "gelu",
    "linear",
]:
    TABLE[f"nn.functional.{name}"] = layer(getattr(F, name))


def convolution(f: Any, rank: int) -> Any:
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        return f(x, *args, **kwargs) if x.ndim == rank + 2 else no("no batch axis")

    return call


TABLE["nn.functional.conv1d"] = convolution(F.conv1d, 1)
TABLE["nn.functional.conv2d"] = convolution(F.conv2d, 2)


def soft(f: Any) -> Any:
    def call(x: Any, dim: Any = -1, dtype: Any = None, **kwargs: Any) -> Any:
        if x.ndim == 0:
            no("an axis of a scalar")
        return f(x if dtype is None else x.astype(dtype), axis=dim)

    return call


@entry("nn.functional.softplus")
def softplus(x: Any, beta: float = 1, threshold: float = 20) -> Any:
    return F.softplus(x * beta) / beta if threshold == 20 else no("a threshold")


def pooled(f: Any, average: bool) -> Any:
    def call(
        x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, *args: Any, **kwargs: Any
    ) -> Any:
        names = (
            ("ceil_mode", "count_include_pad", "divisor_override")
            if average
            else ("dilation", "ceil_mode", "return_indices")
        )
        kwargs |= dict(zip(names, args, strict=False))
        for name in ("ceil_mode", "divisor_override", "return_indices"):
            if kwargs.pop(name, None):
                no(f"pooling with {name}")
        batched = x.ndim == (3 if f.__name__.endswith("1d") else 4)
        stride = None if stride in ((), []) else stride
        fixed = [
            v[0] if isinstance(v, (tuple, list)) and len(v) == 1 else v
            for v in (kernel_size, stride, padding)
        ]
        y = f(x if batched else x.expand_dims(0), *fixed, **kwargs)
        return y if batched else y[0]

    return call


def adaptive(f: Any) -> Any:
    def call(x: Any, output_size: Any, return_indices: bool = False) -> Any:
        if return_indices:
            no("pooling with return_indices")
        rank = 1 if f.__name__.endswith("1d") else 2
        batched = x.ndim == rank + 2
        if isinstance(output_size, (tuple, list)):
            output_size = [n or x.shape[i - rank] for i, n in enumerate(output_size)]
        y = f(x if batched else x.expand_dims(0), output_size)
        return y if batched else y[0]

    return call


for d in ("1d", "2d"):
    TABLE[f"nn.functional.avg_pool{d}"] = pooled(getattr(F, f"avg_pool{d}"), True)
    TABLE[f"nn.functional.max_pool{d}"] = pooled(getattr(F, f"max_pool{d}"), False)
    for kind in ("avg", "max"):
        full = f"adaptive_{kind}_pool{d}"
        TABLE[f"nn.functional.{full}"] = adaptive(getattr(F, full))


@entry("nn.functional.pad", "constant_pad_nd")
def pad(x: Any, widths: Any, mode: Any = "constant", value: Any = None) -> Any:
    if not isinstance(mode, str):
        mode, value = "constant", mode
    pairs = [(widths[i], widths[i + 1]) for i in range(0, len(widths), 2)][::-1]
    if builtins.min(widths, default=0) < 0:
        no("negative widths")
    mode = {"replicate": "edge", "circular": "wrap"}.get(mode, mode)
    return s.pad(x, pairs, 0 if value is None else value, mode=mode)


TABLE |= {
    "softmax": soft(s.softmax),
    "log_softmax": soft(s.log_softmax),
    "nn.functional.softmin": soft(lambda x, axis: s.softmax(-x, axis=axis)),
    "nn.functional.tanhshrink": lambda x: x - s.tanh(x),
    "nn.functional.hardshrink": lambda x, lambd=0.5: s.where(s.abs(x) > lambd, x, 0),
    "nn.functional.softshrink": lambda x, lambd=0.5: s.where(
        s.abs(x) > lambd, x - lambd * s.sign(x), 0
    ),
    "nn.functional.hardsigmoid": layer(lambda x: F.relu6(x + 3) / 6),
    "nn.functional.hardswish": layer(lambda x: x * F.relu6(x + 3) / 6),
    "nn.functional.threshold": layer(lambda x, threshold, value: s.where(x > threshold, x, value)),
    "nn.functional.celu": layer(lambda x, alpha=1.0: F.elu(x / alpha) * alpha),
    "nn.functional.mish": layer(lambda x: x * s.tanh(F.softplus(x))),
    "nn.functional.glu": lambda x, dim=-1: (lambda a, b: a * s.sigmoid(b))(
        *s.split(x, x.shape[dim] // 2, axis=dim)
    ),
    "nn.functional.prelu": lambda x, weight: (
        no("a weight of other axes")
        if x.ndim == 0
        else s.where(
            x > 0,
            x,
            x
            * s.reshape(
                weight, (-1,) + (1,) * (x.ndim - 2) if weight.ndim and x.ndim > 1 else weight.shape
            ),
        )
    ),
    "nn.functional.one_hot": lambda x, num_classes=-1: F.one_hot(
        x, num_classes if num_classes >= 0 else int(s.max(x)) + 1, dtype=s.int64
    ),
    "nn.functional.embedding": lambda w, x, **extras: (
        no("embedding's extras") if any(extras.values()) else F.embedding(x, w)
    ),
    "nn.functional.layer_norm": lambda x, shape, weight=None, bias=None, eps=1e-5: F.layer_norm(
        x, shape, weight, bias, eps
    ),
    "nn.functional.rms_norm": lambda x, shape, weight=None, eps=None: (
        x
        * s.rsqrt(
            s.mean(x * x, axis=tuple(range(-len(shape), 0)), keepdims=True)
            + (s.finfo(x.dtype).eps if eps is None else eps)
        )
        * (1 if weight is None else weight)
    ),
    "nn.functional.normalize": lambda x, p=2.0, dim=1, eps=1e-12: (
        x / s.maximum(linalg.vector_norm(x, ord=p, axis=dim, keepdims=True), eps)
        if x.ndim
        else no("an axis of a scalar")
    ),
    "nn.functional.cosine_similarity": lambda a, b, dim=1, eps=1e-8: (
        s.sum(a * b, axis=dim)
        / (
            s.maximum(linalg.vector_norm(s.broadcast_arrays(a, b)[0], axis=dim), eps)
            * s.maximum(linalg.vector_norm(s.broadcast_arrays(a, b)[1], axis=dim), eps)
        )
    ),
    "nn.functional.pairwise_distance": lambda a, b, p=2.0, eps=1e-6, keepdim=False: (
        linalg.vector_norm(a - b + eps, ord=p, axis=-1, keepdims=keepdim)
    ),
    "nn.functional.pixel_shuffle": lambda x, upscale_factor: pixel_shuffle(x, upscale_factor),
    "nn.functional.channel_shuffle": lambda x, g: s.reshape(
        s.swapaxes(s.reshape(x, (x.shape[0], g, -1, *x.shape[2:])), 1, 2), x.shape
    ),
    "nn.functional.scaled_dot_product_attention": lambda *args, **kwargs: attention(
        *args, **kwargs
    ),
}


def pixel_shuffle(x: Any, r: int) -> Any:
    *lead, c, h, w = x.shape
    y = s.reshape(x, (*lead, c // (r * r), r, r, h, w))
    n = len(lead)
    y = s.permute_dims(y, (*range(n + 1), n + 3, n + 1, n + 4, n + 2))
    return s.reshape(y, (*lead, c // (r * r), h * r, w * r))


def attention(
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Any = None,
    enable_gqa: bool = False,
) -> Any:
    if dropout_p or enable_gqa:
        no("dropout inside attention")
    logits = q @ k.mT * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = s.tril(s.ones(logits.shape[-2:], dtype=s.bool))
    if attn_mask is not None:
        logits = (
            s.where(attn_mask, logits, -math.inf)
            if attn_mask.dtype == s.bool
            else logits + attn_mask
        )
    return s.softmax(logits, axis=-1) @ v


def loss(f: Any) -> Any:
    def call(x: Any, y: Any, *args: Any, **kwargs: Any) -> Any:
        for name in ("size_average", "reduce"):
            if kwargs.pop(name, None) is not None:
                no("arguments of old")
        if kwargs.get("weight") is not None and f not in (F.cross_entropy, F.nll_loss):
            no("weights of single elements")
        if kwargs.get("beta") == 0 or (f is F.nll_loss and x.ndim == 1):
            no("losses of one sample without a batch axis, or without their curve")
        if str(y.dtype).startswith("complex") and not str(x.dtype).startswith("complex"):
            no("a complex target of a real input")
        if x.shape != y.shape and f not in (F.cross_entropy, F.nll_loss):
            no("losses of shapes that broadcast")
        return f(x, y, *args, **kwargs)

    return call


for name in [
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "binary_cross_entropy",
    "kl_div",
    "cross_entropy",
    "nll_loss",
    "binary_cross_entropy_with_logits",
    "soft_margin_loss",
]:
    TABLE[f"nn.functional.{name}"] = loss(getattr(F, name))


def reduced(x: Any, reduction: str) -> Any:
    return {"none": lambda x: x, "mean": s.mean, "sum": s.sum}[reduction](x)


TABLE |= {
    "nn.functional.margin_ranking_loss": lambda a, b, y, margin=0.0, reduction="mean": reduced(
        s.maximum(-y * (a - b) + margin, 0), reduction
    ),
    "nn.functional.hinge_embedding_loss": lambda x, y, margin=1.0, reduction="mean": reduced(
        s.where(
            y == 1, x, s.where(y == -1, s.maximum(margin - x, 0), x + s.maximum(margin - x, 0))
        ),
        reduction,
    ),
    "nn.functional.poisson_nll_loss": lambda *args, **kwargs: poisson_nll_loss(*args, **kwargs),
}


def poisson_nll_loss(
    x: Any,
    y: Any,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Any:
    if full:
        no("Stirling's term")
    return reduced(s.exp(x) - y * x if log_input else x - y * s.log(x + eps), reduction)
