from __future__ import annotations

import threading
import time
from array import array

import numpy as np
import pytest
from tests.compiler.cpu.launching import KERNELS, NAMES, PATIENCE, meeting

from schuss.compiler.cpu import executor
from schuss.compiler.cpu import pool as pool_module
from schuss.compiler.cpu.library import Source, compile_kernels
from schuss.compiler.cpu.runtime import (
    FAILED,
    LOOK,
    OK,
    Launch,
    Loop,
    Sequence,
    get_num_threads,
    set_num_threads,
)
from schuss.errors import AllocationError


@pytest.fixture(scope="module")
def kernels():
    return compile_kernels([Source(KERNELS, NAMES)])


@pytest.fixture(autouse=True)
def threads():
    before = get_num_threads()
    yield
    set_num_threads(before)


@pytest.fixture(params=["futex", "polling"])
def waiting(request, monkeypatch):
    """Each way in which a system lets threads sleep."""
    if request.param == "futex":
        yield
        return
    pool = pool_module.Pool(executor.source(polling=True))
    monkeypatch.setattr(pool_module, "_pool", pool)
    yield
    pool.resize(1)


def affine(kernels, x, waves, parts):
    """x = 3 x + number of the wave, in each wave."""
    launches = [[Launch(kernels["affine"], (1, 2 + i), parts)] for i in range(waves)]
    sequence = Sequence(launches, 2 + waves)
    sequence.slots[1] = x.ctypes.data
    for i in range(waves):
        sequence.slots[2 + i] = i
    return sequence


class TestSequence:
    @pytest.mark.parametrize("threads", [1, 2, 3, 8])
    def test_waves_run_one_after_the_other(self, kernels, threads, waiting):
        set_num_threads(threads)
        x = np.arange(37)
        assert affine(kernels, x, waves=12, parts=37).run() == OK
        expected = np.arange(37)
        for i in range(12):
            expected = 3 * expected + i
        np.testing.assert_array_equal(x, expected)

    def test_some_of_the_waves(self, kernels):
        x = np.zeros(4, np.int64)
        sequence = affine(kernels, x, waves=5, parts=4)
        sequence.run(3)
        np.testing.assert_array_equal(x, 3 * 3 + 4)
        sequence.run(1, 3)
        np.testing.assert_array_equal(x, (13 * 3 + 1) * 3 + 2)
        sequence.run(2, 2)
        np.testing.assert_array_equal(x, (13 * 3 + 1) * 3 + 2)

    @pytest.mark.parametrize("threads", [1, 2, 8])
    def test_launches_side_by_side(self, kernels, threads):
        set_num_threads(threads)
        arrays = [np.full(n, n) for n in (1, 5, 2, 30, 1, 1)]
        wave = [Launch(kernels["affine"], (i + 1, 7), len(x)) for i, x in enumerate(arrays)]
        sequence = Sequence([wave] * 3, 8)
        for i, x in enumerate(arrays):
            sequence.slots[i + 1] = x.ctypes.data
        sequence.slots[7] = 2
        assert sequence.run() == OK
        for x in arrays:
            np.testing.assert_array_equal(x, 27 * len(x) + 26)

    def test_slots_are_read_at_each_run(self, kernels):
        x, y = np.zeros(3, np.int64), np.zeros(3, np.int64)
        sequence = affine(kernels, x, waves=1, parts=3)
        sequence.slots[2] = 5
        sequence.run()
        sequence.slots[1], sequence.slots[2] = y.ctypes.data, -8
        sequence.run()
        assert (x.tolist(), y.tolist()) == ([5] * 3, [-8] * 3)

    def test_nothing_to_run(self):
        assert Sequence([], 1).run() == OK
        assert Sequence([[], []], 1).run() == OK

    @pytest.mark.parametrize("waves", [(0, 3), (-1, 1), (2, 1)])
    def test_there_must_be_such_waves(self, waves):
        with pytest.raises(AssertionError, match="no such waves"):
            Sequence([[], []], 1).run(*waves)

    def test_words_are_slots(self, kernels):
        with pytest.raises(AssertionError, match="a word of no slot"):
            Sequence([[Launch(kernels["count"], (1,))]], 1)


