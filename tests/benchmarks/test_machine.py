from __future__ import annotations

import numpy as np
import pytest

from common import machine

pytest.importorskip("llvmlite")


def test_loops_do_all_their_work() -> None:
    lanes, functions, _keep = machine._compile()
    ones = np.ones(1024, np.float32)
    address = ones.ctypes.data
    # Each turn multiplies every accumulator by 1 and adds 1.
    assert functions["multiply_add"](100, address) == 100 * machine.CHAINS
    assert functions["read"](1024 // lanes, address) == 1024 / lanes


def test_better_takes_the_higher_of_either() -> None:
    low, high = machine.Limits(1.0, 20.0), machine.Limits(2.0, 10.0)
    assert low.better(high) == machine.Limits(2.0, 20.0)


def test_measure() -> None:
    limits = machine.measure(1)
    assert 1e8 < limits.multiply_adds < 1e13
    assert 1e8 < limits.bandwidth < 1e13
    assert "GFLOP/s" in str(limits)
