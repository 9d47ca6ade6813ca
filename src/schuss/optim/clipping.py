"""Keeping gradients within bounds, between `backward()` and `step()`."""

from __future__ import annotations

import math
from collections.abc import Iterable

from schuss import dtypes
from schuss.context import no_grad
from schuss.errors import ArgumentError, ArgumentTypeError, fail
from schuss.functions.arguments import cast
from schuss.functions.creation import zeros
from schuss.functions.elementwise import abs, clip, maximum, minimum
from schuss.functions.linalg import norm
from schuss.functions.manipulation import stack
from schuss.functions.reduction import max
from schuss.tensor import Tensor


def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float, norm_type: float = 2.0) -> Tensor:
    """Scale all gradients together so that their norm is `max_norm` at most (Pascanu et al., 2013).

    Args:
        norm_type: 2, or `math.inf` for the largest absolute value.

    Returns the norm before, a scalar that is computed when looked at.
    """
    if not max_norm > 0:
        raise fail(ArgumentError, "clip_grad_norm", "max_norm must be positive", max_norm=max_norm)
    if norm_type not in (2, math.inf):
        raise fail(
            ArgumentError, "clip_grad_norm", "norm_type is 2 or infinity", norm_type=norm_type
        )
    held = _with_gradient("clip_grad_norm", parameters)
    with no_grad():
        if not held:
            return zeros(())
        if norm_type == 2:
            total = norm(stack([norm(_wide(p.grad)) for p in held]))
        else:
            total = max(stack([max(abs(_wide(p.grad))) for p in held]))
        factor = minimum(max_norm / maximum(total, 1e-12), 1.0)
        for p in held:
            assert p.grad is not None
            p.grad = cast(p.grad * factor, p.grad.dtype)
    return total


def _wide(gradient: Tensor | None) -> Tensor:
    """A gradient in a dtype in which squares do not overflow."""
    assert gradient is not None
    return cast(gradient, dtypes.accumulator(gradient.dtype))


def clip_grad_value(parameters: Iterable[Tensor], clip_value: float) -> None:
    """Limit every element of the gradients to [-clip_value, clip_value]."""
    if not clip_value > 0:
        raise fail(
            ArgumentError, "clip_grad_value", "clip_value must be positive", clip_value=clip_value
        )
    with no_grad():
        for p in _with_gradient("clip_grad_value", parameters):
            assert p.grad is not None
            p.grad = clip(p.grad, -clip_value, clip_value)


def _with_gradient(where: str, parameters: Iterable[Tensor]) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        raise fail(ArgumentTypeError, where, "parameters must be a list of tensors",
                   hint="wrap the tensor: [tensor]")  # fmt: skip
    return [p for p in parameters if p.grad is not None]
