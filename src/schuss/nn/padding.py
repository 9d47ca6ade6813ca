"""Padding layers. `padding` is an integer for all sides, or PyTorch's list of them: (left, right),
(left, right, top, bottom), (left, right, top, bottom, front, back).
"""

from __future__ import annotations

from schuss.errors import ArgumentError, ShapeError, fail
from schuss.functions.manipulation import pad
from schuss.functions.windows import Sizes, per_axis
from schuss.nn.arguments import tensor_argument
from schuss.nn.module import Module
from schuss.tensor import Tensor


class _Pad(Module):
    rank = 0
    mode = "constant"
    value: float = 0.0

    def __init__(self, padding: Sizes) -> None:
        super().__init__()
        self.padding = per_axis(type(self).__name__, "padding", padding, 2 * self.rank, 0)

    def forward(self, x: Tensor) -> Tensor:
        name = type(self).__name__
        x = tensor_argument(name, x)
        if x.ndim < self.rank + 1:
            problem = f"x must have channels and {self.rank} more axes behind them"
            raise fail(ShapeError, name, problem, x=x)
        sides = self.padding
        pairs = list(zip(sides[::2], sides[1::2], strict=True))[::-1]
        sizes = x.shape[x.ndim - self.rank :]
        if self.mode == "reflect" and any(max(p) >= n for p, n in zip(pairs, sizes, strict=True)):
            problem = "padding must be smaller than the sizes that it mirrors"
            raise fail(ArgumentError, name, problem, x=x, padding=sides)
        return pad(x, pairs, self.value, mode=self.mode)

    def describe(self) -> str:
        return str(self.padding)


class _ConstantPad(_Pad):
    def __init__(self, padding: Sizes, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def describe(self) -> str:
        return f"{self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPad):
    """A number around the last axis."""

    rank = 1


class ConstantPad2d(_ConstantPad):
    """A number around the last two axes."""

    rank = 2


class ConstantPad3d(_ConstantPad):
    """A number around the last three axes."""

    rank = 3


class ZeroPad1d(_Pad):
    """Zeros around the last axis."""

    rank = 1


class ZeroPad2d(_Pad):
    """Zeros around the last two axes."""

    rank = 2


class ZeroPad3d(_Pad):
    """Zeros around the last three axes."""

    rank = 3


class ReflectionPad1d(_Pad):
    """The last axis mirrored at its first and last element, which are not repeated."""

    rank, mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """The last two axes mirrored at their first and last elements."""

    rank, mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    """The last three axes mirrored at their first and last elements."""

    rank, mode = 3, "reflect"


class ReplicationPad1d(_Pad):
    """The first and last elements of the last axis repeated."""

    rank, mode = 1, "edge"


class ReplicationPad2d(_Pad):
    """The outermost elements of the last two axes repeated."""

    rank, mode = 2, "edge"


class ReplicationPad3d(_Pad):
    """The outermost elements of the last three axes repeated."""

    rank, mode = 3, "edge"


class CircularPad1d(_Pad):
    """The last axis going on at its other end."""

    rank, mode = 1, "wrap"


class CircularPad2d(_Pad):
    """The last two axes going on at their other ends."""

    rank, mode = 2, "wrap"


class CircularPad3d(_Pad):
    """The last three axes going on at their other ends."""

    rank, mode = 3, "wrap"
