"""The steps that the attention kernels are made of.

A block of queries is worked on with its scores turned over: the keys are rows, and the queries
(WIDTH of them) lie side by side in vectors. Maxima and sums over keys are then plain vector
arithmetic without any shuffling, and the products that read the scores broadcast elements that are
neighbours in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from schuss.compiler.cpu.attention_text import SIZES, Index, Matrix, Printer
from schuss.compiler.cpu.cascade import BLOCK

WIDTH = 32  # queries in a block
GROUP = 2  # vectors side by side in a register tile

_UNROLLED = 16  # vectors of a row, at most
# Sums that are known to have more terms are formed of sums of so many, whose rounding errors are
# smaller.
_LONG, _PIECE = 1024, 512

# span(row, height) -> (first, last): see `product`.
Span = Callable[[Index, int], tuple[Index, Index]]


# --- products ---


def tiles(count: int, largest: int) -> list[tuple[int, int, int]]:
    """`count` rows in tiles of nearly equal height: (first row, row behind the last, height)."""
    if count == 0:
        return []
    number = -(-count // largest)
    height, taller = divmod(count, number)
    middle = taller * (height + 1)
    parts = ((0, middle, height + 1), (middle, count, height))
    return [part for part in parts if part[0] < part[1]]


def tile_end(f: Printer, rows: int, row: Index) -> Index:
    """The first row behind the tile that row - 1 lies in."""
    end: Index = rows
    for start, stop, height in reversed(tiles(rows, f.machine.rows)):
        whole, _ = f.divide(f.add(f.sub(row, start), height - 1), height)
        here = f.add(f.mul(whole, height), start)
        end = f.choose(f.let(f"icmp sle i64 {row}, {stop}"), "i64", here, end)
    return end


def product(
    f: Printer, a: Matrix, b: Matrix, c: Matrix, *, rows: int, below: Index, columns: int,
    span: Span, add: bool = False,
) -> None:  # fmt: skip
    """c = a b, or c += a b, for the tiles of c that start above row `below`.

    Elements of a are broadcast, rows of b and c are vectors (`columns` counts elements and is a
    multiple of the lanes; c lies in scratch). `rows` is the height of c, which fixes the tiles.
    span(row, height) tells for the tile of `height` rows from `row` on over which columns of a and
    rows of b to sum: what lies outside is known to be 0.
    """
    element, lanes = f.machine.element, f.machine.lanes
    vectors = columns // lanes
    whole = vectors - vectors % GROUP
    groups = [(0, whole, GROUP)] if whole else []
    groups += [(whole, vectors, 1)] if vectors > whole else []
    for first, last, wide in groups:
        with f.loop(first, last, wide) as group:
            column = f.mul(group, lanes)
            right, out = (x.at(f.at(element, x.pointer, column)) for x in (b, c))
            for start, end, height in tiles(rows, f.machine.rows):
                with f.loop(start, f.smaller(end, below), height) as row:
                    k, stop = span(row, height)
                    left = f.from_row(f.from_row(a, row).turned, k).turned
                    target = f.from_row(out, row)
                    shape = height, wide
                    operands = left, f.from_row(right, k), target
                    _sum_tile(f, *operands, depth=f.sub(stop, k), shape=shape, add=add)


def _sum_tile(
    f: Printer, a: Matrix, b: Matrix, c: Matrix, *, depth: Index, shape: tuple[int, int], add: bool
) -> None:
    """A tile, whose sum is formed of several ones where it is known to have many terms."""

    def call(a: Matrix, b: Matrix, depth: Index, add: bool) -> None:
        name = _tile(f, a, b, c, *shape, add)
        f.line(f"call void @{name}(ptr {a.pointer}, ptr {b.pointer}, ptr {c.pointer}, i64 {depth})")

    if not str(depth).isdigit() or int(depth) <= _LONG:
        call(a, b, depth, add)
        return
    call(a, b, _PIECE, add)
    with f.loop(_PIECE, depth, _PIECE) as k:
        left, right = f.from_row(a.turned, k).turned, f.from_row(b, k)
        call(left, right, f.smaller(f.sub(depth, k), _PIECE), add=True)


def _tile(f: Printer, a: Matrix, b: Matrix, c: Matrix, height: int, wide: int, add: bool) -> str:
    """The function of a tile: (a, b, c, depth), the strides are part of it."""
    strides = (a.row, a.column, b.row, c.row)
    name = "_".join(["tile", a.kind, *map(str, (*strides, height, wide)), "add" if add else "set"])
    parameters = "ptr %a, ptr %b, ptr %c, i64 %depth"

    def body(f: Printer) -> None:
        _print_tile(f, a.at("%a"), b.at("%b"), c.at("%c"), height, wide, add)

    return f.helper(name, parameters, body)


def _print_tile(
    f: Printer, a: Matrix, b: Matrix, c: Matrix, height: int, wide: int, add: bool
) -> None:
    """`height` rows of `wide` vectors stay in registers while the sum over `%depth` runs.

    It is added to what was there in the end, so that rounding errors grow less with many blocks.
    """
    lanes = f.machine.lanes
    cells = [(r, v) for r in range(height) for v in range(wide)]
    place = {(r, v): f.add(f.mul(r, c.row), v * lanes) for r, v in cells}
    f.line("br label %head")
    f.label("head")
    for kind, name, first in [
        ("i64", "%k", "0"), ("ptr", "%ap", "%a"), ("ptr", "%bp", "%b"),
        *((f.vector, f"%c{r}.{v}", "zeroinitializer") for r, v in cells),
    ]:  # fmt: skip
        f.line(f"{name} = phi {kind} [{first}, %entry], [{name}.next, %body]")
    f.line("%more = icmp slt i64 %k, %depth")
    f.line("br i1 %more, label %body, label %end")
    f.label("body")
    line = [f.load("%bp", v * lanes, aligned=False) for v in range(wide)]
    for r in range(height):
        left = f.splat(f.element(a.at("%ap"), r, 0))
        for v in range(wide):
            f.line(f"%c{r}.{v}.next = {f.multiply_add(left, line[v], f'%c{r}.{v}')}")
    f.line("%k.next = add nsw i64 %k, 1")
    f.line(f"%ap.next = getelementptr {a.kind}, ptr %ap, i64 {a.column}")
    f.line(f"%bp.next = getelementptr {b.kind}, ptr %bp, i64 {b.row}")
    f.line("br label %head")
    f.label("end")
    for r, v in cells:
        total = f"%c{r}.{v}"
        if add:
            total = f.op("fadd", f.load("%c", place[r, v]), total)
        f.store(total, "%c", place[r, v])


# --- moving between the caller's layouts and scratch ---


def copy_rows(f: Printer, x: Matrix, to: str, rows: Index, columns: int) -> Matrix:
    """Rows of x, dense in scratch, each filled up with zeros to whole vectors."""
    element, width = f.machine.element, f.machine.padded(columns)
    with f.loop(0, rows) as row:
        source, target = f.from_row(x, row), f.at(element, to, f.mul(row, width))
        if x.column == 1:
            for start, count in _vectors(f, columns):
                address = f.at(x.kind, source.pointer, start)
                f.store(f.load_some(x.kind, address, count), target, start)
        else:
            clear(f, target, width)
            with f.loop(0, columns) as column:
                value = f.element(source, 0, column)
                f.line(f"store {element} {value}, ptr {f.at(element, target, column)}")
    return Matrix(to, width, 1, element)


def write_rows(
    f: Printer, x: Matrix, to: Matrix, rows: Index, columns: int, factors: str | None = None
) -> None:
    """Rows of x, which lies in scratch, to the caller; row i times factors[i], if given."""
    with f.loop(0, rows) as row:
        source, target = f.from_row(x, row), f.from_row(to, row)
        factor = None if factors is None else f.load_splat(factors, row)
        for start, count in _vectors(f, columns):
            value = f.load(source.pointer, start)
            if factor is not None:
                value = f.op("fmul", value, factor)
            if to.column == 1:
                f.store_some(to.kind, value, f.at(to.kind, target.pointer, start), count)
            else:
                _scatter(f, value, target, start, count)


def _vectors(f: Printer, columns: int) -> Iterator[tuple[Index, int]]:
    """The vectors of a row: where each starts, and how many elements it has. Few are unrolled."""
    lanes = f.machine.lanes
    whole = columns - columns % lanes
    if whole <= _UNROLLED * lanes:
        yield from ((start, lanes) for start in range(0, whole, lanes))
    else:
        with f.loop(0, whole, lanes) as start:
            yield start, lanes
    if columns > whole:
        yield whole, columns - whole


def _scatter(f: Printer, value: str, to: Matrix, start: Index, count: int) -> None:
    vector, value = f"<{f.machine.lanes} x {to.kind}>", f.rounded(value, to.kind)
    for lane in range(count):
        element = f.let(f"extractelement {vector} {value}, i64 {lane}")
        address = f.at(to.kind, to.pointer, f.mul(f.add(start, lane), to.column))
        f.line(f"store {to.kind} {element}, ptr {address}, align {SIZES[to.kind]}")


def turn(f: Printer, x: Matrix, to: str, count: Index, columns: int, factor: float = 1.0) -> Matrix:
    """x, `count` rows (at most WIDTH) of `columns`, turned over in scratch: (columns, WIDTH).

    Places behind the last row repeat it: they hold numbers of the same kind, never rubbish.
    """
    element, lanes = f.machine.element, f.machine.lanes
    last = f.sub(count, 1)
    if x.column != 1:
        with f.loop(0, columns) as column, f.loop(0, WIDTH) as row:
            value = f.element(x, f.smaller(row, last), column)
            value = f.let(f"fmul {element} {value}, {f.number(factor)}")
            place = f.at(element, to, f.add(f.mul(column, WIDTH), row))
            f.line(f"store {element} {value}, ptr {place}")
        return Matrix(to, WIDTH, 1, element)
    whole = columns - columns % lanes
    parts = [(0, whole, lanes)] if whole else []
    parts += [(whole, columns, columns - whole)] if columns > whole else []
    for first, end, wide in parts:
        name = f.helper(
            f"turn_{x.kind}_{wide}",
            f"ptr %x, i64 %stride, i64 %last, ptr %to, {element} %factor",
            partial(_print_turn, kind=x.kind, wide=wide),
        )
        with f.loop(0, WIDTH, lanes) as start, f.loop(first, end, wide) as column:
            source = f.at(x.kind, f.from_row(x, f.smaller(start, last)).pointer, column)
            target = f.at(element, to, f.add(f.mul(column, WIDTH), start))
            rest = f.positive(f.sub(last, start))
            f.line(f"call void @{name}(ptr {source}, i64 {x.row}, i64 {rest}, ptr {target}, "
                   f"{element} {f.number(factor)})")  # fmt: skip
    return Matrix(to, WIDTH, 1, element)


def _print_turn(f: Printer, kind: str, wide: int) -> None:
    """A square of `lanes` rows, of which rows behind `%last` repeat it, and `wide` columns.

    Rows and columns are exchanged by log2(lanes) rounds of pairwise shuffles.
    """
    lanes = f.machine.lanes
    square = []
    for lane in range(lanes):
        offset = f.mul(f.smaller(lane, "%last"), "%stride")
        square.append(f.load_some(kind, f.at(kind, "%x", offset), wide))
    half = lanes // 2
    while half:
        low = [n - half + lanes if n & half else n for n in range(lanes)]
        high = [n + lanes if n & half else n + half for n in range(lanes)]
        for i in range(lanes):
            if not i & half:
                x, y = square[i], square[i + half]
                square[i], square[i + half] = (f.shuffle(x, y, way) for way in (low, high))
        half //= 2
    factor = f.splat("%factor")
    for column in range(wide):
        f.store(f.op("fmul", square[column], factor), "%to", column * WIDTH)


def clear(f: Printer, pointer: str, count: Index) -> None:
    """`count` zeros, a multiple of the lanes."""
    with f.loop(0, count, f.machine.lanes) as place:
        f.store("zeroinitializer", pointer, place)


def rescale(f: Printer, x: Matrix, factors: str, columns: int) -> None:
    """Row i of x, WIDTH rows in scratch, times factors[i]."""
    with f.loop(0, WIDTH) as row:
        factor, pointer = f.load_splat(factors, row), f.from_row(x, row).pointer
        for start, _ in _vectors(f, columns):
            f.store(f.op("fmul", f.load(pointer, start), factor), pointer, start)


def add_up(f: Printer, parts: str, to: str, count: Index, number: int, apart: int) -> None:
    """The sum of `number` arrays of `count` elements, `apart` elements from each other."""
    with f.loop(0, count, f.machine.lanes) as place:
        f.store(f.load(parts, place), to, place)
        with f.loop(1, number) as part:
            more = f.load(parts, f.add(f.mul(part, apart), place))
            f.store(f.op("fadd", f.load(to, place), more), to, place)


# --- the softmax of a block of queries ---


@dataclass(frozen=True)
class Block:
    """Vectors that run along a block of queries: maxima, sums, ... They end up in registers."""

    slots: tuple[str, ...]

    def get(self, f: Printer) -> list[str]:
        return [f.let(f"load {f.vector}, ptr {slot}") for slot in self.slots]

    def set(self, f: Printer, values: list[str]) -> None:
        for slot, value in zip(self.slots, values, strict=True):
            f.line(f"store {f.vector} {value}, ptr {slot}")


def block(f: Printer) -> Block:
    """Room for such vectors; to be called at the start of a function."""
    return Block(tuple(f.let(f"alloca {f.vector}") for _ in range(WIDTH // f.machine.lanes)))


def largest(
    f: Printer, scores: str, keys: tuple[Index, Index], top: Block, *, query: Index | None,
    bias: Matrix | None, first_key: Index = 0,
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
        row = f.at(f.machine.element, scores, f.mul(key, WIDTH))
        values = []
        for place in range(0, WIDTH, f.machine.lanes):
            value = f.load(row, place)
            if bias is not None:
                value = f.op("fadd", value, _bias(f, bias, key, place))
            if query is not None:
                value = _cut(f, value, f.add(key, first_key), f.add(query, place))
            if bias is not None or query is not None:
                f.store(value, row, place)
            values.append(value)
        top.set(f, [f.larger(*pair) for pair in zip(values, top.get(f), strict=True)])


def _bias(f: Printer, bias: Matrix, key: str, place: int) -> str:
    if bias.column == 1:
        return f.load(f.from_row(bias, key).pointer, place)
    return f.splat(f.element(bias, key, 0))


def _cut(f: Printer, value: str, key: Index, query: Index) -> str:
    """-inf in the lanes whose query comes before the key."""
    ahead = f.splat(f.let(f"trunc i64 {f.sub(key, query)} to i32"), "i32")
    lanes = ", ".join(f"i32 {lane}" for lane in range(f.machine.lanes))
    hidden = f.let(f"icmp sgt <{f.machine.lanes} x i32> {ahead}, <{lanes}>")
    return f.where(hidden, f.constant(float("-inf")), value)


def powers(f: Printer, scores: str, keys: Index, top: Block, some: Block, total: Block) -> None:
    """The first `keys` rows of scores become exp(score - top), and are added to `total`: so many
    at a time in `some`.
    """
    tops = top.get(f)
    with f.loop(0, keys, BLOCK) as first:
        some.set(f, ["zeroinitializer"] * len(some.slots))
        with f.loop(first, f.smaller(f.add(first, BLOCK), keys)) as key:
            row = f.at(f.machine.element, scores, f.mul(key, WIDTH))
            sums = some.get(f)
            for v, place in enumerate(range(0, WIDTH, f.machine.lanes)):
                power = f.exp(f.op("fsub", f.load(row, place), tops[v]))
                f.store(power, row, place)
                sums[v] = f.op("fadd", sums[v], power)
            some.set(f, sums)
        pairs = zip(total.get(f), some.get(f), strict=True)
        total.set(f, [f.op("fadd", one, other) for one, other in pairs])


def inverses(f: Printer, total: Block) -> list[str]:
    """1 / total, and 0 where the total is 0: queries that no key counts for."""
    return [
        f.where(
            f.op("fcmp oeq", value, "zeroinitializer"),
            "zeroinitializer",
            f.op("fdiv", f.constant(1.0), value),
        )
        for value in total.get(f)
    ]


def slopes(
    f: Printer, weights: str, towards: str, keys: Index, inverse: list[str], dots: Block
) -> None:
    """Weights become P = weights * inverse, and `towards` (dP) becomes dS = P * (dP - dots)."""
    subtracted = dots.get(f)
    with f.loop(0, keys) as key:
        row = f.mul(key, WIDTH)
        upper, lower = (f.at(f.machine.element, x, row) for x in (weights, towards))
        for v, place in enumerate(range(0, WIDTH, f.machine.lanes)):
            weight = f.op("fmul", f.load(upper, place), inverse[v])
            f.store(weight, upper, place)
            slope = f.op("fsub", f.load(lower, place), subtracted[v])
            f.store(f.op("fmul", slope, weight), lower, place)


def dot_columns(f: Printer, x: str, y: str, rows: int, to: Block) -> None:
    """The dot products of the columns of two (rows, WIDTH) matrices in scratch."""
    to.set(f, ["zeroinitializer"] * len(to.slots))
    with f.loop(0, rows) as row:
        left, right = (f.at(f.machine.element, z, f.mul(row, WIDTH)) for z in (x, y))
        sums = to.get(f)
        for v, place in enumerate(range(0, WIDTH, f.machine.lanes)):
            product = f.multiply_add(f.load(left, place), f.load(right, place), sums[v])
            sums[v] = f.let(product)
        to.set(f, sums)
