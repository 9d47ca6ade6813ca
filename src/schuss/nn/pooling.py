"""Pooling layers, over the functions of `nn.functional`. Sizes are an integer, or one an axis."""

from __future__ import annotations

from collections.abc import Sequence

from schuss.functions import pooling
from schuss.functions.pooling import OutputSize
from schuss.functions.windows import Sizes
from schuss.nn.arguments import tensor_argument
from schuss.nn.function import Function
from schuss.tensor import Tensor


class _MaxPool(Function):
    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
                 dilation: Sizes = 1, return_indices: bool = False, ceil_mode: bool = False
                 ) -> None:  # fmt: skip
        super().__init__(kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation,
                         return_indices=return_indices, ceil_mode=ceil_mode)  # fmt: skip


class _MaxUnpool(Function):
    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> None:
        super().__init__(kernel_size=kernel_size, stride=stride, padding=padding)

    def forward(  # type: ignore[override]  # of two inputs
        self, x: Tensor, indices: Tensor, output_size: Sequence[int] | None = None
    ) -> Tensor:
        x, indices = (tensor_argument(type(self).__name__, each) for each in (x, indices))
        return type(self).function(x, indices, **self.settings, output_size=output_size)


class _AvgPool1d(Function):
    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
                 ceil_mode: bool = False, count_include_pad: bool = True) -> None:  # fmt: skip
        super().__init__(kernel_size=kernel_size, stride=stride, padding=padding,
                         ceil_mode=ceil_mode, count_include_pad=count_include_pad)  # fmt: skip


class _AvgPool(Function):
    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
                 ceil_mode: bool = False, count_include_pad: bool = True,
                 divisor_override: int | None = None) -> None:  # fmt: skip
        super().__init__(kernel_size=kernel_size, stride=stride, padding=padding,
                         ceil_mode=ceil_mode, count_include_pad=count_include_pad,
                         divisor_override=divisor_override)  # fmt: skip


class _AdaptivePool(Function):
    def __init__(self, output_size: OutputSize) -> None:
        super().__init__(output_size=output_size)


class MaxPool1d(_MaxPool):
    """The largest element of each window: (N, C, L) -> (N, C, L'). See `max_pool1d`."""

    function = staticmethod(pooling.max_pool1d)


class MaxPool2d(_MaxPool):
    """The largest element of each window: (N, C, H, W) -> (N, C, H', W'). See `max_pool1d`."""

    function = staticmethod(pooling.max_pool2d)


class MaxPool3d(_MaxPool):
    """The largest element of each window: (N, C, D, H, W) -> (N, C, D', H', W')."""

    function = staticmethod(pooling.max_pool3d)


class MaxUnpool1d(_MaxUnpool):
    """The way back of `MaxPool1d(..., return_indices=True)`, of (x, indices)."""

    function = staticmethod(pooling.max_unpool1d)


class MaxUnpool2d(_MaxUnpool):
    """The way back of `MaxPool2d(..., return_indices=True)`, of (x, indices)."""

    function = staticmethod(pooling.max_unpool2d)


class MaxUnpool3d(_MaxUnpool):
    """The way back of `MaxPool3d(..., return_indices=True)`, of (x, indices)."""

    function = staticmethod(pooling.max_unpool3d)


class AvgPool1d(_AvgPool1d):
    """The mean of each window: (N, C, L) -> (N, C, L'). See `avg_pool1d`."""

    function = staticmethod(pooling.avg_pool1d)


class AvgPool2d(_AvgPool):
    """The mean of each window: (N, C, H, W) -> (N, C, H', W'). See `avg_pool2d`."""

    function = staticmethod(pooling.avg_pool2d)


class AvgPool3d(_AvgPool):
    """The mean of each window: (N, C, D, H, W) -> (N, C, D', H', W'). See `avg_pool2d`."""

    function = staticmethod(pooling.avg_pool3d)


class AdaptiveAvgPool1d(_AdaptivePool):
    """Means over windows so chosen that the result is (N, C, output_size)."""

    function = staticmethod(pooling.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptivePool):
    """Means over windows so chosen that the result is (N, C, *output_size)."""

    function = staticmethod(pooling.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptivePool):
    """Means over windows so chosen that the result is (N, C, *output_size)."""

    function = staticmethod(pooling.adaptive_avg_pool3d)


class AdaptiveMaxPool1d(_AdaptivePool):
    """Largest elements over windows so chosen that the result is (N, C, output_size)."""

    function = staticmethod(pooling.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptivePool):
    """Largest elements over windows so chosen that the result is (N, C, *output_size)."""

    function = staticmethod(pooling.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptivePool):
    """Largest elements over windows so chosen that the result is (N, C, *output_size)."""

    function = staticmethod(pooling.adaptive_max_pool3d)
