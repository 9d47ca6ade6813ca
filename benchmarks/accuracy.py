"""How accurate and how fast the CPU target's vector functions are; writes ACCURACY.md.

    python benchmarks/accuracy.py                # samples: about two minutes
    python benchmarks/accuracy.py --exhaustive   # every float32 there is: about an hour
    python benchmarks/accuracy.py --only exp tanh

float32 is compared with NumPy's float64 functions and `math.erf`, float64 with mpmath (which comes
with PyTorch). An error of 1 ulp is one unit in the last place: the distance of two neighbouring
numbers where the true value lies. Rounding the true value itself costs 0.5.

The rates are of one thread on arrays in the first-level cache, the best of many turns.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.report import processor, table, write
from schuss.compiler.cpu import math as vector_math
from schuss.compiler.cpu.host import host
from schuss.compiler.cpu.library import Source, compile_kernels
from schuss.dtypes import float32, float64

Arrays = tuple[np.ndarray, ...]
CHUNK = 2**22
SAMPLES = 4 * CHUNK  # of float32 numbers or pairs, where not all are tried
LANES = {"float32": host().lanes(float32), "float64": host().lanes(float64)}
BITS = {"float32": np.uint32, "float64": np.uint64}
MPMATH_SAMPLES = 20_000

# map(x, y, z, n, repeats): z = f(x) or f(x, y), several times over.
_LOOP = """
define void @{name}(ptr %x, ptr %y, ptr noalias %z, i64 %n, i64 %repeats) {{
entry:
  br label %again
again:
  %k = phi i64 [ 0, %entry ], [ %k1, %end ]
  br label %loop
loop:
  %i = phi i64 [ 0, %again ], [ %i1, %loop ]
  %px = getelementptr {kind}, ptr %x, i64 %i
  %py = getelementptr {kind}, ptr %y, i64 %i
  %pz = getelementptr {kind}, ptr %z, i64 %i
  %vx = load {vector}, ptr %px, align 4
  %vy = load {vector}, ptr %py, align 4
  %vz = call {vector} {symbol}({arguments})
  store {vector} %vz, ptr %pz, align 4
  %i1 = add i64 %i, {lanes}
  %more = icmp ult i64 %i1, %n
  br i1 %more, label %loop, label %end
end:
  %k1 = add i64 %k, 1
  %rest = icmp ult i64 %k1, %repeats
  br i1 %rest, label %again, label %done
done:
  ret void
}}
"""


def compiled(function: str, dtype: str) -> Callable[..., None]:
    """The loop above as a C function."""
    lanes, kind = LANES[dtype], vector_math.KINDS[dtype]
    vector = kind if lanes == 1 else f"<{lanes} x {kind}>"
    definition, declarations = vector_math.definition(function, dtype, lanes)
    name = f"accuracy_{function}_{dtype}"
    names = ["%vx", "%vy"][: vector_math.arity(function)]
    loop = _LOOP.format(
        name=name,
        kind=kind,
        vector=vector,
        lanes=lanes,
        symbol=vector_math.symbol(function, dtype, lanes),
        arguments=", ".join(f"{vector} {each}" for each in names),
    )
    text = "\n".join([definition, loop, *sorted(declarations)])
    address = compile_kernels([Source(text, (name,))])[name]
    pointers = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 2
    return ctypes.CFUNCTYPE(None, *pointers)(address)


def call(loop: Callable[..., None], arguments: Arrays, out: np.ndarray, repeats: int = 1) -> None:
    """For arrays whose size is a multiple of the lanes."""
    x, y = arguments[0], arguments[-1]
    loop(x.ctypes.data, y.ctypes.data, out.ctypes.data, out.size, repeats)


# --- the true values ---


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


_each_erf = np.frompyfunc(math.erf, 1, 1)


def _erf(x: np.ndarray) -> np.ndarray:
    """math.erf, which is slow, where neither x 2/sqrt(pi) nor 1 is as good."""
    y = np.where(np.abs(x) < 1.0, x * (2 / math.sqrt(math.pi)), np.sign(x))
    slow = (np.abs(x) > 1e-6) & (np.abs(x) < 5.0)
    y[slow] = _each_erf(x[slow]).astype(np.float64)
    return y


NUMPY: dict[str, Callable[..., np.ndarray]] = {
    "exp": np.exp, "expm1": np.expm1, "tanh": np.tanh, "log": np.log, "log1p": np.log1p,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh,
    "atanh": np.arctanh, "atan2": np.arctan2, "power": np.power,
}  # fmt: skip
TRUTH = {**NUMPY, "sigmoid": _sigmoid, "erf": _erf}


def mpmath_values(function: str, arguments: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """The true values as sums of two float64 numbers. Outside the real numbers NaN."""
    import mpmath
    from mpmath import mp

    mp.prec = 120
    named = {"sigmoid": lambda x: 1 / (1 + mp.exp(-x)), "log1p": mp.log1p, "power": mp.power}
    f = named.get(function) or getattr(mp, function)

    def one(*numbers: float) -> tuple[float, float]:
        value = f(*(mp.mpf(each) for each in numbers))
        if not isinstance(value, mpmath.mpf) or not mp.isfinite(value):
            return math.nan, 0.0
        high = float(value)
        return high, float(value - high) if math.isfinite(high) else 0.0

    pairs = [one(*numbers) for numbers in zip(*(a.tolist() for a in arguments), strict=True)]
    high, low = np.array(pairs).T
    return high, low


# --- what is tried ---


def samples(function: str, dtype: str, rng: np.random.Generator, count: int) -> Arrays:
    """Half from all bit patterns, half from where the function changes."""
    bits = BITS[dtype]

    def patterns(n: int) -> np.ndarray:
        return rng.integers(0, np.iinfo(bits).max, n, bits, endpoint=True).view(dtype)

    def moderate(n: int) -> np.ndarray:
        scale = rng.choice(np.array([1.0, 2.0, 10.0, 100.0, 700.0]), n)
        return (scale * rng.uniform(-1, 1, n)).astype(dtype)

    drawn = []
    for _ in range(vector_math.arity(function)):
        drawn.append(np.concatenate([patterns(count // 2), moderate(count - count // 2)]))
    if function == "power":  # most pairs overflow; bring the product with the logarithm down
        with np.errstate(all="ignore"):
            limit = 700.0 if dtype == "float64" else 87.0
            fitting = rng.uniform(-limit, limit, count) / np.log(np.abs(drawn[0]))
        drawn[1] = np.where(rng.random(count) < 0.7, fitting, drawn[1]).astype(dtype)
    return tuple(drawn)


def all_float32(function: str) -> Iterator[Arrays]:
    """Without the negative ones for functions whose symmetry `call_both_signs` checks."""
    for start in range(0, 2**31 if function in ODD | EVEN else 2**32, CHUNK):
        yield (np.arange(start, start + CHUNK, dtype=np.uint64).astype(np.uint32).view(np.float32),)


# --- errors ---


@dataclass
class Worst:
    """The largest error so far, in ulp, and the arguments where it is.

    Where the result is the number nearest to the true value the error is at most 0.5.
    """

    error: float = 0.5
    at: tuple[float, ...] = ()

    def look(
        self, got: np.ndarray, high: np.ndarray, low: np.ndarray | None, arguments: Arrays
    ) -> None:
        """The true values are high + low."""
        with np.errstate(all="ignore"):
            nearest = high.astype(got.dtype)
        off = np.flatnonzero((got != nearest) & ~(np.isnan(got) & np.isnan(nearest)))
        if off.size == 0:
            return
        errors = ulps(got[off], high[off], 0.0 if low is None else low[off])
        i = int(np.argmax(errors))
        if errors[i] > self.error:
            self.error = float(errors[i])
            self.at = tuple(float(each[off[i]]) for each in arguments)


def ulps(got: np.ndarray, high: np.ndarray, low: np.ndarray | float) -> np.ndarray:
    """|got - (high + low)| in units of the last place; infinite where NaN or infinity is wrong."""
    digits, least = (24, -149) if got.dtype == np.float32 else (53, -1074)
    with np.errstate(all="ignore"):
        unit = np.ldexp(1.0, np.maximum(np.frexp(high)[1] - digits, least))
        error = np.abs((got.astype(np.float64) - high) - low) / unit
    return np.where(np.isfinite(error), error, np.inf)


ODD = {"tanh", "erf", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh"}
EVEN = {"cos", "cosh"}


def call_both_signs(function: str, loop: Callable[..., None], x: np.ndarray) -> np.ndarray:
    """f(x), after a look at f(-x) where that should be the same or its negative."""
    got = np.empty_like(x)
    call(loop, (x,), got)
    if function in ODD | EVEN:
        mirrored = np.empty_like(x)
        call(loop, (-x,), mirrored)
        if function in ODD:
            mirrored = -mirrored
        same = (mirrored.view(np.uint32) == got.view(np.uint32)) | np.isnan(got) & np.isnan(
            mirrored
        )
        assert same.all(), f"{function} is not symmetric"
    return got


def worst_float32(function: str, exhaustive: bool) -> Worst:
    loop, worst = compiled(function, "float32"), Worst()
    if vector_math.arity(function) == 1 and exhaustive:
        chunks = all_float32(function)
    else:
        rng = np.random.default_rng(0)
        chunks = (samples(function, "float32", rng, CHUNK) for _ in range(SAMPLES // CHUNK))
    for arguments in chunks:
        if len(arguments) == 1:
            got = call_both_signs(function, loop, *arguments)
        else:
            got = np.empty_like(arguments[0])
            call(loop, arguments, got)
        with np.errstate(all="ignore"):
            truth = TRUTH[function](*(a.astype(np.float64) for a in arguments))
        worst.look(got, truth, None, arguments)
    return worst


def worst_float64(function: str) -> Worst:
    worst = Worst()
    arguments = samples(function, "float64", np.random.default_rng(0), MPMATH_SAMPLES)
    finite = np.logical_and.reduce([np.isfinite(a) for a in arguments])
    # mpmath would compute numbers of 10**300 digits
    small = np.abs(arguments[0]) < (1e5 if function in _GROWING else np.inf)
    arguments = tuple(a[finite & small] for a in arguments)
    arguments = tuple(a[: a.size // 16 * 16] for a in arguments)
    got = np.empty_like(arguments[0])
    call(compiled(function, "float64"), arguments, got)
    high, low = mpmath_values(function, arguments)
    real = ~np.isnan(high)
    worst.look(got[real], high[real], low[real], tuple(a[real] for a in arguments))
    return worst


_GROWING = {"exp", "expm1", "sigmoid", "sinh", "cosh", "tanh"}

# --- rates ---

_DOMAIN = {"log": (0.01, 100), "log1p": (-0.9, 10), "power": (0.1, 5), "asin": (-1, 1),
           "acos": (-1, 1), "atanh": (-1, 1), "acosh": (1, 10)}  # fmt: skip


def rate(action: Callable[[], object], elements: int) -> float:
    """10**9 elements a second."""
    best, end = math.inf, time.perf_counter() + 0.2
    while time.perf_counter() < end:
        start = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - start)
    return elements / best / 1e9


def aligned(values: np.ndarray, offset: int) -> np.ndarray:
    """A copy at a multiple of a page plus an offset, so that reads and writes do not collide."""
    room = np.empty(values.nbytes + 8192, np.uint8)
    start = -room.ctypes.data % 4096 + offset
    copy = room[start : start + values.nbytes].view(values.dtype)
    copy[:] = values
    return copy


def rates(function: str, dtype: str) -> tuple[float, float | None]:
    """Ours, and NumPy's on arrays large enough that the cost of a call does not matter."""
    rng = np.random.default_rng(0)

    def drawn(n: int) -> Arrays:
        x = rng.uniform(*_DOMAIN.get(function, (-6, 6)), n).astype(dtype)
        return (x, rng.uniform(-3, 3, n).astype(dtype))[: vector_math.arity(function)]

    n = 8192 // np.dtype(dtype).itemsize
    arguments = tuple(aligned(a, 512 * i) for i, a in enumerate(drawn(n)))
    out, loop, repeats = aligned(np.empty(n, dtype), 2048), compiled(function, dtype), 64
    ours = rate(lambda: call(loop, arguments, out, repeats), n * repeats)
    if function not in NUMPY:
        return ours, None
    large = drawn(16384)
    result = np.empty_like(large[0])
    return ours, rate(lambda: NUMPY[function](*large, out=result), result.size)


