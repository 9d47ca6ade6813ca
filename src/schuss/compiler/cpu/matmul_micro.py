"""Micro-kernels of the matrix product: a tile of C held in registers.

The tile is `rows` x `vectors * lanes`. In every step of k one row of B is loaded as `vectors`
vectors, and each of `rows` elements of A is broadcast and multiplied into it (Goto and van de
Geijn, Anatomy of High-Performance Matrix Multiplication, 2008; van Zee and van de Geijn, BLIS,
2015). A kernel knows nothing of shapes: it takes strides, so that it serves packed and unpacked
operands alike, and is compiled once for a machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from schuss.compiler.cpu.matmul_elements import broadcast, converted, load, size, stored
from schuss.compiler.cpu.matmul_pairs import add_products, declare_add_products
from schuss.compiler.cpu.matmul_text import Function

# How many rows share a pointer: element r of a group lies at pointer + r * stride, which the
# addressing modes of the machine give for r = 0, 1, 2 without an instruction.
_GROUP = 3
# A and B that lie as the caller has them are asked for so many steps of k ahead: each of these may
# begin in another page, where the processor does not look ahead by itself.
_AHEAD_A, _AHEAD_B = 24, 16
_IN_REGISTERS = 8  # vectors of sums, where C is one row
_MANY_ROWS = 8  # of so many sums in registers, loads take up little of the time


@dataclass(frozen=True)
class Micro:
    """A micro-kernel; `element` is the LLVM type of A, B and C, such as 'float'.

    Where A and B have another type, `source`, their elements are converted as they are read. With
    `pairs`, elements of `source` lie in pairs (k, k + 1) that one instruction multiplies. A kernel
    for one row of A may have columns `beyond` the last one of B, where it reads nothing.
    """

    element: str
    lanes: int
    rows: int
    vectors: int
    source: str = ""
    pairs: bool = False
    beyond: int = 0

    @property
    def name(self) -> str:
        source = f"{self.source}_{'pairs_' if self.pairs else ''}" if self.source else ""
        beyond = f"_less_{self.beyond}" if self.beyond else ""
        tile = f"{self.lanes}_{self.rows}x{self.vectors}{beyond}"
        return f"schuss_matmul_{source}{self.element}{tile}"

    @property
    def read(self) -> str:
        """The type of the elements of A and B, which strides count."""
        return self.source or self.element

    @property
    def vector(self) -> str:
        return f"<{self.lanes} x {self.element}>"

    @property
    def width(self) -> int:
        """Columns of the tile."""
        return self.vectors * self.lanes

    @property
    def is_row(self) -> bool:
        """Whether it goes along rows of B (matmul_row): C is one, longer than registers hold."""
        is_long = self.rows == 1 and self.vectors > _IN_REGISTERS and not self.pairs
        return is_long or self.beyond > 0


SIGNATURE = "(ptr, i64, i64, ptr, i64, i64, ptr, i64)"


def declaration(micro: Micro) -> str:
    """The line with which a module refers to the kernel."""
    return f"declare void @{micro.name}{SIGNATURE}"


def signature(micro: Micro) -> str:
    """The line with which the kernel begins."""
    return (
        f"define void @{micro.name}(ptr noalias readonly %a, i64 %a_row, i64 %a_k, "
        "ptr noalias readonly %b, i64 %b_k, i64 %k, ptr noalias %tile, i64 %more)"
    )


def definition(micro: Micro) -> str:
    """The module of a kernel.

        void name(a, a_row, a_k, b, b_k, k, tile, more)

    computes tile[r, j] = sum over k of a[r * a_row + k * a_k] * b[k * b_k + j], added to what the
    tile holds already if `more` is not 0. Strides count elements, k is at least 1, and the tile is
    dense, aligned to a vector. With pairs k counts those, a is the address of the first of a pair
    and b that of as many pairs as the tile has columns; strides still count single elements.
    """
    f = Function(signature(micro))
    cells = [(r, v) for r in range(micro.rows) for v in range(micro.vectors)]
    starts = [f.at(micro.read, "%a", f.mul("%a_row", row)) for row in range(0, micro.rows, _GROUP)]
    offsets = ["0", "%a_row", f.mul("%a_row", 2)]
    ahead = f.mul("%a_k", _AHEAD_A), f.mul("%b_k", _AHEAD_B)
    f.line("br label %loop")
    f.label("loop")
    f.line("%left = phi i64 [%k, %entry], [%left.next, %loop]")
    f.line("%bp = phi ptr [%b, %entry], [%bp.next, %loop]")
    for g, start in enumerate(starts):
        f.line(f"%a{g} = phi ptr [{start}, %entry], [%a{g}.next, %loop]")
    for r, v in cells:
        zero = "zeroinitializer"
        f.line(f"%c{r}_{v} = phi {micro.vector} [{zero}, %entry], [%s{r}_{v}, %loop]")
    _step(f, micro, offsets, ahead)
    for g in range(len(starts)):
        f.line(f"%a{g}.next = getelementptr {micro.read}, ptr %a{g}, i64 %a_k")
    f.line(f"%bp.next = getelementptr {micro.read}, ptr %bp, i64 %b_k")
    f.line("%left.next = sub i64 %left, 1")
    f.line("%done = icmp eq i64 %left.next, 0")
    f.line("br i1 %done, label %last, label %loop")
    f.label("last")
    f.line("%adds = icmp ne i64 %more, 0")
    f.line("br i1 %adds, label %add, label %store")
    for mode in ("add", "store"):
        f.label(mode)
        for r, v in cells:
            _store(f, micro, r, v, add=mode == "add")
        f.line("ret void")
    if micro.pairs:
        return f"{f}\n{declare_add_products(micro.source, micro.lanes)}"
    return f"{f}\n{declare_fma(micro.element, micro.lanes)}"


def _step(f: Function, micro: Micro, offsets: list[str], ahead: tuple[str, str]) -> None:
    """One step of k: %s = %c + a * b. `offsets` are those of the rows of a group, `ahead` those of
    the steps of A and B to ask for.
    """
    b = []
    for v in range(micro.vectors):
        pointer = f.at(micro.read, "%bp", v * micro.lanes * (2 if micro.pairs else 1))
        b.append(read_b(f, micro, pointer))
    # Through the empty assembly LLVM does not see that these pointers are a stride apart. It would
    # form each row's address from the one before, and the chain would take longer than the sums.
    starts = [f.let(f'call ptr asm "", "=r,0"(ptr %a{g})') for g in range(-(-micro.rows // _GROUP))]
    if micro.rows >= _MANY_ROWS and not micro.pairs:
        far = f.at(micro.read, "%bp", ahead[1])
        lines = [f.at(micro.read, far, v * micro.lanes) for v in range(micro.vectors)]
        for pointer in (*lines, *(f.at(micro.read, x, ahead[0]) for x in (starts[0], starts[-1]))):
            f.line(f"call void @llvm.prefetch.p0(ptr {pointer}, i32 0, i32 3, i32 1)")
    for r in range(micro.rows):
        a = read_a(f, micro, f.at(micro.read, starts[r // _GROUP], offsets[r % _GROUP]))
        for v in range(micro.vectors):
            f.line(f"%s{r}_{v} = {_multiply_add(f, micro, a, b[v], f'%c{r}_{v}')}")


def read_b(f: Function, micro: Micro, pointer: str) -> str:
    """A vector of B, or of its pairs."""
    if micro.pairs:
        return f.let(f"load <{2 * micro.lanes} x {micro.source}>, ptr {pointer}, align 2")
    value = load(f, micro.read, micro.lanes, pointer)
    return converted(f, micro.read, micro.element, micro.lanes, value, micro.lanes > 4)


def read_a(f: Function, micro: Micro, pointer: str) -> str:
    """An element, or a pair, of A in all lanes."""
    lanes = micro.lanes
    if micro.pairs:
        pair = f.let(f"load i32, ptr {pointer}, align 2")
        vector = broadcast(f, f"<{lanes} x i32>", pair)
        return f.let(f"bitcast <{lanes} x i32> {vector} to <{2 * lanes} x {micro.source}>")
    kind = stored(micro.read)
    vector = broadcast(f, f"<{lanes} x {kind}>", f.let(f"load {kind}, ptr {pointer}"))
    return converted(f, micro.read, micro.element, lanes, vector, lanes > 4)


def _multiply_add(f: Function, micro: Micro, a: str, b: str, c: str) -> str:
    if micro.pairs:
        return add_products(f, micro.source, micro.lanes, b, a, c)
    return fma(f, micro.element, micro.lanes, a, b, c)


def _store(f: Function, micro: Micro, r: int, v: int, add: bool) -> None:
    pointer = f.at(micro.element, "%tile", (r * micro.vectors + v) * micro.lanes)
    align = size(micro.element) * micro.lanes
    value = f"%s{r}_{v}"
    if add:
        old = f.let(f"load {micro.vector}, ptr {pointer}, align {align}")
        value = f.let(f"{plus(micro.element)} {micro.vector} {old}, {value}")
    f.line(f"store {micro.vector} {value}, ptr {pointer}, align {align}")


def plus(element: str) -> str:
    """The instruction that adds."""
    return "fadd" if element in ("float", "double") else "add"


def fma(f: Function, element: str, lanes: int, x: str, y: str, z: str) -> str:
    """The last instruction of x * y + z for vectors, as an expression.

    fmuladd, not fma: where the machine has no fused instruction it is a product and a sum.
    """
    vector = f"<{lanes} x {element}>"
    if plus(element) == "add":
        product = f.let(f"mul {vector} {x}, {y}")
        return f"add {vector} {z}, {product}"
    return f"call {vector} @{_fma(element, lanes)}({vector} {x}, {vector} {y}, {vector} {z})"


def declare_fma(element: str, lanes: int) -> str:
    """The declaration that `fma` needs."""
    if plus(element) == "add":
        return ""
    vector = f"<{lanes} x {element}>"
    return f"declare {vector} @{_fma(element, lanes)}({vector}, {vector}, {vector})\n"


def _fma(element: str, lanes: int) -> str:
    return f"llvm.fmuladd.v{lanes}f{8 * size(element)}"
