"""Special functions in NumPy, which has none: error functions, gamma functions, Bessel functions.

All are worked out in float64 and rounded to the dtype of their input.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss.dtypes import DType
from schuss.graph import OUTPUT, Node, Op, Sample, Shape, apply, define
from schuss.ops.elementwise import exp, guarded, select, sign, unary
from schuss.ops.erf import erf_reference, erfcx_reference
from schuss.ops.infer import SHAPES, Rng, elementwise, numbers
from schuss.ops.structure import diagonal, leading

if TYPE_CHECKING:
    from schuss.tensor import Tensor

_ROOT_PI = math.sqrt(math.pi)


def in_float64(function: Any) -> Any:
    def reference(x: np.ndarray, **attributes: Any) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(function(np.asarray(x, np.float64), **attributes)).astype(x.dtype)

    return reference


# --- error functions ---


def _erfc(x: np.ndarray) -> np.ndarray:
    scaled = erfcx_reference(np.abs(x))
    tail = scaled * np.exp(-x * x)
    near = np.abs(x) < 0.5
    return np.where(near, 1 - erf_reference(np.where(near, x, 0)), np.where(x < 0, 2 - tail, tail))


def _erfcx(x: np.ndarray) -> np.ndarray:
    """exp(x**2) erfc(x), also for negative x."""
    mirrored = erfcx_reference(np.abs(x))
    return np.where(x < 0, 2 * np.exp(x * x) - mirrored, mirrored)


def _inverse_tail(rest: np.ndarray) -> np.ndarray:
    """y >= 0 with erfc(y) = rest, for 0 < rest <= 1: S. Winitzki's form (2008), Halley's steps."""
    size = np.log(rest * (2 - rest))
    a = 2 / (math.pi * 0.147) + size / 2
    y = np.sqrt(np.maximum(np.sqrt(a * a - size / 0.147) - a, 0))
    for _ in range(3):
        step = (rest - _erfc(y)) * (_ROOT_PI / 2) * np.exp(y * y)
        y = y - np.where(np.isfinite(step), step / (1 + y * step), 0)
    return y


def _erfinv(x: np.ndarray) -> np.ndarray:
    size = np.clip(np.abs(x), 0, 1)
    small = size < 0.5  # there 1 - |x| loses digits
    y = _inverse_tail(np.where(small, 0.75, 1 - size))
    near = np.where(small, size, 0)
    z = near * (_ROOT_PI / 2) * (1 + near * near * (math.pi / 12))
    for _ in range(3):
        step = (erf_reference(z) - near) * (_ROOT_PI / 2) * np.exp(z * z)
        z = z - step / (1 + z * step)
    y = np.copysign(np.where(small, z, y), x)
    y = np.where(size == 1, np.copysign(np.inf, x), y)
    return np.where(np.abs(x) <= 1, np.where(x == 0, x, y), np.nan)


def _ndtri(p: np.ndarray) -> np.ndarray:
    """The quantiles of the normal distribution, exact in both tails."""
    tail = np.minimum(p, 1 - p)
    near = tail > 0.25
    far = -math.sqrt(2) * _inverse_tail(np.where(near, 0.5, 2 * tail))
    x = np.where(near, math.sqrt(2) * _erfinv(2 * p - 1), np.where(p > 0.5, -far, far))
    x = np.where(tail == 0, np.where(p == 0, -np.inf, np.inf), x)
    return np.where((p >= 0) & (p <= 1), x, np.nan)


erfc: Op = unary(
    "erfc",
    "1 - erf(x), exact where that is small",
    in_float64(_erfc),
    lambda g, y, x: g * (apply(exp, -x * x) * (-2 / _ROOT_PI)),
    (0,),
)
erfcx: Op = unary(
    "erfcx",
    "exp(x * x) * erfc(x), without overflow",
    in_float64(_erfcx),
    lambda g, y, x: g * (2 * x * y - 2 / _ROOT_PI),
    (0, OUTPUT),
)
erfinv: Op = unary(
    "erfinv",
    "the number whose erf is x",
    in_float64(_erfinv),
    lambda g, y, x: guarded(g, apply(exp, y * y) * (_ROOT_PI / 2)),
    (OUTPUT,),
    low=-0.95,
    high=0.95,
)

ndtri: Op = unary(
    "ndtri",
    "the number below which a standard normal one lies with probability x",
    in_float64(_ndtri),
    lambda g, y, x: guarded(g, apply(exp, y * y * 0.5) * math.sqrt(2 * math.pi)),
    (OUTPUT,),
    low=0.05,
    high=0.95,
)

# --- gamma functions ---

_LANCZOS = (  # g = 7, n = 9 (P. Godfrey, 2001)
    0.99999999999980993227684700473478,
    676.520368121885098567009190444019,
    -1259.13921672240287047156078755283,
    771.3234287776530788486528258894,
    -176.61502916214059906584551354,
    12.507343278686904814458936853,
    -0.13857109526572011689554707,
    9.984369578019570859563e-6,
    1.50563273514931155834e-7,
)


def _lgamma(x: np.ndarray) -> np.ndarray:
    """Lanczos' series, near 1 and 2 (where it is 0) by those of zeta, below 0.5 by reflection."""
    mirrored = x < 0.5
    z = np.where(mirrored, 1 - x, x) - 1
    total = np.full(x.shape, _LANCZOS[0])
    for i, each in enumerate(_LANCZOS[1:], start=1):
        total += each / (z + i)
    t = z + 7.5
    direct = 0.5 * math.log(2 * math.pi) + (z + 0.5) * np.log(t) - t + np.log(total)
    direct = _near_roots(z + 1, direct)
    size = np.where(x > 1e10, x, 1.0)  # where the pieces above overflow
    direct = np.where(x > 1e10, (size - 0.5) * np.log(size) - size + 0.9189385332, direct)
    sine = np.abs(np.sin(math.pi * (x - np.floor(x))))
    reflected = math.log(math.pi) - np.log(sine) - direct
    result = np.where(mirrored, reflected, direct)
    return np.where(np.isinf(x), np.inf, result)


