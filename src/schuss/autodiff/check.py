"""Checking gradients: slopes along random directions, by differences, against what the rules say.

For a random direction v and random weights c, the derivative of c . f(x + t v) at t = 0 is
approximated by central differences in float64 and compared with (gradient of c . f) . v. Complex
numbers count as pairs of real ones: a . b is then the real part of conj(a) b. One number
checks the whole gradient, at the cost of four evaluations of f. Second order: the same once more,
for the gradient function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from schuss.autodiff.transforms import grad
from schuss.dtypes import is_complex
from schuss.errors import GradientError, fail
from schuss.functions.arguments import adopt
from schuss.functions.creation import asarray
from schuss.functions.elementwise import conj, real

Arrays = Sequence[np.ndarray]


def check_gradients(
    f: Callable[..., Any],
    inputs: Sequence[Any],
    *,
    order: int = 2,
    directions: int = 2,
    step: float = 1e-4,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> None:
    """Raise GradientError unless the gradients of `f` agree with differences.

    Args:
        f: a function of tensors that returns a tensor of any shape; smooth near the inputs.
        inputs: arrays or tensors; they are taken in float64, complex ones in complex128.
        order: 1, or 2 to check gradients of gradients too.
        directions: how many random directions to try.
        step: length of the difference step, relative to inputs of size 1.
        tolerance: largest allowed difference, relative to the size of the slopes (at least 1).
    """
    arrays = [_double(asarray(each).numpy()) for each in inputs]
    rng = np.random.default_rng(seed)
    _check(f, arrays, order, directions, step, tolerance, rng, 1)


def _check(
    f: Callable[..., Any],
    arrays: Arrays,
    order: int,
    directions: int,
    step: float,
    tolerance: float,
    rng: np.random.Generator,
    level: int,
) -> None:
    value = f(*[adopt(each) for each in arrays])
    weights = adopt(_normal(rng, value))

    def projected(*tensors: Any) -> Any:
        return _dot(f(*tensors), weights)

    gradient = grad(projected, argnums=tuple(range(len(arrays))))
    for _ in range(directions):
        along = [_normal(rng, each) for each in arrays]
        slope = _difference(projected, arrays, along, step)
        found = gradient(*[adopt(each) for each in arrays])
        with np.errstate(invalid="ignore"):
            claimed = sum(
                float(np.vdot(g.numpy(), v).real) for g, v in zip(found, along, strict=True)
            )
        near = abs(slope - claimed) <= tolerance * max(1.0, abs(slope))  # not so for NaN
        if not (near and math.isfinite(slope)):
            raise fail(
                GradientError,
                "check_gradients",
                f"the gradient of order {level} says {claimed:.10g}, differences say {slope:.10g}",
            )
    if order > level:
        mixing = [adopt(_normal(rng, each)) for each in arrays]

        def mixed_gradient(*tensors: Any) -> Any:
            parts = gradient(*tensors)
            total = _dot(parts[0], mixing[0])
            for part, weight in zip(parts[1:], mixing[1:], strict=True):
                total = total + _dot(part, weight)
            return total

        _check(mixed_gradient, arrays, order, directions, step, tolerance, rng, level + 1)


def _double(x: np.ndarray) -> np.ndarray:
    return np.array(x, np.complex128 if x.dtype.kind == "c" else np.float64)


def _normal(rng: np.random.Generator, like: Any) -> np.ndarray:
    """Normally distributed numbers, complex ones for a complex array."""
    drawn = rng.standard_normal(like.shape)
    if is_complex(like.dtype):
        return np.asarray(drawn + 1j * rng.standard_normal(like.shape))
    return np.asarray(drawn)


def _dot(a: Any, b: Any) -> Any:
    """The inner product of two tensors of one shape, as vectors of real numbers."""
    product = conj(b) * a
    return (real(product) if is_complex(product.dtype) else product).sum()


def _difference(f: Callable[..., Any], arrays: Arrays, along: Arrays, step: float) -> float:
    """The slope of f along a direction, by the central difference of fourth order."""

    def at(t: float) -> float:
        return float(
            f(*[adopt(each + t * v) for each, v in zip(arrays, along, strict=True)]).item()
        )

    near = (at(step) - at(-step)) / (2 * step)
    far = (at(2 * step) - at(-2 * step)) / (4 * step)
    return (4 * near - far) / 3
