"""Arrays bound to slots."""

from __future__ import annotations

import numpy as np
import pytest

from schuss.compiler import binding
from schuss.compiler.binding import address_of, binder


@pytest.mark.parametrize("quick", [True, False])
def test_addresses_are_those_of_the_data(quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not quick:  # as on other implementations of Python
        monkeypatch.setattr(binding, "_QUICK", False)
    for array in (np.zeros(3), np.zeros((0, 2)), np.arange(12).reshape(3, 4)[1:, 2:]):
        assert address_of(array) == array.ctypes.data


@pytest.mark.parametrize("quick", [True, False])
def test_slots_hold_addresses_and_offsets(quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not quick:
        monkeypatch.setattr(binding, "_QUICK", False)
    slots = memoryview(bytearray(8 * 6)).cast("q")
    pools: list[list[binding.Entry]] = [[], []]

    def free(i: int) -> binding.Entry:
        array = np.empty(4)
        pools[i].append((array, array.ctypes.data))
        return pools[i][-1]

    shaped = lambda array, i: array.reshape(2, 2) if i else array
    inputs, memories = [[(1, 0), (2, 8)], [], [(3, 16)]], [[(4, 0)], [(5, 8)]]
    bind = binder(slots, inputs, memories, [-1, 2], pools, free, shaped, reshaped={1})
    x, unused, z = np.zeros(4), np.zeros(4), np.zeros(4)
    first, second = bind([x, unused, z], None)
    at, end = x.ctypes.data, z.ctypes.data
    made = [at, at + 8, end + 16, first.ctypes.data, second.ctypes.data + 8]
    assert slots.tolist() == [0, *made]
    assert not np.shares_memory(second, z)
    assert bind([x, unused, z], [True, True, False])[1] is not second  # which is still held
    del first
    again, taken = bind([x, unused, z], [False, False, True])
    assert again is pools[0][0][0]
    assert taken.shape == (2, 2)
    assert np.shares_memory(taken, z)
    assert slots[5] == end + 8


def test_a_program_may_have_no_inputs() -> None:
    slots = memoryview(bytearray(16)).cast("q")
    array = np.zeros(1)
    bind = binder(slots, [], [[(1, 0)]], [-1], [[]], lambda i: (array, 77), lambda a, i: a)
    assert bind([], None)[0] is array
    assert slots[1] == 77


def test_memories_are_returned_in_the_order_asked_for() -> None:
    slots = memoryview(bytearray(8)).cast("q")
    made = [(np.zeros(i), 0) for i in range(3)]
    free, shaped = (lambda i: made[i]), (lambda array, i: array)
    bind = binder(slots, [], [[]] * 3, [-1] * 3, [[], [], []], free, shaped, [2, 0, 2])
    assert [each.size for each in bind([], None)] == [2, 0, 2]
