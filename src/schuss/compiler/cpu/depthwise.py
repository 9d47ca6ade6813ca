"""Depthwise convolutions of the CPU target, and others with small groups, channels last.

Vectors run along the outputs of many groups, where those of convolution.py run along the outputs
of one: of a vector of channels, shuffles make one vector for each channel of a group, which in a
depthwise convolution proper is what it was. A tile is a vector for each of some positions in a row,
summed up in registers.

Where x can be read in place, no copy of it is made: rows of taps that fall outside of the input are
not entered, and the tiles at the ends of a row are functions of their own, without the taps that
fall off there. A large x is asked for a row ahead. Elsewhere (half precision, channels apart, wide
kernels) a part packs what it needs into a slab with a border of zeros (convolution_text.py), in
which no tap is outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product as combinations
from math import prod

from schuss.compiler.cpu import matmul_pack
from schuss.compiler.cpu.block_sums import Block, RowBlocks, row_blocks, rows_of, sums_up
from schuss.compiler.cpu.convolution_plan import Convolution, lanes_for, segments, slab_shape
from schuss.compiler.cpu.convolution_text import Slab, table
from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.matmul import Lowered, PrintEpilogue, this_machine
from schuss.compiler.cpu.matmul_micro import declare_fma, fma, size
from schuss.compiler.cpu.matmul_pack import declare_masked_load, mask_below, masked_load, shuffle
from schuss.compiler.cpu.matmul_plan import ALIGN, ELEMENTS, Machine, ceil_div, ceil_to
from schuss.compiler.cpu.matmul_stages import Stage
from schuss.compiler.cpu.matmul_text import Function
from schuss.compiler.geometry import Phase
from schuss.dtypes import DType

Ranges = tuple[range, ...]  # of taps, for each column of a tile

_SLAB = 256 << 10  # bytes of packed input, which should stay in a second-level cache
_COLUMNS = 14  # of a tile, at most
UNROLLED = 8  # taps of a row, up to which they are written out
_MOST = 7  # channels of a group, at most
_PARTS = 16  # that a convolution should have, ...
_PART = 200_000  # ... each of so many multiply-adds at least
_FAR = 8 << 20  # bytes of x of which rows come from memory


@dataclass(frozen=True)
class Plan:
    """How such a convolution is cut.

    A part is `images` images, one position along the depth, `rows` positions of each phase along
    the height, all of the width, and `outputs` outputs. Tiles have up to `columns` positions;
    the taps of a row are written out if `unrolled`, else walked, and their weights for `held`
    channels of a group are in registers together.
    """

    lanes: int
    columns: int
    images: int
    rows: int
    outputs: int
    packed: bool
    unrolled: bool
    held: int


def applies(dtype: DType, groups: int, channels: int, outputs: int) -> bool:
    """Whether these templates, and not those of convolution.py, should compute a convolution."""
    lanes = this_machine().vector_bytes // size(ELEMENTS[str(dtype)][1])
    return groups > 1 and outputs <= lanes // 2 and channels <= min(_MOST, 4 * outputs)


def plan(c: Convolution, machine: Machine) -> Plan:
    """Cut a convolution none of whose sizes is 0."""
    depth, height, width = c.axes
    lanes = lanes_for(machine, c.element, c.all_outputs)
    step = lanes // c.outputs * c.outputs
    widest = max(phase.taps for phase in width.phases)
    unrolled = widest <= UNROLLED
    taps = max(1, widest) if unrolled else 1
    held = min(c.channels, max(1, machine.registers * 3 // 8 // taps))
    most = _COLUMNS if c.channels == 1 else _COLUMNS // 2  # shuffled vectors take registers too
    columns = min(most, machine.registers - held * taps - 2)
    packed = not unrolled or not is_readable(c)
    rows, outputs = height.most, c.all_outputs
    if packed:
        while rows > 1 and _slab_bytes(c, rows, outputs) > _SLAB:
            rows = ceil_div(rows, 2)
        while outputs > step and _slab_bytes(c, rows, outputs) > _SLAB:
            outputs = ceil_to(ceil_div(outputs, 2), step)
    images, wanted = 1, wanted_parts(c)
    while images * 2 * _PARTS <= c.images and images * c.work < _PART:
        images *= 2

    def parts() -> int:
        blocks = ceil_div(height.most, rows) * ceil_div(c.all_outputs, outputs)
        return ceil_div(c.images, images) * depth.most * blocks

    while parts() < wanted and rows > 1:
        rows = ceil_div(rows, 2)
    while parts() < wanted and outputs > step:
        outputs = ceil_to(ceil_div(outputs, 2), step)
    return Plan(lanes, columns, images, rows, outputs, packed, unrolled, held)


def is_readable(c: Convolution) -> bool:
    """Whether vectors along the channels of x can be loaded as they are."""
    return c.source == c.element and c.x_strides[-1] == 1


def is_far(c: Convolution) -> bool:
    """Whether x is so large that rows of it come from memory, and hardly any is left out."""
    elements = c.images * prod(axis.size for axis in c.axes) * c.groups * c.channels
    return elements * size(c.element) > _FAR and max(axis.move for axis in c.axes) <= 2


def wanted_parts(c: Convolution) -> int:
    """How many parts a convolution should have at least."""
    return min(_PARTS, max(1, c.images * c.work // _PART))


def block_count(c: Convolution) -> int:
    """Over how many blocks of rows an epilogue sums up."""
    return _blocks(c).total


def _blocks(c: Convolution) -> RowBlocks:
    depth, height, width = c.axes
    return row_blocks(c.images, combinations(depth.phases, height.phases), width.outputs)


def _slab_bytes(c: Convolution, rows: int, outputs: int) -> int:
    return prod(slab_shape(c, rows)) * outputs * c.channels // c.outputs * size(c.element)


def lower(c: Convolution, print_epilogue: PrintEpilogue, machine: Machine | None = None) -> Lowered:
    """The launches of a convolution; words are x, the weights, and from 3 on the epilogue's.

    Weights are dense: (taps of the three axes, channels of a group, outputs of all groups), in the
    type of the sums.
    """
    cut = plan(c, machine or this_machine())
    epilogue = print_epilogue("epilogue", cut.lanes, c.accumulator)
    key = sha256(f"{c}{cut}{epilogue}".encode()).hexdigest()[:16]
    return _Printer(c, cut, epilogue, f"depthwise_{key}").print()


class Vectors:
    """Vectors along the outputs of several groups, and of the channels that these look at.

    Where groups do not fill a vector, its last lanes are left out, and the ends of rows may fill
    one in part: such vectors are loaded under a mask.
    """

    def __init__(self, c: Convolution, lanes: int) -> None:
        self.c, self.element, self.lanes = c, c.element, lanes
        self.kind = f"<{lanes} x {c.element}>"
        self.step = lanes // c.outputs * c.outputs
        taken = self.step // c.outputs * c.channels
        self.taken = 1 << (taken - 1).bit_length()  # lanes of the vector of channels
        self.full = self.step == lanes and self.taken == taken
        self._masks: tuple[str, str] | None = None

    def inputs(self, f: Function, outputs: str) -> str:
        """The channels of so many outputs, those of whole groups."""
        if self.c.channels == self.c.outputs:
            return outputs
        return f.mul(f.divide(outputs, self.c.outputs)[0], self.c.channels)

    def slot(self, f: Function, first: str) -> str:
        """Where a vector of outputs is, if each has a vector's memory for itself."""
        if self.step == self.lanes:
            return first
        return f.mul(f.divide(first, self.step)[0], self.lanes)

    def walk(self, f: Function, outputs: str) -> Iterator[tuple[str, str]]:
        """The first output and the number of outputs of each vector, for a `for` whose body is
        printed once for full vectors and once, if need be, for what is left.
        """
        done = "0"
        if self.full:
            exact = self.c.all_outputs % self.step == 0
            rest = "0" if exact else f.let(f"and i64 {outputs}, {self.lanes - 1}")
            done = f.sub(outputs, rest)
            with f.loop(0, done, self.lanes) as first:
                yield first, str(self.lanes)
            if exact:
                return
        with f.loop(done, outputs, self.step) as first:
            count = f.smaller(f.sub(outputs, first), self.step)
            self._masks = (
                mask_below(f, self.lanes, count),
                mask_below(f, self.taken, self.inputs(f, count)),
            )
            yield first, count
            self._masks = None

    def load(self, f: Function, pointer: str) -> str:
        """A vector of outputs."""
        return self._load(f, pointer, self.lanes, self._masks and self._masks[0])

    def spread(self, f: Function, pointer: str, wanted: Sequence[int]) -> dict[int, str]:
        """For each wanted channel of a group a vector with that channel of each output's group."""
        c = self.c
        x = self._load(f, pointer, self.taken, self._masks and self._masks[1])
        if c.channels == c.outputs == 1:
            return {0: x}
        found = {}
        for channel in wanted:
            order = [lane // c.outputs * c.channels + channel for lane in range(self.step)]
            order += order[-1:] * (self.lanes - self.step)
            found[channel] = shuffle(f, c.element, (x, "poison"), self.taken, order)
        return found

    def _load(self, f: Function, pointer: str, lanes: int, mask: str | None) -> str:
        if mask:
            return masked_load(f, self.element, lanes, pointer, mask)
        kind = f"<{lanes} x {self.element}>"
        return f.let(f"load {kind}, ptr {pointer}, align {size(self.element)}")

    def needs(self, epilogue: str) -> str:
        """Declarations beside those of an epilogue."""
        found = [declare_fma(self.element, self.lanes)]
        for lanes in dict.fromkeys([self.lanes, self.taken]):
            masked = declare_masked_load(self.element, lanes)
            if f"{masked[masked.index('@') : masked.index('(')]}(" not in epilogue:
                found.append(masked)
        return "".join(found)


def pieces(phase: Phase, size: int, most: int, clipped: bool) -> list[tuple[int, int, Ranges]]:
    """The outputs of a phase cut into tiles of at most `most`: for each run of tiles that meet the
    same taps its first output, the number of tiles and the taps of each output of a tile.

    Taps outside of an input of `size` positions are left out if `clipped`.
    """
    found: list[tuple[int, int, Ranges]] = []
    for start, number, wide in segments(phase.outputs, most):
        for first in range(start, start + number * wide, wide):
            ranges = tuple(
                phase.inside(i, size) if clipped else range(phase.taps)
                for i in range(first, first + wide)
            )
            if found and found[-1][2] == ranges:
                found[-1] = found[-1][0], found[-1][1] + 1, ranges
            else:
                found.append((first, 1, ranges))
    return found


class _Printer:
    def __init__(self, c: Convolution, cut: Plan, epilogue: str, name: str) -> None:
        self.blocks = _blocks(c) if sums_up(epilogue) else None
        if self.blocks:
            cut = replace(cut, rows=self.blocks.whole(cut.rows, c.axes[1].most))
        self.c, self.cut, self.epilogue, self.name = c, cut, epilogue, name
        self.row_blocks = ceil_div(c.axes[1].most, cut.rows)
        self.output_blocks = ceil_div(c.all_outputs, cut.outputs)
        channels = cut.outputs // c.outputs * c.channels
        self.slab = Slab(c, slab_shape(c, cut.rows), channels, cut.lanes)
        self.strides = self.slab.strides if cut.packed else c.x_strides[:4]
        self.tap = c.channels * c.all_outputs  # weights of a tap
        self.vectors = Vectors(c, cut.lanes)
        self.functions: dict[str, str] = {}
        self.tables: dict[str, str] = {}
        self.is_far = not cut.packed and is_far(c)

    def print(self) -> Lowered:
        c, cut = self.c, self.cut
        depth, height, _ = c.axes
        f = Function(
            f"define void @{self.name}(ptr noalias %args, i64 %part, ptr noalias %scratch)"
        )
        rest, output_block = f.divide("%part", self.output_blocks)
        rest, row_block = f.divide(rest, self.row_blocks)
        image_block, z = f.divide(rest, depth.most)
        image0, y0 = f.mul(image_block, cut.images), f.mul(row_block, cut.rows)
        output = f.mul(output_block, cut.outputs)
        outputs = output, f.smaller(f.sub(c.all_outputs, output), cut.outputs)
        y1 = f.smaller(f.add(y0, cut.rows), height.most)
        with f.loop(image0, f.smaller(f.add(image0, cut.images), c.images)) as n:
            origin = self._origin(f, n, (z, y0), outputs)
            with f.loop(y0, y1) as y:
                for sort, phases in enumerate(combinations(depth.phases, height.phases)):
                    inside = [
                        f.let(f"icmp slt i64 {at}, {phase.outputs}")
                        for at, phase in zip((z, y), phases, strict=True)
                    ]
                    with f.when(f.let(f"and i1 {inside[0]}, {inside[1]}")):
                        self._row(f, sort, phases, origin, (n, z, y), outputs)
        f.line("ret void")
        packs = list(dict.fromkeys(self.slab.packing.used())) if cut.packed else []
        text = "\n".join([
            *[matmul_pack.declaration(pack) for pack in packs], self.vectors.needs(self.epilogue),
            self.epilogue, *self.tables.values(), *self.functions.values(), str(f), "",
        ])  # fmt: skip
        shared = tuple(Source(matmul_pack.definition(p), (p.name,), shared=True) for p in packs)
        parts = ceil_div(c.images, cut.images) * depth.most * self.row_blocks * self.output_blocks
        scratch = self.slab.elements(1) * size(c.element) if cut.packed else 0
        return Lowered(shared, (Stage(text, self.name, parts, scratch),), 0)

    def _origin(self, f: Function, n: str, at: tuple[str, str], outputs: tuple[str, str]) -> str:
        """Where the first channel of the first position of an image is, or would be, if all of it
        were in the slab.
        """
        c = self.c
        first, count = [self.vectors.inputs(f, each) for each in outputs]
        if not self.cut.packed:
            return f.at(c.element, f.word(0), f.add(f.mul(n, c.x_strides[0]), first))
        lows = self.slab.lows
        z, y = (
            f.add(f.mul(i, axis.move), low)
            for i, axis, low in zip(at, c.axes[:2], lows[:2], strict=True)
        )
        if self.output_blocks == 1:
            first, count = "0", str(c.groups * c.channels)
        self.slab.fill(
            f, f.word(0), (n, f.add(n, 1)), (z, y), (first, count), self.slab.shape[:2], "%scratch"
        )
        _, s_depth, s_row, s_column = self.strides
        back = f.add(f.add(f.mul(z, s_depth), f.mul(y, s_row)), lows[2] * s_column)
        return f.at(c.element, "%scratch", f.sub(0, back))

    def _row(
        self, f: Function, sort: int, phases: tuple[Phase, Phase], origin: str,
        at: tuple[str, str, str], outputs: tuple[str, str],
    ) -> None:  # fmt: skip
        """The outputs of a row of positions, for phases along depth and height: the `sort`-th."""
        c, width = self.c, self.c.axes[2]
        weights = f.at(c.element, f.word(1), outputs[0])
        m, counts, tap_row = at[0], [], width.kernel * self.tap
        steps = (c.axes[1].kernel * tap_row, tap_row)
        for axis, phase in enumerate(phases):
            i, stride = at[1 + axis], self.strides[1 + axis]
            first, count = self._inside(f, axis, phase, i)
            counts.append(count)
            place = f.add(f.mul(i, phase.move), f.mul(first, phase.place_step))
            origin = f.at(c.element, origin, f.mul(f.add(place, phase.place), stride))
            tap = f.add(f.mul(first, phase.tap_step), phase.tap)
            weights = f.at(c.element, weights, f.mul(tap, steps[axis]))
            line = f.add(f.mul(i, phase.every), phase.first)
            m = f.add(f.mul(m, c.axes[axis].outputs), line)
        m = f.mul(m, width.outputs)
        for px in width.phases:
            b = f.at(c.element, weights, px.tap * self.tap)
            cuts = pieces(px, width.size, self.cut.columns, not self.cut.packed)
            for start, number, ranges in cuts:
                wide = len(ranges)
                with f.loop(0, number) as j:
                    x = f.add(f.mul(j, wide), start)
                    a = f.at(c.element, origin, f.mul(x, px.move * self.strides[3]))
                    here = f.add(m, f.add(f.mul(x, px.every), px.first))
                    more = self._block(f, sort, at, x if px.first == 0 else "")
                    f.line(
                        f"call void @{self._tile((*phases, px), ranges)}(ptr %args, ptr {a}, "
                        f"ptr {b}, i64 {counts[0]}, i64 {counts[1]}, i64 {here}, "
                        f"i64 {outputs[0]}, i64 {outputs[1]}{more})"
                    )

    def _block(self, f: Function, sort: int, at: tuple[str, str, str], first: str) -> str:
        """The block of a tile, and whether it is the first one there, which has output 0 as its
        `first` one: the last arguments of a tile, if the epilogue sums up anything.
        """
        if self.blocks is None:
            return ""
        block, inside = self.blocks.at(f, sort, *at)
        begins = f.let(f"icmp eq i64 {first}, 0") if first else "false"
        is_first = f.let(f"and i1 {f.let(f'icmp eq i64 {inside}, 0')}, {begins}")
        return f", i64 {block}, i1 {is_first}"

    def _inside(self, f: Function, axis: int, phase: Phase, i: str) -> tuple[str, str]:
        """The first and the number of the taps of output i that are inside of the input."""
        if self.cut.packed:
            return "0", str(phase.taps)
        name = f"inside{axis}_{phase.first}"
        spans = [phase.inside(i, self.c.axes[axis].size) for i in range(phase.outputs)]
        self.tables[name] = table(name, [(span.start, len(span)) for span in spans])
        pair = f.at("{i64, i64}", f"@{name}", i)
        return f.let(f"load i64, ptr {pair}"), f.let(f"load i64, ptr {f.at('i64', pair, 1)}")

    def _tile(self, phases: tuple[Phase, Phase, Phase], ranges: Ranges) -> str:
        key = sha256(f"{phases}{ranges}".encode()).hexdigest()[:8]
        name = f"tile_{key}"
        if name not in self.functions:
            self.functions[name] = self._print_tile(name, phases, ranges)
        return name

    def _print_tile(self, name: str, phases: tuple[Phase, Phase, Phase], ranges: Ranges) -> str:
        c, kind, (pz, py, px) = self.c, self.vectors.kind, phases
        f = Function(
            f"define internal void @{name}(ptr %args, ptr noalias readonly %a, "
            "ptr noalias readonly %b, i64 %deep, i64 %high, i64 %m, i64 %output, i64 %outputs"
            f"{', i64 %block, i1 %first' if self.blocks else ''}) noinline"
        )
        sums = [f.let(f"alloca {kind}") for _ in ranges]
        tap_row = c.axes[2].kernel * self.tap
        for first, count in self.vectors.walk(f, "%outputs"):
            for place in sums:
                f.line(f"store {kind} zeroinitializer, ptr {place}")
            if "@epilogue_ahead(" in self.epilogue:
                n = f.add("%output", first)
                for j in range(len(ranges)):
                    m = f.add("%m", j * px.every)
                    f.line(f"call void @epilogue_ahead(ptr %args, i64 0, i64 {m}, i64 {n})")
            x = f.at(c.element, "%a", self.vectors.inputs(f, first))
            weights = f.at(c.element, "%b", first)
            if self.is_far:
                self._ask_ahead(f, py, len(ranges) * px.move, x)
            with f.loop(0, "%deep") as tz, f.loop(0, "%high") as ty:
                a, b = x, weights
                for phase, t, stride, step in (
                    (pz, tz, self.strides[1], c.axes[1].kernel * tap_row),
                    (py, ty, self.strides[2], tap_row),
                ):
                    a = f.at(c.element, a, f.mul(t, phase.place_step * stride))
                    b = f.at(c.element, b, f.mul(t, phase.tap_step * step))
                if self.cut.unrolled:
                    self._add_taps(f, px, ranges, a, b, sums)
                else:
                    with f.loop(0, px.taps) as t:
                        a = f.at(c.element, a, f.mul(t, px.place_step * self.strides[3]))
                        b = f.at(c.element, b, f.mul(t, px.tap_step * self.tap))
                        self._add_taps(f, px, (range(1),) * len(ranges), a, b, sums)
            n = f.add("%output", first)
            block = Block("%block", "%first") if self.blocks else None
            with rows_of(f, block, n, count) as rows:
                for j, place in enumerate(sums):
                    value, m = f.let(f"load {kind}, ptr {place}"), f.add("%m", j * px.every)
                    more = rows.arguments(f, "false" if j else "true") if rows else ""
                    f.line(
                        f"call void @epilogue(ptr %args, i64 0, i64 {m}, i64 {n}, "
                        f"{kind} {value}, i64 {count}{more})"
                    )
        f.line("ret void")
        return str(f)

    def _ask_ahead(self, f: Function, py: Phase, columns: int, x: str) -> None:
        """Ask for what the next row of outputs is the first to look at.

        The processor does not foresee these reads: channels of a few positions after those of a
        few others, and then of other rows.
        """
        last = f.mul(f.sub("%high", 1), max(0, py.place_step))
        lines = range(0, self.vectors.taken * size(self.c.element), ALIGN)
        for row in range(1, py.move + 1):
            there = f.at(self.c.element, x, f.mul(f.add(last, row), self.strides[2]))
            for column, line in combinations(range(columns), lines):
                position = f.at(self.c.element, there, column * self.strides[3])
                pointer = f.at("i8", position, line)
                f.line(f"call void @llvm.prefetch.p0(ptr {pointer}, i32 0, i32 2, i32 1)")

    def _add_taps(
        self, f: Function, px: Phase, ranges: Ranges, a: str, b: str, sums: list[str]
    ) -> None:
        """Add taps of a row to the sums of a tile; what several of them meet is loaded once."""
        c, kind, vectors = self.c, self.vectors.kind, self.vectors
        met: dict[int, list[tuple[int, int]]] = {}
        for j, taps in enumerate(ranges):
            for t in taps:
                met.setdefault(px.place + t * px.place_step + j * px.move, []).append((j, t))
        used = sorted({t for taps in ranges for t in taps})
        totals = [f.let(f"load {kind}, ptr {place}") for place in sums]
        for start in range(0, c.channels, self.cut.held):
            channels = range(start, min(start + self.cut.held, c.channels))
            weights = {}
            for t, channel in combinations(used, channels):
                row = t * px.tap_step * self.tap + channel * c.all_outputs
                weights[t, channel] = vectors.load(f, f.at(c.element, b, row))
            for column, pairs in sorted(met.items()):
                x = vectors.spread(f, f.at(c.element, a, column * self.strides[3]), channels)
                for channel, (j, t) in combinations(channels, pairs):
                    terms = x[channel], weights[t, channel], totals[j]
                    totals[j] = f.let(fma(f, c.element, self.cut.lanes, *terms))
        for total, target in zip(totals, sums, strict=True):
            f.line(f"store {kind} {total}, ptr {target}")
