"""Data sets in memory, their transforms, and parts of them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from schuss.data import ArrayDataset, Dataset, Subset, random_split
from schuss.data.dataset import wants_generator
from schuss.errors import ArgumentError, ArgumentTypeError, OutOfBoundsError, ShapeError
from schuss.philox import Generator


def numbers(n: int = 6) -> ArrayDataset:
    return ArrayDataset(np.arange(2 * n, dtype=np.float32).reshape(n, 2), np.arange(n))


def jitter(sample: Any, generator: Generator) -> Any:
    x, y = sample
    return x + generator.numpy().random(2, np.float32), y


def test_a_sample_is_a_tuple() -> None:
    x, y = numbers()[2]
    assert x.tolist() == [4, 5]
    assert y == 2
    assert numbers()[-1][1] == 5


def test_a_batch_is_stacked() -> None:
    batch = numbers().batch(np.array([3, 0]))
    assert batch is not None
    assert batch[0].tolist() == [[6, 7], [0, 1]]
    assert batch[1].tolist() == [3, 0]


def test_anything_with_a_numpy_method_is_an_array() -> None:
    class Like:
        def numpy(self) -> np.ndarray:
            return np.arange(3)

    assert ArrayDataset(Like())[1] == (1,)


def test_writing_to_a_sample_leaves_the_data_alone() -> None:
    dataset = numbers()
    dataset[0][0][:] = 99
    assert dataset[0][0].tolist() == [0, 1]


def test_a_transform_gets_the_whole_sample() -> None:
    dataset = ArrayDataset(np.arange(3), transform=lambda sample: sample[0] * 10)
    assert dataset[2] == 20
    assert dataset.batch(np.arange(2)) is None


def test_a_random_transform_draws_from_the_generator_it_is_given() -> None:
    dataset = ArrayDataset(np.zeros((3, 2), np.float32), np.arange(3), transform=jitter)
    once = dataset.sample(1, Generator(5))[0]
    again = dataset.sample(1, Generator(5))[0]
    other = dataset.sample(1, Generator(6))[0]
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_a_random_transform_needs_a_generator() -> None:
    dataset = ArrayDataset(np.zeros((3, 2)), np.arange(3), transform=jitter)
    with pytest.raises(ArgumentError, match=r"transform is random, so a sample needs a generator"):
        dataset[0]


def test_which_transforms_are_random() -> None:
    class Flip:
        def __call__(self, sample: Any, generator: Generator) -> Any:
            return sample

    assert wants_generator(jitter)
    assert wants_generator(Flip())
    assert not wants_generator(None)
    assert not wants_generator(lambda sample: sample)
    assert not wants_generator(functools.partial(jitter, generator=Generator(0)))
    assert not wants_generator(dict)  # has no signature


def test_arrays_must_be_equally_long() -> None:
    with pytest.raises(ShapeError, match=r"same length(.|\n)*0: \(3,\)(.|\n)*1: \(4,\)"):
        ArrayDataset(np.zeros(3), np.zeros(4))


def test_arrays_are_needed() -> None:
    with pytest.raises(ArgumentError, match="at least one array"):
        ArrayDataset()


@pytest.mark.parametrize("value", [[1, 2], 3, np.float32(1), np.zeros(())])
def test_arguments_must_be_arrays(value: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"must be an array or tensor(.|\n)*numpy\.asarray"):
        ArrayDataset(value)


@pytest.mark.parametrize("index", [6, -7])
def test_an_index_outside(index: int) -> None:
    with pytest.raises(OutOfBoundsError, match=rf"outside the data set\n  index: {index}"):
        numbers()[index]


def test_an_index_is_one_integer() -> None:
    with pytest.raises(ArgumentTypeError, match="read with one integer"):
        numbers()[1:3]  # type: ignore[index]


def test_a_data_set_can_be_iterated() -> None:
    assert [int(y) for _, y in numbers()] == list(range(6))  # type: ignore[attr-defined]


def test_a_subclass_must_be_complete() -> None:
    class Half(Dataset[int]):
        def __len__(self) -> int:
            return 1

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


def test_a_subset() -> None:
    subset = Subset(numbers(), [4, 1])
    assert len(subset) == 2
    assert subset[0][1] == 4
    assert subset.batch(np.array([1, 0]))[1].tolist() == [1, 4]
    assert Subset(["a", "b"], [1])[0] == "b"
    assert Subset([1, 2], [1]).batch(np.array([0])) is None
    assert len(Subset(numbers(), [])) == 0


def test_a_subset_of_random_samples() -> None:
    dataset = ArrayDataset(np.zeros((3, 2), np.float32), np.arange(3), transform=jitter)
    subset = Subset(dataset, [2])
    assert subset.random
    x, y = subset.sample(0, Generator(1))
    assert y == 2
    assert np.array_equal(x, dataset.sample(2, Generator(1))[0])


def test_a_subset_of_what_is_not_there() -> None:
    with pytest.raises(OutOfBoundsError, match=r"indices must be from 0(.|\n)*index: 6"):
        Subset(numbers(), [0, 6])
    with pytest.raises(ArgumentTypeError, match="list of integers"):
        Subset(numbers(), [0.5])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ([70, 30], [70, 30]),
        ([0.71, 0.29], [71, 29]),
        ([0.335, 0.665], [34, 66]),
        ([1 / 3, 1 / 3, 1 / 3], [34, 33, 33]),
        ([1.0], [100]),
    ],
)
def test_random_split(lengths: list[float], sizes: list[int]) -> None:
    parts = random_split(numbers(100), lengths, Generator(3))
    assert [len(part) for part in parts] == sizes
    together = np.concatenate([part.indices for part in parts])
    assert sorted(together.tolist()) == list(range(100))
    again = random_split(numbers(100), lengths, Generator(3))
    assert together.tolist() == np.concatenate([part.indices for part in again]).tolist()


def test_random_split_errors() -> None:
    with pytest.raises(ArgumentError, match="add up to that of the data set, 10"):
        random_split(numbers(10), [5, 4])
    with pytest.raises(ArgumentError, match="fractions must add up to 1"):
        random_split(numbers(10), [0.5, 0.4])
    with pytest.raises(ArgumentError, match="no length may be negative"):
        random_split(numbers(10), [11, -1])
