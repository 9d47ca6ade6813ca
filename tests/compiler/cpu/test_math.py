"""Vector functions: accuracy, special values, and the same bits for any number of lanes."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from schuss.compiler.cpu import math as vector_math
from schuss.compiler.cpu import math_tables
from schuss.compiler.cpu.host import host
from schuss.compiler.cpu.library import Source, compile_kernels
from schuss.compiler.cpu.math_values import literal

DTYPES = ("float32", "float64")
LANES = (1, 2, 4, 8, 16)
BITS = {"float32": np.uint32, "float64": np.uint64}
ULPS = {"float32": 2.0, "float64": 3.0}

LOOP = """
define void @{name}(ptr %x, ptr %y, ptr noalias %z, i64 %n) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %px = getelementptr {kind}, ptr %x, i64 %i
  %py = getelementptr {kind}, ptr %y, i64 %i
  %pz = getelementptr {kind}, ptr %z, i64 %i
  %vx = load {vector}, ptr %px, align 4
  %vy = load {vector}, ptr %py, align 4
  %vz = call {vector} {symbol}({arguments})
  store {vector} %vz, ptr %pz, align 4
  %next = add i64 %i, {lanes}
  %more = icmp ult i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""


def name_of(function: str, dtype: str, lanes: int) -> str:
    return f"test_math_{function}_{dtype}_{lanes}"


def loop(function: str, dtype: str, lanes: int) -> str:
    kind = vector_math.KINDS[dtype]
    vector = kind if lanes == 1 else f"<{lanes} x {kind}>"
    values = ["%vx", "%vy"][: vector_math.arity(function)]
    return LOOP.format(
        name=name_of(function, dtype, lanes),
        kind=kind,
        vector=vector,
        lanes=lanes,
        symbol=vector_math.symbol(function, dtype, lanes),
        arguments=", ".join(f"{vector} {each}" for each in values),
    )


@cache
def compiled(dtype: str, lanes: int) -> dict[str, int]:
    """All functions in one module, as a kernel with many of them has them."""
    declarations: set[str] = set()
    parts = []
    for function in vector_math.FUNCTIONS:
        text, needed = vector_math.definition(function, dtype, lanes)
        declarations |= needed
        parts += [text, loop(function, dtype, lanes)]
    names = tuple(name_of(function, dtype, lanes) for function in vector_math.FUNCTIONS)
    return compile_kernels([Source("\n".join([*parts, *sorted(declarations)]), names)])


def compute(function: str, *arguments: np.ndarray, lanes: int | None = None) -> np.ndarray:
    dtype = str(arguments[0].dtype)
    lanes = lanes or host().lanes(arguments[0].dtype)
    size = arguments[0].size
    x, y = (np.resize(a, size + -size % lanes) for a in (arguments[0], arguments[-1]))
    z = np.empty_like(x)
    address = compiled(dtype, lanes)[name_of(function, dtype, lanes)]
    run = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64)(address)
    run(x.ctypes.data, y.ctypes.data, z.ctypes.data, x.size)
    return z[:size]


# --- what is true ---


def sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def erf(x: np.ndarray) -> np.ndarray:
    return np.array([math.erf(each) for each in x.tolist()], x.dtype)


TRUTH = {
    "exp": np.exp, "expm1": np.expm1, "tanh": np.tanh, "sigmoid": sigmoid, "erf": erf,
    "log": np.log, "log1p": np.log1p, "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "atan2": np.arctan2,
    "power": np.power,
}  # fmt: skip


def truth(function: str, *arguments: np.ndarray) -> np.ndarray:
    """In a wider dtype; on some machines long double is no wider than float64."""
    wide = np.float64 if arguments[0].dtype == np.float32 else np.longdouble
    with np.errstate(all="ignore"):
        return TRUTH[function](*(a.astype(wide) for a in arguments))


def allowed(function: str, dtype: str) -> float:
    if dtype == "float32":
        return ULPS[dtype]
    own = np.finfo(np.longdouble).nmant == np.finfo(np.float64).nmant or function == "erf"
    return ULPS[dtype] + own  # the true value has an error of its own


