"""A small network, its data and its trainer, for the tests of runs."""

from __future__ import annotations

from typing import Any

import numpy as np

import schuss
from schuss import nn, optim
from schuss.data import ArrayDataset, DataLoader
from schuss.philox import Generator
from schuss.training import Callback, Trainer

RANDOM = np.random.default_rng(5)
INPUTS = RANDOM.normal(size=(26, 4)).astype(np.float32)
TARGETS = RANDOM.integers(0, 3, 26)
Weights = dict[str, np.ndarray]


def make_loader(count: int = 26, shuffle: bool = False) -> DataLoader:
    dataset = ArrayDataset(INPUTS[:count], TARGETS[:count])
    return DataLoader(dataset, batch_size=8, shuffle=shuffle, generator=Generator(2))


def make_model() -> nn.Sequential:
    schuss.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 3))


def make_trainer(kind: type[Trainer] = Trainer, **options: Any) -> Trainer:
    model = make_model()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return kind(model, nn.CrossEntropyLoss(), optimizer, **options)


def weights(model: nn.Module) -> Weights:
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def assert_same(first: Weights, second: Weights) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.tobytes() == second[name].tobytes(), name


class At(Callback):
    """Calls a function after a step."""

    def __init__(self, step: int, action: Any) -> None:
        self.step = step
        self.action = action

    def on_batch_end(self, trainer: Trainer) -> None:
        if trainer.step == self.step:
            self.action(trainer)


def interrupt(trainer: Trainer) -> None:
    raise KeyboardInterrupt
