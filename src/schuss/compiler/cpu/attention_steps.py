"""The steps that the attention kernels are made of, each printed into the kernel's one function.

A block of queries is worked on with its scores turned over: the keys are rows, and the queries
(WIDTH of them) lie side by side in vectors. Maxima and sums over keys are then plain vector
arithmetic without any shuffling, and both products that read the scores broadcast elements that
are neighbours in memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from schuss.compiler.cpu.matmul_text import Function

WIDTH = 32  # queries in a block
GROUP = 2  # vectors side by side in a register tile

Index = str | int


@dataclass(frozen=True)
class Machine:
    """What the steps compute with.

    Attributes:
        element: the LLVM type of all arithmetic, "float" or "double".
        lanes: its elements in a vector.
        rows: rows of a register tile, each of `GROUP` vectors.
        exp: the name of the vector function.
    """

    element: str
    lanes: int
    rows: int
    exp: str

    @property
    def vector(self) -> str:
        return f"<{self.lanes} x {self.element}>"

    @property
    def suffix(self) -> str:
        """How intrinsics name the vector type."""
        return f"v{self.lanes}f{8 * self.size}"

    @property
    def size(self) -> int:
        return SIZES[self.element]

    @property
    def width(self) -> int:
        """Vectors that hold a block of queries."""
        return WIDTH // self.lanes

    def padded(self, n: int) -> int:
        """n rounded up to whole vectors."""
        return -(-n // self.lanes) * self.lanes


SIZES = {"float": 4, "double": 8, "half": 2, "bfloat": 2}


@dataclass(frozen=True)
class Matrix:
    """A matrix in memory: strides count elements of the LLVM type `kind`."""

    pointer: str
    row: int
    column: int
    kind: str

    def moved(self, f: Function, row: Index) -> Matrix:
        """The same from a later row on."""
        pointer = f.at(self.kind, self.pointer, f.mul(row, self.row))
        return Matrix(pointer, self.row, self.column, self.kind)

    def turned(self) -> Matrix:
        """The same with rows and columns exchanged."""
        return Matrix(self.pointer, self.column, self.row, self.kind)


def tiles(count: int, largest: int) -> list[tuple[int, int, int]]:
    """`count` rows in tiles of nearly equal height: (first row, row behind the last, height)."""
    if count == 0:
        return []
    number = -(-count // largest)
    height, taller = divmod(count, number)
    middle = taller * (height + 1)
    return [
        part
        for part in ((0, middle, height + 1), (middle, count, height))
        if part[0] < part[1]
    ]  # fmt: skip


def tile_end(count: int, largest: int, row: int) -> int:
    """The row behind the tile that ends at `row` or contains the row before it."""
    for start, stop, height in tiles(count, largest):
        if row <= stop:
            return start + -(-(row - start) // height) * height
    return count


# --- vectors ---


def splat(f: Function, m: Machine, scalar: str) -> str:
    """A vector of one scalar."""
    first = f.let(f"insertelement {m.vector} poison, {m.element} {scalar}, i64 0")
    zeros = f"<{m.lanes} x i32> zeroinitializer"
    return f.let(f"shufflevector {m.vector} {first}, {m.vector} poison, {zeros}")


def number(m: Machine, value: float) -> str:
    """A constant of the machine's element type."""
    rounded = value if m.element == "double" else struct.unpack("<f", struct.pack("<f", value))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"


def constant(m: Machine, value: float) -> str:
    """A vector of one constant."""
    return f"splat ({m.element} {number(m, value)})"


def load(f: Function, m: Machine, pointer: str, index: Index = 0, whole: bool = True) -> str:
    """A vector; `whole` where the address is that of a whole vector in scratch."""
    align = m.size * (m.lanes if whole else 1)
    return f.let(f"load {m.vector}, ptr {f.at(m.element, pointer, index)}, align {align}")


def store(f: Function, m: Machine, value: str, pointer: str, index: Index = 0) -> None:
    """A whole vector to scratch."""
    address = f.at(m.element, pointer, index)
    f.line(f"store {m.vector} {value}, ptr {address}, align {m.size * m.lanes}")


