"""Mixed precision: `autocast`, and what functions ask while it holds.

Micikevicius et al., "Mixed precision training" (2018); the name and the behaviour are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from schuss import dtypes
from schuss.context import context
from schuss.errors import ArgumentError, fail
from schuss.functions.arguments import cast

if TYPE_CHECKING:
    from schuss.tensor import Tensor


@contextmanager
def autocast(dtype: Any = dtypes.bfloat16, enabled: bool = True) -> Iterator[None]:
    """Compute products in half precision within a `with` block or a decorated function.

    Args:
        dtype: bfloat16 or float16.
        enabled: False computes as usual, within another `autocast` too.

    Parameters stay in float32. Inside,

    - matrix products (`@`, `matmul`, `tensordot`, `einsum`, `nn.Linear`), convolutions and
      attention take their float32 operands in `dtype`, and their results have it. Their sums are
      gathered in float32, and biases of layers are added in float32;
    - reductions (`sum`, `mean`, `var`, `std`, `prod`, `logsumexp`, running sums), `softmax`,
      `log_softmax`, layer and batch norm and all losses take half precisions in float32, and their
      results are float32;
    - all others take what they are given; float32 and half precision meet in float32.

    float64, complex numbers and integers are left alone. Gradient rules compute in the dtypes of
    the forward pass, so that `backward()` may stand inside or outside, and the gradients of
    parameters are float32, as are optimizers' steps. With float16 small gradients vanish:
    use `optim.GradScaler`.

    Raises ArgumentError for another dtype.
    """
    wanted = dtypes.as_dtype(dtype)
    if wanted not in dtypes.HALF:
        raise fail(ArgumentError, "autocast", f"dtype must be bfloat16 or float16, got {wanted}")
    previous = context.autocast
    context.autocast = wanted if enabled else None
    try:
        yield
    finally:
        context.autocast = previous


def for_products(*xs: Tensor) -> tuple[Tensor, ...]:
    """Operands of a product: float32 in the dtype of the `autocast` that holds, if any does."""
    wanted = context.autocast
    if wanted is None or context.differentiating is not None:
        return xs
    if any(x.dtype != dtypes.float32 and x.dtype not in dtypes.HALF for x in xs):
        return xs
    return tuple(cast(x, wanted) for x in xs)


def for_sums(x: Tensor) -> Tensor:
    """x in float32 if it is of half precision and an `autocast` holds."""
    if context.autocast is None or context.differentiating is not None:
        return x
    return cast(x, dtypes.accumulator(x.dtype))


def plus_bias(y: Tensor, bias: Tensor) -> Tensor:
    """y + bias, the result of a product; in the dtype of y while an `autocast` holds."""
    if context.autocast is None or context.differentiating is not None:
        return y + bias
    return cast(y + bias, y.dtype)


__all__ = ["autocast"]
