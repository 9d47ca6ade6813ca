"""Every elementwise function of the array API standard beside NumPy's, on arrays beyond the caches.

    python benchmarks/elementwise.py                 # and benchmarks/ELEMENTWISE.md

NumPy is given the array to write to (`out=`), which saves it the allocation. The last rows are
programs of 1,000 functions in a row.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import schuss
from common import report
from common.processes import Cache

RESULTS = Path(__file__).with_name("ELEMENTWISE.md")
SIZE = 10_000_000
PROGRAM = 1000  # functions in a row
PROGRAM_SIZE = 100_000

DTYPES = ["float32", "float64", "int64", "bool"]
UNARY = {
    "any": """abs ceil floor round trunc sign negative positive square isfinite isinf isnan signbit
              exp expm1 sin cos tan sinh cosh tanh atan asinh""",
    "positive": "log log1p log2 log10 sqrt reciprocal",
    "fraction": "asin acos atanh",
    "above one": "acosh",
}
BINARY = {
    ("any", "positive"): """add subtract multiply divide maximum minimum copysign hypot atan2
              logaddexp nextafter floor_divide remainder equal not_equal less less_equal greater
              greater_equal""",
    ("positive", "any"): "pow",
}
INTEGER = """abs negative positive sign square bitwise_invert add subtract multiply floor_divide
    remainder pow maximum minimum bitwise_and bitwise_or bitwise_xor bitwise_left_shift
    bitwise_right_shift equal less"""
BOOLEAN = "logical_not logical_and logical_or logical_xor"
STEPS = ("sin", "tanh", "abs", "sqrt", "atan", "exp", "reciprocal", "log1p", "cos", "square")

Case = tuple[str, str, tuple[Any, ...]]  # dtype, function, arrays


def arrays_of(dtype: str, size: int) -> dict[str, np.ndarray]:
    """Arguments by the interval that they lie in."""
    rng = np.random.default_rng(0)
    if dtype == "bool":
        return {name: rng.random(size) < 0.5 for name in ("first", "second")}
    if dtype == "int64":
        return {"first": rng.integers(1, 100, size), "second": rng.integers(1, 4, size)}
    made = {
        "any": 3 * rng.standard_normal(size),
        "positive": rng.uniform(0.1, 5.0, size),
        "fraction": rng.uniform(-0.9, 0.9, size),
        "above one": rng.uniform(1.1, 5.0, size),
    }
    return {name: each.astype(dtype) for name, each in made.items()}


def cases(dtype: str, size: int) -> Iterator[Case]:
    """All functions of a dtype with their arguments."""
    arrays = arrays_of(dtype, size)
    if dtype in ("bool", "int64"):
        for name in (BOOLEAN if dtype == "bool" else INTEGER).split():
            count = getattr(np, numpy_name(name)).nin
            yield dtype, name, tuple(arrays.values())[:count]
        return
    for interval, names in UNARY.items():
        yield from ((dtype, name, (arrays[interval],)) for name in names.split())
    for (first, second), names in BINARY.items():
        yield from ((dtype, name, (arrays[first], arrays[second])) for name in names.split())


def numpy_name(name: str) -> str:
    """NumPy's older name, under which a function is a ufunc."""
    older = {"pow": "power", "bitwise_invert": "invert", "abs": "absolute", "round": "rint",
             "bitwise_left_shift": "left_shift", "bitwise_right_shift": "right_shift"}  # fmt: skip
    if name.startswith(("asin", "acos", "atan")):
        return "arc" + name[1:]
    return older.get(name, name)


def pair(case: Case) -> tuple[Callable[[], object], Callable[[], object]]:
    """Our call and NumPy's."""
    _, name, arrays = case
    ufunc, function = getattr(np, numpy_name(name)), getattr(schuss, name)
    out = ufunc(*arrays)
    tensors = [schuss.tensor(each) for each in arrays]
    return lambda: schuss.evaluate(function(*tensors)), lambda: ufunc(*arrays, out=out)


def program(dtype: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """1,000 functions in a row, of a smaller array: ours as a recorded function."""
    x = arrays_of(dtype, PROGRAM_SIZE)["positive"]
    names = [STEPS[i % len(STEPS)] for i in range(PROGRAM)]
    tensor = schuss.tensor(x)
    out = np.empty_like(x)

    def ours() -> object:
        y = tensor
        for name in names:
            y = getattr(schuss, name)(y)
        return schuss.evaluate(y)

    def theirs() -> object:
        y = x
        for name in names:
            y = getattr(np, numpy_name(name))(y, out=out)
        return y

    return ours, theirs


def measured(calls: tuple[Callable[[], object], ...], rounds: int) -> list[list[float]]:
    """Milliseconds of each, turn by turn."""
    for call in calls:
        for _ in range(3):
            call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, found in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            found.append((time.perf_counter() - started) * 1e3)
    return times


def row(dtype: str, name: str, ours: list[float], theirs: list[float]) -> list[str]:
    """The fastest turns, and how many times as fast ours is."""
    a, b = min(ours), min(theirs)
    return [name, dtype, report.figure(a), report.figure(b), f"{b / a:.2f}"]


def lines_of(rows: list[list[str]], rounds: int, threads: int) -> list[str]:
    """The whole report: slowest functions first."""
    rows = sorted(rows, key=lambda each: float(each[-1]))
    slower = sum(float(each[-1]) < 1 for each in rows)
    return [
        "# Elementwise functions beside NumPy",
        "",
        f"Written by `python benchmarks/elementwise.py`. Arrays of {SIZE:,} elements, the fastest "
        f"of {rounds} turns; NumPy writes to an array that it is given. Rows of 1,000 functions "
        f"are programs on {PROGRAM_SIZE:,} elements. {slower} of {len(rows)} are slower than "
        "NumPy; functions that do little are as fast as memory is, and differ by chance.",
        "",
        report.setting(["schuss", "numpy", "llvmlite"], threads),
        "",
        *report.table(["function", "dtype", "ms", "NumPy", "times as fast"], rows),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Elementwise functions beside NumPy's.")
    parser.add_argument("--only", nargs="+", help="some of the functions")
    parser.add_argument("--dtypes", nargs="+", default=DTYPES)
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured (7)")
    parser.add_argument("--threads", type=int, default=report.available())
    parser.add_argument("--size", type=int, default=SIZE)
    options = parser.parse_args()
    schuss.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(Cache(folder).environment)
        for dtype in options.dtypes:
            for case in cases(dtype, options.size):
                if options.only is None or case[1] in options.only:
                    rows.append(row(dtype, case[1], *measured(pair(case), options.rounds)))
                    print(" | ".join(rows[-1]), flush=True)
            if dtype.startswith("float") and options.only is None:
                name = f"{PROGRAM:,} functions"
                rows.append(row(dtype, name, *measured(program(dtype), options.rounds)))
                print(" | ".join(rows[-1]), flush=True)
    if options.only is None and options.size == SIZE and options.dtypes == DTYPES:
        report.write(RESULTS, lines_of(rows, options.rounds, options.threads))


if __name__ == "__main__":
    main()