def multiply_add(m: Machine, x: str, y: str, z: str) -> str:
    """The expression x * y + z."""
    # fmuladd, not fma: where the machine has no fused instruction it is a product and a sum.
    name = f"@llvm.fmuladd.{m.suffix}"
    return f"call {m.vector} {name}({m.vector} {x}, {m.vector} {y}, {m.vector} {z})"


def scalar_at(f: Function, m: Machine, x: Matrix, row: Index, column: Index) -> str:
    """One element, in the type that is computed in."""
    place = f.add(f.mul(row, x.row), f.mul(column, x.column))
    value = f.let(f"load {x.kind}, ptr {f.at(x.kind, x.pointer, place)}, align {SIZES[x.kind]}")
    return value if x.kind == m.element else f.let(f"fpext {x.kind} {value} to {m.element}")


def _flags(m: Machine, count: int) -> str:
    bits = ", ".join(f"i1 {int(lane < count)}" for lane in range(m.lanes))
    return f"<{bits}>"


def load_some(f: Function, m: Machine, kind: str, pointer: str, count: int) -> str:
    """The first `count` elements at an address and zeros behind them, as a computed vector."""
    vector = f"<{m.lanes} x {kind}>"
    if count >= m.lanes:
        value = f.let(f"load {vector}, ptr {pointer}, align {SIZES[kind]}")
    else:
        name = f"@llvm.masked.load.v{m.lanes}{_suffix(kind)}.p0"
        mask = f"<{m.lanes} x i1> {_flags(m, count)}"
        value = f.let(f"call {vector} {name}(ptr align {SIZES[kind]} {pointer}, {mask}, "
                      f"{vector} zeroinitializer)")  # fmt: skip
    return value if kind == m.element else f.let(f"fpext {vector} {value} to {m.vector}")


def store_some(f: Function, m: Machine, kind: str, value: str, pointer: str, count: int) -> None:
    """The first `count` elements of a computed vector to an address, rounded to `kind`."""
    vector = f"<{m.lanes} x {kind}>"
    if kind != m.element:
        value = f.let(f"fptrunc {m.vector} {value} to {vector}")
    if count >= m.lanes:
        f.line(f"store {vector} {value}, ptr {pointer}, align {SIZES[kind]}")
    else:
        name = f"@llvm.masked.store.v{m.lanes}{_suffix(kind)}.p0"
        mask = f"<{m.lanes} x i1> {_flags(m, count)}"
        f.line(f"call void {name}({vector} {value}, ptr align {SIZES[kind]} {pointer}, {mask})")


def _suffix(kind: str) -> str:
    return "bf16" if kind == "bfloat" else f"f{8 * SIZES[kind]}"


def declarations(m: Machine, kind: str) -> set[str]:
    """The intrinsics that the steps call, for arrays of the LLVM type `kind`."""
    vector, flags = f"<{m.lanes} x {kind}>", f"<{m.lanes} x i1>"
    masked = f"v{m.lanes}{_suffix(kind)}.p0"
    return {
        "declare i64 @llvm.smin.i64(i64, i64)",
        "declare i64 @llvm.smax.i64(i64, i64)",
        f"declare {m.vector} @llvm.fmuladd.{m.suffix}({m.vector}, {m.vector}, {m.vector})",
        f"declare {vector} @llvm.masked.load.{masked}(ptr, {flags}, {vector})",
        f"declare void @llvm.masked.store.{masked}({vector}, ptr, {flags})",
    }


# --- products ---


Span = Callable[[Index, int], tuple[Index, Index]]


