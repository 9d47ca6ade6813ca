"""Micro-kernels of the matrix product: a tile of C held in registers.

The tile is `rows` x `vectors * lanes`. In every step of k one row of B is loaded as `vectors`
vectors, and each of `rows` elements of A is broadcast and multiplied into it (Goto and van de
Geijn, Anatomy of High-Performance Matrix Multiplication, 2008; van Zee and van de Geijn, BLIS,
2015). A kernel knows nothing of shapes: it takes strides, so that it serves packed and unpacked
operands alike, and is compiled once for a machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from schuss.compiler.cpu.matmul_text import Function

# How many rows share a pointer: element r of a group lies at pointer + r * stride, which the
# addressing modes of the machine give for r = 0, 1, 2 without an instruction.
_GROUP = 3


@dataclass(frozen=True)
class Micro:
    """A micro-kernel; `element` is the LLVM type of A, B and C, such as 'float'."""

    element: str
    lanes: int
    rows: int
    vectors: int

    @property
    def name(self) -> str:
        return f"schuss_matmul_{self.element}{self.lanes}_{self.rows}x{self.vectors}"

    @property
    def vector(self) -> str:
        return f"<{self.lanes} x {self.element}>"


SIGNATURE = "(ptr, i64, i64, ptr, i64, i64, ptr, i64)"


def declaration(micro: Micro) -> str:
    """The line with which a module refers to the kernel."""
    return f"declare void @{micro.name}{SIGNATURE}"


def definition(micro: Micro) -> str:
    """The module of a kernel.

        void name(a, a_row, a_k, b, b_k, k, tile, more)

    computes tile[r, j] = sum over k of a[r * a_row + k * a_k] * b[k * b_k + j], added to what the
    tile holds already if `more` is not 0. Strides count elements, k is at least 1, and the tile is
    dense, aligned to a vector.
    """
    f = Function(
        f"define void @{micro.name}(ptr noalias readonly %a, i64 %a_row, i64 %a_k, "
        "ptr noalias readonly %b, i64 %b_k, i64 %k, ptr noalias %tile, i64 %more)"
    )
    cells = [(r, v) for r in range(micro.rows) for v in range(micro.vectors)]
    starts = [
        f.at(micro.element, "%a", f.mul("%a_row", row)) for row in range(0, micro.rows, _GROUP)
    ]
    offsets = ["0", "%a_row", f.mul("%a_row", 2)]
    f.line("br label %loop")
    f.label("loop")
    f.line("%left = phi i64 [%k, %entry], [%left.next, %loop]")
    f.line("%bp = phi ptr [%b, %entry], [%bp.next, %loop]")
    for g, start in enumerate(starts):
        f.line(f"%a{g} = phi ptr [{start}, %entry], [%a{g}.next, %loop]")
    for r, v in cells:
        zero = "zeroinitializer"
        f.line(f"%c{r}_{v} = phi {micro.vector} [{zero}, %entry], [%s{r}_{v}, %loop]")
    _step(f, micro, offsets)
    for g in range(len(starts)):
        f.line(f"%a{g}.next = getelementptr {micro.element}, ptr %a{g}, i64 %a_k")
    f.line(f"%bp.next = getelementptr {micro.element}, ptr %bp, i64 %b_k")
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
    return f"{f}\n{declare_fma(micro.element, micro.lanes)}"


def _step(f: Function, micro: Micro, offsets: list[str]) -> None:
    """One step of k: %s = %c + a * b. `offsets` are those of the rows of a group."""
    element, lanes = micro.element, micro.lanes
    b = []
    for v in range(micro.vectors):
        pointer = f.at(element, "%bp", v * lanes)
        b.append(f.let(f"load {micro.vector}, ptr {pointer}, align {size(element)}"))
    # Through the empty assembly LLVM does not see that these pointers are a stride apart. It would
    # form each row's address from the one before, and the chain would take longer than the sums.
    starts = [f.let(f'call ptr asm "", "=r,0"(ptr %a{g})') for g in range(-(-micro.rows // _GROUP))]
    for r in range(micro.rows):
        pointer = f.at(element, starts[r // _GROUP], offsets[r % _GROUP])
        a = broadcast(f, micro.vector, f.let(f"load {element}, ptr {pointer}"))
        for v in range(micro.vectors):
            f.line(f"%s{r}_{v} = {fma(f, element, lanes, a, b[v], f'%c{r}_{v}')}")


def _store(f: Function, micro: Micro, r: int, v: int, add: bool) -> None:
    pointer = f.at(micro.element, "%tile", (r * micro.vectors + v) * micro.lanes)
    align = size(micro.element) * micro.lanes
    value = f"%s{r}_{v}"
    if add:
        old = f.let(f"load {micro.vector}, ptr {pointer}, align {align}")
        value = f.let(f"{plus(micro.element)} {micro.vector} {old}, {value}")
    f.line(f"store {micro.vector} {value}, ptr {pointer}, align {align}")


def broadcast(f: Function, vector: str, scalar: str) -> str:
    """A vector with all elements equal to `scalar`."""
    element = vector.split(" x ")[1].rstrip(">")
    lanes = vector.split(" x ")[0].lstrip("<")
    first = f.let(f"insertelement {vector} poison, {element} {scalar}, i32 0")
    zeros = f"<{lanes} x i32> zeroinitializer"
    return f.let(f"shufflevector {vector} {first}, {vector} poison, {zeros}")


def size(element: str) -> int:
    """Bytes of an LLVM scalar type."""
    return {"float": 4, "double": 8, "half": 2, "bfloat": 2}.get(element) or int(element[1:]) // 8


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
