"""Ctrl-C waits while values take over the memory of others: half of that would be of no use."""

from __future__ import annotations

import threading
from signal import SIGINT
from typing import Any

try:  # what `signal` has around these, for the sake of enums, takes ten times as long
    from _signal import getsignal, signal  # type: ignore[import-not-found]
except ImportError:
    from signal import getsignal, signal


class in_one_piece:  # noqa: N801
    """Put Ctrl-C off until the end of the block; then the handler that was there is called."""

    __slots__ = ("_came", "_handler")

    def __enter__(self) -> None:
        self._came: list[Any] = []
        here = threading.current_thread() is threading.main_thread()
        self._handler = getsignal(SIGINT) if here else None
        if callable(self._handler):
            signal(SIGINT, self._note)

    def __exit__(self, *problem: object) -> None:
        if callable(self._handler):
            signal(SIGINT, self._handler)
            if self._came:
                self._handler(*self._came)

    def _note(self, *args: Any) -> None:
        self._came[:] = args