# --- the report ---


def row(function: str, exhaustive: bool) -> list[str]:
    every = exhaustive and vector_math.arity(function) == 1
    cells = [f"`{function}`", "all" if every else f"{SAMPLES / 1e6:.0f} million"]
    for dtype in ("float32", "float64"):
        worst = (
            worst_float32(function, exhaustive) if dtype == "float32" else worst_float64(function)
        )
        ours, theirs = rates(function, dtype)
        cells += [f"{worst.error:.2f}", ", ".join(f"{each:.8g}" for each in worst.at)]
        cells += [f"{ours:.2f}", "" if theirs is None else f"{theirs:.2f}"]
    print(" ".join(cells), flush=True)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exhaustive", action="store_true", help="every float32")
    parser.add_argument("--only", nargs="+", choices=vector_math.FUNCTIONS, default=None)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("ACCURACY.md"))
    options = parser.parse_args()
    rows = [row(each, options.exhaustive) for each in options.only or vector_math.FUNCTIONS]
    head = ["function", "float32 tried"]
    for dtype in ("float32", "float64"):
        head += [f"{dtype}: ulp", "at", "G/s", "NumPy G/s"]
    lines = [
        "# Vector functions of the CPU target",
        "",
        "Written by `benchmarks/accuracy.py`, which says how it measures.",
        "",
        f"{processor()}, {host().vector_bits}-bit vectors, one thread. NumPy {np.__version__}.",
        "",
        "The largest error in units of the last place and where it is, and 10⁹ results a second.",
        f"Tried were {MPMATH_SAMPLES:,} float64 numbers or pairs, and as many float32 as it says.",
        "",
        *table(head, rows),
    ]
    write(options.out, lines)


if __name__ == "__main__":
    main()
