"""Formulas in Python that print themselves as LLVM IR: what the vector functions are written in.

A `Value` is a vector (or, with one lane, a scalar) that some line of a `Body` computes. Its
operators append a line each, so `fma(x, 2.0, y) + 1.0` reads like the mathematics and prints

    %v1 = call <8 x float> @llvm.fma.v8f32(<8 x float> %x, <8 x float> splat (...), <8 x float> %y)
    %v2 = fadd <8 x float> %v1, splat (float 0x3FF0000000000000)

No line carries a fast-math flag and fused multiply-adds are always spelt out. Therefore every line
is one correctly rounded operation, and a result has the same bits for any number of lanes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence

FLOAT_OF = {"i32": "float", "i64": "double"}
INTEGER_OF = {"float": "i32", "double": "i64"}
SUFFIX = {"float": "f32", "double": "f64", "i32": "i32", "i64": "i64", "i1": "i1"}
MANTISSA_BITS = {"float": 23, "double": 52}
EXPONENT_BIAS = {"float": 127, "double": 1023}


class Body:
    """The lines of one LLVM function whose values all have `lanes` elements.

    `extension` may be "avx512" or "neon": some things are one instruction there on vectors of the
    full width, with the same results.
    """

    def __init__(self, lanes: int, symbol: str, extension: str):
        self.lanes = lanes
        self.symbol = symbol
        self.extension = extension
        self.globals: list[str] = []
        self.lines: list[str] = []
        self.declarations: set[str] = set()
        self._names = 0
        self._block = "entry"

    def type(self, kind: str) -> str:
        """The LLVM type of `lanes` elements of kind `float`, `double`, `i32`, `i64` or `i1`."""
        return kind if self.lanes == 1 else f"<{self.lanes} x {kind}>"

    def suffix(self, kind: str) -> str:
        """How intrinsics name that type: f32, v8f32, ..."""
        return SUFFIX[kind] if self.lanes == 1 else f"v{self.lanes}{SUFFIX[kind]}"

    def line(self, text: str) -> str:
        """Append an instruction and return the name of its result."""
        self._names += 1
        self.lines.append(f"  %v{self._names} = {text}")
        return f"%v{self._names}"

    def emit(self, text: str, kind: str) -> Value:
        return Value(self, self.line(text), kind)

    def call(self, name: str, kind: str, *arguments: Value) -> Value:
        """An LLVM intrinsic; its declaration is noted."""
        types = ", ".join(self.type(each.kind) for each in arguments)
        self.declarations.add(f"declare {self.type(kind)} @{name}({types})")
        listed = ", ".join(f"{self.type(each.kind)} {each.name}" for each in arguments)
        return self.emit(f"call {self.type(kind)} @{name}({listed})", kind)

    def is_avx512(self, kind: str) -> bool:
        return self.extension == "avx512" and self.type(kind) in {"<16 x float>", "<8 x double>"}

    def avx512_call(self, name: str, *arguments: Value, immediate: int | None = None) -> Value:
        """One of AVX-512's instructions that work on exponents: getexp, getmant or scalef."""
        kind = arguments[0].kind
        vector, mask = self.type(kind), "i16" if kind == "float" else "i8"
        listed = [f"{vector} {each.name}" for each in arguments]
        if immediate is not None:
            listed.append(f"i32 {immediate}")
        listed += [f"{vector} zeroinitializer", f"{mask} -1", "i32 4"]  # no mask, usual rounding
        types = ", ".join(each.rsplit(" ", 1)[0] for each in listed)
        suffix = "ps" if kind == "float" else "pd"
        intrinsic = f"@llvm.x86.avx512.mask.{name}.{suffix}.512"
        self.declarations.add(f"declare {vector} {intrinsic}({types})")
        return self.emit(f"call {vector} {intrinsic}({', '.join(listed)})", kind)

    def constant(self, number: float, kind: str) -> Value:
        text = literal(number, kind)
        return Value(self, text if self.lanes == 1 else f"splat ({kind} {text})", kind)

    def unless_rare(
        self, rare: Value, common: Sequence[Value], compute: Callable[[], Sequence[Value]]
    ) -> list[Value]:
        """`common`, but `compute()` in the lanes where `rare` holds.

        A branch skips `compute` where no lane needs it.
        """
        self._names += 1
        slow, join, before = f"slow{self._names}", f"join{self._names}", self._block
        some = rare.name
        if self.lanes > 1:
            reduce = f"llvm.vector.reduce.or.v{self.lanes}i1"
            self.declarations.add(f"declare i1 @{reduce}({self.type('i1')})")
            some = self.line(f"call i1 @{reduce}({self.type('i1')} {rare.name})")
        self.declarations.add("declare i1 @llvm.expect.i1(i1, i1)")
        some = self.line(f"call i1 @llvm.expect.i1(i1 {some}, i1 false)")
        self.lines += [f"  br i1 {some}, label %{slow}, label %{join}", f"{slow}:"]
        self._block = slow
        replaced = [select(rare, new, old) for new, old in zip(compute(), common, strict=True)]
        after = self._block
        self.lines += [f"  br label %{join}", f"{join}:"]
        self._block = join
        return [
            self.emit(
                f"phi {self.type(old.kind)} [ {old.name}, %{before} ], [ {new.name}, %{after} ]",
                old.kind,
            )
            for old, new in zip(common, replaced, strict=True)
        ]


