"""The threads that compute: Python threads parked inside the executor's code, without the GIL.

There is one pool for the process. It starts with the first run that could use it and follows
`set_num_threads`. The workers are daemon threads: they sleep until there is work, and end with the
process. A process that was forked has none, and starts its own.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable

from schuss.compiler.cpu import executor
from schuss.compiler.cpu.host import get_num_threads
from schuss.compiler.cpu.library import Source, compile_kernels

# These release the GIL for as long as they run.
_RUN = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
_NUMBER = ctypes.CFUNCTYPE(None, ctypes.c_int32)
_PLAIN = ctypes.CFUNCTYPE(None)
_POINTER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Pool:
    """The executor's code, and the threads that belong to it.

    Attributes:
        run: `run(sequence, first, last) -> code`, of the executor.
        release: frees the scratch memory of a sequence.
        size: the number of threads it was last brought to, the calling one included.
    """

    def __init__(self, source: Source | None = None) -> None:
        addresses = compile_kernels([source or executor.source()])
        self.run: Callable[..., int] = _RUN(addresses["schuss_run"])
        self.release = _POINTER(addresses["schuss_release"])
        self._work = _NUMBER(addresses["schuss_worker"])
        self._set_workers = _NUMBER(addresses["schuss_set_workers"])
        self._reset = _PLAIN(addresses["schuss_reset"])
        self.size = 1
        self._lock = threading.Lock()
        self._workers: list[threading.Thread] = []  # from `size - 1` on: told to leave
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start_anew)

    def resize(self, threads: int) -> None:
        """Have this many threads, the calling one included. Runs may be going on.

        Where the system gives no more threads, there are fewer; the results are the same.
        """
        with self._lock:
            if threads == self.size:
                return
            if threads > self.size:
                # Who was told to leave has to be gone before there is another of its number.
                for each in self._workers[self.size - 1 :]:
                    each.join()
                del self._workers[self.size - 1 :]
            self._set_workers(threads - 1)
            while len(self._workers) < threads - 1 and self._start(len(self._workers)):
                pass
            self.size = threads

    def _start(self, number: int) -> bool:
        worker = threading.Thread(
            target=self._work, args=(number,), name=f"schuss-{number + 1}", daemon=True
        )
        try:
            worker.start()
        except RuntimeError:  # no more threads, or the interpreter is about to end
            return False
        self._workers.append(worker)
        return True

    def _start_anew(self) -> None:
        """In a forked process: forget the threads of the parent, whatever they were doing."""
        self._lock = threading.Lock()
        self._workers = []
        self.size = 1
        self._reset()


_pool: Pool | None = None
_making = threading.Lock()


def pool() -> Pool:
    """The pool of this process, with as many threads as `get_num_threads()` says."""
    global _pool
    if _pool is None:
        with _making:
            if _pool is None:
                _pool = Pool()
    if _pool.size != get_num_threads():
        _pool.resize(get_num_threads())
    return _pool


def _make_anew() -> None:
    global _making
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_make_anew)
