"""A framework's predictions of one workload, served from a process of its own."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from common.pictures import PICTURES
from common.processes import peak_memory


class InferenceSide:
    """Imports the framework at once; `prepare`, then `build`, come next.

    Args:
        framework: "schuss" or "pytorch".
        variant: which way of it; see its module.
    """

    def __init__(self, framework: str, variant: str) -> None:
        self._module: Any = importlib.import_module(f"common.inference_{framework}")
        self._variant = variant
        self._predict: Callable[[], np.ndarray]

    def prepare(self, name: str) -> str | None:
        """Make the images; return why there can be no predictions, if so."""
        self._picture = PICTURES[name]
        self._images = self._picture.images()
        return self._module.unavailable(self._variant)

    def build(self) -> np.ndarray:
        """Make the network and predict once: logits (N, 1000)."""
        self._predict = self._module.make(self._picture, self._variant, self._images)
        self._predict()
        return self._predict()  # the second time, plain Schuss has compiled

    def time(self, repeats: int) -> float:
        """Milliseconds for a batch, over so many."""
        self._predict()  # threads and caches come back after a halt
        started = time.perf_counter()
        for _ in range(repeats):
            self._predict()
        return (time.perf_counter() - started) / repeats * 1e3

    def peak_memory(self) -> int:
        """Bytes."""
        return peak_memory()

    def describe(self) -> str:
        return self._module.describe()
