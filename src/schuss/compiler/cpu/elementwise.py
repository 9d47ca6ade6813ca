"""How the CPU target says each elementwise primitive: one row an op.

A row is called as `row(t, xs, kinds, out, lanes)` with the names of the operands, their dtypes and
the dtype of the result, prints instructions and returns the name of the result. Halves arrive and
leave as floats, bools as bits. What integer division and shifts leave undefined in LLVM is defined
here as NumPy has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from schuss import dtypes
from schuss.compiler.cpu import math
from schuss.compiler.cpu.remainder import remainder
from schuss.compiler.cpu.text import Text, constant, register_type, suffix, vector
from schuss.dtypes import DType

Row = Callable[[Text, list[str], list[DType], DType, int], str]
TABLE: dict[str, Row] = {}


def row(*names: str) -> Callable[[Row], Row]:
    def enter(function: Row) -> Row:
        for name in names:
            TABLE[name] = function
        return function

    return enter


def kind_of(dtype: DType, lanes: int) -> str:
    return vector(register_type(dtype), lanes)


def number(value: Any, dtype: DType, lanes: int) -> str:
    """A constant in all lanes."""
    wide = dtypes.accumulator(dtype)
    text = constant(value, wide)
    return text if lanes == 1 else f"splat ({register_type(dtype)} {text})"


def is_float(dtype: DType) -> bool:
    return dtypes.is_floating(dtype)


def is_signed(dtype: DType) -> bool:
    return dtype in dtypes.SIGNED


def intrinsic(t: Text, name: str, dtype: DType, lanes: int, *xs: str) -> str:
    kind = kind_of(dtype, lanes)
    full = f"llvm.{name}.{suffix(register_type(dtype), lanes)}"
    return t.call(kind, full, *[(kind, x) for x in xs])


def select(t: Text, condition: str, a: str, b: str, dtype: DType, lanes: int) -> str:
    kind = kind_of(dtype, lanes)
    return t.new(f"select {vector('i1', lanes)} {condition}, {kind} {a}, {kind} {b}")


def compare(t: Text, predicate: str, a: str, b: str, dtype: DType, lanes: int) -> str:
    """`predicate` is eq, ne, lt or le; NaN is unequal to everything and in no order."""
    kind = kind_of(dtype, lanes)
    if is_float(dtype):
        ordered = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole"}[predicate]
        return t.new(f"fcmp {ordered} {kind} {a}, {b}")
    if predicate in ("lt", "le"):
        predicate = ("s" if is_signed(dtype) else "u") + predicate
    return t.new(f"icmp {predicate} {kind} {a}, {b}")


# --- arithmetic ---


def _arithmetic(for_floats: str, for_integers: str) -> Row:
    def print_(t: Text, xs: list[str], kinds: list[DType], out: DType, lanes: int) -> str:
        operation = for_floats if is_float(out) else for_integers
        return t.new(f"{operation} {kind_of(out, lanes)} {xs[0]}, {xs[1]}")

    return print_


TABLE["add"] = _arithmetic("fadd", "add")
TABLE["subtract"] = _arithmetic("fsub", "sub")
TABLE["multiply"] = _arithmetic("fmul", "mul")
TABLE["divide"] = _arithmetic("fdiv", "")


def _bool_arithmetic(name: str, for_bools: str) -> None:
    """Bools add as `or` and multiply as `and`, as in NumPy."""
    plain = _arithmetic({"add": "fadd", "multiply": "fmul"}[name],
                        {"add": "add", "multiply": "mul"}[name])  # fmt: skip

    def print_(t: Text, xs: list[str], kinds: list[DType], out: DType, lanes: int) -> str:
        if out == dtypes.bool_:
            return t.new(f"{for_bools} {kind_of(out, lanes)} {xs[0]}, {xs[1]}")
        return plain(t, xs, kinds, out, lanes)

    TABLE[name] = print_


_bool_arithmetic("add", "or")
_bool_arithmetic("multiply", "and")


@row("negative")
def _negative(t, xs, kinds, out, lanes):  # type: ignore[no-untyped-def]
    if is_float(out):
        return t.new(f"fneg {kind_of(out, lanes)} {xs[0]}")
    return t.new(f"sub {kind_of(out, lanes)} {number(0, out, lanes)}, {xs[0]}")


@row("masked_product")
def _masked_product(t, xs, kinds, out, lanes):  # type: ignore[no-untyped-def]
    """g * d, but 0 where g is 0 and d is not finite."""
    kind = kind_of(out, lanes)
    product = t.new(f"fmul {kind} {xs[0]}, {xs[1]}")
    zero = compare(t, "eq", xs[0], number(0, out, lanes), out, lanes)
    size = intrinsic(t, "fabs", out, lanes, xs[1])
    wild = t.new(f"fcmp uge {kind} {size}, {number(np.inf, out, lanes)}")
    unused = t.new(f"and {vector('i1', lanes)} {zero}, {wild}")
    return select(t, unused, number(0, out, lanes), product, out, lanes)


@row("abs")
def _abs(t, xs, kinds, out, lanes):  # type: ignore[no-untyped-def]
    if is_float(out):
        return intrinsic(t, "fabs", out, lanes, xs[0])
    if not is_signed(out):
        return xs[0]
    kind = kind_of(out, lanes)
    name = f"llvm.abs.{suffix(register_type(out), lanes)}"
    return t.call(kind, name, (kind, xs[0]), ("i1", "false"))


@row("sign")
def _sign(t, xs, kinds, out, lanes):  # type: ignore[no-untyped-def]
    x, zero = xs[0], number(0, out, lanes)
    above = compare(t, "lt", zero, x, out, lanes)
    positive = select(t, above, number(1, out, lanes), zero, out, lanes)
    if out in dtypes.UNSIGNED:
        return positive
    below = compare(t, "lt", x, zero, out, lanes)
    found = select(t, below, number(-1, out, lanes), positive, out, lanes)
    if not is_float(out):
        return found
    nan = t.new(f"fcmp uno {kind_of(out, lanes)} {x}, {x}")
    return select(t, nan, x, found, out, lanes)


def _larger(t: Text, a: str, b: str, dtype: DType, lanes: int, predicate: str) -> str:
    """The larger (`ogt`) or smaller (`olt`) of two; NaN where one of them is."""
    kind = kind_of(dtype, lanes)
    if dtype == dtypes.bool_:
        return t.new(f"{'or' if predicate == 'ogt' else 'and'} {kind} {a}, {b}")
    if not is_float(dtype):
        name = ("s" if is_signed(dtype) else "u") + ("max" if predicate == "ogt" else "min")
        return intrinsic(t, name, dtype, lanes, a, b)
    first = t.new(f"fcmp {predicate} {kind} {a}, {b}")
    chosen = select(t, first, a, b, dtype, lanes)
    nan = t.new(f"fcmp uno {kind} {a}, {a}")
    return select(t, nan, a, chosen, dtype, lanes)


def _extreme(predicate: str) -> Row:
    def print_(t: Text, xs: list[str], kinds: list[DType], out: DType, lanes: int) -> str:
        return _larger(t, xs[0], xs[1], out, lanes, predicate)

    return print_


TABLE["maximum"], TABLE["minimum"] = _extreme("ogt"), _extreme("olt")


@row("relu")
def _relu(t, xs, kinds, out, lanes):  # type: ignore[no-untyped-def]
    zero = number(0, out, lanes)
    if not is_float(out):
        return _larger(t, xs[0], zero, out, lanes, "ogt")
    below = t.new(f"fcmp ole {kind_of(out, lanes)} {xs[0]}, {zero}")  # false for NaN, which stays
    return select(t, below, zero, xs[0], out, lanes)


def _floor_divide(t: Text, xs: list[str], kinds: list[DType], out: DType, lanes: int) -> str:
    return _divided(t, xs, out, lanes)[0]


def _remainder(t: Text, xs: list[str], kinds: list[DType], out: DType, lanes: int) -> str:
    return _divided(t, xs, out, lanes)[1]


TABLE["floor_divide"], TABLE["remainder"] = _floor_divide, _remainder


def _divided(t: Text, xs: list[str], out: DType, lanes: int) -> tuple[str, str]:
    """Quotient rounded down and what is left, which has the sign of the divisor."""
    if is_float(out):
        return _divided_floats(t, xs, out, lanes)
    kind, (a, b) = kind_of(out, lanes), xs
    zero, one = number(0, out, lanes), number(1, out, lanes)
    nothing = t.new(f"icmp eq {kind} {b}, {zero}")
    safe = select(t, nothing, one, b, out, lanes)
    if not is_signed(out):
        q, r = t.new(f"udiv {kind} {a}, {safe}"), t.new(f"urem {kind} {a}, {safe}")
    else:
        negated = t.new(f"sub {kind} {zero}, {a}")  # a // -1, which overflows for the smallest
        minus = t.new(f"icmp eq {kind} {b}, {number(-1, out, lanes)}")
        safe = select(t, minus, one, safe, out, lanes)
        q, r = t.new(f"sdiv {kind} {a}, {safe}"), t.new(f"srem {kind} {a}, {safe}")
        bits = vector("i1", lanes)
        signs = t.new(f"xor {kind} {r}, {safe}")
        differ = t.new(f"icmp slt {kind} {signs}, {zero}")
        left = t.new(f"icmp ne {kind} {r}, {zero}")
        down = t.new(f"and {bits} {differ}, {left}")
        q = select(t, down, t.new(f"sub {kind} {q}, {one}"), q, out, lanes)
        r = select(t, down, t.new(f"add {kind} {r}, {safe}"), r, out, lanes)
        q = select(t, minus, negated, q, out, lanes)
        r = select(t, minus, zero, r, out, lanes)
    return select(t, nothing, zero, q, out, lanes), select(t, nothing, zero, r, out, lanes)


def _divided_floats(t: Text, xs: list[str], out: DType, lanes: int) -> tuple[str, str]:
    """As NumPy's divmod: from the exact remainder, so that q * b + r is a.

    Quotients of infinities are the standard's limits.
    """
    kind, (a, b) = kind_of(out, lanes), xs
    zero, one = number(0, out, lanes), number(1, out, lanes)
    mod = remainder(t, a, b, dtypes.accumulator(out), lanes)
    left = t.new(f"fcmp une {kind} {mod}, {zero}")
    b_negative = t.new(f"fcmp olt {kind} {b}, {zero}")
    mod_negative = t.new(f"fcmp olt {kind} {mod}, {zero}")
    bits = vector("i1", lanes)
    differ = t.new(f"xor {bits} {b_negative}, {mod_negative}")
    shift = t.new(f"and {bits} {differ}, {left}")
    shifted = select(t, shift, t.new(f"fadd {kind} {mod}, {b}"), mod, out, lanes)
    signed_zero = intrinsic(t, "copysign", out, lanes, zero, b)
    modulus = select(t, left, shifted, signed_zero, out, lanes)
    rest = t.new(f"fsub {kind} {a}, {mod}")
    div = t.new(f"fdiv {kind} {rest}, {b}")
    div = select(t, shift, t.new(f"fsub {kind} {div}, {one}"), div, out, lanes)
    whole = intrinsic(t, "floor", out, lanes, div)
    above = t.new(f"fsub {kind} {div}, {whole}")
    up = t.new(f"fcmp ogt {kind} {above}, {number(0.5, out, lanes)}")
    whole = select(t, up, t.new(f"fadd {kind} {whole}, {one}"), whole, out, lanes)
    plain = t.new(f"fdiv {kind} {a}, {b}")
    tiny = intrinsic(t, "copysign", out, lanes, zero, plain)
    is_zero = t.new(f"fcmp oeq {kind} {div}, {zero}")
    whole = select(t, is_zero, tiny, whole, out, lanes)
    # Nothing is left to round where the divisor is 0, or one of them infinite.
    infinity = number(np.inf, out, lanes)
    sizes = [intrinsic(t, "fabs", out, lanes, x) for x in (a, b)]
    infinite = [t.new(f"fcmp oeq {kind} {size}, {infinity}") for size in sizes]
    nothing = t.new(f"fcmp oeq {kind} {b}, {zero}")
    for each in infinite:
        nothing = t.new(f"or {bits} {nothing}, {each}")
    return select(t, nothing, plain, whole, out, lanes), modulus


# --- rounding, signs, tests ---


def _rounding(name: str) -> Row:
    def print_(t: Text, xs: list[str], kinds: list[DType], out: DType, lanes: int) -> str:
        return intrinsic(t, name, out, lanes, xs[0]) if is_float(out) else xs[0]

    return print_


for _name, _intrinsic_name in {
    "floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "roundeven", "sqrt": "sqrt"
}.items():  # fmt: skip
    TABLE[_name] = _rounding(_intrinsic_name)


@row("nextafter")
def _nextafter(t, xs, kinds, out, lanes):  # type: ignore[no-untyped-def]
    """The bits of a number of one sign count it up; below 0 they count down."""
    kind, (a, b) = kind_of(out, lanes), xs
    bits, zero = vector(f"i{8 * out.itemsize}", lanes), number(0, out, lanes)
    one, minus = [str(n) if lanes == 1 else f"splat (i{8 * out.itemsize} {n})" for n in (1, -1)]
    whole = t.new(f"bitcast {kind} {a} to {bits}")
    up = compare(t, "lt", a, b, out, lanes)
    positive = compare(t, "lt", zero, a, out, lanes)
    away = t.new(f"icmp eq {vector('i1', lanes)} {up}, {positive}")
    steps = t.new(f"select {vector('i1', lanes)} {away}, {bits} {one}, {bits} {minus}")
    moved = t.new(f"bitcast {bits} {t.new(f'add {bits} {whole}, {steps}')} to {kind}")
    least = t.new(f"bitcast {bits} {one} to {kind}")
    from_zero = intrinsic(t, "copysign", out, lanes, least, b)
    moved = select(t, compare(t, "eq", a, zero, out, lanes), from_zero, moved, out, lanes)
    moved = select(t, compare(t, "eq", a, b, out, lanes), b, moved, out, lanes)
    unordered = t.new(f"fcmp uno {kind} {a}, {b}")
    return select(t, unordered, t.new(f"fadd {kind} {a}, {b}"), moved, out, lanes)


@row("copy")
def _copy(t, xs, kinds, out, lanes):  # type: ignore[no-untyped-def]
    return xs[0]


@row("copysign")
def _copysign(t, xs, kinds, out, lanes):  # type: ignore[no-untyped-def]
    return intrinsic(t, "copysign", out, lanes, *xs)


def _test(for_floats: Callable[[Text, str, DType, int], str], otherwise: str) -> Row:
    def print_(t: Text, xs: list[str], kinds: list[DType], out: DType, lanes: int) -> str:
        if is_float(kinds[0]):
            return for_floats(t, xs[0], kinds[0], lanes)
        return otherwise if lanes == 1 else f"splat (i1 {otherwise})"

    return print_


def _size_against_infinity(predicate: str) -> Callable[[Text, str, DType, int], str]:
    def print_(t: Text, x: str, dtype: DType, lanes: int) -> str:
        size = intrinsic(t, "fabs", dtype, lanes, x)
        limit = number(np.inf, dtype, lanes)
        return t.new(f"fcmp {predicate} {kind_of(dtype, lanes)} {size}, {limit}")

    return print_


TABLE["isnan"] = _test(
    lambda t, x, dtype, lanes: t.new(f"fcmp uno {kind_of(dtype, lanes)} {x}, {x}"), "false"
)
TABLE["isinf"] = _test(_size_against_infinity("oeq"), "false")
TABLE["isfinite"] = _test(_size_against_infinity("olt"), "true")


def _comparison(predicate: str, swapped: bool = False) -> Row:
    def print_(t: Text, xs: list[str], kinds: list[DType], out: DType, lanes: int) -> str:
        a, b = xs[::-1] if swapped else xs
        return compare(t, predicate, a, b, kinds[0], lanes)

    return print_


for _name, _predicate in {
    "equal": "eq",
    "not_equal": "ne",
    "less": "lt",
    "less_equal": "le",
}.items():
    TABLE[_name] = _comparison(_predicate)


# --- logic and bits ---


def _truth(t: Text, x: str, dtype: DType, lanes: int) -> str:
    """Whether numbers are not 0."""
    if dtype == dtypes.bool_:
        return x
    return compare(t, "ne", x, number(0, dtype, lanes), dtype, lanes)


def _logical(operation: str) -> Row:
    def print_(t: Text, xs: list[str], kinds: list[DType], out: DType, lanes: int) -> str:
        a, b = (_truth(t, x, kind, lanes) for x, kind in zip(xs, kinds, strict=True))
        return t.new(f"{operation} {vector('i1', lanes)} {a}, {b}")

    return print_


def _bitwise(operation: str) -> Row:
    def print_(t: Text, xs: list[str], kinds: list[DType], out: DType, lanes: int) -> str:
        return t.new(f"{operation} {kind_of(out, lanes)} {xs[0]}, {xs[1]}")

    return print_


for _name, _operation in {"and": "and", "or": "or", "xor": "xor"}.items():
    TABLE[f"logical_{_name}"] = _logical(_operation)
    TABLE[f"bitwise_{_name}"] = _bitwise(_operation)


@row("logical_not")
def _logical_not(t, xs, kinds, out, lanes):  # type: ignore[no-untyped-def]
    held = _truth(t, xs[0], kinds[0], lanes)
    return t.new(f"xor {vector('i1', lanes)} {held}, {number(True, dtypes.bool_, lanes)}")


@row("bitwise_invert")
def _invert(t, xs, kinds, out, lanes):  # type: ignore[no-untyped-def]
    ones = number(out == dtypes.bool_ or -1, out, lanes)
    return t.new(f"xor {kind_of(out, lanes)} {xs[0]}, {ones}")


def _shift(operation: str) -> Row:
    """Shifts by more than the width push everything out; LLVM leaves them undefined."""

    def print_(t: Text, xs: list[str], kinds: list[DType], out: DType, lanes: int) -> str:
        kind, (a, by) = kind_of(out, lanes), xs
        width = 8 * out.itemsize
        inside = t.new(f"icmp ult {kind} {by}, {number(width, out, lanes)}")
        safe = select(t, inside, by, number(width - 1, out, lanes), out, lanes)
        name = {"left": "shl", "right": "ashr" if is_signed(out) else "lshr"}[operation]
        moved = t.new(f"{name} {kind} {a}, {safe}")
        if name == "ashr":
            return moved
        return select(t, inside, moved, number(0, out, lanes), out, lanes)

    return print_


TABLE["bitwise_left_shift"], TABLE["bitwise_right_shift"] = _shift("left"), _shift("right")


@row("where")
def _where(t, xs, kinds, out, lanes):  # type: ignore[no-untyped-def]
    return select(t, _truth(t, xs[0], kinds[0], lanes), xs[1], xs[2], out, lanes)


# --- casts ---


@row("astype")
def _astype(t, xs, kinds, out, lanes):  # type: ignore[no-untyped-def]
    x, start = xs[0], kinds[0]
    a, b = kind_of(start, lanes), kind_of(out, lanes)
    if out == dtypes.bool_:
        return _truth(t, x, start, lanes)
    if is_float(start) and is_float(out):
        if out in dtypes.HALF:
            return rounded(t, x, start, out, lanes)
        if a == b:
            return x
        return t.new(f"{'fpext' if out == dtypes.float64 else 'fptrunc'} {a} {x} to {b}")
    if is_float(out):
        name = "sitofp" if is_signed(start) else "uitofp"
        made = t.new(f"{name} {a} {x} to {b}")
        return rounded(t, made, dtypes.float32, out, lanes) if out in dtypes.HALF else made
    if is_float(start):
        return _to_integer(t, x, start, out, lanes)
    if start.itemsize == out.itemsize and start != dtypes.bool_:
        return x
    if out.itemsize < start.itemsize:
        return t.new(f"trunc {a} {x} to {b}")
    return t.new(f"{'sext' if is_signed(start) else 'zext'} {a} {x} to {b}")


def _to_integer(t: Text, x: str, start: DType, out: DType, lanes: int) -> str:
    """Towards zero, by way of 64 bits, whose upper ones are cut off for the narrow types."""
    wide = out if out.itemsize == 8 else (dtypes.int64 if out.itemsize == 4 else dtypes.int32)
    signed = dtypes.int64 if wide == dtypes.uint64 else wide
    whole = _saturated(t, x, start, signed, lanes)
    if wide == dtypes.uint64:  # numbers below 0 wrap around, as they do for the narrow types
        upper = _saturated(t, x, start, wide, lanes)
        below = compare(t, "lt", x, number(0, start, lanes), start, lanes)
        whole = select(t, below, whole, upper, wide, lanes)
    if wide.itemsize == out.itemsize:
        return whole
    return t.new(f"trunc {kind_of(wide, lanes)} {whole} to {kind_of(out, lanes)}")


def _saturated(t: Text, x: str, start: DType, out: DType, lanes: int) -> str:
    """Towards zero; what does not fit becomes the nearest that does, NaN becomes 0.

    LLVM's own instruction for this goes from lane to lane.
    """
    a, b = kind_of(start, lanes), kind_of(out, lanes)
    info = np.iinfo(out)
    end = float(info.max) + (0 if out.itemsize == 8 else 1)  # rounds up to it for 64 bits
    not_below = t.new(f"fcmp oge {a} {x}, {number(float(info.min), start, lanes)}")
    not_above = t.new(f"fcmp olt {a} {x}, {number(end, start, lanes)}")
    inside = t.new(f"and {vector('i1', lanes)} {not_below}, {not_above}")
    safe = select(t, inside, x, number(0, start, lanes), start, lanes)
    whole = t.new(f"{'fptosi' if is_signed(out) else 'fptoui'} {a} {safe} to {b}")
    high = t.new(f"fcmp oge {a} {x}, {number(end, start, lanes)}")
    whole = select(t, high, number(int(info.max), out, lanes), whole, out, lanes)
    low = t.new(f"fcmp olt {a} {x}, {number(float(info.min), start, lanes)}")
    return select(t, low, number(int(info.min), out, lanes), whole, out, lanes)


def rounded(t: Text, x: str, start: DType, out: DType, lanes: int) -> str:
    """A number rounded to a half precision, held in a float."""
    if start == dtypes.float64:
        x = _odd(t, x, lanes)
    if out == dtypes.bfloat16:
        bits = t.bfloat_bits(x, lanes)
        return t.new(f"bitcast {vector('i32', lanes)} {bits} to {vector('float', lanes)}")
    raw = t.new(f"fptrunc {vector('float', lanes)} {x} to {vector('half', lanes)}")
    return t.new(f"fpext {vector('half', lanes)} {raw} to {vector('float', lanes)}")


def _odd(t: Text, x: str, lanes: int) -> str:
    """A double as a float whose last bit says that something was cut off.

    Rounding it once more then gives what rounding the double at once would have given (Boldo and
    Melquiond, "When double rounding is odd", 2005).
    """
    double, single = vector("double", lanes), vector("float", lanes)
    bits, one = vector("i32", lanes), "1" if lanes == 1 else "splat (i32 1)"
    near = t.new(f"fptrunc {double} {x} to {single}")
    back = t.new(f"fpext {single} {near} to {double}")
    size = intrinsic(t, "fabs", dtypes.float64, lanes, x)
    reached = intrinsic(t, "fabs", dtypes.float64, lanes, back)
    whole = t.new(f"bitcast {single} {near} to {bits}")
    beyond = t.new(f"fcmp ogt {double} {reached}, {size}")
    lower = t.new(f"sub {bits} {whole}, {one}")
    below = t.new(f"select {vector('i1', lanes)} {beyond}, {bits} {lower}, {bits} {whole}")
    inexact = t.new(f"fcmp one {double} {back}, {x}")
    odd = t.new(f"or {bits} {below}, {one}")
    chosen = t.new(f"select {vector('i1', lanes)} {inexact}, {bits} {odd}, {bits} {whole}")
    return t.new(f"bitcast {bits} {chosen} to {single}")


# --- functions that are polynomials ---


def _function(name: str) -> Row:
    def print_(t: Text, xs: list[str], kinds: list[DType], out: DType, lanes: int) -> str:
        wide = dtypes.accumulator(out)
        kind = kind_of(wide, lanes)
        symbol = math.symbol(name, str(wide), lanes)
        if symbol not in t.defined:
            t.defined[symbol], needs = math.definition(name, str(wide), lanes)
            t.declared.update(needs)
        arguments = ", ".join(f"{kind} {x}" for x in xs)
        return t.new(f"call {kind} {symbol}({arguments})")

    return print_


_FUNCTIONS = """
    exp expm1 log log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf sigmoid
    power atan2
"""
for _name in _FUNCTIONS.split():
    TABLE[_name] = _function(_name)