class Value:
    """A computed vector of a kind: float, double, i32, i64, or i1 for conditions.

    Python numbers beside it become constants of its kind. `&`, `|` and `~` also join conditions.
    """

    __slots__ = ("body", "kind", "name")

    def __init__(self, body: Body, name: str, kind: str):
        self.body = body
        self.name = name
        self.kind = kind

    def like(self, other: Value | float) -> Value:
        return other if isinstance(other, Value) else self.body.constant(other, self.kind)

    def _binary(self, instruction: str, other: Value | float, swapped: bool = False) -> Value:
        operands = (self.like(other), self) if swapped else (self, self.like(other))
        assert operands[0].kind == operands[1].kind, (instruction, self.kind, other)
        names = ", ".join(each.name for each in operands)
        return self.body.emit(f"{instruction} {self.body.type(self.kind)} {names}", self.kind)

    def _arithmetic(self, operation: str) -> str:
        return f"f{operation}" if self.kind in INTEGER_OF else operation

    def __add__(self, other: Value | float) -> Value:
        return self._binary(self._arithmetic("add"), other)

    def __sub__(self, other: Value | float) -> Value:
        return self._binary(self._arithmetic("sub"), other)

    def __mul__(self, other: Value | float) -> Value:
        return self._binary(self._arithmetic("mul"), other)

    def __truediv__(self, other: Value | float) -> Value:
        return self._binary("fdiv", other)

    def __radd__(self, other: float) -> Value:
        return self._binary(self._arithmetic("add"), other, swapped=True)

    def __rsub__(self, other: float) -> Value:
        return self._binary(self._arithmetic("sub"), other, swapped=True)

    def __rmul__(self, other: float) -> Value:
        return self._binary(self._arithmetic("mul"), other, swapped=True)

    def __rtruediv__(self, other: float) -> Value:
        return self._binary("fdiv", other, swapped=True)

    def __neg__(self) -> Value:
        return self.body.emit(f"fneg {self.body.type(self.kind)} {self.name}", self.kind)

    def __and__(self, other: Value | int) -> Value:
        return self._binary("and", other)

    def __or__(self, other: Value | int) -> Value:
        return self._binary("or", other)

    def __xor__(self, other: Value | int) -> Value:
        return self._binary("xor", other)

    def __invert__(self) -> Value:
        return self._binary("xor", -1)

    def __lshift__(self, places: Value | int) -> Value:
        return self._binary("shl", places)

    def __rshift__(self, places: Value | int) -> Value:
        """The sign is shifted in."""
        return self._binary("ashr", places)

    def shifted_down(self, places: Value | int) -> Value:
        """Zeros are shifted in."""
        return self._binary("lshr", places)

    def _compare(self, predicate: str, other: Value | float) -> Value:
        if self.kind in INTEGER_OF:  # ordered: false where one side is NaN
            compared = self._binary(f"fcmp {'u' if predicate == 'ne' else 'o'}{predicate}", other)
        else:
            compared = self._binary(f"icmp {'' if predicate in {'eq', 'ne'} else 's'}{predicate}",
                                    other)  # fmt: skip
        compared.kind = "i1"
        return compared

    def __lt__(self, other: Value | float) -> Value:
        return self._compare("lt", other)

    def __le__(self, other: Value | float) -> Value:
        return self._compare("le", other)

    def __gt__(self, other: Value | float) -> Value:
        return self._compare("gt", other)

    def __ge__(self, other: Value | float) -> Value:
        return self._compare("ge", other)

    def equals(self, other: Value | float) -> Value:
        return self._compare("eq", other)

    def differs(self, other: Value | float) -> Value:
        """Also true where one side is NaN."""
        return self._compare("ne", other)

    def _convert(self, instruction: str, kind: str) -> Value:
        before, after = self.body.type(self.kind), self.body.type(kind)
        return self.body.emit(f"{instruction} {before} {self.name} to {after}", kind)

    def bits(self) -> Value:
        """The same bits as integers."""
        return self._convert("bitcast", INTEGER_OF[self.kind])

    def from_bits(self) -> Value:
        """The same bits as floating-point numbers."""
        return self._convert("bitcast", FLOAT_OF[self.kind])

    def to(self, kind: str) -> Value:
        """The number in another kind; integers are signed, fractions are cut off."""
        if self.kind == kind:
            return self
        if self.kind in INTEGER_OF and kind in INTEGER_OF:
            return self._convert("fpext" if kind == "double" else "fptrunc", kind)
        if self.kind in INTEGER_OF:
            return self._convert("fptosi", kind)
        if kind in INTEGER_OF:
            return self._convert("sitofp", kind)
        return self._convert("sext" if kind == "i64" else "trunc", kind)


