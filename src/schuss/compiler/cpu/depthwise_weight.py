"""The gradient of a depthwise convolution for its weights.

    dw[t, c] = sum over n and positions p of x[n, q(p, t), c] * g[n, p, c]

A part goes through its chunks of images and rows, which it packs into a slab with a border of
zeros. For each vector of channels the sums of the taps are held in registers while the positions
of a chunk go by. The sums of all slices of the chunks are added in order at the end. Rows of the
result are taps, columns the channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from itertools import product as combinations
from math import prod

from schuss.compiler.cpu import matmul_pack
from schuss.compiler.cpu.convolution_plan import Convolution, lanes_for, segments
from schuss.compiler.cpu.convolution_text import Slab, zeros
from schuss.compiler.cpu.convolution_weight import Strides
from schuss.compiler.cpu.depthwise import Vectors, wanted_parts
from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.matmul import Lowered, PrintEpilogue, this_machine
from schuss.compiler.cpu.matmul_micro import fma, size
from schuss.compiler.cpu.matmul_plan import ALIGN, Machine, ceil_div, ceil_to
from schuss.compiler.cpu.matmul_stages import Stage
from schuss.compiler.cpu.matmul_text import Function
from schuss.compiler.geometry import forward_axis

_CHUNK = 256 << 10  # bytes of x and g, which should stay in a second-level cache
_COLUMNS = 8  # positions that are added in a step, at most
_CHAINS = 8  # sums that should be under way at a time


@dataclass(frozen=True)
class Plan:
    """How a gradient for the weights is cut.

    A part has the sums of `channels` channels and of every `slices`-th chunk: `rows` rows of one
    position along the depth of one image. In registers are the sums of up to `taps` taps at a time,
    in `copies` that are added at the end, while `columns` positions are added in a step.
    """

    lanes: int
    channels: int
    slices: int
    rows: int
    taps: int
    copies: int
    columns: int


def plan(c: Convolution, machine: Machine) -> Plan:
    """Cut the gradient for the weights of a convolution none of whose sizes is 0."""
    depth, height, width = c.axes
    lanes = lanes_for(machine, c.element, c.groups)
    most = machine.registers - 6
    taps = ceil_div(c.taps, ceil_div(c.taps, most))
    copies = min(ceil_div(_CHAINS, taps), most // taps)
    columns = min(_COLUMNS, width.outputs, machine.registers - taps * copies - 2)
    rows, channels = height.outputs, c.groups
    wanted = wanted_parts(c)

    def needs() -> int:
        slab = depth.reach(1) * height.reach(rows) * width.reach(width.outputs)
        return (slab + rows * width.outputs) * channels * size(c.element)

    def chunks() -> int:
        return c.images * depth.outputs * ceil_div(height.outputs, rows)

    while rows > 1 and (needs() > _CHUNK or chunks() < wanted):
        rows = ceil_div(rows, 2)
    while channels > lanes and (
        needs() > _CHUNK or chunks() * ceil_div(c.groups, channels) < wanted
    ):
        channels = ceil_to(ceil_div(channels, 2), lanes)
    slices = min(chunks(), ceil_div(wanted, ceil_div(c.groups, channels)))
    return Plan(lanes, channels, slices, rows, taps, min(copies, columns), columns)


def lower_weight(
    c: Convolution,
    g_strides: Strides,
    print_epilogue: PrintEpilogue,
    machine: Machine | None = None,
) -> Lowered:
    """The launches of the gradient for the weights of the depthwise convolution `c`.

    Words are x, the gradient of y, the workspace and those of the epilogue; `g_strides` are those
    of the gradient's images, three axes and channels.
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
        self.slab = Slab(c, shape, cut.channels, cut.lanes)
        self.in_place = c.source == c.element and g_strides[4] == 1
        # g as the input of a convolution of one tap, to be packed as x is
        d, h, w = [forward_axis(a.outputs, 1, 1, 0, 1, a.outputs) for a in c.axes]
        self.g = Convolution(c.dtype, c.images, c.groups, 1, 1, (d, h, w), g_strides)
        self.g_slab = Slab(self.g, (1, cut.rows, width.outputs), cut.channels, cut.lanes)
        self.g_strides = g_strides[:4] if self.in_place else self.g_slab.strides
        self.vectors = Vectors(c.element, cut.lanes)
        self.full = c.groups % cut.lanes == 0
        self.row = ceil_to(cut.channels, cut.lanes)  # elements of the sums of a tap
        self.channel_blocks = ceil_div(c.groups, cut.channels)
        self.row_blocks = ceil_div(height.outputs, cut.rows)
        self.bytes = size(c.element)

    def print(self) -> Lowered:
        stages, workspace = [self._multiply()], 0
        if self.cut.slices > 1:
            stages.append(self._add())
            workspace = self.channel_blocks * self.cut.slices * self._block() * self.bytes
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
        return self.c.taps * self.row

    def _channels(self, f: Function, block: str) -> tuple[str, str]:
        """The first channel and the number of channels of a block."""
        if self.channel_blocks == 1:
            return "0", str(self.c.groups)
        first = f.mul(block, self.cut.channels)
        return first, f.smaller(f.sub(self.c.groups, first), self.cut.channels)

    def _multiply(self) -> Stage:
        c, cut = self.c, self.cut
        depth, height, _ = c.axes
        slab_at = ceil_to(self._block() * self.bytes, ALIGN) if cut.slices == 1 else 0
        g_at = ceil_to(slab_at + self.slab.elements(1) * self.bytes, ALIGN)
        scratch = g_at + (0 if self.in_place else self.g_slab.elements(1) * self.bytes)
        f = Function(
            f"define void @{self.name}(ptr noalias %args, i64 %part, ptr noalias %scratch)"
        )
        sums = [f.let(f"alloca {self.vectors.kind}") for _ in range(cut.taps * cut.copies)]
        channel_block, part_slice = f.divide("%part", cut.slices)
        channels = self._channels(f, channel_block)
        total = "%scratch"
        if cut.slices > 1:
            total = f.at(c.element, f.word(2), f.mul("%part", self._block()))
        zeros(f, c.element, total, self._block())
        slab, g_slab = f.at("i8", "%scratch", slab_at), f.at("i8", "%scratch", g_at)
        chunks = c.images * depth.outputs * self.row_blocks
        with f.loop(part_slice, chunks, cut.slices) as chunk:
            rest, row_block = f.divide(chunk, self.row_blocks)
            n, z = f.divide(rest, depth.outputs)
            y = f.mul(row_block, cut.rows)
            rows = f.smaller(f.sub(height.outputs, y), cut.rows)
            starts = (
                f.add(f.mul(z, depth.move), depth.lowest),
                f.add(f.mul(y, height.move), height.lowest),
            )
            images = n, f.add(n, 1)
            self.slab.fill(f, f.word(0), images, starts, channels, self.slab.shape[:2], slab)
            g = g_slab
            if self.in_place:
                place = f.add(f.mul(n, self.g_strides[0]), f.mul(z, self.g_strides[1]))
                place = f.add(f.add(place, f.mul(y, self.g_strides[2])), channels[0])
                g = f.at(c.element, f.word(1), place)
            else:
                self.g_slab.fill(f, f.word(1), images, (z, y), channels, (1, rows), g_slab)
            for first, count in self.vectors.walk(f, channels[1], self.full):
                a, b = f.at(c.element, slab, first), f.at(c.element, g, first)
                self._add_rows(f, a, b, rows, f.at(c.element, total, first), sums)
        if cut.slices == 1:
            self._finish(f, [total], channels)
        f.line("ret void")
        text = "\n".join([
            *[matmul_pack.declaration(pack) for pack in self._packs()],
            self.vectors.needs(self.epilogue), self.epilogue, str(f), "",
        ])  # fmt: skip
        return Stage(text, self.name, self.channel_blocks * cut.slices, scratch)

    def _add_rows(
        self, f: Function, a: str, b: str, rows: str, total: str, sums: list[str]
    ) -> None:
        """Add the positions of a chunk to the sums of all taps of a vector of channels."""
        c, cut, kind = self.c, self.cut, self.vectors.kind
        width, move = c.axes[2], self.phases[2].move
        align = size(c.element)
        for first, number, many in segments(c.taps, cut.taps):
            for start in range(first, first + number * many, many):
                taps = range(start, start + many)
                for i in range(many * cut.copies):
                    f.line(f"store {kind} zeroinitializer, ptr {sums[i]}")
                with f.loop(0, rows) as y:
                    step = self.phases[1].move * self.slab.strides[2]
                    here = f.at(c.element, a, f.mul(y, step))
                    there = f.at(c.element, b, f.mul(y, self.g_strides[2]))
                    for x0, count, wide in segments(width.outputs, cut.columns):
                        with f.loop(0, count) as j:
                            x = f.add(f.mul(j, wide), x0)
                            at = f.at(c.element, here, f.mul(x, move * self.slab.strides[3]))
                            g = f.at(c.element, there, f.mul(x, self.g_strides[3]))
                            self._add_columns(f, at, g, wide, taps, sums)
                for i, tap in enumerate(taps):
                    place = f.at(c.element, total, tap * self.row)
                    value = f.let(f"load {kind}, ptr {place}, align {align}")
                    for copy in range(cut.copies):
                        term = f.let(f"load {kind}, ptr {sums[i * cut.copies + copy]}")
                        value = f.let(f"fadd {kind} {value}, {term}")
                    f.line(f"store {kind} {value}, ptr {place}, align {align}")

    def _add_columns(
        self, f: Function, a: str, b: str, wide: int, taps: range, sums: list[str]
    ) -> None:
        """Add `wide` positions to the sums of some taps."""
        c, cut, kind = self.c, self.cut, self.vectors.kind
        met: dict[int, list[tuple[int, int]]] = {}
        for i, tap in enumerate(taps):
            for j in range(wide):
                place = self._place(tap) + j * self.phases[2].move * self.slab.strides[3]
                met.setdefault(place, []).append((i * cut.copies + j % cut.copies, j))
        g = [
            self.vectors.load(f, f.at(c.element, b, j * self.g_strides[3])) for j in range(wide)
        ]
        totals = [f.let(f"load {kind}, ptr {place}") for place in sums[: len(taps) * cut.copies]]
        for place, pairs in sorted(met.items()):
            x = f.let(f"load {kind}, ptr {f.at(c.element, a, place)}, align {size(c.element)}")
            for i, j in pairs:
                totals[i] = f.let(fma(f, c.element, cut.lanes, x, g[j], totals[i]))
        for value, place in zip(totals, sums, strict=False):
            f.line(f"store {kind} {value}, ptr {place}")

    def _place(self, tap: int) -> int:
        """Where a tap is in the slab, from the first one on."""
        place = 0
        for axis in (2, 1, 0):
            tap, t = divmod(tap, self.c.axes[axis].kernel)
            place += t * self.phases[axis].place_step * self.slab.strides[1 + axis]
        return place

    def _finish(self, f: Function, totals: list[str], channels: tuple[str, str]) -> None:
        """Give sums to the epilogue, those of all slices added in order."""
        c, kind = self.c, self.vectors.kind
        with f.loop(0, c.taps) as tap:
            for first, count in self.vectors.walk(f, channels[1], self.full):
                place = f.add(f.mul(tap, self.row), first)
                value = ""
                for total in totals:
                    source = f.at(c.element, total, place)
                    term = f.let(f"load {kind}, ptr {source}, align {self.bytes}")
                    value = f.let(f"fadd {kind} {value}, {term}") if value else term
                f.line(
                    f"call void @epilogue(ptr %args, i64 0, i64 {tap}, "
                    f"i64 {f.add(channels[0], first)}, {kind} {value}, i64 {count})"
                )

    def _add(self) -> Stage:
        """The sums of all slices, one part for each block of channels."""
        c, cut = self.c, self.cut
        name = f"{self.name}_add"
        f = Function(f"define void @{name}(ptr noalias %args, i64 %part, ptr noalias %scratch)")
        first = f.mul("%part", cut.slices)
        totals = [
            f.at(c.element, f.word(2), f.mul(f.add(first, s), self._block()))
            for s in range(cut.slices)
        ]
        self._finish(f, totals, self._channels(f, "%part"))
        f.line("ret void")
        text = "\n".join([self.vectors.needs(self.epilogue), self.epilogue, str(f), ""])
        return Stage(text, name, self.channel_blocks, 0)
