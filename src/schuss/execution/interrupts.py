"""Signals wait while values take over the memory of others: half of that would be of no use.

A handler that is written in Python may raise: Ctrl-C does, and so do timeouts by SIGALRM.
"""

from __future__ import annotations

import signal as signals
import threading
from contextlib import ExitStack
from typing import Any

try:  # what `signal` has around these, for the sake of enums, takes ten times as long
    from _signal import getsignal, signal  # type: ignore[import-not-found]
except ImportError:
    from signal import getsignal, signal

# Those that programs have handlers for; what a machine does not have is left out.
_NAMES = ("INT", "TERM", "HUP", "ALRM", "VTALRM", "PROF", "USR1", "USR2", "BREAK")
_SIGNALS = [
    int(getattr(signals, f"SIG{name}")) for name in _NAMES if hasattr(signals, f"SIG{name}")
]


class in_one_piece:  # noqa: N801
    """Put signals off until the end of the block; then the handlers that were there are called."""

    __slots__ = ("_came", "_handlers")

    def __enter__(self) -> None:
        self._came: dict[int, Any] = {}
        self._handlers: dict[int, Any] = {}
        if threading.current_thread() is not threading.main_thread():
            return  # signals are none of its business
        try:
            for number in _SIGNALS:
                handler = getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal(number, self._note)
        except BaseException:  # of a handler that was still there
            self._put_back()
            raise

    def __exit__(self, *problem: object) -> None:
        self._put_back()
        if self._came:
            with ExitStack() as each:  # all of them, whatever the others raise
                for number, frame in self._came.items():
                    each.callback(self._handlers[number], number, frame)

    def _put_back(self) -> None:
        problem: BaseException | None = None
        for number, handler in self._handlers.items():
            try:
                signal(number, handler)
            except BaseException as raised:  # by one that is back, when others are not yet
                problem = raised
        if problem is not None:
            raise problem

    def _note(self, number: int, frame: Any) -> None:
        self._came[number] = frame
