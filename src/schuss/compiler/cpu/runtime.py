"""Launches, sequences, and what runs them.

    Launch(address, words, parts=1, scratch=0, checked=False, steps=())
    Loop(first, last, rounds)
    Sequence(waves, slots, loops=())
        .slots: memoryview of int64; [0] is taken, the caller writes all others before each run
        .run(first_wave=0, last_wave=None) -> OK or FAILED
        .failure() -> (tag, position, value), after FAILED
    FAIL: text of the function with which a kernel reports a bad input
    LOOK: the kernel that reports the first byte of a memory that is not 0
    get_num_threads(), set_num_threads(n)

A run is one native call without the GIL. It copies the words of all launches out of the slots and
runs wave after wave; the parts of a wave are shared out among the threads of the pool. Two threads
may run different sequences at a time: one has the pool, the other computes alone. One sequence is
run by one thread at a time, and who calls `run` keeps alive what the slots point at.
"""

from __future__ import annotations

from collections.abc import Sequence as Listing
from dataclasses import dataclass

import numpy as np

from schuss.compiler.cpu import executor
from schuss.compiler.cpu.executor import FAILED, OK
from schuss.compiler.cpu.host import get_num_threads, set_num_threads
from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.pool import pool
from schuss.errors import AllocationError, fail

__all__ = [
    "FAIL",
    "FAILED",
    "LOOK",
    "OK",
    "Launch",
    "Loop",
    "Sequence",
    "get_num_threads",
    "set_num_threads",
]

FAIL = """
; Report a bad input: `value` at `position`, in what the launch calls `tag`. `%status` is the word
; from slot 0: the address of four words, 0 nothing, 1 being written, 2 written; tag; position;
; value. The report with the smallest tag and position of a wave stays, so that an error does not
; depend on how the work was shared out.
define internal void @schuss_fail(ptr %status, i64 %tag, i64 %position, i64 %value) noinline cold {
entry:
  %tag_at = getelementptr i64, ptr %status, i64 1
  %position_at = getelementptr i64, ptr %status, i64 2
  %value_at = getelementptr i64, ptr %status, i64 3
  br label %lock
lock:
  %old = atomicrmw xchg ptr %status, i64 1 acquire, align 8
  switch i64 %old, label %lock [ i64 0, label %write
                                 i64 2, label %compare ]
compare:
  %other_tag = load i64, ptr %tag_at
  %other_position = load i64, ptr %position_at
  %tag_less = icmp ult i64 %tag, %other_tag
  %tag_same = icmp eq i64 %tag, %other_tag
  %position_less = icmp ult i64 %position, %other_position
  %both = and i1 %tag_same, %position_less
  %less = or i1 %tag_less, %both
  br i1 %less, label %write, label %unlock
write:
  store i64 %tag, ptr %tag_at
  store i64 %position, ptr %position_at
  store i64 %value, ptr %value_at
  br label %unlock
unlock:
  store atomic i64 2, ptr %status release, align 8
  ret void
}
"""

