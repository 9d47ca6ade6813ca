"""What layers are made of: activations, softmax, normalisation, convolution, pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes
from schuss.errors import ArgumentError, DTypeError, ShapeError, fail
from schuss.functions.arguments import ArrayLike, array_api_names, as_tensor, cast, floating, same
from schuss.functions.creation import ones
from schuss.functions.elementwise import (
    abs,
    clip,
    erf,
    exp,
    expm1,
    log,
    log1p,
    relu,
    rsqrt,
    sigmoid,
    tanh,
    where,
)
from schuss.functions.manipulation import concat, pad, reshape
from schuss.functions.random import uniform
from schuss.functions.reduction import max, mean, sum, var
from schuss.graph import apply, labelled
from schuss.ops import contraction, indexing
from schuss.ops.movement import windows
from schuss.philox import Generator

if TYPE_CHECKING:
    from schuss.tensor import Tensor

# --- activations ---


def leaky_relu(x: ArrayLike, negative_slope: float = 0.01) -> Tensor:
    """x where positive, else x * negative_slope (Maas et al., 2013)."""
    x = as_tensor(x)
    return where(x > 0, x, x * negative_slope)


def elu(x: ArrayLike, alpha: float = 1.0) -> Tensor:
    """x where positive, else alpha * (exp(x) - 1) (Clevert et al., 2016)."""
    x = as_tensor(x)
    return where(x > 0, x, alpha * expm1(where(x > 0, 0, x)))


def selu(x: ArrayLike) -> Tensor:
    """The self-normalising elu (Klambauer et al., 2017)."""
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


def softplus(x: ArrayLike) -> Tensor:
    """log(1 + exp(x)), without overflow."""
    x = floating(x, "softplus")
    positive = x > 0  # not max(x, 0) and |x|: their sub-gradients make the curvature at 0 zero
    return where(positive, x, 0) + log1p(exp(where(positive, -x, x)))


def logsigmoid(x: ArrayLike) -> Tensor:
    """log(sigmoid(x)), without overflow."""
    return -softplus(-floating(x, "logsigmoid"))


def silu(x: ArrayLike) -> Tensor:
    """x * sigmoid(x), also called swish (Elfwing et al., 2018)."""
    x = floating(x, "silu")
    return x * sigmoid(x)


def gelu(x: ArrayLike, approximate: str = "none") -> Tensor:
    """x times the normal distribution function (Hendrycks, Gimpel, 2016); "tanh" is nearly it."""
    x = floating(x, "gelu")
    if approximate == "tanh":
        return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    if approximate != "none":
        raise fail(
            ArgumentError, "gelu", "approximate is 'none' or 'tanh'", approximate=approximate
        )
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


def softsign(x: ArrayLike) -> Tensor:
    """x / (1 + |x|)."""
    x = floating(x, "softsign")
    return x / (1 + abs(x))


def hardtanh(x: ArrayLike, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """x limited to [min_val, max_val]."""
    return clip(x, min_val, max_val)


def relu6(x: ArrayLike) -> Tensor:
    """x limited to [0, 6]."""
    return clip(x, 0, 6)


@array_api_names
def softmax(x: ArrayLike, /, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along `axis`, without overflow."""
    x = floating(x, "softmax")
    powers = exp(_below_largest(x, axis))
    return cast(powers / sum(powers, axis=axis, keepdims=True), x.dtype)


@array_api_names
def log_softmax(x: ArrayLike, /, axis: int = -1) -> Tensor:
    """log(softmax(x)) along `axis`, without overflow."""
    x = floating(x, "log_softmax")
    z = _below_largest(x, axis)  # not x - logsumexp(x), which loses the digits of large x
    return cast(z - log(sum(exp(z), axis=axis, keepdims=True)), x.dtype)


def _below_largest(x: Tensor, axis: int) -> Tensor:
    """How far the elements lie below the largest along `axis`; half precisions in float32."""
    wide = cast(x, dtypes.accumulator(x.dtype))
    return wide - max(wide, axis=axis, keepdims=True).detach()


