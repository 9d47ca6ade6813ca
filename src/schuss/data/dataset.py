"""Data sets: what one must offer, arrays in memory, and parts of a data set.

A data set is anything with `len(dataset)` and `dataset[index] -> sample`: a list will do. Two more
things are optional, and `DataLoader` looks for them:

- `batch(indices)`: a whole batch at once, for int64 indices of shape (B,). It returns new arrays
  with the batch as their first axis, or None where samples have to be taken one by one.
- `random` and `sample(index, generator)`: where `random` is true, a sample is read with `sample`,
  which draws everything random from `generator`. The loader keys that generator by (seed, epoch,
  index), so a sample depends neither on the thread that reads it nor on what was read before.
"""

from __future__ import annotations

import inspect
import math
import operator
from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np

from schuss.errors import ArgumentError, ArgumentTypeError, OutOfBoundsError, ShapeError, fail
from schuss.philox import Generator, default_generator

Sample = TypeVar("Sample", covariant=True)
Transform = Callable[..., Any]  # (sample) or (sample, generator) -> sample


class Dataset(Protocol[Sample]):
    """A finite sequence of samples. Subclass it, or pass anything that has these two methods.

    A sample is an array, a number, or tuples, lists and dicts of these. With
    `DataLoader(threads=...)` several threads call `__getitem__` at once.
    """

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def __getitem__(self, index: int, /) -> Sample:
        """The sample at `index`, from 0."""


def wants_generator(transform: Transform | None) -> bool:
    """Whether a transform is random: it has a parameter called `generator` that has no default."""
    if transform is None:
        return False
    try:
        parameters = inspect.signature(transform).parameters
    except (TypeError, ValueError):  # functions written in C need not have a signature
        return False
    generator = parameters.get("generator")
    return generator is not None and generator.default is inspect.Parameter.empty


class ArrayDataset(Dataset[Any]):
    """Arrays in memory: sample `i` is the tuple of their entries at `i`.

    Args:
        arrays: NumPy arrays or tensors, each (N, ...). They are not copied.
        transform: `transform(sample) -> sample`, applied to the whole tuple. A transform that wants
            randomness has a parameter called `generator`: `transform(sample, generator) -> sample`;
            it must draw from nothing else. Whether it has one is looked at once, here.

    Raises ShapeError if the arrays differ in length.
    """

    def __init__(self, *arrays: Any, transform: Transform | None = None) -> None:
        if not arrays:
            raise fail(ArgumentError, "ArrayDataset", "at least one array is needed")
        self.arrays = tuple(_as_array(array) for array in arrays)
        if len({len(array) for array in self.arrays}) > 1:
            shown: dict[str, Any] = {f"array {i}": array for i, array in enumerate(self.arrays)}
            problem = "all arrays must have the same length along their first axis"
            raise fail(ShapeError, "ArrayDataset", problem, **shown)
        self._transform = transform
        self.random = wants_generator(transform)

    @property
    def transform(self) -> Transform | None:
        return self._transform

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: int, /) -> Any:
        return self.sample(index, None)

    def sample(self, index: int, generator: Generator | None) -> Any:
        """The sample at `index`; a random transform draws from `generator`.

        Raises ArgumentError if the transform is random and there is no generator: drawing from a
        shared one would make samples depend on the order in which threads read them.
        """
        sample = self._take(checked_index(index, len(self)))
        if self._transform is None:
            return sample
        if not self.random:
            return self._transform(sample)
        if generator is None:
            raise fail(
                ArgumentError,
                type(self).__name__,
                "the transform is random, so a sample needs a generator",
                hint="read it with dataset.sample(index, generator), or through a DataLoader",
            )
        return self._transform(sample, generator=generator)

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, ...] | None:
        """The samples at `indices` (B,), each array (B, ...). None if there is a transform."""
        return self._take(indices) if self._transform is None else None

    def _take(self, indices: int | np.ndarray) -> tuple[np.ndarray, ...]:
        # `take` copies for one index too: what works in place must not reach the data set
        return tuple(array.take(indices, axis=0) for array in self.arrays)


