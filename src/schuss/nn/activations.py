"""Activations as layers. The functions stand in `nn.functional`."""

from __future__ import annotations

from typing import Any

from schuss.errors import ShapeError, fail
from schuss.functions import neural
from schuss.functions.arguments import array_api_names
from schuss.functions.creation import full
from schuss.functions.elementwise import relu, sigmoid, tanh, where
from schuss.nn.layers import positive, tensor_argument
from schuss.nn.module import Module, Parameter
from schuss.tensor import Tensor


class _Activation(Module):
    """A function of each element with fixed settings, which are attributes and shown in print."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    def function(self, x: Tensor, **settings: Any) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.function(tensor_argument(type(self).__name__, x), **self.settings)

    def describe(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())


class ReLU(_Activation):
    """max(x, 0)."""

    function = staticmethod(relu)  # type: ignore[assignment]


class ReLU6(_Activation):
    """x limited to [0, 6]."""

    function = staticmethod(neural.relu6)  # type: ignore[assignment]


class Sigmoid(_Activation):
    """1 / (1 + exp(-x))."""

    function = staticmethod(sigmoid)  # type: ignore[assignment]


class Tanh(_Activation):
    """The hyperbolic tangent."""

    function = staticmethod(tanh)  # type: ignore[assignment]


class SiLU(_Activation):
    """x * sigmoid(x)."""

    function = staticmethod(neural.silu)  # type: ignore[assignment]


class SELU(_Activation):
    """The self-normalising elu."""

    function = staticmethod(neural.selu)  # type: ignore[assignment]


class Softplus(_Activation):
    """log(1 + exp(x))."""

    function = staticmethod(neural.softplus)  # type: ignore[assignment]


class Softsign(_Activation):
    """x / (1 + |x|)."""

    function = staticmethod(neural.softsign)  # type: ignore[assignment]


class LogSigmoid(_Activation):
    """log(sigmoid(x))."""

    function = staticmethod(neural.logsigmoid)  # type: ignore[assignment]


class LeakyReLU(_Activation):
    """x where positive, else x * negative_slope."""

    function = staticmethod(neural.leaky_relu)  # type: ignore[assignment]

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__(negative_slope=negative_slope)


class ELU(_Activation):
    """x where positive, else alpha * (exp(x) - 1)."""

    function = staticmethod(neural.elu)  # type: ignore[assignment]

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha=alpha)


class GELU(_Activation):
    """x times the normal distribution function; approximate="tanh" for nearly that."""

    function = staticmethod(neural.gelu)  # type: ignore[assignment]

    def __init__(self, approximate: str = "none") -> None:
        super().__init__(approximate=approximate)


class Hardtanh(_Activation):
    """x limited to [min_val, max_val]."""

    function = staticmethod(neural.hardtanh)  # type: ignore[assignment]

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        super().__init__(min_val=min_val, max_val=max_val)


class Softmax(_Activation):
    """exp(x) / sum(exp(x)) along `axis`."""

    function = staticmethod(neural.softmax)  # type: ignore[assignment]

    @array_api_names
    def __init__(self, axis: int = -1) -> None:
        super().__init__(axis=axis)


class LogSoftmax(_Activation):
    """log(softmax(x)) along `axis`."""

    function = staticmethod(neural.log_softmax)  # type: ignore[assignment]

    @array_api_names
    def __init__(self, axis: int = -1) -> None:
        super().__init__(axis=axis)


class PReLU(Module):
    """x where positive, else x * weight, with a learned weight (He et al., 2015).

    Args:
        num_parameters: 1 weight for all, or as many as there are channels.
        init: where they start.

    Shapes: (N, C, ...) -> the same; weight (1,) or (C,).
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        super().__init__()
        positive("PReLU", num_parameters=num_parameters)
        self.weight = Parameter(full((num_parameters,), init, dtype="float32"))

    def forward(self, x: Tensor) -> Tensor:
        x = tensor_argument("PReLU", x)
        slope: Tensor = self.weight
        if slope.size > 1 and (x.ndim < 2 or x.shape[1] != slope.size):
            raise fail(ShapeError, "PReLU", f"x must have {slope.size} channels on axis 1", x=x,
                       weight=slope)  # fmt: skip
        if x.ndim > 2 and slope.size > 1:
            slope = slope.reshape((-1,) + (1,) * (x.ndim - 2))
        return where(x > 0, x, x * slope)
