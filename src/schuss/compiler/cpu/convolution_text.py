"""What the kernels of direct convolutions share: sums in registers, and packing into slabs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from schuss.compiler.cpu import matmul_pack
from schuss.compiler.cpu.convolution_plan import Convolution
from schuss.compiler.cpu.matmul_micro import broadcast, declare_fma, fma, size
from schuss.compiler.cpu.matmul_pack import Pack
from schuss.compiler.cpu.matmul_pairs import add_products, declare_add_products
from schuss.compiler.cpu.matmul_text import Function


def table(name: str, entries: Sequence[tuple[int, int]]) -> str:
    """A constant array of pairs of offsets."""
    numbers = ", ".join(f"i64 {x}" for pair in entries for x in pair)
    count = 2 * len(entries)
    return f"@{name} = internal constant [{count} x i64] [{numbers}], align 16"


def sums(
    f: Function,
    c: Convolution,
    lanes: int,
    places: Sequence[int],
    vectors: int,
    steps: tuple[int, int],
    table: str = "%table",
    entries: str = "%entries",
    soon: tuple[str, int] | None = None,
) -> list[list[str]]:
    """A tile of sums of products, held in registers; returns the names of its rows of vectors.

    For each of `entries` pairs of offsets (i, j) in `table` and each k < %inner, row r adds the
    element at %a + i + k * steps[0] + places[r], times the vectors at %b + j + k * steps[1]. That
    offsets of rows are constants lets the machine's addressing modes form all addresses from one
    pointer. %inner is at least 1; the current block must end before. Of pairs both products are
    added.

    What is read `soon` is asked for on the way: from an address on, so many elements in each step.
    """
    element, paired = c.element, c.paired
    align = size(paired or element)
    kind = f"<{lanes} x {element}>"
    cells = [(r, v) for r in range(len(places)) for v in range(vectors)]
    before = f.block
    f.line(f"%any = icmp sgt i64 {entries}, 0")
    f.line("br i1 %any, label %entries.head, label %entries.end")
    f.label("entries.head")
    f.line(f"%e = phi i64 [0, %{before}], [%e.next, %entries.step]")
    if soon:
        f.line(f"%soon.first = phi ptr [{soon[0]}, %{before}], [%soon.next, %entries.step]")
    for r, v in cells:
        f.line(f"%o{r}_{v} = phi {kind} [zeroinitializer, %{before}], [%s{r}_{v}, %entries.step]")
    f.line(f"%pair = getelementptr {{i64, i64}}, ptr {table}, i64 %e")
    f.line("%i.offset = load i64, ptr %pair")
    f.line("%pair.second = getelementptr i64, ptr %pair, i64 1")
    f.line("%j.offset = load i64, ptr %pair.second")
    f.line(f"%a.first = getelementptr {element}, ptr %a, i64 %i.offset")
    f.line(f"%b.first = getelementptr {element}, ptr %b, i64 %j.offset")
    f.line("br label %k.head")
    f.label("k.head")
    f.line("%left = phi i64 [%inner, %entries.head], [%left.next, %k.head]")
    f.line("%ap = phi ptr [%a.first, %entries.head], [%ap.next, %k.head]")
    f.line("%bp = phi ptr [%b.first, %entries.head], [%bp.next, %k.head]")
    if soon:
        f.line("%soon.now = phi ptr [%soon.first, %entries.head], [%soon.next, %k.head]")
    for r, v in cells:
        f.line(f"%c{r}_{v} = phi {kind} [%o{r}_{v}, %entries.head], [%s{r}_{v}, %k.head]")
    if soon:
        f.line("call void @llvm.prefetch.p0(ptr %soon.now, i32 0, i32 3, i32 1)")
        f.line(f"%soon.next = getelementptr {element}, ptr %soon.now, i64 {soon[1]}")
    pairs = f"<{2 * lanes} x {paired}>"
    b = [
        f.let(f"load {pairs if paired else kind}, ptr {place}, align {align}")
        for place in [f.at(element, "%bp", v * lanes) for v in range(vectors)]
    ]
    for r, place in enumerate(places):
        one = f.let(f"load {element}, ptr {f.at(element, '%ap', place)}, align {align}")
        a = broadcast(f, kind, one)
        if paired:
            a = f.let(f"bitcast {kind} {a} to {pairs}")
        for v in range(vectors):
            if paired:
                total = add_products(f, paired, lanes, b[v], a, f"%c{r}_{v}")
            else:
                total = fma(f, element, lanes, a, b[v], f"%c{r}_{v}")
            f.line(f"%s{r}_{v} = {total}")
    f.line(f"%ap.next = getelementptr {element}, ptr %ap, i64 {steps[0]}")
    f.line(f"%bp.next = getelementptr {element}, ptr %bp, i64 {steps[1]}")
    f.line("%left.next = sub i64 %left, 1")
    f.line("%k.done = icmp eq i64 %left.next, 0")
    f.line("br i1 %k.done, label %entries.step, label %k.head")
    f.label("entries.step")
    f.line("%e.next = add i64 %e, 1")
    f.line(f"%e.more = icmp slt i64 %e.next, {entries}")
    f.line("br i1 %e.more, label %entries.head, label %entries.end")
    f.label("entries.end")
    named = []
    for r in range(len(places)):
        row = []
        for v in range(vectors):
            first = f"[zeroinitializer, %{before}]"
            f.line(f"%d{r}_{v} = phi {kind} {first}, [%s{r}_{v}, %entries.step]")
            row.append(f"%d{r}_{v}")
        named.append(row)
    return named


def sums_need(c: Convolution, lanes: int) -> str:
    """The declarations that `sums` needs."""
    return declare_add_products(c.paired, lanes) if c.pairs else declare_fma(c.element, lanes)


class Packing:
    """Copies rows of positions with all their channels, densely, in the type of the sums."""

    def __init__(self, c: Convolution, lanes: int, x_step: int, channel_step: int) -> None:
        self.source, self.element = c.source, c.element
        self.x_step, self.channel_step = x_step, channel_step
        self.lanes = lanes
        self.pack = matmul_pack.choose(c.source, c.element, lanes, channel_step, x_step)
        self.flat_pack = Pack(c.source, c.element, lanes, "copy")

    def used(self) -> list[Pack]:
        return [self.pack, self.flat_pack]

    def row(
        self, f: Function, source: str, count: str, channels: str, target: str, step: int
    ) -> None:
        """`count` positions, `step` elements apart in the target.

        What lies behind an element may be overwritten, up to a vector: rows are packed in order,
        the vector of channels that is not full first.
        """
        rest = f.let(f"and i64 {channels}, {self.lanes - 1}")
        full = f.sub(channels, rest)
        with f.when(f.let(f"icmp sgt i64 {rest}, 0")):
            self._call(f, source, full, rest, count, target, step)
        with f.loop(0, full, self.lanes) as first:
            self._call(f, source, first, str(self.lanes), count, target, step)

    def flat(self, f: Function, source: str, count: str, target: str) -> None:
        """`count` elements, one after the other."""
        whole = f.let(f"lshr i64 {count}, {self.lanes.bit_length() - 1}")
        rest = f.let(f"and i64 {count}, {self.lanes - 1}")
        pack = self.flat_pack
        with f.when(f.let(f"icmp sgt i64 {whole}, 0")):
            f.line(
                f"call void @{pack.name}(ptr {source}, i64 1, i64 {self.lanes}, i64 {self.lanes}, "
                f"i64 {whole}, ptr {target}, i64 {self.lanes})"
            )
        with f.when(f.let(f"icmp sgt i64 {rest}, 0")):
            done = f.sub(count, rest)
            here, there = f.at(self.source, source, done), f.at(self.element, target, done)
            f.line(
                f"call void @{pack.name}(ptr {here}, i64 1, i64 {self.lanes}, i64 {rest}, i64 1, "
                f"ptr {there}, i64 {self.lanes})"
            )

    def _call(
        self, f: Function, source: str, first: str, width: str, count: str, target: str, step: int
    ) -> None:
        here = f.at(self.source, source, f.mul(first, self.channel_step))
        there = f.at(self.element, target, first)
        f.line(
            f"call void @{self.pack.name}(ptr {here}, i64 {self.channel_step}, i64 {self.x_step}, "
            f"i64 {width}, i64 {count}, ptr {there}, i64 {step})"
        )


def zeros(f: Function, element: str, target: str, count: str | int) -> None:
    """`count` zeros from an address on."""
    wide = 8
    whole = f.mul(f.let(f"sdiv i64 {count}, {wide}"), wide)
    with f.loop(0, whole, wide) as i:
        place = f.at(element, target, i)
        f.line(f"store <{wide} x {element}> zeroinitializer, ptr {place}, align {size(element)}")
    with f.loop(whole, count) as i:
        zero = "0" if element[0] == "i" else "0.0"
        f.line(f"store {element} {zero}, ptr {f.at(element, target, i)}")


class Slab:
    """Input positions with a border of zeros, packed: (images, depth, height, width, channels).

    With `second` an element is a pair: a number of 16 bits, and that so many elements behind it in
    its row; zeros behind its end. They are moved as integers.
    """

    def __init__(
        self, c: Convolution, shape: tuple[int, int, int], channels: int, lanes: int,
        border: bool = True, second: int = 0,
    ) -> None:  # fmt: skip
        if second:
            c = replace(c, dtype="int16")
        self.c, self.shape, self.channels, self.second = c, shape, channels, second
        self.packing = Packing(c, lanes, c.x_strides[3], c.x_strides[4])
        self.lows = [axis.lowest if border else 0 for axis in c.axes]
        # Images of a tile are read side by side: their addresses should differ in their last bits.
        self.gap = 0 if border else lanes

    @property
    def strides(self) -> tuple[int, int, int, int]:
        """Elements from an image, a depth, a row, a column to the next."""
        _, height, width = self.shape
        row = width * self.channels
        return self.shape[0] * height * row + self.gap, height * row, row, self.channels

    def elements(self, images: int) -> int:
        """Of the memory for so many images, a vector more for what packing overwrites."""
        return images * self.strides[0] + self.packing.lanes

    @property
    def row_bytes(self) -> int:
        """Of the memory for a row before its numbers are put together in pairs."""
        return (self.strides[2] + self.second + self.packing.lanes) * size(self.c.element)

    def fill(
        self, f: Function, x: str, images: tuple[str, str], starts: tuple[str, str],
        channels: tuple[str, str], counts: tuple[str | int, str | int], target: str,
        single: str = "",
    ) -> None:  # fmt: skip
        """Pack images from `images[0]` up to `images[1]`.

        `starts` are the positions of the first row along depth and height in the input, which may
        lie outside, `counts` how many there are, `channels` the first channel (of all groups) and
        how many. Pairs need memory for a row of `single` numbers.
        """
        c, element = self.c, self.c.element
        s_image, s_depth, s_row, s_column = self.strides
        x_image, x_depth, x_height, x_width, x_channel = c.x_strides
        depth, height, width = c.axes
        low = self.lows[2]
        left, first = max(0, -low), max(0, low)
        inside = max(0, min(width.size - first, self.shape[2] - left))
        right = self.shape[2] - left - inside
        start = f.at(c.source, x, f.mul(channels[0], x_channel))
        start = f.at(c.source, start, first * x_width)
        with (
            f.loop(images[0], images[1]) as n,
            f.loop(0, counts[0]) as z,
            f.loop(0, counts[1]) as y,
        ):
            row = f.add(f.mul(f.sub(n, images[0]), s_image), f.mul(z, s_depth))
            pairs = f.at(element, target, f.add(row, f.mul(y, s_row)))
            row = single or pairs
            iz, iy = f.add(starts[0], z), f.add(starts[1], y)
            good = _both(f, _within(f, iz, depth.size), _within(f, iy, height.size))
            with f.when(good):
                zeros(f, element, row, left * s_column)
                here = f.add(f.mul(n, x_image), f.mul(iz, x_depth))
                here = f.at(c.source, start, f.add(here, f.mul(iy, x_height)))
                there = f.at(element, row, left * s_column)
                dense = x_channel == 1 and x_width == self.channels and inside
                if dense and channels[1] == str(self.channels):
                    self.packing.flat(f, here, str(inside * self.channels), there)
                elif inside:
                    self.packing.row(f, here, str(inside), channels[1], there, s_column)
                zeros(f, element, f.at(element, there, inside * s_column), right * s_column)
            with f.when(f.let(f"xor i1 {good}, true")):
                zeros(f, element, row, s_row)
            if self.second:
                self._put_together(f, row, pairs)

    def _put_together(self, f: Function, row: str, pairs: str) -> None:
        """Pairs of the numbers of a row, each in an integer of 32 bits."""
        lanes, length = self.packing.lanes, self.strides[2]
        kind = f"<{lanes} x i32>"
        zeros(f, "i32", f.at("i32", row, length), self.second + lanes)
        with f.loop(0, length, lanes) as i:  # what is written behind the end belongs to later rows
            first, second = (
                f.let(f"load {kind}, ptr {f.at('i32', row, place)}, align 4")
                for place in (i, f.add(i, self.second))
            )
            low = f.let(f"and {kind} {first}, splat (i32 65535)")
            high = f.let(f"shl {kind} {second}, splat (i32 16)")
            both = f.let(f"or {kind} {low}, {high}")
            f.line(f"store {kind} {both}, ptr {f.at('i32', pairs, i)}, align 4")


def _within(f: Function, position: str, n: int) -> str:
    return f.let(f"icmp ult i64 {position}, {n}")


def _both(f: Function, x: str, y: str) -> str:
    return f.let(f"and i1 {x}, {y}")
