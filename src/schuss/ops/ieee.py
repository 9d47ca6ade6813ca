"""NumPy's functions where they leave the special cases of the array API standard out."""

from __future__ import annotations

import numpy as np

from schuss import dtypes


def floor_divide_reference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """floor(a / b); at infinities the limit, where NumPy says NaN or -1."""
    quotient = np.asarray(np.floor_divide(a, b))
    if dtypes.is_floating(quotient.dtype):
        infinite = np.isinf(a) | np.isinf(b)
        if infinite.any():
            quotient = np.where(infinite, a / b, quotient)
    return quotient


def expm1_reference(x: np.ndarray) -> np.ndarray:
    """exp(x) - 1, where complex infinities and NaN follow exp, and -0 + 0i becomes 0."""
    y = np.asarray(np.expm1(x))
    if x.dtype.kind == "c":
        y = y.copy()
        y.real[x == 0] = 0
        unusual = ~np.isfinite(x)
        if unusual.any():
            y = np.where(unusual, np.exp(x) - np.ones((), x.dtype), y)
    return y


def tanh_reference(x: np.ndarray) -> np.ndarray:
    """The hyperbolic tangent; at complex infinities 0 keeps the sign of the imaginary part."""
    y = np.asarray(np.tanh(x))
    if x.dtype.kind == "c":
        flat = np.isinf(x.real) & np.isfinite(x.imag)
        if flat.any():
            y = y.copy()
            y.imag[flat] = np.copysign(0, x.imag[flat])
    return y


def astype_reference(x: np.ndarray, dtype: dtypes.DType) -> np.ndarray:
    """`x.astype(dtype)`, rounded once.

    ml_dtypes makes a bfloat16 of a double by way of a float, which rounds what lies beside the
    middle of two numbers to the wrong one. A float whose last bit says that something was cut off
    does not (Boldo and Melquiond, "When double rounding is odd", 2005).
    """
    if x.dtype != np.float64 or dtype != dtypes.bfloat16:
        return x.astype(dtype)
    with np.errstate(over="ignore"):
        near = np.array(x, np.float32)
    bits = near.view(np.uint32)
    bits -= np.abs(near) > np.abs(x)
    bits |= near != x
    return near.astype(dtype)