def product(
    f: Function, m: Machine, a: Matrix, b: Matrix, c: Matrix, *, rows: int, below: Index,
    columns: int, span: Span, add: bool = False,
) -> None:  # fmt: skip
    """c = a b, or c += a b, for the tiles of c that start above row `below`.

    Elements of a are broadcast, rows of b and c are vectors (`columns` counts elements and is a
    multiple of the lanes; c lies in scratch). `rows` is the height of c, which fixes the tiles.
    span(row, height) -> (first, last) tells for the tile of `height` rows from `row` on over
    which columns of a and rows of b to sum: what lies outside is known to be 0.
    """
    vectors = columns // m.lanes
    whole = vectors - vectors % GROUP
    groups = [(0, whole, GROUP)] if whole else []
    groups += [(whole, vectors, 1)] if vectors > whole else []
    for first, last, wide in groups:
        with f.loop(first, last, wide) as group:
            column = f.mul(group, m.lanes)
            right = Matrix(f.at(m.element, b.pointer, column), b.row, 1, m.element)
            out = Matrix(f.at(m.element, c.pointer, column), c.row, 1, m.element)
            for start, end, height in tiles(rows, m.rows):
                with f.loop(start, f.smaller(end, below), height) as row:
                    tile = (a.moved(f, row), right, out.moved(f, row))
                    _tile(f, m, *tile, height=height, wide=wide, span=span(row, height), add=add)


def _tile(
    f: Function, m: Machine, a: Matrix, b: Matrix, c: Matrix, *, height: int, wide: int,
    span: tuple[Index, Index], add: bool,
) -> None:  # fmt: skip
    """`height` rows of `wide` vectors, held in registers while the sum over `span` runs."""
    first, last = span
    a, b = a.turned().moved(f, first).turned(), b.moved(f, first)
    cells = [(r, v) for r in range(height) for v in range(wide)]
    place = {(r, v): f.add(f.mul(r, c.row), v * m.lanes) for r, v in cells}
    start = {
        cell: load(f, m, c.pointer, place[cell]) if add else "zeroinitializer" for cell in cells
    }
    name, before = f.fresh("tile"), f.block
    total = {(r, v): f"%{name}.c{r}.{v}" for r, v in cells}
    f.line(f"br label %{name}.head")
    f.label(f"{name}.head")
    _phi(f, "i64", f"%{name}.k", str(first), before, name)
    for which, x in (("a", a), ("b", b)):
        _phi(f, "ptr", f"%{name}.{which}", x.pointer, before, name)
    for cell in cells:
        _phi(f, m.vector, total[cell], start[cell], before, name)
    f.line(f"%{name}.more = icmp slt i64 %{name}.k, {last}")
    f.line(f"br i1 %{name}.more, label %{name}.body, label %{name}.end")
    f.label(f"{name}.body")
    line = [load(f, m, f"%{name}.b", v * m.lanes, whole=False) for v in range(wide)]
    column = Matrix(f"%{name}.a", a.row, a.column, a.kind)
    for r in range(height):
        left = splat(f, m, scalar_at(f, m, column, r, 0))
        for v in range(wide):
            f.line(f"{total[r, v]}.next = {multiply_add(m, left, line[v], total[r, v])}")
    f.line(f"%{name}.k.next = add nsw i64 %{name}.k, 1")
    f.line(f"%{name}.a.next = getelementptr {a.kind}, ptr %{name}.a, i64 {a.column}")
    f.line(f"%{name}.b.next = getelementptr {m.element}, ptr %{name}.b, i64 {b.row}")
    f.line(f"br label %{name}.head")
    f.label(f"{name}.end")
    for cell in cells:
        store(f, m, total[cell], c.pointer, place[cell])


def _phi(f: Function, kind: str, name: str, first: str, before: str, loop: str) -> None:
    f.line(f"{name} = phi {kind} [{first}, %{before}], [{name}.next, %{loop}.body]")


# --- moving between the caller's layouts and scratch ---


def copy_rows(f: Function, m: Machine, x: Matrix, to: str, rows: Index, columns: int) -> Matrix:
    """Rows of x, dense in scratch, each filled up with zeros to whole vectors."""
    width = m.padded(columns)
    with f.loop(0, rows) as row:
        source, target = x.moved(f, row), f.at(m.element, to, f.mul(row, width))
        if x.column == 1:
            for start in range(0, columns, m.lanes):
                pointer = f.at(x.kind, source.pointer, start)
                value = load_some(f, m, x.kind, pointer, columns - start)
                store(f, m, value, target, start)
        else:
            for start in range(0, width, m.lanes):
                store(f, m, "zeroinitializer", target, start)
            with f.loop(0, columns) as column:
                value = scalar_at(f, m, source, 0, column)
                f.line(f"store {m.element} {value}, ptr {f.at(m.element, target, column)}")
    return Matrix(to, width, 1, m.element)


