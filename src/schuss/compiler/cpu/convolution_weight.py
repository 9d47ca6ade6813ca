"""The gradient of a direct convolution for its weights.

    dw[t, c, o] = sum over n and positions p of x[n, q(p, t), c] * g[n, p, o]

For each tap it is a product of matrices, (channels, positions) times (positions, outputs), whose
left side is read from a slab of x as the convolution itself reads it; where the machine multiplies
numbers in pairs, these are of positions side by side along the width. A part sums over its chunks
of images or rows, which it packs one after the other; the sums of all parts' slices are added in
order at the end. Rows of the result are (taps, channels), columns the outputs of a group; groups
are the batch.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from itertools import product as combinations
from math import prod

from schuss.compiler.cpu import matmul, matmul_pack, matmul_plan
from schuss.compiler.cpu.convolution_plan import (
    Convolution,
    WeightPlan,
    segments,
    weight_plan,
)
from schuss.compiler.cpu.convolution_text import Slab, sums, sums_need, table, zeros
from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.matmul import Lowered, PrintEpilogue, this_machine
from schuss.compiler.cpu.matmul_micro import size
from schuss.compiler.cpu.matmul_plan import ALIGN, Machine, Product, ceil_div, ceil_to
from schuss.compiler.cpu.matmul_stages import Stage
from schuss.compiler.cpu.matmul_text import Function

Strides = tuple[int, int, int, int, int]

_HALF_PAGE = 2048


def lower_weight(
    c: Convolution,
    g_strides: Strides,
    print_epilogue: PrintEpilogue,
    machine: Machine | None = None,
) -> Lowered:
    """The launches of the gradient for the weights of `c`.

    Words are x, the gradient of y, the workspace and those of the epilogue; `g_strides` are those
    of the gradient's images, three axes and outputs.
    """
    machine = machine or this_machine()
    product = as_product(c, g_strides, machine)
    if product is not None and _is_best_as_product(product, machine):
        return matmul.lower(product, print_epilogue, machine)
    cut = weight_plan(c, machine)
    epilogue = print_epilogue("epilogue", cut.tiling.lanes, c.accumulator)
    key = sha256(f"{c}{g_strides}{cut}{epilogue}".encode()).hexdigest()[:16]
    return _Printer(c, g_strides, cut, epilogue, f"convolution_weight_{key}").print()


def as_product(c: Convolution, g_strides: Strides, machine: Machine) -> Product | None:
    """The same as a product of two matrices, (channels, positions) with (positions, outputs)."""
    plain = all(axis.phases[0][2:] == (axis.size, 1, 0, 1, 0, 1, 1) for axis in c.axes)
    x_step, g_step = (_step(c, strides) for strides in (c.x_strides, g_strides))
    is_fast = c.source == c.element or c.dtype in machine.pairs
    if not plain or c.groups > 1 or not is_fast or x_step is None or g_step is None:
        return None
    positions = c.images * prod(axis.size for axis in c.axes)
    left, right = (c.x_strides[4], x_step), (g_step, g_strides[4])
    return Product(c.dtype, (), c.channels, c.outputs, positions, left, right)


def _is_best_as_product(product: Product, machine: Machine) -> bool:
    """Whether nothing is gained by packing chunks: numbers are multiplied in pairs, or parts find
    operands that they share in a cache, or positions are cut into slices, so that each operand is
    read once, from rows that do not crowd a few lines of the caches.
    """
    if product.dtype in machine.pairs:
        return True
    bytes_ = size(product.element)
    if (product.m + product.n) * product.k * bytes_ <= matmul_plan.SHARED:
        return True
    is_crowded = product.b_strides[0] * bytes_ % _HALF_PAGE == 0
    return not is_crowded and matmul_plan.plan(product, machine).slices > 1


def _step(c: Convolution, strides: Strides) -> int | None:
    """How far positions are from each other if all of them are equally far."""
    sizes = [*[axis.size for axis in reversed(c.axes)], c.images]
    step = expected = strides[3]
    for count, stride in zip(sizes, reversed(strides[:4]), strict=True):
        if count > 1 and stride != expected:
            return None
        expected *= count
    return step


class _Printer:
    def __init__(
        self, c: Convolution, g_strides: Strides, cut: WeightPlan, epilogue: str, name: str
    ) -> None:
        self.c, self.g_strides, self.cut = c, g_strides, cut
        self.epilogue, self.name = epilogue, name
        self.tiling = cut.tiling
        self.bytes = size(c.element)
        depth, height, width = c.axes
        self.phases = [axis.phases[0] for axis in c.axes]
        self.panels = ceil_div(c.outputs, self.tiling.width)
        self.panel_blocks = ceil_div(self.panels, cut.panels)
        self.channel_blocks = ceil_div(c.channels, cut.channels)
        shape = depth.reach(cut.depths), height.reach(cut.rows), width.reach(width.outputs)
        self.summed = replace(c, pairs=cut.pairs)
        lanes, per_step = self.tiling.lanes, 2 if cut.pairs else 1
        self.steps = ceil_div(width.outputs, per_step)  # of a row of outputs
        self.step = per_step * width.move * cut.channels  # elements of the slab
        second = width.move * cut.channels if cut.pairs else 0
        self.slab = Slab(c, shape, cut.channels, lanes, second=second)
        self.chunks = (
            ceil_div(c.images, cut.images),
            ceil_div(depth.outputs, cut.depths),
            ceil_div(height.outputs, cut.rows),
        )
        element = "i32" if cut.pairs else c.element
        self.pack = matmul_pack.choose(
            c.source, element, lanes, g_strides[4], g_strides[3], cut.pairs
        )
        # Runs of elements that lie side by side in a slab: of the taps in front, then of channels.
        self.run_count = c.taps * cut.channels // cut.run
        self.run_pieces = list(segments(self.run_count, cut.runs))
        self.length_pieces = list(segments(cut.run, cut.length))
        self.cells = sum(n for _, n, _ in self.run_pieces) * sum(
            n for _, n, _ in self.length_pieces
        )
        self.cell = cut.runs * cut.length * self.tiling.width  # elements
        self.functions: dict[str, str] = {}

    def print(self) -> Lowered:
        stages = [self._multiply()]
        workspace = 0
        if self.cut.slices > 1:
            stages.append(self._add())
            workspace = self.cut.slices * self._sums_of_slice() * self.bytes
        packs = self._packs()
        shared = tuple(Source(matmul_pack.definition(p), (p.name,), shared=True) for p in packs)
        return Lowered(shared, tuple(stages), workspace)

    def _packs(self) -> list[matmul_pack.Pack]:
        return list(dict.fromkeys([*self.slab.packing.used(), self.pack]))

    def _sums_of_slice(self) -> int:
        """Elements of the sums of all parts of a slice."""
        blocks = self.c.groups * self.channel_blocks
        return blocks * self.panel_blocks * self.cut.panels * self.cells * self.cell

    def _multiply(self) -> Stage:
        c, cut = self.c, self.cut
        depth, height, _ = c.axes
        positions = cut.images * cut.depths * cut.rows * self.steps
        own_sums = cut.panels * self.cells * self.cell if cut.slices == 1 else 0
        slab_at = ceil_to(own_sums * self.bytes, ALIGN)
        gradient_at = ceil_to(slab_at + self.slab.elements(cut.images) * self.bytes, ALIGN)
        single_at = gradient_at + cut.panels * positions * self.tiling.width * self.bytes
        scratch = single_at + (self.slab.row_bytes if cut.pairs else 0)
        f = Function(
            f"define void @{self.name}(ptr noalias %args, i64 %part, ptr noalias %scratch)"
        )
        rest, part_slice = f.divide("%part", cut.slices)
        rest, panel_block = f.divide(rest, self.panel_blocks)
        group, channel_block = f.divide(rest, self.channel_blocks)
        panel0 = f.mul(panel_block, cut.panels)
        panels = f.smaller(f.sub(self.panels, panel0), cut.panels)
        channel = f.mul(channel_block, cut.channels)
        channels = f.smaller(f.sub(c.channels, channel), cut.channels)
        slab = f.at("i8", "%scratch", slab_at)
        gradient = f.at("i8", "%scratch", gradient_at)
        total = self._sums(f, part_slice, group, channel_block, panel_block)
        chunk_count = self.chunks[0] * self.chunks[1] * self.chunks[2]
        if self.c.channels % cut.channels:  # the last block has fewer: no garbage in sums
            zeros(f, c.element, slab, self.slab.elements(cut.images))
        with f.loop(part_slice, chunk_count, cut.slices) as chunk:
            rest, y_block = f.divide(chunk, self.chunks[2])
            image_block, z_block = f.divide(rest, self.chunks[1])
            image0, z, y = (
                f.mul(image_block, cut.images), f.mul(z_block, cut.depths), f.mul(y_block, cut.rows)
            )  # fmt: skip
            image1 = f.smaller(f.add(image0, cut.images), c.images)
            depths = f.smaller(f.sub(depth.outputs, z), cut.depths)
            rows = f.smaller(f.sub(height.outputs, y), cut.rows)
            starts = (
                f.add(f.mul(z, depth.move), depth.lowest),
                f.add(f.mul(y, height.move), height.lowest),
            )
            first = f.add(f.mul(group, c.channels), channel)
            single = f.at("i8", "%scratch", single_at) if cut.pairs else ""
            self.slab.fill(f, f.word(0), (image0, image1), starts, (first, channels),
                           self.slab.shape[:2], slab, single)  # fmt: skip
            column = f.add(f.mul(group, c.outputs), f.mul(panel0, self.tiling.width))
            columns = f.smaller(
                f.sub(c.outputs, f.mul(panel0, self.tiling.width)), cut.panels * self.tiling.width
            )
            self._pack_gradient(
                f, (image0, image1), (z, depths), (y, rows), (column, columns), gradient, positions
            )
            images = f.sub(image1, image0)
            entries = images if cut.trimmed else f.mul(f.mul(images, depths), rows)
            more = f.let(f"icmp sgt i64 {chunk}, {part_slice}")
            with f.loop(0, panels) as panel:
                b = f.at(c.element, gradient, f.mul(panel, positions * self.tiling.width))
                here = f.at(c.element, total, f.mul(panel, self.cells * self.cell))
                is_last = f.let(f"icmp eq i64 {f.add(panel0, panel)}, {self.panels - 1}")
                self._tiles(f, slab, b, here, entries, more, is_last)
        if cut.slices == 1:
            self._finish(f, [total], group, channel_block, panel0, panels)
        f.line("ret void")
        tables = self._tables()
        parts = c.groups * self.channel_blocks * self.panel_blocks * cut.slices
        text = "\n".join([
            *[matmul_pack.declaration(pack) for pack in self._packs()],
            sums_need(self.summed, self.tiling.lanes),
            *([self.epilogue] if cut.slices == 1 else []),
            *tables, *self.functions.values(), str(f), "",
        ])  # fmt: skip
        return Stage(text, self.name, parts, scratch)

    def _sums(
        self, f: Function, part_slice: str, group: str, channel_block: str, panel_block: str
    ) -> str:
        """The address of the sums of a part."""
        if self.cut.slices == 1:
            return "%scratch"
        index = f.add(f.mul(group, self.channel_blocks), channel_block)
        index = f.add(f.mul(index, self.panel_blocks), panel_block)
        index = f.mul(index, self.cut.panels * self.cells * self.cell)
        index = f.add(index, f.mul(part_slice, self._sums_of_slice()))
        return f.at(self.c.element, f.word(2), index)

    def _pack_gradient(
        self, f: Function, images: tuple[str, str], depths: tuple[str, str], rows: tuple[str, str],
        columns: tuple[str, str], target: str, positions: int,
    ) -> None:  # fmt: skip
        """g for a chunk, in panels of outputs: (panels, positions or pairs of them, width)."""
        c, tiling, width = self.c, self.tiling, self.c.axes[2].outputs
        n_stride, z_stride, y_stride, x_stride, o_stride = self.g_strides
        start = f.at(c.source, f.word(1), f.mul(columns[0], o_stride))
        with (
            f.loop(images[0], images[1]) as n,
            f.loop(0, depths[1]) as z,
            f.loop(0, rows[1]) as y,
        ):
            place = f.add(f.mul(n, n_stride), f.mul(f.add(depths[0], z), z_stride))
            place = f.add(place, f.mul(f.add(rows[0], y), y_stride))
            source = f.at(c.source, start, place)
            line = f.add(f.mul(f.sub(n, images[0]), depths[1]), z)
            line = f.add(f.mul(line, rows[1]), y)
            there = f.at(c.element, target, f.mul(line, self.steps * tiling.width))
            with f.loop(0, columns[1], tiling.lanes) as o:
                panel, inside = f.divide(o, tiling.width)
                here = f.add(f.mul(panel, positions * tiling.width), inside)
                count = f.smaller(f.sub(columns[1], o), tiling.lanes)
                first, to = f.at(c.source, source, f.mul(o, o_stride)), f.at(c.element, there, here)
                f.line(
                    f"call void @{self.pack.name}(ptr {first}, i64 {o_stride}, i64 {x_stride}, "
                    f"i64 {count}, i64 {width}, ptr {to}, i64 {tiling.width})"
                )

    def _tables(self) -> list[str]:
        """Offsets of the rows of positions of a chunk in the slab and in a panel of g: of all, or
        for each tap along the height of those that it finds inside of the input.
        """
        if not self.cut.trimmed:
            return [table("rows", self._entries(range(self.cut.rows)))]
        _, height, _ = self.c.axes
        return [table(f"rows{t}", self._entries(self._inside(1, t))) for t in range(height.kernel)]

    def _entries(self, rows: range) -> list[tuple[int, int]]:
        cut, strides = self.cut, self.slab.strides
        depth, height, _ = self.c.axes
        entries = []
        for n, z, y in combinations(range(cut.images), range(cut.depths), rows):
            a = n * strides[0] + z * depth.move * strides[1] + y * height.move * strides[2]
            line = (n * cut.depths + z) * cut.rows + y
            entries.append((a, line * self.steps * self.tiling.width))
        return entries

    def _inside(self, axis: int, tap: int) -> range:
        """The outputs along an axis for which a tap is inside of the input."""
        phase, size = self.phases[axis], self.c.axes[axis].size
        found = [i for i in range(phase.outputs) if tap in phase.inside(i, size)]
        return range(found[0], found[-1] + 1) if found else range(0)

    def _run_place(self, run: int) -> int:
        """Where the taps of a run begin in the slab."""
        merged = self.cut.run > self.cut.channels or self.c.axes[2].kernel == 1
        kernels = [axis.kernel for axis in self.c.axes]
        if merged and self.cut.run == self.cut.channels * kernels[2]:
            kernels[2] = 1
        place = 0
        for axis, kernel, stride in zip(
            reversed((0, 1, 2)), reversed(kernels), reversed(self.slab.strides[1:]), strict=True
        ):
            run, t = divmod(run, kernel)
            phase = self.phases[axis]
            place += (phase.place + t * phase.place_step - self.c.axes[axis].lowest) * stride
        return place

    def _tiles(
        self, f: Function, slab: str, b: str, total: str, entries: str, more: str, is_last: str
    ) -> None:
        """All tiles of a panel."""
        c, width = self.c, self.c.axes[2]
        more = f.let(f"zext i1 {more} to i64")
        cell = 0
        for first, count, high in self.run_pieces:
            for piece in range(count):
                start = first + piece * high
                places = [self._run_place(start + i) for i in range(high)]
                for begin, number, long in self.length_pieces:
                    vectors = self.tiling.vectors
                    left = c.outputs - (self.panels - 1) * self.tiling.width
                    last = ceil_div(left, self.tiling.lanes)
                    offsets = [place - places[0] + j for place in places for j in range(long)]
                    name = self._tile(offsets, vectors)
                    if last < vectors:
                        name = f.choose(is_last, "ptr", self._tile(offsets, last), name)
                    rows, count_of_rows, inner, skipped = "@rows", entries, self.steps, 0
                    if self.cut.trimmed:
                        tap = divmod(start * self.cut.run // self.cut.channels, width.kernel)
                        down, across = self._inside(1, tap[0]), self._inside(2, tap[1])
                        rows, inner, skipped = f"@rows{tap[0]}", len(across), across.start
                        count_of_rows = f.mul(entries, len(down) if inner else 0)
                    source = f.at(c.element, b, skipped * self.tiling.width)
                    first_place = places[0] + begin + skipped * width.move * self.cut.channels
                    with f.loop(0, number) as j:
                        a = f.at(c.element, slab, f.add(f.mul(j, long), first_place))
                        here = f.at(c.element, total, f.mul(f.add(j, cell), self.cell))
                        f.line(
                            f"call void {name}(ptr {a}, ptr {source}, ptr {rows}, "
                            f"i64 {count_of_rows}, i64 {max(1, inner)}, ptr {here}, i64 {more})"
                        )
                    cell += number

    def _tile(self, places: list[int], vectors: int) -> str:
        key = sha256(str(places).encode()).hexdigest()[:8]
        name = f"tile_{key}x{vectors}"
        if name not in self.functions:
            self.functions[name] = self._print_tile(name, places, vectors)
        return f"@{name}"

    def _print_tile(self, name: str, places: list[int], vectors: int) -> str:
        c, lanes = self.c, self.tiling.lanes
        f = Function(
            f"define internal void @{name}(ptr noalias readonly %a, ptr noalias readonly %b, "
            "ptr readonly %table, i64 %entries, i64 %inner, ptr noalias %tile, i64 %more) noinline"
        )
        made = sums(f, self.summed, lanes, places, vectors, (self.step, self.tiling.width))
        kind, align = f"<{lanes} x {c.element}>", lanes * self.bytes
        f.line("%adds = icmp ne i64 %more, 0")
        f.line("br i1 %adds, label %add, label %store")
        for mode in ("add", "store"):
            f.label(mode)
            for r, row in enumerate(made):
                for v, value in enumerate(row):
                    place = f.at(c.element, "%tile", r * self.tiling.width + v * lanes)
                    if mode == "add":
                        old = f.let(f"load {kind}, ptr {place}, align {align}")
                        value = f.let(f"fadd {kind} {old}, {value}")
                    f.line(f"store {kind} {value}, ptr {place}, align {align}")
            f.line("ret void")
        return str(f)

    def _finish(
        self, f: Function, totals: list[str], group: str, channel_block: str, panel0: str,
        panels: str,
    ) -> None:  # fmt: skip
        """Give the sums of a part to the epilogue, those of all slices added in order."""
        with f.loop(0, panels) as panel:
            offset = f.mul(panel, self.cells * self.cell)
            here = [f.at(self.c.element, total, offset) for total in totals]
            column = f.mul(f.add(panel0, panel), self.tiling.width)
            self._finish_panel(f, here, group, channel_block, column)

    def _finish_panel(
        self, f: Function, totals: list[str], group: str, channel_block: str, column: str
    ) -> None:
        """Rows are walked as (run, element): each element is a tap and a channel."""
        cut, cell = self.cut, 0
        tiles_of_run = sum(n for _, n, _ in self.length_pieces)
        for first, count, high in self.run_pieces:
            for begin, number, long in self.length_pieces:
                with f.loop(0, count) as piece, f.loop(0, number) as j, f.loop(0, high) as i:
                    tile = f.add(f.mul(piece, tiles_of_run), f.add(j, cell))
                    run = f.add(f.add(f.mul(piece, high), i), first)
                    with f.loop(0, long) as k:
                        row = f.add(f.mul(i, long), k)
                        place = f.add(f.mul(tile, self.cell), f.mul(row, self.tiling.width))
                        element = f.add(f.add(f.mul(j, long), k), begin)
                        tap, channel = f.divide(element, cut.channels)
                        tap = f.add(f.mul(run, cut.run // cut.channels), tap)
                        channel = f.add(channel, f.mul(channel_block, cut.channels))
                        if self.c.channels % cut.channels:
                            inside = f.let(f"icmp slt i64 {channel}, {self.c.channels}")
                        else:
                            inside = "true"
                        with f.when(inside):
                            m = f.add(f.mul(tap, self.c.channels), channel)
                            self._finish_row(f, totals, place, group, m, column)
                cell += number
            cell += tiles_of_run * (count - 1)

    def _finish_row(
        self, f: Function, totals: list[str], place: str, group: str, m: str, column: str
    ) -> None:
        c, lanes = self.c, self.tiling.lanes
        kind, align = f"<{lanes} x {c.element}>", lanes * self.bytes
        columns = f.smaller(f.sub(c.outputs, column), self.tiling.width)
        with f.loop(0, columns, lanes) as o:
            value = ""
            for total in totals:
                source = f.at(c.element, total, f.add(place, o))
                term = f.let(f"load {kind}, ptr {source}, align {align}")
                value = f.let(f"fadd {kind} {value}, {term}") if value else term
            count = f.smaller(f.sub(columns, o), lanes) if c.outputs % lanes else str(lanes)
            f.line(
                f"call void @epilogue(ptr %args, i64 {group}, i64 {m}, i64 {f.add(column, o)}, "
                f"{kind} {value}, i64 {count})"
            )

    def _add(self) -> Stage:
        """The sums of all slices, one part for each panel of a block."""
        c, cut = self.c, self.cut
        name = f"{self.name}_add"
        f = Function(f"define void @{name}(ptr noalias %args, i64 %part, ptr noalias %scratch)")
        rest, panel = f.divide("%part", cut.panels)
        rest, panel_block = f.divide(rest, self.panel_blocks)
        group, channel_block = f.divide(rest, self.channel_blocks)
        panel0 = f.add(f.mul(panel_block, cut.panels), panel)
        offset = f.mul(panel, self.cells * self.cell)
        with f.when(f.let(f"icmp slt i64 {panel0}, {self.panels}")):
            totals = [
                f.at(c.element, self._sums(f, str(s), group, channel_block, panel_block), offset)
                for s in range(cut.slices)
            ]
            column = f.mul(panel0, self.tiling.width)
            self._finish_panel(f, totals, group, channel_block, column)
        f.line("ret void")
        parts = c.groups * self.channel_blocks * self.panel_blocks * cut.panels
        text = "\n".join([self.epilogue, str(f), ""])
        return Stage(text, name, parts, 0)
