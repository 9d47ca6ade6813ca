"""Normalisation layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from schuss import dtypes
from schuss.context import no_grad
from schuss.errors import ArgumentError, ShapeError, fail
from schuss.functions import neural, normalization
from schuss.functions.arguments import cast
from schuss.functions.creation import ones, zeros
from schuss.functions.reduction import mean, var
from schuss.nn.arguments import floating_argument, positive
from schuss.nn.function import Function
from schuss.nn.module import Buffer, Module, Parameter
from schuss.patterns import repeating
from schuss.tensor import Tensor


@repeating
def _mean_of_channels(x: Tensor) -> Tensor:
    """(N, C, ...) -> (C,), wide enough for sums."""
    return mean(cast(x, dtypes.accumulator(x.dtype)), (0, *range(2, x.ndim)))


@repeating
def _variance_of_channels(x: Tensor) -> Tensor:
    """(N, C, ...) -> (C,), wide enough for sums."""
    return var(cast(x, dtypes.accumulator(x.dtype)), (0, *range(2, x.ndim)))


@repeating
def _normalize_channels(
    x: Tensor,
    centre: Tensor,
    spread: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    column = (1, -1) + (1,) * (x.ndim - 2)
    scale = None if weight is None else weight.reshape(column)
    shift = None if bias is None else bias.reshape(column)
    return neural.normalize(x, centre.reshape(column), spread.reshape(column), scale, shift, eps)


@repeating
def _blended(running: Tensor, value: Tensor, newest: Any) -> Tensor:
    return running * (1 - newest) + value.astype(running.dtype) * newest


class _BatchNorm(Module):
    """What the batch normalisations share; they differ in the shapes that they take."""

    ranks: tuple[int, ...] = ()
    shapes = ""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        positive(type(self).__name__, num_features=num_features)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        kind = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype)
        self.weight = Parameter(ones((num_features,), dtype=kind)) if affine else None
        self.bias = Parameter(zeros((num_features,), dtype=kind)) if affine else None
        tracked = track_running_stats
        self.running_mean = Buffer(zeros((num_features,), dtype=kind)) if tracked else None
        self.running_var = Buffer(ones((num_features,), dtype=kind)) if tracked else None
        self.num_batches_tracked = Buffer(zeros((), dtype=dtypes.int64)) if tracked else None

    def forward(self, x: Tensor) -> Tensor:
        x = self._checked(x)
        if self.training or self.running_mean is None or self.running_var is None:
            count = x.size // max(1, self.num_features)
            if self.training and count < 2:
                raise fail(
                    ShapeError,
                    type(self).__name__,
                    "needs more than one value for each channel in training",
                    x=x,
                    hint="use a larger batch (drop_last=True), or model.eval()",
                )
            centre, spread = _mean_of_channels(x), _variance_of_channels(x)
            if self.training:
                self._track(centre.detach(), spread.detach() * (count / max(1, count - 1)))
        else:
            centre, spread = self.running_mean, self.running_var
        return _normalize_channels(x, centre, spread, self.weight, self.bias, self.eps)

    def _checked(self, x: Any) -> Tensor:
        name = type(self).__name__
        x = floating_argument(name, x)
        if x.ndim not in self.ranks or x.shape[1] != self.num_features:
            raise fail(
                ShapeError,
                name,
                f"x must have the shape {self.shapes} with C = {self.num_features}",
                x=x,
            )
        return x

    def _track(self, centre: Tensor, spread: Tensor) -> None:
        if self.running_mean is None or self.num_batches_tracked is None:
            return
        with no_grad():
            self.num_batches_tracked.assign(self.num_batches_tracked + 1)
            newest: Any = self.momentum
            if newest is None:
                newest = 1 / self.num_batches_tracked.astype(self.running_mean.dtype)
            self._blend(centre, spread, newest)

    def _blend(self, centre: Tensor, spread: Tensor, newest: Any) -> None:
        """Let the running statistics take on the newest ones, to a part."""
        for running, value in ((self.running_mean, centre), (self.running_var, spread)):
            if running is not None:
                running.assign(_blended(running, value, newest))

    def describe(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class BatchNorm1d(_BatchNorm):
    """Each channel brought to mean 0 and variance 1 over the batch, then scaled and shifted.

    In training with the statistics of the batch, which also update the running ones; in evaluation
    with the running ones.

    Args:
        num_features: channels C.
        eps: added to the variance.
        momentum: the weight of the newest batch in the running statistics; None gives all batches
            the same weight.
        affine: whether to scale and shift by learned numbers.
        track_running_stats: False uses the batch in evaluation too.

    Shapes: (N, C) or (N, C, L) -> the same.
    Ioffe and Szegedy, "Batch normalization" (2015).
    """

    ranks, shapes = (2, 3), "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm):
    """As `BatchNorm1d`, for images: (N, C, H, W) -> the same."""

    ranks, shapes = (4,), "(N, C, H, W)"


class BatchNorm3d(_BatchNorm):
    """As `BatchNorm1d`, for volumes: (N, C, D, H, W) -> the same."""

    ranks, shapes = (5,), "(N, C, D, H, W)"


class _InstanceNorm(_BatchNorm):
    """The settings and the state of batch normalisation, with other defaults."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = self._checked(x)
        own = self.training or self.running_mean is None
        count = math.prod(x.shape[2:])
        if self.training and count < 2:
            problem = "needs more than one value for each channel of a sample in training"
            raise fail(ShapeError, type(self).__name__, problem, x=x)
        if self.training and self.running_mean is not None and len(x):
            wide = cast(x.detach(), dtypes.accumulator(x.dtype))
            axes = tuple(range(2, x.ndim))
            centre, spread = mean(wide, axes), var(wide, axes, correction=1)
            with no_grad():
                self._blend(mean(centre, 0), mean(spread, 0), self.momentum)
        return normalization.instance_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, own, self.eps
        )


