"""The operands of a blocked matrix product, in place and packed."""

from __future__ import annotations

from dataclasses import dataclass

from schuss.compiler.cpu import matmul_pack
from schuss.compiler.cpu.matmul_micro import size
from schuss.compiler.cpu.matmul_pack import Pack
from schuss.compiler.cpu.matmul_plan import ALIGN, Product, ceil_to
from schuss.compiler.cpu.matmul_text import Function


@dataclass(frozen=True)
class Operand:
    """A or B as the stages see it: `extent` rows of A or columns of B ("lines"), each k long.

    Lines are packed in panels: k times `row` elements, of which the lines fill the first few.
    """

    product: Product
    word: int  # of %args
    mode: str  # where the micro-kernel reads it, see Plan
    strides: tuple[int, ...]  # batch axes, then lines, then k
    row: int
    panels: int
    lanes: int
    offset: int  # bytes; of the first panel in the workspace, if mode is 'stage'

    def panel(self, k: int) -> int:
        """Elements of a panel with k rows."""
        return self.row * k

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
        return matmul_pack.choose(p.source, p.element, self.lanes, self.line_stride, self.k_stride)

    def start(self, f: Function, batch: str, line: str, k: str) -> str:
        """The address of an element."""
        offset = f.add(f.mul(line, self.line_stride), f.mul(k, self.k_stride))
        for extent, stride in zip(self.product.batch[::-1], self.strides[-3::-1], strict=True):
            batch, index = f.divide(batch, extent)
            offset = f.add(offset, f.mul(index, stride))
        return f.at(self.product.source, f.word(self.word), offset)

    def packed(self, f: Function, batch: str, panel: str, k: str) -> str:
        """The address of row k of a panel in the workspace."""
        p = self.product
        matrix = batch if self.matrices > 1 else "0"
        index = f.add(f.mul(matrix, self.panels), panel)
        element = f.add(f.mul(index, self.panel(p.k)), f.mul(k, self.row))
        return f.at(p.element, f.at("i8", f.word(2), self.offset), element)

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
