"""Running sums and products, along any axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import schuss
from schuss.execution.tiers import using

from ..graphs import agree, numbers

SHAPES = [(5,), (16,), (17,), (1000,), (3, 4), (4, 3, 5), (2, 3, 40), (100, 70), (1, 1), (3, 65, 2)]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHUSS_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "kernels"))


@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.int64, np.bool_])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_running_sums(dtype: Any, shape: tuple[int, ...]) -> None:
    x = numbers(*shape, dtype=dtype)

    def sums(x: Any) -> list[Any]:
        axes = range(len(shape))
        made = [schuss.cumulative_sum(x, axis=axis) for axis in axes]
        return made + [schuss.cumulative_sum(schuss.flip(x), axis=axis) for axis in axes]

    agree(sums, x, rtol=1e-6)


def test_no_host_step_is_left() -> None:
    with using("compiled"):
        schuss.cumulative_sum(schuss.tensor(numbers(3, 7)), axis=0).numpy()
    assert dict(schuss.last_run().ops) == {"loops": 1}


def test_half_precisions_add_up_in_float32() -> None:
    x = np.full((2, 300), 1.1, np.float16)
    for axis in (0, 1):
        agree(lambda x, axis=axis: schuss.cumulative_sum(x, axis=axis), x, rtol=1e-3)


def test_running_sums_of_float32() -> None:
    x = np.random.default_rng(0).uniform(0.5, 1.5, (40, 333)).astype(np.float32)
    for axis in (0, 1):
        agree(lambda x, axis=axis: schuss.cumulative_sum(x, axis=axis), x)


@pytest.mark.parametrize("n", [70_000, 1 << 16, 3 << 15])
def test_a_long_row_in_pieces(n: int) -> None:
    x = numbers(2, n, dtype=np.float64)
    agree(lambda x: schuss.cumulative_sum(x, axis=1), x, rtol=1e-6)


def test_running_products() -> None:
    for axis in (0, 1):
        x = np.random.default_rng(0).uniform(0.7, 1.4, (30, 41)).astype(np.float32)
        agree(lambda x, axis=axis: schuss.cumulative_prod(x, axis=axis), x)


def test_no_product_overflows_that_need_not() -> None:
    x = np.array([1e-30, 1e30, 1e30, 1e-30] * 5, np.float32)
    with using("compiled"):
        found = schuss.cumulative_prod(schuss.tensor(x)).numpy()
    assert np.isfinite(found).all()


def test_gradients() -> None:
    for axis in (0, 1):
        agree(schuss.grad(lambda x, axis=axis: (schuss.cumulative_sum(x, axis=axis) ** 2).sum()),
              numbers(20, 33, dtype=np.float64))  # fmt: skip