def write_rows(
    f: Function, m: Machine, x: Matrix, to: Matrix, rows: Index, columns: int, factors: str | None
) -> None:
    """Rows of x, which lies in scratch, to the caller; row i times factors[i], if given."""
    with f.loop(0, rows) as row:
        source, target = x.moved(f, row), to.moved(f, row)
        factor = None
        if factors is not None:
            address = f.at(m.element, factors, row)
            factor = splat(f, m, f.let(f"load {m.element}, ptr {address}"))
        for start in range(0, columns, m.lanes):
            value = load(f, m, source.pointer, start)
            if factor is not None:
                value = f.let(f"fmul {m.vector} {value}, {factor}")
            count = min(m.lanes, columns - start)
            if to.column == 1:
                store_some(f, m, to.kind, value, f.at(to.kind, target.pointer, start), count)
            else:
                _scatter(f, m, value, target, start, count)


def _scatter(f: Function, m: Machine, value: str, to: Matrix, start: int, count: int) -> None:
    for lane in range(count):
        element = f.let(f"extractelement {m.vector} {value}, i64 {lane}")
        if to.kind != m.element:
            element = f.let(f"fptrunc {m.element} {element} to {to.kind}")
        address = f.at(to.kind, to.pointer, (start + lane) * to.column)
        f.line(f"store {to.kind} {element}, ptr {address}, align {SIZES[to.kind]}")


def turn(
    f: Function, m: Machine, x: Matrix, to: str, count: Index, columns: int, factor: float = 1.0
) -> Matrix:
    """x, `count` rows (at most WIDTH) of `columns`, turned over in scratch: (columns, WIDTH).

    Places behind the last row repeat it: they hold numbers of the same kind, never rubbish.
    """
    last = f.sub(count, 1)
    if x.column != 1:
        with f.loop(0, columns) as column, f.loop(0, WIDTH) as row:
            value = scalar_at(f, m, x, f.smaller(row, last), column)
            value = f.let(f"fmul {m.element} {value}, {number(m, factor)}")
            place = f.at(m.element, to, f.add(f.mul(column, WIDTH), row))
            f.line(f"store {m.element} {value}, ptr {place}")
        return Matrix(to, WIDTH, 1, m.element)
    whole = columns // m.lanes
    parts = [(0, whole, m.lanes)] if whole else []
    parts += [(whole, whole + 1, columns % m.lanes)] if columns % m.lanes else []
    with f.loop(0, WIDTH, m.lanes) as start:
        rows = [x.moved(f, f.smaller(f.add(start, lane), last)).pointer for lane in range(m.lanes)]
        for first, end, wide in parts:
            with f.loop(first, end) as part:
                column = f.mul(part, m.lanes)
                _turn_square(f, m, x.kind, rows, to, start, column, wide, factor)
    return Matrix(to, WIDTH, 1, m.element)


def _turn_square(
    f: Function, m: Machine, kind: str, rows: list[str], to: str, start: str, column: str,
    wide: int, factor: float,
) -> None:  # fmt: skip
    """Exchange rows and columns of a square by log2(lanes) rounds of pairwise shuffles."""
    square = [load_some(f, m, kind, f.at(kind, row, column), wide) for row in rows]
    half = m.lanes // 2
    while half:
        low = [n - half + m.lanes if n & half else n for n in range(m.lanes)]
        high = [n + m.lanes if n & half else n + half for n in range(m.lanes)]
        for i in range(m.lanes):
            if not i & half:
                x, y = square[i], square[i + half]
                square[i], square[i + half] = (_shuffle(f, m, x, y, way) for way in (low, high))
        half //= 2
    for c in range(wide):
        value = square[c]
        if factor != 1.0:
            value = f.let(f"fmul {m.vector} {value}, {constant(m, factor)}")
        store(f, m, value, to, f.add(f.mul(f.add(column, c), WIDTH), start))


