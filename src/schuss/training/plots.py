"""Learning curves as pictures."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schuss.errors import ArgumentError, fail, require
from schuss.files import atomic_write, make_folder
from schuss.training.callbacks import Callback
from schuss.training.history import History, Record

if TYPE_CHECKING:
    from schuss.training.trainer import Trainer

_NOT_DRAWN = ("epoch", "step", "lr")


class LearningCurve(Callback):
    """Draw loss and metrics of training and validation over the epochs, as a PNG file.

    Args:
        path: the file; it is replaced as a whole each time.
        every: draw after each so many epochs, and at the end.

    Needs matplotlib: `pip install 'schuss[plot]'`. No window is opened.
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 1) -> None:
        if every < 1:
            raise fail(ArgumentError, "LearningCurve", "every must be at least 1", every=every)
        self.path = Path(path)
        self.every = every

    def on_fit_begin(self, trainer: Trainer) -> None:
        require("matplotlib", "plot", "LearningCurve")  # or say so before the first epoch
        make_folder(self.path.parent)

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        if trainer.epoch % self.every == 0 or trainer.stop or trainer.epoch >= trainer.epochs:
            draw_learning_curve(trainer.history, self.path)


def draw_learning_curve(history: History, path: str | os.PathLike[str]) -> None:
    """Draw a history to a PNG file: one panel for the loss and one for each metric.

    Raises ArgumentError for a history without records.
    """
    if not history.records:
        raise fail(ArgumentError, "LearningCurve", "the history has no records to draw")
    names = _panels(history)
    figure = require("matplotlib.figure", "plot", "LearningCurve").Figure(
        figsize=(1.0 + 4.0 * len(names), 3.6), layout="constrained"
    )
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(axes, names, strict=True):
        _draw_panel(panel, history, name)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120, metadata={"Software": None})


def _panels(history: History) -> list[str]:
    """The entries that are numbers, training and validation under one name."""
    names: dict[str, None] = {"loss": None}
    for record in history:
        for name, value in record.items():
            if name not in _NOT_DRAWN and isinstance(value, (int, float)):
                names[name.removeprefix("validation_")] = None
    return list(names)


def _draw_panel(panel: Any, history: History, name: str) -> None:
    for key, label in ((name, "training"), (f"validation_{name}", "validation")):
        points = [
            (record["epoch"], record[key])
            for record in history
            if isinstance(record.get(key), (int, float)) and math.isfinite(record[key])
        ]
        if points:
            epochs, values = zip(*points, strict=True)
            panel.plot(epochs, values, label=label, marker="." if len(points) < 30 else "")
    panel.set_xlabel("epoch")
    panel.set_ylabel(name.replace("_", " "))
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.grid(alpha=0.3)
    if panel.has_data():
        panel.legend()
