"""GFLOP/s of the compiled tier's matrix products beside NumPy's and PyTorch's, size by size.

    python benchmarks/matmul_rates.py                       # all sizes, all cores
    python benchmarks/matmul_rates.py --threads 1 --only gpt small
    python benchmarks/matmul_rates.py --dtype bfloat16      # beside our own float32, too

Kernels are run by themselves, without the framework around them. The sides take turns in one
process, and the best of the turns counts. With one thread it is processor time that is measured,
which other programs on the machine disturb less. The ceiling is the rate of multiply-adds that do
nothing else, in float32, which a micro-kernel on packed operands comes close to. Products of
narrow numbers store their sums here as they are, in 32 bits; PyTorch rounds them. NumPy has no
bfloat16, and multiplies float16 and integers one by one: it is left out where that takes too long.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

BURST = 0.01  # seconds of a turn
TURNS = 7
PEERS = ("NumPy", "PyTorch")
DTYPES = ("float32", "bfloat16", "float16", "int8")
SLOW = 1e7  # multiply-adds that are too many to be done one by one


@dataclass(frozen=True)
class Case:
    """C (batch, m, n) = A (batch, m, k) B (batch, k, n); in `layout` T says that an operand lies
    transposed in memory.
    """

    group: str
    m: int
    n: int
    k: int
    layout: str = "NN"
    batch: int = 1

    @property
    def multiply_adds(self) -> int:
        return self.batch * self.m * self.n * self.k

    def __str__(self) -> str:
        batch = f"{self.batch} x " if self.batch > 1 else ""
        return f"{batch}{self.m} x {self.n}, k {self.k}, {self.layout}"


def layer(group: str, rows: int, inputs: int, outputs: int) -> list[Case]:
    """The three products of a linear layer whose weight is stored (outputs, inputs)."""
    return [
        Case(group, rows, outputs, inputs, "NT"),
        Case(group, outputs, inputs, rows, "TN"),
        Case(group, rows, inputs, outputs, "NN"),
    ]


CASES = [
    *layer("mlp", 256, 784, 256),
    *layer("mlp", 256, 256, 10),
    *layer("mlp", 128, 784, 1024),
    *layer("mlp", 128, 1024, 10),
    *layer("gpt", 2048, 256, 1024),
    *layer("gpt", 2048, 1024, 256),
    *layer("gpt", 2048, 256, 65),
    Case("heads", 128, 128, 32, "NT", batch=128),
    Case("heads", 128, 32, 128, "NN", batch=128),
    Case("heads", 128, 32, 128, "TN", batch=128),
    *(Case("square", size, size, size) for size in (128, 256, 512, 1024, 2048)),
    *(Case("small", size, size, size) for size in (1, 4, 10, 16, 32, 64, 100)),
    Case("small", 10, 1, 2),
    Case("skinny", 1, 1024, 1024, "NT"),
    Case("skinny", 1, 1024, 1024, "NN"),
    Case("skinny", 1024, 1, 1024, "NN"),
    Case("skinny", 1024, 1, 1024, "TN"),
    Case("skinny", 32, 1024, 256, "NT"),
    Case("skinny", 10, 256, 60_000, "TN"),
    Case("skinny", 3, 3, 10_000, "NT"),
    Case("skinny", 100_000, 16, 16, "NN"),
    Case("thin", 1024, 1024, 1, "NN"),
    Case("thin", 1024, 1024, 4, "NN"),
    Case("thin", 256, 256, 10, "NN"),
]


def aligned(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """An array that starts at a multiple of 64 bytes, with random contents."""
    import ml_dtypes
    import numpy as np

    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    size = int(np.prod(shape))
    memory = np.empty(size + 64, kind)
    start = -memory.ctypes.data % 64 // kind.itemsize
    array = memory[start : start + size].reshape(shape)
    rng = np.random.default_rng(size)
    array[...] = rng.integers(-100, 100, shape) if kind.kind == "i" else rng.random(shape, "f4")
    return array


def operands(case: Case, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """A and B, with the axes of a batch only where there is one."""
    batch = (case.batch,) if case.batch > 1 else ()
    a, b = (
        aligned((*batch, *((rows, columns) if layout == "N" else (columns, rows))), dtype)
        for layout, rows, columns in zip(
            case.layout, (case.m, case.k), (case.k, case.n), strict=True
        )
    )
    return (
        a if case.layout[0] == "N" else a.swapaxes(-1, -2),
        b if case.layout[1] == "N" else b.swapaxes(-1, -2),
    )


def ours(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> Callable[[], object]:
    """The product as a sequence of launches."""
    from schuss.compiler.cpu.library import Source, compile_kernels
    from schuss.compiler.cpu.matmul import Product, lower, plain_epilogue
    from schuss.compiler.cpu.runtime import Launch, Sequence

    strides = [tuple(s // x.itemsize for s in x.strides) for x in (a, b)]
    product = Product(a.dtype.name, a.shape[:-2], a.shape[-2], b.shape[-1], a.shape[-1], *strides)
    lowered = lower(product, plain_epilogue(product))
    stages = [Source(stage.text, (stage.name,)) for stage in lowered.stages]
    addresses = compile_kernels([*lowered.shared, *stages])
    launches = [
        Launch(addresses[stage.name], (1, 2, 3, 4), stage.parts, stage.scratch)
        for stage in lowered.stages
    ]
    sequence = Sequence([[launch] for launch in launches], slots=5)
    workspace = aligned((max(1, lowered.workspace // 4),))
    for slot, array in enumerate((a, b, workspace, c), start=1):
        sequence.slots[slot] = array.ctypes.data

    def call() -> None:
        sequence.run()

    call.memory = (a, b, workspace, c)  # type: ignore[attr-defined]  # lives as long as the call
    return call


def as_torch(x: np.ndarray) -> torch.Tensor:
    """The same memory."""
    import numpy as np
    import torch

    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def sides(case: Case, dtype: str) -> dict[str, Callable[[], object]]:
    """What is compared, by name; ours has been checked."""
    import numpy as np
    import torch

    a, b = operands(case, dtype)
    shape = (*a.shape[:-1], b.shape[-1])
    c = aligned(shape, "int32" if dtype == "int8" else "float32")
    calls = {"schuss": ours(a, b, c)}
    calls["schuss"]()
    wide = [x.astype(c.dtype) for x in (a, b)]
    np.testing.assert_allclose(c, wide[0] @ wide[1], rtol=1e-4, atol=1e-4)
    if dtype != "float32":
        calls["as float32"] = ours(*operands(case, "float32"), aligned(shape))
    if dtype == "float32" or (dtype != "bfloat16" and case.multiply_adds < SLOW):
        result = np.empty(shape, a.dtype)
        calls["NumPy"] = lambda: np.matmul(a, b, out=result)
    x, y = as_torch(a), as_torch(b)
    z = torch.empty(shape, dtype=x.dtype)
    if dtype != "int8" or case.multiply_adds < SLOW:
        calls["PyTorch"] = lambda: torch.matmul(x, y, out=z)
    return calls


def measure(calls: dict[str, Callable[[], object]], clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of the best turn of each side."""
    best: dict[str, float] = {}
    for _ in range(TURNS):
        for name, call in calls.items():
            call()  # wakes the side's threads
            started, count = clock(), 0
            while clock() - started < BURST:
                call()
                count += 1
            took = (clock() - started) / count
            best[name] = min(best.get(name, took), took)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=0, help="default: all cores")
    parser.add_argument("--only", nargs="*", help="groups: " + " ".join({c.group for c in CASES}))
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    options = parser.parse_args()

    from common.processes import thread_settings

    threads = options.threads or len(os.sched_getaffinity(0))
    os.environ.update(thread_settings(threads))  # before NumPy is loaded

    import torch

    from common import machine, report

    torch.set_num_threads(threads)
    columns = ["schuss", *(["as float32"] if options.dtype != "float32" else []), *PEERS]
    print(report.setting(["numpy", "torch", "llvmlite"], threads))
    print(f"{machine.measure(threads)}\n")
    titles = "".join(f"{each:>11}" for each in columns)
    print(f"{'GFLOP/s of ' + options.dtype:36}{titles}{'ours / best':>13}")
    for case in CASES:
        if options.only and case.group not in options.only:
            continue
        clock = time.thread_time if threads == 1 else time.perf_counter
        times = measure(sides(case, options.dtype), clock)
        work = 2e-9 * case.multiply_adds
        rates = [report.figure(work / times[each]) if each in times else "-" for each in columns]
        peers = [times[each] for each in PEERS if each in times]
        best = f"{min(peers) / times['schuss']:.2f}" if peers else "-"
        print(f"{case!s:36}{''.join(f'{each:>11}' for each in rates)}{best:>13}", flush=True)


if __name__ == "__main__":
    main()