class InstanceNorm1d(_InstanceNorm):
    """Each channel of each sample brought to mean 0 and variance 1.

    Args:
        num_features: channels C.
        eps: added to the variance.
        momentum: the weight of the newest batch in the running statistics.
        affine: whether to scale and shift channels by learned numbers.
        track_running_stats: keep running means of the statistics, for evaluation mode.

    Shapes: (N, C, L) -> the same.
    Ulyanov, Vedaldi and Lempitsky, "Instance normalization" (2016).
    """

    ranks, shapes = (3,), "(N, C, L)"


class InstanceNorm2d(_InstanceNorm):
    """As `InstanceNorm1d`, for images: (N, C, H, W) -> the same."""

    ranks, shapes = (4,), "(N, C, H, W)"


class InstanceNorm3d(_InstanceNorm):
    """As `InstanceNorm1d`, for volumes: (N, C, D, H, W) -> the same."""

    ranks, shapes = (5,), "(N, C, D, H, W)"


class GroupNorm(Module):
    """Each group of channels of each sample brought to mean 0 and variance 1, then scaled, shifted.

    Args:
        num_groups: how many groups; 1 takes all channels together.
        num_channels: channels C, which the groups divide.
        eps: added to the variance.
        affine: whether to scale and shift channels by learned numbers.

    Shapes: (N, C, ...) -> the same. Wu and He, "Group normalization" (2018).
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        positive("GroupNorm", num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups:
            problem = "num_groups must divide num_channels"
            raise fail(ArgumentError, "GroupNorm", problem, num_groups=num_groups,
                       num_channels=num_channels)  # fmt: skip
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        kind = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype)
        self.weight = Parameter(ones((num_channels,), dtype=kind)) if affine else None
        self.bias = Parameter(zeros((num_channels,), dtype=kind)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        x = floating_argument("GroupNorm", x)
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            problem = f"x must have the shape (N, C, ...) with C = {self.num_channels}"
            raise fail(ShapeError, "GroupNorm", problem, x=x)
        return normalization.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def describe(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}"


class LayerNorm(Module):
    """Each sample brought to mean 0 and variance 1 over its last axes, then scaled and shifted.

    Args:
        normalized_shape: the sizes of those axes, or the size of the last one.
        eps: added to the variance.
        elementwise_affine: whether to scale and shift by learned numbers.
        bias: whether to shift.

    Ba, Kiros and Hinton, "Layer normalization" (2016).
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(normalized_shape, int):
            normalized_shape = (normalized_shape,)
        shape = tuple(normalized_shape)
        for n in shape:
            positive("LayerNorm", normalized_shape=n)
        self.normalized_shape, self.eps = shape, eps
        kind = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype)
        self.weight = Parameter(ones(shape, dtype=kind)) if elementwise_affine else None
        self.bias = Parameter(zeros(shape, dtype=kind)) if elementwise_affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = floating_argument("LayerNorm", x)
        return neural.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def describe(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class RMSNorm(Module):
    """Each sample divided by its root mean square over its last axes, then scaled.

    Args:
        normalized_shape: the sizes of those axes, or the size of the last one.
        eps: added to the mean square; by default the machine epsilon of the dtype of x.
        elementwise_affine: whether to scale by learned numbers.

    Zhang and Sennrich, "Root mean square layer normalization" (2019).
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(normalized_shape, int):
            normalized_shape = (normalized_shape,)
        shape = tuple(normalized_shape)
        for n in shape:
            positive("RMSNorm", normalized_shape=n)
        self.normalized_shape, self.eps = shape, eps
        kind = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype)
        self.weight = Parameter(ones(shape, dtype=kind)) if elementwise_affine else None

    def forward(self, x: Tensor) -> Tensor:
        x = floating_argument("RMSNorm", x)
        return normalization.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def describe(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class LocalResponseNorm(Function):
    """Each element divided by a measure of the channels around it, as in AlexNet.

    (N, C, ...) -> the same. See `nn.functional.local_response_norm`.
    """

    function = staticmethod(normalization.local_response_norm)

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__(size=size, alpha=alpha, beta=beta, k=k)
