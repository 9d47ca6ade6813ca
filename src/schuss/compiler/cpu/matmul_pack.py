"""Packing for the matrix product: operands of any strides copied into panels.

A panel holds `width` (at most `lanes`) columns of a matrix with k rows, row by row: element (w, k)
at dst[k * row + w]. The micro-kernel reads it front to back. Packing also converts bfloat16,
float16 and int8 to the type that the product is summed in. As micro-kernels, packing functions
take strides at run time and are compiled once for a machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from schuss.compiler.cpu.matmul_micro import size
from schuss.compiler.cpu.matmul_text import Function

# Beyond this many lanes (of 1 and 2 bytes) a transpose in registers is too much code: elements are
# moved one at a time.
_LARGEST_TRANSPOSE = 16

SIGNATURE = "(ptr, i64, i64, i64, i64, ptr, i64)"
ROWS_SIGNATURE = "(ptr, i64, i64, i64, i64, ptr, i64, i64)"


@dataclass(frozen=True)
class Pack:
    """A packing function from elements of type `source` to `element`; `mode` says which stride
    is 1: 'copy' that of the width, 'transpose' that of k, 'strided' neither. 'rows' is 'copy' for
    several panels, which reads whole rows.
    """

    source: str
    element: str
    lanes: int
    mode: str

    @property
    def name(self) -> str:
        return f"schuss_pack_{self.mode}_{self.source}_{self.element}{self.lanes}"


def choose(source: str, element: str, lanes: int, width_stride: int, k_stride: int) -> Pack:
    """The fastest packing function for a matrix with these strides."""
    if width_stride == 1:
        return Pack(source, element, lanes, "copy")
    if k_stride == 1 and lanes <= _LARGEST_TRANSPOSE:
        return Pack(source, element, lanes, "transpose")
    return Pack(source, element, lanes, "strided")


def declaration(pack: Pack) -> str:
    """The line with which a module refers to the function."""
    return f"declare void @{pack.name}{ROWS_SIGNATURE if pack.mode == 'rows' else SIGNATURE}"


def definition(pack: Pack) -> str:
    """The module of a packing function.

        void name(src, width_stride, k_stride, width, k, dst, row)

    writes dst[kk * row + w] = src[w * width_stride + kk * k_stride] for w < width and kk < k.
    Elements of dst beyond `width`, up to `lanes`, may be overwritten with anything.
    1 <= width <= lanes; nothing outside of the width x k elements of src is read.

    In mode 'rows' the function is

        void name(src, k_stride, width, step, k, dst, row, panel)

    and packs all of a width x k matrix in panels of `step` columns, `panel` elements apart. A panel
    gets the columns after its own too, up to a whole number of vectors, which fit into `row`.
    """
    if pack.mode == "rows":
        return _rows(pack)
    f = Function(
        f"define void @{pack.name}(ptr noalias readonly %src, i64 %width_stride, i64 %k_stride, "
        "i64 %width, i64 %k, ptr noalias %dst, i64 %row)"
    )
    {"copy": _copy, "transpose": _transpose, "strided": _strided}[pack.mode](f, pack)
    f.line("ret void")
    return f"{f}\n{declare_masked_load(pack.source, pack.lanes)}"


def _copy(f: Function, pack: Pack) -> None:
    vector = f"<{pack.lanes} x {_stored(pack.source)}>"
    full = f.let(f"icmp eq i64 %width, {pack.lanes}")
    with f.when(full), f.loop(0, "%k") as k:
        source = f.at(_stored(pack.source), "%src", f.mul(k, "%k_stride"))
        value = f.let(f"load {vector}, ptr {source}, align {size(pack.source)}")
        _put(f, pack, value, k)
    with f.when(f.let(f"xor i1 {full}, true")):
        mask = mask_below(f, pack.lanes, "%width")
        with f.loop(0, "%k") as k:
            source = f.at(_stored(pack.source), "%src", f.mul(k, "%k_stride"))
            _put(f, pack, masked_load(f, pack.source, pack.lanes, source, mask), k)


def _rows(pack: Pack) -> str:
    f = Function(
        f"define void @{pack.name}(ptr noalias readonly %src, i64 %k_stride, i64 %width, "
        "i64 %step, i64 %k, ptr noalias %dst, i64 %row, i64 %panel)"
    )
    kind, lanes = _stored(pack.source), pack.lanes
    vector = f"<{lanes} x {kind}>"
    panels = f.let(f"udiv i64 {f.add('%width', f.sub('%step', 1))}, %step")
    with f.loop(0, "%k") as k:
        source = f.at(kind, "%src", f.mul(k, "%k_stride"))
        target = f.at(pack.element, "%dst", f.mul(k, "%row"))
        with f.loop(0, panels) as p:
            first = f.mul(p, "%step")
            here = f.at(pack.element, target, f.mul(p, "%panel"))
            end = f.smaller(f.add(first, "%step"), "%width")
            with f.loop(first, end, lanes) as w:
                left = f.sub("%width", w)
                place = f.at(pack.element, here, f.sub(w, first))
                full = f.let(f"icmp sge i64 {left}, {lanes}")
                with f.when(full):
                    value = f.let(
                        f"load {vector}, ptr {f.at(kind, source, w)}, align {size(pack.source)}"
                    )
                    _put_at(f, pack, _converted(f, pack, lanes, value), place)
                with f.when(f.let(f"xor i1 {full}, true")):
                    mask = mask_below(f, lanes, left)
                    value = masked_load(f, pack.source, lanes, f.at(kind, source, w), mask)
                    _put_at(f, pack, _converted(f, pack, lanes, value), place)
    f.line("ret void")
    return f"{f}\n{declare_masked_load(pack.source, lanes)}"


def _transpose(f: Function, pack: Pack) -> None:
    """Squares of 128 bits from each of `lanes` columns. The last ones end with k, and so may do
    rows a second time; missing columns repeat the last one.
    """
    kind, side = _stored(pack.source), _side(pack)
    few = f.let(f"icmp slt i64 %k, {side}")
    with f.when(few):
        _strided(f, pack)
    with f.when(f.let(f"xor i1 {few}, true")):
        last = f.sub("%width", 1)
        columns = [f.mul(f.smaller(w, last), "%width_stride") for w in range(pack.lanes)]
        end = f.sub("%k", side)
        with f.loop(0, "%k", side) as start:
            k = f.smaller(start, end)
            here = f.at(kind, "%src", k)
            squares = []
            for column in columns:
                value = f.let(
                    f"load <{side} x {kind}>, ptr {f.at(kind, here, column)}, "
                    f"align {size(pack.source)}"
                )
                squares.append(_converted(f, pack, side, value))
            for i, value in enumerate(_transposed(f, pack, squares)):
                _put_converted(f, pack, value, f.add(k, i))


def _side(pack: Pack) -> int:
    """Elements of 128 bits: shuffles that stay inside these are the cheap ones on x86."""
    return min(pack.lanes, 16 // size(pack.element))


def _transposed(f: Function, pack: Pack, pieces: list[str]) -> list[str]:
    """From `lanes` vectors of `side` elements, `side` vectors of `lanes` elements."""
    lanes, side = pack.lanes, _side(pack)
    # Row i of every square in one vector, ...
    rows = [_joined(f, pack, pieces[i::side]) for i in range(side)]
    # ... then all squares at once: merging row i with row i + side/2, element by element, moves
    # the top bit of the row number to the bottom of the column number, and after log2(side)
    # merges the two have changed places.
    half, starts = side // 2, range(0, lanes, side)
    orders = [
        [at + i + x for at in starts for i in range(first, first + half) for x in (0, lanes)]
        for first in (0, half)
    ]
    for _ in range(side.bit_length() - 1):
        rows = [
            shuffle(f, pack.element, (rows[i], rows[i + half]), lanes, order)
            for i in range(half)
            for order in orders
        ]
    return rows


def _joined(f: Function, pack: Pack, pieces: list[str]) -> str:
    """Vectors one after the other in one vector."""
    lanes = pack.lanes // len(pieces)
    while len(pieces) > 1:
        pairs = zip(pieces[::2], pieces[1::2], strict=True)
        pieces = [shuffle(f, pack.element, pair, lanes, range(2 * lanes)) for pair in pairs]
        lanes *= 2
    return pieces[0]


def shuffle(
    f: Function, element: str, pair: tuple[str, str], lanes: int, order: Iterable[int]
) -> str:
    """The elements in `order` of two vectors of `lanes` elements."""
    places = [f"i32 {i}" for i in order]
    kind = f"<{lanes} x {element}>"
    mask = f"<{len(places)} x i32> <{', '.join(places)}>"
    return f.let(f"shufflevector {kind} {pair[0]}, {kind} {pair[1]}, {mask}")


def _strided(f: Function, pack: Pack) -> None:
    kind = _stored(pack.source)
    with f.loop(0, "%k") as k:
        source = f.at(kind, "%src", f.mul(k, "%k_stride"))
        target = f.at(pack.element, "%dst", f.mul(k, "%row"))
        with f.loop(0, "%width") as w:
            pointer = f.at(kind, source, f.mul(w, "%width_stride"))
            value = f.let(f"load {kind}, ptr {pointer}")
            value = _converted(f, pack, 1, value)
            f.line(f"store {pack.element} {value}, ptr {f.at(pack.element, target, w)}")


def _converted(f: Function, pack: Pack, lanes: int, value: str) -> str:
    """A value (a vector if lanes > 1) as loaded, in the type that the product is summed in."""

    def kind(scalar: str) -> str:
        return f"<{lanes} x {scalar}>" if lanes > 1 else scalar

    def constant(number: int) -> str:
        return f"splat (i32 {number})" if lanes > 1 else str(number)

    if pack.source == pack.element:
        return value
    if pack.source[0] == "i":
        return f.let(f"sext {kind(pack.source)} {value} to {kind(pack.element)}")
    wide = f.let(f"zext {kind('i16')} {value} to {kind('i32')}")
    if pack.source == "bfloat":  # the upper half of a float
        shifted = f.let(f"shl {kind('i32')} {wide}, {constant(16)}")
        return f.let(f"bitcast {kind('i32')} {shifted} to {kind('float')}")
    if pack.lanes > 4:  # machines with wider vectors have an instruction
        half = f.let(f"bitcast {kind('i16')} {value} to {kind('half')}")
        return f.let(f"fpext {kind('half')} {half} to {kind('float')}")
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
    name = f.let(f"insertelement <{lanes} x i64> poison, i64 {count}, i32 0")
    zeros = f"<{lanes} x i32> zeroinitializer"
    counts = f.let(f"shufflevector <{lanes} x i64> {name}, <{lanes} x i64> poison, {zeros}")
    numbers = ", ".join(f"i64 {i}" for i in range(lanes))
    return f.let(f"icmp ult <{lanes} x i64> <{numbers}>, {counts}")


def _stored(source: str) -> str:
    """The type that elements are loaded as: those of half precision as their bits."""
    return "i16" if source in ("bfloat", "half") else source


def _put(f: Function, pack: Pack, value: str, k: str) -> None:
    _put_converted(f, pack, _converted(f, pack, pack.lanes, value), k)


def _put_converted(f: Function, pack: Pack, value: str, k: str) -> None:
    _put_at(f, pack, value, f.at(pack.element, "%dst", f.mul(k, "%row")))


def _put_at(f: Function, pack: Pack, value: str, target: str) -> None:
    vector = f"<{pack.lanes} x {pack.element}>"
    f.line(f"store {vector} {value}, ptr {target}, align {size(pack.element)}")


def masked_load(f: Function, source: str, lanes: int, pointer: str, mask: str) -> str:
    """The elements of a vector that `mask` has; 0 for the others, which are not read."""
    vector = f"<{lanes} x {_stored(source)}>"
    return f.let(
        f"call {vector} @{_masked_load(source, lanes)}(ptr {pointer}, i32 {size(source)}, "
        f"<{lanes} x i1> {mask}, {vector} zeroinitializer)"
    )


def declare_masked_load(source: str, lanes: int) -> str:
    """The declaration that `masked_load` needs."""
    vector = f"<{lanes} x {_stored(source)}>"
    return f"declare {vector} @{_masked_load(source, lanes)}(ptr, i32, <{lanes} x i1>, {vector})\n"


def _masked_load(source: str, lanes: int) -> str:
    kind = _stored(source)
    return f"llvm.masked.load.v{lanes}{kind if kind[0] == 'i' else f'f{8 * size(kind)}'}.p0"
