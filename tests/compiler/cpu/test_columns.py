"""Sums of columns: vectors without masks, of which the last may begin before the others end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.compiler.graphs import agree, filled, numbers, recorded

import schuss
from schuss.compiler.program import compile_graph
from schuss.compiler.verify import verify
from schuss.nn import functional as F  # noqa: N812

COLUMNS = [1, 7, 8, 15, 16, 17, 28, 31, 32, 33, 47, 48, 63, 65, 100, 127, 128, 130, 192, 272, 520]


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_every_column_is_summed_once(columns, dtype):
    x = numbers(5, 9, columns, dtype=dtype)

    def f(x: Any) -> Any:
        return x.sum(axis=1), (x * 2).max(axis=0), x[:, ::-1, ::-1].sum(axis=1), x.sum(axis=(0, 1))

    agree(f, x, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("columns", [5, 15, 16, 17, 28, 40])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_windows_of_rows(columns, stride):
    x = numbers(2, 3, 6, stride * (columns - 1) + 3)
    agree(lambda x: F.max_pool2d(x, 3, stride=(1, stride)), x, rtol=0, atol=0)


def has_masks(columns: int) -> bool:
    """Whether the code for sums of so many columns loads vectors with masks."""
    compiled = compile_graph(recorded(filled(7, columns).max(axis=0)))
    verify(compiled)
    ((call,),) = compiled.calls[0].groups  # type: ignore[union-attr]
    return any("call" in line and "masked.load" in line for line in call.source.text.splitlines())


def test_only_less_than_a_vector_needs_a_mask():
    assert [has_masks(n) for n in (128, 64, 28, 5, 130)] == [False, False, False, True, True]


def test_sums_are_the_same_with_any_number_of_threads():
    x = numbers(6, 50, 91)
    found = []
    for threads in (1, 2, 3, 8):
        before = schuss.get_num_threads()
        schuss.set_num_threads(threads)
        try:
            found.append(schuss.tensor(x).sum(axis=1).numpy())
        finally:
            schuss.set_num_threads(before)
    assert all((each == found[0]).all() for each in found)