def _shuffle(f: Function, m: Machine, x: str, y: str, lanes: list[int]) -> str:
    listed = ", ".join(f"i32 {lane}" for lane in lanes)
    vectors = f"{m.vector} {x}, {m.vector} {y}"
    return f.let(f"shufflevector {vectors}, <{m.lanes} x i32> <{listed}>")


# --- the softmax of a block of queries ---


@dataclass(frozen=True)
class Block:
    """Vectors that run along a block of queries, one stack slot for each: a maximum, a sum, ..."""

    slots: tuple[str, ...]

    def get(self, f: Function, m: Machine) -> list[str]:
        return [f.let(f"load {m.vector}, ptr {slot}") for slot in self.slots]

    def set(self, f: Function, m: Machine, values: list[str]) -> None:
        for slot, value in zip(self.slots, values, strict=True):
            f.line(f"store {m.vector} {value}, ptr {slot}")


def block(f: Function, m: Machine) -> Block:
    """Room for such vectors; to be called at the start of a function."""
    return Block(tuple(f.let(f"alloca {m.vector}") for _ in range(m.width)))


def largest(
    f: Function, m: Machine, scores: str, keys: tuple[Index, Index], top: Block, *,
    query: Index | None, bias: Matrix | None, first_key: Index = 0,
) -> None:  # fmt: skip
    """Raise `top` to the largest score of each query over some keys, after bias and causal cut.

    Args:
        scores: (keys, WIDTH) in scratch; bias and cut are written back to it.
        keys: the rows from, and up to, which it works.
        query: the number of the first query of the block, where later keys do not count.
        bias: (keys, WIDTH), or (keys, 1) where all queries share it; row stride 0 where keys do.
        first_key: the number of the key in row 0.
    """
    with f.loop(*keys) as key:
        row = f.at(m.element, scores, f.mul(key, WIDTH))
        values = [load(f, m, row, v * m.lanes) for v in range(m.width)]
        if bias is not None:
            values = [
                f.let(f"fadd {m.vector} {value}, {_bias(f, m, bias, key, v)}")
                for v, value in enumerate(values)
            ]
        if query is not None:
            number_of_key = f.add(key, first_key)
            values = [
                _cut(f, m, value, number_of_key, f.add(query, v * m.lanes))
                for v, value in enumerate(values)
            ]
        if bias is not None or query is not None:
            for v, value in enumerate(values):
                store(f, m, value, row, v * m.lanes)
        tops = top.get(f, m)
        top.set(f, m, [maximum(f, m, a, b) for a, b in zip(values, tops, strict=True)])


def maximum(f: Function, m: Machine, x: str, y: str) -> str:
    """The larger; y where x is NaN."""
    more = f.let(f"fcmp ogt {m.vector} {x}, {y}")
    return f.let(f"select <{m.lanes} x i1> {more}, {m.vector} {x}, {m.vector} {y}")


def _bias(f: Function, m: Machine, bias: Matrix, key: str, v: int) -> str:
    if bias.column == 1:
        return load(f, m, bias.moved(f, key).pointer, v * m.lanes)
    return splat(f, m, scalar_at(f, m, bias, key, 0))


def _cut(f: Function, m: Machine, value: str, key: str, query: str) -> str:
    """-inf in the lanes whose query comes before the key."""
    ahead = f.let(f"trunc i64 {f.sub(key, query)} to i32")
    integers = f"<{m.lanes} x i32>"
    first = f.let(f"insertelement {integers} poison, i32 {ahead}, i64 0")
    vectors = f"{integers} {first}, {integers} poison"
    spread = f.let(f"shufflevector {vectors}, {integers} zeroinitializer")
    lanes = ", ".join(f"i32 {lane}" for lane in range(m.lanes))
    hidden = f.let(f"icmp sgt {integers} {spread}, <{lanes}>")
    infinity = constant(m, float("-inf"))
    return f.let(f"select <{m.lanes} x i1> {hidden}, {m.vector} {infinity}, {m.vector} {value}")


