"""The gradient of a 3 x 3 convolution for its weights, by minimal filtering.

It is the transposed algorithm of winograd.py: with g the gradient of the outputs of a tile,

    dw = G^T (sum over tiles of (A g A^T) * (B^T d B)) G

For all channels and outputs the sum is as many products of matrices, (channels, tiles) times
(tiles, outputs), as the filter has multiplications: 16 where 9 taps of 4 outputs would have 36.

Where what is transformed fits into a third-level cache, a launch transforms all of it, and parts
share out channels and panels of outputs. Else they share out the tiles: each part sums over slices
of them, which it transforms a few tiles at a time, and the sums of all slices are added in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from schuss.compiler.cpu import matmul_micro
from schuss.compiler.cpu.convolution_plan import Convolution
from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.matmul import Lowered, PrintEpilogue, this_machine
from schuss.compiler.cpu.matmul_micro import Micro
from schuss.compiler.cpu.matmul_plan import ALIGN, Machine, ceil_div, ceil_to
from schuss.compiler.cpu.matmul_stages import Stage
from schuss.compiler.cpu.matmul_text import Function
from schuss.compiler.cpu.text import together
from schuss.compiler.cpu.winograd_filter import Filter, both_ways
from schuss.compiler.cpu.winograd_text import BYTES, Form, PrintPrologue, Tiles

_SHARED = 28 << 20  # bytes of all that is transformed, which stay in a third-level cache
_PARTS = 32  # that transform what is shared
_BLOCK = 8  # pieces of channels that meet a panel of outputs one after the other
_LONGEST = 256  # tiles of a product
_CHUNK = 64  # tiles that a part transforms at once
_SUMS = 8 << 20  # bytes of the sums of all slices, about
_FEWEST_SLICES, _MOST_SLICES = 4, 16

Strides = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Plan:
    """How the gradient is cut.

    Channels are cut into `pieces` of `height`, outputs into panels of `vectors` vectors, tiles into
    `slices`. Where it is `staged` there is one slice, and a part has up to `block` pieces of a
    panel; else all of a slice.
    """

    lanes: int
    vectors: int
    height: int
    pieces: int
    slices: int
    staged: bool
    block: int

    @property
    def width(self) -> int:
        return self.lanes * self.vectors


def plan(c: Convolution, filter: Filter, machine: Machine) -> Plan:
    """Cut a gradient."""
    lanes = machine.vector_bytes // BYTES
    vectors = min(2, c.outputs // lanes)
    height = min(lanes, 8)  # whole pieces to a vector of channels
    pieces = c.channels // height
    tiles = Tiles(c, filter, lanes).count
    staged = filter.taps * tiles * (c.channels + c.outputs) * BYTES <= _SHARED
    sums = filter.taps * c.channels * c.outputs * BYTES
    slices = max(_FEWEST_SLICES, min(_MOST_SLICES, _SUMS // sums))
    slices = 1 if staged else min(slices, ceil_div(tiles, _CHUNK))
    block = ceil_div(pieces, ceil_div(pieces, _BLOCK))
    return Plan(lanes, vectors, height, pieces, slices, staged, block)


def lower_gradient(
    c: Convolution, filter: Filter, g_strides: Strides, print_epilogue: PrintEpilogue,
    machine: Machine | None = None, prologues: Sequence[PrintPrologue | None] = (None, None),
) -> Lowered:  # fmt: skip
    """The launches; words are x, the gradient of y, the workspace and those of the epilogue.

    `g_strides` are those of the gradient's images, three axes and outputs.
    """
    cut = plan(c, filter, machine or this_machine())
    epilogue = print_epilogue("epilogue", cut.lanes, c.accumulator)
    tiles = Tiles(c, filter, cut.lanes, prologues)
    computed = [each("x", cut.lanes) if each else "" for each in prologues]
    key = sha256(f"{c}{filter}{g_strides}{cut}{epilogue}{computed}".encode()).hexdigest()[:16]
    return _Printer(tiles, g_strides, cut, epilogue, f"winograd_gradient_{key}").print()


class _Printer:
    def __init__(
        self, tiles: Tiles, g_strides: Strides, cut: Plan, epilogue: str, name: str
    ) -> None:
        c = tiles.c
        assert c.x_strides[4] == g_strides[4] == 1, "channels lie apart"
        self.c, self.g_strides, self.cut = c, g_strides, cut
        self.epilogue, self.name = epilogue, name
        self.tiles, self.taps = tiles, tiles.filter.taps
        self.room = max(tiles.room(0), tiles.room(1))
        self.panels = ceil_div(c.outputs, cut.width)
        # What a product reads lies together: the tiles of a vector of channels, and of a panel.
        rows = self.tiles.count if cut.staged else _CHUNK
        self.x_form, self.g_form = (
            Form(rows * ceil_to(n, row) + cut.lanes, rows * row, row)
            for n, row in ((c.channels, cut.lanes), (c.outputs, cut.width))
        )
        self.transformed = ceil_to(self.taps * self.x_form.plane * BYTES, ALIGN)
        self.cell = cut.height * cut.width  # elements that a piece and a panel give for a tap
        last = ceil_div(c.outputs - (self.panels - 1) * cut.width, cut.lanes)
        self.widths = list(dict.fromkeys([*([cut.vectors] if self.panels > 1 else []), last]))

    def print(self) -> Lowered:
        micros = self._micros()
        shared = tuple(Source(matmul_micro.definition(m), (m.name,), shared=True) for m in micros)
        both = ceil_to(self.transformed + self.taps * self.g_form.plane * BYTES, ALIGN)
        if self.cut.staged:
            return Lowered(shared, (self._transforms(), self._products()), both)
        sums = self.cut.slices * self.panels * self.cut.pieces * self.taps * self.cell * BYTES
        return Lowered(shared, (self._slices(both), self._add()), sums)

    def _micros(self) -> list[Micro]:
        """The micro-kernels, for each width of panels."""
        return [Micro("float", self.cut.lanes, self.cut.height, v) for v in self.widths]

    def _kernel(self, name: str) -> tuple[Function, str]:
        full = f"{self.name}_{name}"
        arguments = "ptr noalias %args, i64 %part, ptr noalias %scratch"
        return Function(f"define void @{full}({arguments})"), full

    def _module(self, f: Function, transforms: bool, products: bool, epilogue: bool) -> str:
        texts = []
        if transforms:
            n, _, y, x, _ = self.g_strides
            texts.append(self.tiles.of_input(self.x_form))
            texts.append(self.tiles.of_gradient((n, y, x), self.g_form))
        if products:
            texts += [matmul_micro.declaration(micro) for micro in self._micros()]
        return together([*texts, *([self.epilogue] if epilogue else []), str(f)])

    def _call_transforms(
        self, f: Function, first: str, last: str, memory: str, room_at: int, row: str = "0"
    ) -> None:
        """Transform tiles `first` to `last` to rows from `row` on of `memory`."""
        x = f.at("float", memory, f.mul(row, self.x_form.row))
        g = f.at("float", f.at("i8", memory, self.transformed), f.mul(row, self.g_form.row))
        room = f.at("i8", "%scratch", room_at)
        self.tiles.transform(f, 0, (first, last), x, room)
        self.tiles.transform(f, 1, (first, last), g, room)  # one after the other

    def _transforms(self) -> Stage:
        """The launch that transforms all tiles into the workspace."""
        f, name = self._kernel("transforms")
        parts = min(_PARTS, self.tiles.count)
        first, last = self._share(f, "%part", parts)
        self._call_transforms(f, first, last, f.word(2), 0, first)
        f.line("ret void")
        return Stage(self._module(f, True, False, False), name, parts, self.room)

    def _share(self, f: Function, part: str, parts: int) -> tuple[str, str]:
        """The tiles of one of so many parts: the first, and the one behind the last."""
        first, _ = f.divide(f.mul(part, self.tiles.count), parts)
        last, _ = f.divide(f.mul(f.add(part, 1), self.tiles.count), parts)
        return first, last

    def _products(self) -> Stage:
        """The launch that sums over all tiles for some channels and a panel of outputs."""
        cut = self.cut
        f, name = self._kernel("products")
        blocks = ceil_div(cut.pieces, cut.block)
        panel, block = f.divide("%part", blocks)
        piece0 = f.mul(block, cut.block)
        piece1 = f.smaller(f.add(piece0, cut.block), cut.pieces)
        with f.loop(0, self.taps) as tap, f.loop(0, self.tiles.count, _LONGEST) as k:
            length = f.smaller(f.sub(self.tiles.count, k), _LONGEST)
            more = f.let(f"icmp sgt i64 {k}, 0")
            with f.loop(piece0, piece1) as piece:
                to = self._cell(f, "%scratch", f.sub(piece, piece0), tap)
                place = tap, piece, panel
                self._call_micro(f, f.word(2), place, (k, length), to, more)
        with f.loop(piece0, piece1) as piece:
            cell = self._cell(f, "%scratch", f.sub(piece, piece0), "0")
            self._finish(f, piece, panel, [cell])
        f.line("ret void")
        scratch = cut.block * self.taps * self.cell * BYTES
        return Stage(self._module(f, False, True, True), name, self.panels * blocks, scratch)

    def _slices(self, scratch: int) -> Stage:
        """The launch of slices of tiles, each for all channels and outputs."""
        cut = self.cut
        f, name = self._kernel("slices")
        first, last = self._share(f, "%part", cut.slices)
        with f.loop(first, last, _CHUNK) as chunk:
            length = f.smaller(f.sub(last, chunk), _CHUNK)
            self._call_transforms(f, chunk, f.add(chunk, length), "%scratch", scratch)
            more = f.let(f"icmp sgt i64 {chunk}, {first}")
            with (
                f.loop(0, self.taps) as tap,
                f.loop(0, self.panels) as panel,
                f.loop(0, cut.pieces) as piece,
            ):
                to = self._cell(f, f.word(2), self._index(f, "%part", panel, piece), tap)
                self._call_micro(f, "%scratch", (tap, piece, panel), ("0", length), to, more)
        f.line("ret void")
        return Stage(self._module(f, True, True, False), name, cut.slices, scratch + self.room)

    def _add(self) -> Stage:
        """The launch that adds the sums of all slices."""
        cut = self.cut
        f, name = self._kernel("add")
        panel, piece = f.divide("%part", cut.pieces)
        cells = [
            self._cell(f, f.word(2), self._index(f, str(part), panel, piece), "0")
            for part in range(cut.slices)
        ]
        self._finish(f, piece, panel, cells)
        f.line("ret void")
        return Stage(self._module(f, False, False, True), name, self.panels * cut.pieces, 0)

    def _index(self, f: Function, part: str, panel: str, piece: str) -> str:
        return f.add(f.mul(f.add(f.mul(part, self.panels), panel), self.cut.pieces), piece)

    def _cell(self, f: Function, memory: str, index: str, tap: str) -> str:
        """Where the sums of a piece and a panel are, for a tap."""
        return f.at("float", memory, f.mul(f.add(f.mul(index, self.taps), tap), self.cell))

    def _call_micro(
        self, f: Function, memory: str, place: tuple[str, str, str], tiles: tuple[str, str],
        to: str, more: str,
    ) -> None:  # fmt: skip
        """The product for a tap, a piece and a panel, of so many tiles from the first one on."""
        (tap, piece, panel), x, g = place, self.x_form, self.g_form
        block, inside = f.divide(f.mul(piece, self.cut.height), x.row)
        start = f.add(f.mul(tap, x.plane), f.mul(block, x.block))
        a = f.at("float", memory, f.add(f.add(start, f.mul(tiles[0], x.row)), inside))
        start = f.add(f.mul(tap, g.plane), f.mul(panel, g.block))
        b = f.at("i8", memory, self.transformed)
        b = f.at("float", b, f.add(start, f.mul(tiles[0], g.row)))
        name = self._by_width(f, panel, "ptr", [f"@{micro.name}" for micro in self._micros()])
        more = f.let(f"zext i1 {more} to i64")
        f.line(
            f"call void {name}(ptr {a}, i64 1, i64 {x.row}, ptr {b}, i64 {g.row}, "
            f"i64 {tiles[1]}, ptr {to}, i64 {more})"
        )

    def _by_width(self, f: Function, panel: str, kind: str, choices: Sequence[str | int]) -> str:
        """One of the choices: for the width of all panels, and of the last if it is narrower."""
        if len(choices) == 1:
            return str(choices[0])
        is_last = f.let(f"icmp eq i64 {panel}, {self.panels - 1}")
        return f.choose(is_last, kind, choices[1], choices[0])

    def _finish(self, f: Function, piece: str, panel: str, cells: list[str]) -> None:
        """Give a piece's channels to the epilogue, the sums in all `cells` added in order."""
        lanes, kind = self.cut.lanes, self.tiles.kind
        channel = f.mul(piece, self.cut.height)
        vectors = self._by_width(f, panel, "i64", self.widths)
        with f.loop(0, self.cut.height) as r, f.loop(0, vectors) as v:
            place = f.mul(f.add(f.mul(r, vectors), v), lanes)
            sums = []
            for tap in range(self.taps):
                total = ""
                for cell in cells:
                    here = f.at("float", cell, f.add(place, tap * self.cell))
                    term = self.tiles.load(f, here)
                    total = f.let(f"fadd {kind} {total}, {term}") if total else term
                sums.append(total)
            n = f.add(f.mul(panel, self.cut.width), f.mul(v, lanes))
            for tap, value in enumerate(both_ways(f, kind, self.tiles.filter.g_transposed, sums)):
                m = f.add(f.add(channel, r), tap * self.c.channels)
                f.line(
                    f"call void @epilogue(ptr %args, i64 0, i64 {m}, i64 {n}, {kind} {value}, "
                    f"i64 {lanes})"
                )
