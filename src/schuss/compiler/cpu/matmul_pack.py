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

# A transpose in registers needs lanes * log2(lanes) shuffles, written out: beyond this many
# lanes (of 1 and 2 bytes) elements are moved one at a time.
_LARGEST_TRANSPOSE = 16

SIGNATURE = "(ptr, i64, i64, i64, i64, ptr, i64)"


@dataclass(frozen=True)
class Pack:
    """A packing function from elements of type `source` to `element`; `mode` says which stride
    is 1: 'copy' that of the width, 'transpose' that of k, 'strided' neither.
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
    return f"declare void @{pack.name}{SIGNATURE}"


def definition(pack: Pack) -> str:
    """The module of a packing function.

        void name(src, width_stride, k_stride, width, k, dst, row)

    writes dst[kk * row + w] = src[w * width_stride + kk * k_stride] for w < width and kk < k.
    Elements of dst beyond `width`, up to `lanes`, may be overwritten with anything. 1 <= width <= lanes; nothing outside of the
    width x k elements of src is read.
    """
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


def _transpose(f: Function, pack: Pack) -> None:
    """Blocks of lanes x lanes. The last block ends with k, and so may do rows a second time;
    missing columns repeat the last one. Where there are fewer rows than lanes they are moved one
    element at a time.
    """
    lanes, kind = pack.lanes, _stored(pack.source)
    vector = f"<{lanes} x {kind}>"
    few = f.let(f"icmp slt i64 %k, {lanes}")
    with f.when(few):
        _strided(f, pack)
    with f.when(f.let(f"xor i1 {few}, true")):
        last = f.sub("%width", 1)
        columns = [f.mul(f.smaller(w, last), "%width_stride") for w in range(lanes)]
        end = f.sub("%k", lanes)
        with f.loop(0, "%k", lanes) as start:
            k = f.smaller(start, end)
            here = f.at(kind, "%src", k)
            block = []
            for column in columns:
                source = f.at(kind, here, column)
                value = f.let(f"load {vector}, ptr {source}, align {size(pack.source)}")
                block.append(convert(f, pack.source, pack.element, lanes, value))
            for i, value in enumerate(transposed(f, pack.element, block)):
                _put_converted(f, pack, value, f.add(k, i))


def _strided(f: Function, pack: Pack) -> None:
    kind = _stored(pack.source)
    with f.loop(0, "%k") as k:
        source = f.at(kind, "%src", f.mul(k, "%k_stride"))
        target = f.at(pack.element, "%dst", f.mul(k, "%row"))
        with f.loop(0, "%width") as w:
            pointer = f.at(kind, source, f.mul(w, "%width_stride"))
            value = f.let(f"load {kind}, ptr {pointer}")
            value = convert(f, pack.source, pack.element, 1, value)
            f.line(f"store {pack.element} {value}, ptr {f.at(pack.element, target, w)}")


def transposed(f: Function, element: str, rows: list[str]) -> list[str]:
    """The columns of a square block of vectors.

    Shuffles inside 128 bits, and of whole 128 bits, are the cheap ones on x86. So squares inside
    128 bits are transposed first, and then the matrix of these squares.
    """
    lanes = len(rows)
    kind = f"<{lanes} x {element}>"
    side = max(1, min(lanes, 16 // size(element)))  # of a small square

    def shuffle(x: str, y: str, order: Iterable[int]) -> str:
        places = ", ".join(f"i32 {i}" for i in order)
        return f.let(f"shufflevector {kind} {x}, {kind} {y}, <{lanes} x i32> <{places}>")

    # Merging row i with row i + side/2, element by element, moves the top bit of the row number
    # to the bottom of the column number; after log2(side) merges the two have changed places.
    half = side // 2
    groups = []
    for at in range(0, lanes, side):
        group = rows[at : at + side]
        for _ in range(side.bit_length() - 1):
            group = [
                shuffle(group[i], group[i + half], _merge(lanes, side, first))
                for i in range(half)
                for first in (0, half)
            ]
        groups.append(group)
    columns = [[group[q] for group in groups] for q in range(side)]
    # Taking the even and the odd squares of two rows moves bits the other way around.
    for q, column in enumerate(columns):
        for _ in range(len(groups).bit_length() - 1):
            column = [
                shuffle(column[i], column[i + 1], _every_other(lanes, side, odd))
                for odd in (0, 1)
                for i in range(0, len(column), 2)
            ]
        columns[q] = column
    return [columns[i % side][i // side] for i in range(lanes)]


def _merge(lanes: int, side: int, first: int) -> list[int]:
    """Elements first to first + side/2 of each square of two rows, alternating between them."""
    squares = range(0, lanes, side)
    return [at + first + i + x for at in squares for i in range(side // 2) for x in (0, lanes)]


def _every_other(lanes: int, side: int, odd: int) -> list[int]:
    """The even or the odd squares of two rows, one row after the other."""
    starts = range(odd * side, 2 * lanes, 2 * side)
    return [at + i for at in starts for i in range(side)]


def convert(f: Function, source: str, element: str, lanes: int, value: str) -> str:
    """A value (a vector if lanes > 1) as loaded, in the type that the product is summed in."""

    def kind(scalar: str) -> str:
        return f"<{lanes} x {scalar}>" if lanes > 1 else scalar

    if source == element:
        return value
    if source == "bfloat":  # the upper half of a float
        wide = f.let(f"zext {kind('i16')} {value} to {kind('i32')}")
        by = "splat (i32 16)" if lanes > 1 else "16"
        shifted = f.let(f"shl {kind('i32')} {wide}, {by}")
        return f.let(f"bitcast {kind('i32')} {shifted} to {kind('float')}")
    operation = "fpext" if source == "half" else "sext"
    return f.let(f"{operation} {kind(source)} {value} to {kind(element)}")


def mask_below(f: Function, lanes: int, count: str) -> str:
    """A mask of the first `count` elements."""
    name = f.let(f"insertelement <{lanes} x i64> poison, i64 {count}, i32 0")
    zeros = f"<{lanes} x i32> zeroinitializer"
    counts = f.let(f"shufflevector <{lanes} x i64> {name}, <{lanes} x i64> poison, {zeros}")
    numbers = ", ".join(f"i64 {i}" for i in range(lanes))
    return f.let(f"icmp ult <{lanes} x i64> <{numbers}>, {counts}")


def _stored(source: str) -> str:
    """The type that elements are loaded as: bfloat16 as its bits."""
    return "i16" if source == "bfloat" else source


def _put(f: Function, pack: Pack, value: str, k: str) -> None:
    _put_converted(f, pack, convert(f, pack.source, pack.element, pack.lanes, value), k)


def _put_converted(f: Function, pack: Pack, value: str, k: str) -> None:
    target = f.at(pack.element, "%dst", f.mul(k, "%row"))
    f.line(
        f"store <{pack.lanes} x {pack.element}> {value}, ptr {target}, align {size(pack.element)}"
    )


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