def powers(
    f: Function, m: Machine, scores: str, keys: tuple[Index, Index], top: Block, total: Block
) -> None:
    """Scores become exp(score - top), and are added to `total`."""
    tops = top.get(f, m)
    with f.loop(*keys) as key:
        row = f.at(m.element, scores, f.mul(key, WIDTH))
        sums = total.get(f, m)
        for v in range(m.width):
            below = f.let(f"fsub {m.vector} {load(f, m, row, v * m.lanes)}, {tops[v]}")
            power = f.let(f"call {m.vector} {m.exp}({m.vector} {below})")
            store(f, m, power, row, v * m.lanes)
            sums[v] = f.let(f"fadd {m.vector} {sums[v]}, {power}")
        total.set(f, m, sums)


def inverses(f: Function, m: Machine, total: Block) -> list[str]:
    """1 / total, and 0 where the total is 0: queries that no key counts for."""
    found = []
    for value in total.get(f, m):
        inverse = f.let(f"fdiv {m.vector} {constant(m, 1.0)}, {value}")
        empty = f.let(f"fcmp oeq {m.vector} {value}, zeroinitializer")
        zero = f"{m.vector} zeroinitializer"
        found.append(f.let(f"select <{m.lanes} x i1> {empty}, {zero}, {m.vector} {inverse}"))
    return found


def rescale(f: Function, m: Machine, x: Matrix, factors: str, columns: int) -> None:
    """Row i of x, WIDTH rows in scratch, times factors[i]."""
    with f.loop(0, WIDTH) as row:
        factor = splat(f, m, f.let(f"load {m.element}, ptr {f.at(m.element, factors, row)}"))
        place = x.moved(f, row).pointer
        for start in range(0, columns, m.lanes):
            value = f.let(f"fmul {m.vector} {load(f, m, place, start)}, {factor}")
            store(f, m, value, place, start)


def clear(f: Function, m: Machine, pointer: str, count: int) -> None:
    """`count` zeros, a multiple of the lanes."""
    with f.loop(0, count, m.lanes) as place:
        store(f, m, "zeroinitializer", pointer, place)


def slopes(
    f: Function, m: Machine, weights: str, towards: str, keys: Index, inverse: list[str],
    dots: Block,
) -> None:  # fmt: skip
    """Weights become P = weights * inverse, and `towards` (dP) becomes dS = P * (dP - dots)."""
    subtracted = dots.get(f, m)
    with f.loop(0, keys) as key:
        place = f.mul(key, WIDTH)
        upper, lower = f.at(m.element, weights, place), f.at(m.element, towards, place)
        for v in range(m.width):
            at = v * m.lanes
            weight = f.let(f"fmul {m.vector} {load(f, m, upper, at)}, {inverse[v]}")
            store(f, m, weight, upper, at)
            slope = f.let(f"fsub {m.vector} {load(f, m, lower, at)}, {subtracted[v]}")
            store(f, m, f.let(f"fmul {m.vector} {slope}, {weight}"), lower, at)


def dot_columns(f: Function, m: Machine, x: str, y: str, rows: int, to: Block) -> None:
    """The dot products of the columns of two (rows, WIDTH) matrices in scratch."""
    to.set(f, m, ["zeroinitializer"] * m.width)
    with f.loop(0, rows) as row:
        place = f.mul(row, WIDTH)
        left, right = f.at(m.element, x, place), f.at(m.element, y, place)
        sums = to.get(f, m)
        for v in range(m.width):
            a, b = (load(f, m, each, v * m.lanes) for each in (left, right))
            sums[v] = f.let(multiply_add(m, a, b, sums[v]))
        to.set(f, m, sums)


def add_up(
    f: Function, m: Machine, parts: str, to: str, count: Index, number: int, apart: int
) -> None:
    """The sum of `number` arrays of `count` elements, `apart` elements from each other."""
    with f.loop(0, count, m.lanes) as place:
        store(f, m, load(f, m, parts, place), to, place)
        with f.loop(1, number) as part:
            more = load(f, m, parts, f.add(f.mul(part, apart), place))
            total = f.let(f"fadd {m.vector} {load(f, m, to, place)}, {more}")
            store(f, m, total, to, place)
