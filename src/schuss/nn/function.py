"""Layers without parameters: a function and its settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schuss.nn.arguments import tensor_argument
from schuss.nn.module import Module
from schuss.tensor import Tensor


class Function(Module):
    """The base of such layers. A subclass names the function, and its settings in `__init__`."""

    function: Callable[..., Tensor]

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, x: Tensor) -> Tensor:
        return self.call(tensor_argument(type(self).__name__, x))

    def call(self, *inputs: Any) -> Tensor:
        """The function of these inputs, with the settings."""
        return type(self).function(*inputs, **self.settings)

    def describe(self) -> str:
        shown = {
            name: value
            for name, value in self.settings.items()
            if value is not None and value is not False
        }
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())
