"""Reductions that leave elements out: those at which `mask` is False.

The mask broadcasts to x. No gradient flows into what is left out, not even where x is NaN there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes
from schuss.errors import DTypeError, ShapeError, fail
from schuss.functions import neural, reduction
from schuss.functions.arguments import ArrayLike, array_api_names, as_tensor, cast, floating
from schuss.functions.elementwise import root_of_squares, where
from schuss.functions.manipulation import broadcast_to

if TYPE_CHECKING:
    from schuss.tensor import Tensor

Axis = int | Sequence[int] | None


def _prepared(name: str, x: ArrayLike, mask: ArrayLike) -> tuple[Tensor, Tensor]:
    x, mask = as_tensor(x, name), as_tensor(mask, name)
    if mask.dtype != dtypes.bool_:
        raise fail(DTypeError, name, "the mask must be bool", mask=mask, hint="say, mask != 0")
    try:
        return x, broadcast_to(mask, x.shape)
    except ShapeError:
        raise fail(ShapeError, name, "the mask must broadcast to x", x=x, mask=mask) from None


def _limit(dtype: dtypes.DType, largest: bool) -> Any:
    """What no element of a dtype is above, or below."""
    if dtypes.is_integral(dtype):
        info = np.iinfo(dtype)
        return int(info.max if largest else info.min)
    return math.inf if largest else -math.inf


@array_api_names
def sum(x: ArrayLike, /, mask: ArrayLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The sum over `axis` of the elements that count; 0 where none does."""
    x, mask = _prepared("masked.sum", x, mask)
    return reduction.sum(where(mask, x, 0), axis=axis, keepdims=keepdims)


@array_api_names
def prod(x: ArrayLike, /, mask: ArrayLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The product over `axis` of the elements that count; 1 where none does."""
    x, mask = _prepared("masked.prod", x, mask)
    return reduction.prod(where(mask, x, 1), axis=axis, keepdims=keepdims)


@array_api_names
def max(x: ArrayLike, /, mask: ArrayLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest over `axis` of the elements that count; the smallest number where none does."""
    x, mask = _prepared("masked.max", x, mask)
    return reduction.max(where(mask, x, _limit(x.dtype, False)), axis=axis, keepdims=keepdims)


@array_api_names
def min(x: ArrayLike, /, mask: ArrayLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest over `axis` of the elements that count; the largest number where none does."""
    x, mask = _prepared("masked.min", x, mask)
    return reduction.min(where(mask, x, _limit(x.dtype, True)), axis=axis, keepdims=keepdims)


@array_api_names
def argmax(
    x: ArrayLike, /, mask: ArrayLike, axis: int | None = None, keepdims: bool = False
) -> Tensor:
    """The position of the largest along `axis` of the elements that count."""
    x, mask = _prepared("masked.argmax", x, mask)
    return reduction.argmax(where(mask, x, _limit(x.dtype, False)), axis=axis, keepdims=keepdims)


@array_api_names
def argmin(
    x: ArrayLike, /, mask: ArrayLike, axis: int | None = None, keepdims: bool = False
) -> Tensor:
    """The position of the smallest along `axis` of the elements that count."""
    x, mask = _prepared("masked.argmin", x, mask)
    return reduction.argmin(where(mask, x, _limit(x.dtype, True)), axis=axis, keepdims=keepdims)


@array_api_names
def mean(x: ArrayLike, /, mask: ArrayLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The mean over `axis` of the elements that count; NaN where none does."""
    x, mask = _prepared("masked.mean", floating(x, "masked.mean"), mask)
    wide = cast(x, dtypes.accumulator(x.dtype))
    count = reduction.sum(cast(mask, dtypes.real_of(wide.dtype)), axis=axis, keepdims=keepdims)
    total = reduction.sum(where(mask, wide, 0), axis=axis, keepdims=keepdims)
    return cast(total / count, x.dtype)


@array_api_names
def var(
    x: ArrayLike, /, mask: ArrayLike, axis: Axis = None, keepdims: bool = False, *,
    correction: float = 0.0,
) -> Tensor:  # fmt: skip
    """The variance over `axis` of the elements that count, divided by how many less correction."""
    x, mask = _prepared("masked.var", floating(x, "masked.var"), mask)
    if dtypes.is_complex(x.dtype):
        raise fail(DTypeError, "masked.var", "is defined for real dtypes", x=x)
    wide = cast(x, dtypes.accumulator(x.dtype))
    centred = where(mask, wide - mean(where(mask, wide, 0), mask, axis, keepdims=True), 0)
    count = reduction.sum(cast(mask, wide.dtype), axis=axis, keepdims=keepdims)
    total = reduction.sum(centred * centred, axis=axis, keepdims=keepdims)
    freedom = count - correction
    return cast(where(freedom > 0, total / where(freedom > 0, freedom, 1), math.nan), x.dtype)


@array_api_names
def std(
    x: ArrayLike, /, mask: ArrayLike, axis: Axis = None, keepdims: bool = False, *,
    correction: float = 0.0,
) -> Tensor:  # fmt: skip
    """The root of `var`. Gradient 0 where it is 0."""
    return root_of_squares(var(x, mask, axis, keepdims, correction=correction))


@array_api_names
def logsumexp(
    x: ArrayLike, /, mask: ArrayLike, axis: Axis = None, keepdims: bool = False
) -> Tensor:
    """log(sum(exp(x))) over `axis` of the elements that count; -infinity where none does."""
    x, mask = _prepared("masked.logsumexp", floating(x, "masked.logsumexp"), mask)
    return reduction.logsumexp(where(mask, x, -math.inf), axis=axis, keepdims=keepdims)


@array_api_names
def softmax(x: ArrayLike, /, mask: ArrayLike, axis: int = -1) -> Tensor:
    """The softmax along `axis` of the elements that count; 0 at the others."""
    x, mask = _prepared("masked.softmax", floating(x, "masked.softmax"), mask)
    some = reduction.any(mask, axis=axis, keepdims=True)
    # Where nothing counts, the softmax of anything, so that no NaN comes up on the way.
    shares = neural.softmax(where(mask, x, where(some, -math.inf, 0.0)), axis=axis)
    return where(mask, shares, 0)


@array_api_names
def log_softmax(x: ArrayLike, /, mask: ArrayLike, axis: int = -1) -> Tensor:
    """The logarithm of `softmax`: -infinity at what is left out."""
    x, mask = _prepared("masked.log_softmax", floating(x, "masked.log_softmax"), mask)
    some = reduction.any(mask, axis=axis, keepdims=True)
    logs = neural.log_softmax(where(mask, x, where(some, -math.inf, 0.0)), axis=axis)
    return where(mask, logs, -math.inf)


__all__ = [
    "argmax", "argmin", "log_softmax", "logsumexp", "max", "mean", "min", "prod", "softmax", "std",
    "sum", "var",
]  # fmt: skip
