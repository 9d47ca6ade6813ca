"""float16 where the processor has no instructions for it: every number, and rounding."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from schuss.compiler.cpu.half import object_for
from schuss.compiler.cpu.host import host

_PROGRAM = """
import numpy as np
import schuss
from schuss.execution.tiers import using

halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
floats = halves.astype(np.float32)
around = np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint32).view(np.float32)
middles = (floats + np.roll(floats, -1)) / 2
many = np.concatenate([floats, around, middles, *[
    np.nextafter(floats, np.float32(to)) for to in (-np.inf, np.inf)
]])
with using("compiled"), np.errstate(all="ignore"):
    wide = schuss.tensor(halves).astype(schuss.float32).numpy()
    np.testing.assert_array_equal(wide, floats)
    numbers = ~np.isnan(floats)
    np.testing.assert_array_equal(np.signbit(wide[numbers]), np.signbit(floats[numbers]))
    narrow = schuss.tensor(many).astype(schuss.float16).numpy()
    np.testing.assert_array_equal(narrow, many.astype(np.float16))
    a = np.linspace(-1, 1, 60, dtype=np.float16).reshape(6, 10)
    product = (schuss.tensor(a) @ schuss.tensor(a).T).numpy()
    np.testing.assert_allclose(product, a.astype(np.float32) @ a.T.astype(np.float32), rtol=2e-3)
"""


@pytest.mark.skipif(not host().is_x86, reason="other processors have the instructions")
def test_float16_on_the_least_processor() -> None:
    environment = {**os.environ, "SCHUSS_CPU": "portable", "SCHUSS_CACHE": "0"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", _PROGRAM], env=environment, check=True)


def test_other_processors_need_no_functions() -> None:
    assert (object_for(host()) is None) == (not host().is_x86 or host().vector_bits > 128)
