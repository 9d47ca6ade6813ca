"""einops on tensors: importing this tells einops how. Needs the package `einops`.

    import schuss.einops
    from einops import rearrange

    rearrange(images, "b (h p) (w q) c -> b (h w) (p q c)", p=8, q=8)

`rearrange`, `reduce`, `repeat`, `einsum`, `pack`, `unpack` and `parse_shape` work then, with
gradients, and compiled like everything else. `Rearrange`, `Reduce` and `EinMix` are the layers.

einops: A. Rogozhnikov, "Einops: clear and reliable tensor manipulations with Einstein-like
notation" (2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from einops._backends import AbstractBackend
from einops.layers import RearrangeMixin, ReduceMixin
from einops.layers._einmix import _EinmixMixin

import schuss
from schuss import nn

if TYPE_CHECKING:
    from schuss import Tensor


class SchussBackend(AbstractBackend):
    """What einops asks of an array library; it finds this class among the base's subclasses."""

    framework_name = "schuss"

    def is_appropriate_type(self, tensor: Any) -> bool:
        return isinstance(tensor, schuss.Tensor)

    def from_numpy(self, x: np.ndarray) -> Tensor:
        return schuss.tensor(x)

    def to_numpy(self, x: Tensor) -> np.ndarray:
        return x.numpy()

    def arange(self, start: int, stop: int) -> Tensor:
        return schuss.arange(start, stop)

    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        return schuss.permute_dims(x, tuple(axes))

    def reduce(self, x: Tensor, operation: str, axes: Sequence[int]) -> Tensor:
        return getattr(schuss, operation)(x, axis=tuple(axes))

    def stack_on_zeroth_dimension(self, tensors: Sequence[Tensor]) -> Tensor:
        return schuss.stack(tensors)

    def add_axis(self, x: Tensor, new_position: int) -> Tensor:
        return schuss.expand_dims(x, axis=new_position)

    def tile(self, x: Tensor, repeats: Sequence[int]) -> Tensor:
        """Axes of size 1 are what einops repeats, which takes no memory."""
        return schuss.broadcast_to(x, tuple(n * k for n, k in zip(x.shape, repeats, strict=True)))

    def concat(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        return schuss.concat(tensors, axis=axis)

    def is_float_type(self, x: Tensor) -> bool:
        return schuss.isdtype(x.dtype, "real floating")

    def einsum(self, pattern: str, *x: Tensor) -> Tensor:
        return schuss.einsum(pattern, *x)


class Rearrange(RearrangeMixin, nn.Module):
    """`einops.rearrange` as a layer: `Rearrange("b c h w -> b (c h w)")`."""

    def forward(self, x: Tensor) -> Tensor:
        return self._apply_recipe(x)

    def describe(self) -> str:
        return _inside(RearrangeMixin.__repr__(self))


class Reduce(ReduceMixin, nn.Module):
    """`einops.reduce` as a layer: `Reduce("b c h w -> b c", "mean")`."""

    def forward(self, x: Tensor) -> Tensor:
        return self._apply_recipe(x)

    def describe(self) -> str:
        return _inside(ReduceMixin.__repr__(self))


class EinMix(_EinmixMixin, nn.Module):
    """A linear layer in einops' notation, which mixes any axes.

    `EinMix("t b cin -> t b cout", weight_shape="cin cout", bias_shape="cout", cin=10, cout=20)`;
    weights are drawn as He's rule says for what is mixed, the bias likewise.
    """

    def _create_parameters(
        self,
        weight_shape: Sequence[int],
        weight_bound: float,
        bias_shape: Sequence[int] | None,
        bias_bound: float,
    ) -> None:
        self.weight = nn.Parameter(_uniform(weight_shape, weight_bound))
        self.bias = None if bias_shape is None else nn.Parameter(_uniform(bias_shape, bias_bound))

    def _create_rearrange_layers(
        self,
        before: str | None,
        sizes_before: dict[str, int] | None,
        after: str | None,
        sizes_after: dict[str, int] | None,
    ) -> None:
        self.pre_rearrange = _rearranging(before, sizes_before)
        self.post_rearrange = _rearranging(after, sizes_after)

    def forward(self, x: Tensor) -> Tensor:
        if self.pre_rearrange is not None:
            x = self.pre_rearrange(x)
        y = schuss.einsum(self.einsum_pattern, x, self.weight)
        if self.bias is not None:
            y = y + self.bias
        return y if self.post_rearrange is None else self.post_rearrange(y)


def _rearranging(pattern: str | None, sizes: dict[str, int] | None) -> nn.Module | None:
    make: Any = Rearrange
    return None if pattern is None else make(pattern, **(sizes or {}))


def _inside(text: str) -> str:
    """What stands between the parentheses."""
    return text.partition("(")[2][:-1]


def _uniform(shape: Sequence[int], bound: float) -> Tensor:
    return schuss.random.uniform(tuple(shape), low=-bound, high=bound)


__all__ = ["EinMix", "Rearrange", "Reduce"]
