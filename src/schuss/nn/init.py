"""Initial values. Each function gives a tensor new values in place, and returns it.

Names end in an underscore, as in PyTorch. Fans are PyTorch's: a weight (out, in, kernel...) has the
fan-in in * kernel and the fan-out out * kernel.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from schuss.errors import ArgumentError, ShapeError, fail
from schuss.functions import random
from schuss.functions.arguments import adopt
from schuss.functions.creation import full
from schuss.philox import Generator
from schuss.tensor import Tensor

Mode = Literal["fan_in", "fan_out"]


def fans(tensor: Tensor) -> tuple[int, int]:
    """Fan-in and fan-out of a weight. Raises ShapeError below 2 axes."""
    if tensor.ndim < 2:
        raise fail(ShapeError, "init", "fans need a weight of at least 2 axes", tensor=tensor)
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps variances through a nonlinearity (He et al., 2015)."""
    gains = {
        "linear": 1.0,
        "conv": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "selu": 0.75,
    }
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in gains:
        raise fail(ArgumentError, "init", f"no gain is known for {nonlinearity!r}",
                   hint="one of " + ", ".join([*gains, "leaky_relu"]))  # fmt: skip
    return gains[nonlinearity]


def uniform_(
    tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Evenly distributed over [a, b)."""
    return tensor.assign(
        random.uniform(tensor.shape, low=a, high=b, dtype=tensor.dtype, generator=generator)
    )


def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Normally distributed."""
    return tensor.assign(
        random.normal(tensor.shape, mean=mean, std=std, dtype=tensor.dtype, generator=generator)
    )


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Normally distributed within [a, b]: what falls outside is drawn again until it does not."""
    generator = generator or random.default_generator
    if not a < b or b < mean - 4 * std or a > mean + 4 * std:
        raise fail(
            ArgumentError,
            "trunc_normal_",
            "the interval holds next to nothing",
            a=a,
            b=b,
            mean=mean,
            std=std,
        )
    values = np.empty(tensor.shape, tensor.dtype)
    outside = np.ones(tensor.shape, np.bool_)
    while outside.any():
        count = (int(outside.sum()),)
        drawn = random.normal(count, mean=mean, std=std, dtype=tensor.dtype, generator=generator)
        values[outside] = drawn.numpy()
        outside = (values < a) | (values > b)
    return tensor.assign(adopt(values))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Every element `val`."""
    return tensor.assign(full(tensor.shape, val, dtype=tensor.dtype))


def zeros_(tensor: Tensor) -> Tensor:
    """Zeros."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Ones."""
    return constant_(tensor, 1.0)


def xavier_uniform_(
    tensor: Tensor, gain: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Even within +-gain * sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    bound = gain * math.sqrt(6 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with deviation gain * sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(fans(tensor))), generator)


def _kaiming(tensor: Tensor, a: float, mode: Mode, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise fail(ArgumentError, "init", "mode is 'fan_in' or 'fan_out'", mode=mode)
    return calculate_gain(nonlinearity, a) / math.sqrt(max(1, fans(tensor)[mode == "fan_out"]))


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: Mode = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Even, with variance gain**2 / fan (He et al., 2015). `a` is the slope of the leaky ReLU."""
    bound = math.sqrt(3) * _kaiming(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: Mode = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Normal, with variance gain**2 / fan (He et al., 2015)."""
    return normal_(tensor, 0.0, _kaiming(tensor, a, mode, nonlinearity), generator)


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Rows (or columns, if fewer) orthogonal and of length gain (Saxe et al., 2014)."""
    if tensor.ndim < 2:
        raise fail(ShapeError, "orthogonal_", "needs at least 2 axes", tensor=tensor)
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    drawn = random.normal(
        (max(rows, columns), min(rows, columns)), dtype=np.float64, generator=generator
    )
    q, r = np.linalg.qr(drawn.numpy())
    q = q * np.sign(np.diag(r))  # makes the choice of q even over all orthogonal matrices
    matrix = (q.T if rows < columns else q).reshape(tensor.shape)
    return tensor.assign(adopt((gain * matrix).astype(tensor.dtype)))