def literal(number: float, kind: str) -> str:
    """A constant as LLVM reads it, exact: floats as the bits of the float64 of the same value."""
    if kind not in INTEGER_OF:
        return str(int(number))
    if kind == "float":  # LLVM wants float constants that are float32 numbers already
        number = struct.unpack("<f", struct.pack("<f", number))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', number))[0]:016X}"


def fma(a: Value, b: Value | float, c: Value | float) -> Value:
    """a * b + c with one rounding."""
    return a.body.call(f"llvm.fma.{a.body.suffix(a.kind)}", a.kind, a, a.like(b), a.like(c))


def select(condition: Value, a: Value, b: Value | float) -> Value:
    """a where the condition holds, else b."""
    kind = a.body.type(a.kind)
    text = f"select {a.body.type('i1')} {condition.name}, {kind} {a.name}, {kind} {a.like(b).name}"
    return a.body.emit(text, a.kind)


def absolute(x: Value) -> Value:
    return x.body.call(f"llvm.fabs.{x.body.suffix(x.kind)}", x.kind, x)


def square_root(x: Value) -> Value:
    return x.body.call(f"llvm.sqrt.{x.body.suffix(x.kind)}", x.kind, x)


def truncate(x: Value) -> Value:
    return x.body.call(f"llvm.trunc.{x.body.suffix(x.kind)}", x.kind, x)


def copysign(size: Value, sign: Value) -> Value:
    return size.body.call(f"llvm.copysign.{size.body.suffix(size.kind)}", size.kind, size, sign)


def smaller(bound: float, x: Value) -> Value:
    """The smaller of both; NaN stays NaN."""
    return select(x > bound, x.like(bound), x)


def larger(bound: float, x: Value) -> Value:
    """The larger of both; NaN stays NaN."""
    return select(x < bound, x.like(bound), x)


