"""What layers are made of: activations, softmax, dropout, layer norm; `windows` convolves."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

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
from schuss.functions.precision import for_sums, plus_bias
from schuss.functions.random import uniform
from schuss.functions.reduction import max, mean, sum, var
from schuss.graph import apply, labelled
from schuss.ops import indexing
from schuss.patterns import repeating
from schuss.philox import Generator

if TYPE_CHECKING:
    from schuss.tensor import Tensor

# --- activations ---

Activation = TypeVar("Activation", bound=Callable[..., Any])


def _rounded_once(function: Activation) -> Activation:
    """An activation of several steps, which half precisions go through in float32."""

    @functools.wraps(function)
    def call(x: ArrayLike, *args: Any, **kwargs: Any) -> Tensor:
        x = floating(x, function.__name__)
        if x.dtype not in dtypes.HALF:
            return function(x, *args, **kwargs)
        return cast(function(cast(x, dtypes.float32), *args, **kwargs), x.dtype)

    return call  # type: ignore[return-value]


def leaky_relu(x: ArrayLike, negative_slope: float = 0.01) -> Tensor:
    """x where positive, else x * negative_slope (Maas et al., 2013)."""
    x = as_tensor(x)
    return where(x > 0, x, x * negative_slope)


@repeating
@_rounded_once
def elu(x: ArrayLike, alpha: float = 1.0) -> Tensor:
    """x where positive, else alpha * (exp(x) - 1) (Clevert et al., 2016)."""
    x = as_tensor(x)
    return where(x > 0, x, alpha * expm1(where(x > 0, 0, x)))


@repeating
@_rounded_once
def selu(x: ArrayLike) -> Tensor:
    """The self-normalising elu (Klambauer et al., 2017)."""
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


@repeating
@_rounded_once
def softplus(x: ArrayLike) -> Tensor:
    """log(1 + exp(x)), without overflow."""
    x = floating(x, "softplus")
    positive = x > 0  # not max(x, 0) and |x|: their sub-gradients make the curvature at 0 zero
    return where(positive, x, 0) + log1p(exp(where(positive, -x, x)))


def logsigmoid(x: ArrayLike) -> Tensor:
    """log(sigmoid(x)), without overflow."""
    return -softplus(-floating(x, "logsigmoid"))


@repeating
@_rounded_once
def silu(x: ArrayLike) -> Tensor:
    """x * sigmoid(x), also called swish (Elfwing et al., 2018)."""
    x = floating(x, "silu")
    return x * sigmoid(x)


@repeating
@_rounded_once
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
    if min_val > max_val:
        problem = "min_val must not be above max_val"
        raise fail(ArgumentError, "hardtanh", problem, min_val=min_val, max_val=max_val)
    return clip(x, min_val, max_val)


def relu6(x: ArrayLike) -> Tensor:
    """x limited to [0, 6]."""
    return clip(x, 0, 6)


@array_api_names
@repeating
def softmax(x: ArrayLike, /, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along `axis`, without overflow."""
    x = for_sums(floating(x, "softmax"))
    powers = exp(_below_largest(x, axis))
    return cast(powers / sum(powers, axis=axis, keepdims=True), x.dtype)


@array_api_names
@repeating
def log_softmax(x: ArrayLike, /, axis: int = -1) -> Tensor:
    """log(softmax(x)) along `axis`, without overflow."""
    x = for_sums(floating(x, "log_softmax"))
    z = _below_largest(x, axis)  # not x - logsumexp(x), which loses the digits of large x
    return cast(z - log(sum(exp(z), axis=axis, keepdims=True)), x.dtype)


def _below_largest(x: Tensor, axis: int) -> Tensor:
    """How far the elements lie below the largest along `axis`; half precisions in float32."""
    wide = cast(x, dtypes.accumulator(x.dtype))
    if not x.size:  # an empty axis has no largest element, and nobody asks for one
        return wide
    return wide - max(wide, axis=axis, keepdims=True).detach()


# --- linear, embedding, dropout ---


@repeating
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
    return y if bias is None else plus_bias(y, bias)


def embedding(indices: ArrayLike, weight: Tensor) -> Tensor:
    """Rows of weight (count, features) at integer indices: (...) -> (..., features).

    Raises OutOfBoundsError, when the value is computed, for an index below 0 or beyond the table.
    """
    index = as_tensor(indices, "embedding")
    if weight.ndim != 2:
        raise fail(
            ShapeError, "embedding", "weight must be a table (count, features)", weight=weight
        )
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


def _dropout_of_channels(
    where_: str, rank: int, x: ArrayLike, p: float, training: bool, generator: Generator | None
) -> Tensor:
    x = as_tensor(x, where_)
    if x.ndim != rank + 2:
        problem = f"x must have {rank + 2} axes, batch and channels first"
        raise fail(ShapeError, where_, problem, x=x)
    if not training or not 0 < p < 1:
        return dropout(x, p, training=training)
    keep = dropout(ones((*x.shape[:2], *(1,) * rank), dtype=x.dtype), p, generator=generator)
    return x * keep


def dropout1d(
    x: ArrayLike, p: float = 0.5, training: bool = True, *, generator: Generator | None = None
) -> Tensor:
    """Each channel of each sample (N, C, L) 0 with probability p, the others divided by 1 - p.

    Tompson et al., "Efficient object localization using convolutional networks" (2015).
    """
    return _dropout_of_channels("dropout1d", 1, x, p, training, generator)


def dropout2d(
    x: ArrayLike, p: float = 0.5, training: bool = True, *, generator: Generator | None = None
) -> Tensor:
    """As `dropout1d`, for images (N, C, H, W)."""
    return _dropout_of_channels("dropout2d", 2, x, p, training, generator)


def dropout3d(
    x: ArrayLike, p: float = 0.5, training: bool = True, *, generator: Generator | None = None
) -> Tensor:
    """As `dropout1d`, for volumes (N, C, D, H, W)."""
    return _dropout_of_channels("dropout3d", 3, x, p, training, generator)


# --- normalisation ---


@repeating
def normalize(
    x: ArrayLike,
    mean_: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias."""
    x = for_sums(as_tensor(x))
    y = cast((x - mean_) * rsqrt(variance + eps), x.dtype)
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


@repeating
def layer_norm(
    x: ArrayLike,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Each sample brought to mean 0 and variance 1 over its last axes (Ba et al., 2016)."""
    x = for_sums(floating(x, "layer_norm"))
    shape = tuple(normalized_shape)
    if x.shape[x.ndim - len(shape) :] != shape or x.ndim < len(shape):
        raise fail(ShapeError, "layer_norm", f"the last axes of x must have the shape {shape}", x=x)
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    wide = cast(x, dtypes.accumulator(x.dtype))
    centre, spread = mean(wide, axes, keepdims=True), var(wide, axes, keepdims=True)
    return normalize(x, centre, spread, weight, bias, eps)


__all__ = [
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "elu",
    "embedding",
    "gelu",
    "hardtanh",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logsigmoid",
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
