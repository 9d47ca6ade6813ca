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

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from hashlib import sha256
from itertools import product as combinations

from schuss.compiler.cpu import matmul_pack
from schuss.compiler.cpu.block_sums import Block, RowBlocks, Rows, row_blocks, rows_of, sums_up
from schuss.compiler.cpu.convolution_plan import (
    Axes,
    Convolution,
    Plan,
    Tiling,
    plan,
    segments,
    slab_shape,
    tiling,
)
from schuss.compiler.cpu.convolution_text import Slab, sums, sums_need, table
from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.matmul import Lowered, PrintEpilogue, this_machine
from schuss.compiler.cpu.matmul_micro import plus, size
from schuss.compiler.cpu.matmul_plan import ALIGN, ELEMENTS, Machine, ceil_div, ceil_to
from schuss.compiler.cpu.matmul_stages import Stage
from schuss.compiler.cpu.matmul_text import Function
from schuss.compiler.geometry import Phase
from schuss.dtypes import DType

Phases = tuple[Phase, Phase, Phase]

# Epilogues of few lines are printed for each vector of a tile, which they find in a register, where
# its sum has few terms: others would take long to compile, and gain little.
_LINES, _TERMS = 40, 256
# Sums of more terms are formed of sums of so many, whose rounding errors are smaller.
_LONG, _PIECE = 1024, 512


def lower(c: Convolution, print_epilogue: PrintEpilogue, machine: Machine | None = None) -> Lowered:
    """The launches of a convolution; words are x, the weights, and from 3 on the epilogue's.

    Weights are dense: (groups, panels, taps of the three axes, channels, width of a panel), in the
    type of the sums or in pairs, with zeros behind the last output.
    """
    cut = plan(c, machine or this_machine())
    epilogue = print_epilogue("epilogue", cut.tiling.lanes, c.accumulator)
    key = sha256(f"{c}{cut}{epilogue}".encode()).hexdigest()[:16]
    return _Printer(c, cut, epilogue, f"convolution_{key}").print()


def has_pairs(dtype: DType) -> bool:
    """Whether the machine multiplies these numbers in pairs of channels, an even number of them."""
    return str(dtype) in this_machine().pairs


def panel_width(
    dtype: DType, images: int, channels: int, outputs: int, axes: Axes, pairs: bool
) -> int:
    """Outputs of a panel of weights, which `convolution` wants for these shapes."""
    element, channels = ELEMENTS[str(dtype)][1], ceil_div(channels, 2) if pairs else channels
    return tiling(this_machine(), element, images, channels, outputs, axes).width


def _blocks(c: Convolution, tiles: Tiling) -> RowBlocks:
    """The blocks over which an epilogue sums up."""
    phases = combinations(*[axis.phases for axis in c.axes])
    positions = tiles.images * c.axes[2].most
    return row_blocks(ceil_div(c.images, tiles.images), phases, positions, tiles.rows)


def block_count(c: Convolution) -> int:
    """Over how many blocks of rows an epilogue sums up."""
    cut = tiling(this_machine(), c.element, c.images, c.channels, c.outputs, c.axes)
    return _blocks(c, cut).total


