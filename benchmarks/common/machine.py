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

# Accumulators %a0, %a1, ... start at zero; each turn makes %b0, %b1, ... of them. Returns the first
# lane of their sum.
_LOOP = """
define float @{name}(i64 %count, ptr %from) {{
entry:
  %m = load {vector}, ptr %from, align 4
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
{accumulators}
{body}
  %next = add i64 %i, {step}
  %more = icmp ult i64 %next, %count
  br i1 %more, label %loop, label %exit
exit:
  %s0 = fadd {vector} %b0, zeroinitializer
{sums}
  %first = extractelement {vector} %s{last}, i32 0
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

    def better(self, other: Limits) -> Limits:
        """The higher of either: what else runs on a machine only ever makes it slower."""
        return Limits(
            max(self.multiply_adds, other.multiply_adds), max(self.bandwidth, other.bandwidth)
        )

    def __str__(self) -> str:
        return (
            f"{2 * self.multiply_adds / 1e9:.0f} GFLOP/s of float32 multiply-adds, "
            f"{self.bandwidth / 1e9:.1f} GB/s read from memory"
        )


def measure(threads: int) -> Limits:
    """The best of several tries. It takes about half a second."""
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


def _text(lanes: int) -> str:
    """`multiply_add(turns, ones)` and `read(vectors, array)`."""
    v, name = f"<{lanes} x float>", f"@llvm.fma.v{lanes}f32"
    multiply = [f"  %b{i} = call {v} {name}({v} %a{i}, {v} %m, {v} %m)" for i in range(CHAINS)]
    read = [
        f"  %j{i} = add i64 %i, {i}\n"
        f"  %p{i} = getelementptr {v}, ptr %from, i64 %j{i}\n"
        f"  %x{i} = load {v}, ptr %p{i}, align 4\n"
        f"  %b{i} = fadd {v} %a{i}, %x{i}"
        for i in range(8)
    ]
    return (
        f"declare {v} {name}({v}, {v}, {v})\n"
        + _loop("multiply_add", v, multiply, step=1)
        + _loop("read", v, read, step=len(read))
    )


def _loop(name: str, vector: str, body: list[str], step: int) -> str:
    """A function whose loop runs `body`, the i-th part of which makes %b of i out of %a of i."""
    numbers = range(len(body))
    zero = "[zeroinitializer, %entry]"
    return _LOOP.format(
        name=name,
        vector=vector,
        step=step,
        body="\n".join(body),
        accumulators="\n".join(f"  %a{i} = phi {vector} {zero}, [%b{i}, %loop]" for i in numbers),
        sums="\n".join(f"  %s{i} = fadd {vector} %s{i - 1}, %b{i}" for i in numbers[1:]),
        last=len(body) - 1,
    )
