"""What the machine itself can do: multiply-adds and bytes from memory, on all threads at once.

Measured with loops printed as LLVM IR, which do nothing else.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

CHAINS = 12  # independent accumulators: more than latency times units, fewer than registers
_BYTES = 64 * 2**20  # for each thread: beyond the caches
_TURNS = 2_000_000

_RATE = """
declare <{n} x float> @llvm.fma.v{n}f32(<{n} x float>, <{n} x float>, <{n} x float>)

define float @multiply_add(i64 %turns, ptr %from) {{
entry:
  %m = load <{n} x float>, ptr %from, align 4
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
{phis}
{fmas}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %turns
  br i1 %more, label %loop, label %exit
exit:
{sums}
  %first = extractelement <{n} x float> %s{last}, i32 0
  ret float %first
}}

define float @read(i64 %vectors, ptr %from) {{
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
{read_phis}
{reads}
  %next = add i64 %i, {read_chains}
  %more = icmp ult i64 %next, %vectors
  br i1 %more, label %loop, label %exit
exit:
{read_sums}
  %first = extractelement <{n} x float> %s{read_last}, i32 0
  ret float %first
}}
"""


@dataclass(frozen=True)
class Limits:
    """What all threads reach together.

    Attributes:
        multiply_adds: of float32, a second.
        bandwidth: bytes read a second, from arrays far larger than the caches.
    """

    multiply_adds: float
    bandwidth: float

    def __str__(self) -> str:
        return (
            f"{2 * self.multiply_adds / 1e9:.0f} GFLOP/s of float32 multiply-adds, "
            f"{self.bandwidth / 1e9:.1f} GB/s read from memory"
        )


def measure(threads: int) -> Limits:
    """Take the best of several tries: what else runs on the machine only ever makes it slower."""
    lanes, functions, keep = _compile()
    share = np.ones(_BYTES // 4, np.float32)
    arrays = [share.copy() for _ in range(threads)]

    def multiply(array: np.ndarray) -> None:
        functions["multiply_add"](_TURNS, array.ctypes.data)

    def read(array: np.ndarray) -> None:
        functions["read"](array.size // lanes, array.ctypes.data)

    with ThreadPoolExecutor(threads) as pool:
        flops = _TURNS * CHAINS * lanes * threads
        rate = flops / _best(lambda: list(pool.map(multiply, arrays)))
        bandwidth = _BYTES * threads / _best(lambda: list(pool.map(read, arrays)))
    del keep
    return Limits(rate, bandwidth)


def _best(run: Callable[[], object]) -> float:
    """Seconds."""
    times = []
    for _ in range(15):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def _compile() -> tuple[int, dict[str, Callable[[int, int], float]], object]:
    """The vector's lanes, the two functions by name, and what must live as long as they do."""
    from llvmlite import binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    lanes = 16 if features.get("avx512f") else 8 if features.get("avx2") else 4
    module = llvm.parse_assembly(_text(lanes))
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=2
    )
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    kind = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64, ctypes.c_void_p)
    names = ("multiply_add", "read")
    return lanes, {name: kind(engine.get_function_address(name)) for name in names}, engine


def _text(n: int) -> str:
    vector = f"<{n} x float>"
    read_chains = 8
    load = "load {v}, ptr %p{i}, align 4"
    reads = [
        f"  %j{i} = add i64 %i, {i}\n"
        f"  %p{i} = getelementptr {vector}, ptr %from, i64 %j{i}\n"
        f"  %x{i} = {load.format(v=vector, i=i)}\n"
        f"  %b{i} = fadd {vector} %a{i}, %x{i}"
        for i in range(read_chains)
    ]
    return _RATE.format(
        n=n,
        phis=_phis(vector, CHAINS),
        fmas="\n".join(
            f"  %b{i} = call {vector} @llvm.fma.v{n}f32({vector} %a{i}, {vector} %m, {vector} %m)"
            for i in range(CHAINS)
        ),
        sums=_sums(vector, CHAINS),
        last=CHAINS - 1,
        read_phis=_phis(vector, read_chains),
        reads="\n".join(reads),
        read_sums=_sums(vector, read_chains),
        read_chains=read_chains,
        read_last=read_chains - 1,
    )


def _phis(vector: str, count: int) -> str:
    return "\n".join(
        f"  %a{i} = phi {vector} [zeroinitializer, %entry], [%b{i}, %loop]" for i in range(count)
    )


def _sums(vector: str, count: int) -> str:
    lines = [f"  %s0 = fadd {vector} %b0, zeroinitializer"]
    lines += [f"  %s{i} = fadd {vector} %s{i - 1}, %b{i}" for i in range(1, count)]
    return "\n".join(lines)
