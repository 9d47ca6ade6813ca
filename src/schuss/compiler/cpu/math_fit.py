"""How the coefficients in math_tables.py were found; needs mpmath.

    python -m schuss.compiler.cpu.math_fit > src/schuss/compiler/cpu/math_tables.py

Each polynomial is nearly the best one in the sense of Chebyshev: its largest weighted error is close
to as small as can be. C. L. Lawson's algorithm finds it by weighted least squares, in which places
with large errors gain weight from round to round (J. R. Rice and K. H. Usow, "The Lawson algorithm
and extensions", Mathematics of Computation 22, 1968). The lowest coefficients are rounded to the
dtype one at a time and the others fitted again around them, so that rounding costs next to nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import mpmath
from mpmath import mp, mpf

Function = Callable[[mpf], mpf]

mp.dps = 50
GRID = 12  # points at which the error is looked at, for each coefficient
ROUNDS = 12
ONE_BY_ONE = 3  # so many coefficients are rounded before the others are fitted


def rounded(number: mpf, dtype: str) -> float:
    if dtype == "float64":
        return float(number)
    return struct.unpack("<f", struct.pack("<f", float(number)))[0]


def lawson(target: list[mpf], weight: list[mpf], columns: list[list[mpf]]) -> list[mpf]:
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

    def settle(number: mpf) -> None:
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

    def quotient(x: mpf) -> mpf:
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
    # log2(1 + r) = r q(r) near a table's node and 2^r, in float64 for the powers of float32
    if not short:
        minus_log_erfc = divided(lambda x: -mpmath.log(mpmath.erfc(x)), lambda x: mpf(0), 1)
        found["ERF"] = fit(
            minus_log_erfc, lambda x: x * mpmath.erfc(x) / mpmath.erf(x), 1e-6, 5.95, 24, dtype
        )
        found["LONG_LOG"] = near(
            mpmath.log1p, lambda r: r - r * r / 2, 3, -0.0465, 0.0465, 10
        )
        found["SHORT_LOG2"] = fit(
            lambda r: mpmath.log(1 + r, 2) / r, lambda r: 1, -1 / 28, 1 / 28, 5, dtype
        )
        found["SHORT_EXP2"] = fit(
            lambda r: mpf(2) ** r, lambda r: 2**-r, -0.501, 0.501, 7, dtype, (1.0,)
        )
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
        around = lambda h, centre=i * step: function(centre + h)
        found.append(
            fit(around, lambda h, f=around: 1 / f(h), -step / 2, step / 2, degree, "float32")
        )
    rows = [list(row) for row in zip(*(piece for piece, _ in found), strict=True)]
    return rows, max(error for _, error in found)


def exact_nodes() -> tuple[list[float], list[float], list[float]]:
    """The same for float64 powers, with log(c) as the sum of two numbers.

    1 / c has 5 bits after the point, so that m / c - 1 is exact for a float64 m. The larger part of
    log(c) and LN2_HIGH are multiples of 2**-42, so that sums with small multiples of LN2_HIGH are
    exact.
    """
    inverses = [round(32 * each) / 32 for each in nodes()[0]]
    logarithms = [-mpmath.log(each) for each in inverses]
    high = [float(mpmath.nint(each * 2**42) / 2**42) for each in logarithms]
    return inverses, high, [float(a - b) for a, b in zip(logarithms, high, strict=True)]


def nodes() -> tuple[list[float], list[float]]:
    """1 / c and log2(c) for the 16 parts of [0.6992, 1.3984) that a float32's leading bits tell.

    c is in the middle of its part, but 1 where the part contains 1, so that log2(1) is 0.
    """
    inverses, logarithms = [], []
    for i in range(16):
        low, high = (
            mpf(struct.unpack("<f", struct.pack("<I", LOG_ORIGIN + ((i + k) << 19)))[0])
            for k in (0, 1)
        )
        inverse = 1.0 if low < 1 < high else float(2 / (low + high))
        inverses.append(inverse)
        logarithms.append(float(-mpmath.log(inverse, 2)))
    return inverses, logarithms


LOG_ORIGIN = 0x3F330000
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
    print('"""Coefficients; see math_fit.py, which printed this file.\n')
    print('Beside each is the largest error relative to the whole function."""\n')
    print("# ruff: noqa: E501")
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
        values, error = pieces(function, step, degree)
        print(f"\n{name}_STEP = {step!r}")
        print(f"{name}_PIECES = {text(values)}  # 2**{float(mpmath.log(error, 2)):.1f}")
    names = ("NODE_INVERSE", "NODE_LOG2", "EXACT_INVERSE", "EXACT_LOG_HIGH", "EXACT_LOG_LOW")
    for name, column in zip(names, (*nodes(), *exact_nodes()), strict=True):
        print(f"\n{name} = {text(column)}")
    print("\n# The first 1280 bits of 2 / pi after the point.")
    with mp.workdps(500):
        print(f"TWO_OVER_PI = {int(mpmath.floor(2 / mp.pi * mpf(2) ** 1280)):#x}")


if __name__ == "__main__":
    main()
