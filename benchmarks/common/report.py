"""Numbers into text: medians with their quartiles, ratios, tables, the machine's description."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

NOTHING = "–"


def figure(value: float) -> str:
    """Three significant digits, never with an exponent."""
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:.{digits}f}"


def spread(times: Sequence[float]) -> str:
    """The median, and in brackets the quartiles."""
    low, median, high = np.percentile(times, [25, 50, 75])
    return f"{figure(median)} ({figure(low)} to {figure(high)})"


def ratio(theirs: Sequence[Sequence[float]], ours: Sequence[float]) -> float:
    """How many times as fast as the best peer we are, above 1 where we are faster.

    The best peer is that of the lowest median. All sides took turns in each round, so that a slow
    phase of the machine falls on all of them: the ratio is the median of those of the rounds.
    """
    best = min(theirs, key=lambda each: float(np.median(each)))
    return float(np.median(np.divide(best, ours)))


def disagreement(
    curve: Sequence[float], expected: Sequence[float], tolerance: float = 1e-3
) -> str | None:
    """Where two loss curves part; None where they agree.

    They may differ by `tolerance` times the way that the expected one goes, from its highest to its
    lowest loss: tolerances relative to the loss itself would let a wrong gradient pass where the
    loss hardly moves.
    """
    a, b = np.asarray(curve), np.asarray(expected)
    differs = ~(np.abs(a - b) <= tolerance * np.ptp(b))  # NaN differs
    if not differs.any():
        return None
    first = int(differs.argmax())
    return f"loss {a[first]:.6g} at step {first + 1}, expected {b[first]:.6g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def setting(packages: Sequence[str], threads: int) -> str:
    """One line: date, machine, versions and threads."""
    found = [
        f"{name} {_version(name)}"
        for name in packages
        if importlib.util.find_spec(name) is not None
    ]
    return (
        f"{date.today()}, {processor()}, {available()} cores, {threads} of them used by each side, "
        f"Python {platform.python_version()}, {', '.join(found)}"
    )


def _version(name: str) -> str:
    """Of an installed package, or of one that only lies on Python's path."""
    try:
        return version(name)
    except PackageNotFoundError:
        return str(getattr(importlib.import_module(name), "__version__", "not installed"))


def available() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The name of the processor, as far as the system tells."""
    name = platform.processor() or platform.machine()
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                name = line.partition(":")[2].strip()
                break
    return f"{name} ({platform.machine()})"


def write(path: Path, lines: Sequence[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"\nwrote {path}")
