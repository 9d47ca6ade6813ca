"""Packing for the matrix product: operands of any strides copied into panels.

A panel holds `width` (at most `lanes`) columns of a matrix with k rows, row by row: element (w, k)
at dst[k * row + w]. The micro-kernel reads it front to back. Packing also converts bfloat16,
float16 and small integers to the type that the product is summed in, or puts them together in pairs
(k, k + 1), for kernels that multiply those: a pair then counts as one element of 32 bits, and a
last k without a second one gets a zero. As micro-kernels, packing functions take strides at run
time and are compiled once for a machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from schuss.compiler.cpu.matmul_elements import (
    converted,
    declare_masked_load,
    load,
    mask_below,
    masked_load,
    size,
    stored,
    vector,
)
from schuss.compiler.cpu.matmul_pairs import paired
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
    several panels, which reads whole rows. With `pairs`, an `element` is a pair and an i32.
    """

    source: str
    element: str
    lanes: int
    mode: str
    pairs: bool = False

    @property
    def name(self) -> str:
        element = "pairs" if self.pairs else self.element
        return f"schuss_pack_{self.mode}_{self.source}_{element}{self.lanes}"


def choose(
    source: str, element: str, lanes: int, width_stride: int, k_stride: int, pairs: bool = False
) -> Pack:
    """The fastest packing function for a matrix with these strides."""
    if width_stride == 1:
        return Pack(source, element, lanes, "copy", pairs)
    if k_stride == 1 and lanes <= _LARGEST_TRANSPOSE:
        return Pack(source, element, lanes, "transpose", pairs)
    return Pack(source, element, lanes, "strided", pairs)


def declaration(pack: Pack) -> str:
    """The line with which a module refers to the function."""
    return f"declare void @{pack.name}{ROWS_SIGNATURE if pack.mode == 'rows' else SIGNATURE}"


