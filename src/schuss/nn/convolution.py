"""Convolutions and their transposes. Initial values are those of `layers`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from schuss.errors import ArgumentError, ShapeError, fail
from schuss.functions import windows
from schuss.functions.manipulation import pad
from schuss.functions.windows import Sizes, per_axis
from schuss.nn.arguments import floating_argument, positive
from schuss.nn.layers import fresh
from schuss.nn.module import Module
from schuss.philox import Generator
from schuss.tensor import Tensor

_PADDING = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # as `pad` calls them


class _Convolution(Module):
    """What convolutions share, the transposed ones included."""

    rank = 0
    function: Callable[..., Tensor]

    def _settle(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes,
        dilation: Sizes,
        groups: int,
    ) -> None:
        name = type(self).__name__
        positive(name, in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise fail(
                ArgumentError,
                name,
                "groups must divide the channels",
                in_channels=in_channels,
                out_channels=out_channels,
                groups=groups,
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, self.rank, 1)
        self.stride = per_axis(name, "stride", stride, self.rank, 1)
        self.dilation = per_axis(name, "dilation", dilation, self.rank, 1)
        self.groups = groups

    def _fill(
        self, shape: Sequence[int], bias: bool, dtype: Any, generator: Generator | None
    ) -> None:
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        self.weight = fresh(shape, bound, dtype, generator)
        self.bias = fresh((self.out_channels,), bound, dtype, generator) if bias else None

    def _checked(self, x: Any) -> Tensor:
        name = type(self).__name__
        x = floating_argument(name, x)
        if x.ndim == self.rank + 2 and x.shape[1] != self.in_channels:
            last = x.shape[-1] == self.in_channels
            raise fail(
                ShapeError,
                name,
                f"expects {self.in_channels} input channels on axis 1, got {x.shape[1]}",
                x=x,
                weight=self.weight,
                hint="channels come before the sizes: (N, C, ...)" if last else None,
            )
        return x

    def describe(self) -> str:
        parts = [str(self.in_channels), str(self.out_channels), f"kernel_size={self.kernel_size}"]
        ones = (1,) * self.rank
        parts += [f"stride={self.stride}"] if self.stride != ones else []
        parts += [f"padding={self.padding!r}"] if self.padding not in (0, (0,) * self.rank) else []
        parts += [f"dilation={self.dilation}"] if self.dilation != ones else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        parts += ["bias=False"] if self.bias is None else []
        return ", ".join(parts)


class _Conv(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: Any = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if padding_mode != "zeros" and padding_mode not in _PADDING:
            known = ", ".join(["zeros", *_PADDING])
            problem = f"padding_mode is one of {known}"
            raise fail(ArgumentError, name, problem, padding_mode=padding_mode)
        self.padding_mode = padding_mode
        self._settle(in_channels, out_channels, kernel_size, stride, dilation, groups)
        self.padding = padding
        self._around = windows.pairs_of_padding(
            name, padding, self.kernel_size, self.stride, self.dilation
        )
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self._fill(shape, bias, dtype, generator)

    def forward(self, x: Tensor) -> Tensor:
        x, padding = self._checked(x), self.padding
        if self.padding_mode != "zeros":
            x, padding = pad(x, self._around, mode=_PADDING[self.padding_mode]), 0
        return type(self).function(
            x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
        )

    def describe(self) -> str:
        mode = "" if self.padding_mode == "zeros" else f", padding_mode={self.padding_mode!r}"
        return super().describe() + mode


class Conv1d(_Conv):
    """Convolution over sequences.

    Args:
        in_channels, out_channels: channels before and after.
        kernel_size, stride, dilation: an integer each.
        padding: zeros on both sides; or "same" (stride 1), or "valid".
        groups: the channels are worked on in this many separate groups.
        bias: whether to add a number to each output channel.
        padding_mode: "zeros"; or what the padding takes from the input: "reflect" mirrors it,
            "replicate" repeats its ends, "circular" goes on at the other end.

    Shapes: (N, in_channels, L) -> (N, out_channels, L') with
        L' = (L + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1;
        weight (out_channels, in_channels / groups, kernel_size), bias (out_channels,).
    """

    rank = 1
    function = staticmethod(windows.conv1d)


class Conv2d(_Conv):
    """Convolution over images. Arguments as for `Conv1d`; sizes may be pairs (height, width).

    Shapes: (N, in_channels, H, W) -> (N, out_channels, H', W'); weight (out, in / groups, KH, KW).
    """

    rank = 2
    function = staticmethod(windows.conv2d)


class Conv3d(_Conv):
    """Convolution over volumes. Arguments as for `Conv1d`; sizes may be (depth, height, width).

    Shapes: (N, in_channels, D, H, W) -> (N, out_channels, D', H', W');
        weight (out, in / groups, KD, KH, KW).
    """

    rank = 3
    function = staticmethod(windows.conv3d)


class _ConvTranspose(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        *,
        dtype: Any = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self._settle(in_channels, out_channels, kernel_size, stride, dilation, groups)
        self.padding = per_axis(name, "padding", padding, self.rank, 0)
        self.output_padding = per_axis(name, "output_padding", output_padding, self.rank, 0)
        self._fill((in_channels, out_channels // groups, *self.kernel_size), bias, dtype, generator)

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        x = self._checked(x)
        more = self.output_padding
        if output_size is not None and x.ndim == self.rank + 2:
            more = self._lacking(x, output_size)
        return type(self).function(
            x, self.weight, self.bias, self.stride, self.padding, more, self.groups, self.dilation
        )

    def _lacking(self, x: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        """The `output_padding` that gives the wanted sizes."""
        name, wanted = type(self).__name__, tuple(output_size)[-self.rank :]
        each = zip(x.shape[2:], self.kernel_size, self.stride, self.padding, self.dilation,
                   strict=True)  # fmt: skip
        least = tuple((n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in each)
        most = tuple(n + s - 1 for n, s in zip(least, self.stride, strict=True))
        if len(wanted) != len(least) or any(
            not low <= n <= high for n, low, high in zip(wanted, least, most, strict=True)
        ):
            problem = f"output_size must lie between {least} and {most}"
            raise fail(ArgumentError, name, problem, x=x, output_size=output_size)
        return tuple(n - low for n, low in zip(wanted, least, strict=True))

    def describe(self) -> str:
        more = f", output_padding={self.output_padding}" if any(self.output_padding) else ""
        return super().describe() + more


class ConvTranspose1d(_ConvTranspose):
    """The transpose of `Conv1d`, which makes sequences longer.

    Args:
        in_channels, out_channels: channels before and after.
        kernel_size, dilation: of the kernel.
        stride: how far apart in the result the kernels of neighbours begin.
        padding: how much of both ends is left out.
        output_padding: how much longer the end is, smaller than stride or dilation.
        groups: the channels are worked on in this many separate groups.
        bias: whether to add a number to each output channel.

    Called with `output_size`, it chooses the output_padding that gives this size.

    Shapes: (N, in_channels, L) -> (N, out_channels, L') with
        L' = (L - 1) stride - 2 padding + dilation (kernel_size - 1) + output_padding + 1;
        weight (in_channels, out_channels / groups, kernel_size), bias (out_channels,).
    Zeiler et al., "Deconvolutional networks" (2010).
    """

    rank = 1
    function = staticmethod(windows.conv_transpose1d)


class ConvTranspose2d(_ConvTranspose):
    """The transpose of `Conv2d`, which makes images larger. Arguments as for `ConvTranspose1d`.

    Shapes: (N, in_channels, H, W) -> (N, out_channels, H', W'); weight (in, out / groups, KH, KW).
    """

    rank = 2
    function = staticmethod(windows.conv_transpose2d)


class ConvTranspose3d(_ConvTranspose):
    """The transpose of `Conv3d`, for volumes. Arguments as for `ConvTranspose1d`.

    Shapes: (N, in_channels, D, H, W) -> (N, out_channels, D', H', W');
        weight (in, out / groups, KD, KH, KW).
    """

    rank = 3
    function = staticmethod(windows.conv_transpose3d)
