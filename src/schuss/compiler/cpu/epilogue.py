"""Printing what is done with the vectors of a matrix product, the hole of its template."""

from __future__ import annotations

from schuss.compiler.cpu.elementwise import TABLE
from schuss.compiler.cpu.printer import Printer
from schuss.compiler.cpu.text import register_type
from schuss.compiler.kernel import Kernel, Line
from schuss.dtypes import DType


class Epilogue(Printer):
    """What is done with the vectors of a matrix product: runs of batch, row and column loops."""

    def __init__(
        self, kernel: Kernel, name: str, lanes: int, words: int, accumulator: DType
    ) -> None:
        super().__init__(kernel, name, lanes)
        self.words = words
        self.accumulator = accumulator

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

    def _given(self, line: Line) -> str:
        """The sum in the dtype of the product: small integers are added up in wider ones."""
        if register_type(line.dtype) == register_type(self.accumulator):
            return self.as_stored(line, "%value", self.lanes)
        row = TABLE["astype"]
        return row(self.t, ["%value"], [self.accumulator], line.dtype, self.lanes)
