"""The operands of a blocked matrix product, in place and packed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from schuss.compiler.cpu import matmul_pack
from schuss.compiler.cpu.matmul_elements import size
from schuss.compiler.cpu.matmul_pack import Pack
from schuss.compiler.cpu.matmul_plan import ALIGN, Product, ceil_div, ceil_to
from schuss.compiler.cpu.matmul_text import Function

# Elements that a part of the packing stage packs, about.
_PIECE = 32_768


@dataclass(frozen=True)
class Operand:
    """A or B as the stages see it: `extent` rows of A or columns of B ("lines"), each k long.

    Lines are cut into panels of `step`, or, the first `tall` of them, step + 1 lines; the last may
    have fewer. A packed panel is `row` elements for each step of k, of which the lines fill the
    first few. A step is one element of a line, or a pair of them, where `reads` (see Plan) is
    'pairs': k, lengths and offsets along k count steps.
    """

    product: Product
    word: int  # of %args
    mode: str  # where kernels read it, see Plan
    reads: str  # as what they do
    strides: tuple[int, ...]  # batch axes, then lines, then k
    extent: int
    panels: int
    step: int
    tall: int
    row: int
    lanes: int
    offset: int  # bytes; of the first panel in the workspace, if mode is 'stage'

    @property
    def unit(self) -> int:
        """Elements of a line in a step of k."""
        return 2 if self.reads == "pairs" else 1

    @property
    def steps(self) -> int:
        """How long lines are, in steps."""
        return ceil_div(self.product.k, self.unit)

    @property
    def element(self) -> str:
        """The LLVM type of the elements of packed panels."""
        kinds = {"pairs": "i32", "source": self.product.source, "sums": self.product.element}
        return kinds[self.reads]

    def panel(self, steps: int) -> int:
        """Elements of a packed panel of so many steps."""
        return self.row * steps

    def length(self, f: Function, first: str, steps: str) -> str:
        """How many elements of a line lie in `steps` steps from step `first` on."""
        if self.product.k % self.unit == 0:
            return f.mul(steps, self.unit)
        return f.smaller(f.mul(steps, self.unit), f.sub(self.product.k, f.mul(first, self.unit)))

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
        elements = self.matrices * self.panels * self.panel(self.steps)
        return ceil_to(elements * size(self.element), ALIGN)

    @property
    def pack(self) -> Pack:
        """The function that packs it."""
        strides, is_paired = (self.line_stride, self.k_stride), self.reads == "pairs"
        pack = matmul_pack.choose(
            self.product.source, self.element, self.lanes, *strides, is_paired
        )
        if pack.mode == "copy" and (self.mode == "stage" or self.step > self.lanes):
            return replace(pack, mode="rows")  # so that a line of the cache is read once
        return pack

    @property
    def pieces(self) -> tuple[int, int]:
        """Into how many parts the packing of a matrix is cut, and how many steps of k each has;
        none: a part for each panel.
        """
        if self.pack.mode != "rows":
            return self.panels, 0
        steps = max(1, _PIECE // (self.extent * self.unit))
        return ceil_div(self.steps, steps), steps

    @property
    def parts(self) -> int:
        """Parts of the packing stage."""
        return self.matrices * self.pieces[0] if self.mode == "stage" else 0

    def pack_part(self, f: Function, part: str) -> None:
        """Do a part of the packing stage."""
        count, steps = self.pieces
        batch, piece = f.divide(part, count)
        if not steps:
            first, lines = self.lines(f, piece)
            target = self.packed(f, batch, piece, "0")
            self.call_pack(f, batch, (first, lines), ("0", str(self.steps)), target)
            return
        k = f.mul(piece, steps)
        length = f.smaller(f.sub(self.steps, k), steps)
        high = self.tall * (self.step + 1)
        for start, width, step in ((0, high, self.step + 1), (high, self.extent - high, self.step)):
            if width:
                source = self.start(f, batch, str(start), k)
                target = self.packed(f, batch, str(self.tall if start else 0), k)
                self._call_rows(f, source, str(width), step, self.length(f, k, length), target)

    def _call_rows(
        self, f: Function, source: str, lines: str, step: int, k: str, target: str
    ) -> None:
        """Pack lines in panels of `step`."""
        f.line(
            f"call void @{self.pack.name}(ptr {source}, i64 {self.k_stride}, i64 {lines}, "
            f"i64 {step}, i64 {k}, ptr {target}, i64 {self.row}, i64 {self.panel(self.steps)})"
        )

    def start(self, f: Function, batch: str, line: str, k: str) -> str:
        """The address of the first element of a line in a step of k."""
        offset = f.add(f.mul(line, self.line_stride), f.mul(k, self.k_stride * self.unit))
        for extent, stride in zip(self.product.batch[::-1], self.strides[-3::-1], strict=True):
            batch, index = f.divide(batch, extent)
            offset = f.add(offset, f.mul(index, stride))
        return f.at(self.product.source, f.word(self.word), offset)

    def packed(self, f: Function, batch: str, panel: str, k: str) -> str:
        """The address of row k of a panel, packed."""
        matrix = batch if self.matrices > 1 else "0"
        index = f.add(f.mul(matrix, self.panels), panel)
        element = f.add(f.mul(index, self.panel(self.steps)), f.mul(k, self.row))
        whole = self.mode == "packed"
        start = f.word(self.word) if whole else f.at("i8", f.word(2), self.offset)
        return f.at(self.element, start, element)

    def call_pack(
        self, f: Function, batch: str, lines: tuple[str, str], steps: tuple[str, str], target: str
    ) -> None:
        """Pack the lines of a panel; `lines` and `steps` are the first and how many."""
        source = self.start(f, batch, lines[0], steps[0])
        k = self.length(f, *steps)
        if self.pack.mode == "rows":
            self._call_rows(f, source, lines[1], self.step, k, target)
            return
        with f.loop(0, lines[1], self.lanes) as line:
            here = f.at(self.product.source, source, f.mul(line, self.line_stride))
            there = f.at(self.element, target, line)
            width = f.smaller(f.sub(lines[1], line), self.lanes)
            f.line(
                f"call void @{self.pack.name}(ptr {here}, i64 {self.line_stride}, "
                f"i64 {self.k_stride}, i64 {width}, i64 {k}, ptr {there}, i64 {self.row})"
            )