def definition(pack: Pack) -> str:
    """The module of a packing function.

        void name(src, width_stride, k_stride, width, k, dst, row)

    writes dst[kk * row + w] = src[w * width_stride + kk * k_stride] for w < width and kk < k; with
    pairs dst[kk * row + w] is the pair of k = 2 kk and 2 kk + 1, and k still counts single elements
    of src. Elements of dst beyond `width`, up to `lanes`, may be overwritten with anything.
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


def _rows_of_panel(f: Function, pack: Pack) -> Iterator[tuple[str, bool]]:
    """A loop over the rows of a panel; False where a row of pairs has no second elements."""
    if not pack.pairs:
        with f.loop(0, "%k") as k:
            yield k, True
        return
    half = f.let("lshr i64 %k, 1")
    with f.loop(0, half) as k:
        yield k, True
    with f.when(f.let("trunc i64 %k to i1")):
        yield half, False


def _row(
    f: Function, pack: Pack, lanes: int, k: str, whole: bool, read: Callable[[str], str]
) -> str:
    """Elements of row k of a panel, of a matrix of whose row k `read` gives those as stored."""
    if not pack.pairs:
        return _converted(f, pack, lanes, read(k))
    wide = vector("i32", lanes)
    first = f.mul(k, 2)
    low = _zero_extended(f, pack, lanes, read(first))
    if not whole:
        return low
    high = _zero_extended(f, pack, lanes, read(f.add(first, 1)))
    high = f.let(f"shl {wide} {high}, {'splat (i32 16)' if lanes > 1 else 16}")
    return f.let(f"or {wide} {low}, {high}")


def _zero_extended(f: Function, pack: Pack, lanes: int, value: str) -> str:
    """Elements of pairs, each in the lower half of an i32."""
    value = _halves(f, pack, lanes, value)
    return f.let(f"zext {vector('i16', lanes)} {value} to {vector('i32', lanes)}")


def _halves(f: Function, pack: Pack, lanes: int, value: str) -> str:
    """Elements as stored in the 16 bits that they have in pairs."""
    if pack.source != "i8":
        return value
    return converted(f, pack.source, paired(pack.source), lanes, value, has_instruction=False)


def _converted(f: Function, pack: Pack, lanes: int, value: str) -> str:
    """Elements as loaded, in the type of the panel."""
    return converted(f, pack.source, pack.element, lanes, value, pack.lanes > 4)


def _copy(f: Function, pack: Pack) -> None:
    full = f.let(f"icmp eq i64 %width, {pack.lanes}")
    with f.when(full):
        for k, whole in _rows_of_panel(f, pack):
            _put(f, pack, _contiguous(f, pack, k, whole), k)
    with f.when(f.let(f"xor i1 {full}, true")):
        mask = mask_below(f, pack.lanes, "%width")
        for k, whole in _rows_of_panel(f, pack):
            _put(f, pack, _contiguous(f, pack, k, whole, mask=mask), k)


def _contiguous(
    f: Function, pack: Pack, k: str, whole: bool, column: str = "0", mask: str | None = None
) -> str:
    """Elements of row k of a panel that start at `column` of rows of the matrix."""

    def read(k: str) -> str:
        place = f.at(stored(pack.source), "%src", f.add(f.mul(k, "%k_stride"), column))
        if mask is None:
            return load(f, pack.source, pack.lanes, place)
        return masked_load(f, pack.source, pack.lanes, place, mask)

    return _row(f, pack, pack.lanes, k, whole, read)


def _rows(pack: Pack) -> str:
    f = Function(
        f"define void @{pack.name}(ptr noalias readonly %src, i64 %k_stride, i64 %width, "
        "i64 %step, i64 %k, ptr noalias %dst, i64 %row, i64 %panel)"
    )
    lanes = pack.lanes
    panels = f.let(f"udiv i64 {f.add('%width', f.sub('%step', 1))}, %step")
    for k, whole in _rows_of_panel(f, pack):
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
                    _put_at(f, pack, _contiguous(f, pack, k, whole, w), place)
                with f.when(f.let(f"xor i1 {full}, true")):
                    mask = mask_below(f, lanes, left)
                    _put_at(f, pack, _contiguous(f, pack, k, whole, w, mask), place)
    f.line("ret void")
    return f"{f}\n{declare_masked_load(pack.source, lanes)}"


def _transpose(f: Function, pack: Pack) -> None:
    """Squares of 128 bits from each of `lanes` columns. The last ones end with k, and so may do
    rows a second time; missing columns repeat the last one. A last k without a second one of a pair
    is left to another loop.
    """
    side, unit = _side(pack), 2 if pack.pairs else 1
    rows = f.let("lshr i64 %k, 1") if pack.pairs else "%k"
    few = f.let(f"icmp slt i64 {rows}, {side}")
    with f.when(few):
        _strided(f, pack)
    with f.when(f.let(f"xor i1 {few}, true")):
        last = f.sub("%width", 1)
        columns = [f.mul(f.smaller(w, last), "%width_stride") for w in range(pack.lanes)]
        end = f.sub(rows, side)
        with f.loop(0, rows, side) as start:
            k = f.smaller(start, end)
            here = f.at(stored(pack.source), "%src", f.mul(k, unit))
            squares = []
            for column in columns:
                place = f.at(stored(pack.source), here, column)
                squares.append(_square(f, pack, load(f, pack.source, side * unit, place)))
            for i, value in enumerate(_transposed(f, pack, squares)):
                _put(f, pack, value, f.add(k, i))
        if pack.pairs:
            with f.when(f.let("trunc i64 %k to i1")):
                _strided_row(f, pack, rows, whole=False)


def _square(f: Function, pack: Pack, value: str) -> str:
    """Elements of a column as loaded, as those of a panel."""
    side = _side(pack)
    if not pack.pairs:
        return _converted(f, pack, side, value)
    halves = _halves(f, pack, 2 * side, value)
    return f.let(f"bitcast <{2 * side} x i16> {halves} to <{side} x i32>")


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
    kind = f"<{lanes} x {stored(element)}>"
    mask = f"<{len(places)} x i32> <{', '.join(places)}>"
    return f.let(f"shufflevector {kind} {pair[0]}, {kind} {pair[1]}, {mask}")


def _strided(f: Function, pack: Pack) -> None:
    for k, whole in _rows_of_panel(f, pack):
        _strided_row(f, pack, k, whole)


def _strided_row(f: Function, pack: Pack, k: str, whole: bool) -> None:
    """One row of a panel, element by element."""
    target = f.at(stored(pack.element), "%dst", f.mul(k, "%row"))
    with f.loop(0, "%width") as w:

        def read(k: str) -> str:
            stride = "1" if pack.mode == "transpose" else "%k_stride"
            offset = f.add(f.mul(k, stride), f.mul(w, "%width_stride"))
            return load(f, pack.source, 1, f.at(stored(pack.source), "%src", offset))

        value = _row(f, pack, 1, k, whole, read)
        kind = stored(pack.element)
        f.line(f"store {kind} {value}, ptr {f.at(kind, target, w)}")


def _put(f: Function, pack: Pack, value: str, k: str) -> None:
    _put_at(f, pack, value, f.at(pack.element, "%dst", f.mul(k, "%row")))


def _put_at(f: Function, pack: Pack, value: str, target: str) -> None:
    kind = vector(stored(pack.element), pack.lanes)
    f.line(f"store {kind} {value}, ptr {target}, align {size(pack.element)}")
