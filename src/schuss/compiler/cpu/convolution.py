"""Direct convolutions of the CPU target: channels last, without unfolding windows.

A part packs the input positions that it needs into a slab with a border of zeros, so that no later
step asks for borders; then each tile of outputs is summed up in registers, tap by tap, against
weights that were brought into panels before (Georganas et al., Anatomy of High-Performance Deep
Learning Convolutions on SIMD Architectures, 2018). The gradient for the input is a convolution with
the taps turned around, in one phase for each remainder by the stride (geometry.py). As matrix
products do, these give their results to an epilogue (matmul.py has what that is); the rows of the
product are (n, depth, height, width), its columns all outputs.
"""

from __future__ import annotations

from hashlib import sha256
from itertools import product as combinations

from schuss.compiler.cpu import matmul_pack
from schuss.compiler.cpu.convolution_plan import (
    Convolution,
    Plan,
    plan,
    segments,
    slab_shape,
    tiling,
)
from schuss.compiler.cpu.convolution_text import SUMS_NEEDS, Slab, sums, table
from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.matmul import Lowered, PrintEpilogue, this_machine
from schuss.compiler.cpu.matmul_micro import size
from schuss.compiler.cpu.matmul_plan import ALIGN, ELEMENTS, Machine, ceil_div, ceil_to
from schuss.compiler.cpu.matmul_stages import Stage
from schuss.compiler.cpu.matmul_text import Function
from schuss.compiler.geometry import Axis, Phase
from schuss.dtypes import DType

Phases = tuple[Phase, Phase, Phase]


def lower(
    c: Convolution, print_epilogue: PrintEpilogue, machine: Machine | None = None
) -> Lowered:
    """The launches of a convolution; words are x, the weights, and from 3 on the epilogue's.

    Weights are dense: (groups, panels, taps of the three axes, channels, width of a panel), in the
    type of the sums, with zeros behind the last output.
    """
    cut = plan(c, machine or this_machine())
    epilogue = print_epilogue("epilogue", cut.tiling.lanes, c.accumulator)
    key = sha256(f"{c}{cut}{epilogue}".encode()).hexdigest()[:16]
    return _Printer(c, cut, epilogue, f"convolution_{key}").print()


def panel_width(dtype: DType, outputs: int, axes: tuple[Axis, Axis, Axis]) -> int:
    """Outputs of a panel of weights, which `convolution` wants for these shapes."""
    element = ELEMENTS[str(dtype)][1]
    return tiling(this_machine(), element, outputs, axes[1].most, axes[2].most).width