def polynomial(x: Value, coefficients: Sequence[float | Value]) -> Value:
    """coefficients[0] + coefficients[1] x + ... by Horner's rule, a fused multiply-add a degree.

    The end of a long one is p(x^2) + x q(x^2), so that steps wait for fewer others. The beginning
    stays as it is, since that is where roundings count.
    """
    if len(coefficients) < 12:
        return _horner(x, coefficients)
    first, second, *rest = coefficients
    square = x * x
    end = fma(_horner(square, rest[1::2]), x, _horner(square, rest[::2]))
    return _horner(x, (first, second, end))


def _horner(x: Value, coefficients: Sequence[float | Value]) -> Value:
    *rest, last = coefficients
    result = x.like(last)
    for coefficient in reversed(rest):
        result = fma(result, x, coefficient)
    return result


def sum_with_rest(a: Value, b: Value) -> tuple[Value, Value]:
    """(s, t): s is a + b rounded and s + t exactly a + b, for |a| >= |b| or a = 0 (T. Dekker)."""
    total = a + b
    return total, a - total + b


def any_sum_with_rest(a: Value, b: Value) -> tuple[Value, Value]:
    """The same for any a and b (D. E. Knuth)."""
    total = a + b
    from_b = total - a
    return total, (a - (total - from_b)) + (b - from_b)


def rounded(x: Value, factor: float) -> tuple[Value, Value]:
    """The integer n nearest to x times factor: as bits for `times_power_of_two`, and as a number.

    Among numbers of the size of 1.5 * 2**mantissa_bits the floats are the integers: adding that
    rounds, and leaves n + 2 * bias in the lowest bits.
    """
    magic = 1.5 * 2.0 ** MANTISSA_BITS[x.kind] + 2 * EXPONENT_BIAS[x.kind]
    shifted = fma(x, factor, magic)
    return shifted.bits(), shifted - magic


def times_power_of_two(x: Value, bits: Value, n: Value) -> Value:
    """x 2**n, rounded once if it is subnormal, for n from twice the least exponent to the greatest.

    Where 2**n is no normal number it is the product of two that are. The first has the exponent
    n // 2, whose biased form is half of n + 2 * bias.
    """
    if x.body.is_avx512(x.kind):
        return x.body.avx512_call("scalef", x, n)
    places = MANTISSA_BITS[x.kind]
    half = bits.shifted_down(1)
    return x * (half << places).from_bits() * ((bits - half) << places).from_bits()


def exponent_and_mantissa(x: Value) -> tuple[Value, Value]:
    """(e, m) with x = m 2**e and 0.75 <= m < 1.5 for positive finite x, also subnormal ones.

    For 0 e is -inf and for infinity inf, m being finite; for NaN and numbers below 0 m is NaN.
    """
    if x.body.is_avx512(x.kind):
        from_three_quarters, negative_to_nan = 3, 2
        m = x.body.avx512_call("getmant", x, immediate=from_three_quarters + 4 * negative_to_nan)
        return x.body.avx512_call("getexp", x) - x.body.avx512_call("getexp", m), m
    places = MANTISSA_BITS[x.kind]
    smallest_normal = 2.0 ** (1 - EXPONENT_BIAS[x.kind])
    subnormal = absolute(x) < smallest_normal
    bits = select(subnormal, x * 2.0**places, x).bits()
    exponent = (bits - x.like(0.75).bits()) >> places
    m = (bits - (exponent << places)).from_bits()
    e = exponent.to(x.kind) - select(subnormal, x.like(places), 0.0)
    e = select(x.equals(0.0), x.like(-math.inf), select(x < math.inf, e, x))
    return e, select(x < 0.0, x.like(math.nan), m)


