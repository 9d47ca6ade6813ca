"""Printing what is done with the vectors of a matrix product, the hole of its template."""

from __future__ import annotations

from schuss.compiler.cpu.elementwise import TABLE
from schuss.compiler.cpu.host import host
from schuss.compiler.cpu.printer import Printer
from schuss.compiler.cpu.text import memory_type, register_type
from schuss.compiler.index import Affine
from schuss.compiler.kernel import Kernel, Line
from schuss.dtypes import DType

LINE = 64  # bytes of a line of the caches


class Epilogue(Printer):
    """What is done with the vectors of a matrix product: runs of batch, row and column loops.

    `in_lines`: each vector begins a whole number of vectors behind the beginning of its row.
    """

    def __init__(
        self, kernel: Kernel, name: str, lanes: int, words: int, accumulator: DType, in_lines: bool
    ) -> None:
        super().__init__(kernel, name, lanes)
        self.words = words
        self.accumulator = accumulator
        self.in_lines = in_lines

    def print(self) -> str:
        t, kernel = self.t, self.kernel
        self.load_words(first=self.words)
        self.decode("%batch", range(kernel.outer))
        self.decode("%m", range(kernel.outer, kernel.outer + kernel.reduced))
        self.at[self.vector_axis] = "%n"
        for i, line in enumerate(kernel.lines):
            if line.op == "given":
                self.set(i, self.lanes, self._given(line))
        with self.masked(t.mask("%count", self.lanes)):
            self.store_all(kernel.stores, self.lanes)
        t.put("ret void")
        element = register_type(self.accumulator)
        return t.function(
            f"define internal void @{self.name}(ptr %args, i64 %batch, i64 %m, i64 %n, "
            f"<{self.lanes} x {element}> %value, i64 %count) alwaysinline"
        )

    def store(self, word: int, affine: Affine, value: str, dtype: DType, lanes: int) -> None:
        """A masked store of narrow numbers is a slow one: most vectors are whole."""
        if dtype.itemsize >= 4:
            super().store(word, affine, value, dtype, lanes)
            return
        whole = self.t.new(f"icmp eq i64 %count, {lanes}")
        with self.t.when(whole), self.masked(None):
            super().store(word, affine, value, dtype, lanes)
        with self.t.when(self.t.new(f"xor i1 {whole}, true")):
            super().store(word, affine, value, dtype, lanes)

    def is_streamed(self, word: int, affine: Affine, lanes: int) -> bool:
        """Past the caches go vectors that fill a line each.

        A thread that ends its part makes such stores seen by all: it changes a word with a locked
        instruction.
        """
        memory = self.kernel.buffers[word]
        is_line = self.in_lines and lanes * memory.dtype.itemsize == LINE and host().is_x86
        steps = [*affine[: self.vector_axis], affine[-1]]
        return memory.is_streamed and is_line and all(step % lanes == 0 for step in steps)

    def _given(self, line: Line) -> str:
        """The sum in the dtype of the product: small integers are added up in wider ones."""
        if register_type(line.dtype) == register_type(self.accumulator):
            return self.as_stored(line, "%value", self.lanes)
        row = TABLE["astype"]
        return row(self.t, ["%value"], [self.accumulator], line.dtype, self.lanes)


class Ahead(Printer):
    """What an epilogue is going to read, asked for while the sums are still being formed.

    With `writes` also what it is going to write: lines of a cache come before they are written to.
    """

    def __init__(
        self, kernel: Kernel, name: str, lanes: int, words: int, writes: bool = False
    ) -> None:
        super().__init__(kernel, name, lanes)
        self.words = words
        self.writes = writes

    def print(self) -> str:
        """The text of a function; '' where all that it would ask for is shared by rows."""
        kernel = self.kernel
        places: list[tuple[str, int, Affine, DType]] = [
            ("0", *line.detail, line.dtype)  # type: ignore[misc]
            for line in kernel.lines
            if line.op == "load"
        ]
        if self.writes:
            places += [("1", each.word, each.affine, each.dtype) for each in kernel.stores]
        places = [each for each in places if self._differs_by_row(each[2])]
        if not places:
            return ""
        self.load_words(first=self.words)
        self.decode("%batch", range(kernel.outer))
        self.decode("%m", range(kernel.outer, kernel.outer + kernel.reduced))
        self.at[self.vector_axis] = "%n"
        second_level, data = ("i32", "2"), ("i32", "1")
        for writes, word, affine, dtype in places:
            pointer = self.t.address(self.pointers[word], self.offset(affine), memory_type(dtype))
            intent = "i32", writes
            self.t.call("void", "llvm.prefetch.p0", ("ptr", pointer), intent, second_level, data)
        self.t.put("ret void")
        return self.t.function(
            f"define internal void @{self.name}(ptr %args, i64 %batch, i64 %m, i64 %n) alwaysinline"
        )

    def _differs_by_row(self, affine: Affine) -> bool:
        """Whether an access goes along rows, through memory that is another one in each."""
        along = affine[self.vector_axis] if len(affine) > 1 else 0
        return along == 1 and any(affine[: self.vector_axis])
