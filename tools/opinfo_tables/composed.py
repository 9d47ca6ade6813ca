"""Operators without a name of their own here, each a line or two of ours."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

import schuss as s
from opinfo_tables.base import TABLE, entry, needs_axes, no
from schuss import linalg, special
from schuss.nn import functional as F  # noqa: N812

_FORMER = set(TABLE)

# --- matrices ---

TABLE |= {
    "matrix_exp": linalg.matrix_exp,
    "linalg.eig": lambda x: tuple(linalg.eig(x)),
    "linalg.eigvals": linalg.eigvals,
    "linalg.lu": lambda x, pivot=True: tuple(linalg.lu(x)) if pivot else no("LU without pivots"),
    "linalg.lu_factor": lambda x, pivot=True: (
        linalg.lu_factor(x).LU if pivot else no("LU without pivots")
    ),
    "linalg.lu_factor_ex": lambda x, pivot=True, check_errors=False: (
        linalg.lu_factor(x).LU if pivot else no("LU without pivots")
    ),
    "lu": lambda x, pivot=True, get_infos=False: (
        linalg.lu_factor(x).LU if pivot else no("LU without pivots")
    ),
}


@entry("linalg.cond")
def cond(x: Any, p: Any = None) -> Any:
    if p in (None, 2, -2):
        values = linalg.svdvals(x)
        first, last = values[..., 0], values[..., -1]
        return first / last if p != -2 else last / first
    return linalg.matrix_norm(x, ord=p) * linalg.matrix_norm(linalg.inv(x), ord=p)


@entry("cdist")
def cdist(a: Any, b: Any, p: float = 2.0, compute_mode: Any = None) -> Any:
    apart = a.expand_dims(-2) - b.expand_dims(-3)
    return linalg.vector_norm(apart, axis=-1, ord=p) if apart.shape[-1] else apart.sum(axis=-1)


@entry("nn.functional.pdist")
def pdist(x: Any, p: float = 2.0) -> Any:
    i, j = np.triu_indices(x.shape[0], 1)
    return linalg.vector_norm(x[i] - x[j], axis=-1, ord=p)


# --- shapes and indices ---

TABLE |= {
    "isin": lambda x, among, assume_unique=False, invert=False: s.isin(x, among, invert=invert),
    "view_copy": lambda x, shape: (
        s.reshape(x, tuple(shape)) if not isinstance(shape, np.dtype) else no("another dtype")
    ),
    "narrow_copy": lambda x, dim, start, length: TABLE["narrow"](x, dim, start, length),
    "dstack": lambda xs: s.concat([atleast_3d(x) for x in xs], axis=2),
    "atleast_3d": lambda x, *more: (
        [atleast_3d(each) for each in x] if isinstance(x, (list, tuple)) else atleast_3d(x)
    ),
    "sum_to_size": lambda x, *shape: sum_to_size(x, shape),
    "unravel_index": lambda x, shape: [
        s.asarray(each) for each in np.unravel_index(x.numpy(), shape)
    ],
    "tril_indices": lambda rows, columns, offset=0, **rest: s.asarray(
        np.stack(np.tril_indices(rows, offset, columns)), dtype=rest.get("dtype")
    ),
    "triu_indices": lambda rows, columns, offset=0, **rest: s.asarray(
        np.stack(np.triu_indices(rows, offset, columns)), dtype=rest.get("dtype")
    ),
    "logspace": lambda start, end, steps, base=10.0, **rest: (
        s.asarray(base, dtype=s.float64)
        ** s.linspace(float(start), float(end), steps, dtype=s.float64)
    ).astype(rest.get("dtype") or s.float32),
    "zero_": s.zeros_like,
    "item": lambda x: x.item(),
    "nn.functional.pixel_unshuffle": lambda x, downscale_factor: pixel_unshuffle(
        x, downscale_factor
    ),
    "nn.functional.unfold": lambda *args, **kwargs: columns(*args, **kwargs),
}


def atleast_3d(x: Any) -> Any:
    return x.reshape({0: (1, 1, 1), 1: (1, -1, 1), 2: (*x.shape, 1)}.get(x.ndim, x.shape))


def sum_to_size(x: Any, shape: Any) -> Any:
    shape = tuple(shape[0]) if shape and isinstance(shape[0], (tuple, list)) else tuple(shape)
    lead = x.ndim - len(shape)
    axes = [i for i in range(x.ndim) if i < lead or (shape[i - lead] == 1 and x.shape[i] != 1)]
    return s.reshape(s.sum(x, axis=tuple(axes)), shape) if axes else x


def pixel_unshuffle(x: Any, factor: int) -> Any:
    *lead, c, h, w = x.shape
    n = len(lead)
    split = x.reshape((*lead, c, h // factor, factor, w // factor, factor))
    turned = s.permute_dims(split, (*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return turned.reshape((*lead, c * factor * factor, h // factor, w // factor))


def columns(x: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    sizes = [(each, each) if isinstance(each, int) else each
             for each in (kernel_size, dilation, padding, stride)]  # fmt: skip
    (kh, kw), dilation, (ph, pw), stride = sizes
    if x.ndim != 4:
        no("no batch axis")
    padded = s.pad(x, [(ph, ph), (pw, pw)])
    places = []  # rows, then columns, of all windows
    for n, k, d, step in zip(padded.shape[2:], (kh, kw), dilation, stride, strict=True):
        starts = np.arange(0, n - d * (k - 1), step)
        places.append((starts[None, :] + d * np.arange(k)[:, None], len(starts)))
    (rows, _), (cols, _) = places
    windows = padded[:, :, rows[:, None, :, None], cols[None, :, None, :]]  # (N, C, kh, kw, h, w)
    n, c = x.shape[:2]
    return windows.reshape((n, c * kh * kw, rows.shape[1] * cols.shape[1]))


@entry("scatter_add")
def scatter_add(x: Any, dim: int, index: Any, src: Any) -> Any:
    needs_axes(x)
    if not index.size or index.ndim != x.ndim:
        no("an index of other axes")
    dim %= x.ndim
    part = src[tuple(slice(0, n) for n in index.shape)]
    places = s.one_hot(index, x.shape[dim], dtype=x.dtype)  # (index axes, places)
    spread = s.moveaxis(s.sum(s.moveaxis(part.expand_dims(-1) * places, dim, -1), axis=-1), -1, dim)
    widths = [(0, n - m) for n, m in zip(x.shape, spread.shape, strict=True)]
    return x + s.pad(spread, widths)


@entry("diagonal_scatter")
def diagonal_scatter(x: Any, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    y = s.moveaxis(x, (dim1, dim2), (-2, -1))
    k = builtins.range(src.shape[-1])
    below, right = builtins.max(-offset, 0), builtins.max(offset, 0)
    y = s.asarray(y, copy=True)
    y[..., np.array(k, dtype=int) + below, np.array(k, dtype=int) + right] = src
    return s.moveaxis(y, (-2, -1), (dim1, dim2))


@entry("gradient")
def gradient(x: Any, spacing: Any = None, dim: Any = None, edge_order: int = 1) -> Any:
    if not (spacing is None or isinstance(spacing, (int, float))) or edge_order != 1:
        no("uneven steps, edges of second order")
    axes = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    step = 1 if spacing is None else spacing
    return [slope(x, axis, step) for axis in axes]


def slope(x: Any, axis: int, step: float) -> Any:
    """Differences over both neighbours, over one at the ends."""
    y = s.moveaxis(x, axis, 0)
    inside = (y[2:] - y[:-2]) / (2 * step)
    ends = [(y[1:2] - y[:1]) / step, (y[-1:] - y[-2:-1]) / step]
    return s.moveaxis(s.concat([ends[0], inside, ends[1]], axis=0), 0, axis)


# --- functions ---

TABLE |= {
    "special.modified_bessel_i0": special.i0,
    "special.modified_bessel_i1": special.i1,
    "signal.windows.bartlett": lambda n, **rest: window(n, lambda t: 1 - abs(2 * t - 1), rest),
    "signal.windows.cosine": lambda n, **rest: window(
        n, None, rest, lambda k, m: s.sin(math.pi / (m + 1) * (k + 0.5))
    ),
    "signal.windows.general_cosine": lambda n, a, **rest: cosines(n, a, rest),
    "signal.windows.general_hamming": lambda n, alpha=0.54, **rest: cosines(
        n, [alpha, 1 - alpha], rest
    ),
    "signal.windows.hamming": lambda n, **rest: cosines(n, [0.54, 0.46], rest),
    "signal.windows.hann": lambda n, **rest: cosines(n, [0.5, 0.5], rest),
    "signal.windows.blackman": lambda n, **rest: cosines(n, [0.42, 0.5, 0.08], rest),
    "signal.windows.nuttall": lambda n, **rest: cosines(
        n, [0.3635819, 0.4891775, 0.1365995, 0.0106411], rest
    ),
    "signal.windows.kaiser": lambda n, beta=12.0, **rest: window(
        n,
        lambda t: special.i0(beta * s.sqrt(1 - (2 * t - 1) ** 2)) / special.i0(beta + 0 * t),
        rest,
    ),
    "signal.windows.gaussian": lambda n, std=1.0, **rest: window(
        n, None, rest, lambda k, m: s.exp(-(((k - m / 2) / std) ** 2) / 2)
    ),
    "signal.windows.exponential": lambda n, center=None, tau=1.0, **rest: window(
        n,
        None,
        rest,
        lambda k, m: s.exp(-s.abs(k - (m / 2 if center is None else center)) / tau),
    ),
}


def window(n: int, shape: Any, rest: Any, of_steps: Any = None) -> Any:
    """n values of a window over [0, 1], which ends one step earlier where it is periodic."""
    steps = s.arange(n, dtype=s.float64)
    last = n - 1 if rest.get("sym", True) else n
    if n <= 1:
        made = s.ones(n, dtype=s.float64)
    else:
        made = shape(steps / last) if of_steps is None else of_steps(steps, last)
    return made.astype(rest.get("dtype") or s.float32)


def cosines(n: int, a: Any, rest: Any) -> Any:
    """Alternating sums of cosines."""
    sums = lambda t: s.stack(
        [(-1) ** k * float(each) * s.cos(2 * math.pi * k * t) for k, each in enumerate(a)]
    ).sum(axis=0)
    return window(n, sums, rest)


# --- masked ---


def counting(f: Any, neutral: float) -> Any:
    """A running sum or product in which what is masked out counts as nothing."""

    def call(x: Any, dim: int, *, dtype: Any = None, mask: Any = None) -> Any:
        needs_axes(x)
        x = x if dtype is None else x.astype(dtype)
        y = f(x if mask is None else s.where(mask, x, neutral), axis=dim)
        return y if mask is None else no("what stands where nothing counts")

    return call


TABLE |= {
    "masked.cumsum": counting(s.cumulative_sum, 0),
    "masked.cumprod": counting(s.cumulative_prod, 1),
}


@entry("masked.softmin")
def masked_softmin(x: Any, dim: int, *, dtype: Any = None, mask: Any = None) -> Any:
    return TABLE["masked.softmax"](-x, dim, dtype=dtype, mask=mask)


# --- networks ---


@entry("nn.functional.group_norm")
def group_norm(x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    size = math.prod(x.shape[1:]) // groups
    parts = x.reshape((x.shape[0], groups, size))
    y = normalized(parts, (-1,), eps).reshape(x.shape)
    return affine(y, weight, bias)


def normalized(x: Any, axes: Any, eps: float) -> Any:
    centred = x - s.mean(x, axis=axes, keepdims=True)
    return centred * s.rsqrt(s.mean(centred * centred, axis=axes, keepdims=True) + eps)


def affine(x: Any, weight: Any, bias: Any) -> Any:
    """Times a weight and plus a bias for each channel."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    x = x if weight is None else x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


