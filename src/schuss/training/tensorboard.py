"""Scalars for TensorBoard."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schuss.errors import ArgumentError, fail, require
from schuss.training.callbacks import Callback
from schuss.training.history import Record

if TYPE_CHECKING:
    from schuss.training.trainer import Trainer


class TensorBoard(Callback):
    """Write scalars for TensorBoard, over the steps.

    Args:
        folder: where the event files go; `tensorboard --logdir folder` shows them.
        every_steps: write a step's loss and learning rate after each so many; None for none.

    Epochs write `loss/training`, `loss/validation`, the same for each metric, and `lr`; steps write
    `step/loss` and `step/lr`. A resumed run hides what a former one wrote beyond its checkpoint; a
    new run in the same folder hides all that was there.
    Needs tensorboardX: `pip install 'schuss[tensorboard]'`.
    """

    def __init__(self, folder: str | os.PathLike[str], every_steps: int | None = 1) -> None:
        if every_steps is not None and every_steps < 1:
            problem = "every_steps must be at least 1, or None"
            raise fail(ArgumentError, "TensorBoard", problem, every_steps=every_steps)
        self.folder = Path(folder)
        self.every_steps = every_steps
        self._writer: Any = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        package = require("tensorboardX", "tensorboard", "TensorBoard")
        first = trainer.step + 1 if trainer.step else 0
        # The package names files by the second: the suffix tells quick successors apart.
        self._writer = package.SummaryWriter(
            str(self.folder), purge_step=first, filename_suffix=f".from-{first}"
        )

    def on_batch_end(self, trainer: Trainer) -> None:
        if self.every_steps is not None and trainer.step % self.every_steps == 0:
            self._writer.add_scalar("step/loss", trainer.last_loss, trainer.step)
            self._writer.add_scalar("step/lr", trainer.lr, trainer.step)

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        for name, value in record.items():
            if name not in ("epoch", "step") and isinstance(value, (int, float)):
                self._writer.add_scalar(_tag(name), value, trainer.step)
        self._writer.flush()

    def state_dict(self) -> dict[str, Any]:
        if self._writer is not None:
            self._writer.flush()  # a checkpoint: what lies before it will not be written again
        return {}

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _tag(name: str) -> str:
    """TensorBoard puts tags with the same first part side by side."""
    if name == "lr":
        return name
    base = name.removeprefix("validation_")
    return f"{base}/{'training' if base == name else 'validation'}"
