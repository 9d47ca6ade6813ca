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
