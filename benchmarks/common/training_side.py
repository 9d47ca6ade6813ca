"""A framework's training step of one workload, served from a process of its own."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

from common.processes import peak_memory
from common.workloads import WORKLOADS


class TrainingSide:
    """Imports the framework at once; `prepare`, then `build`, come next.

    Args:
        framework: "schuss", "pytorch" or "jax".
        variant: which way of it; see its module.
    """

    def __init__(self, framework: str, variant: str) -> None:
        self._module: Any = importlib.import_module(f"common.training_{framework}")
        self._variant = variant
        self._step: Callable[[], Any]

    def prepare(self, name: str) -> str | None:
        """Make weights and data; return why the step cannot be built, if so."""
        self._workload = WORKLOADS[name]
        self._weights, self._batch = self._workload.weights(), self._workload.batch()
        return self._module.unavailable(self._workload, self._variant)

    def build(self) -> float:
        """Make the network and do the first step: its loss."""
        self._step = self._module.make(self._workload, self._variant, self._weights, self._batch)
        del self._weights, self._batch
        return self._step().item()

    def losses(self, steps: int) -> list[float]:
        """Do so many more steps."""
        return [self._step().item() for _ in range(steps)]

    def time(self, repeats: int) -> float:
        """Milliseconds for a step, over so many; only the last loss is looked at."""
        for _ in range(1 + repeats // 10):  # threads and caches come back after a halt
            loss = self._step()
        loss.item()
        started = time.perf_counter()
        for _ in range(repeats):
            loss = self._step()
        loss.item()
        return (time.perf_counter() - started) / repeats * 1e3

    def peak_memory(self) -> int:
        """Bytes."""
        return peak_memory()

    def describe(self) -> str:
        return self._module.describe()
