"""Activations as layers. The functions stand in `nn.functional`."""

from __future__ import annotations

from schuss.errors import ShapeError, fail
from schuss.functions import neural
from schuss.functions.arguments import array_api_names
from schuss.functions.creation import full
from schuss.functions.elementwise import relu, sigmoid, tanh, where
from schuss.nn.arguments import positive, tensor_argument
from schuss.nn.function import Function
from schuss.nn.module import Module, Parameter
from schuss.tensor import Tensor


class ReLU(Function):
    """max(x, 0)."""

    function = staticmethod(relu)


class ReLU6(Function):
    """x limited to [0, 6]."""

    function = staticmethod(neural.relu6)


class Sigmoid(Function):
    """1 / (1 + exp(-x))."""

    function = staticmethod(sigmoid)


class Tanh(Function):
    """The hyperbolic tangent."""

    function = staticmethod(tanh)


class SiLU(Function):
    """x * sigmoid(x)."""

    function = staticmethod(neural.silu)


class SELU(Function):
    """The self-normalising elu."""

    function = staticmethod(neural.selu)


class Softplus(Function):
    """log(1 + exp(x))."""

    function = staticmethod(neural.softplus)


class Softsign(Function):
    """x / (1 + |x|)."""

    function = staticmethod(neural.softsign)


class LogSigmoid(Function):
    """log(sigmoid(x))."""

    function = staticmethod(neural.logsigmoid)


class LeakyReLU(Function):
    """x where positive, else x * negative_slope."""

    function = staticmethod(neural.leaky_relu)

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__(negative_slope=negative_slope)


class ELU(Function):
    """x where positive, else alpha * (exp(x) - 1)."""

    function = staticmethod(neural.elu)

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha=alpha)


class GELU(Function):
    """x times the normal distribution function; approximate="tanh" for nearly that."""

    function = staticmethod(neural.gelu)

    def __init__(self, approximate: str = "none") -> None:
        super().__init__(approximate=approximate)


class Hardtanh(Function):
    """x limited to [min_val, max_val]."""

    function = staticmethod(neural.hardtanh)

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        super().__init__(min_val=min_val, max_val=max_val)


class Softmax(Function):
    """exp(x) / sum(exp(x)) along `axis`."""

    function = staticmethod(neural.softmax)

    @array_api_names
    def __init__(self, axis: int = -1) -> None:
        super().__init__(axis=axis)


class LogSoftmax(Function):
    """log(softmax(x)) along `axis`."""

    function = staticmethod(neural.log_softmax)

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