class _Printer:
    def __init__(self, c: Convolution, cut: Plan, epilogue: str, name: str) -> None:
        self.c, self.cut, self.epilogue, self.name = c, cut, epilogue, name
        self.tiling = cut.tiling
        self.panels = ceil_div(c.outputs, self.tiling.width)
        self.row_blocks = ceil_div(c.axes[1].most, cut.rows)
        self.panel_blocks = ceil_div(self.panels, cut.panels)
        self.image_blocks = ceil_div(c.images, cut.images)
        self.slab = Slab(c, slab_shape(c, cut.rows), c.channels, self.tiling.lanes)
        self.a_strides = c.x_strides[:4] if cut.in_place else self.slab.strides
        self.width = c.axes[2]
        merged = self.a_strides[3] == c.channels and self._taps_side_by_side()
        self.merged = merged  # taps along the width are more channels
        self.functions: dict[str, str] = {}
        self.bytes = size(c.element)

    def _taps_side_by_side(self) -> bool:
        return all(p.place_step == 1 and p.tap_step == 1 for p in self.width.phases)

    def print(self) -> Lowered:
        c, cut = self.c, self.cut
        cell = self.tiling.rows * self.tiling.columns * self.tiling.width * self.bytes
        slab_at = ceil_to(cell, ALIGN)
        scratch = slab_at + self.slab.elements(cut.images) * self.bytes
        f = Function(f"define void @{self.name}(ptr noalias %args, i64 %part, ptr noalias %scratch)")
        rest, panel_block = f.divide("%part", self.panel_blocks)
        rest, row_block = f.divide(rest, self.row_blocks)
        rest, group = f.divide(rest, c.groups)
        image_block, z = f.divide(rest, c.axes[0].most)
        image0 = f.mul(image_block, cut.images)
        image1 = f.smaller(f.add(image0, cut.images), c.images)
        y = f.mul(row_block, cut.rows)
        panel0 = f.mul(panel_block, cut.panels)
        panel1 = f.smaller(f.add(panel0, cut.panels), self.panels)
        depth, height, _ = c.axes
        x = f.word(0)
        if cut.in_place:
            first = f.add(f.mul(group, c.channels), f.mul(image0, c.x_strides[0]))
            for counter, axis, stride in ((z, depth, 1), (y, height, 2)):
                place = f.add(f.mul(counter, axis.move), axis.lowest)
                first = f.add(first, f.mul(place, c.x_strides[stride]))
            first = f.add(first, self.width.lowest * c.x_strides[3])
            base = f.at(c.element, x, first)
        else:
            base = f.at("i8", "%scratch", slab_at)
            starts = (
                f.add(f.mul(z, depth.move), depth.lowest),
                f.add(f.mul(y, height.move), height.lowest),
            )
            channels = f.mul(group, c.channels), str(c.channels)
            counts = self.slab.shape[:2]
            self.slab.fill(f, x, (image0, image1), starts, channels, counts, base)
        tables = []
        for number, phases in enumerate(combinations(*[axis.phases for axis in c.axes])):
            tables.append(table(f"taps{number}", self._taps(phases)))  # type: ignore[arg-type]
            with f.when(f.let(f"icmp slt i64 {z}, {phases[0].count}")):
                with f.loop(panel0, panel1) as panel, f.loop(image0, image1) as n:
                    place = f.mul(f.sub(n, image0), self.a_strides[0])
                    a = f.at(c.element, base, place)
                    self._tiles(f, number, phases, (group, panel, n, z, y), a)  # type: ignore[arg-type]
        f.line("ret void")
        parts = self.image_blocks * c.axes[0].most * c.groups * self.row_blocks * self.panel_blocks
        text = "\n".join([
            *[matmul_pack.declaration(pack) for pack in self._packs()],
            SUMS_NEEDS(c.element, self.tiling.lanes), self.epilogue, *tables,
            *self.functions.values(), str(f), "",
        ])  # fmt: skip
        shared = tuple(
            Source(matmul_pack.definition(pack), (pack.name,), shared=True)
            for pack in self._packs()
        )
        return Lowered(shared, (Stage(text, self.name, parts, scratch),), 0)

    def _packs(self) -> list[matmul_pack.Pack]:
        return [] if self.cut.in_place else list(dict.fromkeys(self.slab.packing.used()))

    def _taps(self, phases: Phases) -> list[tuple[int, int]]:
        """Offsets in the slab and in a panel of weights of the entries of a phase."""
        c, (pz, py, px) = self.c, phases
        across = range(1 if self.merged else px.taps) if px.taps else range(0)
        entries = []
        for tz, ty, tx in combinations(range(pz.taps), range(py.taps), across):
            offset, tap = 0, 0
            places = zip(phases, (tz, ty, tx), c.axes, self.a_strides[1:], strict=True)
            for phase, t, axis, stride in places:
                offset += (phase.place + t * phase.place_step - axis.lowest) * stride
                tap = tap * axis.kernel + phase.tap + t * phase.tap_step
            entries.append((offset, tap * c.channels * self.tiling.width))
        return entries

    def _tiles(
        self, f: Function, number: int, phases: Phases, at: tuple[str, str, str, str, str], a: str
    ) -> None:
        """All tiles of a phase in a panel and an image."""
        c, tiling = self.c, self.tiling
        group, panel, n, z, y = at
        pz, py, px = phases
        inner = px.taps * c.channels if self.merged else c.channels
        entries = pz.taps * py.taps * (min(1, px.taps) if self.merged else px.taps)
        rows = f.smaller(f.sub(py.count, y), self.cut.rows)
        panel_size = c.taps * c.channels * tiling.width
        index = f.add(f.mul(group, self.panels), panel)
        b = f.at(c.element, f.word(1), f.mul(index, panel_size))
        image = f.add(f.mul(n, c.axes[0].count), f.add(f.mul(z, pz.every), pz.first))
        column = f.add(f.mul(group, c.outputs), f.mul(panel, tiling.width))
        end = f.mul(f.add(group, 1), c.outputs)
        high = [tiling.rows, 1] if tiling.rows > 1 else [1]
        start = "0"
        for tall in high:
            whole = f.mul(f.let(f"sdiv i64 {f.sub(rows, start)}, {tall}"), tall) if tall > 1 else ""
            stop = f.add(start, whole) if whole else rows
            with f.loop(start, stop, tall) as i:
                line = f.add(f.mul(f.add(y, i), py.every), py.first)
                line = f.add(f.mul(image, c.axes[1].count), line)
                here = f.at(c.element, a, f.mul(i, py.move * self.a_strides[2]))
                for first, count, wide in segments(px.count, tiling.columns):
                    with f.loop(0, count) as j:
                        x = f.add(f.mul(j, wide), first)
                        m = f.add(f.mul(x, px.every), px.first)
                        m = f.add(f.mul(line, c.axes[2].count), m)
                        corner = f.at(c.element, here, f.mul(x, px.move * self.a_strides[3]))
                        self._call_tile(
                            f, (tall, wide), panel, f"ptr {corner}, ptr {b}, ptr @taps{number}, "
                            f"i64 {entries}, i64 {max(1, inner)}, i64 {m}, "
                            f"i64 {py.every * c.axes[2].count}, i64 {px.every}, i64 {column}, "
                            f"i64 {end}, ptr %scratch",
                        )  # fmt: skip
            start = stop

    def _call_tile(
        self, f: Function, shape: tuple[int, int], panel: str, arguments: str
    ) -> None:
        vectors = self.tiling.vectors
        left = self.c.outputs - (self.panels - 1) * self.tiling.width
        last = ceil_div(left, self.tiling.lanes)
        name = self._tile(*shape, vectors)
        if last < vectors:
            is_last = f.let(f"icmp eq i64 {panel}, {self.panels - 1}")
            name = f.choose(is_last, "ptr", self._tile(*shape, last), name)
        f.line(f"call void {name}(ptr %args, {arguments})")

    def _tile(self, rows: int, columns: int, vectors: int) -> str:
        """The function for a tile of so many rows, columns and vectors."""
        name = f"tile_{rows}x{columns}x{vectors}"
        if name not in self.functions:
            self.functions[name] = self._print_tile(name, rows, columns, vectors)
        return f"@{name}"

    def _print_tile(self, name: str, rows: int, columns: int, vectors: int) -> str:
        c, lanes = self.c, self.tiling.lanes
        f = Function(
            f"define internal void @{name}(ptr %args, ptr noalias readonly %a, "
            "ptr noalias readonly %b, ptr readonly %table, i64 %entries, i64 %inner, i64 %m, "
            "i64 %row, i64 %column, i64 %n, i64 %end, ptr noalias %tile) noinline"
        )
        move = [axis.move * stride for axis, stride in
                zip(c.axes[1:], self.a_strides[2:], strict=True)]  # fmt: skip
        places = [i * move[0] + j * move[1] for i in range(rows) for j in range(columns)]
        made = sums(f, c.element, lanes, places, vectors, (1, self.tiling.width))
        kind = f"<{lanes} x {c.element}>"
        for r, row in enumerate(made):
            for v, value in enumerate(row):
                place = f.at(c.element, "%tile", (r * vectors + v) * lanes)
                f.line(f"store {kind} {value}, ptr {place}, align {lanes * self.bytes}")
        with f.loop(0, rows) as i, f.loop(0, columns) as j:
            m = f.add("%m", f.add(f.mul(i, "%row"), f.mul(j, "%column")))
            place = f.mul(f.add(f.mul(i, columns), j), vectors * lanes)
            for v in range(vectors):
                source = f.at(c.element, "%tile", f.add(place, v * lanes))
                value = f.let(f"load {kind}, ptr {source}, align {lanes * self.bytes}")
                n = f.add("%n", v * lanes)
                count = str(lanes)
                if c.outputs % lanes and v == vectors - 1:
                    count = f.smaller(f.sub("%end", n), lanes)
                f.line(
                    f"call void @epilogue(ptr %args, i64 0, i64 {m}, i64 {n}, {kind} {value}, "
                    f"i64 {count})"
                )
        f.line("ret void")
        return str(f)
