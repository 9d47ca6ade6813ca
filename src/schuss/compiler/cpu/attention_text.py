"""What the attention kernels are printed with: vectors of one width, matrices, helper functions."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from schuss.compiler.cpu.matmul_text import Function

Index = str | int

SIZES = {"float": 4, "double": 8, "half": 2, "bfloat": 2}


@dataclass(frozen=True)
class Machine:
    """What is computed with.

    Attributes:
        element: the LLVM type of all arithmetic, "float" or "double".
        lanes: its elements in a vector.
        rows: rows of a register tile.
        exp: the name of the vector function.
    """

    element: str
    lanes: int
    rows: int
    exp: str

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return SIZES[self.element]

    def padded(self, n: int) -> int:
        """n rounded up to whole vectors."""
        return -(-n // self.lanes) * self.lanes


@dataclass(frozen=True)
class Matrix:
    """A matrix in memory: strides count elements of the LLVM type `kind`."""

    pointer: str
    row: int
    column: int
    kind: str

    def at(self, pointer: str) -> Matrix:
        """The same layout at another address."""
        return Matrix(pointer, self.row, self.column, self.kind)

    @property
    def turned(self) -> Matrix:
        """Rows and columns exchanged."""
        return Matrix(self.pointer, self.column, self.row, self.kind)


class Printer(Function):
    """A function in print, and the helper functions that it calls.

    Attributes:
        machine: the vectors that all arithmetic is done with.
        vector: their LLVM type.
        helpers: texts by name.
    """

    def __init__(
        self, signature: str, machine: Machine, helpers: dict[str, str] | None = None
    ) -> None:
        super().__init__(signature)
        self.machine = machine
        self.vector = f"<{machine.lanes} x {machine.element}>"
        self.helpers: dict[str, str] = {} if helpers is None else helpers

    def helper(self, name: str, parameters: str, body: Callable[[Printer], None]) -> str:
        """The name of a function of its own, printed by `body` when it is first asked for."""
        if name not in self.helpers:
            self.helpers[name] = ""
            f = Printer(f"define internal void @{name}({parameters}) noinline", self.machine,
                        self.helpers)  # fmt: skip
            body(f)
            f.line("ret void")
            self.helpers[name] = str(f)
        return name

    # --- values ---

    def positive(self, x: Index) -> Index:
        """max(x, 0) for i64."""
        return self.let(f"call i64 @llvm.smax.i64(i64 {x}, i64 0)")

    def number(self, value: float) -> str:
        """A constant of the element type."""
        if self.machine.element == "float":
            value = struct.unpack("<f", struct.pack("<f", value))[0]
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"

    def constant(self, value: float) -> str:
        """A vector of one constant."""
        return f"splat ({self.machine.element} {self.number(value)})"

    def splat(self, scalar: str, element: str | None = None) -> str:
        """A vector of one scalar, of the element type or the one given."""
        element, lanes = element or self.machine.element, self.machine.lanes
        kind = f"<{lanes} x {element}>"
        first = self.let(f"insertelement {kind} poison, {element} {scalar}, i64 0")
        zeros = f"<{lanes} x i32> zeroinitializer"
        return self.let(f"shufflevector {kind} {first}, {kind} poison, {zeros}")

    def op(self, instruction: str, x: str, y: str) -> str:
        """An instruction on two vectors, such as fadd or a comparison."""
        return self.let(f"{instruction} {self.vector} {x}, {y}")

    def multiply_add(self, x: str, y: str, z: str) -> str:
        """The expression x * y + z."""
        # fmuladd, not fma: where the machine has no fused instruction it is a product and a sum.
        name, v = f"@llvm.fmuladd.{self.suffix(self.machine.element)}", self.vector
        return f"call {v} {name}({v} {x}, {v} {y}, {v} {z})"

    def exp(self, x: str) -> str:
        return self.let(f"call {self.vector} {self.machine.exp}({self.vector} {x})")

    def where(self, condition: str, x: str, y: str) -> str:
        """x in the lanes where the condition holds, else y."""
        flags = f"<{self.machine.lanes} x i1>"
        return self.let(f"select {flags} {condition}, {self.vector} {x}, {self.vector} {y}")

    def larger(self, x: str, y: str) -> str:
        """The larger; y where x is NaN."""
        return self.where(self.op("fcmp ogt", x, y), x, y)

    def shuffle(self, x: str, y: str, lanes: list[int]) -> str:
        listed = ", ".join(f"i32 {lane}" for lane in lanes)
        vectors = f"{self.vector} {x}, {self.vector} {y}"
        return self.let(f"shufflevector {vectors}, <{len(lanes)} x i32> <{listed}>")

    # --- memory ---

    def load(self, pointer: str, index: Index = 0, aligned: bool = True) -> str:
        """A vector; scratch is aligned, what the caller has is not."""
        align = self.machine.size * (self.machine.lanes if aligned else 1)
        address = self.at(self.machine.element, pointer, index)
        return self.let(f"load {self.vector}, ptr {address}, align {align}")

    def store(self, value: str, pointer: str, index: Index = 0) -> None:
        """A vector to scratch."""
        address, align = self.at(self.machine.element, pointer, index), self.machine.lanes
        self.line(f"store {self.vector} {value}, ptr {address}, align {align * self.machine.size}")

    def load_splat(self, pointer: str, index: Index) -> str:
        """A vector of one element of scratch."""
        element = self.machine.element
        return self.splat(self.let(f"load {element}, ptr {self.at(element, pointer, index)}"))

    def element(self, x: Matrix, row: Index, column: Index) -> str:
        """One element, in the type that is computed in."""
        place = self.add(self.mul(row, x.row), self.mul(column, x.column))
        address = self.at(x.kind, x.pointer, place)
        value = self.let(f"load {x.kind}, ptr {address}, align {SIZES[x.kind]}")
        if x.kind == self.machine.element:
            return value
        return self.let(f"fpext {x.kind} {value} to {self.machine.element}")

    def from_row(self, x: Matrix, row: Index) -> Matrix:
        """The matrix without the rows before `row`."""
        return x.at(self.at(x.kind, x.pointer, self.mul(row, x.row)))

    def suffix(self, element: str) -> str:
        """How intrinsics name a vector of this element type."""
        short = "bf16" if element == "bfloat" else f"f{8 * SIZES[element]}"
        return f"v{self.machine.lanes}{short}"

    def load_some(self, kind: str, pointer: str, count: int) -> str:
        """The first `count` elements at an address and zeros behind them, as a vector."""
        lanes = self.machine.lanes
        vector = f"<{lanes} x {kind}>"
        if count >= lanes:
            value = self.let(f"load {vector}, ptr {pointer}, align {SIZES[kind]}")
        else:
            name = f"@llvm.masked.load.{self.suffix(kind)}.p0"
            address = f"ptr align {SIZES[kind]} {pointer}"
            zeros = f"{vector} zeroinitializer"
            value = self.let(f"call {vector} {name}({address}, {self._first(count)}, {zeros})")
        if kind == self.machine.element:
            return value
        return self.let(f"fpext {vector} {value} to {self.vector}")

    def store_some(self, kind: str, value: str, pointer: str, count: int) -> None:
        """The first `count` elements of a vector to an address, rounded to `kind`."""
        lanes = self.machine.lanes
        vector, value = f"<{lanes} x {kind}>", self.rounded(value, kind)
        if count >= lanes:
            self.line(f"store {vector} {value}, ptr {pointer}, align {SIZES[kind]}")
            return
        name = f"@llvm.masked.store.{self.suffix(kind)}.p0"
        address = f"ptr align {SIZES[kind]} {pointer}"
        self.line(f"call void {name}({vector} {value}, {address}, {self._first(count)})")

    def rounded(self, value: str, kind: str) -> str:
        """A vector in the type of an array."""
        lanes = self.machine.lanes
        if kind == self.machine.element:
            return value
        if kind == "half":
            return self.let(f"fptrunc {self.vector} {value} to <{lanes} x half>")
        # To the nearest bfloat, ties to even. Few machines have an instruction, and LLVM calls a
        # library on the others.
        wide = f"<{lanes} x i32>"
        bits = self.let(f"bitcast {self.vector} {value} to {wide}")
        upper = self.let(f"lshr {wide} {bits}, splat (i32 16)")
        odd = self.let(f"and {wide} {upper}, splat (i32 1)")
        more = self.let(f"add {wide} {odd}, splat (i32 32767)")
        up = self.let(f"add {wide} {bits}, {more}")
        quiet = self.let(f"or {wide} {bits}, splat (i32 4194304)")
        invalid = self.op("fcmp uno", value, value)
        chosen = self.let(f"select <{lanes} x i1> {invalid}, {wide} {quiet}, {wide} {up}")
        top = self.let(f"lshr {wide} {chosen}, splat (i32 16)")
        short = self.let(f"trunc {wide} {top} to <{lanes} x i16>")
        return self.let(f"bitcast <{lanes} x i16> {short} to <{lanes} x bfloat>")

    def _first(self, count: int) -> str:
        lanes = self.machine.lanes
        bits = ", ".join(f"i1 {int(lane < count)}" for lane in range(lanes))
        return f"<{lanes} x i1> <{bits}>"

    def declarations(self, kind: str) -> set[str]:
        """The intrinsics that are called, where arrays are of the LLVM type `kind`."""
        vector, flags = f"<{self.machine.lanes} x {kind}>", f"<{self.machine.lanes} x i1>"
        masked, v = f"{self.suffix(kind)}.p0", self.vector
        return {
            "declare i64 @llvm.smin.i64(i64, i64)",
            "declare i64 @llvm.smax.i64(i64, i64)",
            f"declare {v} @llvm.fmuladd.{self.suffix(self.machine.element)}({v}, {v}, {v})",
            f"declare {vector} @llvm.masked.load.{masked}(ptr, {flags}, {vector})",
            f"declare void @llvm.masked.store.{masked}({vector}, ptr, {flags})",
        }
