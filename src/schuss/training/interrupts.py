"""Ctrl-C waits for the end of a training step, so that what is saved then is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Whether the user asked to stop. A second Ctrl-C stops at once, without a checkpoint."""

    def __init__(self) -> None:
        self.asked = False
        self.deferring = True

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self.deferring:
            raise KeyboardInterrupt
        self.asked = True

    def check(self) -> None:
        """Raise the KeyboardInterrupt that was put off."""
        if self.asked:
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, Ctrl-C does not wait."""
        self.check()
        self.deferring = False
        try:
            yield
        finally:
            self.deferring = True


@contextmanager
def deferred_interrupts() -> Iterator[Interrupts]:
    """Take Ctrl-C over in the main thread, unless the user's program has a handler of its own."""
    interrupts = Interrupts()
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupts
        return
    signal.signal(signal.SIGINT, interrupts.handle)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
