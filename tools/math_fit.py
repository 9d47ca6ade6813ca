"""How the coefficients in src/schuss/compiler/cpu/math_tables.py were found; needs mpmath.

    pip install mpmath
    python tools/math_fit.py > src/schuss/compiler/cpu/math_tables.py

Each polynomial is nearly the best one in the sense of Chebyshev: its largest weighted error is
close to as small as can be. C. L. Lawson's algorithm finds it by weighted least squares, in which
places with large errors gain weight from round to round (J. R. Rice and K. H. Usow, "The Lawson
algorithm and extensions", Mathematics of Computation 22, 1968). The lowest coefficients are rounded
to the dtype one at a time and the others fitted again around them, so that rounding costs next to
nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from importlib import import_module
from typing import Any

mpmath = import_module("mpmath")  # by name, since it is no dependency and has no types
mp, mpf = mpmath.mp, mpmath.mpf
Function = Callable[[Any], Any]  # of mpmath's numbers

mp.dps = 50
GRID = 12  # points at which the error is looked at, for each coefficient
ROUNDS = 12
ONE_BY_ONE = 3  # so many coefficients are rounded before the others are fitted


def rounded(number: Any, dtype: str) -> float:
    if dtype == "float64":
        return float(number)
    return struct.unpack("<f", struct.pack("<f", float(number)))[0]


def lawson(target: list[Any], weight: list[Any], columns: list[list[Any]]) -> list[Any]:
    """The factors of the columns for which max |weight (target - sum of columns)| is smallest."""
    share = [mpf(1)] * len(target)
    best, smallest = [], mp.inf
    for _ in range(ROUNDS):
        scale = [s * w * w for s, w in zip(share, weight, strict=True)]
        scaled = [[s * x for s, x in zip(scale, column, strict=True)] for column in columns]
        matrix = mpmath.matrix([[mpmath.fdot(a, b) for b in columns] for a in scaled])
        factors = mp.lu_solve(matrix, mpmath.matrix([mpmath.fdot(a, target) for a in scaled]))
        errors = [
            abs(w * (t - mpmath.fdot(factors, row)))
            for w, t, row in zip(weight, target, zip(*columns, strict=True), strict=True)
        ]
        if max(errors) < smallest:
            best, smallest = list(factors), max(errors)
        total = mpmath.fdot(share, errors) / len(errors)
        share = [s * e / total for s, e in zip(share, errors, strict=True)]
    return best


def fit(
    function: Function, weight: Function, low: float, high: float, degree: int, dtype: str,
    fixed: tuple[float, ...] = (),
) -> tuple[list[float], float]:  # fmt: skip
    """Coefficients from the constant on, rounded to the dtype, and the largest weighted error.

    `weight` times the error is what must be small: 1 / function for a relative error. `fixed` are
    given leading coefficients.
    """
    count = GRID * (degree + 1)
    nodes = [-mpmath.cos(mp.pi * (i + mpf(1) / 2) / count) for i in range(count)]
    points = [(mpf(low) + high) / 2 + (mpf(high) - low) / 2 * node for node in nodes]
    weights = [weight(x) for x in points]
    rest = [function(x) for x in points]
    columns = [[x**power for x in points] for power in range(degree + 1)]
    coefficients: list[float] = []

    def settle(number: Any) -> None:
        column = columns[len(coefficients)]
        coefficients.append(rounded(number, dtype))
        rest[:] = [r - coefficients[-1] * x for r, x in zip(rest, column, strict=True)]

    for number in fixed:
        settle(mpf(number))
    while len(coefficients) <= degree:
        factors = lawson(rest, weights, columns[len(coefficients) :])
        for number in factors if len(coefficients) >= ONE_BY_ONE else factors[:1]:
            settle(number)
    return coefficients, float(max(abs(w * r) for w, r in zip(weights, rest, strict=True)))


def divided(function: Function, known: Function, power: int) -> Function:
    """(function(x) - known(x)) / x**power: what is left when the first terms are set apart."""

    def quotient(x: Any) -> Any:
        with mp.workdps(50 + 12 * power):
            return (function(x) - known(x)) / x**power

    return quotient


def even(function: Function) -> Function:
    """As a function of the square of the argument."""
    return lambda z: function(mpmath.sqrt(z))


HALF_LN2 = 0.35  # a little more than ln(2) / 2
QUARTER_PI = 0.79  # more, since the quadrant comes from a rounded quotient


def polynomials(dtype: str) -> dict[str, tuple[list[float], float]]:
    """Name -> coefficients and largest error, relative to the function that they are part of."""
    short = dtype == "float32"

    def choose(for_float32: int, for_float64: int) -> int:
        return for_float32 if short else for_float64

    def near(function: Function, known: Function, power: int, low: float, high: float, degree: int,
             fixed: tuple[float, ...] = ()) -> tuple[list[float], float]:  # fmt: skip
        return fit(
            divided(function, known, power), lambda x: x**power / function(x), low, high, degree,
            dtype, fixed,
        )  # fmt: skip

    def near_even(function: Function, known: Function, power: int, limit: float, degree: int,
                  fixed: tuple[float, ...] = ()) -> tuple[list[float], float]:  # fmt: skip
        quotient = even(divided(function, known, power))
        weight = even(lambda x: x**power / function(x))
        return fit(quotient, weight, 0, limit**2, degree, dtype, fixed)

    found = {}
    # exp(r) = 1 + r + r^2 q(r), and expm1 without the 1, which needs a better q
    tail = divided(mpmath.expm1, lambda r: r, 2)
    found["EXP"] = fit(
        tail, lambda r: r * r / mpmath.exp(r), -HALF_LN2, HALF_LN2, choose(4, 10), dtype
    )
    found["EXPM1"] = near(
        mpmath.expm1, lambda r: r, 2, -HALF_LN2, HALF_LN2, choose(5, 10), (0.5,)
    )  # fmt: skip
    # log(1 + f) = f + f^2 q(f) and, with s = f / (2 + f),
    # log(1 + f) = 2 atanh(s) = 2 s + s^3 q(s^2), for 0.75 <= 1 + f < 1.5
    if short:
        found["LOG"] = near(mpmath.log1p, lambda f: f, 2, -0.25, 0.5, 8, (-0.5,))
    else:
        found["LOG"] = near_even(lambda s: 2 * mpmath.atanh(s), lambda s: 2 * s, 3, 0.2, 7)
    # sin(r) = r + r^3 q(r^2), cos(r) = 1 - r^2 / 2 + r^4 q(r^2)
    found["SIN"] = near_even(mpmath.sin, lambda r: r, 3, QUARTER_PI, choose(2, 5))
    found["COS"] = near_even(mpmath.cos, lambda r: 1 - r * r / 2, 4, QUARTER_PI, choose(2, 5))
    # f(x) = x + x^3 q(x^2) for odd functions with a slope of 1 at 0
    for name, function, limit, degrees in (
        ("TAN", mpmath.tan, QUARTER_PI, (6, 14)),
        ("ASIN", mpmath.asin, 0.5, (4, 11)),
        ("ATAN", mpmath.atan, 1.0, (8, 19)),
        ("SINH", mpmath.sinh, 1.0, (3, 6)),
    ):
        found[name] = near_even(function, lambda x: x, 3, limit, choose(*degrees))
    if not short:
        minus_log_erfc = divided(lambda x: -mpmath.log(mpmath.erfc(x)), lambda x: 0, 1)
        found["ERF"] = fit(
            minus_log_erfc, lambda x: x * mpmath.erfc(x) / mpmath.erf(x), 1e-6, 5.95, 24, dtype
        )
    # log(1 + r) = r - r^2 / 2 + r^3 q(r) near a table's node, for powers
    found["POWER_LOG"] = near(
        mpmath.log1p, lambda r: r - r * r / 2, 3, -0.0625, 0.0625, choose(4, 12)
    )  # fmt: skip
    return found


def pieces(function: Function, step: float, degree: int) -> tuple[list[list[float]], float]:
    """Polynomials in x - i step around i step, i = 0, ..., 15, for an odd function of x >= 0.

    The table's row k has the coefficient of the power k of all 16. The first polynomial is for
    the function less x and has no constant, so that the relative error stays small near 0.
    """
    first = fit(
        divided(function, lambda x: x, 1), lambda x: x / function(x), 1e-9, step / 2, degree - 1,
        "float32",
    )  # fmt: skip
    first[0].insert(0, 0.0)
    found = [first]
    for i in range(1, 16):

        def around(h: Any, centre: float = i * step) -> Any:
            return function(centre + h)

        def relative(h: Any, centre: float = i * step) -> Any:
            return 1 / function(centre + h)

        found.append(fit(around, relative, -step / 2, step / 2, degree, "float32"))
    rows = [list(row) for row in zip(*(piece for piece, _ in found), strict=True)]
    return rows, max(error for _, error in found)


def nodes(dtype: str) -> tuple[list[float], list[float], list[float]]:
    """1 / c, and log(c) as a sum of two, for nodes c near the 16 parts of 0.75 <= m < 1.5.

    Four bits of m tell the part: 0 to 7 are sixteenths from 1 on, 8 to 15 thirty-seconds from 0.75
    on. 1 / c has so few bits that m / c - 1 is exact, and is 1 on both sides of 1, so that log(1)
    is exactly 0. The larger part of log(c) is a multiple of 2**-16 or 2**-42, as is that of log(2).
    """
    parts = [(1 + mpf(i) / 16, mpf(1) / 16, 32) for i in range(8)]
    parts += [(mpf(3) / 4 + mpf(i) / 32, mpf(1) / 32, 16) for i in range(8)]
    inverses = [
        float(mpmath.nint(steps / (low + width / 2)) / steps) for low, width, steps in parts
    ]
    inverses[0] = inverses[15] = 1.0
    pairs = [split(-mpmath.log(each), dtype) for each in inverses]
    return inverses, [high for high, _ in pairs], [low for _, low in pairs]


def split(number: Any, dtype: str) -> tuple[float, float]:
    """A sum of two numbers, of which the first times an exponent is exact."""
    places = 16 if dtype == "float32" else 42
    high = mpmath.nint(number * 2**places) / 2**places
    return float(high), rounded(number - high, dtype)


ERF_STEP = 260 / 1024  # the pieces end at 3.936, where erf is 1 in float32
TANH_STEP = 596 / 1024  # at 9.021


def text(values: object, indent: int = 0) -> str:
    """Numbers and nested lists as tuples in the layout of the source, a number a line."""
    if not isinstance(values, list):
        return repr(values)
    inner = " " * (indent + 4)
    parts = "".join(f"{inner}{text(each, indent + 4)},\n" for each in values)
    return "(\n" + parts + " " * indent + ")"


def main() -> None:
    print('"""Coefficients; see tools/math_fit.py, which printed this file.\n')
    print('Beside each is the largest error relative to the whole function."""')
    short, long = polynomials("float32"), polynomials("float64")
    for name in dict.fromkeys([*short, *long]):
        print(f"\n{name} = {{")
        for kind, found in (("float", short), ("double", long)):
            if name in found:
                values, error = found[name]
                size = float(mpmath.log(error, 2))
                print(f'    "{kind}": {text(values, 4)},  # 2**{size:.1f}')
        print("}")
    for name, function, step, degree in (
        ("ERF", mpmath.erf, ERF_STEP, 5),
        ("TANH", mpmath.tanh, TANH_STEP, 7),
    ):
        rows, error = pieces(function, step, degree)
        print(f"\n{name}_STEP = {step!r}")
        print(f"{name}_PIECES = {text(rows)}  # 2**{float(mpmath.log(error, 2)):.1f}")
    tables = [nodes(dtype) for dtype in ("float32", "float64")]
    for i, name in enumerate(("NODE_INVERSE", "NODE_LOG_HIGH", "NODE_LOG_LOW")):
        print(f"\n{name} = {{")
        for kind, table in zip(("float", "double"), tables, strict=True):
            print(f'    "{kind}": {text(table[i], 4)},')
        print("}")
    print("\nLN2 = {")
    for kind, dtype in (("float", "float32"), ("double", "float64")):
        print(f'    "{kind}": {split(mpmath.log(2), dtype)},')
    print("}")
    print("\n# The first 1280 bits of 2 / pi after the point.")
    with mp.workdps(500):
        digits = f"{int(mpmath.floor(2 / mp.pi * mpf(2) ** 1280)):0320X}"
    print("TWO_OVER_PI = int(")
    for start in range(0, len(digits), 80):
        print(f'    "{digits[start : start + 80]}"')
    print("    , 16)  # fmt: skip")


if __name__ == "__main__":
    main()