def ulps(got: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The error in units of the last place; infinite where NaN or infinity is on one side only."""
    digits, least = (24, -149) if got.dtype == np.float32 else (53, -1074)
    with np.errstate(all="ignore"):
        nearest = true.astype(got.dtype)
        unit = np.ldexp(np.ones_like(true), np.maximum(np.frexp(true)[1] - digits, least))
        error = np.abs(got.astype(true.dtype) - true) / unit
    alike = (np.isnan(got) == np.isnan(nearest)) & (np.isinf(got) == np.isinf(nearest))
    return np.where(alike, np.where(np.isfinite(nearest), error, 0.0), np.inf)


def check(function: str, *arguments: np.ndarray) -> None:
    got = compute(function, *arguments)
    errors = ulps(got, truth(function, *arguments))
    worst = int(np.argmax(errors))
    at = [float(a[worst]) for a in arguments]
    assert errors[worst] <= allowed(function, str(got.dtype)), f"{function}{at} = {got[worst]}"


def sweep(rng: np.random.Generator, dtype: str, each: int) -> np.ndarray:
    """Random digits with every sign and exponent, also those of subnormal numbers and NaN."""
    digits = np.finfo(dtype).nmant
    bits = BITS[dtype]
    signs_and_exponents = np.arange(2 ** (np.finfo(dtype).bits - digits), dtype=bits)
    mantissas = rng.integers(0, 2**digits, (each, signs_and_exponents.size), bits)
    return ((signs_and_exponents << bits(digits)) | mantissas).view(dtype).ravel()


def spread(rng: np.random.Generator, dtype: str, count: int) -> np.ndarray:
    scale = rng.choice(np.array([1.0, 4.0, 20.0, 110.0, 750.0, 1e5]), count)
    return (scale * rng.uniform(-1, 1, count)).astype(dtype)


# --- accuracy ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", vector_math.FUNCTIONS)
def test_accuracy_over_the_whole_range(function, dtype):
    rng = np.random.default_rng(0)
    size = 64 if dtype == "float32" else 4
    arguments = [
        np.concatenate([sweep(rng, dtype, size), spread(rng, dtype, 1000 * size)])
        for _ in range(vector_math.arity(function))
    ]
    for each in arguments[1:]:
        rng.shuffle(each)
    check(function, *arguments)


# Where a formula changes over to another, or its steps begin and end.
BREAKS = {
    "exp": [0.5 * math.log(2), 1.5 * math.log(2), 88.7228, -87.3365, -103.97, 709.7827, -745.13],
    "expm1": [0.5 * math.log(2), -0.5 * math.log(2), -18.0, -38.0, 88.7228, 709.7827, 2.0**-25],
    "tanh": [(i + 0.5) * math_tables.TANH_STEP for i in range(16)] + [22.0, 2.0**-25, 2.0**-54],
    "sigmoid": [0.0, -87.3365, -103.97, -745.13, 17.0, 37.0],
    "erf": [(i + 0.5) * math_tables.ERF_STEP for i in range(16)] + [5.95, 1e-300],
    "log": [0.75, 1.0, 1.5, 3.0, 2.0**-126, 2.0**-1022],
    "log1p": [-0.25, 0.5, 2.0, 2.0**-25, -1.0, 2.0**-54],
    "sin": [math.pi / 4 * i for i in range(9)] + [1e5, 2.0**30, 6381956970095103.0],
    "cos": [math.pi / 4 * i for i in range(9)] + [1e5, 2.0**30, 6381956970095103.0],
    "tan": [math.pi / 4 * i for i in range(9)] + [1e5, 2.0**30, 6381956970095103.0],
    "asin": [0.5, 1.0, 2.0**-12],
    "acos": [0.5, -0.5, 1.0, -1.0],
    "atan": [1.0, 2.0**-12],
    "sinh": [1.0, 89.41, 710.47],
    "cosh": [0.5 * math.log(2), 89.41, 710.47],
    "asinh": [2.0**60, 2.0**-25, 0.5, 1.25],
    "acosh": [1.0, 1.25, 2.0**60],
    "atanh": [0.5, 1.0, 2.0**-25, 0.2],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", BREAKS)
def test_accuracy_around_breaks(function, dtype):
    with np.errstate(over="ignore", under="ignore"):
        breaks = np.array(BREAKS[function]).astype(dtype)
    around = np.abs(breaks).view(BITS[dtype])[:, None] + np.arange(-300, 300).astype(BITS[dtype])
    check(
        function, (around.view(dtype) * np.where(breaks < 0, -1, 1)[:, None]).astype(dtype).ravel()
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_that_neither_overflow_nor_vanish(dtype):
    rng = np.random.default_rng(1)
    x = np.abs(np.concatenate([sweep(rng, dtype, 16), 1 + 0.01 * spread(rng, dtype, 4000)]))
    x = x[np.isfinite(x) & (x > 0) & (x != 1)]
    limit = 104 if dtype == "float32" else 745
    y = (rng.uniform(-limit, limit, x.size) / np.log(x.astype(np.float64))).astype(dtype)
    check("power", x, y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_whole_powers_are_exact(dtype):
    x, y = (a.ravel().astype(dtype) for a in np.meshgrid(np.arange(-9, 10), np.arange(0, 7)))
    assert np.array_equal(compute("power", x, y), np.power(x, y))


# --- special values ---

SPECIAL = [
    0.0, 5e-324, 1e-310, 1e-45, 1e-40, 1e-30, 0.5, 1.0, 1.5, 2.0, 3.0, 100.0, 16777215.0,
    16777216.0, 9007199254740991.0, 1e30, 3.4028234663852886e38, 1.7976931348623157e308,
    math.inf, math.nan,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", vector_math.FUNCTIONS)
def test_special_values_are_those_of_numpy(function, dtype):
    with np.errstate(over="ignore", under="ignore"):
        special = np.array(SPECIAL + [-each for each in SPECIAL]).astype(dtype)
    arguments = [special]
    if vector_math.arity(function) == 2:
        arguments = [a.ravel() for a in np.meshgrid(special, special)]
    got = compute(function, *arguments)
    with np.errstate(all="ignore"):
        expected = truth(function, *arguments).astype(dtype)
    number = ~np.isnan(expected)
    assert np.array_equal(np.isnan(got), ~number)
    assert np.array_equal(np.signbit(got[number]), np.signbit(expected[number]))
    exact = number & (np.isinf(expected) | (expected == 0) | (np.abs(expected) == 1))
    assert np.array_equal(got[exact], expected[exact])


def test_subnormal_numbers_are_numbers():
    least = np.array([1e-45], np.float32)
    assert compute("exp", np.array([-103.0], np.float32))[0] == least[0]
    assert compute("tanh", least)[0] == least[0]
    assert compute("sin", least)[0] == least[0]
    assert compute("log", least)[0] == np.float32(math.log(2.0**-149))
    assert compute("power", least, np.array([0.5], np.float32))[0] == np.float32(2.0**-74.5)


# --- the same bits everywhere ---


def probes(function: str, dtype: str) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    with np.errstate(over="ignore", under="ignore"):
        special = np.array(SPECIAL + [-each for each in SPECIAL]).astype(dtype)
    parts = [special, sweep(rng, dtype, 4 if dtype == "float32" else 1), spread(rng, dtype, 2000)]
    x = np.concatenate(parts)
    return [x, rng.permutation(x)][: vector_math.arity(function)]


def same_nans(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.array(np.nan, values.dtype), values).view(
        BITS[str(values.dtype)]
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", vector_math.FUNCTIONS)
def test_any_number_of_lanes_gives_the_same_bits(function, dtype):
    arguments = probes(function, dtype)
    first, *others = (same_nans(compute(function, *arguments, lanes=lanes)) for lanes in LANES)
    for other in others:
        assert np.array_equal(first, other)


def digest() -> str:
    """Of the results of all functions on many arguments."""
    found = hashlib.sha256()
    for dtype in DTYPES:
        for function in vector_math.FUNCTIONS:
            found.update(same_nans(compute(function, *probes(function, dtype))).tobytes())
    return found.hexdigest()


@pytest.mark.skipif(
    host().vector_bits < 256 or not host().is_x86, reason="nothing lesser to ask for"
)
@pytest.mark.parametrize("lesser", ["avx2", "portable"])
def test_lesser_processors_give_the_same_bits(lesser):
    program = f"import runpy; print(runpy.run_path({__file__!r})['digest']())"
    environment = {**os.environ, "SCHUSS_CPU": lesser}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()


# --- the text ---


def test_definitions_are_text_with_their_declarations():
    text, declarations = vector_math.definition("exp", "float32", 8)
    assert text.startswith("define internal <8 x float> @schuss.exp.float32.v8(<8 x float> %x)")
    assert (
        "declare <8 x float> @llvm.fma.v8f32(<8 x float>, <8 x float>, <8 x float>)" in declarations
    )
    assert "declare" not in text
    assert "fast" not in text
    assert vector_math.symbol("exp", "float32", 8) == "@schuss.exp.float32.v8"


def test_one_lane_is_a_scalar():
    text, _ = vector_math.definition("atan2", "float64", 1)
    assert "define internal double @schuss.atan2.float64.v1(double %x, double %y)" in text


def test_constants_are_exact():
    assert literal(0.1, "double") == "0x3FB999999999999A"
    assert literal(0.1, "float") == "0x3FB99999A0000000"  # the float32 next to 0.1, as a float64
    assert literal(-3, "i32") == "-3"


@pytest.fixture
def math_fit(monkeypatch):
    pytest.importorskip("mpmath")
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "tools")
    return importlib.import_module("math_fit")


def test_tables_are_those_of_the_fit(math_fit):
    inverse, high, low = math_fit.nodes("float64")
    assert tuple(inverse) == math_tables.NODE_INVERSE["double"]
    assert tuple(high) == math_tables.NODE_LOG_HIGH["double"]
    assert tuple(low) == math_tables.NODE_LOG_LOW["double"]


def test_a_fit_is_close_to_the_best_polynomial(math_fit):
    """exp on [-1, 1]: the best quadratic polynomial is off by 0.0450 (Chebyshev)."""
    _, error = math_fit.fit(math_fit.mpmath.exp, lambda x: 1, -1, 1, 2, "float64")
    assert error == pytest.approx(0.0450, rel=0.05)
