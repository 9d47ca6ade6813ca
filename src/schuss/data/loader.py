"""Batches in a reproducible order, read ahead by threads, from any place of an epoch."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss.data.batching import Collate, collate, to_tensors
from schuss.data.dataset import Dataset
from schuss.errors import ArgumentError, StateDictError, fail
from schuss.philox import Generator, default_generator

if TYPE_CHECKING:
    from concurrent.futures import Future

_FORK = 0xDA7A  # names the loaders' fork of the default generator


class DataLoader:
    """Goes through a data set in batches: each `for` over the loader is one epoch.

    Args:
        dataset: anything with `len()` and `[index]`; `schuss.data.dataset` says what else it may
            offer, such as whole batches at once.
        batch_size: samples in a batch; the last batch of an epoch may be smaller.
        shuffle: take the samples in a new random order each epoch, else in their own.
        drop_last: leave out the last batch if it is smaller.
        generator: decides the orders and all randomness of samples. Only its seed and stream count,
            and it is not advanced. If None, a fork of the default generator, another one for each
            such loader that draws.
        threads: threads that read samples and stack them ahead of use; 0 reads in the loop itself.
        prefetch: batches that each of the threads prepares ahead of use.
        collate: list of samples -> batch, in place of `schuss.data.collate`; it returns new arrays.

    A batch has the structure of a sample, each entry a tensor (B, ...).

    **Reproducible**: the order of epoch e depends on (seed, stream, e) alone, and the randomness of
    sample i in it on (seed, stream, e, i): batches are the same bits for every number of threads.

    **Resuming**: `state_dict()` counts every batch that the loop has been given, so inside the loop
    the batch at hand is a finished one: save after the step. After `load_state_dict`, the next
    `for` gives the rest of that epoch, which is empty if the state was taken at its last batch.
    Without it, every `for` begins a new epoch, also after a `break`. The state follows the newest
    iterator if there are several.

    **Errors** of the data set are raised in the loop when it reaches that batch, with a note that
    names the sample. Leaving the loop stops and joins the threads.

    >>> from schuss.data import DataLoader, Digits
    >>> loader = DataLoader(Digits(), batch_size=64, shuffle=True)
    >>> len(loader)
    23
    >>> for images, labels in loader:
    ...     print(images.shape, labels.dtype)
    ...     break
    (64, 1, 8, 8) int64
    """

    def __init__(
        self,
        dataset: Dataset[Any] | Sequence[Any],
        batch_size: int = 32,
        shuffle: bool = False,
        *,
        drop_last: bool = False,
        generator: Generator | None = None,
        threads: int = 0,
        prefetch: int = 2,
        collate: Collate | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = _at_least(1, "batch_size", batch_size)
        self.shuffle = bool(shuffle)
        self.drop_last = bool(drop_last)
        self.threads = _at_least(0, "threads", threads)
        self.prefetch = _at_least(1, "prefetch", prefetch)
        draws = self.shuffle or getattr(dataset, "random", False)
        source = generator or (default_generator.child(_FORK) if draws else Generator())
        self._generator = Generator(source.seed, source.stream)
        self._stack = collate
        self._epoch = 0
        self._consumed = 0  # batches of this epoch that the loop has been given
        self._begun = False  # an iterator over this epoch was made, and has not come to the end
        self._newest: object = None  # the iterator that the three above speak of
        if drop_last and len(dataset) < batch_size:
            raise fail(
                ArgumentError,
                "DataLoader",
                "drop_last leaves no batch of this data set",
                length=len(dataset),
                batch_size=batch_size,
            )

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        batches = len(self.dataset) / self.batch_size
        return math.floor(batches) if self.drop_last else math.ceil(batches)

    @property
    def epoch(self) -> int:
        """The epoch that is running, from 0; between two epochs, the one that comes next."""
        return self._epoch

    def __iter__(self) -> Iterator[Any]:
        if self._begun:  # left early: a new epoch, from its start
            self._epoch += 1
            self._consumed = 0
        self._begun = True
        self._newest = token = object()
        return self._batches(token, self._epoch, self._consumed)

    def state_dict(self) -> dict[str, Any]:
        """Where in which epoch the loader is, made of integers, truth values and dicts."""
        return {
            "epoch": self._epoch,
            "batch": self._consumed,
            "generator": self._generator.state_dict(),
            **self._shape(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next `for` continue where the loader was that `state` comes from.

        Raises StateDictError if that one had another batch size, data set length, `shuffle` or
        `drop_last`, or if entries are missing.
        """
        expected = self.state_dict()
        missing = sorted(expected.keys() - state.keys())
        if missing:
            raise fail(StateDictError, "DataLoader", "the state has no " + ", ".join(missing))
        for name, present in self._shape().items():
            if state[name] != present:
                raise fail(
                    StateDictError,
                    "DataLoader",
                    f"the state is that of a loader with another {name}",
                    saved=state[name],
                    present=present,
                )
        if state["epoch"] < 0 or not 0 <= state["batch"] <= len(self):
            raise fail(
                StateDictError,
                "DataLoader",
                "the state points outside the epoch",
                epoch=state["epoch"],
                batch=state["batch"],
                batches=len(self),
            )
        self._generator.load_state_dict(state["generator"])
        self._epoch = int(state["epoch"])
        self._consumed = int(state["batch"])
        self._begun = False
        self._newest = None

    def _shape(self) -> dict[str, Any]:
        """What a state must agree in for its position to mean the same here."""
        return {
            "batch_size": self.batch_size,
            "length": len(self.dataset),
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
        }

    def _batches(self, token: object, epoch: int, first: int) -> Iterator[Any]:
        generator = self._generator.fork(epoch)
        count = len(self.dataset)
        order = generator.permutation(count) if self.shuffle else np.arange(count)
        starts = range(first * self.batch_size, len(self) * self.batch_size, self.batch_size)
        parts = [order[start : start + self.batch_size] for start in starts]
        read = self._read_ahead if self.threads else self._read_here
        arrays: Any = read(parts, generator)  # Any: iterators need not have close(), these do
        with closing(arrays) as batches:
            for number, batch in enumerate(batches, first + 1):
                if self._newest is token:
                    self._consumed = number
                yield to_tensors(batch)
        if self._newest is token:
            self._epoch += 1
            self._consumed = 0
            self._begun = False

    def _read_here(self, parts: list[np.ndarray], generator: Generator) -> Iterator[Any]:
        for part in parts:
            yield self._read(part, generator)

    def _read_ahead(self, parts: list[np.ndarray], generator: Generator) -> Iterator[Any]:
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="schuss-data")
        ahead: deque[Future[Any]] = deque()
        try:
            for part in parts:
                ahead.append(pool.submit(self._read, part, generator))
                if len(ahead) > self.threads * self.prefetch:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, indices: np.ndarray, generator: Generator) -> Any:
        """One batch of NumPy arrays. Several threads are in here at once: it changes nothing."""
        whole = getattr(self.dataset, "batch", None)
        if whole is not None and self._stack is None:
            batch = whole(indices)
            if batch is not None:
                return batch
        samples = [self._sample(int(index), generator) for index in indices]
        try:
            return (self._stack or collate)(samples)
        except Exception as problem:
            problem.add_note(f"DataLoader: while stacking the samples {indices.tolist()}")
            raise

    def _sample(self, index: int, generator: Generator) -> Any:
        dataset: Any = self.dataset
        try:
            if getattr(dataset, "random", False):
                return dataset.sample(index, generator.fork(index))
            return dataset[index]
        except Exception as problem:
            problem.add_note(f"DataLoader: while reading sample {index} of the data set")
            raise


def _at_least(least: int, name: str, value: int) -> int:
    if not isinstance(value, (int, np.integer)) or value < least:
        problem = f"{name} must be an integer of at least {least}"
        shown: dict[str, Any] = {name: value}
        raise fail(ArgumentError, "DataLoader", problem, **shown)
    return int(value)
