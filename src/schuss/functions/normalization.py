"""Normalisation of samples and groups of channels. `neural.layer_norm` is beside softmax."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

from schuss import dtypes
from schuss.errors import ArgumentError, ShapeError, fail
from schuss.functions.arguments import ArrayLike, cast, floating
from schuss.functions.elementwise import rsqrt
from schuss.functions.manipulation import pad, reshape
from schuss.functions.neural import normalize
from schuss.functions.reduction import mean, var
from schuss.functions.types import finfo

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def _column(x: Tensor, each: Tensor | None) -> Tensor | None:
    """A number for each channel (C,), where it broadcasts against x (N, C, ...)."""
    return None if each is None else reshape(each, (-1,) + (1,) * (x.ndim - 2))


def group_norm(
    x: ArrayLike,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Each group of channels of each sample brought to mean 0 and variance 1: (N, C, ...).

    weight and bias (C,) then scale and shift channels. Wu and He, "Group normalization" (2018).
    Raises ShapeError where `num_groups` does not divide the channels.
    """
    x = floating(x, "group_norm")
    if num_groups < 1:
        problem = "num_groups must be a positive integer"
        raise fail(ArgumentError, "group_norm", problem, num_groups=num_groups)
    if x.ndim < 2 or x.shape[1] % num_groups:
        problem = f"x must have the shape (N, C * {num_groups}, ...)"
        raise fail(ShapeError, "group_norm", problem, x=x, num_groups=num_groups)
    n, c, *sizes = x.shape
    groups = reshape(x, (n, num_groups, c // num_groups, *sizes))
    wide = cast(groups, dtypes.accumulator(x.dtype))
    axes = tuple(range(2, wide.ndim))
    centre, spread = mean(wide, axes, keepdims=True), var(wide, axes, keepdims=True)
    y = reshape(normalize(groups, centre, spread, None, None, eps), x.shape)
    scale, shift = _column(x, weight), _column(x, bias)
    y = y if scale is None else y * scale
    return y if shift is None else y + shift


def instance_norm(
    x: ArrayLike,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    eps: float = 1e-5,
) -> Tensor:
    """Each channel of each sample (N, C, ...) brought to mean 0 and variance 1.

    With the given statistics (C,) instead of its own where `use_input_stats` is False; unlike
    PyTorch's function, this never changes them.
    Ulyanov et al., "Instance normalization" (2016).
    """
    x = floating(x, "instance_norm")
    if x.ndim < 3:
        raise fail(ShapeError, "instance_norm", "x must have the shape (N, C, sizes)", x=x)
    if use_input_stats:
        return group_norm(x, x.shape[1], weight, bias, eps)
    centre, spread = _column(x, running_mean), _column(x, running_var)
    if centre is None or spread is None:
        problem = "needs running_mean and running_var, or the statistics of the input"
        raise fail(ArgumentError, "instance_norm", problem)
    return normalize(x, centre, spread, _column(x, weight), _column(x, bias), eps)


def rms_norm(
    x: ArrayLike,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over its last axes, times weight: layer norm without the mean.

    `eps` is by default the machine epsilon of the dtype of x.
    Zhang and Sennrich, "Root mean square layer normalization" (2019).
    Raises ShapeError where the last axes of x have another shape.
    """
    x = floating(x, "rms_norm")
    shape = tuple(normalized_shape)
    if x.ndim < len(shape) or x.shape[x.ndim - len(shape) :] != shape:
        raise fail(ShapeError, "rms_norm", f"the last axes of x must have the shape {shape}", x=x)
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    wide = cast(x, dtypes.accumulator(x.dtype))
    least = float(finfo(x.dtype).eps) if eps is None else eps
    y = cast(wide * rsqrt(mean(wide * wide, axes, keepdims=True) + least), x.dtype)
    return y if weight is None else y * weight


def local_response_norm(
    x: ArrayLike, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """x / (k + alpha / size * the squares of `size` neighbouring channels, added up) ^ beta.

    x (N, C, ...). Channels outside are zeros. As in PyTorch, alpha is divided by `size`; it is not
    in Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural
    networks" (2012).
    """
    x = floating(x, "local_response_norm")
    if x.ndim < 3:
        problem = "x must have the shape (N, C, sizes)"
        raise fail(ShapeError, "local_response_norm", problem, x=x)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        problem = "size must be a positive integer"
        raise fail(ArgumentError, "local_response_norm", problem, size=size)
    wide = cast(x, dtypes.accumulator(x.dtype))
    rest = [(0, 0)] * (x.ndim - 2)
    squares = pad(wide * wide, [(size // 2, (size - 1) // 2), *rest])
    channels = x.shape[1]
    total = functools.reduce(operator.add, [squares[:, i : i + channels] for i in range(size)])
    return cast(wide * (k + alpha / size * total) ** -beta, x.dtype)


__all__ = ["group_norm", "instance_norm", "local_response_norm", "rms_norm"]