# Words: that from slot 0, the address of the memory, its bytes.
LOOK = Source(
    FAIL
    + """
define void @schuss_look(ptr %args, i64 %part, ptr %scratch) {
entry:
  %status = load ptr, ptr %args
  %memory_at = getelementptr i64, ptr %args, i64 1
  %memory = load ptr, ptr %memory_at
  %bytes_at = getelementptr i64, ptr %args, i64 2
  %bytes = load i64, ptr %bytes_at
  br label %check
check:
  %i = phi i64 [ 0, %entry ], [ %next, %look ]
  %more = icmp slt i64 %i, %bytes
  br i1 %more, label %look, label %done
look:
  %place = getelementptr i8, ptr %memory, i64 %i
  %byte = load i8, ptr %place
  %next = add i64 %i, 1
  %bad = icmp ne i8 %byte, 0
  br i1 %bad, label %report, label %check
report:
  call void @schuss_fail(ptr %status, i64 0, i64 %i, i64 1)
  br label %done
done:
  ret void
}
""",
    ("schuss_look",),
)


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel and what it is run with.

    Attributes:
        address: of the kernel, `void (ptr args, i64 part, ptr scratch)`.
        words: the slots whose values become its args, in order.
        parts: how many shares of work it has; it is called once for each of 0 to parts - 1.
        scratch: bytes of scratch memory that a part needs.
        checked: it may report a bad input, and the run ends after its wave if it does.
        steps: in a loop, for each word what is added to it after even and after odd rounds.
    """

    address: int
    words: tuple[int, ...]
    parts: int = 1
    scratch: int = 0
    checked: bool = False
    steps: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Loop:
    """The waves from `first` to `last`, both included, are run for `rounds` rounds, at least one.

    Loops do not overlap.
    """

    first: int
    last: int
    rounds: int


class Sequence:
    """Waves of launches over a table of slots.

    Args:
        waves: lists of launches. Those of one wave do not depend on each other; each wave begins
            when the one before has ended.
        slots: how many slots there are, slot 0 included: it holds the address of the status that
            checked kernels report to.
        loops: waves that run several times.

    Attributes:
        slots: the table, as a memoryview of int64: addresses of buffers, or integers.
    """

    def __init__(
        self, waves: Listing[Listing[Launch]], slots: int, loops: Listing[Loop] = ()
    ) -> None:
        launches = [launch for wave in waves for launch in wave]
        words = [slot for launch in launches for slot in launch.words]
        assert slots >= 1
        assert all(0 <= slot < slots for slot in words), "a word of no slot"
        assert all(launch.parts > 0 for launch in launches)
        self.slots = memoryview(bytearray(8 * slots)).cast("q")
        self._table = np.frombuffer(self.slots, np.int64)
        self._status = np.zeros(4, np.int64)
        self._words = np.array(words, np.int64)
        self._args = np.zeros(len(words), np.int64)
        # One wave more, for where the words of the last one end.
        self._waves = np.zeros((len(waves) + 1, executor.WAVE_WORDS), np.int64)
        self._launches = np.zeros((len(launches), executor.LAUNCH_WORDS), np.int64)
        self._steps = np.zeros((len(words), 2), np.int64)
        self._loops = np.zeros((len(loops), executor.LOOP_WORDS), np.int64)
        self._fill(waves)
        self._fill_loops(waves, loops)
        self._table[0] = _address(self._status)
        self._record = np.zeros(executor.SEQUENCE_WORDS, np.int64)
        tables = self._table, self._words, self._args, self._waves
        self._record[:4] = [_address(each) for each in tables]
        self._pointer = _address(self._record)
        self._count = len(waves)
        self._release = pool().release

    def _fill(self, waves: Listing[Listing[Launch]]) -> None:
        """Write the executor's tables of waves and launches."""
        wave_at = _address(self._waves)
        launch_at = _address(self._launches)
        arg_at = _address(self._args)
        word = 0
        rows: list[list[int]] = []
        for number, wave in enumerate(waves):
            parts = sum(each.parts for each in wave)
            assert parts < 2**31
            checked = any(each.checked for each in wave)
            first = launch_at + len(rows) * 8 * executor.LAUNCH_WORDS
            self._waves[number] = [first, len(wave), parts, checked, word, 0, 0]
            this = wave_at + number * 8 * executor.WAVE_WORDS
            up_to = 0
            for each in wave:
                up_to += each.parts
                args = arg_at + 8 * word
                rows.append([each.address, args, each.parts, up_to, each.scratch, this])
                word += len(each.words)
        self._waves[len(waves), 4] = word
        if rows:
            self._launches[:] = rows

    def _fill_loops(self, waves: Listing[Listing[Launch]], loops: Listing[Loop]) -> None:
        """Write the executor's table of loops, and what each round adds to the words."""
        step = 0
        for launch in [launch for wave in waves for launch in wave]:
            assert len(launch.steps) in (0, len(launch.words)), "a step for each word, or none"
            for even, odd in launch.steps or [(0, 0)] * len(launch.words):
                self._steps[step] = even, odd
                step += 1
        for number, loop in enumerate(loops):
            assert 0 <= loop.first <= loop.last < len(waves), "a loop of no waves"
            assert loop.rounds > 0
            wave = _address(self._waves) + loop.first * 8 * executor.WAVE_WORDS
            first, behind = self._waves[loop.first, 4], self._waves[loop.last + 1, 4]
            steps = _address(self._steps) + 16 * int(first)
            self._loops[number] = [wave, loop.rounds, first, behind, steps, 0]
            here = _address(self._loops) + number * 8 * executor.LOOP_WORDS
            assert not self._waves[loop.first : loop.last + 1, 6].any(), "loops overlap"
            self._waves[loop.last, 6] = here

    def run(self, first_wave: int = 0, last_wave: int | None = None) -> int:
        """Run the waves from `first_wave` up to, but not including, `last_wave`.

        Returns OK, or FAILED where a checked launch reported a bad input: `failure()` tells. Later
        waves have then not run. Raises AllocationError where there is no memory for scratch.
        """
        last = self._count
        if last_wave is not None:
            assert 0 <= first_wave <= last_wave <= last, "no such waves"
            last = last_wave
        code = pool().run(self._pointer, first_wave, last)
        if code != OK:
            self._loops[:, 5] = 0  # a loop may have been left in the middle
        if code == executor.EXHAUSTED:
            raise fail(AllocationError, "run", "there is no memory for the scratch of a kernel")
        return code

    def failure(self) -> tuple[int, int, int]:
        """The (tag, position, value) that a kernel reported in the last run."""
        _, tag, position, value = self._status.tolist()
        return tag, position, value

    def __del__(self) -> None:
        record = getattr(self, "_record", None)
        if record is not None and record[4]:  # it once ran without the pool, and needed scratch
            self._release(self._pointer + 32)


def _address(array: np.ndarray) -> int:
    return array.ctypes.data
