"""Each framework in a process of its own, halted while it is not its turn.

Thread pools wait for work by spinning. A halted process does not take the others' cores, and each
framework keeps the waiting that its authors chose.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection, Pipe
from operator import attrgetter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent


class Failure(Exception):
    """What went wrong in a worker, in one line."""


class Worker:
    """A fresh process that holds an object and answers calls of its methods.

    Args:
        served: "module:name" of the object's class.
        arguments: for the class; picklable.
        threads: processors that the process may use, and the size of its thread pools.
        environment: variables beside those of this process.

    Attributes:
        seconds: from the start of the process to the end of the class's `__init__`.
        process_id: the system's number of the process.
    """

    def __init__(
        self,
        served: str,
        *arguments: Any,
        threads: int,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        here, there = Pipe()
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        variables = {**os.environ, **thread_settings(threads), **(environment or {})}
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "common.processes", str(there.fileno())],
            env={**variables, "PYTHONPATH": path},
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        there.close()
        self.process_id = self._process.pid
        self._connection = here
        try:
            self._call((served, arguments, threads))
        except BaseException:
            self.stop()
            raise
        self.seconds = time.perf_counter() - started
        self._process.send_signal(signal.SIGSTOP)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the object; raises Failure for what it raises."""
        self._process.send_signal(signal.SIGCONT)
        try:
            return self._call((method, arguments))
        finally:
            self._process.send_signal(signal.SIGSTOP)

    def _call(self, order: Any) -> Any:
        try:
            self._connection.send(order)
            done, answer = self._connection.recv()
        except (EOFError, OSError):
            raise Failure("the process ended") from None
        if not done:
            raise Failure(answer)
        return answer

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *problem: object) -> None:
        self.stop()


def thread_settings(threads: int) -> dict[str, str]:
    """The environment variables by which thread pools learn their size."""
    names = ("OMP", "MKL", "OPENBLAS", "SCHUSS")
    return {f"{name}_NUM_THREADS": str(threads) for name in names}


class Cache:
    """A folder of its own for compiled code, below `folder`, so that a process finds it empty.

    Attributes:
        environment: the variables that make every framework use it.
    """

    def __init__(self, folder: str) -> None:
        path = tempfile.mkdtemp(dir=folder)
        names = ("SCHUSS_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR")
        self.environment = dict.fromkeys(names, path)


def peak_memory() -> int:
    """The most bytes that this process had resident so far."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says includes the process that this one was started from
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _end_with_parent() -> None:
    """A halted process would outlive a parent that is killed."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def _serve(connection: Connection) -> None:
    _end_with_parent()
    served, arguments, threads = connection.recv()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    module, _, name = served.partition(":")
    held: Any = None
    while True:
        try:
            if held is None:
                answer, held = None, attrgetter(name)(importlib.import_module(module))(*arguments)
            else:
                method, arguments = connection.recv()
                answer = getattr(held, method)(*arguments)
            connection.send((True, answer))
        except EOFError:
            return
        except Exception as problem:
            traceback.print_exc()
            text = str(problem).strip().splitlines() or [""]
            connection.send((False, f"{type(problem).__name__}: {text[0]}"))


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
