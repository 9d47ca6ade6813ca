"""What layers check about their settings and inputs."""

from __future__ import annotations

from typing import Any

from schuss import dtypes
from schuss.errors import ArgumentError, ArgumentTypeError, DTypeError, fail
from schuss.tensor import Tensor


def positive(layer: str, **sizes: Any) -> None:
    """Raise ArgumentError for a size that is not a positive integer."""
    for name, n in sizes.items():
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise fail(ArgumentError, layer, f"{name} must be a positive integer", **{name: n})


def tensor_argument(layer: str, x: Any) -> Tensor:
    """x, or ArgumentTypeError where it is no tensor."""
    if not isinstance(x, Tensor):
        raise fail(
            ArgumentTypeError,
            layer,
            f"needs a tensor, got {type(x).__name__}",
            hint="schuss.tensor(array)",
        )
    return x


def floating_argument(layer: str, x: Any) -> Tensor:
    """x, or an error where it is no tensor of floating (or complex) numbers."""
    x = tensor_argument(layer, x)
    if not dtypes.is_inexact(x.dtype):
        raise fail(
            DTypeError,
            layer,
            "needs floating input",
            x=x,
            hint="scale it: x.astype(schuss.float32) / 255",
        )
    return x