def _zeta_minus_1(n: int) -> float:
    """zeta(n) - 1 for n >= 2, by Euler's and Maclaurin's formula after 18 terms."""
    head = sum(k**-n for k in range(2, 20))
    tail = 20 ** (1 - n) / (n - 1) + 0.5 * 20**-n
    rising, correction = float(n), 0.0
    for j, bernoulli in enumerate((1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66), start=1):
        correction += bernoulli / math.factorial(2 * j) * rising * 20.0 ** (1 - n - 2 * j)
        rising *= (n + 2 * j - 1) * (n + 2 * j)
    return head + tail + correction


_ZETA = [_zeta_minus_1(n) for n in range(2, 32)]
_EULER = 0.57721566490153286060651209008240243


def _near_roots(x: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """lgamma for 0.75 < x < 2.25, in powers of the distance from 2."""
    one = x < 1.5
    t = np.where(one, x, x - 1) - 1  # x = 1 + t or 2 + t
    near = (np.abs(t) < 0.3) & (x < 2.5)
    t = np.where(near, t, 0)
    total = np.zeros_like(t)
    for n in range(31, 1, -1):
        total = total * -t + _ZETA[n - 2] / n
    at_two = (1 - _EULER) * t + total * t * t  # log gamma(2 + t)
    return np.where(near, np.where(one, at_two - np.log1p(t), at_two), otherwise)


_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)


def _polygamma(x: np.ndarray, order: int) -> np.ndarray:
    """Recurrence up to 15, then the asymptotic series; the digamma of negative x by reflection."""
    if order == 0:
        mirrored = x <= 0
        turned = np.where(mirrored, 1 - x, x)
        value = _polygamma_upwards(turned, 0)
        angle = math.pi * (x - np.round(x))
        reflected = value - math.pi / np.where(mirrored, np.tan(angle), 1.0)
        pole = mirrored & (x == np.floor(x))
        value = np.where(mirrored, reflected, value)
        signed = np.where(x == 0, np.copysign(np.inf, -x), np.nan)
        return np.where(pole, signed, value)
    negative = x <= 0  # steps up reach the positive side
    steps = np.where(negative & np.isfinite(x), np.ceil(-x) + 1, 0)
    value = np.zeros_like(x)
    at = x.copy()
    scale = (-1.0) ** (order + 1) * math.factorial(order)
    while (steps > 0).any():
        value = value + np.where(steps > 0, scale / np.where(steps > 0, at, 1.0) ** (order + 1), 0)
        at, steps = np.where(steps > 0, at + 1, at), steps - 1
    return value + _polygamma_upwards(at, order)