class Subset(Dataset[Any]):
    """The samples of `dataset` at `indices`, in that order.

    Raises OutOfBoundsError if an index is negative or not below `len(dataset)`.
    """

    def __init__(self, dataset: Dataset[Any], indices: Sequence[int] | np.ndarray) -> None:
        found = np.asarray(indices)
        if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
            raise fail(
                ArgumentTypeError, "Subset", "indices must be a list of integers", indices=found
            )
        outside = found[(found < 0) | (found >= len(dataset))]
        if outside.size:
            raise fail(
                OutOfBoundsError,
                "Subset",
                "indices must be from 0 to the length of the data set - 1",
                index=int(outside[0]),
                length=len(dataset),
            )
        self.dataset = dataset
        self.indices = found.astype(np.int64)
        self.random: bool = getattr(dataset, "random", False)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Any:
        return self.dataset[self._inner(index)]

    def sample(self, index: int, generator: Generator) -> Any:
        """The sample at `index`, where the data set inside is a random one."""
        inner: Any = self.dataset
        return inner.sample(self._inner(index), generator)

    def batch(self, indices: np.ndarray) -> Any:
        """The batch of the data set inside, None if that has no fast way."""
        batch = getattr(self.dataset, "batch", None)
        return None if batch is None else batch(self.indices[indices])

    def _inner(self, index: int) -> int:
        return int(self.indices[checked_index(index, len(self))])


def random_split(
    dataset: Dataset[Any],
    lengths: Sequence[int] | Sequence[float],
    generator: Generator | None = None,
) -> list[Subset]:
    """Cut a data set at random into parts that do not overlap.

    Args:
        lengths: the sizes of the parts, which must add up to `len(dataset)`; or fractions that add
            up to 1, whose rounded-off samples go one each to the first parts.
        generator: where the order comes from, and which it advances; None is the default one.
    """
    total = len(dataset)
    sizes = _sizes(lengths, total)
    order = (generator or default_generator).permutation(total)
    starts = np.cumsum([0, *sizes])
    return [Subset(dataset, order[a:b]) for a, b in pairwise(starts)]


def _sizes(lengths: Sequence[int] | Sequence[float], total: int) -> list[int]:
    if any(length < 0 for length in lengths):
        raise fail(ArgumentError, "random_split", "no length may be negative", lengths=lengths)
    if all(isinstance(length, (int, np.integer)) for length in lengths):
        if sum(lengths) != total:
            raise fail(
                ArgumentError,
                "random_split",
                f"the lengths must add up to that of the data set, {total}",
                lengths=lengths,
                hint="fractions must add up to 1 and be floats",
            )
        return [int(length) for length in lengths]
    if not math.isclose(sum(lengths), 1.0, abs_tol=1e-6):
        raise fail(ArgumentError, "random_split", "the fractions must add up to 1", lengths=lengths)
    # 0.29 * 100 is a little less than 29: rounded first, so that it does not become 28
    sizes = [math.floor(round(total * fraction, 6)) for fraction in lengths]
    for number in range(total - sum(sizes)):
        sizes[number % len(sizes)] += 1
    return sizes


def _as_array(value: Any) -> np.ndarray:
    array = value if isinstance(value, np.ndarray) else getattr(value, "numpy", lambda: None)()
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise fail(
            ArgumentTypeError,
            "ArrayDataset",
            "every argument must be an array or tensor with at least one axis",
            argument=value,
            hint="make lists into arrays with numpy.asarray",
        )
    return array


def checked_index(index: Any, length: int) -> int:
    """One integer, counted from the end if negative."""
    try:
        number = operator.index(index)
    except TypeError:
        problem = "a data set is read with one integer"
        raise fail(ArgumentTypeError, "Dataset", problem, index=index) from None
    if not -length <= number < length:
        problem = "the index is outside the data set"
        raise fail(OutOfBoundsError, "Dataset", problem, index=number, length=length)
    return number % length