class _Printer:
    def __init__(self, c: Convolution, cut: Plan, epilogue: str, name: str) -> None:
        self.blocks = _blocks(c, cut.tiling) if sums_up(epilogue) else None
        if self.blocks:
            cut = replace(cut, rows=self.blocks.whole(cut.rows, c.axes[1].most))
        self.c, self.cut, self.epilogue, self.name = c, cut, epilogue, name
        self.tiling = cut.tiling
        self.panels = ceil_div(c.outputs, self.tiling.width)
        self.row_blocks = ceil_div(c.axes[1].most, cut.rows)
        self.panel_blocks = ceil_div(self.panels, cut.panels)
        self.image_blocks = ceil_div(c.images, cut.images)
        self.by_image = self.tiling.images > 1  # tiles are of several images
        shape = slab_shape(c, cut.rows)
        if self.by_image:  # which leaves out taps outside of the input
            sizes = [axis.size for axis in c.axes]
            shape = (sizes[0], min(shape[1], sizes[1]), sizes[2])
        self.slab = Slab(c, shape, c.channels, self.tiling.lanes, border=not self.by_image)
        self.a_strides = c.x_strides[:4] if cut.in_place else self.slab.strides
        self.width = c.axes[2]
        merged = self.a_strides[3] == c.channels and self._taps_side_by_side()
        # Taps along the width are more channels, where these are few.
        self.merged = merged and c.channels <= _PIECE // 4
        self.functions: dict[str, str] = {}
        self.tables: list[str] = []
        self.bytes = size(c.element)
        self._kind = f"<{self.tiling.lanes} x {c.element}>"
        self._align = self.tiling.lanes * self.bytes

    def _taps_side_by_side(self) -> bool:
        return all(p.place_step == 1 and p.tap_step == 1 for p in self.width.phases)

    def print(self) -> Lowered:
        c, cut = self.c, self.cut
        tile = self.tiling
        cell = tile.images * tile.rows * tile.columns * tile.width * self.bytes
        slab_at = ceil_to(cell, ALIGN)
        scratch = slab_at + self.slab.elements(cut.images) * self.bytes
        f = Function(
            f"define void @{self.name}(ptr noalias %args, i64 %part, ptr noalias %scratch)"
        )
        if cut.heavy:
            rest, row_block = f.divide("%part", self.row_blocks)
            rest, panel_block = f.divide(rest, self.panel_blocks)
        else:
            rest, panel_block = f.divide("%part", self.panel_blocks)
            rest, row_block = f.divide(rest, self.row_blocks)
        rest, group = f.divide(rest, c.groups)
        image_block, z = f.divide(rest, c.axes[0].most)
        image0 = f.mul(image_block, cut.images)
        image1 = f.smaller(f.add(image0, cut.images), c.images)
        y = f.mul(row_block, cut.rows)
        panel0 = f.mul(panel_block, cut.panels)
        panel1 = f.smaller(f.add(panel0, cut.panels), self.panels)
        base = self._read(f, group, (image0, image1), (z, y), slab_at)
        for number, phases in enumerate(combinations(*self._phases())):
            if self.by_image:
                panels = group, panel0, panel1
                self._places(f, number, phases, panels, (image0, image1), y, base)
                continue
            with (
                f.when(f.let(f"icmp slt i64 {z}, {phases[0].outputs}")),
                f.loop(panel0, panel1) as panel,
                f.loop(image0, image1) as n,
            ):
                place = f.mul(f.sub(n, image0), self.a_strides[0])
                a = f.at(c.element, base, place)
                self._tiles(f, number, phases, (group, panel, n, z, y), a)
        f.line("ret void")
        parts = self.image_blocks * c.axes[0].most * c.groups * self.row_blocks * self.panel_blocks
        text = "\n".join([
            *[matmul_pack.declaration(pack) for pack in self._packs()],
            sums_need(c, self.tiling.lanes), self.epilogue, *self.tables,
            *self.functions.values(), str(f), "",
        ])  # fmt: skip
        shared = tuple(
            Source(matmul_pack.definition(pack), (pack.name,), shared=True)
            for pack in self._packs()
        )
        return Lowered(shared, (Stage(text, self.name, parts, scratch),), 0)

    def _phases(self) -> tuple[tuple[Phase, ...], tuple[Phase, ...], tuple[Phase, ...]]:
        depth, height, width = self.c.axes
        return depth.phases, height.phases, width.phases

    def _read(
        self, f: Function, group: str, images: tuple[str, str], at: tuple[str, str], slab_at: int
    ) -> str:
        """The address of the first position that the part looks at, in x or packed in a slab; for
        tiles of several images, that of the first of the image.

        `at` counts positions of phases along depth and height.
        """
        c = self.c
        x, axes = f.word(0), c.axes[:2]
        if not self.cut.in_place:
            base = f.at("i8", "%scratch", slab_at)
            starts = [
                f.add(f.mul(counter, axis.move), low)
                for counter, axis, low in zip(at, axes, self.slab.lows[:2], strict=True)
            ]
            channels = f.mul(group, c.channels), str(c.channels)
            depths, rows = self.slab.shape[:2]
            if not self.by_image:
                self.slab.fill(f, x, images, (starts[0], starts[1]), channels, (depths, rows), base)
                return base
            height = axes[1]
            low = f.add(starts[1], height.lowest)
            top = f.sub(0, f.smaller(f.sub(0, low), 0))
            count = f.sub(f.smaller(f.add(low, height.reach(self.cut.rows)), height.size), top)
            self.slab.fill(f, x, images, ("0", top), channels, (depths, count), base)
            return f.at(c.element, base, f.sub(0, f.mul(top, self.slab.strides[2])))
        first = f.add(f.mul(group, c.channels), f.mul(images[0], c.x_strides[0]))
        for counter, axis, stride in zip(at, axes, c.x_strides[1:3], strict=True):
            place = f.add(f.mul(counter, axis.move), axis.lowest)
            first = f.add(first, f.mul(place, stride))
        first = f.add(first, self.width.lowest * c.x_strides[3])
        return f.at(c.element, x, first)

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
        self.tables.append(table(f"taps{number}", self._taps(phases)))
        spans = [py.inside(i, c.axes[1].size) for i in range(py.outputs)]
        across = min(1, px.taps) if self.merged else px.taps
        self.tables.append(
            table(f"inside{number}", [(s.start * across, len(s) * across) for s in spans])
        )
        inner = px.taps * c.channels if self.merged else c.channels
        entries = pz.taps * py.taps * (min(1, px.taps) if self.merged else px.taps)
        rows = f.smaller(f.sub(py.outputs, y), self.cut.rows)
        panel_size = c.taps * c.channels * tiling.width
        index = f.add(f.mul(group, self.panels), panel)
        b = f.at(c.element, f.word(1), f.mul(index, panel_size))
        image = f.add(f.mul(n, c.axes[0].outputs), f.add(f.mul(z, pz.every), pz.first))
        column = f.add(f.mul(group, c.outputs), f.mul(panel, tiling.width))
        end = f.mul(f.add(group, 1), c.outputs)
        high = [tiling.rows, 1] if tiling.rows > 1 else [1]
        start = "0"
        for tall in high:
            whole = f.mul(f.let(f"sdiv i64 {f.sub(rows, start)}, {tall}"), tall) if tall > 1 else ""
            stop = f.add(start, whole) if whole else rows
            with f.loop(start, stop, tall) as i:
                line = f.add(f.mul(f.add(y, i), py.every), py.first)
                line = f.add(f.mul(image, c.axes[1].outputs), line)
                here = f.at(c.element, a, f.mul(i, py.move * self.a_strides[2]))
                taps, count_of_taps = f"@taps{number}", str(entries)
                if tall == 1 and pz.taps == 1:  # rows outside of the input add nothing
                    pair = f.at("{i64, i64}", f"@inside{number}", f.add(y, i))
                    taps = f.at("{i64, i64}", taps, f.let(f"load i64, ptr {pair}"))
                    count_of_taps = f.let(f"load i64, ptr {f.at('i64', pair, 1)}")
                for first, count, wide in segments(px.outputs, tiling.columns):
                    with f.loop(0, count) as j:
                        x = f.add(f.mul(j, wide), first)
                        m = f.add(f.mul(x, px.every), px.first)
                        m = f.add(f.mul(line, c.axes[2].outputs), m)
                        corner = f.at(c.element, here, f.mul(x, px.move * self.a_strides[3]))
                        place = f.add(f.mul(f.add(y, i), px.outputs), x)
                        soon = self._soon(f, corner, (1, tall, wide), b, panel, place)
                        self._call_tile(
                            f, (1, tall, wide), panel, f"ptr {corner}, ptr {b}, ptr {taps}, "
                            f"i64 {count_of_taps}, i64 {max(1, inner)}, i64 {m}, i64 0, "
                            f"i64 {py.every * c.axes[2].outputs}, i64 {px.every}, i64 {column}, "
                            f"i64 {end}, ptr %scratch, ptr {soon}"
                            f"{self._block(f, number, (n, z), f.add(y, i), j, first, tall)}",
                        )  # fmt: skip
            start = stop

    def _block(
        self, f: Function, number: int, image: tuple[str, str], row: str, j: str, first: int,
        tall: int,
    ) -> str:  # fmt: skip
        """The block of a tile at `row`, and whether it is the first one there: the last arguments
        of a tile, if the epilogue sums up anything.
        """
        if self.blocks is None:
            return ""
        block, inside = self.blocks.at(f, number, *image, row)
        starts = f.let(f"icmp ult i64 {inside}, {tall}")
        begins = f.let(f"icmp eq i64 {j}, 0") if first == 0 else "false"
        is_first = f.let(f"and i1 {starts}, {begins}")
        return f", i64 {block}, i1 {is_first}"

    def _places(
        self, f: Function, number: int, phases: Phases, panels: tuple[str, str, str],
        images: tuple[str, str], y: str, base: str,
    ) -> None:  # fmt: skip
        """All positions of a phase in rows from `y` on, one tile of images for each."""
        c, tiling = self.c, self.tiling
        group, panel0, panel1 = panels
        _, py, px = phases
        places = list(combinations(range(py.outputs), range(px.outputs)))
        rows = [self._taps_at(phases, i, j) for i, j in places]
        longest = max(len(row) for row in rows)
        name = f"places{number}"
        entries = [pair for row in rows for pair in row + [(0, 0)] * (longest - len(row))]
        self.tables.append(table(name, entries))
        count = f.sub(images[1], images[0])
        is_full = f.let(f"icmp eq i64 {count}, {tiling.images}")
        rest = c.images % tiling.images or tiling.images
        whole = c.axes[1].outputs * c.axes[2].outputs
        m0 = f.mul(images[0], whole)
        row1 = f.smaller(f.add(y, self.cut.rows), py.outputs)
        place0, place1 = f.mul(y, px.outputs), f.mul(row1, px.outputs)
        with f.loop(panel0, panel1) as panel, f.loop(place0, place1) as place:
            index = f.add(f.mul(group, self.panels), panel)
            panel_size = c.taps * c.channels * tiling.width
            b = f.at(c.element, f.word(1), f.mul(index, panel_size))
            column = f.add(f.mul(group, c.outputs), f.mul(panel, tiling.width))
            end = f.mul(f.add(group, 1), c.outputs)
            row = f.at("{i64, i64}", f"@{name}", f.mul(place, longest))
            numbers = [f.let(f"load i64, ptr {f.at('i64', row, i)}") for i in range(3)]
            taps = f.at("i64", row, 4)
            arguments = (
                f"ptr {base}, ptr {b}, ptr {taps}, i64 {numbers[0]}, i64 {numbers[1]}, "
                f"i64 {f.add(m0, numbers[2])}, i64 {whole}, i64 0, i64 0, i64 {column}, i64 {end}, "
                "ptr %scratch, ptr null"
            )
            i, j = f.divide(place, px.outputs)
            tile, _ = f.divide(images[0], tiling.images)
            arguments += self._block(f, number, (tile, "0"), i, j, 0, 1)
            self._call_tile(f, (tiling.images, 1, 1), panel, arguments, is_full, rest)

    def _taps_at(self, phases: Phases, i: int, j: int) -> list[tuple[int, int]]:
        """What the tile at a position needs: the number of taps and the length of each, where its
        row is in an image, and then the offsets of the taps, those inside of the input alone.
        """
        c, (_, py, px) = self.c, phases
        down, across = py.inside(i, c.axes[1].size), px.inside(j, c.axes[2].size)
        merged = self.merged and len(across) > 0
        taps = []
        for ty, tx in combinations(down, across[:1] if merged else across):
            iy = py.place + ty * py.place_step + i * py.move
            ix = px.place + tx * px.place_step + j * px.move
            tap = (py.tap + ty * py.tap_step) * c.axes[2].kernel + px.tap + tx * px.tap_step
            place = iy * self.a_strides[2] + ix * self.a_strides[3]
            taps.append((place, tap * c.channels * self.tiling.width))
        m = (py.first + i * py.every) * c.axes[2].outputs + px.first + j * px.every
        inner = len(across) * c.channels if merged else c.channels
        return [(len(taps), inner), (m, 0), *taps]

    def _call_tile(
        self, f: Function, shape: tuple[int, int, int], panel: str, arguments: str,
        is_full: str = "", rest: int = 0,
    ) -> None:  # fmt: skip
        """`rest` are the images of a tile that is not full."""
        vectors = self.tiling.vectors
        left = self.c.outputs - (self.panels - 1) * self.tiling.width
        last = ceil_div(left, self.tiling.lanes)

        def of_width(vectors: int) -> str:
            name = self._tile(*shape, vectors)
            if rest in (0, shape[0]):
                return name
            return f.choose(is_full, "ptr", name, self._tile(rest, *shape[1:], vectors))

        name = of_width(vectors)
        if last < vectors:
            is_last = f.let(f"icmp eq i64 {panel}, {self.panels - 1}")
            name = f.choose(is_last, "ptr", of_width(last), name)
        f.line(f"call void {name}(ptr %args, {arguments})")

    def _places_in_tile(self, images: int, rows: int, columns: int) -> list[int]:
        """Where the inputs of its rows lie, from the first one on."""
        down, across = (
            axis.move * stride
            for axis, stride in zip(self.c.axes[1:], self.a_strides[2:], strict=True)
        )
        cells = combinations(range(images), range(rows), range(columns))
        return [n * self.a_strides[0] + i * down + j * across for n, i, j in cells]

    def _asked_in_a_step(self, images: int, rows: int, columns: int) -> int:
        """How many elements a tile asks for in each step, of what is read after it.

        Where weights are heavy, each position asks for its share of the panel that comes next.
        Else, where the rows of a tile lie one behind the other, and so do those of the next one,
        a tile asks for these: the machine sees no stream in so many rows.
        """
        c, count = self.c, images * rows * columns
        if self.cut.heavy:
            return ceil_div(count * self.tiling.width, c.axes[1].outputs * c.axes[2].outputs)
        places = self._places_in_tile(images, rows, columns)
        dense = self.cut.in_place and c.taps == 1
        return count if dense and places == [r * c.channels for r in range(count)] else 0

    def _soon(
        self, f: Function, corner: str, shape: tuple[int, int, int], b: str, panel: str, place: str
    ) -> str:
        """From where on a tile asks ahead: its first input is at `corner`, its position `place`."""
        c, cut = self.c, self.cut
        if not self._asked_in_a_step(*shape):
            return "null"
        if not cut.heavy:
            return f.at(c.element, corner, shape[1] * shape[2] * c.channels)
        # Threads take parts from the front or from the end (executor.py): in the later half the
        # part before follows, whose first panel is the next to be read.
        steps = c.taps * c.channels
        is_last = f.let(f"icmp eq i64 {f.let(f'urem i64 {panel}, {cut.panels}')}, {cut.panels - 1}")
        late = f.let(f"icmp sge i64 {panel}, {self.panels // 2}")
        turns = f.let(f"and i1 {is_last}, {late}")
        away = [str(n * steps * self.tiling.width) for n in (1 - 2 * cut.panels, 1)]
        share = steps * self.tiling.width // (c.axes[1].outputs * c.axes[2].outputs)
        following = f.at(c.element, b, f.choose(turns, "i64", *away))
        return f.at(c.element, following, f.mul(place, share))

    def _tile(self, images: int, rows: int, columns: int, vectors: int) -> str:
        """The function for a tile of so many images, rows, columns and vectors."""
        name = f"tile_{images}x{rows}x{columns}x{vectors}"
        if name not in self.functions:
            self.functions[name] = self._print_tile(name, images, rows, columns, vectors)
        return f"@{name}"

    def _print_tile(self, name: str, images: int, rows: int, columns: int, vectors: int) -> str:
        c, lanes = self.c, self.tiling.lanes
        f = Function(
            f"define internal void @{name}(ptr %args, ptr noalias readonly %a, "
            "ptr noalias readonly %b, ptr readonly %table, i64 %entries, i64 %inner, i64 %m, "
            "i64 %image, i64 %row, i64 %column, i64 %n, i64 %end, ptr noalias %tile, ptr %soon"
            f"{', i64 %block, i1 %first' if self.blocks else ''}) noinline"
        )
        cells = list(combinations(range(images), range(rows), range(columns)))
        places = self._places_in_tile(images, rows, columns)
        if "@epilogue_ahead(" in self.epilogue:
            with self._rows_of_tile(f, images, rows, columns) as (_, m):
                for v in range(vectors):
                    n = f.add("%n", v * lanes)
                    f.line(f"call void @epilogue_ahead(ptr %args, i64 0, i64 {m}, i64 {n})")
        step = self._asked_in_a_step(images, rows, columns)
        if c.taps * c.channels > _LONG and c.taps > 1:
            self._sum_in_pieces(f, places, vectors, step)
            self._finish_later(f, (images, rows, columns), vectors)
        else:
            soon = ("%soon", step) if step else None
            made = sums(f, c, lanes, places, vectors, (1, self.tiling.width), soon=soon)
            if self.epilogue.count("\n") <= _LINES and c.taps * c.channels <= _TERMS:
                for some in self._vectors_at_once(vectors):
                    with self._sums(f, some[0], vectors) as kept:
                        for number, (cell, values) in enumerate(zip(cells, made, strict=True)):
                            row = str(number), self._row_of_tile(f, *cell)
                            self._finish(f, row, {v: values[v] for v in some}, vectors, kept)
            else:
                self._store_tile(f, made)
                self._finish_later(f, (images, rows, columns), vectors)
        f.line("ret void")
        return str(f)

    def _sum_in_pieces(self, f: Function, places: Sequence[int], vectors: int, step: int) -> None:
        """Sum up some taps at a time in registers, and these sums in the tile."""
        c, lanes = self.c, self.tiling.lanes
        self._store_tile(f, [["zeroinitializer"] * vectors for _ in places])
        terms = c.channels * (self.width.kernel if self.merged else 1)
        piece = max(1, _PIECE // terms)
        with f.loop(0, "%entries", piece) as e:
            some, left = f.at("{i64, i64}", "%table", e), f.sub("%entries", e)
            soon = f.at(c.element, "%soon", f.mul(f.mul(e, "%inner"), step)) if step else ""
            made = sums(f, c, lanes, places, vectors, (1, self.tiling.width),
                        some, f.smaller(left, piece), (soon, step) if step else None)  # fmt: skip
            self._store_tile(f, made, add=True)

    def _store_tile(self, f: Function, made: list[list[str]], add: bool = False) -> None:
        """Store rows of vectors, or add them to what is there."""
        for number, value in enumerate(value for row in made for value in row):
            place = f.at(self.c.element, "%tile", number * self.tiling.lanes)
            if add:
                before = self._load_vector(f, place)
                value = f.let(f"{plus(self.c.element)} {self._kind} {before}, {value}")
            f.line(f"store {self._kind} {value}, ptr {place}, align {self._align}")

    def _load_vector(self, f: Function, place: str) -> str:
        return f.let(f"load {self._kind}, ptr {place}, align {self._align}")

    def _vectors_at_once(self, vectors: int) -> list[list[int]]:
        """The vectors of a row together; where there are sums to keep, those of all rows are."""
        return [[v] for v in range(vectors)] if self.blocks else [list(range(vectors))]

    def _finish_later(self, f: Function, shape: tuple[int, int, int], vectors: int) -> None:
        """Give a tile that is stored to the epilogue, row by row."""
        lanes = self.tiling.lanes
        for some in self._vectors_at_once(vectors):
            with (
                self._sums(f, some[0], vectors) as kept,
                self._rows_of_tile(f, *shape) as (number, m),
            ):
                values = {}
                for v in some:
                    place = f.add(f.mul(number, vectors * lanes), v * lanes)
                    values[v] = self._load_vector(f, f.at(self.c.element, "%tile", place))
                self._finish(f, (number, m), values, vectors, kept)

    def _finish(
        self, f: Function, row: tuple[str, str], values: dict[int, str], vectors: int,
        kept: Rows | None,
    ) -> None:  # fmt: skip
        """Give some of the vectors of a row to the epilogue: its number in the tile, and `m`."""
        number, m = row
        more = kept.arguments(f, f.let(f"icmp eq i64 {number}, 0")) if kept else ""
        for v, value in values.items():
            n, count = self._columns(f, v, vectors)
            f.line(
                f"call void @epilogue(ptr %args, i64 0, i64 {m}, i64 {n}, "
                f"<{self.tiling.lanes} x {self.c.element}> {value}, i64 {count}{more})"
            )

    def _columns(self, f: Function, v: int, vectors: int) -> tuple[str, str]:
        """The first column of a vector, and how many it has."""
        lanes = self.tiling.lanes
        n = f.add("%n", v * lanes)
        is_whole = self.c.outputs % lanes == 0 or v < vectors - 1
        return n, str(lanes) if is_whole else f.smaller(f.sub("%end", n), lanes)

    def _sums(self, f: Function, v: int, vectors: int) -> AbstractContextManager[Rows | None]:
        """What the epilogue sums up over the rows of a tile in a vector of columns."""
        if not self.blocks:
            return nullcontext()
        return rows_of(f, Block("%block", "%first"), *self._columns(f, v, vectors))

    @contextmanager
    def _rows_of_tile(
        self, f: Function, images: int, rows: int, columns: int
    ) -> Iterator[tuple[str, str]]:
        """A loop over the rows of a tile: where they are in it, and in the result."""
        with f.loop(0, images) as g, f.loop(0, rows) as i, f.loop(0, columns) as j:
            number = f.add(f.mul(f.add(f.mul(g, rows), i), columns), j)
            yield number, self._row_of_tile(f, g, i, j)

    def _row_of_tile(self, f: Function, g: str | int, i: str | int, j: str | int) -> str:
        """Where image, row and column of a tile are in the result."""
        position = f.add(f.mul(i, "%row"), f.mul(j, "%column"))
        return f.add(f.add("%m", f.mul(g, "%image")), position)
