from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from common.processes import Cache, Failure, Worker, peak_memory, thread_settings


def test_worker_answers_and_says_what_failed() -> None:
    with Worker("collections:Counter", "aab", threads=1) as worker:
        assert worker.ask("total") == 3
        assert worker.ask("most_common", 1) == [("a", 2)]
        with pytest.raises(Failure, match="AttributeError"):
            worker.ask("nothing")
        assert worker.ask("total") == 3
        assert worker.seconds > 0


def test_worker_that_cannot_begin() -> None:
    with pytest.raises(Failure, match="ModuleNotFoundError: No module named 'no_such_module'"):
        Worker("no_such_module:Nothing", threads=1)


def test_worker_whose_process_ends() -> None:
    with (
        Worker("functools:partial", os._exit, 3, threads=1) as worker,
        pytest.raises(Failure, match="the process ended"),
    ):
        worker.ask("__call__")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_worker_is_halted_between_calls() -> None:
    with Worker("collections:Counter", "aab", threads=1) as worker:
        state = Path(f"/proc/{worker.process_id}/stat")
        deadline = time.monotonic() + 10
        while state.read_text().split()[2] != "T" and time.monotonic() < deadline:
            os.sched_yield()
        assert state.read_text().split()[2] == "T"
        assert worker.ask("total") == 3


def test_worker_has_the_environment() -> None:
    with Worker("os:environ.copy", threads=3, environment={"COLOUR": "red"}) as worker:
        assert worker.ask("get", "COLOUR") == "red"
        assert worker.ask("get", "SCHUSS_NUM_THREADS") == "3"


def test_caches_are_folders_of_their_own(tmp_path: Path) -> None:
    first, second = Cache(str(tmp_path)), Cache(str(tmp_path))
    folder = Path(first.environment["SCHUSS_CACHE_DIR"])
    assert folder.is_dir()
    assert folder.parent == tmp_path
    assert first.environment != second.environment


def test_peak_memory_is_in_bytes() -> None:
    assert 10 * 2**20 < peak_memory() < 2**40


def test_thread_settings() -> None:
    assert thread_settings(2)["OMP_NUM_THREADS"] == "2"
