"""The kernels of a blocked matrix product: pack, multiply, and add the slices of k.

Each is a loop nest around calls of micro-kernels and packing functions, which are shared by all
products, and of the epilogue, which is the caller's and is inlined.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace

from schuss.compiler.cpu import matmul_dot, matmul_micro, matmul_pack, matmul_row
from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.matmul_dot import Dot
from schuss.compiler.cpu.matmul_elements import broadcast, converted, load, size, stored
from schuss.compiler.cpu.matmul_micro import Micro, plus
from schuss.compiler.cpu.matmul_operand import Operand
from schuss.compiler.cpu.matmul_pack import Pack
from schuss.compiler.cpu.matmul_pairs import paired
from schuss.compiler.cpu.matmul_plan import ALIGN, Plan, Product, ceil_to
from schuss.compiler.cpu.matmul_text import Function


@dataclass(frozen=True)
class Stage:
    """One launch: the kernel `name` of the module `text`, run for `parts` parts with `scratch`
    bytes for each thread.
    """

    text: str
    name: str
    parts: int
    scratch: int


class Stages:
    """Prints the stages of one product.

    `epilogue` is the text of the function @epilogue; the names of kernels start with `stem`;
    `words` are the numbers of the words with the addresses of A and B.
    """

    def __init__(
        self, product: Product, plan: Plan, epilogue: str, stem: str, words: tuple[int, int]
    ) -> None:
        self.product, self.plan, self.epilogue, self.stem = product, plan, epilogue, stem
        lanes, width = plan.lanes, plan.width
        self.a = Operand(
            product=product,
            word=words[0],
            mode=plan.a_mode,
            reads=plan.reads,
            strides=product.a_strides,
            extent=product.m,
            panels=plan.tiles,
            step=plan.height,
            tall=plan.tall,
            row=ceil_to(plan.tallest, lanes),
            lanes=lanes,
            offset=0,
        )
        *b_batch, b_k, b_n = product.b_strides
        self.b = Operand(
            product=product,
            word=words[1],
            mode=plan.b_mode,
            reads=plan.reads,
            strides=(*b_batch, b_n, b_k),
            extent=product.n,
            panels=plan.panels,
            step=width,
            tall=0,
            row=width * plan.block_panels if plan.kernel == "outer" else width,
            lanes=lanes,
            offset=self.a.staged,
        )
        self.bytes = size(product.element)
        self.cell = plan.tallest * plan.width  # elements of a tile of C
        self.sums = self.a.staged + self.b.staged  # bytes in the workspace before sums of slices
        # The last panel of B cannot be read in place as others are if it ends in the middle of a
        # vector.
        in_place = plan.b_mode == "direct" and plan.kernel == "tile"
        is_ragged = in_place and product.n % self._widths()[-1][0] != 0
        self.masks_last = is_ragged and product.m == 1
        self.packs_last = is_ragged and product.m > 1

    @property
    def is_blocked(self) -> bool:
        """Whether sums go through blocks of k, one after the other."""
        return self.plan.k_block < self.a.steps

    @property
    def workspace(self) -> int:
        """Bytes that all stages need in word 2."""
        cells = self.product.batches * self.plan.tiles * self.plan.panels
        sums = self.plan.slices * cells * self.cell if self.plan.slices > 1 else 0
        return self.sums + sums * self.bytes

    def shared(self) -> tuple[Source, ...]:
        """The modules that the stages call into."""
        texts = {
            x.name: (matmul_row if x.is_row else matmul_micro).definition(x) for x in self._micros()
        }
        texts |= {x.name: matmul_dot.definition(x) for x in self._dots()}
        texts |= {x.name: matmul_pack.definition(x) for x in self._packs()}
        return tuple(Source(text, (name,), shared=True) for name, text in texts.items())

    def stages(self) -> tuple[Stage, ...]:
        """All stages in order."""
        stages = [self._multiply()]
        if self.a.staged or self.b.staged:
            stages.insert(0, self.pack())
        if self.plan.slices > 1:
            stages.append(self._add_slices())
        return tuple(stages)

    def _micros(self) -> list[Micro]:
        """The micro-kernels in use, for each height of tiles and width of panels."""
        if self.plan.kernel != "tile":
            return []
        source, is_paired = self._read()
        source = paired(source) if is_paired else source
        made = [
            Micro(self.product.element, lanes, rows, vectors, source, is_paired)
            for rows in self._heights()
            for lanes, vectors in self._widths()
        ]
        if self.masks_last:
            columns = self.product.n - (self.plan.panels - 1) * self.plan.width
            made[-1] = replace(made[-1], beyond=made[-1].width - columns)
        return made

    def _dots(self) -> list[Dot]:
        """The dot kernels in use: one or none."""
        plan = self.plan
        is_dot = plan.kernel == "dot"
        element, rows = self.product.element, plan.height
        return [Dot(element, plan.lanes, rows, *self._read())] if is_dot else []

    def _read(self) -> tuple[str, bool]:
        """The type that kernels read if it is not that of the sums, and whether in pairs."""
        reads = self.plan.reads
        return "" if reads == "sums" else self.product.source, reads == "pairs"

    def _packs(self) -> list[Pack]:
        """The packing functions in use."""
        used = [x.pack for x in (self.a, self.b) if x.mode in ("stage", "part")]
        if self.packs_last:
            used.append(self.b.pack)
        return list(dict.fromkeys(used))

    def _heights(self) -> list[int]:
        """Rows of tiles: of the higher, then of the others."""
        return [self.plan.height + 1, self.plan.height] if self.plan.tall else [self.plan.height]

    def _widths(self) -> list[tuple[int, int]]:
        """Lanes and vectors of panels: of all, then of the last one if it is narrower, where half
        a vector may do.
        """
        plan, lanes = self.plan, self.plan.lanes
        rest = self.product.n - (plan.panels - 1) * plan.width
        last = lanes, -(-rest // lanes)
        if plan.kernel == "tile" and rest <= lanes // 2 and lanes * self.bytes >= 32:
            last = lanes // 2, 1
        full = [] if plan.panels == 1 else [(lanes, plan.vectors)]
        return list(dict.fromkeys([*full, last]))

    def _kernel(self, name: str) -> tuple[Function, str]:
        full_name = f"{self.stem}_{name}"
        arguments = "ptr noalias %args, i64 %part, ptr noalias %scratch"
        return Function(f"define void @{full_name}({arguments})"), full_name

    def _module(self, f: Function, epilogue: bool, calls: bool = True) -> str:
        lines = []
        if calls:
            lines += [matmul_pack.declaration(x) for x in self._packs()]
            lines += [matmul_micro.declaration(x) for x in self._micros()]
            lines += [matmul_dot.declaration(x) for x in self._dots()]
        if epilogue:
            lines.append(self.epilogue)
        return "\n".join([*lines, str(f)]) + "\n"

    def pack(self) -> Stage:
        """Pack all of A, B or both."""
        f, name = self._kernel("pack")
        is_a = f.let(f"icmp slt i64 %part, {self.a.parts}")
        for x, part, condition in (
            (self.a, "%part", is_a),
            (self.b, f.sub("%part", self.a.parts), _not(f, is_a)),
        ):
            if x.parts:
                with f.when(condition):
                    x.pack_part(f, part)
        f.line("ret void")
        return Stage(self._module(f, epilogue=False), name, self.a.parts + self.b.parts, 0)

    def _multiply(self) -> Stage:
        """All tiles: the loops over batches, blocks of k, panels and tiles."""
        p, plan = self.product, self.plan
        f, name = self._kernel("multiply")
        rest, piece = f.divide("%part", plan.slices)
        rest, column_block = f.divide(rest, plan.column_blocks)
        group, row_block = f.divide(rest, plan.row_blocks)
        tile0, panel0 = f.mul(row_block, plan.block_tiles), f.mul(column_block, plan.block_panels)
        tile1 = f.smaller(f.add(tile0, plan.block_tiles), plan.tiles)
        panel1 = f.smaller(f.add(panel0, plan.block_panels), plan.panels)
        batch0, k0 = f.mul(group, plan.group), f.mul(piece, plan.slice_k)
        batch1 = f.smaller(f.add(batch0, plan.group), p.batches)
        k1 = f.smaller(f.add(k0, plan.slice_k), self.a.steps)
        with f.loop(batch0, batch1) as batch, f.loop(k0, k1, plan.k_block) as k:
            block = _Block(batch, piece, k, f.smaller(f.sub(k1, k), plan.k_block))
            if plan.slice_k > plan.k_block:
                block.more = f.let(f"icmp sgt i64 {k}, {k0}")
                block.last = f.let(f"icmp sge i64 {f.add(k, plan.k_block)}, {k1}")
            block.first_tile, block.first_panel = tile0, panel0
            if plan.a_mode == "part":
                with f.loop(tile0, tile1) as i:
                    self._pack_tile(f, block, i)
            if plan.kernel == "outer":
                self._outer(f, block, tile0, tile1, panel0)
            elif plan.row_by_row:
                with f.loop(tile0, tile1) as i:
                    with f.loop(panel0, panel1) as j:
                        self._multiply_panel(f, block, j, i, f.add(i, 1))
                    with f.when(block.last) if block.last else nullcontext():
                        self._finish_rows(f, block, i, (panel0, panel1))
            else:
                with f.loop(panel0, panel1) as j:
                    self._multiply_panel(f, block, j, tile0, tile1)
        f.line("ret void")
        groups = -(-p.batches // plan.group)
        parts = groups * plan.row_blocks * plan.column_blocks * plan.slices
        return Stage(self._module(f, epilogue=plan.slices == 1), name, parts, self._scratch().end)

    def _pack_tile(self, f: Function, block: _Block, i: str) -> None:
        target = self._scratch_tile_of_a(f, block, i)
        self.a.call_pack(f, block.batch, self.a.lines(f, i), (block.k, block.length), target)

    def _scratch_tile_of_a(self, f: Function, block: _Block, i: str) -> str:
        index = f.mul(f.sub(i, block.first_tile), self.a.panel(self.plan.k_block))
        return f.at(self.a.element, f.at("i8", "%scratch", self._scratch().a), index)

    def _scratch(self) -> _Scratch:
        """Where things lie in the scratch memory of a multiplying part, in bytes."""
        plan = self.plan
        cells = 0
        if plan.slices == 1:
            cells = plan.block_tiles if self.is_blocked else 1
            cells *= plan.block_panels if self.is_blocked or plan.row_by_row else 1
        a = ceil_to(cells * self.cell * self.bytes, ALIGN)
        tiles = plan.block_tiles if plan.a_mode == "part" else 0
        b = a + ceil_to(tiles * self.a.panel(plan.k_block) * self.bytes, ALIGN)
        panels = 1 if plan.b_mode == "part" or self.packs_last else 0
        return _Scratch(a, b, b + panels * self.b.panel(plan.k_block) * self.bytes)

    def _multiply_panel(self, f: Function, block: _Block, j: str, tile0: str, tile1: str) -> None:
        """Tiles tile0 to tile1 of panel j."""
        first, columns = self.b.lines(f, j)
        is_last = f.let(f"icmp eq i64 {j}, {self.plan.panels - 1}")
        b, b_stride = self._read_b(f, block, j, first, columns, is_last)
        with f.loop(tile0, tile1) as i:
            row, rows = self.a.lines(f, i)
            a, a_stride, a_k = self._read_a(f, block, i, row)
            tile = self._tile_address(f, block, i, j)
            if self.plan.row_by_row:
                with f.when(block.last) if block.last else nullcontext():
                    self._ask_ahead(f, block.batch, (row, rows), first)
            more = f.let(f"zext i1 {block.more} to i64") if block.more else "0"
            end = f"i64 {block.length}, ptr {tile}, i64 {more})"
            if self.plan.kernel == "dot":
                length = self.a.length(f, block.k, block.length)
                end = f"i64 {length}, ptr {tile}, i64 {more})"
                f.line(
                    f"call void @{self._dots()[0].name}(ptr {a}, i64 {a_stride}, i64 {rows}, "
                    f"ptr {b}, i64 {self.b.line_stride}, i64 {columns}, {end}"
                )
            else:
                f.line(
                    f"call void {self._choose_micro(f, i, is_last)}(ptr {a}, i64 {a_stride}, "
                    f"i64 {a_k}, ptr {b}, i64 {b_stride}, {end}"
                )
            if self.plan.slices == 1 and not self.plan.row_by_row:
                tile_row = self._tile_row(f, is_last)
                with f.when(block.last) if block.last else nullcontext():
                    self._finish(f, block.batch, (row, rows), (first, columns), tile, tile_row)

    def _ask_ahead(self, f: Function, batch: str, rows: tuple[str, str], first: str) -> None:
        """Ask for what the epilogue of a tile reads, a line of the cache at a time."""
        with f.loop(0, rows[1]) as r:
            m = f.add(rows[0], r)
            for c in range(0, self.plan.width, ALIGN // self.bytes):
                place = f"i64 {batch}, i64 {m}, i64 {f.add(first, c)}"
                f.line(f"call void @epilogue_ahead(ptr %args, {place})")

    def _finish_rows(self, f: Function, block: _Block, i: str, panels: tuple[str, str]) -> None:
        """Give the rows of tile i to the epilogue, one after the other, through all `panels`."""
        row, rows = self.a.lines(f, i)
        with f.loop(0, rows) as r, f.loop(*panels) as j:
            is_last = f.let(f"icmp eq i64 {j}, {self.plan.panels - 1}")
            tile, tile_row = self._tile_address(f, block, i, j), self._tile_row(f, is_last)
            start = f.at(self.product.element, tile, f.mul(r, tile_row))
            columns = self.b.lines(f, j)
            self._finish(f, block.batch, (f.add(row, r), "1"), columns, start, tile_row)

    def _choose_micro(self, f: Function, i: str, is_last: str) -> str:
        """The micro-kernel for tile i, in the last panel or not."""
        micros, widths = self._micros(), len(self._widths())
        kernels = [
            f.choose(is_last, "ptr", f"@{micros[at + widths - 1].name}", f"@{micros[at].name}")
            for at in range(0, len(micros), widths)
        ]
        if not self.plan.tall:
            return kernels[0]
        return f.choose(f.let(f"icmp slt i64 {i}, {self.plan.tall}"), "ptr", *kernels)

    def _tile_row(self, f: Function, is_last: str) -> str:
        """Elements from a row of a tile to the next."""
        rows = [lanes * vectors for lanes, vectors in self._widths()]
        return f.choose(is_last, "i64", rows[-1], rows[0])

    def _outer(self, f: Function, block: _Block, tile0: str, tile1: str, panel0: str) -> None:
        """A block for small k: rows of C one after the other, from vectors of B in the first-level
        cache and elements of A in registers. All panels of B are packed side by side.
        """
        p, lanes = self.product, self.plan.lanes
        kind = f"<{lanes} x {p.element}>"
        first = f.mul(panel0, self.plan.width)
        columns = f.smaller(f.sub(p.n, first), self.plan.block_panels * self.plan.width)
        if self.plan.b_mode == "part":
            b, b_stride = f.at("i8", "%scratch", self._scratch().b), str(self.b.row)
            self.b.call_pack(f, block.batch, (first, columns), ("0", str(p.k)), b)
        else:
            b, b_stride = self.b.start(f, block.batch, first, "0"), str(self.b.k_stride)
        row0, row1 = f.mul(tile0, self.plan.height), f.mul(tile1, self.plan.height)
        with f.loop(row0, f.smaller(row1, p.m)) as m:
            start = self.a.start(f, block.batch, m, "0")
            a = []
            for k in range(p.k):
                a.append(self._broadcast_a(f, f.at(p.source, start, k * self.a.k_stride)))

            def vector(c: str, count: int) -> None:
                terms = []
                for k in range(p.k):
                    pointer = f.at(p.element, b, f.add(f.mul(k, b_stride), c))
                    terms.append(f.let(f"load {kind}, ptr {pointer}, align {self.bytes}"))
                self._call_epilogue(
                    f, block.batch, m, f.add(first, c), _dot(f, kind, a, terms), count
                )

            tail = p.n % lanes
            full = f.let(f"and i64 {columns}, {-lanes}") if tail else columns
            with f.loop(0, full, lanes) as c:
                vector(c, lanes)
            if tail:
                with f.when(f.let(f"icmp slt i64 {full}, {columns}")):
                    vector(full, tail)

    def _broadcast_a(self, f: Function, pointer: str) -> str:
        """An element of A in all lanes, in the type of the sums."""
        p, lanes = self.product, self.plan.lanes
        value = broadcast(f, f"<{lanes} x {stored(p.source)}>", load(f, p.source, 1, pointer))
        return converted(f, p.source, p.element, lanes, value, lanes > 4)

    def _call_epilogue(
        self, f: Function, batch: str, m: str, n: str, value: str, count: int
    ) -> None:
        f.line(
            f"call void @epilogue(ptr %args, i64 {batch}, i64 {m}, i64 {n}, "
            f"<{self.plan.lanes} x {self.product.element}> {value}, i64 {count})"
        )

    def _read_a(self, f: Function, block: _Block, i: str, row: str) -> tuple[str, str, str]:
        """Address of tile i of A, and its strides of rows and of steps of k."""
        packed = str(self.a.unit), str(self.a.unit * self.a.row)
        if self.plan.a_mode == "part":
            return self._scratch_tile_of_a(f, block, i), *packed
        if self.plan.a_mode == "stage":
            return self.a.packed(f, block.batch, i, block.k), *packed
        start = self.a.start(f, block.batch, row, block.k)
        return start, str(self.a.line_stride), str(self.a.unit * self.a.k_stride)

    def _read_b(
        self, f: Function, block: _Block, j: str, first: str, columns: str, is_last: str
    ) -> tuple[str, str]:
        """Address of panel j of B and its stride of steps of k; packs it where that is left to the
        part.
        """
        stride = str(self.b.unit * self.b.row)
        if self.plan.b_mode in ("stage", "packed"):
            return self.b.packed(f, block.batch, j, block.k), stride
        packed = f.at("i8", "%scratch", self._scratch().b)
        place = block.batch, (first, columns), (block.k, block.length), packed
        if self.plan.b_mode == "part":
            self.b.call_pack(f, *place)
            return packed, stride
        start = self.b.start(f, block.batch, first, block.k)
        if not self.packs_last:
            return start, str(self.b.k_stride)
        with f.when(is_last):
            self.b.call_pack(f, *place)
        return (
            f.choose(is_last, "ptr", packed, start),
            f.choose(is_last, "i64", stride, self.b.k_stride),
        )

    def _tile_address(self, f: Function, block: _Block, i: str, j: str) -> str:
        """Where the micro-kernel writes tile (i, j)."""
        plan = self.plan
        if plan.slices > 1:
            return self._sums(f, block.piece, block.batch, i, j)
        if not self.is_blocked and not plan.row_by_row:
            return "%scratch"
        row = f.mul(f.sub(i, block.first_tile), plan.block_panels) if self.is_blocked else "0"
        cell = f.add(row, f.sub(j, block.first_panel))
        return f.at(self.product.element, "%scratch", f.mul(cell, self.cell))

    def _sums(self, f: Function, piece: str, batch: str, i: str, j: str) -> str:
        """The address of the sums of a slice of k for tile (i, j) in the workspace."""
        plan = self.plan
        index = f.add(f.mul(piece, self.product.batches), batch)
        index = f.add(f.mul(index, plan.tiles), i)
        index = f.add(f.mul(index, plan.panels), j)
        start = f.at("i8", f.word(2), self.sums)
        return f.at(self.product.element, start, f.mul(index, self.cell))

    def _finish(
        self,
        f: Function,
        batch: str,
        rows: tuple[str, str],
        columns: tuple[str, str],
        tile: str,
        tile_row: str,
        others: Iterable[str] = (),
    ) -> None:
        """Give each vector of a tile to the epilogue, first adding to it those of `others`.

        `rows` and `columns` are the first one and how many; `tile_row` is the stride in the tile.
        """
        p, lanes = self.product, self.plan.lanes
        vector = f"<{lanes} x {p.element}>"
        align = self._widths()[-1][0] * self.bytes

        def one(r: str, c: str, count: int) -> None:
            index = f.add(f.mul(r, tile_row), c)
            value = ""
            for source in (tile, *others):
                pointer = f.at(p.element, source, index)
                term = f.let(f"load {vector}, ptr {pointer}, align {align}")
                value = f.let(f"{plus(p.element)} {vector} {value}, {term}") if value else term
            m, n = f.add(rows[0], r), f.add(columns[0], c)
            self._call_epilogue(f, batch, m, n, value, count)

        tail = p.n % lanes
        with f.loop(0, rows[1]) as r:
            full = columns[1] if not tail else f.let(f"and i64 {columns[1]}, {-lanes}")
            with f.loop(0, full, lanes) as c:
                one(r, c, lanes)
            if tail:
                with f.when(f.let(f"icmp slt i64 {full}, {columns[1]}")):
                    one(r, full, tail)

    def _add_slices(self) -> Stage:
        """Add the sums of all slices of k, in order, and call the epilogue."""
        p, plan = self.product, self.plan
        f, name = self._kernel("add")
        cells = p.batches * plan.tiles * plan.panels
        # Parts are worth having from some ten thousand sums on.
        parts = min(16, cells, max(1, plan.slices * cells * self.cell // 50_000))
        share = -(-cells // parts)
        start = f.mul("%part", share)
        with f.loop(start, f.smaller(f.add(start, share), cells)) as cell:
            rest, j = f.divide(cell, plan.panels)
            batch, i = f.divide(rest, plan.tiles)
            sums = [self._sums(f, str(s), batch, i, j) for s in range(plan.slices)]
            is_last = f.let(f"icmp eq i64 {j}, {plan.panels - 1}")
            tile_row = self._tile_row(f, is_last)
            place = self.a.lines(f, i), self.b.lines(f, j)
            self._finish(f, batch, *place, sums[0], tile_row, sums[1:])
        f.line("ret void")
        return Stage(self._module(f, epilogue=True, calls=False), name, -(-cells // share), 0)

    def zeros(self) -> Stage:
        """The only stage of a product over no k: zeros for the epilogue."""
        p, lanes = self.product, self.plan.lanes
        f, name = self._kernel("zeros")
        zero = f"<{lanes} x {p.element}> zeroinitializer"
        full = p.n // lanes * lanes
        with f.loop(0, p.batches) as batch, f.loop(0, p.m) as m:
            call = f"call void @epilogue(ptr %args, i64 {batch}, i64 {m}, i64 "
            with f.loop(0, full, lanes) as n:
                f.line(f"{call}{n}, {zero}, i64 {lanes})")
            if full < p.n:
                f.line(f"{call}{full}, {zero}, i64 {p.n - full})")
        f.line("ret void")
        return Stage(self._module(f, epilogue=True, calls=False), name, 1, 0)


@dataclass
class _Block:
    """Where the loops of a multiplying part stand; i1 conditions are '' where always false
    (`more`: sums of earlier blocks of k are in the tile) or true (`last`: no block follows).
    """

    batch: str
    piece: str
    k: str
    length: str
    more: str = ""
    last: str = ""
    first_tile: str = ""
    first_panel: str = ""


@dataclass(frozen=True)
class _Scratch:
    """Offsets of the packed A and B, after the tiles, and the size of all."""

    a: int
    b: int
    end: int


def _not(f: Function, condition: str) -> str:
    return f.let(f"xor i1 {condition}, true")


def _dot(f: Function, kind: str, a: list[str], b: list[str]) -> str:
    """The sum of products of vectors; float products and sums may be fused."""
    is_float = "float" in kind or "double" in kind
    multiply, add = ("fmul contract", "fadd contract") if is_float else ("mul", "add")
    total = f.let(f"{multiply} {kind} {a[0]}, {b[0]}")
    for x, y in zip(a[1:], b[1:], strict=True):
        total = f.let(f"{add} {kind} {total}, {f.let(f'{multiply} {kind} {x}, {y}')}")
    return total
