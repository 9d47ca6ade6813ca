"""Vector mathematics: the LLVM IR of exp, log, tanh, erf, sin, power, ... for any number of lanes.

A kernel that needs `exp` of 16 float32 at a time calls `symbol("exp", "float32", 16)` and adds the
text that `definition("exp", "float32", 16)` gives to its module, once.

float32 results are within 2 units in the last place of the true value and float64 results within
3, over the whole range (benchmarks/ACCURACY.md has the measured errors). NaN, infinities and signed
zeros come out as NumPy gives them; subnormal numbers are neither taken for 0 nor made 0. Results
have the same bits for any number of lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from schuss.compiler.cpu import math_exponential, math_logarithm, math_trigonometry
from schuss.compiler.cpu.host import host
from schuss.compiler.cpu.math_values import Body, Value

KINDS = {"float32": "float", "float64": "double"}

_FORMULAS: dict[str, Callable[..., Value]] = {
    "exp": math_exponential.exp,
    "expm1": math_exponential.expm1,
    "tanh": math_exponential.tanh,
    "sigmoid": math_exponential.sigmoid,
    "erf": math_exponential.erf,
    "log": math_logarithm.log,
    "log1p": math_logarithm.log1p,
    "sin": math_trigonometry.sin,
    "cos": math_trigonometry.cos,
    "tan": math_trigonometry.tan,
    "asin": math_trigonometry.asin,
    "acos": math_trigonometry.acos,
    "atan": math_trigonometry.atan,
    "sinh": math_exponential.sinh,
    "cosh": math_exponential.cosh,
    "asinh": math_logarithm.asinh,
    "acosh": math_logarithm.acosh,
    "atanh": math_logarithm.atanh,
    "atan2": math_trigonometry.atan2,
    "power": math_logarithm.power,
}
FUNCTIONS = tuple(_FORMULAS)
_TWO_ARGUMENTS = {"power", "atan2"}


def symbol(function: str, dtype: str, lanes: int) -> str:
    """The name of the LLVM function."""
    return f"@schuss.{function}.{dtype}.v{lanes}"


def arity(function: str) -> int:
    """The number of arguments, 1 or 2, all of one type."""
    return 2 if function in _TWO_ARGUMENTS else 1


@cache
def definition(function: str, dtype: str, lanes: int) -> tuple[str, frozenset[str]]:
    """(text, declarations): the function, and the lines that declare the intrinsics it calls.

    The function maps vectors of `lanes` elements, or scalars if `lanes` is 1, to one such vector:

        define internal <8 x float> @schuss.exp.float32.v8(<8 x float> %x) alwaysinline

    Several definitions may stand in one module; their declarations must be joined as sets, since
    LLVM accepts each line only once. The text is for `host()`. Functions are those in FUNCTIONS,
    dtypes float32 and float64, lanes 1 (then the types are scalars), 2, 4, 8 or 16.
    """
    kind = KINDS[dtype]
    body = Body(lanes, symbol(function, dtype, lanes), _extension())
    arguments = [Value(body, f"%{name}", kind) for name in ("x", "y")[: arity(function)]]
    result = _FORMULAS[function](*arguments)
    vector = body.type(kind)
    parameters = ", ".join(f"{vector} {each.name}" for each in arguments)
    head = f"define internal {vector} {body.symbol}({parameters}) alwaysinline {{"
    foot = f"  ret {vector} {result.name}"
    text = "\n".join([*body.globals, head, "entry:", *body.lines, foot, "}", ""])
    return text, frozenset(body.declarations)


def _extension() -> str:
    """The instruction set of which `Body` knows some instructions."""
    if host().is_x86:
        return "avx512" if host().vector_bits == 512 else ""
    return "neon" if host().triple.startswith(("aarch64", "arm64")) else ""
