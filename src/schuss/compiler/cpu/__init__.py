"""The CPU target: kernels printed as LLVM IR, compiled by llvmlite, run by a pool of threads.

What its parts agree on:

**A kernel** is one LLVM function

    define void @name(ptr noalias %args, i64 %part, ptr noalias %scratch)

`%args` points to 8-byte words. Word i is the address of the kernel's buffer i, or an integer where
the kernel's author says so. `%part` says which share of the work to do, from 0 to parts - 1; how
work is cut into parts depends on shapes alone, never on the number of threads, so that results are
the same bits on any number of them. `%scratch` is memory of the thread that runs the part (64-byte
aligned, at least as many bytes as the launch asks for, contents undefined).

**A launch** (`runtime.Launch`) is a kernel with the slots that its words are taken from, its number
of parts and its scratch bytes. A **wave** is a list of launches that do not depend on each other:
they run side by side, with one barrier after all. A **Sequence** is a list of waves over a table of
slots; running it is one native call.

**Vectors** have `host().lanes(dtype)` elements. Vector functions (exp, tanh, ...) are `internal
alwaysinline` LLVM functions whose text `math.definition(name, dtype, lanes)` gives.

**Buffers** are dense in row-major order. bool is one byte, 0 or 1. bfloat16 and float16 are
computed with in float32.
"""
