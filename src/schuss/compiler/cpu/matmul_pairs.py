"""Instructions that multiply pairs of narrow numbers and add both products to a wider sum.

    sum[i] += x[2 i] y[2 i] + x[2 i + 1] y[2 i + 1]

For bfloat16 that is `vdpbf16ps` of AVX512-BF16, which adds up in float32: twice the multiply-adds
of an instruction of float32. It rounds to nearest whatever the rounding mode, and takes subnormal
numbers (below 2**-126) for zeros, those of the operands and those that it would return. For
integers it is `pmaddwd` with an addition, one instruction (`vpdpwssd`) in AVX512-VNNI, both modulo
2**32.
"""

from __future__ import annotations

from schuss.compiler.cpu.matmul_text import Function

# LLVM's names of the instruction by element and bits of a vector.
_NAMES = {
    ("bfloat", 128): "llvm.x86.avx512bf16.dpbf16ps.128",
    ("bfloat", 256): "llvm.x86.avx512bf16.dpbf16ps.256",
    ("bfloat", 512): "llvm.x86.avx512bf16.dpbf16ps.512",
    ("i16", 128): "llvm.x86.sse2.pmadd.wd",
    ("i16", 256): "llvm.x86.avx2.pmadd.wd",
    ("i16", 512): "llvm.x86.avx512.pmaddw.d.512",
}


def paired(source: str) -> str:
    """The LLVM type of the two numbers of a pair; int8 is widened."""
    return "i16" if source == "i8" else source


def add_products(f: Function, element: str, lanes: int, x: str, y: str, z: str) -> str:
    """The last instruction of z + products of pairs, as an expression.

    x and y are vectors of 2 `lanes` of `element` (bfloat or i16), z one of `lanes` sums.
    """
    pairs, name = f"<{2 * lanes} x {element}>", _NAMES[element, 32 * lanes]
    if element == "bfloat":
        kind = f"<{lanes} x float>"
        return f"call {kind} @{name}({kind} {z}, {pairs} {x}, {pairs} {y})"
    kind = f"<{lanes} x i32>"
    return f"add {kind} {z}, {f.let(f'call {kind} @{name}({pairs} {x}, {pairs} {y})')}"


def declare_add_products(element: str, lanes: int) -> str:
    """The declaration that `add_products` needs."""
    pairs, name = f"<{2 * lanes} x {element}>", _NAMES[element, 32 * lanes]
    if element == "bfloat":
        kind = f"<{lanes} x float>"
        return f"declare {kind} @{name}({kind}, {pairs}, {pairs})\n"
    return f"declare <{lanes} x i32> @{name}({pairs}, {pairs})\n"
