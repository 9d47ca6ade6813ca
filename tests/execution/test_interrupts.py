"""Ctrl-C and other signals come when nothing is half done."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

import schuss
from schuss import optim
from schuss.execution import interrupts, jit_replay, tiers
from schuss.execution.interrupts import in_one_piece


def test_ctrl_c_waits_for_the_end() -> None:
    done = []

    def interrupted() -> None:
        with in_one_piece():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_of_others_are_called_then() -> None:
    came: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        with in_one_piece():
            signal.raise_signal(signal.SIGINT)
            assert not came
        assert came == [signal.SIGINT]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with in_one_piece():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="there is no SIGALRM here")
def test_timeouts_wait_as_well_and_none_is_lost() -> None:
    came: list[int] = []

    def late(number: int, frame: Any) -> None:
        came.append(number)
        raise TimeoutError

    def interrupted() -> None:
        with in_one_piece():
            for number in numbers:
                signal.raise_signal(number)
            assert not came

    numbers = [signal.SIGALRM, signal.SIGUSR1, signal.SIGTERM]
    before = {number: signal.signal(number, late) for number in numbers}
    try:
        with pytest.raises(TimeoutError):
            interrupted()
        assert sorted(came) == sorted(numbers)
        assert all(signal.getsignal(number) is late for number in numbers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="there is no SIGALRM here")
@pytest.mark.parametrize(
    ("when", "number", "error"),
    [
        ("beginning", "SIGALRM", TimeoutError),  # its own handler is still there
        ("end", "SIGINT", KeyboardInterrupt),  # its own handler is there again
    ],
)
def test_what_comes_at_the_edges_leaves_the_handlers_as_they_were(
    when: str, number: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal that comes right after the handler of SIGINT was changed."""

    def late(number: int, frame: Any) -> None:
        raise TimeoutError

    real = interrupts.signal

    def interrupted(changed: int, handler: Any) -> Any:
        result = real(changed, handler)
        given_back = handler is signal.default_int_handler
        if changed == signal.SIGINT and given_back == (when == "end"):
            signal.raise_signal(signal.Signals[number])
        return result

    before = signal.signal(signal.SIGALRM, late)
    monkeypatch.setattr(interrupts, "signal", interrupted)
    entered = []
    try:
        with pytest.raises(error), in_one_piece():
            entered.append(1)
        assert bool(entered) == (when == "end")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGALRM) is late
    finally:
        signal.signal(signal.SIGALRM, before)


def test_errors_pass_and_other_threads_have_no_signals() -> None:
    with pytest.raises(ZeroDivisionError), in_one_piece():
        raise ZeroDivisionError

    done = []

    def work() -> None:
        with in_one_piece():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


@pytest.mark.parametrize("n", [2, 64])
def test_replays_that_may_overwrite_are_not_divided(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay puts what it has computed into many places, one after the other."""
    entered = []

    class Noted(in_one_piece):
        def __enter__(self) -> None:
            entered.append(1)
            super().__enter__()

    monkeypatch.setattr(jit_replay, "in_one_piece", Noted)
    p = schuss.ones((n, n)).requires_grad_()
    optimizer = optim.SGD([p], lr=0.1)

    @schuss.jit
    def step() -> None:
        optimizer.zero_grad()
        (p * p).sum().backward()
        optimizer.step()

    with tiers.using("compiled"):
        for _ in range(8):
            step()
        assert "replayed by jit" in str(schuss.last_run())
    assert bool(entered) == (n == 64)  # small memory is not taken over
