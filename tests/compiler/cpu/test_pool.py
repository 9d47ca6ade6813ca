"""Pools of threads when nothing runs, and when processes end or fork."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time

import pytest
from tests.compiler.cpu.launching import KERNELS, NAMES, PATIENCE, meeting

from schuss.compiler.cpu.library import Source, compile_kernels
from schuss.compiler.cpu.runtime import get_num_threads, set_num_threads


@pytest.fixture(autouse=True)
def threads():
    before = get_num_threads()
    yield
    set_num_threads(before)


def test_a_parked_pool_takes_no_time():
    kernels = compile_kernels([Source(KERNELS, NAMES)])
    set_num_threads(4)
    assert meeting(kernels, 4)()

    def processor_time():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    time.sleep(0.05)  # until all have gone to sleep
    before = processor_time()
    time.sleep(0.3)  # what is measured
    assert processor_time() - before < 0.02


PRELUDE = f"""
import ctypes, os, sys, threading, time
import numpy as np
from schuss.compiler.cpu.library import Source, compile_kernels
from schuss.compiler.cpu.runtime import Launch, Sequence, set_num_threads

kernels = compile_kernels([Source('''{KERNELS}''', {NAMES})])
set_num_threads(3)

def meet():
    counter, y = np.zeros(1, np.int64), np.zeros(3, np.int64)
    sequence = Sequence([[Launch(kernels["meet"], (1, 2, 3, 4), 3)]], 5)
    sequence.slots[1], sequence.slots[2] = counter.ctypes.data, y.ctypes.data
    sequence.slots[3], sequence.slots[4] = 3, {PATIENCE}
    sequence.run()
    return bool(y.all())

def run_for_ever(started):
    x = np.zeros(64, np.int64)
    sequence = Sequence([[Launch(kernels["count"], (1,), 8)]] * 1000, 2)
    sequence.slots[1] = 1000
    started.set()
    while True:
        sequence.run()

def start_runner():
    started = threading.Event()
    threading.Thread(target=run_for_ever, args=(started,), daemon=True).start()
    started.wait()
"""


def run(code: str, tmp_path) -> subprocess.CompletedProcess:
    script = tmp_path / "script.py"
    script.write_text(PRELUDE + code)
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


class TestEnd:
    """A process ends with what status it wants, whatever its workers do."""

    @pytest.mark.parametrize(
        ("last", "status", "busy"),
        [
            ("", 0, False),
            ("", 0, True),
            ("sys.exit(3)", 3, True),
            ("os._exit(4)", 4, True),
            ("1 / 0", 1, False),
        ],
    )
    def test_the_end(self, tmp_path, last, status, busy):
        code = "assert meet()\n" + "start_runner()\n" * busy + "print('here', flush=True)\n" + last
        done = run(code, tmp_path)
        assert (done.returncode, done.stdout) == (status, "here\n")
        assert ("ZeroDivisionError" in done.stderr) == (last == "1 / 0")
        assert "Fatal" not in done.stderr

    def test_a_thread_that_ends_the_program(self, tmp_path):
        code = """
def work():
    assert meet()
    sys.exit(7)

thread = threading.Thread(target=work)
thread.start()
thread.join()
assert meet()
print("both")
"""
        done = run(code, tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "both\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
class TestFork:
    @pytest.mark.parametrize("busy", [True, False])
    def test_the_child_has_a_pool_of_its_own(self, tmp_path, busy):
        code = """
assert meet()
for _ in range(5):
    child = os.fork()
    if child == 0:
        os._exit(0 if meet() and meet() else 1)
    assert os.waitpid(child, 0)[1] == 0
assert BUSY or meet()
print("all")
"""
        code = "start_runner()\n" * busy + code.replace("BUSY", str(busy))
        if busy:  # the other thread may have the pool: the parent cannot meet
            code = code.replace("assert meet()\nfor", "for")
        done = run(code, tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "all\n", "")

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_multiprocessing(self, tmp_path, method):
        code = f"""
import multiprocessing

def work(number):
    return number, meet()

if __name__ == "__main__":
    assert meet()
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        print(pool.map(work, range(4), chunksize=1))
    assert meet()
"""
        done = run(code, tmp_path)
        expected = "[(0, True), (1, True), (2, True), (3, True)]\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")
