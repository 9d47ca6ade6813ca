"""Direct convolutions with few outputs: vectors along the images.

Vectors along the outputs would be half empty. A part brings rows of some images into a slab in
which the same element of all of them lies side by side, so that every lane has work and no tap
outside of the input is met. A tile is one position: the sums of some outputs, for a few vectors of
images. The results of a row are turned round again for the epilogue, which goes along the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from itertools import product as combinations

from schuss.compiler.cpu import matmul_pack
from schuss.compiler.cpu.convolution_plan import Convolution, lanes_for, segments, tiling
from schuss.compiler.cpu.convolution_text import sums, sums_need, table
from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.matmul import Lowered, PrintEpilogue, this_machine
from schuss.compiler.cpu.matmul_micro import size
from schuss.compiler.cpu.matmul_plan import ALIGN, Machine, ceil_div, ceil_to
from schuss.compiler.cpu.matmul_stages import Stage
from schuss.compiler.cpu.matmul_text import Function
from schuss.compiler.geometry import UNIT, Axis, Phase

_FILLED = 0.8  # share of the lanes along outputs, or images, that is enough
_FEWEST = 16  # multiply-adds of an output that make up for turning it round
_MOST_VECTORS = 4  # of images
_SLAB = 640 << 10  # bytes of packed input, which should stay in a second-level cache
_PARTS = 16  # that a convolution should have


@dataclass(frozen=True)
class Plan:
    """How such a convolution is cut.

    A part is `vectors` vectors of images and `rows` positions of each phase along the height, all
    of the width. A tile has up to `outputs` outputs of a panel, which has `width`. The vectors that
    the epilogue gets have `across` lanes.
    """

    lanes: int
    vectors: int
    rows: int
    outputs: int
    width: int
    across: int

    @property
    def images(self) -> int:
        """Of a part."""
        return self.lanes * self.vectors


def applies(c: Convolution, machine: Machine | None = None) -> bool:
    """Whether this template, and not that of convolution.py, should compute a convolution."""
    machine = machine or this_machine()
    lanes = machine.vector_bytes // size(c.element)
    across = lanes_for(machine, c.element, c.outputs)
    depth, height, width = c.axes
    if c.groups > 1 or depth != UNIT or c.outputs > _FILLED * ceil_to(c.outputs, across):
        return False
    work = c.channels * height.meetings * width.meetings / (height.outputs * width.outputs)
    if c.images < _FILLED * ceil_to(c.images, lanes) or work < _FEWEST:
        return False
    return _slab_elements(c, 1) * machine.vector_bytes <= _SLAB


def _slab_elements(c: Convolution, rows: int) -> int:
    """Of one image, for so many positions of each phase along the height."""
    _, height, width = c.axes
    return min(height.reach(rows), height.size) * width.size * c.channels


def plan(c: Convolution, machine: Machine) -> Plan:
    """Cut a convolution none of whose sizes is 0."""
    lanes = machine.vector_bytes // size(c.element)
    vectors = min(_MOST_VECTORS, ceil_div(c.images, lanes))
    while vectors > 1 and _slab_elements(c, 1) * vectors * machine.vector_bytes > _SLAB:
        vectors -= 1
    rows, blocks = c.axes[1].most, ceil_div(c.images, lanes * vectors)

    def is_large() -> bool:
        slab = _slab_elements(c, rows) * vectors * machine.vector_bytes
        return slab > _SLAB or blocks * ceil_div(c.axes[1].most, rows) < _PARTS

    while rows > 1 and is_large():
        rows = ceil_div(rows, 2)
    most = max(1, (machine.registers - vectors - 2) // vectors)
    width = tiling(machine, c.element, c.images, c.channels, c.outputs, c.axes).width
    outputs = ceil_div(min(c.outputs, width), ceil_div(min(c.outputs, width), most))
    return Plan(lanes, vectors, rows, outputs, width, lanes_for(machine, c.element, c.outputs))


def lower(c: Convolution, print_epilogue: PrintEpilogue, machine: Machine | None = None) -> Lowered:
    """The launches of a convolution; words and weights are those of `convolution.lower`."""
    cut = plan(c, machine or this_machine())
    epilogue = print_epilogue("epilogue", cut.across, c.accumulator)
    key = sha256(f"{c}{cut}{epilogue}".encode()).hexdigest()[:16]
    return _Printer(c, cut, epilogue, f"convolution_images_{key}").print()


class _Printer:
    def __init__(self, c: Convolution, cut: Plan, epilogue: str, name: str) -> None:
        self.c, self.cut, self.epilogue, self.name = c, cut, epilogue, name
        _, self.height, self.width = c.axes
        self.column = c.channels * cut.images  # elements of the slab, as all these
        self.row = self.width.size * self.column
        self.slab = min(self.height.reach(cut.rows), self.height.size) * self.row
        self.results = self.width.outputs * c.outputs  # of a row of positions and an image
        self.line = ceil_to(self.results, cut.lanes) + cut.lanes  # what that takes, turned round
        self.row_blocks = ceil_div(self.height.most, cut.rows)
        # Runs of elements of x whose steps are all the same.
        *_, x_column, x_channel = c.x_strides
        if c.channels == 1 or x_column == c.channels * x_channel:
            self.runs, self.run = 1, self.width.size * c.channels
            self.x_step = x_column if c.channels == 1 else x_channel
        else:
            self.runs, self.run, self.x_step = c.channels, self.width.size, x_column
        self.into = matmul_pack.choose(c.source, c.element, cut.lanes, c.x_strides[0], self.x_step)
        self.out_of = matmul_pack.choose(c.element, c.element, cut.lanes, cut.images, 1)
        self.functions: dict[str, str] = {}
        self.tables: dict[str, str] = {}

    def print(self) -> Lowered:
        c, cut = self.c, self.cut
        f = Function(
            f"define void @{self.name}(ptr noalias %args, i64 %part, ptr noalias %scratch)"
        )
        block, row_block = f.divide("%part", self.row_blocks)
        image0, y0 = f.mul(block, cut.images), f.mul(row_block, cut.rows)
        images = f.smaller(f.sub(c.images, image0), cut.images)
        y1 = f.smaller(f.add(y0, cut.rows), self.height.most)
        top = self._fill(f, image0, images, y0, y1)
        bytes_ = size(c.element)
        sums_at = ceil_to(self.slab * bytes_, ALIGN)
        turned_at = ceil_to(sums_at + self.results * cut.images * bytes_, ALIGN)
        here, turned = f.at("i8", "%scratch", sums_at), f.at("i8", "%scratch", turned_at)
        for phase in self.height.phases:
            with f.loop(y0, f.smaller(y1, phase.outputs)) as i:
                self._row(f, phase, i, top, images, here)
                self._turn(f, here, images, turned)
                y = f.add(f.mul(i, phase.every), phase.first)
                self._finish(f, turned, image0, images, y)
        f.line("ret void")
        packs = list(dict.fromkeys([self.into, self.out_of]))
        text = "\n".join([
            *[matmul_pack.declaration(pack) for pack in packs],
            sums_need(c, cut.lanes), self.epilogue, *self.tables.values(),
            *self.functions.values(), str(f), "",
        ])  # fmt: skip
        shared = tuple(Source(matmul_pack.definition(p), (p.name,), shared=True) for p in packs)
        parts = ceil_div(c.images, cut.images) * self.row_blocks
        scratch = turned_at + cut.images * self.line * bytes_
        return Lowered(shared, (Stage(text, self.name, parts, scratch),), 0)

    def _fill(self, f: Function, image0: str, images: str, y0: str, y1: str) -> str:
        """Pack what the part needs of x; return the first row of the input in the slab."""
        c, cut, height = self.c, self.cut, self.height
        low = f.add(f.mul(y0, height.move), height.lowest)
        top = f.sub(0, f.smaller(f.sub(0, low), 0))
        last = f.add(f.mul(f.sub(y1, 1), height.move), height.highest)
        x = f.at(c.source, f.word(0), f.mul(image0, c.x_strides[0]))
        with (
            f.loop(top, f.smaller(f.add(last, 1), height.size)) as y,
            f.loop(0, self.runs) as channel,
            f.loop(0, images, cut.lanes) as n,
        ):
            place = f.add(f.mul(n, c.x_strides[0]), f.mul(y, c.x_strides[2]))
            source = f.at(c.source, x, f.add(place, f.mul(channel, c.x_strides[4])))
            place = f.add(f.mul(f.sub(y, top), self.row), f.mul(channel, cut.images))
            target = f.at(c.element, "%scratch", f.add(place, n))
            step = cut.images * (c.channels if self.runs > 1 else 1)
            f.line(
                f"call void @{self.into.name}(ptr {source}, i64 {c.x_strides[0]}, "
                f"i64 {self.x_step}, i64 {f.smaller(f.sub(images, n), cut.lanes)}, i64 {self.run}, "
                f"ptr {target}, i64 {step})"
            )
        return top

    def _row(self, f: Function, py: Phase, i: str, top: str, images: str, target: str) -> None:
        """The sums of a row of positions, (position, output, image)."""
        c, cut = self.c, self.cut
        first, down = self._inside(f, self.height, py, i)
        start = f.add(f.sub(py.place, top), f.mul(i, py.move))
        a_row = f.at(c.element, "%scratch", f.mul(start, self.row))
        for px in self.width.phases:
            taps = f.at("{i64, i64}", self._taps(py, px), f.mul(first, c.channels))
            with f.loop(0, px.outputs) as j:
                skipped, across = self._inside(f, self.width, px, j)
                is_outside = f.let(f"icmp eq i64 {across}, 0")
                entries = f.choose(is_outside, "i64", 0, f.mul(down, c.channels))
                inner = f.choose(is_outside, "i64", 1, across)
                place = f.add(f.mul(j, px.move), f.mul(skipped, px.place_step))
                x = f.at(c.element, a_row, f.mul(f.add(place, px.place), self.column))
                w = f.mul(skipped, px.tap_step * c.channels * cut.width)
                w = f.at(c.element, f.word(1), w)
                at = f.add(f.mul(j, px.every), px.first)
                here = f.at(c.element, target, f.mul(at, c.outputs * cut.images))
                for start_, number, wide in self._pieces():
                    name = self._tile_for(f, wide, px, images)
                    panel, inside = divmod(start_, cut.width)
                    offset = panel * c.taps * c.channels * cut.width + inside
                    with f.loop(0, number) as k:
                        weights = f.at(c.element, w, f.add(f.mul(k, wide), offset))
                        place = f.mul(f.add(f.mul(k, wide), start_), cut.images)
                        f.line(
                            f"call void {name}(ptr {weights}, ptr {x}, ptr {taps}, i64 {entries}, "
                            f"i64 {inner}, ptr {f.at(c.element, here, place)})"
                        )

    def _pieces(self) -> list[tuple[int, int, int]]:
        """Runs of tiles: the first output, how many tiles, and their outputs."""
        found = []
        for panel in range(0, self.c.outputs, self.cut.width):
            count = min(self.cut.width, self.c.outputs - panel)
            for start, number, wide in segments(count, self.cut.outputs):
                found.append((panel + start, number, wide))
        return found

    def _inside(self, f: Function, axis: Axis, phase: Phase, i: str) -> tuple[str, str]:
        """The first tap of output i of a phase that is inside of the input, and how many are."""
        spans = [phase.inside(each, axis.size) for each in range(phase.outputs)]
        name = f"{'inside_y' if axis is self.height else 'inside_x'}{axis.phases.index(phase)}"
        self.tables[name] = table(name, [(span.start, len(span)) for span in spans])
        pair = f.at("{i64, i64}", f"@{name}", i)
        return f.let(f"load i64, ptr {pair}"), f.let(f"load i64, ptr {f.at('i64', pair, 1)}")

    def _taps(self, py: Phase, px: Phase) -> str:
        """A table of where taps along the height, and channels, are among weights and in the slab;
        those along the width come one after the other.
        """
        c, cut = self.c, self.cut
        number = self.height.phases.index(py) * len(self.width.phases) + self.width.phases.index(px)
        entries = []
        for t, channel in combinations(range(py.taps), range(c.channels)):
            tap = (py.tap + t * py.tap_step) * self.width.kernel + px.tap
            weight = (tap * c.channels + channel) * cut.width
            entries.append((weight, t * py.place_step * self.row + channel * cut.images))
        self.tables[f"taps{number}"] = table(f"taps{number}", entries)
        return f"@taps{number}"

    def _tile_for(self, f: Function, outputs: int, px: Phase, images: str) -> str:
        """The function for a tile; the last images may be fewer vectors."""
        cut = self.cut
        name = self._tile(outputs, cut.vectors, px)
        last = ceil_div(self.c.images % cut.images, cut.lanes) or cut.vectors
        if last == cut.vectors:
            return name
        is_last = f.let(f"icmp sle i64 {images}, {last * cut.lanes}")
        return f.choose(is_last, "ptr", self._tile(outputs, last, px), name)

    def _tile(self, outputs: int, vectors: int, px: Phase) -> str:
        c, cut = self.c, self.cut
        steps = px.tap_step * c.channels * cut.width, px.place_step * self.column
        name = f"tile_{outputs}x{vectors}_{self.width.phases.index(px)}"
        if name in self.functions:
            return f"@{name}"
        f = Function(
            f"define internal void @{name}(ptr noalias readonly %a, ptr noalias readonly %b, "
            "ptr readonly %table, i64 %entries, i64 %inner, ptr noalias %target) noinline"
        )
        made = sums(f, c, cut.lanes, range(outputs), vectors, steps)
        kind, align = f"<{cut.lanes} x {c.element}>", cut.lanes * size(c.element)
        for r, v in combinations(range(outputs), range(vectors)):
            place = f.at(c.element, "%target", r * cut.images + v * cut.lanes)
            f.line(f"store {kind} {made[r][v]}, ptr {place}, align {align}")
        f.line("ret void")
        self.functions[name] = str(f)
        return f"@{name}"

    def _turn(self, f: Function, source: str, images: str, target: str) -> None:
        """(position, output, image) to (image, position, output)."""
        cut, element = self.cut, self.c.element
        with f.loop(0, self.results, cut.lanes) as k:
            count = f.smaller(f.sub(self.results, k), cut.lanes)
            f.line(
                f"call void @{self.out_of.name}(ptr {f.at(element, source, f.mul(k, cut.images))}, "
                f"i64 {cut.images}, i64 1, i64 {count}, i64 {images}, "
                f"ptr {f.at(element, target, k)}, i64 {self.line})"
            )

    def _finish(self, f: Function, source: str, image0: str, images: str, y: str) -> None:
        """Give a row of positions of each image to the epilogue."""
        c, cut = self.c, self.cut
        kind = f"<{cut.across} x {c.element}>"
        with f.loop(0, images) as i, f.loop(0, self.width.outputs) as x:
            m = f.add(f.mul(f.add(image0, i), self.height.outputs), y)
            m = f.add(f.mul(m, self.width.outputs), x)
            place = f.add(f.mul(i, self.line), f.mul(x, c.outputs))
            with f.loop(0, c.outputs, cut.across) as o:
                here = f.at(c.element, source, f.add(place, o))
                value = f.let(f"load {kind}, ptr {here}, align {size(c.element)}")
                count = f.smaller(f.sub(c.outputs, o), cut.across)
                f.line(
                    f"call void @epilogue(ptr %args, i64 0, i64 {m}, i64 {o}, {kind} {value}, "
                    f"i64 {count})"
                )
