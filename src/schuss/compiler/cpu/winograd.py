"""Convolutions with kernels of 3 x 3 by minimal filtering.

Each 4 x 4 positions d of the input, in tiles that overlap by two, give 2 x 2 outputs:

    y = A^T ((G g G^T) * (B^T d B)) A

with 16 multiplications for a channel and an output in place of 36; operands of half precision may
go by 6 x 6 positions, which give 4 x 4 outputs with 36 in place of 144 (winograd_filter.py). For
all channels these are as many products of matrices, (tiles, channels) with (channels, outputs). But
outputs that see an infinite input may be NaN where the sum is infinite; with the larger tiles, also
others of the tile.

A part of the work makes the products of some tiles with one or all panels of outputs, and then its
outputs of them. Where there are few tiles, so that panels must be shared out too, a launch before
transforms the input for all parts; else each part does so for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from itertools import product as combinations
from typing import NamedTuple

from schuss import dtypes
from schuss.compiler.cpu import matmul_micro
from schuss.compiler.cpu.block_sums import Block, rows_of, sums_up
from schuss.compiler.cpu.cascade import BLOCK
from schuss.compiler.cpu.convolution_plan import Convolution
from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.matmul import Lowered, PrintEpilogue, this_machine
from schuss.compiler.cpu.matmul_micro import Micro
from schuss.compiler.cpu.matmul_plan import ALIGN, Machine, ceil_div, ceil_to, most_rows
from schuss.compiler.cpu.matmul_stages import Stage
from schuss.compiler.cpu.matmul_text import Function
from schuss.compiler.cpu.text import together
from schuss.compiler.cpu.winograd_filter import F2, F4, Filter, both_ways
from schuss.compiler.cpu.winograd_text import BYTES, Form, PrintPrologue, Tiles
from schuss.compiler.geometry import UNIT, Axis
from schuss.dtypes import DType

_PARTS = 16  # that a convolution should have
_BLOCK = 56  # tiles of a part, at most
_INPUTS = 480 << 10  # bytes of the inputs that a part transforms for itself
_FEWEST_TILES = 36  # that make reading 16 numbers in place of 9 for each weight worth while
_TRANSFORM = 10  # products of vectors that take as long as transforming one of inputs or outputs
_WEIGHT = 40  # tiles whose products take as long as transforming a weight and reading it
# The same beyond what direct convolutions in pairs need, and products that take as long as the 9
# taps of an output there.
_WEIGHT_BEYOND, _PAIRS = 75, 4.0
_FEWEST_CHANNELS = 32  # or outputs, that make transforming worth while


def choose(
    dtype: DType, images: int, channels: int, outputs: int, axes: tuple[Axis, Axis, Axis],
    pairs: bool = False,
) -> Filter | None:  # fmt: skip
    """The filter by which this template should compute a convolution, of a single group; with
    `pairs` the direct one would multiply two numbers at once.
    """
    lanes = this_machine().vector_bytes // BYTES
    whole = channels % lanes == 0 and outputs % lanes == 0
    if dtypes.accumulator(dtype) != dtypes.float32 or axes[0] != UNIT or not whole:
        return None
    if not all(axis.kernel == 3 and _is_dense(axis) for axis in axes[1:]):
        return None
    if is_backwards(axes[1]) != is_backwards(axes[2]):
        return None

    def tiles(filter: Filter) -> int:
        down, across = (ceil_div(axis.outputs, filter.outputs) for axis in axes[1:])
        return images * down * across

    if tiles(F2) < _FEWEST_TILES or min(channels, outputs) < _FEWEST_CHANNELS:
        return None
    if dtype == dtypes.float32:
        return F2

    def cost(filter: Filter) -> float:
        """Multiplications for each weight, those included that transforms take the time of."""
        transforms = _TRANSFORM * (1 / channels + 1 / outputs)
        weight = _WEIGHT_BEYOND if pairs else _WEIGHT
        return filter.taps * (tiles(filter) * (1 + transforms) + weight)

    best = min(F2, F4, key=cost)
    direct = _PAIRS * images * axes[1].outputs * axes[2].outputs
    return None if pairs and direct < cost(best) else best


def _is_dense(axis: Axis) -> bool:
    (phase, *others) = axis.phases
    steps = phase.every, phase.move, abs(phase.place_step), phase.tap_step
    return not others and steps == (1, 1, 1, 1) and phase.taps == 3


def is_backwards(axis: Axis) -> bool:
    """Whether kernels lie backwards along an axis, as in the gradient for the input."""
    return axis.phases[0].place_step < 0


def panel_width(outputs: int) -> int:
    """Outputs of a panel of weights."""
    lanes = this_machine().vector_bytes // BYTES
    return lanes * _panel_vectors(ceil_div(outputs, lanes))


def _panel_vectors(vectors: int) -> int:
    """Of all vectors of outputs, how many a panel has: with more, inputs are read less often, but
    the last panel may be left with few.
    """
    return 3 if vectors >= 6 else min(2, vectors)


@dataclass(frozen=True)
class Plan:
    """How such a convolution is cut.

    Tiles, those of all images, are cut into `pieces` of `height` or, the first `tall` of them,
    height + 1; a part has up to `block` pieces. Where it is `staged` a part has one panel of
    `vectors` vectors of outputs, else all.
    """

    lanes: int
    vectors: int
    pieces: int
    height: int
    tall: int
    block: int
    staged: bool

    @property
    def tallest(self) -> int:
        return self.height + (self.tall > 0)

    @property
    def width(self) -> int:
        return self.lanes * self.vectors


class Blocks(NamedTuple):
    """The blocks over which an epilogue sums up: `together` pieces, `of_part` such in a part."""

    together: int
    of_part: int
    total: int


def blocks(cut: Plan, filter: Filter) -> Blocks:
    """Blocks of about so many rows as one accumulator should take, none of two parts."""
    together = max(1, BLOCK // (cut.tallest * filter.outputs**2))
    parts = ceil_div(cut.pieces, cut.block)
    last = cut.pieces - (parts - 1) * cut.block
    of_part = ceil_div(cut.block, together)
    return Blocks(together, of_part, (parts - 1) * of_part + ceil_div(last, together))


def block_count(c: Convolution, filter: Filter) -> int:
    """Over how many blocks of rows an epilogue sums up."""
    return blocks(plan(c, filter, this_machine()), filter).total


def plan(c: Convolution, filter: Filter, machine: Machine) -> Plan:
    """Cut a convolution."""
    lanes = machine.vector_bytes // BYTES
    vectors = _panel_vectors(c.outputs // lanes)
    tiles = Tiles(c, filter, lanes).count
    pieces = ceil_div(tiles, most_rows(machine.registers, vectors))
    height, tall = divmod(tiles, pieces)
    tallest = height + (tall > 0)
    block = max(1, min(_BLOCK, _INPUTS // (filter.taps * c.channels * BYTES)) // tallest)
    block = min(block, max(1, pieces // _PARTS))
    staged = pieces < 2 * _PARTS
    if staged:
        block, panels = max(1, _BLOCK // tallest), ceil_div(c.outputs, lanes * vectors)
        while ceil_div(pieces, block) * panels < _PARTS and block > 1:
            block = ceil_div(block, 2)
    block = ceil_div(pieces, ceil_div(pieces, block))
    return Plan(lanes, vectors, pieces, height, tall, block, staged)


def lower(
    c: Convolution, filter: Filter, print_epilogue: PrintEpilogue,
    machine: Machine | None = None, print_prologue: PrintPrologue | None = None,
) -> Lowered:  # fmt: skip
    """The launches of a convolution; words are x, the weights, and from 3 on the epilogue's and
    those of a prologue that computes x.

    Weights are dense, (panels, taps, channels, width of a panel): see winograd_weights.py.
    """
    cut = plan(c, filter, machine or this_machine())
    epilogue = print_epilogue("epilogue", cut.lanes, c.accumulator)
    tiles = Tiles(c, filter, cut.lanes, (print_prologue, None))
    computed = print_prologue("x", cut.lanes) if print_prologue else ""
    key = sha256(f"{c}{filter}{cut}{epilogue}{computed}".encode()).hexdigest()[:16]
    return _Printer(tiles, cut, epilogue, f"winograd_{key}").print()


class _Printer:
    def __init__(self, tiles: Tiles, cut: Plan, epilogue: str, name: str) -> None:
        c = tiles.c
        assert c.x_strides[4] == 1, "channels lie apart"
        self.c, self.cut, self.epilogue, self.name = c, cut, epilogue, name
        self.tiles, self.taps = tiles, tiles.filter.taps
        self.blocks = blocks(cut, tiles.filter)
        self.panels = ceil_div(c.outputs, cut.width)
        # Rows, and planes of rows, a power of two apart would push each other out of the caches.
        self.row = c.channels + cut.lanes
        rows = self.tiles.count if cut.staged else cut.block * cut.tallest
        self.plane = rows * self.row + cut.lanes
        self.cell = cut.tallest * cut.width  # elements of what a piece gives in a panel
        last = ceil_div(c.outputs - (self.panels - 1) * cut.width, cut.lanes)
        self.widths = list(dict.fromkeys([*([cut.vectors] if self.panels > 1 else []), last]))

    def print(self) -> Lowered:
        micros = [self._micro(tall, v) for tall in (False, True) for v in self.widths]
        shared = [Source(matmul_micro.definition(m), (m.name,), shared=True) for m in micros]
        stages = [self._products()]
        if self.cut.staged:
            stages.insert(0, self._inputs())
        workspace = self.taps * self.plane * BYTES if self.cut.staged else 0
        return Lowered(tuple(dict.fromkeys(shared)), tuple(stages), workspace)

    def _micro(self, tall: bool, vectors: int) -> Micro:
        rows = self.cut.tallest if tall else self.cut.height
        return Micro("float", self.cut.lanes, rows, vectors)

    def _inputs(self) -> Stage:
        """The launch that transforms the input into the workspace."""
        name = f"{self.name}_inputs"
        parts = min(2 * _PARTS, self.tiles.count)
        f = Function(f"define void @{name}(ptr noalias %args, i64 %part, ptr noalias %scratch)")
        first, _ = f.divide(f.mul("%part", self.tiles.count), parts)
        last, _ = f.divide(f.mul(f.add("%part", 1), self.tiles.count), parts)
        to = f.at("float", f.word(2), f.mul(first, self.row))
        self.tiles.transform(f, 0, (first, last), to, "%scratch")
        f.line("ret void")
        text = f"{self.tiles.of_input(Form(self.plane, 0, self.row))}\n{f}\n"
        return Stage(text, name, parts, self.tiles.room(0))

    def _products(self) -> Stage:
        """The launch that gives outputs to the epilogue."""
        cut = self.cut
        blocks = ceil_div(cut.pieces, cut.block)
        f = Function(
            f"define void @{self.name}(ptr noalias %args, i64 %part, ptr noalias %scratch)"
        )
        panel, block = f.divide("%part", blocks) if cut.staged else ("", "%part")
        piece0 = f.mul(block, cut.block)
        piece1 = f.smaller(f.add(piece0, cut.block), cut.pieces)
        sums = ceil_to(self.taps * cut.block * self.cell * BYTES, ALIGN)
        room_at = sums + ceil_to(self.taps * self.plane * BYTES, ALIGN)
        first = self._tile(f, piece0)
        if cut.staged:
            rows = f.at("float", f.word(2), f.mul(first, self.row))
            self._call_panel(f, panel, rows, piece0, piece1)
        else:
            rows = f.at("i8", "%scratch", sums)
            last = self._tile(f, piece1)
            self.tiles.transform(f, 0, (first, last), rows, f.at("i8", "%scratch", room_at))
            with f.loop(0, self.panels) as each:
                self._call_panel(f, each, rows, piece0, piece1)
        f.line("ret void")
        micros = dict.fromkeys(self._micro(tall, v) for tall in (False, True) for v in self.widths)
        text = together([
            *[matmul_micro.declaration(micro) for micro in micros], self.epilogue,
            *([] if cut.staged else [self.tiles.of_input(Form(self.plane, 0, self.row))]),
            *[self._panel(vectors) for vectors in self.widths], str(f),
        ])  # fmt: skip
        scratch = sums if cut.staged else room_at + self.tiles.room(0)
        return Stage(text, self.name, blocks * (self.panels if cut.staged else 1), scratch)

    def _tile(self, f: Function, piece: str) -> str:
        """The first tile of a piece."""
        return f.add(f.mul(piece, self.cut.height), f.smaller(piece, self.cut.tall))

    def _call_panel(self, f: Function, panel: str, rows: str, piece0: str, piece1: str) -> None:
        name = f"@panel{self.widths[0]}"
        if len(self.widths) > 1:
            is_last = f.let(f"icmp eq i64 {panel}, {self.panels - 1}")
            name = f.choose(is_last, "ptr", f"@panel{self.widths[1]}", name)
        weights = f.mul(panel, self.taps * self.c.channels * self.cut.width)
        weights = f.at("float", f.word(1), weights)
        f.line(
            f"call void {name}(ptr %args, ptr {rows}, ptr {weights}, i64 {piece0}, i64 {piece1}, "
            f"i64 {f.mul(panel, self.cut.width)}, ptr %scratch)"
        )

    def _panel(self, vectors: int) -> str:
        """The function for some pieces and one panel: products, and what becomes of them."""
        cut, c = self.cut, self.c
        f = Function(
            f"define internal void @panel{vectors}(ptr %args, ptr noalias readonly %rows, "
            "ptr noalias readonly %weights, i64 %piece0, i64 %piece1, i64 %n, ptr noalias %sums) "
            "noinline"
        )
        first = self._tile(f, "%piece0")
        pieces = f.sub("%piece1", "%piece0")
        if "@epilogue_ahead(" in self.epilogue:
            with f.loop(first, self._tile(f, "%piece1")) as tile, f.loop(0, vectors) as vector:
                n = f.add("%n", f.mul(vector, cut.lanes))
                for m, _ in self._rows(f, tile):
                    f.line(f"call void @epilogue_ahead(ptr %args, i64 0, i64 {m}, i64 {n})")
        with f.loop(0, self.taps) as tap, f.loop(0, pieces) as at:
            piece = f.add("%piece0", at)
            row = f.mul(f.sub(self._tile(f, piece), first), self.row)
            a = f.at("float", "%rows", f.add(f.mul(tap, self.plane), row))
            b = f.at("float", "%weights", f.mul(tap, c.channels * cut.width))
            to = f.at("float", "%sums", f.mul(f.add(f.mul(tap, cut.block), at), self.cell))
            is_tall = f.let(f"icmp slt i64 {piece}, {cut.tall}")
            names = [f"@{self._micro(tall, vectors).name}" for tall in (True, False)]
            f.line(
                f"call void {f.choose(is_tall, 'ptr', *names)}(ptr {a}, i64 {self.row}, i64 1, "
                f"ptr {b}, i64 {cut.width}, i64 {c.channels}, ptr {to}, i64 0)"
            )
        with f.loop(0, pieces) as at:
            tile0 = self._tile(f, f.add("%piece0", at))
            tile1 = self._tile(f, f.add(f.add("%piece0", at), 1))
            here = f.at("float", "%sums", f.mul(at, self.cell))
            with f.loop(tile0, tile1) as tile, f.loop(0, vectors) as vector:
                place = f.add(f.mul(f.sub(tile, tile0), vectors), vector)
                n = f.add("%n", f.mul(vector, cut.lanes))
                sums = f.at("float", here, f.mul(place, cut.lanes))
                self._outputs(f, tile, n, sums, self._block(f, at, tile, tile0))
        f.line("ret void")
        return str(f)

    def _block(self, f: Function, at: str, tile: str, tile0: str) -> Block | None:
        """The block of a tile of piece `at` of this part, if the epilogue sums up any."""
        if not sums_up(self.epilogue):
            return None
        part, _ = f.divide("%piece0", self.cut.block)
        number, piece = f.divide(at, self.blocks.together)
        starts = f.let(f"icmp eq i64 {piece}, 0")
        is_first = f.let(f"and i1 {starts}, {f.let(f'icmp eq i64 {tile}, {tile0}')}")
        return Block(f.add(f.mul(part, self.blocks.of_part), number), is_first)

    def _outputs(self, f: Function, tile: str, n: str, sums: str, block: Block | None) -> None:
        """Give a vector of outputs of each position of a tile to the epilogue."""
        plane, count = self.cut.block * self.cell, str(self.cut.lanes)
        d = [self.tiles.load(f, f.at("float", sums, tap * plane)) for tap in range(self.taps)]
        made = both_ways(f, self.tiles.kind, self.tiles.filter.a_transposed, d)
        places = enumerate(self._rows(f, tile))
        with rows_of(f, block, n, count) as rows:
            for value, (number, (m, is_there)) in zip(made, places, strict=True):
                more = rows.arguments(f, "false" if number else "true") if rows else ""
                with f.when(is_there):
                    f.line(
                        f"call void @epilogue(ptr %args, i64 0, i64 {m}, i64 {n}, "
                        f"{self.tiles.kind} {value}, i64 {count}{more})"
                    )

    def _rows(self, f: Function, tile: str) -> list[tuple[str, str]]:
        """For each position of a tile its row of the result, and whether it is there."""
        image, i, j = self.tiles.place(f, tile)
        height, width = (axis.outputs for axis in self.c.axes[1:])
        side = self.tiles.filter.outputs
        y, x = f.mul(i, side), f.mul(j, side)
        m = f.add(f.mul(f.add(f.mul(image, height), y), width), x)
        found = []
        for down, across in combinations(range(side), range(side)):
            inside = []
            if down >= height % side > 0:
                inside.append(f.let(f"icmp slt i64 {y}, {height - down}"))
            if across >= width % side > 0:
                inside.append(f.let(f"icmp slt i64 {x}, {width - across}"))
            is_there = f.let(f"and i1 {inside[0]}, {inside[-1]}") if inside else "true"
            found.append((f.add(m, down * width + across), is_there))
        return found
