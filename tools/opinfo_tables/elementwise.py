"""Elementwise functions."""

from __future__ import annotations

import math
from typing import Any

import schuss as s
from opinfo_tables.base import TABLE, entry, no, plain, tensor
from schuss import special
from schuss.graph import Handle

for name in [
    "acos",
    "acosh",
    "angle",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "ceil",
    "conj",
    "cos",
    "cosh",
    "erf",
    "exp",
    "expm1",
    "floor",
    "imag",
    "isfinite",
    "isinf",
    "isnan",
    "log",
    "log10",
    "log1p",
    "log2",
    "positive",
    "real",
    "reciprocal",
    "rsqrt",
    "sigmoid",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "trunc",
    "signbit",
    "logaddexp",
    "hypot",
    "copysign",
    "nextafter",
    "maximum",
    "minimum",
    "atan2",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "bitwise_left_shift",
    "bitwise_right_shift",
]:
    TABLE[name] = getattr(s, name)
TABLE |= {
    "abs": s.abs,
    "neg": s.negative,
    "sgn": s.sign,
    "exp2": special.exp2,
    "bitwise_not": s.bitwise_invert,
    "conj_physical": s.conj,
    "resolve_conj": s.positive,
    "resolve_neg": s.positive,
    "erfc": special.erfc,
    "erfinv": special.erfinv,
    "digamma": special.digamma,
    "lgamma": special.gammaln,
    "i0": special.i0,
    "special.i0e": special.i0e,
    "special.i1": special.i1,
    "special.i1e": special.i1e,
    "special.entr": special.entr,
    "special.ndtr": special.ndtr,
    "special.ndtri": special.ndtri,
    "special.log_ndtr": special.log_ndtr,
    "special.erfcx": special.erfcx,
    "logit": special.logit,
    "sinc": special.sinc,
    "xlogy": special.xlogy,
    "special.xlog1py": special.xlog1py,
    "deg2rad": lambda x: x * (math.pi / 180),
    "rad2deg": lambda x: x * (180 / math.pi),
    "frac": lambda x: x - s.trunc(x),
    "isneginf": lambda x: s.tensor(x == -math.inf),
    "isposinf": lambda x: s.tensor(x == math.inf),
    "polygamma": lambda x, n: (
        special.polygamma(n, x) if isinstance(n, int) else special.polygamma(x, n)
    ),
    "special.polygamma": lambda x, n: special.polygamma(n, x),
    "mvlgamma": lambda x, p: special.multigammaln(x, p),
    "isreal": lambda x: (
        (s.imag(x) == 0) if s.isdtype(x.dtype, "complex floating") else s.ones(x.shape, dtype=bool)
    ),
}
TABLE["polygamma"] = lambda *args: special.polygamma(
    *(args if isinstance(args[0], int) else args[::-1])
)
TABLE["special.polygamma"] = TABLE["polygamma"]


@entry("round")
def round_(x: Any, decimals: int = 0) -> Any:
    return s.round(x) if decimals == 0 else s.round(x * 10.0**decimals) / 10.0**decimals


def truth(x: Any) -> Any:
    x = tensor(x)
    return x if x.dtype == s.bool else x != 0


for name in ("logical_and", "logical_or", "logical_xor"):
    TABLE[name] = lambda a, b, name=name: getattr(s, name)(truth(a), truth(b))
TABLE["logical_not"] = lambda a: s.logical_not(truth(a))


def swapped(f: Any) -> Any:
    return lambda a, b: f(b, a)


@entry("add")
def add(a: Any, b: Any, alpha: Any = 1) -> Any:
    return s.add(a, b if alpha == 1 else tensor(b) * alpha)


@entry("sub")
def sub(a: Any, b: Any, alpha: Any = 1) -> Any:
    return s.subtract(a, b if alpha == 1 else tensor(b) * alpha)


@entry("rsub")
def rsub(a: Any, b: Any, alpha: Any = 1) -> Any:
    return s.subtract(b, a if alpha == 1 else a * alpha)


@entry("div")
def div(a: Any, b: Any, rounding_mode: Any = None) -> Any:
    if rounding_mode == "floor":
        return s.floor_divide(a, b)
    return s.trunc(s.divide(a, b)) if rounding_mode == "trunc" else s.divide(a, b)


TABLE |= {
    "mul": s.multiply,
    "true_divide": s.divide,
    "pow": s.pow,
    "__rpow__": swapped(s.pow),
    "__radd__": swapped(s.add),
    "__rmul__": swapped(s.multiply),
    "__rsub__": swapped(s.subtract),
    "__rdiv__": swapped(s.divide),
    "__rmod__": swapped(s.remainder),
    "__rand__": swapped(s.bitwise_and),
    "__ror__": swapped(s.bitwise_or),
    "__rxor__": swapped(s.bitwise_xor),
    "__rmatmul__": swapped(s.matmul),
    "remainder": s.remainder,
    "floor_divide": s.floor_divide,
    "fmod": lambda a, b: a - s.trunc(a / b) * b,
    "eq": s.equal,
    "ne": s.not_equal,
    "lt": s.less,
    "le": s.less_equal,
    "gt": s.greater,
    "ge": s.greater_equal,
    "isclose": plain(s.isclose),
    "allclose": plain(s.allclose),
    "ldexp": lambda a, b: a * 2.0 ** tensor(b),
    "logaddexp2": lambda a, b: s.logaddexp(a * math.log(2), b * math.log(2)) / math.log(2),
    "float_power": lambda a, b: s.pow(
        *(
            t
            if not isinstance(t, Handle)
            or s.isdtype(t.dtype, ("real floating", "complex floating"))
            else t.astype(s.float64)
            for t in (a, b)
        )
    ),
    "fmax": lambda a, b: s.where(s.isnan(a), b, s.where(s.isnan(b), a, s.maximum(a, b))),
    "fmin": lambda a, b: s.where(s.isnan(a), b, s.where(s.isnan(b), a, s.minimum(a, b))),
    "heaviside": lambda a, v: s.where(a == 0, v, (a > 0).astype(v.dtype)),
    "complex": lambda a, b: a + b * 1j,
    "polar": lambda r, t: r * (s.cos(t) + 1j * s.sin(t)),
    "view_as_complex": lambda x: x[..., 0] + 1j * x[..., 1],
    "view_as_real": lambda x: s.stack([s.real(x), s.imag(x)], axis=-1),
    "lerp": lambda a, b, w: a + w * (b - a),
    "addcmul": lambda x, a, b, value=1: x + value * (a * b),
    "addcdiv": lambda x, a, b, value=1: x + value * (a / b),
    "nan_to_num": lambda x, nan=None, posinf=None, neginf=None: nan_to_num(x, nan, posinf, neginf),
}


def nan_to_num(x: Any, nan: Any, posinf: Any, neginf: Any) -> Any:
    if not s.isdtype(x.dtype, "real floating"):
        no("NaN of complex numbers, of integers")
    limits = s.finfo(x.dtype)
    x = s.where(s.isnan(x), 0.0 if nan is None else nan, x)
    x = s.where(x == math.inf, limits.max if posinf is None else posinf, x)
    return s.where(x == -math.inf, limits.min if neginf is None else neginf, x)


@entry("where")
def where(a: Any, condition: Any, b: Any) -> Any:
    return s.where(condition, a, b)


@entry("clamp")
def clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    return s.clip(x, min, max)


TABLE["clamp_min"] = lambda x, low: s.clip(x, low, None)
TABLE["clamp_max"] = lambda x, high: s.clip(x, None, high)
