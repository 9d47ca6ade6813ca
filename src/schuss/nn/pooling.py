"""Pooling layers, over the functions of `nn.functional`. Sizes are an integer, or one an axis."""

from __future__ import annotations

from schuss.functions import windows
from schuss.functions.windows import Sizes
from schuss.nn.function import Function


class _MaxPool(Function):
    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
                 dilation: Sizes = 1, ceil_mode: bool = False) -> None:  # fmt: skip
        super().__init__(kernel_size=kernel_size, stride=stride, padding=padding,
                         dilation=dilation, ceil_mode=ceil_mode)  # fmt: skip


class _AvgPool(Function):
    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
                 count_include_pad: bool = True) -> None:  # fmt: skip
        super().__init__(kernel_size=kernel_size, stride=stride, padding=padding,
                         count_include_pad=count_include_pad)  # fmt: skip


class _AdaptivePool(Function):
    def __init__(self, output_size: Sizes) -> None:
        super().__init__(output_size=output_size)


class MaxPool1d(_MaxPool):
    """The largest element of each window: (N, C, L) -> (N, C, L'). See `max_pool1d`."""

    function = staticmethod(windows.max_pool1d)


class MaxPool2d(_MaxPool):
    """The largest element of each window: (N, C, H, W) -> (N, C, H', W'). See `max_pool1d`."""

    function = staticmethod(windows.max_pool2d)


class AvgPool1d(_AvgPool):
    """The mean of each window: (N, C, L) -> (N, C, L'). See `avg_pool1d`."""

    function = staticmethod(windows.avg_pool1d)


class AvgPool2d(_AvgPool):
    """The mean of each window: (N, C, H, W) -> (N, C, H', W'). See `avg_pool1d`."""

    function = staticmethod(windows.avg_pool2d)


class AdaptiveAvgPool1d(_AdaptivePool):
    """Means over windows so chosen that the result is (N, C, output_size)."""

    function = staticmethod(windows.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptivePool):
    """Means over windows so chosen that the result is (N, C, *output_size)."""

    function = staticmethod(windows.adaptive_avg_pool2d)


class AdaptiveMaxPool1d(_AdaptivePool):
    """Largest elements over windows so chosen that the result is (N, C, output_size)."""

    function = staticmethod(windows.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptivePool):
    """Largest elements over windows so chosen that the result is (N, C, *output_size)."""

    function = staticmethod(windows.adaptive_max_pool2d)
