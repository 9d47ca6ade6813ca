"""The operands of a blocked matrix product, in place and packed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from schuss.compiler.cpu import matmul_pack
from schuss.compiler.cpu.matmul_micro import size
from schuss.compiler.cpu.matmul_pack import Pack
from schuss.compiler.cpu.matmul_plan import ALIGN, Product, ceil_div, ceil_to
from schuss.compiler.cpu.matmul_text import Function

# Elements that a part of the packing stage packs, about.
_PIECE = 32_768


@dataclass(frozen=True)
class Operand:
    """A or B as the stages see it: `extent` rows of A or columns of B ("lines"), each k long.

    Lines are cut into panels of `step`, or, the first `tall` of them, step + 1 lines; the last may
    have fewer. A packed panel is k times `row` elements, of which the lines fill the first few.
    """

    product: Product
    word: int  # of %args
    mode: str  # where kernels read it, see Plan
    strides: tuple[int, ...]  # batch axes, then lines, then k
    extent: int
    panels: int
    step: int
    tall: int
    row: int
    lanes: int
    offset: int  # bytes; of the first panel in the workspace, if mode is 'stage'

    def panel(self, k: int) -> int:
        """Elements of a packed panel with k rows."""
        return self.row * k

    def lines(self, f: Function, panel: str) -> tuple[str, str]:
        """The first line and the number of lines of a panel."""
        first = f.mul(panel, self.step)
        if self.tall:
            first = f.add(first, f.smaller(panel, self.tall))
            high = f.let(f"icmp slt i64 {panel}, {self.tall}")
            return first, f.choose(high, "i64", self.step + 1, self.step)
        if self.panels * self.step == self.extent:
            return first, str(self.step)
        return first, f.smaller(f.sub(self.extent, first), self.step)

    @property
    def line_stride(self) -> int:
        return self.strides[-2]

    @property
    def k_stride(self) -> int:
        return self.strides[-1]

    @property
    def matrices(self) -> int:
        """How many different matrices the batch has: one, where all entries share it."""
        return self.product.batches if any(self.strides[:-2]) else 1

    @property
    def staged(self) -> int:
        """Bytes of all packed panels in the workspace."""
        if self.mode != "stage":
            return 0
        elements = self.matrices * self.panels * self.panel(self.product.k)
        return ceil_to(elements * size(self.product.element), ALIGN)

    @property
    def pack(self) -> Pack:
        """The function that packs it."""
        p = self.product
        pack = matmul_pack.choose(p.source, p.element, self.lanes, self.line_stride, self.k_stride)
        whole_rows = self.mode == "stage" and pack.mode == "copy"
        return replace(pack, mode="rows") if whole_rows else pack

    @property
    def pieces(self) -> tuple[int, int]:
        """Into how many parts the packing of a matrix is cut, and how many rows of k each has;
        no rows: a part for each panel.
        """
        if self.pack.mode != "rows":
            return self.panels, 0
        rows = max(1, _PIECE // self.extent)
        return ceil_div(self.product.k, rows), rows

    @property
    def parts(self) -> int:
        """Parts of the packing stage."""
        return self.matrices * self.pieces[0] if self.mode == "stage" else 0

    def pack_part(self, f: Function, part: str) -> None:
        """Do a part of the packing stage."""
        count, rows = self.pieces
        batch, piece = f.divide(part, count)
        if not rows:
            first, lines = self.lines(f, piece)
            source = self.start(f, batch, first, "0")
            self.call_pack(f, source, lines, str(self.product.k), self.packed(f, batch, piece, "0"))
            return
        k = f.mul(piece, rows)
        length = f.smaller(f.sub(self.product.k, k), rows)
        high = self.tall * (self.step + 1)
        if high:
            self._call_rows(f, batch, (0, high), self.step + 1, (k, length))
        self._call_rows(f, batch, (high, self.extent - high), self.step, (k, length))

    def _call_rows(
        self, f: Function, batch: str, lines: tuple[int, int], step: int, rows: tuple[str, str]
    ) -> None:
        """Pack panels of `step` lines; `lines` and `rows` are the first and how many."""
        source = self.start(f, batch, str(lines[0]), rows[0])
        target = self.packed(f, batch, str(self.tall if lines[0] else 0), rows[0])
        f.line(
            f"call void @{self.pack.name}(ptr {source}, i64 {self.k_stride}, i64 {lines[1]}, "
            f"i64 {step}, i64 {rows[1]}, ptr {target}, i64 {self.row}, "
            f"i64 {self.panel(self.product.k)})"
        )

    def start(self, f: Function, batch: str, line: str, k: str) -> str:
        """The address of an element."""
        offset = f.add(f.mul(line, self.line_stride), f.mul(k, self.k_stride))
        for extent, stride in zip(self.product.batch[::-1], self.strides[-3::-1], strict=True):
            batch, index = f.divide(batch, extent)
            offset = f.add(offset, f.mul(index, stride))
        return f.at(self.product.source, f.word(self.word), offset)

    def packed(self, f: Function, batch: str, panel: str, k: str) -> str:
        """The address of row k of a panel, packed."""
        p = self.product
        matrix = batch if self.matrices > 1 else "0"
        index = f.add(f.mul(matrix, self.panels), panel)
        element = f.add(f.mul(index, self.panel(p.k)), f.mul(k, self.row))
        whole = self.mode == "packed"
        start = f.word(self.word) if whole else f.at("i8", f.word(2), self.offset)
        return f.at(p.element, start, element)

    def call_pack(self, f: Function, source: str, lines: str, k: str, target: str) -> None:
        """Pack `lines` lines from the address `source` on, a vector of them at a time."""
        p = self.product
        with f.loop(0, lines, self.lanes) as line:
            here = f.at(p.source, source, f.mul(line, self.line_stride))
            there = f.at(p.element, target, line)
            width = f.smaller(f.sub(lines, line), self.lanes)
            f.line(
                f"call void @{self.pack.name}(ptr {here}, i64 {self.line_stride}, "
                f"i64 {self.k_stride}, i64 {width}, i64 {k}, ptr {there}, i64 {self.row})"
            )
