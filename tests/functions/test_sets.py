"""Distinct elements and membership, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import schuss

rng = np.random.default_rng(0)


def test_distinct_elements() -> None:
    x = rng.integers(0, 5, (4, 3))
    values, first, inverse, counts = schuss.unique_all(x)
    expected = np.unique(x, return_index=True, return_inverse=True, return_counts=True)
    for found, each in zip((values, first, inverse, counts), expected, strict=True):
        np.testing.assert_array_equal(found.numpy(), each.reshape(found.shape))
    assert schuss.unique_counts(x).counts.tolist() == counts.tolist()
    assert schuss.unique_inverse(x).inverse_indices.tolist() == inverse.tolist()
    assert schuss.unique_values(x).tolist() == values.tolist()
    assert schuss.unique_values([float("nan")] * 2).shape == (2,)  # each of its own


@pytest.mark.parametrize("count", [0, 1, 5, 40])  # compared one by one, and by sorting
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float32", "complex64"])
def test_isin(dtype, count) -> None:
    x = rng.integers(0, 60, (3, 7)).astype(dtype)
    among = rng.integers(0, 60, (count, 1)).astype(dtype)
    found = schuss.isin(x, among)
    assert found.dtype == schuss.bool_
    np.testing.assert_array_equal(found.numpy(), np.isin(x, among))
    np.testing.assert_array_equal(schuss.isin(x, among, invert=True).numpy(), ~np.isin(x, among))


def test_isin_of_numbers_and_mixed_dtypes() -> None:
    assert schuss.isin(schuss.tensor([1, 2]), 2).tolist() == [False, True]
    assert schuss.isin(3, schuss.arange(40)).item() is True
    assert schuss.isin(
        schuss.tensor([1, 200], dtype=schuss.int16), schuss.tensor([200], dtype=schuss.uint8)
    ).tolist() == [False, True]
    nan = float("nan")
    assert schuss.isin(schuss.tensor([nan]), schuss.tensor([nan] * 20)).tolist() == [False]
