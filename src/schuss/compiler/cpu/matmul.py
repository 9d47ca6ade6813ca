"""Matrix products of the CPU target: templates with a hole for what is done with the result.

    lower(product, print_epilogue, machine=None, packs_right=False) -> Lowered

A product is lowered to a few launches: packing, where an operand cannot be read in place, the
multiplication, and, where k was cut, the addition of its slices. Words of %args: 0 is the address
of A, 1 of B, 2 of the workspace; those from 3 on belong to the epilogue. A matrix B that is always
the same can be packed beforehand, once for many products: `packed_bytes` and `lower_packing`.

The epilogue is LLVM IR text that defines

    define internal void @NAME(ptr %args, i64 %batch, i64 %m, i64 %n,
                               <L x T> %value, i64 %count) alwaysinline

It gets each element of C once, in vectors: `value` holds C[batch, m, n + i] for i < count, where
1 <= count <= L and `batch` counts through the batch axes in row-major order; its other elements are
anything. It computes and stores what it likes, but not to A or B. Its text may declare what it
calls: the modules declare only functions of their own. T is the type that the product is summed in:
float32 for half precision, int32 for integers of 8 and 16 bits, else the dtype itself. The text may
also define a function that asks for what the epilogue is going to read from memory for the vector
at [batch, m, n]:

    define internal void @NAME_ahead(ptr %args, i64 %batch, i64 %m, i64 %n) alwaysinline

Epilogues of convolutions may have more to do: see `Epilogue`, for sums over blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

from schuss.compiler.cpu.host import host
from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.matmul_elements import mask_below, size
from schuss.compiler.cpu.matmul_plan import (
    ELEMENTS,
    Machine,
    Plan,
    Product,
    by_rows,
    for_reading_epilogue,
    plan,
)
from schuss.compiler.cpu.matmul_stages import Stage, Stages
from schuss.compiler.cpu.matmul_text import Function

__all__ = ["Lowered", "Machine", "PrintEpilogue", "Product", "Stage", "lower", "plain_epilogue"]

# (name, lanes, dtype of the sums) -> text of the function.
PrintEpilogue = Callable[[str, int, str], str]


@dataclass(frozen=True)
class Lowered:
    """A product as launches.

    Attributes:
        shared: modules that the stages call into; to be compiled in the same call or before.
        stages: run one after the other, each after all parts of the one before.
        workspace: bytes of temporary memory, aligned to 64 bytes, whose address is word 2.
        packs_right: the first stage only packs B into the workspace, where the others read it.
    """

    shared: tuple[Source, ...]
    stages: tuple[Stage, ...]
    workspace: int
    packs_right: bool = False


def lower(
    product: Product, print_epilogue: PrintEpilogue, machine: Machine | None = None,
    packs_right: bool = False,
) -> Lowered:  # fmt: skip
    """Lower a product for a machine, by default this one.

    With `packs_right`, B is packed in a stage of its own where it can be, because it is used again:
    see `Lowered.packs_right`.
    """
    if product.batches * product.m * product.n == 0:
        return Lowered((), (), 0)
    turned = product.n == 1 and product.m > 1
    if turned:
        product, print_epilogue = _transposed(product), _one_by_one(print_epilogue)
    machine = machine or this_machine()
    cut = plan(product, machine)
    if packs_right and not turned:
        *batch, k, n = product.b_strides
        packed = replace(product, b_strides=(*batch, max(k, n), 1))  # as it will lie
        other = plan(packed, machine)
        packs_right = other.kernel == "tile"
        if packs_right:
            a_mode = "part" if other.a_mode == "stage" else other.a_mode
            cut = by_rows(product, machine, replace(other, a_mode=a_mode, b_mode="stage"))
    else:
        packs_right = False
    epilogue = print_epilogue("epilogue", cut.lanes, product.accumulator)
    if "@epilogue_ahead(" in epilogue and not packs_right:
        cut = for_reading_epilogue(product, cut)
    key = sha256(f"{product}{cut}{turned}{epilogue}".encode()).hexdigest()[:16]
    stages = Stages(product, cut, epilogue, f"matmul_{key}", (1, 0) if turned else (0, 1))
    if product.k == 0:
        return Lowered((), (stages.zeros(),), 0)
    return Lowered(stages.shared(), stages.stages(), stages.workspace, packs_right)


def packed_bytes(product: Product, machine: Machine | None = None) -> int:
    """How large B is once it is packed; 0 where packing it beforehand does not pay."""
    if product.batches * product.m * product.n * product.k == 0 or product.n == 1:
        return 0
    cut = plan(product, machine or this_machine())
    if cut.kernel != "tile" or cut.b_mode == "direct":
        return 0
    return _packing(product, cut).b.staged


def lower_packing(product: Product, machine: Machine | None = None) -> Lowered:
    """The packing of B for a product that has `b_packed`: from word 1 to word 2."""
    stages = _packing(product, plan(product, machine or this_machine()))
    return Lowered(stages.shared(), (stages.pack(),), 0)


def _packing(product: Product, cut: Plan) -> Stages:
    cut = replace(cut, a_mode="direct", b_mode="stage")
    key = sha256(f"{product}{cut}".encode()).hexdigest()[:16]
    return Stages(product, cut, "", f"pack_{key}", (0, 1))


def _transposed(product: Product) -> Product:
    """The product of B^T and A^T, whose result is C^T."""
    *a_batch, a_m, a_k = product.a_strides
    *b_batch, b_k, b_n = product.b_strides
    return replace(
        product,
        m=product.n,
        n=product.m,
        a_strides=(*b_batch, b_n, b_k),
        b_strides=(*a_batch, a_k, a_m),
    )


def _one_by_one(print_epilogue: PrintEpilogue) -> PrintEpilogue:
    """The epilogue of the transposed product: a row of C^T is a column, and so each of its elements
    a row, of C.
    """

    def text(name: str, lanes: int, accumulator: str) -> str:
        inner = print_epilogue(f"{name}_of_one", lanes, accumulator)
        vector = f"<{lanes} x {ELEMENTS[accumulator][1]}>"
        f = Function(
            f"define internal void @{name}(ptr %args, i64 %batch, i64 %m, i64 %n, {vector} %value, "
            "i64 %count) alwaysinline"
        )
        with f.loop(0, "%count") as i:
            x = f.let(f"extractelement {vector} %value, i64 {i}")
            one = f.let(
                f"insertelement {vector} zeroinitializer, {ELEMENTS[accumulator][1]} {x}, i64 0"
            )
            row = f.add("%n", i)
            f.line(
                f"call void @{name}_of_one(ptr %args, i64 %batch, i64 {row}, i64 %m, "
                f"{vector} {one}, i64 1)"
            )
        f.line("ret void")
        return f"{inner}\n{f}"

    return text


def this_machine() -> Machine:
    """The machine that kernels are compiled for."""
    here = host()
    many = here.vector_bits == 512 or not here.is_x86
    pairs = ("bfloat16",) if here.has_bf16_dot else ()
    if here.is_x86:
        pairs = (*pairs, "int8", "uint8", "int16", "uint16")
    return Machine(here.vector_bits // 8, 32 if many else 16, pairs)


def plain_epilogue(product: Product) -> PrintEpilogue:
    """The epilogue that stores C, dense in row-major order and of the dtype of the sums, to the
    address in word 3.
    """

    def text(name: str, lanes: int, accumulator: str) -> str:
        element = ELEMENTS[accumulator][1]
        vector, bits = f"<{lanes} x {element}>", 8 * size(element)
        store = f"@llvm.masked.store.v{lanes}{'i' if element[0] == 'i' else 'f'}{bits}.p0"
        f = Function(
            f"define internal void @{name}(ptr %args, i64 %batch, i64 %m, i64 %n, {vector} %value, "
            "i64 %count) alwaysinline"
        )
        row = f.add(f.mul("%batch", product.m), "%m")
        target = f.at(element, f.word(3), f.add(f.mul(row, product.n), "%n"))
        f.line(
            f"call void {store}({vector} %value, ptr {target}, i32 {size(element)}, "
            f"<{lanes} x i1> {mask_below(f, lanes, '%count')})"
        )
        f.line("ret void")
        return f"declare void {store}({vector}, ptr, i32, <{lanes} x i1>)\n{f}"

    return text
