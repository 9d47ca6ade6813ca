"""Quotients rounded down, remainders, neighbours, integer powers: the bits of the reference."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss.errors import ArgumentError
from schuss.execution.tiers import using

SPECIAL = [
    0.0, -0.0, 1.0, -1.0, 2.0, 3.0, -3.0, 0.1, -0.1, 0.3, 7.5, np.pi, 1e30, -1e30, 1e-30, 1e38,
    1e-45, 5e-324, 6e-8, 65504.0, np.inf, -np.inf, np.nan,
]  # fmt: skip
LANES = 40  # the same in all lanes, so that each pair alone decides which way is taken


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHUSS_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "kernels"))


def pairs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a, b = (np.repeat(each.ravel(), LANES) for each in np.meshgrid(SPECIAL, SPECIAL))
    n = 20_000
    near = rng.integers(1, 50, n) * np.where(rng.random(n) < 0.5, 0.1, -1.0)
    wide = rng.standard_normal(n) * 10.0 ** rng.integers(-6, 7, n)
    return (
        np.concatenate([a, rng.standard_normal(n), wide, rng.integers(-50, 50, n)]),
        np.concatenate([b, rng.standard_normal(n), rng.standard_normal(n), near]),
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # conversions to narrow dtypes overflow
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["floor_divide", "remainder", "nextafter"])
def test_same_bits(name: str, dtype: str) -> None:
    a, b = (schuss.tensor(each).astype(dtype) for each in pairs())
    found = []
    for tier in ("reference", "compiled"):
        with using(tier):
            found.append(getattr(schuss, name)(a, b).numpy().astype(np.float64))
            assert schuss.last_run().tier == tier
    np.testing.assert_array_equal(found[1], found[0])
    numbers = ~np.isnan(found[0])
    np.testing.assert_array_equal(np.signbit(found[1][numbers]), np.signbit(found[0][numbers]))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64"])
def test_powers_of_integers(dtype: str) -> None:
    """Overflow wraps around, as in NumPy."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(-9, 10, 1003).astype(dtype), rng.integers(0, 70, 1003).astype(dtype)
    with using("compiled"):
        found = schuss.tensor(a) ** schuss.tensor(b)
        np.testing.assert_array_equal(found.numpy(), a**b)
        assert schuss.last_run().tier == "compiled"


def test_negative_powers_of_integers_raise() -> None:
    a, b = schuss.arange(1, 50), schuss.ones(49, dtype=schuss.int64)
    with using("compiled"):
        assert (a**b).tolist() == a.tolist()
        with pytest.raises(ArgumentError, match="an integer to a negative power"):
            (a ** (b - 2)).numpy()
        with pytest.raises(ArgumentError, match="an integer to a negative power"):
            (a ** schuss.tensor(-1)).numpy()


def test_quotients_are_no_host_steps() -> None:
    from schuss import compiler

    x = schuss.ones(100)
    units = compiler.show(lambda x: schuss.nextafter(x // 3.0 + x % 3.0, x), x, stages=("units",))
    assert units.count("for outer [100]") == 1
    assert "host" not in units
