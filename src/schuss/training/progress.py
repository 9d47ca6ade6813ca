"""A progress bar on a terminal, one plain line an epoch elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from schuss.training.callbacks import Callback
from schuss.training.history import Record

if TYPE_CHECKING:
    from schuss.training.trainer import Trainer

_INTERVAL = 0.1  # seconds between two drawings: drawing each step would slow small models down


class ProgressBar(Callback):
    """Show loss, metrics, speed and learning rate while training.

    Args:
        stream: where to; None is standard output as it is when the run begins.

    On a terminal a bar shows the running epoch, drawn by rich. In a file or pipe, there is just the
    line that an epoch leaves behind.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream
        self._output: TextIO = sys.stdout
        self._bar: Any = None  # rich's, on a terminal only
        self._task: Any = None
        self._drawn = 0.0

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._output = self.stream or sys.stdout
        if self._output.isatty():
            self._bar = _make_bar(self._output)
            self._task = self._bar.add_task("", total=trainer.batches, values="")
            self._bar.start()

    def on_epoch_begin(self, trainer: Trainer) -> None:
        self._drawn = 0.0
        self._draw(trainer)

    def on_batch_end(self, trainer: Trainer) -> None:
        if self._bar is not None and time.monotonic() - self._drawn > _INTERVAL:
            self._draw(trainer)

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        line = epoch_line(record, trainer.history.times[-1], trainer.epochs)
        if self._bar is None:
            print(line, file=self._output, flush=True)
        else:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.remove_task(self._task)  # the lines of the epochs say it all
            self._bar.stop()
            self._bar = None

    def _draw(self, trainer: Trainer) -> None:
        if self._bar is None:
            return
        self._drawn = time.monotonic()
        values = {"loss": trainer.running_loss.value(), "lr": trainer.lr}
        rate = trainer.samples / trainer.seconds if trainer.seconds else 0.0
        self._bar.update(
            self._task,
            completed=trainer.batch,
            total=trainer.batches,
            description=f"epoch {trainer.epoch + 1}/{trainer.epochs}",
            values=f"{_listing(values)}  {rate:.0f} samples/s" if trainer.batch else "",
        )
        self._bar.refresh()


def epoch_line(record: Record, times: Record, epochs: int) -> str:
    """What an epoch leaves behind: `epoch 2/10  step 80  loss 0.31  ...  950 samples/s  1.3 s`."""
    values = {name: value for name, value in record.items() if name not in ("epoch", "step")}
    return (
        f"epoch {record['epoch']}/{epochs}  step {record['step']}  {_listing(values)}"
        f"  {times['samples_per_second']:.0f} samples/s  {times['seconds']:.1f} s"
    )


def _listing(values: Record) -> str:
    """Numbers only: what is larger does not fit on a line."""
    numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
    return "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def _make_bar(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[values]}"),
        Remaining(),
        console=Console(file=stream),
        auto_refresh=False,  # no thread beside the training
    )
