"""Elements of operands of the matrix product: loaded from memory, and converted for the sums."""

from __future__ import annotations

from schuss.compiler.cpu.matmul_text import Function


def size(element: str) -> int:
    """Bytes of an LLVM scalar type."""
    return {"float": 4, "double": 8, "half": 2, "bfloat": 2}.get(element) or int(element[1:]) // 8


def stored(source: str) -> str:
    """The type that elements are loaded as: those of half precision as their bits."""
    return "i16" if source in ("bfloat", "half") else source


def vector(element: str, lanes: int) -> str:
    """The type of `lanes` elements; a scalar for one."""
    return f"<{lanes} x {element}>" if lanes > 1 else element


def load(f: Function, source: str, lanes: int, pointer: str) -> str:
    """Elements one after the other, as they are stored."""
    return f.let(f"load {vector(stored(source), lanes)}, ptr {pointer}, align {size(source)}")


def broadcast(f: Function, kind: str, scalar: str) -> str:
    """A vector with all elements equal to `scalar`."""
    lanes, element = kind[1:-1].split(" x ")
    first = f.let(f"insertelement {kind} poison, {element} {scalar}, i32 0")
    zeros = f"<{lanes} x i32> zeroinitializer"
    return f.let(f"shufflevector {kind} {first}, {kind} poison, {zeros}")


def converted(
    f: Function, source: str, element: str, lanes: int, value: str, has_instruction: bool
) -> str:
    """`lanes` elements as loaded, in the type `element`: that of sums, or i16 for i8.

    `has_instruction` says that the machine converts float16 by itself.
    """

    def kind(scalar: str) -> str:
        return vector(scalar, lanes)

    def constant(number: int) -> str:
        return f"splat (i32 {number})" if lanes > 1 else str(number)

    if source == element:
        return value
    if source[0] == "i":
        return f.let(f"sext {kind(source)} {value} to {kind(element)}")
    if source == "half" and has_instruction:
        half = f.let(f"bitcast {kind('i16')} {value} to {kind('half')}")
        return f.let(f"fpext {kind('half')} {half} to {kind('float')}")
    wide = f.let(f"zext {kind('i16')} {value} to {kind('i32')}")
    if source == "bfloat":  # the upper half of a float
        shifted = f.let(f"shl {kind('i32')} {wide}, {constant(16)}")
        return f.let(f"bitcast {kind('i32')} {shifted} to {kind('float')}")
    # Exponent and fraction move to their places in a float, whose exponent is then 112 too small,
    # except for infinity and NaN, which have the highest exponent of all.
    sign = f.let(f"shl {kind('i32')} {wide}, {constant(16)}")
    sign = f.let(f"and {kind('i32')} {sign}, {constant(-(2**31))}")
    rest = f.let(f"and {kind('i32')} {wide}, {constant(0x7FFF)}")
    special = f.let(f"icmp uge {kind('i32')} {rest}, {constant(0x7C00)}")
    rest = f.let(f"shl {kind('i32')} {rest}, {constant(13)}")
    small = f.let(f"bitcast {kind('i32')} {rest} to {kind('float')}")
    scale = "splat (float 0x46F0000000000000)" if lanes > 1 else "0x46F0000000000000"
    scaled = f.let(f"fmul {kind('float')} {small}, {scale}")
    bits = f.let(f"bitcast {kind('float')} {scaled} to {kind('i32')}")
    highest = f.let(f"or {kind('i32')} {rest}, {constant(0x7F800000)}")
    bits = f.let(f"select {kind('i1')} {special}, {kind('i32')} {highest}, {kind('i32')} {bits}")
    bits = f.let(f"or {kind('i32')} {bits}, {sign}")
    return f.let(f"bitcast {kind('i32')} {bits} to {kind('float')}")


def mask_below(f: Function, lanes: int, count: str) -> str:
    """A mask of the first `count` elements."""
    counts = broadcast(f, f"<{lanes} x i64>", count)
    numbers = ", ".join(f"i64 {i}" for i in range(lanes))
    return f.let(f"icmp ult <{lanes} x i64> <{numbers}>, {counts}")


def masked_load(f: Function, source: str, lanes: int, pointer: str, mask: str) -> str:
    """The elements of a vector that `mask` has; 0 for the others, which are not read."""
    kind = f"<{lanes} x {stored(source)}>"
    return f.let(
        f"call {kind} @{_masked_load(source, lanes)}(ptr {pointer}, i32 {size(source)}, "
        f"<{lanes} x i1> {mask}, {kind} zeroinitializer)"
    )


def declare_masked_load(source: str, lanes: int) -> str:
    """The declaration that `masked_load` needs."""
    kind = f"<{lanes} x {stored(source)}>"
    return f"declare {kind} @{_masked_load(source, lanes)}(ptr, i32, <{lanes} x i1>, {kind})\n"


def _masked_load(source: str, lanes: int) -> str:
    kind = stored(source)
    return f"llvm.masked.load.v{lanes}{kind if kind[0] == 'i' else f'f{8 * size(kind)}'}.p0"
