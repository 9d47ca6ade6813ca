"""Tiles of images for minimal filtering, and the transforms of what lies in them."""

from __future__ import annotations

from typing import NamedTuple

from schuss.compiler.cpu.convolution_plan import Convolution
from schuss.compiler.cpu.matmul_elements import converted, load
from schuss.compiler.cpu.matmul_plan import ALIGN, ceil_div
from schuss.compiler.cpu.matmul_text import Function
from schuss.compiler.cpu.winograd_filter import Filter, Matrix, both_ways

BYTES = 4  # of what is transformed: float32


class Form(NamedTuple):
    """How transformed tiles lie in memory: a plane for each tap, of blocks of rows, one row for a
    tile, with as many channels as fit into a row; in elements.
    """

    plane: int
    block: int
    row: int


class Tiles:
    """The tiles of a convolution with kernels of 3 x 3: each gives a square of outputs, from a
    square of positions of the input that is larger by 2.
    """

    def __init__(self, c: Convolution, filter: Filter, lanes: int) -> None:
        self.c, self.filter, self.lanes = c, filter, lanes
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
        lows, sizes = (height.lowest, width.lowest), (height.size, width.size)
        strides = c.x_strides[0], *c.x_strides[2:4]
        matrix = self.filter.b_transposed
        return self._transform("of_input", matrix, lows, sizes, strides, c.channels, form)

    def of_gradient(self, strides: tuple[int, int, int], form: Form) -> str:
        """The function @of_gradient: A g A^T of the positions g of the output's gradient.

        `strides` are those of images, rows and columns.
        """
        sizes = self.c.axes[1].outputs, self.c.axes[2].outputs
        matrix = self.filter.a
        return self._transform("of_gradient", matrix, (0, 0), sizes, strides, self.c.outputs, form)

    def _transform(
        self, name: str, matrix: Matrix, lows: tuple[int, int], sizes: tuple[int, int],
        strides: tuple[int, int, int], channels: int, form: Form,
    ) -> str:  # fmt: skip
        """The text of

            void NAME(x, first, last, to)

        which writes M d M^T of tiles from `first` up to `last`, where d are the positions of a tile
        in x, those outside being 0.
        """
        f = Function(
            f"define internal void @{name}(ptr noalias readonly %x, i64 %first, i64 %last, "
            "ptr noalias %to) noinline"
        )
        span = len(matrix[0])
        with f.loop("%first", "%last") as tile:
            image, i, j = self.place(f, tile)
            corner = [
                f.add(f.mul(at, self.filter.outputs), low)
                for at, low in zip((i, j), lows, strict=True)
            ]
            offset = f.mul(image, strides[0])
            for at, step in zip(corner, strides[1:], strict=True):
                offset = f.add(offset, f.mul(at, step))
            x = f.at(self.c.source, "%x", offset)
            down, across = (
                [f.let(f"icmp ult i64 {f.add(at, n)}, {size}") for n in range(span)]
                for at, size in zip(corner, sizes, strict=True)
            )
            places = []
            for r, is_row in enumerate(down):
                for s, is_column in enumerate(across):
                    here = f.at(self.c.source, x, r * strides[1] + s * strides[2])
                    is_inside = f.let(f"and i1 {is_row}, {is_column}")
                    places.append(f.choose(is_inside, "ptr", here, f"@zeros_{name}"))
            to = f.at("float", "%to", f.mul(f.sub(tile, "%first"), form.row))
            with f.loop(0, channels, self.lanes) as channel:
                d = [self._read(f, f.at(self.c.source, place, channel)) for place in places]
                block, inside = ("0", channel)
                if channels > form.row:
                    block, inside = f.divide(channel, form.row)
                here = f.at("float", to, f.add(f.mul(block, form.block), inside))
                for number, value in enumerate(both_ways(f, self.kind, matrix, d)):
                    self.store(f, value, f.at("float", here, number * form.plane))
        f.line("ret void")
        zeros = f"[{channels} x {self.c.source}] zeroinitializer, align {ALIGN}"
        return f"@zeros_{name} = internal constant {zeros}\n{f}"

    def _read(self, f: Function, place: str) -> str:
        """A vector of an operand, in float32."""
        source, lanes = self.c.source, self.lanes
        return converted(f, source, "float", lanes, load(f, source, lanes, place), lanes > 4)

    def load(self, f: Function, place: str) -> str:
        return f.let(f"load {self.kind}, ptr {place}, align {BYTES}")

    def store(self, f: Function, value: str, place: str) -> None:
        f.line(f"store {self.kind} {value}, ptr {place}, align {BYTES}")
