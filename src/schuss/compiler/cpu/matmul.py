"""Matrix products of the CPU target: templates with a hole for what is done with the result.

    lower(product, print_epilogue, machine=None) -> Lowered

A product is lowered to a few launches: packing, where an operand cannot be read in place, the
multiplication, and, where k was cut, the addition of its slices. Words of %args: 0 is the address
of A, 1 of B, 2 of the workspace; those from 3 on belong to the epilogue.

The epilogue is LLVM IR text that defines

    define internal void @NAME(ptr %args, i64 %batch, i64 %m, i64 %n,
                               <L x T> %value, i64 %count) alwaysinline

It is called once for each element of C, in vectors: `value` holds C[batch, m, n + i] for
i < count, where 1 <= count <= L and `batch` counts through the batch axes in row-major order. It
computes and stores what it likes. T is the type that the product is summed in: float32 for half
precision, int32 for int8, else the dtype itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from schuss.compiler.cpu.host import host
from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.matmul_micro import size
from schuss.compiler.cpu.matmul_plan import Machine, Product, plan
from schuss.compiler.cpu.matmul_stages import Stage, Stages

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
    """

    shared: tuple[Source, ...]
    stages: tuple[Stage, ...]
    workspace: int


def lower(
    product: Product, print_epilogue: PrintEpilogue, machine: Machine | None = None
) -> Lowered:
    """Lower a product for a machine, by default this one."""
    if product.batches * product.m * product.n == 0:
        return Lowered((), (), 0)
    cut = plan(product, machine or this_machine())
    epilogue = print_epilogue("epilogue", cut.lanes, product.accumulator)
    key = sha256(f"{product}{cut}{epilogue}".encode()).hexdigest()[:16]
    stages = Stages(product, cut, epilogue, f"matmul_{key}")
    if product.k == 0:
        return Lowered((), (stages.zeros(),), 0)
    return Lowered(stages.shared(), stages.stages(), stages.workspace)


def this_machine() -> Machine:
    """The machine that kernels are compiled for."""
    here = host()
    many = here.vector_bits == 512 or not here.is_x86
    return Machine(here.vector_bits // 8, registers=32 if many else 16)


def plain_epilogue(product: Product) -> PrintEpilogue:
    """The epilogue that stores C, dense in row-major order and of the dtype of the sums, to the
    address in word 3.
    """

    def text(name: str, lanes: int, accumulator: str) -> str:
        element = product.element
        vector = f"<{lanes} x {element}>"
        return f"""
define internal void @{name}(ptr %args, i64 %batch, i64 %m, i64 %n, {vector} %value, i64 %count) \
alwaysinline {{
  %word = getelementptr i64, ptr %args, i64 3
  %c = load ptr, ptr %word
  %rows = mul i64 %batch, {product.m}
  %row = add i64 %rows, %m
  %before = mul i64 %row, {product.n}
  %index = add i64 %before, %n
  %target = getelementptr {element}, ptr %c, i64 %index
  %full = icmp eq i64 %count, {lanes}
  br i1 %full, label %whole, label %each
whole:
  store {vector} %value, ptr %target, align {size(element)}
  ret void
each:
  %i = phi i64 [0, %0], [%next, %each]
  %x = extractelement {vector} %value, i64 %i
  %p = getelementptr {element}, ptr %target, i64 %i
  store {element} %x, ptr %p
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %count
  br i1 %more, label %each, label %done
done:
  ret void
}}
"""

    return text