@entry("nn.functional.instance_norm")
def instance_norm(
    x: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None,
    bias: Any = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    if not use_input_stats:
        no("running statistics")
    return affine(normalized(x, tuple(range(2, x.ndim)), eps), weight, bias)


@entry("nn.functional.batch_norm")
def batch_norm(
    x: Any, mean: Any, var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    if x.ndim < 2:
        no("no channel axis")
    if training:
        return affine(normalized(x, (0, *range(2, x.ndim)), eps), weight, bias)
    shape = (1, -1, *[1] * (x.ndim - 2))
    return affine((x - mean.reshape(shape)) * s.rsqrt(var.reshape(shape) + eps), weight, bias)


@entry("nn.functional.bilinear")
def bilinear(a: Any, b: Any, weight: Any, bias: Any = None) -> Any:
    y = s.einsum("...i,oij,...j->...o", a, weight, b)
    return y if bias is None else y + bias


@entry("nn.functional.local_response_norm")
def local_response_norm(
    x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Any:
    squares = s.moveaxis(x * x, 1, -1)
    padded = s.pad(squares, [(size // 2, (size - 1) // 2)])
    means = s.mean(s.unfold(padded, size), axis=-1)
    return x / (k + alpha * s.moveaxis(means, -1, 1)) ** beta


def reduced(y: Any, reduction: str) -> Any:
    return {"mean": s.mean, "sum": s.sum, "none": lambda y: y}[reduction](y)


@entry("nn.functional.cosine_embedding_loss")
def cosine_embedding_loss(
    a: Any, b: Any, y: Any, margin: float = 0.0, reduction: str = "mean", **rest: Any
) -> Any:
    eps = 1e-12
    sizes = [s.sum(each * each, axis=-1) + eps for each in (a, b)]
    cosine = s.sum(a * b, axis=-1) / s.sqrt(sizes[0] * sizes[1])
    zero = s.zeros_like(cosine)
    apart = s.where(y == -1, s.clip(cosine - margin, min=0), zero)
    return reduced(s.where(y == 1, 1 - cosine, zero) + apart, reduction)


@entry("nn.functional.gaussian_nll_loss")
def gaussian_nll_loss(
    x: Any, target: Any, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Any:
    if not hasattr(var, "ndim") or (var.ndim and var.ndim < x.ndim):
        no("one variance for a row")
    held = var + s.clip(eps - var, min=0).detach()
    y = 0.5 * (s.log(held) + (x - target) ** 2 / held)
    return reduced(y + 0.5 * math.log(2 * math.pi) if full else y, reduction)


@entry("nn.functional.triplet_margin_loss", "nn.functional.triplet_margin_with_distance_loss")
def triplet_margin_loss(
    anchor: Any, positive: Any, negative: Any, margin: float = 1.0, p: float = 2, eps: float = 1e-6,
    swap: bool = False, reduction: str = "mean", distance_function: Any = None, **rest: Any,
) -> Any:  # fmt: skip
    if distance_function is not None:
        no("a distance that is PyTorch's own")
    far = lambda a, b: linalg.vector_norm(a - b + eps, axis=-1, ord=p)
    apart = far(anchor, negative)
    apart = s.minimum(apart, far(positive, negative)) if swap else apart
    return reduced(s.clip(far(anchor, positive) - apart + margin, min=0), reduction)


@entry("nn.functional.multilabel_soft_margin_loss")
def multilabel_soft_margin_loss(
    x: Any, target: Any, weight: Any = None, reduction: str = "mean", **rest: Any
) -> Any:
    y = -(target * F.logsigmoid(x) + (1 - target) * F.logsigmoid(-x))
    y = y if weight is None else y * weight
    return reduced(s.mean(y, axis=-1), reduction)


@entry("nn.functional.multi_margin_loss")
def multi_margin_loss(
    x: Any, target: Any, p: int = 1, margin: float = 1.0, weight: Any = None,
    reduction: str = "mean", **rest: Any,
) -> Any:  # fmt: skip
    if x.ndim == 0:
        no("a scalar as a vector")
    rows, labels = (x, target) if x.ndim == 2 else (x.expand_dims(0), target.reshape((1,)))
    right = s.take_along_axis(rows, labels.expand_dims(-1), axis=-1)
    losses = s.clip(margin - right + rows, min=0) ** p
    losses = losses if weight is None else losses * weight[labels].expand_dims(-1)
    other = 1 - s.one_hot(labels, rows.shape[-1], dtype=losses.dtype)
    y = s.mean(losses * other, axis=-1)
    return reduced(y if x.ndim == 2 else y[0], reduction)


@entry("nn.functional.upsample_nearest")
def upsample_nearest(x: Any, size: Any = None, scale_factor: Any = None) -> Any:
    sizes = x.shape[2:]
    wanted = [size] * len(sizes) if isinstance(size, int) else size
    if wanted is None:
        factors = (
            [scale_factor] * len(sizes)
            if not isinstance(scale_factor, (list, tuple))
            else scale_factor
        )
        wanted = [int(n * f) for n, f in zip(sizes, factors, strict=True)]
        scales = [1 / f for f in factors]
    else:
        scales = [n / m for n, m in zip(sizes, wanted, strict=True)]
    for axis, (n, m, scale) in enumerate(zip(sizes, wanted, scales, strict=True), 2):
        place = np.minimum(np.floor(np.arange(m) * np.float32(scale)).astype(int), n - 1)
        x = s.take(x, place, axis=axis)
    return x


@entry("native_layer_norm")
def native_layer_norm(x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    mean = s.mean(x, axis=axes, keepdims=True)
    var = s.mean((x - mean) ** 2, axis=axes, keepdims=True)
    return F.layer_norm(x, tuple(shape), weight, bias, eps), mean, s.rsqrt(var + eps)


# Formulas of this page: what they refuse says nothing about the library.
_OWN = {"matrix_exp", "isin", "linalg.eig", "linalg.eigvals", "linalg.lu", "linalg.lu_factor"}
FORMULAS = set(TABLE) - _FORMER - _OWN
