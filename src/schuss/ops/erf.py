"""The error function in NumPy, which has none.

W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of Computation
23 (1969): three ranges, each a quotient of polynomials, to a few units in float64's last place.
"""

from __future__ import annotations

import numpy as np

_SMALL_P = (
    1.85777706184603153e-1,
    3.16112374387056560e0,
    1.13864154151050156e2,
    3.77485237685302021e2,
    3.20937758913846947e3,
)
_SMALL_Q = (
    1.0,
    2.36012909523441209e1,
    2.44024637934444173e2,
    1.28261652607737228e3,
    2.84423683343917062e3,
)
_MIDDLE_P = (
    2.15311535474403846e-8,
    5.64188496988670089e-1,
    8.88314979438837594e0,
    6.61191906371416295e1,
    2.98635138197400131e2,
    8.81952221241769090e2,
    1.71204761263407058e3,
    2.05107837782607147e3,
    1.23033935479799725e3,
)
_MIDDLE_Q = (
    1.0,
    1.57449261107098347e1,
    1.17693950891312499e2,
    5.37181101862009858e2,
    1.62138957456669019e3,
    3.29079923573345963e3,
    4.36261909014324716e3,
    3.43936767414372164e3,
    1.23033935480374942e3,
)
_LARGE_P = (
    1.63153871373020978e-2,
    3.05326634961232344e-1,
    3.60344899949804439e-1,
    1.25781726111229246e-1,
    1.60837851487422766e-2,
    6.58749161529837803e-4,
)
_LARGE_Q = (
    1.0,
    2.56852019228982242e0,
    1.87295284992346725e0,
    5.27905102951428412e-1,
    6.05183413124413191e-2,
    2.33520497626869185e-3,
)


def _ratio(z: np.ndarray, p: tuple[float, ...], q: tuple[float, ...]) -> np.ndarray:
    return np.polyval(p, z) / np.polyval(q, z)


def erf_reference(x: np.ndarray) -> np.ndarray:
    """erf(x), worked out in float64 and rounded to the dtype of x."""
    wide = np.asarray(x, np.float64)
    size = np.abs(wide)
    small, large = size <= 0.46875, size > 4.0
    square = np.where(small, wide, 0.0) ** 2
    result = np.asarray(wide * _ratio(square, _SMALL_P, _SMALL_Q))
    middle = np.clip(size, 0.46875, 4.0)
    tail = np.exp(-middle * middle) * _ratio(middle, _MIDDLE_P, _MIDDLE_Q)
    result = np.where(small, result, np.copysign(1.0 - tail, wide))
    far = np.clip(size, 4.0, 30.0)
    z = 1.0 / (far * far)
    tail = np.exp(-far * far) / far * (1.0 / np.sqrt(np.pi) - z * _ratio(z, _LARGE_P, _LARGE_Q))
    result = np.where(large, np.copysign(1.0 - tail, wide), result)
    return np.where(np.isnan(wide), wide, result).astype(x.dtype)


def erfcx_reference(x: np.ndarray) -> np.ndarray:
    """exp(x * x) * (1 - erf(x)) for x >= 0 in float64: the same quotients, not multiplied down."""
    small = np.minimum(x, 0.46875)
    near = np.exp(small * small) * (1 - small * _ratio(small * small, _SMALL_P, _SMALL_Q))
    middle = _ratio(np.clip(x, 0.46875, 4.0), _MIDDLE_P, _MIDDLE_Q)
    far = np.maximum(x, 4.0)
    z = 1.0 / (far * far)
    tail = (1.0 / np.sqrt(np.pi) - z * _ratio(z, _LARGE_P, _LARGE_Q)) / far
    return np.where(x <= 0.46875, near, np.where(x <= 4.0, middle, tail))
