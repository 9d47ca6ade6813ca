"""The element types, and which type two of them meet in.

A dtype is a `numpy.dtype`; `bfloat16` comes from ml_dtypes. Promotion follows the Python array API
standard within a kind; across kinds the wider kind wins and floating types keep their width (int64
with float32 is float32). Python scalars are weak: they take the dtype of the tensor that they meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np

from schuss.errors import ArgumentTypeError, DTypeError, fail

DType = np.dtype[Any]
Number = bool | int | float | complex

bool_ = np.dtype(np.bool_)
int8 = np.dtype(np.int8)
int16 = np.dtype(np.int16)
int32 = np.dtype(np.int32)
int64 = np.dtype(np.int64)
uint8 = np.dtype(np.uint8)
uint16 = np.dtype(np.uint16)
uint32 = np.dtype(np.uint32)
uint64 = np.dtype(np.uint64)
float16 = np.dtype(np.float16)
bfloat16 = np.dtype(ml_dtypes.bfloat16)
float32 = np.dtype(np.float32)
float64 = np.dtype(np.float64)
complex64 = np.dtype(np.complex64)
complex128 = np.dtype(np.complex128)

SIGNED = (int8, int16, int32, int64)
UNSIGNED = (uint8, uint16, uint32, uint64)
INTEGRAL = SIGNED + UNSIGNED
HALF = (float16, bfloat16)
FLOATING = (float16, bfloat16, float32, float64)
COMPLEX = (complex64, complex128)
REAL = (*INTEGRAL, *FLOATING)
NUMERIC = (*REAL, *COMPLEX)
ALL = (bool_, *NUMERIC)

_THE_ONE: dict[DType, DType] = {dtype: dtype for dtype in ALL}


def canonical(dtype: DType) -> DType:
    """The one object that stands for a dtype, so that equal ones are found out by `is`."""
    return _THE_ONE.get(dtype, dtype)


default_int = int64
default_float = float32

_RANK = (
    {bool_: 0} | dict.fromkeys(INTEGRAL, 1) | dict.fromkeys(FLOATING, 2) | dict.fromkeys(COMPLEX, 3)
)
_PYTHON = {bool: bool_, int: default_int, float: default_float, complex: complex64}
_COMPLEX_OF: dict[DType, DType] = {
    float16: complex64,
    bfloat16: complex64,
    float32: complex64,
    float64: complex128,
}


def is_floating(dtype: DType) -> bool:
    return _RANK[dtype] == 2


def is_complex(dtype: DType) -> bool:
    return _RANK[dtype] == 3


def is_inexact(dtype: DType) -> bool:
    """Whether it is floating or complex."""
    return _RANK[dtype] >= 2


def is_integral(dtype: DType) -> bool:
    return _RANK[dtype] == 1


def is_differentiable(dtype: DType) -> bool:
    """Gradients are defined for the floating and the complex types."""
    return is_inexact(dtype)


def real_of(dtype: DType) -> DType:
    """The dtype of the real part of a number."""
    if dtype == complex64:
        return float32
    return float64 if dtype == complex128 else dtype


def complex_of(dtype: DType) -> DType:
    """The dtype of complex numbers with real parts of a dtype; a complex one stays."""
    return dtype if is_complex(dtype) else _COMPLEX_OF.get(dtype, complex64)


def accumulator(dtype: DType) -> DType:
    """The dtype that sums and products are gathered in: float32 for the half precisions."""
    return float32 if dtype in HALF else dtype


@lru_cache(maxsize=256)
def _as_dtype(value: Any) -> DType | None:
    if value is None:  # NumPy takes it for float64
        return None
    if isinstance(value, type) and value in _PYTHON:
        return _PYTHON[value]
    if value == "bfloat16":
        return bfloat16
    try:
        found = np.dtype(value)
    except TypeError:
        return None
    return _THE_ONE.get(found.newbyteorder("="))


def as_dtype(value: Any) -> DType:
    """The dtype that a user means: a dtype, its name, a NumPy scalar type or a Python type."""
    try:
        found = _as_dtype(value)
    except TypeError:  # unhashable
        found = None
    if found is None:
        raise fail(
            ArgumentTypeError,
            "dtype",
            f"{value!r} is not a dtype of this package",
            hint="one of " + ", ".join(str(dtype) for dtype in ALL),
        )
    return found


@lru_cache(maxsize=512)
def meet(a: DType, b: DType) -> DType | None:
    """The dtype that two meet in; None for uint64 with a signed integer."""
    if a == b:
        return a
    low, high = sorted((a, b), key=_RANK.__getitem__)
    if _RANK[low] != _RANK[high]:
        if is_complex(high) and low == float64:
            return complex128
        return high
    if is_integral(a) and np.promote_types(a, b) not in INTEGRAL:
        return None  # uint64 with a signed type
    if is_floating(a):  # two different ones: float16 and bfloat16 meet in float32
        return float64 if float64 in (a, b) else float32
    return np.promote_types(a, b)


def promote(*dtypes: DType) -> DType:
    """The dtype that all of these meet in.

    Raises DTypeError for uint64 with a signed integer: no integer type holds both.
    """
    result = dtypes[0]
    for dtype in dtypes[1:]:
        met = meet(result, dtype)
        if met is None:
            raise fail(
                DTypeError,
                "promotion",
                f"{result} and {dtype} have no common integer type",
                hint="cast one of them with astype",
            )
        result = met
    return result


def of_number(value: Number) -> DType:
    """The dtype of a Python number that meets no tensor."""
    return next(dtype for kind, dtype in _PYTHON.items() if isinstance(value, kind))


def promote_with_numbers(strong: Sequence[DType], numbers: Sequence[Number]) -> DType:
    """The dtype that the `strong` ones meet in, and Python numbers with them."""
    result = promote(*(strong or [of_number(each) for each in numbers]))
    for each in numbers:
        result = meet_scalar(each, result)
    return result


def meet_scalar(scalar: Number, dtype: DType) -> DType:
    """The dtype in which a Python scalar meets a tensor of `dtype`.

    It is the tensor's own, unless its kind is too narrow: 0.5 with int64 is float32.
    """
    if isinstance(scalar, bool):
        return dtype
    if isinstance(scalar, int):
        return default_int if dtype == bool_ else dtype
    if isinstance(scalar, float):
        return dtype if _RANK[dtype] >= 2 else default_float
    return complex_of(dtype)
