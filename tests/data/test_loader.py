"""The order of batches, reading ahead in threads, and going on after a restart."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from schuss.data import ArrayDataset, DataLoader, Subset
from schuss.errors import ArgumentError, ShapeError, StateDictError
from schuss.philox import Generator
from schuss.random import manual_seed


def numbers(n: int = 10, transform: Any = None) -> ArrayDataset:
    return ArrayDataset(np.arange(n), transform=transform)


def jitter(sample: Any, generator: Generator) -> Any:
    return sample[0], generator.numpy().random(3, np.float32)


def values(batches: Any) -> list[list[int]]:
    return [batch[0].numpy().tolist() for batch in batches]


def workers() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("schuss-data")]


class Broken(Sequence[int]):
    """Sample 5 cannot be read."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: Any) -> Any:
        if index == 5:
            raise OSError("disk trouble")
        return index


def test_batches_in_order() -> None:
    loader = DataLoader(numbers(), batch_size=4)
    assert len(loader) == 3
    assert values(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_drop_last() -> None:
    loader = DataLoader(numbers(), batch_size=4, drop_last=True)
    assert len(loader) == 2
    assert values(loader) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_the_order_depends_on_generator_and_epoch_alone() -> None:
    generator = Generator(3, 4)
    loader = DataLoader(numbers(), 4, shuffle=True, generator=generator)
    first, second = values(loader), values(loader)
    assert sorted([number for batch in first for number in batch]) == list(range(10))
    assert first != second
    assert generator.position == 0
    generator.bits(10)
    same = DataLoader(numbers(), 4, shuffle=True, generator=generator)
    assert [values(same), values(same)] == [first, second]
    other = DataLoader(numbers(), 4, shuffle=True, generator=Generator(5))
    assert values(other) != first


def test_two_loaders_shuffle_differently_and_the_same_in_each_run() -> None:
    def orders() -> list[Any]:
        manual_seed(3)
        return [values(DataLoader(numbers(50), 50, shuffle=True)) for _ in range(2)]

    first, second = orders()
    assert first != second
    assert orders() == [first, second]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("prefetch", [1, 4])
def test_threads_change_nothing(threads: int, prefetch: int) -> None:
    def epochs(**options: Any) -> list[Any]:
        loader = DataLoader(numbers(23, jitter), 4, shuffle=True, generator=Generator(1), **options)
        return [[part.numpy().tolist() for part in batch] for _ in range(2) for batch in loader]

    assert epochs(threads=threads, prefetch=prefetch) == epochs()
    assert not workers()


def test_randomness_is_keyed_by_epoch_and_index() -> None:
    loader = DataLoader(numbers(5, jitter), 5, generator=Generator(9))
    for epoch in range(2):
        (batch,) = loader
        keyed = Generator(9).fork(epoch, 3).numpy().random(3, np.float32)
        assert np.array_equal(batch[1].numpy()[3], keyed)


def test_a_subset_keeps_its_randomness() -> None:
    loader = DataLoader(Subset(numbers(5, jitter), [4, 2]), 2, generator=Generator(9))
    (batch,) = loader
    assert batch[0].numpy().tolist() == [4, 2]
    keyed = Generator(9).fork(0, 1).numpy().random(3, np.float32)
    assert np.array_equal(batch[1].numpy()[1], keyed)


def test_the_fast_way_gives_the_same() -> None:
    options: dict[str, Any] = {"shuffle": True, "generator": Generator(2)}
    slow = DataLoader(numbers(transform=lambda sample: sample), 4, **options)
    assert values(DataLoader(numbers(), 4, **options)) == values(slow)


def test_reading_ahead_is_bounded() -> None:
    read: list[int] = []

    class Watched(Broken):
        def __getitem__(self, index: Any) -> Any:
            read.append(index)
            return index

    batches = iter(DataLoader(Watched(), 1, threads=1, prefetch=2))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert 1 <= len(read) <= 3


def test_leaving_early_joins_the_threads() -> None:
    loader = DataLoader(numbers(), 1, threads=2)
    for _ in loader:
        assert workers()
        break
    assert not workers()

    def stop_by_error() -> None:
        for _ in loader:
            raise KeyError

    with pytest.raises(KeyError):
        stop_by_error()
    assert not workers()


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_in_the_data_set_names_the_sample(threads: int) -> None:
    loader = DataLoader(Broken(), 2, threads=threads)
    seen: list[Any] = []

    def read() -> None:
        for batch in loader:
            seen.append(batch.numpy().tolist())

    with pytest.raises(OSError, match="disk trouble") as caught:
        read()
    assert seen == [[0, 1], [2, 3]]
    assert caught.value.__notes__ == ["DataLoader: while reading sample 5 of the data set"]
    assert not workers()


def test_an_error_in_stacking_names_the_samples() -> None:
    samples = [np.zeros(2), np.zeros(3)]
    with pytest.raises(ShapeError, match="same shape") as caught:
        list(DataLoader(samples))
    assert caught.value.__notes__ == ["DataLoader: while stacking the samples [0, 1]"]


def test_a_collate_of_the_user() -> None:
    def padded(samples: Sequence[Any]) -> Any:
        return np.array([len(samples), *[x for (x,) in samples]])

    batches = [batch.numpy().tolist() for batch in DataLoader(numbers(3), 2, collate=padded)]
    assert batches == [[2, 0, 1], [1, 2]]


def test_a_break_ends_the_epoch() -> None:
    loader = DataLoader(numbers(), 4, shuffle=True, generator=Generator(1))
    reference = DataLoader(numbers(), 4, shuffle=True, generator=Generator(1))
    epochs = [values(reference) for _ in range(2)]
    assert loader.epoch == 0
    for _ in loader:
        break
    assert loader.epoch == 0
    assert values(loader) == epochs[1]
    assert loader.epoch == 2


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("stop", [0, 3, 4, 7, 9])
def test_a_restart_goes_on_with_the_next_batch(threads: int, stop: int) -> None:
    def make() -> DataLoader:
        dataset = numbers(transform=jitter)
        return DataLoader(dataset, 2, shuffle=True, generator=Generator(1), threads=threads)

    def run(loader: DataLoader, log: list[Any], epochs: int, stop: int = -1) -> str | None:
        while loader.epoch < epochs:
            for batch in loader:
                log.append([part.numpy().tolist() for part in batch])
                if len(log) - 1 == stop:
                    return json.dumps(loader.state_dict())
            log.append("the end of an epoch")
        return None

    whole: list[Any] = []
    run(make(), whole, 2)
    log: list[Any] = []
    saved = run(make(), log, 2, stop)
    assert saved is not None
    resumed = make()
    resumed.load_state_dict(json.loads(saved))
    run(resumed, log, 2)
    assert log == whole


def test_a_state_between_epochs() -> None:
    loader = DataLoader(numbers(), 4, shuffle=True, generator=Generator(1))
    list(loader)
    state = loader.state_dict()
    assert (state["epoch"], state["batch"]) == (1, 0)
    following = values(loader)
    other = DataLoader(numbers(), 4, shuffle=True, generator=Generator(2))
    other.load_state_dict(state)
    assert values(other) == following


def test_a_loader_can_go_back_to_where_it_was_left() -> None:
    loader = DataLoader(numbers(), 4)
    for _ in loader:
        break
    loader.load_state_dict(loader.state_dict())
    assert values(loader) == [[4, 5, 6, 7], [8, 9]]


def test_loading_while_a_loop_is_running_is_not_undone_by_it() -> None:
    loader = DataLoader(numbers(), 4)
    start = loader.state_dict()
    running = iter(loader)
    next(running)
    loader.load_state_dict(start)
    next(running)
    assert loader.state_dict() == start


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"batch_size": 5}, "batch_size"),
        ({"shuffle": True}, "shuffle"),
        ({"drop_last": True}, "drop_last"),
        ({"dataset": numbers(11)}, "length"),
    ],
)
def test_a_state_of_another_loader(changed: dict[str, Any], name: str) -> None:
    state = DataLoader(numbers(), batch_size=4).state_dict()
    options: dict[str, Any] = {"dataset": numbers(), "batch_size": 4} | changed
    loader = DataLoader(**options)
    with pytest.raises(StateDictError, match=rf"another {name}\n  saved: (.|\n)*present: "):
        loader.load_state_dict(state)


def test_a_state_that_is_wrong() -> None:
    loader = DataLoader(numbers(), batch_size=4)
    state = loader.state_dict()
    with pytest.raises(StateDictError, match="the state has no batch, epoch"):
        loader.load_state_dict({k: v for k, v in state.items() if k not in ("epoch", "batch")})
    with pytest.raises(StateDictError, match=r"outside the epoch(.|\n)*batch: 4\n  batches: 3"):
        loader.load_state_dict(state | {"batch": 4})


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"batch_size": 2.5}, {"threads": -1}, {"prefetch": 0}]
)
def test_arguments(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ArgumentError, match=f"{name} must be an integer of at least"):
        DataLoader(numbers(), **options)


def test_drop_last_must_leave_something() -> None:
    with pytest.raises(ArgumentError, match=r"drop_last leaves no batch(.|\n)*length: 10"):
        DataLoader(numbers(), batch_size=11, drop_last=True)


def test_a_data_set_of_no_samples() -> None:
    assert list(DataLoader([], shuffle=True)) == []
