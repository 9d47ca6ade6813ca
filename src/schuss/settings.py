"""The environment variables that this package reads, all of them.

| variable           | meaning                                       | default                 |
|--------------------|-----------------------------------------------|-------------------------|
| SCHUSS_DATA        | folder in which downloaded data sets are kept | ~/.cache/schuss/data    |
| SCHUSS_EXECUTION   | what computes: auto, reference or compiled    | auto                    |
| SCHUSS_CHECK       | 1: both tiers compute, and must agree         | 0                       |
| SCHUSS_CACHE       | 0: compiled kernels are not kept on disk      | 1                       |
| SCHUSS_CACHE_DIR   | folder in which compiled kernels are kept     | ~/.cache/schuss/kernels |
| SCHUSS_NUM_THREADS | how many threads compute                      | one for each processor  |
| SCHUSS_CPU         | compile for less: avx512, avx2 or portable    | this machine            |

`~/.cache` is `$XDG_CACHE_HOME` where that is set. Processors are those that this process may use.
"""

from __future__ import annotations

import os
from pathlib import Path

from schuss.errors import ArgumentError, fail


def data_folder() -> Path:
    """Where downloaded data sets are kept."""
    named = os.environ.get("SCHUSS_DATA")
    if named:
        return Path(named).expanduser()
    return _user_cache() / "data"


EXECUTIONS = ("auto", "reference", "compiled")


def execution() -> str:
    """Which tier computes. Raises ArgumentError for a name that is none."""
    wanted = os.environ.get("SCHUSS_EXECUTION") or "auto"
    if wanted not in EXECUTIONS:
        raise fail(
            ArgumentError,
            "SCHUSS_EXECUTION",
            f"the environment variable must be one of {', '.join(EXECUTIONS)}, got {wanted!r}",
        )
    return wanted


def check() -> bool:
    """Whether both tiers compute everything and are compared."""
    return os.environ.get("SCHUSS_CHECK") == "1"


def kernel_folder() -> Path | None:
    """Where compiled kernels are kept; None where the user wants none kept or has no home."""
    if os.environ.get("SCHUSS_CACHE") == "0":
        return None
    named = os.environ.get("SCHUSS_CACHE_DIR")
    try:
        return Path(named).expanduser() if named else _user_cache() / "kernels"
    except RuntimeError:  # expanduser: there is no home folder
        return None


def num_threads() -> int | None:
    """How many threads the user wants; None where that is left to us.

    Raises ArgumentError for what is not a positive whole number.
    """
    wanted = os.environ.get("SCHUSS_NUM_THREADS")
    if not wanted:
        return None
    if not wanted.isdecimal() or int(wanted) < 1:
        raise fail(
            ArgumentError,
            "SCHUSS_NUM_THREADS",
            f"the environment variable must be a positive whole number, got {wanted!r}",
        )
    return int(wanted)


def cpu() -> str | None:
    """The lesser processor to compile for; None for the one that is there."""
    return os.environ.get("SCHUSS_CPU") or None


def _user_cache() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "schuss"
