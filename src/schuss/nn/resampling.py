"""Layers that make images larger, or deal out their elements otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from schuss.functions import resampling, windows
from schuss.functions.windows import Sizes
from schuss.nn.function import Function


class Upsample(Function):
    """x (N, C, sizes) in other sizes. The arguments are those of `nn.functional.interpolate`."""

    function = staticmethod(resampling.interpolate)

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ) -> None:
        super().__init__(
            size=size, scale_factor=scale_factor, mode=mode, align_corners=align_corners
        )


class UpsamplingNearest2d(Upsample):
    """Images (N, C, H, W) in other sizes, each pixel that of the place it falls on."""

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(size, scale_factor, "nearest")


class UpsamplingBilinear2d(Upsample):
    """Images (N, C, H, W) in other sizes, in straight lines between pixels; corners stay."""

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(size, scale_factor, "bilinear", align_corners=True)


class PixelShuffle(Function):
    """(..., C r r, H, W) -> (..., C, H r, W r). See `nn.functional.pixel_shuffle`."""

    function = staticmethod(resampling.pixel_shuffle)

    def __init__(self, upscale_factor: int) -> None:
        super().__init__(upscale_factor=upscale_factor)


class PixelUnshuffle(Function):
    """(..., C, H r, W r) -> (..., C r r, H, W). See `nn.functional.pixel_unshuffle`."""

    function = staticmethod(resampling.pixel_unshuffle)

    def __init__(self, downscale_factor: int) -> None:
        super().__init__(downscale_factor=downscale_factor)


class ChannelShuffle(Function):
    """The channels of (N, C, ...) dealt out by groups. See `nn.functional.channel_shuffle`."""

    function = staticmethod(resampling.channel_shuffle)

    def __init__(self, groups: int) -> None:
        super().__init__(groups=groups)


class Unfold(Function):
    """All windows as columns: (N, C, H, W) -> (N, C KH KW, L). See `nn.functional.unfold`."""

    function = staticmethod(windows.unfold)

    def __init__(self, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0,
                 stride: Sizes = 1) -> None:  # fmt: skip
        super().__init__(kernel_size=kernel_size, dilation=dilation, padding=padding, stride=stride)


class Fold(Function):
    """Columns back to where they came from: (N, C KH KW, L) -> (N, C, *output_size). See
    `nn.functional.fold`."""

    function = staticmethod(windows.fold)

    def __init__(self, output_size: Sizes, kernel_size: Sizes, dilation: Sizes = 1,
                 padding: Sizes = 0, stride: Sizes = 1) -> None:  # fmt: skip
        super().__init__(output_size=output_size, kernel_size=kernel_size, dilation=dilation,
                         padding=padding, stride=stride)  # fmt: skip