def _polygamma_upwards(x: np.ndarray, order: int) -> np.ndarray:
    total = np.zeros_like(x)
    scale = (-1.0) ** (order + 1) * math.factorial(order)
    for _ in range(15):
        small = x < 15
        total = total + np.where(small, scale / x ** (order + 1), 0)
        x = np.where(small, x + 1, x)
    if order == 0:
        value = np.log(x) - 0.5 / x
        for j, each in enumerate(_BERNOULLI, start=1):
            value = value - each / (2 * j) / x ** (2 * j)
        return total + value
    value = math.factorial(order - 1) / x**order + math.factorial(order) / (2 * x ** (order + 1))
    for j, each in enumerate(_BERNOULLI, start=1):
        weight = each * math.factorial(2 * j + order - 1) / math.factorial(2 * j)
        value = value + weight / x ** (2 * j + order)
    return total + (-1.0) ** (order + 1) * value


def _polygamma_infer(x: Node, order: int) -> tuple[Shape, DType]:
    return elementwise(x)


def _polygamma_samples(rng: Rng) -> list[Sample]:
    return [
        Sample([numbers(rng, shape, 0.3, 4.0)], {"order": order})
        for order in (0, 1, 3)
        for shape in SHAPES[:4]
    ]


polygamma: Op = define(
    "polygamma",
    "the derivative of digamma, `order` times; digamma itself for order 0",
    infer=_polygamma_infer,
    reference=in_float64(_polygamma),
    gradient=(lambda g, y, x, order: g * apply(polygamma, x, order=order + 1),),
    saves=(0,),
    samples=_polygamma_samples,
    tangent=diagonal,
    batch=leading,
)
lgamma: Op = unary(
    "lgamma",
    "the logarithm of the size of the gamma function",
    in_float64(_lgamma),
    lambda g, y, x: g * apply(polygamma, x, order=0),
    (0,),
    low=0.2,
    high=6.0,
)

# --- Bessel functions ---


def _scaled_bessel(x: np.ndarray, order: int) -> np.ndarray:
    """exp(-|x|) I(x) of order 0 or 1: its series of powers, or that for large x."""
    size = np.abs(x)
    small = np.minimum(size, 30.0)
    term = np.exp(-small) * (small / 2) ** order
    total = term.copy()
    for k in range(1, 120):
        term = term * (small / 2) ** 2 / (k * (k + order))
        total += term
    large = np.maximum(size, 30.0)
    term, series = np.ones_like(large), np.ones_like(large)
    for k in range(1, 20):
        term = term * ((2 * k - 1) ** 2 - 4 * order**2) / (8 * k * large)
        series = series + term
    result = np.where(size < 30, total, series / np.sqrt(2 * math.pi * large))
    return result * np.sign(x) if order else result


i0e: Op = unary(
    "i0e",
    "exp(-|x|) times the modified Bessel function of the first kind of order 0",
    in_float64(lambda x: _scaled_bessel(x, 0)),
    lambda g, y, x: g * (apply(i1e, x) - apply(sign, x) * y),
    (0, OUTPUT),
    low=0.2,
    high=4.0,
)


def _i1e_rule(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    at_zero = x == 0
    ratio = select(at_zero, 0.5, y / select(at_zero, 1, x))
    return g * (apply(i0e, x) - ratio - apply(sign, x) * y)


i1e: Op = unary(
    "i1e",
    "exp(-|x|) times the modified Bessel function of the first kind of order 1",
    in_float64(lambda x: _scaled_bessel(x, 1)),
    _i1e_rule,
    (0, OUTPUT),
    low=0.2,
    high=4.0,
)
