"""Samples into batches, and arrays into tensors."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest

from schuss.data.batching import collate, to_tensors
from schuss.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from schuss.tensor import Tensor

Point = namedtuple("Point", ["x", "y"])


@pytest.mark.parametrize(
    ("samples", "dtype"),
    [
        ([1, 2], np.int64),
        ([1.0, 2.0], np.float32),
        ([1, 2.5], np.float32),
        ([True, False], np.bool_),
        ([1j, 2], np.complex64),
        ([np.float64(1), np.float64(2)], np.float64),
        ([np.uint8(1), np.uint8(2)], np.uint8),
        ([np.zeros(3, np.uint8), np.ones(3, np.uint8)], np.uint8),
    ],
)
def test_dtypes(samples: list[Any], dtype: Any) -> None:
    batch = collate(samples)
    assert batch.dtype == dtype
    assert batch.tolist() == [np.asarray(sample).tolist() for sample in samples]


def test_structures_are_kept() -> None:
    batch = collate([{"x": (1, [2.0]), "name": "a"}, {"x": (3, [4.0]), "name": "b"}])
    assert batch["name"] == ["a", "b"]
    number, row = batch["x"]
    assert number.tolist() == [1, 3]
    assert isinstance(row, list)
    assert row[0].tolist() == [2, 4]
    assert collate([Point(1, 2), Point(3, 4)]).y.tolist() == [2, 4]


def test_a_number_next_to_an_array_of_no_axes() -> None:
    assert collate([np.int64(3), 4]).tolist() == [3, 4]


def test_shapes_that_differ() -> None:
    pattern = r"same shape\n  sample 0: \(2,\) float64\n  sample 2: \(3,\) float64"
    with pytest.raises(ShapeError, match=pattern):
        collate([np.zeros(2), np.zeros(2), np.zeros(3)])


def test_dtypes_that_differ() -> None:
    with pytest.raises(DTypeError, match=r"same dtype\n  sample 0: .*uint8\n  sample 1: .*float64"):
        collate([np.zeros(2, np.uint8), np.zeros(2)])


@pytest.mark.parametrize(
    ("samples", "pattern"),
    [
        ([(1, 2), (1, 2, 3)], r"their entries(.|\n)*2 entries(.|\n)*3 entries"),
        ([(1, 2), [1, 2]], r"their entries(.|\n)*list"),
        ([{"a": 1}, {"b": 1}], r"their names\n  sample 0: \['a'\]\n  sample 1: \['b'\]"),
        ([{"a": 1}, 1], r"their names(.|\n)*int"),
    ],
)
def test_structures_that_differ(samples: list[Any], pattern: str) -> None:
    with pytest.raises(ArgumentError, match=pattern):
        collate(samples)


def test_what_cannot_be_stacked() -> None:
    with pytest.raises(ArgumentTypeError, match=r"found: 'NoneType'(.|\n)*collate of your own"):
        collate([None, None])


def test_tensors_keep_the_structure() -> None:
    batch = to_tensors({"a": (np.arange(3), "text"), "p": Point(np.ones(1), [np.float32(2)])})
    assert isinstance(batch["a"][0], Tensor)
    assert batch["a"][0].numpy().tolist() == [0, 1, 2]
    assert batch["a"][1] == "text"
    assert batch["p"].x.numpy().tolist() == [1]
    assert batch["p"].y[0].numpy() == 2


def test_tensors_can_be_collated() -> None:
    tensors = to_tensors([np.arange(2), np.arange(2) + 1])
    assert collate(tensors).tolist() == [[0, 1], [1, 2]]


def test_a_view_is_copied() -> None:
    array = np.zeros((2, 2))
    tensor = to_tensors(array[0])
    array[:] = 1
    assert tensor.numpy().tolist() == [0, 0]


def test_a_foreign_byte_order_becomes_native() -> None:
    tensor = to_tensors(np.arange(3, dtype=">i4"))
    assert tensor.numpy().dtype == np.dtype("=i4")
    assert tensor.numpy().tolist() == [0, 1, 2]


def test_a_dtype_that_tensors_do_not_have() -> None:
    with pytest.raises(DTypeError, match=r"tensors do not have\n  array: \(1,\) datetime64"):
        to_tensors(np.zeros(1, "datetime64[s]"))
