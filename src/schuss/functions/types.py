"""Questions about dtypes, under the names of the array API standard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from schuss import dtypes
from schuss.dtypes import DType, Number, as_dtype
from schuss.errors import ArgumentError, fail
from schuss.graph import Handle


@dataclass(frozen=True)
class finfo_object:  # noqa: N801  # the standard names it so
    """The limits of a floating dtype."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


@dataclass(frozen=True)
class iinfo_object:  # noqa: N801
    """The limits of an integer dtype."""

    bits: int
    max: int
    min: int
    dtype: DType


def _dtype_of(value: Any) -> DType:
    return value.dtype if isinstance(value, (Handle, np.ndarray)) else as_dtype(value)  # type: ignore[union-attr]


def finfo(type: Any, /) -> finfo_object:
    """The limits of a floating dtype (of its real part for a complex one)."""
    dtype = dtypes.real_of(_dtype_of(type))
    if not dtypes.is_floating(dtype):
        raise fail(
            ArgumentError,
            "finfo",
            f"{dtype} is not a floating dtype",
            hint="use iinfo for integers",
        )
    info = ml_dtypes.finfo(dtype)
    return finfo_object(
        int(info.bits),
        float(info.eps),
        float(info.max),
        float(info.min),
        float(info.smallest_normal),
        dtype,
    )


def iinfo(type: Any, /) -> iinfo_object:
    """The limits of an integer dtype."""
    dtype = _dtype_of(type)
    if not dtypes.is_integral(dtype):
        raise fail(
            ArgumentError, "iinfo", f"{dtype} is not an integer dtype", hint="use finfo for floats"
        )
    info = np.iinfo(dtype)
    return iinfo_object(info.bits, int(info.max), int(info.min), dtype)


_KINDS: dict[str, tuple[DType, ...]] = {
    "bool": (dtypes.bool_,),
    "signed integer": dtypes.SIGNED,
    "unsigned integer": dtypes.UNSIGNED,
    "integral": dtypes.INTEGRAL,
    "real floating": dtypes.FLOATING,
    "complex floating": dtypes.COMPLEX,
    "numeric": dtypes.NUMERIC,
}


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype is of a kind, such as "integral", "real floating" or "numeric".

    `kind` may also be a dtype, or a tuple of kinds, any of which will do.
    """
    if isinstance(kind, tuple):
        return any(isdtype(dtype, each) for each in kind)
    if isinstance(kind, str) and kind in _KINDS:
        return as_dtype(dtype) in _KINDS[kind]
    return as_dtype(dtype) == as_dtype(kind)


def result_type(*arrays_and_dtypes: Any) -> DType:
    """The dtype that tensors, dtypes and Python numbers meet in."""
    numbers = [each for each in arrays_and_dtypes if isinstance(each, Number)]
    strong = [_dtype_of(each) for each in arrays_and_dtypes if not isinstance(each, Number)]
    return dtypes.promote_with_numbers(strong, numbers)


def can_cast(from_: Any, to: Any, /) -> bool:
    """Whether promotion ever turns `from_` into `to`."""
    target = as_dtype(to)
    return dtypes.meet(_dtype_of(from_), target) == target


__all__ = ["can_cast", "finfo", "iinfo", "isdtype", "result_type"]
