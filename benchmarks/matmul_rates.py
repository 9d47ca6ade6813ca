"""GFLOP/s of the compiled tier's matrix products beside NumPy's and PyTorch's, size by size.

    python benchmarks/matmul_rates.py                       # all sizes, all cores
    python benchmarks/matmul_rates.py --threads 1 --only gpt small

Kernels are run by themselves, without the framework around them. The sides take turns in one
process, and the best of the turns counts. With one thread it is processor time that is measured,
which other programs on the machine disturb less. The ceiling is the rate of multiply-adds that do
nothing else, which a micro-kernel on packed operands comes close to.
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

BURST = 0.01  # seconds of a turn
TURNS = 7


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


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """A float32 array that starts at a multiple of 64 bytes, with random contents."""
    import numpy as np

    size = int(np.prod(shape))
    memory = np.empty(size + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    array = memory[start : start + size].reshape(shape)
    array[...] = np.random.default_rng(size).random(shape, np.float32)
    return array


def operands(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """A and B, with the axes of a batch only where there is one."""
    batch = (case.batch,) if case.batch > 1 else ()
    a = aligned((*batch, case.m, case.k) if case.layout[0] == "N" else (*batch, case.k, case.m))
    b = aligned((*batch, case.k, case.n) if case.layout[1] == "N" else (*batch, case.n, case.k))
    return (
        a if case.layout[0] == "N" else a.swapaxes(-1, -2),
        b if case.layout[1] == "N" else b.swapaxes(-1, -2),
    )


def ours(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> Callable[[], object]:
    """The product as a sequence of launches."""
    from schuss.compiler.cpu.library import Source, compile_kernels
    from schuss.compiler.cpu.matmul import Product, lower, plain_epilogue
    from schuss.compiler.cpu.runtime import Launch, Sequence

    strides = [tuple(s // 4 for s in x.strides) for x in (a, b)]
    product = Product("float32", a.shape[:-2], a.shape[-2], b.shape[-1], a.shape[-1], *strides)
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

    call.workspace = workspace  # type: ignore[attr-defined]  # lives as long as the call
    return call


def sides(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> dict[str, Callable[[], object]]:
    """What is compared, by name."""
    import numpy as np
    import torch

    result = np.empty_like(c)
    x, y, z = (torch.from_numpy(each) for each in (a, b, np.empty_like(c)))
    return {
        "schuss": ours(a, b, c),
        "NumPy": lambda: np.matmul(a, b, out=result),
        "PyTorch": lambda: torch.matmul(x, y, out=z),
    }


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
    options = parser.parse_args()

    from common.processes import thread_settings

    threads = options.threads or len(os.sched_getaffinity(0))
    os.environ.update(thread_settings(threads))  # before NumPy is loaded

    import numpy as np
    import torch

    from common import machine, report

    torch.set_num_threads(threads)
    print(report.setting(["numpy", "torch", "llvmlite"], threads))
    print(f"{machine.measure(threads)}\n")
    print(f"{'GFLOP/s':36}{'schuss':>9}{'NumPy':>9}{'PyTorch':>9}{'ours / best':>13}")
    for case in CASES:
        if options.only and case.group not in options.only:
            continue
        a, b = operands(case)
        c = aligned((*a.shape[:-1], b.shape[-1]))
        calls = sides(a, b, c)
        calls["schuss"]()
        np.testing.assert_allclose(c, a @ b, rtol=1e-4, atol=1e-4)
        times = measure(calls, time.thread_time if threads == 1 else time.perf_counter)
        work = 2e-9 * case.batch * case.m * case.n * case.k
        rates = "".join(f"{report.figure(work / each):>9}" for each in times.values())
        best = min(times["NumPy"], times["PyTorch"]) / times["schuss"]
        print(f"{case!s:36}{rates}{best:13.2f}", flush=True)


if __name__ == "__main__":
    main()