# --- linear, embedding, dropout ---


def linear(x: ArrayLike, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias: shapes (..., in), (out, in), (out,) -> (..., out)."""
    x = as_tensor(x)
    if x.ndim < 1 or x.shape[-1] != weight.shape[-1]:
        raise fail(
            ShapeError,
            "linear",
            f"the last axis of x must have {weight.shape[-1]} features",
            x=x,
            weight=weight,
        )
    y = x @ weight.mT
    return y if bias is None else y + bias


def embedding(indices: ArrayLike, weight: Tensor) -> Tensor:
    """Rows of weight (count, features) at integer indices: (...) -> (..., features).

    Raises OutOfBoundsError, when the value is computed, for an index below 0 or beyond the table.
    """
    index = as_tensor(indices, "embedding")
    if not dtypes.is_integral(index.dtype):
        raise fail(DTypeError, "embedding", "indices must be integers", indices=index)
    rows = apply(indexing.gather, weight, cast(index, dtypes.int64), axes=(0,), wrap=False)
    return labelled(rows, "embedding")


def dropout(
    x: ArrayLike, p: float = 0.5, *, training: bool = True, generator: Generator | None = None
) -> Tensor:
    """Each element 0 with probability p, the others divided by 1 - p (Srivastava et al., 2014)."""
    x = as_tensor(x, "dropout")
    if not 0 <= p <= 1:
        raise fail(ArgumentError, "dropout", "p is a probability", p=p)
    if not training or p == 0:
        return same(x)
    if p == 1:
        return x * 0
    keep = uniform(x.shape, generator=generator) >= p
    return where(keep, x * (1 / (1 - p)), 0)


# --- normalisation ---


def normalize(
    x: ArrayLike,
    mean_: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias."""
    x = as_tensor(x)
    y = cast((x - mean_) * rsqrt(variance + eps), x.dtype)
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def layer_norm(
    x: ArrayLike,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Each sample brought to mean 0 and variance 1 over its last axes (Ba et al., 2016)."""
    x = floating(x, "layer_norm")
    shape = tuple(normalized_shape)
    if x.shape[x.ndim - len(shape) :] != shape or x.ndim < len(shape):
        raise fail(ShapeError, "layer_norm", f"the last axes of x must have the shape {shape}", x=x)
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    wide = cast(x, dtypes.accumulator(x.dtype))
    centre, spread = mean(wide, axes, keepdims=True), var(wide, axes, keepdims=True)
    return normalize(x, centre, spread, weight, bias, eps)


# --- convolution ---

Sizes = int | Sequence[int]


def per_axis(where_: str, name: str, value: Any, rank: int, least: int) -> tuple[int, ...]:
    """A size for each of `rank` axes, from one integer or from a sequence."""
    sizes = tuple(value) if isinstance(value, Sequence) else (value,) * rank
    if len(sizes) != rank or any(
        isinstance(n, bool) or not isinstance(n, int) or n < least for n in sizes
    ):
        raise fail(
            ArgumentError,
            where_,
            f"{name} must be an integer of at least {least}, or {rank} of them",
            **{name: value},
        )
    return sizes


def pairs_of_padding(
    where_: str,
    padding: Sizes | str,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[tuple[int, int], ...]:
    """Pairs (before, after). "same" keeps the size at stride 1, "valid" is none."""
    rank = len(kernel)
    if padding == "valid":
        return ((0, 0),) * rank
    if padding == "same":
        if stride != (1,) * rank:
            raise fail(ArgumentError, where_, "padding='same' needs stride 1", stride=stride)
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if isinstance(padding, str):
        raise fail(
            ArgumentError,
            where_,
            "padding is an integer, a sequence, 'same' or 'valid'",
            padding=padding,
        )
    return tuple((n, n) for n in per_axis(where_, "padding", padding, rank, 0))


def _convolution(
    where_: str,
    rank: int,
    x: ArrayLike,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes | str,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    x = as_tensor(x, where_)
    if x.ndim != rank + 2 or weight.ndim != rank + 2:
        sizes = "L" if rank == 1 else "H, W"
        raise fail(
            ShapeError,
            where_,
            f"x must have the {rank + 2} axes (N, C, {sizes})",
            x=x,
            weight=weight,
            hint="add a batch axis with x[None]" if x.ndim == rank + 1 else None,
        )
    if groups < 1 or weight.shape[0] % groups:
        raise fail(
            ArgumentError,
            where_,
            "groups must divide the output channels",
            weight=weight,
            groups=groups,
        )
    if x.shape[1] != weight.shape[1] * groups:
        raise fail(
            ShapeError,
            where_,
            f"x has {x.shape[1]} channels, the weight takes {weight.shape[1] * groups}",
            x=x,
            weight=weight,
            groups=groups,
        )
    steps = per_axis(where_, "stride", stride, rank, 1)
    spread = per_axis(where_, "dilation", dilation, rank, 1)
    around = pairs_of_padding(where_, padding, weight.shape[2:], steps, spread)
    dtype = dtypes.promote(x.dtype, weight.dtype)
    y = apply(
        contraction.convolve,
        cast(x, dtype),
        cast(weight, dtype),
        stride=steps,
        padding=around,
        dilation=spread,
        groups=groups,
    )
    return y if bias is None else y + reshape(bias, (-1,) + (1,) * rank)


def conv1d(x: ArrayLike, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1,
           padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1) -> Tensor:  # fmt: skip
    """Convolution over one axis: (N, C, L) with (O, C / groups, K) -> (N, O, L')."""
    return _convolution("conv1d", 1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(x: ArrayLike, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1,
           padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1) -> Tensor:  # fmt: skip
    """Convolution over two axes: (N, C, H, W) with (O, C / groups, KH, KW) -> (N, O, H', W').

    As everywhere in this field, the kernel is not mirrored (it is a correlation).
    """
    return _convolution("conv2d", 2, x, weight, bias, stride, padding, dilation, groups)


# --- pooling ---


def _pool_windows(
    where_: str,
    rank: int,
    x: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    dilation: Sizes,
    fill: float,
) -> tuple[Tensor, tuple[int, ...]]:
    """The windows (N, C, counts..., kernel...) and the axes of the kernel."""
    x = as_tensor(x, where_)
    if x.ndim != rank + 2:
        raise fail(
            ShapeError, where_, f"x must have {rank + 2} axes, batch and channels first", x=x
        )
    kernel = per_axis(where_, "kernel_size", kernel_size, rank, 1)
    steps = kernel if stride is None else per_axis(where_, "stride", stride, rank, 1)
    around = per_axis(where_, "padding", padding, rank, 0)
    if any(2 * p > k for p, k in zip(around, kernel, strict=True)):
        raise fail(ArgumentError, where_, "padding may be half the kernel at most", padding=around,
                   kernel_size=kernel)  # fmt: skip
    spread = per_axis(where_, "dilation", dilation, rank, 1)
    if fill == -math.inf and dtypes.is_integral(x.dtype):
        fill = np.iinfo(x.dtype).min
    x = pad(x, [(n, n) for n in around], fill)
    axes = tuple(range(2 + rank, 2 + 2 * rank))
    return apply(windows, x, kernel=kernel, stride=steps, dilation=spread), axes


def max_pool1d(x: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               dilation: Sizes = 1) -> Tensor:  # fmt: skip
    """The largest element of each window: (N, C, L) -> (N, C, L'). Default stride: the kernel."""
    view, axes = _pool_windows(
        "max_pool1d", 1, x, kernel_size, stride, padding, dilation, -math.inf
    )
    return max(view, axis=axes)


def max_pool2d(x: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               dilation: Sizes = 1) -> Tensor:  # fmt: skip
    """The largest element of each window: (N, C, H, W) -> (N, C, H', W'). See `max_pool1d`."""
    view, axes = _pool_windows(
        "max_pool2d", 2, x, kernel_size, stride, padding, dilation, -math.inf
    )
    return max(view, axis=axes)


def _average(
    where_: str,
    rank: int,
    x: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    count_include_pad: bool,
) -> Tensor:
    view, axes = _pool_windows(where_, rank, x, kernel_size, stride, padding, 1, 0.0)
    if count_include_pad or not any(per_axis(where_, "padding", padding, rank, 0)):
        return mean(view, axis=axes)
    x = as_tensor(x, where_)
    inside = ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    counts, _ = _pool_windows(where_, rank, inside, kernel_size, stride, padding, 1, 0.0)
    return sum(view, axis=axes) / sum(counts, axis=axes)


def avg_pool1d(x: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               count_include_pad: bool = True) -> Tensor:  # fmt: skip
    """The mean of each window: (N, C, L) -> (N, C, L')."""
    return _average("avg_pool1d", 1, x, kernel_size, stride, padding, count_include_pad)


def avg_pool2d(x: ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               count_include_pad: bool = True) -> Tensor:  # fmt: skip
    """The mean of each window: (N, C, H, W) -> (N, C, H', W')."""
    return _average("avg_pool2d", 2, x, kernel_size, stride, padding, count_include_pad)


def _adaptive(where_: str, rank: int, x: ArrayLike, output_size: Sizes, largest: bool) -> Tensor:
    x = as_tensor(x, where_)
    if x.ndim != rank + 2:
        raise fail(
            ShapeError, where_, f"x must have {rank + 2} axes, batch and channels first", x=x
        )
    for axis, count in enumerate(per_axis(where_, "output_size", output_size, rank, 1), start=2):
        x = _adaptive_axis(x, axis, count, largest)
    return x


def _adaptive_axis(x: Tensor, axis: int, count: int, largest: bool) -> Tensor:
    """One axis as `count` elements: i covers floor(i n / count) to ceil((i + 1) n / count)."""
    n = x.shape[axis]
    reduce = max if largest else mean
    if n % count == 0:
        shape = (*x.shape[:axis], count, n // count, *x.shape[axis + 1 :])
        return reduce(reshape(x, shape), axis=axis + 1)
    lead = (slice(None),) * axis
    pieces = [
        reduce(
            x[(*lead, slice(i * n // count, -(-(i + 1) * n // count)))], axis=axis, keepdims=True
        )
        for i in range(count)
    ]
    return concat(pieces, axis=axis)


def adaptive_avg_pool1d(x: ArrayLike, output_size: Sizes) -> Tensor:
    """Means over windows so chosen that (N, C, L) becomes (N, C, output_size)."""
    return _adaptive("adaptive_avg_pool1d", 1, x, output_size, False)


def adaptive_avg_pool2d(x: ArrayLike, output_size: Sizes) -> Tensor:
    """Means over windows so chosen that (N, C, H, W) becomes (N, C, *output_size)."""
    return _adaptive("adaptive_avg_pool2d", 2, x, output_size, False)


def adaptive_max_pool1d(x: ArrayLike, output_size: Sizes) -> Tensor:
    """As `adaptive_avg_pool1d`, with the largest element."""
    return _adaptive("adaptive_max_pool1d", 1, x, output_size, True)


def adaptive_max_pool2d(x: ArrayLike, output_size: Sizes) -> Tensor:
    """As `adaptive_avg_pool2d`, with the largest element."""
    return _adaptive("adaptive_max_pool2d", 2, x, output_size, True)


__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "conv1d",
    "conv2d",
    "dropout",
    "elu",
    "embedding",
    "gelu",
    "hardtanh",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logsigmoid",
    "max_pool1d",
    "max_pool2d",
    "normalize",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "softsign",
    "tanh",
]
