"""Remainders and whole quotients of floats: exact, whatever the size of the quotient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import schuss
from schuss.execution.tiers import using

SPECIAL = [
    0.0, -0.0, 1, -1, 0.1, -0.1, 3, -3, 7.5, 1e-3, np.inf, -np.inf, np.nan, 1e30, -1e30, 1e-30,
    5e-324, 1e-45, 2.0**29, 2.0**29 + 64, 2.0**52, 2.0**53, 1e300, 1e-300, 123456.75, 0.3,
]  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHUSS_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "kernels"))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("size", [1, 1e6, 1e15])
def test_remainders_have_the_bits_of_fmod(dtype: str, size: float) -> None:
    rng = np.random.default_rng(0)
    a, b = (each.ravel() for each in np.meshgrid(SPECIAL, SPECIAL))
    divisors = rng.standard_normal(3000).astype(dtype)
    multiples = np.round(rng.standard_normal(3000) * size) * divisors.astype(np.float64)
    x = np.concatenate([a, rng.standard_normal(3001) * size, multiples]).astype(dtype)
    y = np.concatenate([b, rng.standard_normal(3001), divisors]).astype(dtype)
    for f in (lambda x, y: x % y, lambda x, y: x // y):
        found: dict[str, Any] = {}
        for tier in ("reference", "compiled"):
            with using(tier):
                found[tier] = f(schuss.tensor(x), schuss.tensor(y)).numpy()
        expected = found["reference"]
        np.testing.assert_array_equal(found["compiled"], expected)
        numbers = ~np.isnan(expected)
        signs = [np.signbit(each)[numbers] for each in found.values()]
        np.testing.assert_array_equal(*signs)
