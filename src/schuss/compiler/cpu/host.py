"""The processor that kernels are compiled for, and how many threads compute on it.

host() -> Host                what to compile for; found once per process
get_num_threads() -> int      how many threads compute
set_num_threads(n)            takes effect with the next run
"""

from __future__ import annotations

import atexit
import os
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from schuss import settings
from schuss.dtypes import DType
from schuss.errors import ArgumentError, fail


@dataclass(frozen=True)
class Host:
    """What kernels are compiled for.

    Attributes:
        name: the processor as LLVM calls it, such as "znver4".
        features: LLVM's feature string, such as "+avx2,-sse4a"; empty: those that the name implies.
        triple: such as "x86_64-unknown-linux-gnu".
        layout: LLVM's data layout string.
        vector_bits: 512, 256 or 128.
        has_fma: a fused multiply-add is one instruction. Without, `llvm.fma` is a slow call.
        has_bf16_dot: there are dot products of bfloat16 that sum in float32 (AVX512-BF16).
        cores: how many processors this process may use.
    """

    name: str
    features: str
    triple: str
    layout: str
    vector_bits: int
    has_fma: bool
    has_bf16_dot: bool
    cores: int

    def lanes(self, dtype: DType) -> int:
        """How many elements of a dtype a vector has. bool is a byte."""
        return self.vector_bits // (8 * dtype.itemsize)

    @property
    def is_x86(self) -> bool:
        return self.triple.startswith(("x86_64", "amd64"))


# Held while LLVM works or is imported: neither the child of a fork nor the end of the process may
# meet it in the middle of something that another thread has begun.
llvm_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=llvm_lock.acquire,
        after_in_parent=llvm_lock.release,
        after_in_child=llvm_lock.release,
    )
atexit.register(llvm_lock.acquire)


# What SCHUSS_CPU may ask for on x86-64: LLVM's name, and a feature that the machine must have.
_LESSER = {"avx512": ("skylake-avx512", "avx512dq"), "avx2": ("haswell", "avx2")}


@cache
def host() -> Host:
    """The processor of this machine, or the lesser one that SCHUSS_CPU names.

    Raises ArgumentError where SCHUSS_CPU names what this machine is not.
    """
    with llvm_lock:
        return _find_host()


def _find_host() -> Host:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple = llvm.get_process_triple()
    has = {name for name, there in llvm.get_host_cpu_features().items() if there}
    name, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    lesser = settings.cpu()
    if lesser is not None:
        name, features, has = _lesser(lesser, has, is_x86="avx" in has or "sse2" in has)
    target = llvm.Target.from_triple(triple)
    layout = str(target.create_target_machine(cpu=name, features=features).target_data)
    return Host(
        name=name,
        features=features,
        triple=triple,
        layout=layout,
        vector_bits=512 if "avx512f" in has else 256 if "avx2" in has else 128,
        has_fma=bool(has & {"fma", "neon"}),
        has_bf16_dot={"avx512bf16", "avx512vl"} <= has,
        cores=_usable_cores(),
    )


def _lesser(wanted: str, has: set[str], is_x86: bool) -> tuple[str, str, set[str]]:
    """LLVM's name, feature string, and the set of features that `host` looks at."""
    if wanted == "portable":
        return ("x86-64", "", set()) if is_x86 else ("generic", "", {"neon"})
    if wanted in _LESSER:
        name, needed = _LESSER[wanted]
        if needed in has:
            return name, "", {"avx512f", "avx2", "fma"} if wanted == "avx512" else {"avx2", "fma"}
    raise fail(
        ArgumentError,
        "SCHUSS_CPU",
        f"the environment variable asks for {wanted!r}, which this machine is not",
        hint="avx512, avx2 or portable",
    )


def _usable_cores() -> int:
    """The processors that the scheduler and the control group leave to this process."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = _quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    return max(1, count if quota is None else min(count, quota))


def _quota(root: Path, membership: Path) -> int | None:
    """How many processors' time the control groups allow, rounded up; None without a limit.

    Looks at the group of this process and at those above it, of version 2 (`cpu.max`) and of
    version 1 (`cpu.cfs_quota_us`).
    """
    try:
        lines = membership.read_text().splitlines()
    except (OSError, ValueError):
        return None
    limits = []
    for line in lines:
        _, _, group = line.partition(":")
        controllers, _, path = group.partition(":")
        if not controllers:
            top = root
        elif "cpu" in controllers.split(","):
            top = root / "cpu"
        else:
            continue
        # Inside a container the path is often one that only the outside can see.
        folder = top / path.lstrip("/")
        while True:
            limits += _limit(folder)
            if folder == top or top not in folder.parents:
                break
            folder = folder.parent
    return min(limits, default=None)


def _limit(folder: Path) -> list[int]:
    """The limit of one control group, as a list of one, or of none where it sets no limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        if quota == "max" or int(quota) <= 0:
            return []
        return [-(-int(quota) // int(period))]
    except (OSError, ValueError, ZeroDivisionError):
        return []


_threads: int | None = None


def get_num_threads() -> int:
    """How many threads compute, the calling one included.

    By default SCHUSS_NUM_THREADS, or as many as there are processors that this process may use.
    """
    global _threads
    if _threads is None:
        _threads = settings.num_threads() or _usable_cores()
    return _threads


def set_num_threads(n: int) -> None:
    """Compute with `n` threads from the next run on. Results do not depend on it.

    Raises ArgumentError unless `n` is a positive whole number.
    """
    global _threads
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise fail(
            ArgumentError, "set_num_threads", f"n must be a positive whole number, got {n!r}"
        )
    _threads = n
