"""The gradient for the weights of a depthwise convolution, or another with small groups.

    dw[t, c, o] = sum over n and positions p of x[n, q(p, t), c of the group of o] * g[n, p, o]

A part goes through chunks of images and rows. For each vector of outputs the sums are
held in registers while the positions of a chunk go by. Where x can be read in place, rows outside
of it are read from a row of zeros, and the ends of rows leave taps out; elsewhere a chunk is packed
into a slab with a border of zeros. The sums of all slices of the chunks are added in order at the
end. Rows of the result are (taps, channels of a group), columns the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from itertools import product as combinations

from schuss.compiler.cpu import matmul_pack
from schuss.compiler.cpu.convolution_plan import Convolution, lanes_for, segments
from schuss.compiler.cpu.convolution_text import Slab, zeros
from schuss.compiler.cpu.convolution_weight import Strides
from schuss.compiler.cpu.depthwise import (
    UNROLLED,
    Ranges,
    Vectors,
    is_far,
    is_readable,
    pieces,
    wanted_parts,
)
from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.matmul import Lowered, PrintEpilogue, this_machine
from schuss.compiler.cpu.matmul_micro import fma, size
from schuss.compiler.cpu.matmul_plan import ALIGN, Machine, ceil_div, ceil_to
from schuss.compiler.cpu.matmul_stages import Stage
from schuss.compiler.cpu.matmul_text import Function
from schuss.compiler.geometry import forward_axis

_CHUNK = 256 << 10  # bytes of x and g, which should stay in a second-level cache
_ZEROS = 64 << 10  # bytes of a row of zeros, at most
_POSITIONS = 64  # for which sums are held in registers, at least
_COLUMNS = 8  # positions that are added in a step, at most
_CHAINS = 8  # sums that should be under way at a time


@dataclass(frozen=True)
class Plan:
    """How a gradient for the weights is cut.

    A part has the sums for `outputs` outputs of a slice, `chunks` chunks one after the other, each
    `rows` rows of one position along the depth of one image. In registers are the sums of up to
    `taps` pairs of a tap and a channel of a group at a time, in `copies` that are added at the end,
    while `columns` positions are added in a step.
    """

    lanes: int
    outputs: int
    slices: int
    chunks: int
    rows: int
    taps: int
    copies: int
    columns: int
    packed: bool


def plan(c: Convolution, machine: Machine) -> Plan:
    """Cut the gradient for the weights of a convolution none of whose sizes is 0."""
    depth, height, width = c.axes
    lanes = lanes_for(machine, c.element, c.all_outputs)
    step = lanes // c.outputs * c.outputs
    most, pairs = machine.registers * 9 // 16, c.taps * c.channels
    taps = ceil_div(pairs, ceil_div(pairs, most))
    copies = min(ceil_div(_CHAINS, taps), most // taps)
    columns = _COLUMNS if c.channels == 1 else _COLUMNS // 2  # shuffled vectors take registers too
    columns = min(columns, width.outputs, machine.registers - taps * copies - 2)
    packed = not is_readable(c) or min(c.x_strides) < 0 or width.kernel > UNROLLED
    packed |= _zeros(c) * size(c.element) > _ZEROS
    rows, outputs, wanted = height.outputs, c.all_outputs, wanted_parts(c)
    if not packed:  # as they come from memory
        rows = min(rows, ceil_div(_POSITIONS, width.outputs))

    def needs() -> int:
        slab = depth.reach(1) * height.reach(rows) * width.reach(width.outputs) * c.channels
        return (slab // c.outputs + rows * width.outputs) * outputs * size(c.element)

    def chunks() -> int:
        return c.images * depth.outputs * ceil_div(height.outputs, rows)

    while rows > 1 and ((packed and needs() > _CHUNK) or chunks() < wanted):
        rows = ceil_div(rows, 2)
    while outputs > step and (
        (packed and needs() > _CHUNK) or chunks() * ceil_div(c.all_outputs, outputs) < wanted
    ):
        outputs = ceil_to(ceil_div(outputs, 2), step)
    slices = min(chunks(), ceil_div(wanted, ceil_div(c.all_outputs, outputs)))
    share = ceil_div(chunks(), slices)
    slices = ceil_div(chunks(), share)
    copies = min(copies, columns)
    return Plan(lanes, outputs, slices, share, rows, taps, copies, columns, packed)


def _zeros(c: Convolution) -> int:
    """Elements of a row of zeros, if any position looks at one outside of the input."""
    inside = all(
        axis.lowest >= 0 and axis.lowest + axis.reach(axis.most) <= axis.size for axis in c.axes[:2]
    )
    return 0 if inside else (c.axes[2].size - 1) * c.x_strides[3] + c.groups * c.channels


def lower_weight(
    c: Convolution,
    g_strides: Strides,
    print_epilogue: PrintEpilogue,
    machine: Machine | None = None,
) -> Lowered:
    """The launches of the gradient for the weights of the convolution `c`.

    Words are x, the gradient of y, the workspace and those of the epilogue; `g_strides` are those
    of the gradient's images, three axes and outputs.
    """
    cut = plan(c, machine or this_machine())
    epilogue = print_epilogue("epilogue", cut.lanes, c.accumulator)
    key = sha256(f"{c}{g_strides}{cut}{epilogue}".encode()).hexdigest()[:16]
    return _Printer(c, g_strides, cut, epilogue, f"depthwise_weight_{key}").print()


class _Printer:
    def __init__(
        self, c: Convolution, g_strides: Strides, cut: Plan, epilogue: str, name: str
    ) -> None:
        self.c, self.cut, self.epilogue, self.name = c, cut, epilogue, name
        depth, height, width = c.axes
        self.phases = [axis.phases[0] for axis in c.axes]
        shape = depth.reach(1), height.reach(cut.rows), width.reach(width.outputs)
        self.slab = Slab(c, shape, cut.outputs // c.outputs * c.channels, cut.lanes)
        self.strides = self.slab.strides if cut.packed else c.x_strides[:4]
        # g as the input of a convolution of one tap, to be packed as x is
        d, h, w = [forward_axis(a.outputs, 1, 1, 0, 1, a.outputs) for a in c.axes]
        g = Convolution(c.dtype, c.images, c.all_outputs, 1, 1, (d, h, w), g_strides)
        self.in_place = is_readable(g)
        self.g_slab = Slab(g, (1, cut.rows, width.outputs), cut.outputs, cut.lanes)
        self.g_strides = g_strides[:4] if self.in_place else self.g_slab.strides
        self.vectors = Vectors(c, cut.lanes)
        self.pairs = c.taps * c.channels
        self.row = ceil_div(cut.outputs, self.vectors.step) * cut.lanes  # sums of a pair
        self.output_blocks = ceil_div(c.all_outputs, cut.outputs)
        self.row_blocks = ceil_div(height.outputs, cut.rows)
        self.bytes = size(c.element)
        self.is_far = not cut.packed and self.in_place and is_far(c)

    def print(self) -> Lowered:
        stages, workspace = [self._multiply()], 0
        if self.cut.slices > 1:
            stages.append(self._add())
            workspace = self.output_blocks * self.cut.slices * self._block() * self.bytes
        shared = tuple(
            Source(matmul_pack.definition(pack), (pack.name,), shared=True)
            for pack in self._packs()
        )
        return Lowered(shared, tuple(stages), workspace)

    def _packs(self) -> list[matmul_pack.Pack]:
        g_packs = [] if self.in_place else self.g_slab.packing.used()
        return list(dict.fromkeys([*self.slab.packing.used(), *g_packs]))

    def _block(self) -> int:
        """Elements of the sums of a part."""
        return self.pairs * self.row

    def _outputs(self, f: Function, block: str) -> tuple[str, str]:
        """The first output and the number of outputs of a block."""
        if self.output_blocks == 1:
            return "0", str(self.c.all_outputs)
        first = f.mul(block, self.cut.outputs)
        return first, f.smaller(f.sub(self.c.all_outputs, first), self.cut.outputs)

    def _multiply(self) -> Stage:
        c, cut = self.c, self.cut
        depth, height, _ = c.axes
        own = 0 if cut.slices > 1 else self._block()
        x_count = self.slab.elements(1) if cut.packed else _zeros(c)
        g_count = 0 if self.in_place else self.g_slab.elements(1)
        x_at = ceil_to(own * self.bytes, ALIGN)
        g_at = ceil_to(x_at + x_count * self.bytes, ALIGN)
        f = Function(
            f"define void @{self.name}(ptr noalias %args, i64 %part, ptr noalias %scratch)"
        )
        sums = [f.let(f"alloca {self.vectors.kind}") for _ in range(cut.taps * cut.copies)]
        output_block, part_slice = f.divide("%part", cut.slices)
        outputs = self._outputs(f, output_block)
        total = "%scratch"
        if cut.slices > 1:
            total = f.at(c.element, f.word(2), f.mul("%part", self._block()))
        zeros(f, c.element, total, self._block())
        packed_x, packed_g = f.at("i8", "%scratch", x_at), f.at("i8", "%scratch", g_at)
        if not cut.packed:
            zeros(f, c.element, packed_x, x_count)
        chunks = c.images * depth.outputs * self.row_blocks
        start = f.mul(part_slice, cut.chunks)
        with f.loop(start, f.smaller(f.add(start, cut.chunks), chunks)) as chunk:
            rest, row_block = f.divide(chunk, self.row_blocks)
            n, z = f.divide(rest, depth.outputs)
            y = f.mul(row_block, cut.rows)
            rows = f.smaller(f.sub(height.outputs, y), cut.rows)
            x = self._x(f, (n, z, y), outputs, packed_x)
            g = self._g(f, (n, z, y), rows, outputs, packed_g)
            for first, _ in self.vectors.walk(f, outputs[1]):
                inputs = self.vectors.inputs(f, first)
                a, outside = [f.at(c.element, place, inputs) for place in (x, packed_x)]
                b = f.at(c.element, g, first)
                here = f.at(c.element, total, self.vectors.slot(f, first))
                self._add_rows(f, (a, outside), b, (z, y, rows), here, sums)
        if cut.slices == 1:
            self._finish(f, [total], outputs)
        f.line("ret void")
        text = "\n".join([
            *[matmul_pack.declaration(pack) for pack in self._packs()],
            self.vectors.needs(self.epilogue), self.epilogue, str(f), "",
        ])  # fmt: skip
        scratch = g_at + g_count * self.bytes
        return Stage(text, self.name, self.output_blocks * cut.slices, scratch)

    def _x(
        self, f: Function, at: tuple[str, str, str], outputs: tuple[str, str], target: str
    ) -> str:
        """Where the first position of an image is, or would be, if all of it were in the slab."""
        c, (n, *places), lows = self.c, at, self.slab.lows
        first, count = [self.vectors.inputs(f, each) for each in outputs]
        if not self.cut.packed:
            return f.at(c.element, f.word(0), f.add(f.mul(n, c.x_strides[0]), first))
        z, y = [
            f.add(f.mul(i, axis.move), low)
            for i, axis, low in zip(places, c.axes[:2], lows[:2], strict=True)
        ]
        images = n, f.add(n, 1)
        self.slab.fill(f, f.word(0), images, (z, y), (first, count), self.slab.shape[:2], target)
        back = f.add(f.mul(z, self.strides[1]), f.mul(y, self.strides[2]))
        return f.at(c.element, target, f.sub(0, f.add(back, lows[2] * self.strides[3])))

    def _g(
        self, f: Function, at: tuple[str, str, str], rows: str, outputs: tuple[str, str],
        target: str,
    ) -> str:  # fmt: skip
        """Where the first row of a chunk is in the gradient of y."""
        n, z, y = at
        if not self.in_place:
            images = n, f.add(n, 1)
            self.g_slab.fill(f, f.word(1), images, (z, y), outputs, (1, rows), target)
            return target
        place = outputs[0]
        for i, stride in zip(at, self.g_strides, strict=False):
            place = f.add(place, f.mul(i, stride))
        return f.at(self.c.element, f.word(1), place)

    def _add_rows(
        self, f: Function, x: tuple[str, str], b: str, at: tuple[str, str, str], total: str,
        sums: list[str],
    ) -> None:  # fmt: skip
        """Add the positions of a chunk to the sums of all pairs of a tap and a channel.

        `x` are the image and a row of zeros; `at` is where the chunk is, along depth and height,
        and how many rows it has.
        """
        c, cut, kind = self.c, self.cut, self.vectors.kind
        px, (z, y0, rows) = self.phases[2], at
        cuts = pieces(px, c.axes[2].size, cut.columns, not cut.packed)
        for first, number, many in segments(self.pairs, cut.taps):
            for start in range(first, first + number * many, many):
                pairs = range(start, start + many)
                for place in sums[: many * cut.copies]:
                    f.line(f"store {kind} zeroinitializer, ptr {place}")
                with f.loop(0, rows) as y:
                    lines = self._lines(f, x, (z, f.add(y0, y)), pairs)
                    there = f.at(c.element, b, f.mul(y, self.g_strides[2]))
                    for x0, tiles, ranges in cuts:
                        # A count that LLVM does not know keeps each piece in a block of its own:
                        # together, their sums and operands would not fit into the registers.
                        count = f.let(f'call i64 asm "", "=r,0"(i64 {tiles})')
                        with f.loop(0, count) as j:
                            column = f.add(f.mul(j, len(ranges)), x0)
                            step = f.mul(column, px.move * self.strides[3])
                            a = {t: f.at(c.element, line, step) for t, line in lines.items()}
                            g = f.at(c.element, there, f.mul(column, self.g_strides[3]))
                            if self.is_far and pairs.start == 0:
                                self._ask_ahead(f, a[max(a)], g, len(ranges))
                            self._add_columns(f, a, g, ranges, pairs, sums)
                for i, pair in enumerate(pairs):
                    here = f.at(c.element, total, pair * self.row)
                    value = f.let(f"load {kind}, ptr {here}, align {self.bytes}")
                    for place in sums[i * cut.copies : (i + 1) * cut.copies]:
                        term = f.let(f"load {kind}, ptr {place}")
                        value = f.let(f"fadd {kind} {value}, {term}")
                    f.line(f"store {kind} {value}, ptr {here}, align {self.bytes}")

    def _ask_ahead(self, f: Function, x: str, g: str, columns: int) -> None:
        """Ask for what the next chunk is the first to look at, in the place of some positions."""
        c, (_, move, across) = self.c, (axis.move for axis in self.c.axes)
        x_rows = [self.cut.rows * move - i for i in range(move)]
        x_lines = range(0, self.vectors.taken * self.bytes, ALIGN)
        for start, rows, strides, count, lines in (
            (x, x_rows, self.strides, columns * across, x_lines),
            (g, [self.cut.rows], self.g_strides, columns, (0,)),
        ):
            for row, column, line in combinations(rows, range(count), lines):
                place = f.at(c.element, start, row * strides[2] + column * strides[3])
                pointer = f.at("i8", place, line)
                f.line(f"call void @llvm.prefetch.p0(ptr {pointer}, i32 0, i32 2, i32 1)")

    def _lines(
        self, f: Function, x: tuple[str, str], at: tuple[str, str], pairs: range
    ) -> dict[int, str]:
        """For each row of taps among the pairs the row of x that it meets, or zeros."""
        c, found = self.c, {}
        _, height, width = c.axes
        for row in dict.fromkeys(pair // (width.kernel * c.channels) for pair in pairs):
            address, inside = x[0], "true"
            for axis, t in enumerate(divmod(row, height.kernel)):
                phase = self.phases[axis]
                i = f.add(f.mul(at[axis], phase.move), phase.place + t * phase.place_step)
                address = f.at(c.element, address, f.mul(i, self.strides[1 + axis]))
                if not self.cut.packed:
                    good = f.let(f"icmp ult i64 {i}, {c.axes[axis].size}")
                    inside = f.let(f"and i1 {inside}, {good}")
            found[row] = f.choose(inside, "ptr", address, x[1]) if inside != "true" else address
        return found

    def _add_columns(
        self, f: Function, a: dict[int, str], b: str, ranges: Ranges, pairs: range, sums: list[str]
    ) -> None:
        """Add some positions to the sums of some pairs; what several taps meet is loaded once."""
        c, cut, kind, vectors = self.c, self.cut, self.vectors.kind, self.vectors
        px = self.phases[2]
        met: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        for i, pair in enumerate(pairs):
            tap, channel = divmod(pair, c.channels)
            row, t = divmod(tap, c.axes[2].kernel)
            for j, inside in enumerate(ranges):
                if t in inside:
                    place = px.place + t * px.place_step + j * px.move
                    term = i * cut.copies + j % cut.copies, channel, j
                    met.setdefault((row, place), []).append(term)
        g = [vectors.load(f, f.at(c.element, b, j * self.g_strides[3])) for j in range(len(ranges))]
        totals = [f.let(f"load {kind}, ptr {place}") for place in sums[: len(pairs) * cut.copies]]
        for (row, place), terms in sorted(met.items()):
            wanted = sorted({channel for _, channel, _ in terms})
            x = vectors.spread(f, f.at(c.element, a[row], place * self.strides[3]), wanted)
            for i, channel, j in terms:
                totals[i] = f.let(fma(f, c.element, cut.lanes, x[channel], g[j], totals[i]))
        for value, target in zip(totals, sums, strict=False):
            f.line(f"store {kind} {value}, ptr {target}")

    def _finish(self, f: Function, totals: list[str], outputs: tuple[str, str]) -> None:
        """Give sums to the epilogue, those of all slices added in order."""
        c, kind = self.c, self.vectors.kind
        with f.loop(0, self.pairs) as pair:
            for first, count in self.vectors.walk(f, outputs[1]):
                place = f.add(f.mul(pair, self.row), self.vectors.slot(f, first))
                value = ""
                for total in totals:
                    source = f.at(c.element, total, place)
                    term = f.let(f"load {kind}, ptr {source}, align {self.bytes}")
                    value = f.let(f"fadd {kind} {value}, {term}") if value else term
                f.line(
                    f"call void @epilogue(ptr %args, i64 0, i64 {pair}, "
                    f"i64 {f.add(outputs[0], first)}, {kind} {value}, i64 {count})"
                )

    def _add(self) -> Stage:
        """The sums of all slices, one part for each block of outputs."""
        c, cut = self.c, self.cut
        name = f"{self.name}_add"
        f = Function(f"define void @{name}(ptr noalias %args, i64 %part, ptr noalias %scratch)")
        first = f.mul("%part", cut.slices)
        totals = [
            f.at(c.element, f.word(2), f.mul(f.add(first, s), self._block()))
            for s in range(cut.slices)
        ]
        self._finish(f, totals, self._outputs(f, "%part"))
        f.line("ret void")
        text = "\n".join([self.vectors.needs(self.epilogue), self.epilogue, str(f), ""])
        return Stage(text, name, self.output_blocks, 0)
