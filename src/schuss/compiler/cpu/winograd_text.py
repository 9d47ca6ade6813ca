"""Tiles of images for minimal filtering, and the transforms of what lies in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from schuss.compiler.cpu.convolution_plan import Convolution
from schuss.compiler.cpu.convolution_text import zeros
from schuss.compiler.cpu.matmul_elements import converted, load
from schuss.compiler.cpu.matmul_plan import ALIGN, ceil_div
from schuss.compiler.cpu.matmul_text import Function
from schuss.compiler.cpu.winograd_filter import Filter, Matrix, both_ways

BYTES = 4  # of what is transformed: float32

# (name, lanes) -> text of a function that computes vectors of an operand (epilogue.py).
PrintPrologue = Callable[[str, int], str]


class Form(NamedTuple):
    """How transformed tiles lie in memory: a plane for each tap, of blocks of rows, one row for a
    tile, with as many channels as fit into a row; in elements.
    """

    plane: int
    block: int
    row: int


class _Image(NamedTuple):
    """An operand that is transformed: its number, the position of the first tile's corner, sizes,
    strides of images, rows and columns, and channels.
    """

    name: str
    number: int
    lows: tuple[int, int]
    sizes: tuple[int, int]
    strides: tuple[int, int, int]
    channels: int


class Tiles:
    """The tiles of a convolution with kernels of 3 x 3: each gives a square of outputs, from a
    square of positions of the input that is larger by 2.
    """

    def __init__(
        self, c: Convolution, filter: Filter, lanes: int,
        prologues: Sequence[PrintPrologue | None] = (None, None),
    ) -> None:  # fmt: skip
        self.c, self.filter, self.lanes, self.prologues = c, filter, lanes, prologues
        self.down, self.across = (ceil_div(axis.outputs, filter.outputs) for axis in c.axes[1:])
        self.count = c.images * self.down * self.across
        self.kind = f"<{lanes} x float>"

    def place(self, f: Function, tile: str) -> tuple[str, str, str]:
        """The image of a tile, and its place there."""
        image, rest = f.divide(tile, self.down * self.across)
        return image, *f.divide(rest, self.across)

    def of_input(self, form: Form) -> str:
        """The function @of_input, which makes B^T d B of the positions d of the input."""
        c, (_, height, width) = self.c, self.c.axes
        x = _Image(
            "of_input", 0, (height.lowest, width.lowest), (height.size, width.size),
            (c.x_strides[0], *c.x_strides[2:4]), c.channels,
        )  # fmt: skip
        return self._transform(x, self.filter.b_transposed, form)

    def of_gradient(self, strides: tuple[int, int, int], form: Form) -> str:
        """The function @of_gradient: A g A^T of the positions g of the output's gradient.

        `strides` are those of images, rows and columns.
        """
        sizes = self.c.axes[1].outputs, self.c.axes[2].outputs
        g = _Image("of_gradient", 1, (0, 0), sizes, strides, self.c.outputs)
        return self._transform(g, self.filter.a, form)

    def transform(
        self, f: Function, number: int, tiles: tuple[str, str], to: str, room: str
    ) -> None:
        """Call the function for the first or the second operand, on tiles from the first up to the
        other one.

        An operand that is computed needs `room`, for as many bytes as that function says.
        """
        computed = self.prologues[number] is not None
        x = f"ptr %args, ptr {room}" if computed else f"ptr {f.word(number)}"
        name = ("of_input", "of_gradient")[number]
        f.line(f"call void @{name}({x}, i64 {tiles[0]}, i64 {tiles[1]}, ptr {to})")

    def room(self, number: int) -> int:
        if self.prologues[number] is None:
            return 0
        span = self.filter.outputs + (2 if number == 0 else 0)
        return (span + 1) * self._row(number, span) * BYTES

    def _row(self, number: int, span: int) -> int:
        """Elements of a row of an operand that is computed, with all that tiles look at."""
        channels = self.c.outputs if number else self.c.channels
        return ((self.across - 1) * self.filter.outputs + span) * channels

    def _transform(self, x: _Image, matrix: Matrix, form: Form) -> str:
        """The text of

            void NAME(x, first, last, to)

        which writes M d M^T of tiles from `first` up to `last`, where d are the positions of a tile
        in x, those outside being 0.
        """
        prologue = self.prologues[x.number]
        if prologue is not None:
            return self._transform_computed(x, matrix, form, prologue)
        f = Function(
            f"define internal void @{x.name}(ptr noalias readonly %x, i64 %first, i64 %last, "
            "ptr noalias %to) noinline"
        )
        span = len(matrix[0])
        with f.loop("%first", "%last") as tile:
            image, i, j = self.place(f, tile)
            corner = [
                f.add(f.mul(at, self.filter.outputs), low)
                for at, low in zip((i, j), x.lows, strict=True)
            ]
            offset = f.mul(image, x.strides[0])
            for at, step in zip(corner, x.strides[1:], strict=True):
                offset = f.add(offset, f.mul(at, step))
            here = f.at(self.c.source, "%x", offset)
            down, across = (
                [f.let(f"icmp ult i64 {f.add(at, n)}, {size}") for n in range(span)]
                for at, size in zip(corner, x.sizes, strict=True)
            )
            places = []
            for r, is_row in enumerate(down):
                for s, is_column in enumerate(across):
                    place = f.at(self.c.source, here, r * x.strides[1] + s * x.strides[2])
                    is_inside = f.let(f"and i1 {is_row}, {is_column}")
                    places.append(f.choose(is_inside, "ptr", place, f"@zeros_{x.name}"))
            to = f.at("float", "%to", f.mul(f.sub(tile, "%first"), form.row))
            with f.loop(0, x.channels, self.lanes) as channel:
                d = [self._read(f, f.at(self.c.source, place, channel)) for place in places]
                self._store_all(f, both_ways(f, self.kind, matrix, d), x, channel, to, form)
        f.line("ret void")
        zeros = f"[{x.channels} x {self.c.source}] zeroinitializer, align {ALIGN}"
        return f"@zeros_{x.name} = internal constant {zeros}\n{f}"

    def _transform_computed(
        self, x: _Image, matrix: Matrix, form: Form, prologue: PrintPrologue
    ) -> str:
        """The same for an operand that is computed, a row of positions at a time: the text of

            void NAME(args, rows, first, last, to)

        `rows` has room for those of a row of tiles, in turns, and behind them one of zeros.
        """
        f = Function(
            f"define internal void @{x.name}(ptr noalias readonly %args, ptr noalias %rows, "
            "i64 %first, i64 %last, ptr noalias %to) noinline"
        )
        span, side = len(matrix[0]), self.filter.outputs
        row, (low_y, low_x), (height, width) = self._row(x.number, span), x.lows, x.sizes
        columns = row // x.channels
        first = max(0, low_x)
        last = max(first, min(width, columns + low_x))
        for slot in range(span):
            for start, end in ((0, first - low_x), (last - low_x, columns)):
                here = f.at("float", "%rows", slot * row + start * x.channels)
                zeros(f, "float", here, (end - start) * x.channels)
        zeros(f, "float", f.at("float", "%rows", span * row), row)
        row0, _ = f.divide("%first", self.across)
        row1 = f.add(f.divide(f.sub("%last", 1), self.across)[0], 1)
        with f.loop(row0, row1) as line:
            image, i = f.divide(line, self.down)
            y0 = f.add(f.mul(i, side), low_y)
            is_first = f.let(f"icmp eq i64 {line}, {row0}")
            is_top = f.let(f"icmp eq i64 {i}, 0")
            fresh = f.let(f"or i1 {is_first}, {is_top}")
            with f.loop(f.choose(fresh, "i64", 0, span - side), span) as r:
                y = f.add(y0, r)
                with f.when(f.let(f"icmp ult i64 {y}, {height}")):
                    m = f.mul(f.add(f.mul(image, height), y), width)
                    there = self._slot(f, y, span, row)
                    with f.loop(first, last) as at, f.loop(0, x.channels, self.lanes) as n:
                        place = f"i64 {f.add(m, at)}, i64 {n}"
                        made = f.let(f"call {self.kind} @{x.name}_computed(ptr %args, {place})")
                        column = f.add(f.mul(f.sub(at, low_x), x.channels), n)
                        self.store(f, made, f.at("float", there, column))
            slots = []
            for offset in range(span):
                y = f.add(y0, offset)
                is_inside = f.let(f"icmp ult i64 {y}, {height}")
                outside = f.at("float", "%rows", span * row)
                slots.append(f.choose(is_inside, "ptr", self._slot(f, y, span, row), outside))
            tile0 = f.mul(line, self.across)
            begins = f.let(f"icmp sgt i64 %first, {tile0}")
            here = f.choose(begins, "i64", "%first", tile0)
            with f.loop(here, f.smaller("%last", f.add(tile0, self.across))) as tile:
                corner = f.mul(f.sub(tile, tile0), side * x.channels)
                to = f.at("float", "%to", f.mul(f.sub(tile, "%first"), form.row))
                with f.loop(0, x.channels, self.lanes) as n:
                    corners = [f.at("float", slot, f.add(corner, n)) for slot in slots]
                    d = [
                        self.load(f, f.at("float", place, s * x.channels))
                        for place in corners
                        for s in range(span)
                    ]
                    self._store_all(f, both_ways(f, self.kind, matrix, d), x, n, to, form)
        f.line("ret void")
        return f"{prologue(f'{x.name}_computed', self.lanes)}\n{f}"

    def _slot(self, f: Function, y: str, span: int, row: int) -> str:
        """Where row y of the image is, as long as no later one needs the place."""
        _, slot = f.divide(f.add(y, span), span)
        return f.at("float", "%rows", f.mul(slot, row))

    def _store_all(
        self, f: Function, made: list[str], x: _Image, channel: str, to: str, form: Form
    ) -> None:
        """Store what has become of a tile, a vector for each tap."""
        block, inside = ("0", channel)
        if x.channels > form.row:
            block, inside = f.divide(channel, form.row)
        here = f.at("float", to, f.add(f.mul(block, form.block), inside))
        for number, value in enumerate(made):
            self.store(f, value, f.at("float", here, number * form.plane))

    def _read(self, f: Function, place: str) -> str:
        """A vector of an operand, in float32."""
        source, lanes = self.c.source, self.lanes
        return converted(f, source, "float", lanes, load(f, source, lanes, place), lanes > 4)

    def load(self, f: Function, place: str) -> str:
        return f.let(f"load {self.kind}, ptr {place}, align {BYTES}")

    def store(self, f: Function, value: str, place: str) -> None:
        f.line(f"store {self.kind} {value}, ptr {place}, align {BYTES}")