def lookup(table: Sequence[float], index: Value, kind: str) -> Value:
    """table[index] for a table of 16 entries; only the low 4 bits of the index count.

    Written as one extraction an element, in which LLVM recognizes a permutation: one instruction
    for 16 floats with AVX-512, two and a blend for 8 with AVX2. For NEON an instruction is named;
    elsewhere each element is loaded.
    """
    assert len(table) == 16
    lanes = index.body.lanes
    if index.body.extension == "neon" and lanes == 4 and kind == "float":
        return _neon_lookup(table, index)
    if lanes == 8 or (lanes == 16 and kind == "double"):
        upper = (index & 8).differs(0)
        return select(upper, _permute(table[8:], index, kind), _permute(table[:8], index, kind))
    return _permute(table, index, kind)


def _permute(table: Sequence[float], index: Value, kind: str) -> Value:
    body, size = index.body, len(table)
    masked = index & (size - 1)
    entries = ", ".join(f"{kind} {literal(each, kind)}" for each in table)
    constant = f"<{size} x {kind}> <{entries}>"
    if body.lanes == 1:
        return body.emit(f"extractelement {constant}, {index.kind} {masked.name}", kind)
    width = min(body.lanes, size)  # as many lanes at a time as there are entries
    parts = []
    for first in range(0, body.lanes, width):
        part = "poison"
        for lane in range(width):
            chosen = f"{body.type(index.kind)} {masked.name}, i32 {first + lane}"
            at = body.line(f"extractelement {chosen}")
            entry = body.line(f"extractelement {constant}, {index.kind} {at}")
            part = body.line(f"insertelement <{width} x {kind}> {part}, {kind} {entry}, i32 {lane}")
        parts.append(part)
    if len(parts) == 1:
        return Value(body, parts[0], kind)
    assert len(parts) == 2
    vector, order = f"<{width} x {kind}>", ", ".join(f"i32 {i}" for i in range(body.lanes))
    both = f"{vector} {parts[0]}, {vector} {parts[1]}, <{body.lanes} x i32> <{order}>"
    return body.emit(f"shufflevector {both}", kind)


def _neon_lookup(table: Sequence[float], index: Value) -> Value:
    """The bytes of four floats from the 64 bytes of the table, in one instruction."""
    body = index.body
    first_byte_in_each = (index & 15) * 0x04040404
    positions = (first_byte_in_each + 0x03020100).name
    quarters = []
    for first in range(0, 16, 4):
        entries = ", ".join(f"float {literal(each, 'float')}" for each in table[first : first + 4])
        quarters.append(f"<16 x i8> bitcast (<4 x float> <{entries}> to <16 x i8>)")
    positions = body.line(f"bitcast <4 x i32> {positions} to <16 x i8>")
    intrinsic = "@llvm.aarch64.neon.tbl4.v16i8"
    body.declarations.add(f"declare <16 x i8> {intrinsic}({', '.join(['<16 x i8>'] * 5)})")
    found = body.line(f"call <16 x i8> {intrinsic}({', '.join(quarters)}, <16 x i8> {positions})")
    return body.emit(f"bitcast <16 x i8> {found} to <4 x float>", "float")


def gather(body: Body, name: str, table: Sequence[int], index: Value) -> Value:
    """table[index] from memory, for a long table of 32-bit integers; slower than `lookup`."""
    where = f"{body.symbol}.{name}"
    entries = ", ".join(f"i32 {each}" for each in table)
    line = f"{where} = private unnamed_addr constant [{len(table)} x i32] [{entries}]"
    if line not in body.globals:
        body.globals.append(line)
    address = body.line(f"getelementptr i32, ptr {where}, {body.type(index.kind)} {index.name}")
    if body.lanes == 1:
        return body.emit(f"load i32, ptr {address}", "i32")
    result, pointers, mask = body.type("i32"), f"<{body.lanes} x ptr>", body.type("i1")
    intrinsic = f"@llvm.masked.gather.v{body.lanes}i32.v{body.lanes}p0"
    body.declarations.add(f"declare {result} {intrinsic}({pointers}, i32, {mask}, {result})")
    arguments = f"{pointers} {address}, i32 4, {mask} splat (i1 true), {result} poison"
    return body.emit(f"call {result} {intrinsic}({arguments})", "i32")
