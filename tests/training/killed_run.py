"""A training run that ends its own process at a chosen moment; `test_resume.py` starts it.

Usage: killed_run.py FOLDER OPTIMIZER MOMENT
where MOMENT is `never`, `step:N` (after step N), `validation:N` (in the N-th batch of validation)
or `write:N` (just before the N-th fsync, rename or replace).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from schuss import nn, optim
from schuss.data import ArrayDataset, DataLoader
from schuss.philox import Generator
from schuss.safetensors import save_file
from schuss.training import Accuracy, Callback, EarlyStopping, JSONLines, Trainer


def kill_at(moment: int) -> Callable[[], None]:
    """A function to call again and again, which kills the process in the given call."""
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    return call


class KillAtStep(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_batch_end(self, trainer: Trainer) -> None:
        if trainer.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_in_writing(moment: int) -> None:
    tick = kill_at(moment)

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            tick()
            return function(*arguments)

        return wrapped

    os.fsync, os.rename, os.replace = wrap(os.fsync), wrap(os.rename), wrap(os.replace)


class KilledTrainer(Trainer):
    """Kills the process in a batch of validation."""

    tick: Callable[[], None] = staticmethod(lambda: None)

    def evaluation_step(self, batch: Any) -> Any:
        self.tick()
        return super().evaluation_step(batch)


def make_trainer(folder: Path, method: str) -> KilledTrainer:
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
    )
    if method == "adam":
        optimizer = optim.Adam(model.parameters(), lr=0.02)
    else:
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return KilledTrainer(
        model,
        nn.CrossEntropyLoss(),
        optimizer,
        metrics=[Accuracy()],
        schedule=optim.CosineAnnealingLR(optimizer, 24, warmup=4),
        schedule_every="step",
        clip_norm=1.0,
        callbacks=[JSONLines(folder / "history.jsonl"), EarlyStopping(patience=2)],
    )


def main(folder: Path, method: str, moment: str) -> None:
    random = np.random.default_rng(11)
    inputs = random.normal(size=(52, 6)).astype(np.float32)
    targets = random.integers(0, 3, 52)
    train = ArrayDataset(inputs[:36], targets[:36])
    loader = DataLoader(train, batch_size=8, shuffle=True, generator=Generator(5), threads=1)
    validation = DataLoader(ArrayDataset(inputs[36:], targets[36:]), batch_size=8)
    trainer = make_trainer(folder, method)
    kind, _, number = moment.partition(":")
    if kind == "step":
        trainer.callbacks.append(KillAtStep(int(number)))
    elif kind == "validation":
        trainer.tick = kill_at(int(number))  # type: ignore[method-assign]
    elif kind == "write":
        kill_in_writing(int(number))
    trainer.fit(
        loader,
        epochs=5,
        validation=validation,
        checkpoints=folder / "checkpoints",
        checkpoint_every=3,
        resume=True,
        progress=False,
    )
    state = trainer.model.state_dict()
    save_file(folder / "final.safetensors", {name: each.numpy() for name, each in state.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
