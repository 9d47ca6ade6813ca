"""What can be hooked into a training run, and the hooks that change or save it."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from schuss.errors import ArgumentError, fail
from schuss.files import Claim, make_folder
from schuss.training.checkpoint import Checkpoints
from schuss.training.history import Record, append_json_line, write_json_lines
from schuss.training.state import Stateful, as_array

if TYPE_CHECKING:
    from schuss.training.trainer import Trainer


class Callback:
    """The base of all hooks; override those that you need.

    A hook may read and change the trainer; `trainer.stop = True` ends the run after this epoch.
    What a hook must remember over a restart goes into `state_dict()`: dicts, lists, numbers, texts,
    tensors and arrays. A checkpoint holds it under the class's name.
    """

    runs_last = False  # True for hooks that must see what all others did

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Before the first batch. `trainer.step` is 0 unless the run was resumed."""

    def on_epoch_begin(self, trainer: Trainer) -> None:
        """Before the first batch of an epoch, or the first after resuming in its middle."""

    def on_batch_end(self, trainer: Trainer) -> None:
        """After a step; `trainer.step` counts it, `trainer.last_loss` is its loss."""

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """After an epoch and its validation; `record` is the last one of `trainer.history`."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """After the last epoch, when the run came to its end."""

    def close(self) -> None:
        """After everything, also after an error: give back files and screens."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class EarlyStopping(Callback):
    """End the run when a monitored value has not improved for some epochs.

    Args:
        monitor: an entry of the records, such as "validation_loss" or "validation_accuracy".
        patience: stop after this many epochs in a row without an improvement.
        min_delta: only a change of more than this is an improvement.
        mode: "min" or "max" is better; "auto" asks the metric (a loss: "min").
        restore_best: at the end of the run, give the model the weights of its best epoch.

    A value that is NaN is no improvement. Best value, weights and count are part of checkpoints.
    """

    def __init__(
        self,
        monitor: str = "validation_loss",
        patience: int = 5,
        min_delta: float = 0.0,
        mode: Literal["auto", "min", "max"] = "auto",
        restore_best: bool = True,
    ) -> None:
        if patience < 1 or min_delta < 0:
            problem = "patience must be at least 1 and min_delta at least 0"
            raise fail(
                ArgumentError, "EarlyStopping", problem, patience=patience, min_delta=min_delta
            )
        if mode not in ("auto", "min", "max"):
            problem = "mode must be 'auto', 'min' or 'max'"
            raise fail(ArgumentError, "EarlyStopping", problem, mode=mode)
        self.monitor = monitor
        self.patience = patience
        self.min_delta = min_delta
        self.mode = mode
        self.restore_best = restore_best
        self._reset()

    def _reset(self) -> None:
        self.best: float | None = None
        self.best_epoch = 0
        self.waited = 0  # epochs since the best one
        self._weights: dict[str, np.ndarray] = {}

    def on_fit_begin(self, trainer: Trainer) -> None:
        if trainer.step == 0:  # a new run, not one that goes on
            self._reset()

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        value = self._value(record)
        if self._improves(value, self._direction(trainer)):
            self.best, self.best_epoch, self.waited = value, trainer.epoch, 0
            if self.restore_best:
                state = trainer.model.state_dict()
                self._weights = {name: as_array(value).copy() for name, value in state.items()}
            return
        self.waited += 1
        if self.waited >= self.patience:
            trainer.stop = True

    def on_fit_end(self, trainer: Trainer) -> None:
        if self._weights:
            trainer.model.load_state_dict(self._weights)

    def _value(self, record: Record) -> float:
        value = record.get(self.monitor)
        if not isinstance(value, (int, float)):
            known = [name for name, each in record.items() if isinstance(each, float)]
            raise fail(
                ArgumentError,
                "EarlyStopping",
                f"the records have no number {self.monitor!r} to monitor",
                hint="validation_ entries need fit(..., validation=loader)",
                known=known,
            )
        return float(value)

    def _direction(self, trainer: Trainer) -> str:
        if self.mode != "auto":
            return self.mode
        name = self.monitor.removeprefix("validation_")
        metric = trainer.metrics.get(name)
        better = metric.better if metric else "min" if name == "loss" else None
        if better is None:
            problem = f"which direction of {self.monitor!r} is better is not known"
            raise fail(ArgumentError, "EarlyStopping", problem, hint="give mode='min' or 'max'")
        return better

    def _improves(self, value: float, direction: str) -> bool:
        if self.best is None or math.isnan(value):
            return not math.isnan(value)
        gain = self.best - value if direction == "min" else value - self.best
        return gain > self.min_delta

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "waited": self.waited,
            "weights": self._weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        best, weights = state["best"], state["weights"]
        self.best_epoch, self.waited = int(state["best_epoch"]), int(state["waited"])
        self.best = None if best is None else float(best)
        self._weights = dict(weights)


class JSONLines(Callback):
    """Write each epoch's record to a file, one line of JSON each, wall times under `times`.

    A new run begins the file anew; a resumed one first cuts it back to what its checkpoint holds.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def on_fit_begin(self, trainer: Trainer) -> None:
        make_folder(self.path.parent)
        write_json_lines(self.path, trainer.history)

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        append_json_line(self.path, record, trainer.history.times[-1])


class KeepState(Callback):
    """Let checkpoints hold more than the run itself: `KeepState(tokenizer=tokenizer)`.

    Args:
        parts: objects with `state_dict()` and `load_state_dict(state)`, by name.
    """

    def __init__(self, **parts: Stateful) -> None:
        self.parts = parts

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


class Checkpoint(Callback):
    """Save checkpoints while the run goes on.

    Args:
        folder: where they go; see `schuss.training.Checkpoints`.
        every_steps: after each so many steps; None for none inside epochs.
        every_epochs: after each so many epochs, and after the last one.
        keep: how many of them to keep; None keeps all.
    """

    runs_last = True

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every_steps: int | None = None,
        every_epochs: int = 1,
        keep: int | None = 2,
    ) -> None:
        if every_epochs < 1 or (every_steps is not None and every_steps < 1):
            problem = "every_steps and every_epochs must be at least 1"
            raise fail(
                ArgumentError,
                "Checkpoint",
                problem,
                every_steps=every_steps,
                every_epochs=every_epochs,
            )
        self.checkpoints = Checkpoints(folder, keep)
        self.every_steps = every_steps
        self.every_epochs = every_epochs
        self._saved = -1  # the step of the last one
        self._claim: Claim | None = None

    def claim(self) -> None:
        """Keep other runs from the folder until `close`. Raises StorageError where one is there."""
        self._claim = Claim(self.checkpoints.folder, "Trainer.fit")

    def close(self) -> None:
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def save(self, trainer: Trainer) -> None:
        """Save now."""
        self.checkpoints.save(trainer.step, **trainer.parts())
        self._saved = trainer.step

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._saved = -1

    def on_batch_end(self, trainer: Trainer) -> None:
        due = self.every_steps is not None and trainer.step % self.every_steps == 0
        if due and trainer.batch != trainer.batches:  # at the last batch, the epoch's end is near
            self.save(trainer)

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        last = trainer.stop or trainer.epoch >= trainer.epochs
        if last or trainer.epoch % self.every_epochs == 0:
            self.save(trainer)

    def on_interrupt(self, trainer: Trainer) -> None:
        """The user pressed Ctrl-C: save what is not saved yet."""
        if trainer.step != self._saved:
            self.save(trainer)
