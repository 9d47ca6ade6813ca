"""Layers with learned parameters: linear, embedding; dropout, and what holds layers together.

Initial values are PyTorch's: even within +-1 / sqrt(fan_in), for weights and biases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

from schuss import dtypes
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    OutOfBoundsError,
    ShapeError,
    fail,
)
from schuss.functions import neural
from schuss.functions.creation import zeros
from schuss.functions.elementwise import where
from schuss.functions.manipulation import flatten
from schuss.nn import init
from schuss.nn.arguments import floating_argument, positive, tensor_argument
from schuss.nn.module import Module, Parameter
from schuss.patterns import repeating
from schuss.philox import Generator
from schuss.tensor import Tensor


def fresh(shape: Sequence[int], bound: float, dtype: Any, generator: Generator | None) -> Parameter:
    """A parameter of numbers spread evenly within +-bound."""
    kind = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype)
    parameter = Parameter(zeros(tuple(shape), dtype=kind))
    init.uniform_(parameter, -bound, bound, generator)
    return parameter


class Linear(Module):
    """y = x W^T + b.

    Args:
        in_features, out_features: sizes of the last axis before and after.
        bias: whether to add b.

    Shapes: (..., in_features) -> (..., out_features);
        weight (out_features, in_features), bias (out_features,).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, dtype: Any = None,
                 generator: Generator | None = None) -> None:  # fmt: skip
        super().__init__()
        positive("Linear", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        bound = 1 / math.sqrt(in_features)
        self.weight = fresh((out_features, in_features), bound, dtype, generator)
        self.bias = fresh((out_features,), bound, dtype, generator) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return _linear(x, self.weight, self.bias)

    def describe(self) -> str:
        return f"{self.in_features}, {self.out_features}" + (
            "" if self.bias is not None else ", bias=False"
        )


@repeating
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    x, features = floating_argument("Linear", x), weight.shape[-1]
    if x.ndim == 0 or x.shape[-1] != features:
        raise fail(
            ShapeError,
            "Linear",
            f"the last axis must have in_features={features} elements",
            x=x,
            weight=weight,
            hint=_flatten_hint(x, features),
        )
    return neural.linear(x, weight, bias)


def _flatten_hint(x: Tensor, features: int) -> str | None:
    if x.ndim > 2 and math.prod(x.shape[1:]) == features:
        return "flatten all but the batch axis first: x.flatten(1), or nn.Flatten()"
    return None


class Embedding(Module):
    """A table of vectors, looked up by integers.

    Args:
        num_embeddings: rows of the table.
        embedding_dim: the length of each vector.
        padding_idx: a row that starts as zeros and does not learn.

    Shapes: integers (...) -> (..., embedding_dim). Initially normal with deviation 1.
    Raises OutOfBoundsError, when the value is computed, for an index outside the table.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        dtype: Any = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        positive("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        if padding_idx is not None and not 0 <= padding_idx < num_embeddings:
            raise fail(
                OutOfBoundsError,
                "Embedding",
                "padding_idx is outside the table",
                padding_idx=padding_idx,
            )
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx
        kind = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype)
        self.weight = Parameter(zeros((num_embeddings, embedding_dim), dtype=kind))
        init.normal_(self.weight, generator=generator)
        if padding_idx is not None:
            value = self.weight.detach()
            value[padding_idx] = 0.0
            self.weight.assign(value)

    def forward(self, indices: Tensor) -> Tensor:
        indices = tensor_argument("Embedding", indices)
        rows = neural.embedding(indices, self.weight)
        if self.padding_idx is None:
            return rows
        padded = (indices == self.padding_idx).expand_dims(-1)
        return where(padded, rows.detach(), rows)

    def describe(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class _Dropout(Module):
    function: Callable[..., Tensor]

    def __init__(self, p: float = 0.5, *, generator: Generator | None = None) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise fail(ArgumentError, type(self).__name__, "p is a probability", p=p)
        self.p = p
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        x = tensor_argument(type(self).__name__, x)
        function = type(self).function
        return function(x, self.p, training=self.training, generator=self.generator)

    def describe(self) -> str:
        return f"p={self.p}"


class Dropout(_Dropout):
    """Each element 0 with probability p, the others divided by 1 - p; in evaluation x itself.

    Args:
        p: the probability.
        generator: where the random numbers come from; the default generator otherwise.

    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting" (2014).
    """

    function = staticmethod(neural.dropout)


class Dropout1d(_Dropout):
    """As `Dropout`, for whole channels (N, C, L) at a time, whose elements resemble each other."""

    function = staticmethod(neural.dropout1d)


class Dropout2d(_Dropout):
    """As `Dropout`, for whole channels (N, C, H, W) at a time."""

    function = staticmethod(neural.dropout2d)


class Dropout3d(_Dropout):
    """As `Dropout`, for whole channels (N, C, D, H, W) at a time."""

    function = staticmethod(neural.dropout3d)


class Flatten(Module):
    """The axes `start_axis` to `end_axis` (included) as one; by default all but the batch."""

    def __init__(self, start_axis: int = 1, end_axis: int = -1) -> None:
        super().__init__()
        self.start_axis, self.end_axis = start_axis, end_axis

    def forward(self, x: Tensor) -> Tensor:
        return flatten(tensor_argument("Flatten", x), self.start_axis, self.end_axis)


class Identity(Module):
    """x itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Sequential(Module):
    """Layers one after the other: `Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))`.

    It can be indexed, iterated over and measured with len. Names in its state are "0.weight", ...
    """

    def __init__(self, *layers: Module) -> None:
        super().__init__()
        self.layers: list[Module] = []
        for layer in layers:
            self.append(layer)

    def named_children(self) -> list[tuple[str, Module]]:
        return [(name.removeprefix("layers."), each) for name, each in super().named_children()]

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def append(self, layer: Module) -> Sequential:
        """Add a layer at the end; returns the module."""
        if not isinstance(layer, Module):
            kind = type(layer).__name__
            raise fail(
                ArgumentTypeError,
                "Sequential",
                f"layer {len(self)} is no Module but {kind}",
                hint="nn.ReLU() instead of a function; Sequential(*layers) for a list",
            )
        self.layers.append(layer)
        return self

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module:
        return Sequential(*self.layers[index]) if isinstance(index, slice) else self.layers[index]