class TestLoops:
    """x[part] = 3 x[part] + a, with addresses that move from round to round."""

    @staticmethod
    def sequence(kernels, x, rounds, steps, waves=1):
        launch = Launch(kernels["affine"], (1, 2), parts=2, steps=(steps, (1, 10)))
        plain = Launch(kernels["affine"], (3, 2), parts=1)
        loops = [Loop(1, waves, rounds)]
        sequence = Sequence([[plain], *[[launch]] * waves, [plain]], 4, loops)
        sequence.slots[1] = sequence.slots[3] = x.ctypes.data
        sequence.slots[2] = 1
        return sequence

    @pytest.mark.parametrize("rounds", [1, 2, 5])
    def test_rounds_move_on(self, kernels, threads, waiting, rounds):
        x = np.zeros(2 * rounds, np.int64)
        sequence = self.sequence(kernels, x, rounds, (16, 16))
        for _ in range(2):  # a second run begins where the first did
            x[:] = 0
            sequence.run()
            added = [1 + t // 2 * 11 + t % 2 for t in range(rounds)]
            expected = np.repeat(added, 2)
            expected[0] = 3 * (3 * 1 + 1) + 1  # once before and once after the loop as well
            assert x.tolist() == expected.tolist()

    def test_two_buffers_in_turns_and_several_waves(self, kernels, threads):
        x = np.zeros(4, np.int64)
        self.sequence(kernels, x, 3, (16, -16), waves=2).run()
        expected, added = [1, 0, 0, 0], [1, 2, 12]
        for t in range(3):
            for _ in range(2):
                for i in (2 * (t % 2), 2 * (t % 2) + 1):
                    expected[i] = 3 * expected[i] + added[t]
        expected[0] = 3 * expected[0] + 1
        assert x.tolist() == expected

    def test_loops_are_inside_and_apart(self, kernels):
        launch = Launch(kernels["affine"], (1, 2))
        for loops in ([Loop(0, 2, 1)], [Loop(0, 0, 0)], [Loop(0, 1, 2), Loop(1, 1, 2)]):
            with pytest.raises(AssertionError):
                Sequence([[launch], [launch]], 3, loops)
        with pytest.raises(AssertionError, match="a step for each word"):
            Sequence([[Launch(kernels["affine"], (1, 2), steps=((0, 0),))]], 3)


class TestThreads:
    @pytest.mark.parametrize("threads", [2, 3, 8])
    def test_parts_run_at_the_same_time(self, kernels, threads, waiting):
        set_num_threads(threads)
        meet = meeting(kernels, threads)
        for _ in range(5):
            assert meet()

    def test_launches_run_at_the_same_time(self, kernels):
        set_num_threads(3)
        counter, y = np.zeros(1, np.int64), np.zeros(1, np.int64)
        sequence = Sequence([[Launch(kernels["meet"], (1, 2, 3, 4))] * 3], 5)
        sequence.slots[1], sequence.slots[2] = counter.ctypes.data, y.ctypes.data
        sequence.slots[3], sequence.slots[4] = 3, PATIENCE
        assert sequence.run() == OK
        assert y[0]

    def test_sleeping_workers_wake_up(self, kernels, waiting):
        set_num_threads(2)
        meet = meeting(kernels, 2)
        # Pauses around the time after which a worker goes to sleep.
        for microseconds in range(0, 400, 4):
            start = time.perf_counter()
            while time.perf_counter() < start + microseconds * 1e-6:
                pass
            assert meet()

    def test_the_caller_waits_for_a_long_part(self, kernels, waiting):
        """Longer than it waits actively."""
        set_num_threads(2)
        x, meet = np.zeros(1, np.int64), meeting(kernels, 2)
        short, long = Launch(kernels["count"], (1,)), Launch(kernels["count"], (2,))
        after = [Launch(kernels["affine"], (3, 1))]
        for wave in ([short, long], [long, short]):
            sequence = Sequence([wave, after], 4)
            sequence.slots[1], sequence.slots[2] = 1, 1_000_000
            sequence.slots[3] = x.ctypes.data
            for _ in range(10):
                assert meet()  # both threads are awake
                x[:] = 1
                assert sequence.run() == OK
                assert x[0] == 4

    def test_other_python_threads_go_on(self, kernels):
        """A run waits for what another thread of Python does."""
        counter, y = np.zeros(1, np.int64), np.zeros(1, np.int64)
        sequence = Sequence([[Launch(kernels["meet"], (1, 2, 3, 4))]], 5)
        sequence.slots[1], sequence.slots[2] = counter.ctypes.data, y.ctypes.data
        sequence.slots[3], sequence.slots[4] = 2, PATIENCE
        thread = threading.Thread(target=sequence.run)
        thread.start()
        while counter[0] == 0:
            pass
        counter[0] = 2
        thread.join()
        assert y[0]

    def test_two_threads_run_different_sequences(self, kernels, waiting):
        set_num_threads(3)
        wrong = []

        def work(start):
            x = np.full(16, start)
            sequence = affine(kernels, x, waves=30, parts=16)
            expected = start
            for _ in range(40):
                sequence.run()
                for i in range(30):
                    expected = (3 * expected + i) % 2**64
                if (x.astype(np.uint64) != expected).any():
                    wrong.append((start, x.copy()))

        threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert not wrong

    def test_the_number_changes_while_a_sequence_runs(self, kernels, waiting):
        end = threading.Event()

        def change():
            for i in range(60):
                set_num_threads(1 + i % 5)
                pool_module.pool()
            end.set()

        x = np.zeros(16, np.uint64)
        sequence = affine(kernels, x, waves=30, parts=16)
        thread = threading.Thread(target=change)
        thread.start()
        expected = 0
        while not end.is_set():
            sequence.run()
            for i in range(30):
                expected = (3 * expected + i) % 2**64
        thread.join()
        np.testing.assert_array_equal(x, np.uint64(expected))
        set_num_threads(4)
        assert meeting(kernels, 4)()

    def test_workers_leave_when_they_are_too_many(self, kernels):
        def workers():
            return [each for each in threading.enumerate() if each.name.startswith("schuss-")]

        set_num_threads(6)
        assert meeting(kernels, 6)()
        leaving = workers()[1:]
        set_num_threads(2)
        assert meeting(kernels, 2)()
        for each in leaving:
            each.join()
        assert len(workers()) == 1

    def test_where_the_system_gives_no_threads(self, kernels, monkeypatch):
        def start(thread):
            raise RuntimeError("can't start new thread")

        set_num_threads(1)
        pool_module.pool()
        monkeypatch.setattr(threading.Thread, "start", start)
        set_num_threads(4)
        x = np.zeros(8, np.int64)
        affine(kernels, x, waves=3, parts=8).run()
        np.testing.assert_array_equal(x, 1 * 3 + 2)
        monkeypatch.undo()
        set_num_threads(3)
        assert meeting(kernels, 3)()


class TestScratch:
    @pytest.mark.parametrize("threads", [1, 3])
    def test_each_part_has_its_own(self, kernels, threads):
        set_num_threads(threads)
        y = np.zeros(40, np.int64)
        for words in (10, 1000, 100, 50_000):
            sequence = Sequence([[Launch(kernels["fill"], (1, 2), 40, scratch=8 * words)]] * 2, 3)
            sequence.slots[1], sequence.slots[2] = y.ctypes.data, words
            y[:] = 0
            assert sequence.run() == OK
            np.testing.assert_array_equal(y, words * np.arange(40))

    def test_for_runs_without_the_pool(self, kernels):
        """While another thread has the pool."""
        counter, y = np.zeros(1, np.int64), np.zeros(40, np.int64)
        holder = Sequence([[Launch(kernels["meet"], (1, 2, 3, 4))]], 5)
        holder.slots[1], holder.slots[2] = counter.ctypes.data, y.ctypes.data
        holder.slots[3], holder.slots[4] = 2, PATIENCE
        thread = threading.Thread(target=holder.run)
        thread.start()
        while counter[0] == 0:
            pass
        for words in (10, 1000, 100):
            sequence = Sequence([[Launch(kernels["fill"], (1, 2), 40, scratch=8 * words)]] * 2, 3)
            sequence.slots[1], sequence.slots[2] = y.ctypes.data, words
            assert sequence.run() == OK
            np.testing.assert_array_equal(y, words * np.arange(40))
            assert sequence._record[4] != 0  # memory of its own
        counter[0] = 2
        thread.join()

    @pytest.mark.parametrize("threads", [1, 2])
    def test_too_much(self, kernels, threads):
        set_num_threads(threads)
        y = np.zeros(4, np.int64)
        launch = Launch(kernels["fill"], (1, 2), 4, scratch=2**60)
        small = Launch(kernels["fill"], (1, 2), 4, scratch=80)
        sequence = Sequence([[small], [launch], [small]], 3)
        sequence.slots[1], sequence.slots[2] = y.ctypes.data, 10
        for _ in range(2):
            with pytest.raises(AllocationError, match="no memory for the scratch of a kernel"):
                sequence.run()
        y[:] = 0
        assert sequence.run(2) == OK
        np.testing.assert_array_equal(y, 10 * np.arange(4))


class TestChecks:
    def make(self, kernels, x, checked=True):
        check = [
            Launch(kernels["check"], (0, 1, 2), len(x), checked=checked),
            Launch(kernels["check"], (0, 1, 3), len(x), checked=False),
        ]
        after = [Launch(kernels["affine"], (4, 5))]
        sequence = Sequence([after, check, after], 6)
        self.ran = np.zeros(1, np.int64)
        words = [x.ctypes.data, 70, 71, self.ran.ctypes.data, 1]
        sequence.slots[1:6] = memoryview(array("q", words))
        return sequence

    @pytest.mark.parametrize("threads", [1, 2, 8])
    def test_the_first_failure_is_told(self, kernels, threads):
        set_num_threads(threads)
        x = np.arange(200)
        x[[31, 32, 150, 199]] = [-5, -6, -7, -8]
        sequence = self.make(kernels, x)
        for _ in range(30):
            self.ran[:] = 0
            assert sequence.run() == FAILED
            assert sequence.failure() == (70, 31, -5)
            assert self.ran[0] == 1  # the wave before has run, the one after has not

    def test_the_next_run_starts_afresh(self, kernels):
        x = np.array([1, 2, -3])
        sequence = self.make(kernels, x)
        assert sequence.run() == FAILED
        x[2] = 3
        assert sequence.run() == OK
        x[1] = -2
        assert sequence.run() == FAILED
        assert sequence.failure() == (70, 1, -2)

    @pytest.mark.parametrize("place", [None, 0, 4, 6])
    def test_looks_end_a_run_where_a_byte_is_set(self, kernels, place):
        found = np.zeros(8, np.int8)
        found[7] = 1  # behind what is looked at
        if place is not None:
            found[place] = 1
        look = Launch(compile_kernels([LOOK])["schuss_look"], (0, 1, 2), checked=True)
        sequence = Sequence([[look], [Launch(kernels["affine"], (3, 2))]], 4)
        ran = np.zeros(1, np.int64)
        sequence.slots[1:4] = memoryview(array("q", [found.ctypes.data, 7, ran.ctypes.data]))
        assert sequence.run() == (OK if place is None else FAILED)
        assert ran[0] == (7 if place is None else 0)
        if place is not None:
            assert sequence.failure() == (0, place, 1)

    def test_only_checked_launches_end_a_run(self, kernels):
        sequence = self.make(kernels, np.array([-1]), checked=False)
        assert sequence.run() == OK
        assert self.ran[0] == 4
