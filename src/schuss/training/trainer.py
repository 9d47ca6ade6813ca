"""The plain training loop with everything around it: epochs, metrics, hooks, checkpoints."""

from __future__ import annotations

import copy
import itertools
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from schuss.context import no_grad
from schuss.errors import ArgumentError, ArgumentTypeError, NumericsError, fail
from schuss.execution import tiers
from schuss.functions.arguments import adopt
from schuss.functions.precision import autocast
from schuss.optim import GradScaler, clip_grad_norm
from schuss.philox import Generator, default_generator
from schuss.training.callbacks import Callback, Checkpoint
from schuss.training.checkpoint import load_checkpoint
from schuss.training.helpers import (
    count_samples,
    generators_of,
    mode,
    replaced,
    rows,
    scalar,
    settings_of,
)
from schuss.training.history import History, Record
from schuss.training.interrupts import Interrupts, deferred_interrupts
from schuss.training.metrics import Mean, Metric
from schuss.training.progress import ProgressBar
from schuss.training.run import Batch, Metrics, Run, checked_callbacks, metric_values
from schuss.training.state import Stateful, as_array

if TYPE_CHECKING:
    from schuss.nn import Module
    from schuss.tensor import Tensor


class Trainer(Run):
    """Trains a model: the plain loop, with validation, hooks, and checkpoints that resume exactly.

    Args:
        model: the module to train.
        loss: `loss(prediction, target)` -> scalar tensor, a mean over the samples of the batch.
        optimizer: of the model's parameters.
        metrics: by name, or in a list under their own names.
        schedule: of the learning rate.
        schedule_every: step it after every "epoch" or every "step".
        clip_norm: the largest norm of all gradients together; None does not clip.
        precision: of products: "bfloat16" and "float16" run model and loss in `schuss.autocast`,
            the latter with an `optim.GradScaler`. Parameters stay as they are. Predictions are of
            the dtype that the model then gives.
        callbacks: see `Callback`.
        generator: a generator that the run draws from, so that checkpoints hold it. The default
            generator, and those that modules keep as attributes, are held anyway.
        check_finite: raise NumericsError as soon as a loss is NaN or infinite.

    A batch is `(*inputs, target)`, each with the samples on the first axis. For other batches
    override `unpack`, for another way of training `train_step`.
    Where the run stands is in the attributes of `Run`: `history`, `step`, `epoch`, ...
    """

    def __init__(
        self,
        model: Module,
        loss: Callable[[Any, Any], Tensor],
        optimizer: Any,
        *,
        metrics: Metrics | None = None,
        schedule: Any = None,
        schedule_every: Literal["epoch", "step"] = "epoch",
        clip_norm: float | None = None,
        precision: Literal["float32", "bfloat16", "float16"] = "float32",
        callbacks: Iterable[Callback] = (),
        generator: Generator | None = None,
        check_finite: bool = True,
    ) -> None:
        if schedule_every not in ("epoch", "step"):
            problem = "schedule_every must be 'epoch' or 'step'"
            raise fail(ArgumentError, "Trainer", problem, schedule_every=schedule_every)
        if clip_norm is not None and not clip_norm > 0:
            problem = "clip_norm must be positive, or None"
            raise fail(ArgumentError, "Trainer", problem, clip_norm=clip_norm)
        if precision not in ("float32", "bfloat16", "float16"):
            problem = "precision must be 'float32', 'bfloat16' or 'float16'"
            raise fail(ArgumentError, "Trainer", problem, precision=precision)
        super().__init__(metrics)
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.schedule = schedule
        self.schedule_every = schedule_every
        self.clip_norm = clip_norm
        self.precision = precision
        self.scaler = GradScaler(enabled=precision == "float16")
        self.callbacks = checked_callbacks(callbacks)
        self.generator = generator
        self.check_finite = check_finite
        self._interrupts = Interrupts()

    # What a step is. Short, to be overridden.

    def unpack(self, batch: Batch) -> tuple[tuple[Any, ...], Any]:
        """The inputs and the target of a batch."""
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise fail(
                ArgumentTypeError,
                "Trainer",
                f"a batch must be (*inputs, target), not a {type(batch).__name__}",
                hint="override Trainer.unpack for batches of another form",
            )
        *inputs, target = batch
        return tuple(inputs), target

    def train_step(self, batch: Batch) -> tuple[Tensor, Any]:
        """One step of the plain loop. Returns the loss and the prediction, for the records."""
        inputs, target = self.unpack(batch)
        self.optimizer.zero_grad()
        with self.autocast():
            prediction = self.model(*inputs)
            loss = scalar(self.loss(prediction, target))
        self.scaler.scale(loss).backward()
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm(self.model.parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss, prediction

    def evaluation_step(self, batch: Batch) -> tuple[Tensor, Any]:
        """Loss and prediction; runs in evaluation mode and without gradients."""
        inputs, target = self.unpack(batch)
        with self.autocast():
            prediction = self.model(*inputs)
            return scalar(self.loss(prediction, target)), prediction

    def autocast(self) -> AbstractContextManager[None]:
        """In what steps run model and loss: `schuss.autocast` for `precision`."""
        return nullcontext() if self.precision == "float32" else autocast(self.precision)

    # What users call.

    def fit(
        self,
        train_loader: Iterable[Batch],
        *,
        epochs: int,
        validation: Iterable[Batch] | None = None,
        checkpoints: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        resume: bool = False,
        progress: bool = True,
    ) -> History:
        """Train until `epochs` epochs are done, and return the history.

        Args:
            train_loader: gives the batches of one epoch each time it is iterated.
            epochs: how many in all, those before a resumption included.
            validation: batches to evaluate on after each epoch.
            checkpoints: a folder for checkpoints, one after each epoch; short for a `Checkpoint`
                among the callbacks.
            checkpoint_every: save after each so many steps, too.
            resume: go on from the newest checkpoint; begin anew if there is none yet. The same
                program then gives the same bits as if it had never been stopped.
            progress: show a progress bar, or one line an epoch where there is no terminal.

        Ctrl-C lets the step end, saves a checkpoint if there is a folder for them, and raises
        KeyboardInterrupt. A second Ctrl-C does not wait. The model's training mode is restored.

        Raises ArgumentError for an empty loader, `resume` without a folder, or a new run in a
        folder that holds checkpoints; NumericsError for a loss that is not finite; StorageError
        where files cannot be written, or where another run writes checkpoints to the folder.
        Warns where the optimizer was given other settings than the checkpoint has.
        """
        if epochs < 0:
            raise fail(ArgumentError, "Trainer.fit", "epochs must not be negative", epochs=epochs)
        hooks = self._all_hooks(checkpoints, checkpoint_every, progress)
        self.start_run(train_loader, validation, hooks, epochs)
        try:
            self._restore(resume)
            with (
                tiers.at_once(),
                mode(self.model, training=True),
                deferred_interrupts() as self._interrupts,
            ):
                self._call("on_fit_begin")
                self._train()
                self._call("on_fit_end")
        finally:
            for hook in hooks:
                hook.close()
        return self.history

    def evaluate(self, loader: Iterable[Batch]) -> dict[str, Any]:
        """The loss and the metrics over a loader, means over samples.

        The model runs in evaluation mode and without gradients, and gets its mode back.
        Raises ArgumentError for an empty loader.
        """
        loss_mean = Mean()
        metrics = copy.deepcopy(self.metrics)  # the running ones of an epoch stay as they are
        for metric in metrics.values():
            metric.reset()
        with mode(self.model, training=False), no_grad():
            for batch in loader:
                loss, prediction = self.evaluation_step(batch)
                loss_mean.update(loss.item(), count_samples(self.unpack(batch)[1]))
                self._update(metrics, prediction, batch)
        if not loss_mean.weight:
            raise fail(ArgumentError, "Trainer.evaluate", "the loader gives no batches")
        return {"loss": loss_mean.value()} | metric_values(metrics)

    def predict(self, data: Any, batch_size: int | None = None) -> Any:
        """The model's outputs, in evaluation mode and without gradients, stacked on the first axis.

        Args:
            data: a tensor or array of inputs (N, ...), or a loader. A batch of more than one entry
                is `(*inputs, target)`, and its target is left out.
            batch_size: of a tensor or array, how many rows at a time; None takes all at once.

        Returns a NumPy array for an array, else a tensor.
        """
        is_whole = hasattr(data, "shape")
        batches = rows(data, batch_size) if is_whole else map(self._inputs, data)
        with mode(self.model, training=False), no_grad(), self.autocast():
            outputs = [as_array(self.model(*inputs)) for inputs in batches]
        if not outputs:
            raise fail(ArgumentError, "Trainer.predict", "there are no batches to predict for")
        stacked = np.concatenate(outputs)
        return stacked if isinstance(data, np.ndarray) else adopt(stacked)

    # The run.

    def _train(self) -> None:
        try:
            while self.epoch < self.epochs and not self.stop:
                if not self.all_trained:
                    self._train_epoch()
                self._end_epoch(self._validate())
        except KeyboardInterrupt:
            saver = self._saver()
            if saver is not None and self.settled:
                saver.on_interrupt(self)
            raise

    def _train_epoch(self) -> None:
        self._call("on_epoch_begin")
        started = time.perf_counter() - self.seconds
        self.settled = False
        for batch in self._remaining_batches():
            self.lr = float(self.optimizer.param_groups[0]["lr"])
            loss, prediction = self.train_step(batch)
            self._record_step(batch, loss, prediction)
            if self.schedule is not None and self.schedule_every == "step":
                self.schedule.step()
            self.seconds = time.perf_counter() - started
            self.settled = True
            self._call("on_batch_end")
            self._interrupts.check()
            self.settled = False
        if not self.batch:
            raise fail(
                ArgumentError,
                "Trainer.fit",
                f"the loader gives no batches in epoch {self.epoch + 1}",
                hint="an iterator can be gone through once only: give a DataLoader or a list",
            )
        self.all_trained = True
        self.settled = True

    def _record_step(self, batch: Batch, loss: Tensor, prediction: Any) -> None:
        self.step += 1
        self.batch += 1
        self.last_loss = float(loss.item())  # the optimizer's step has computed it: no wait
        if self.check_finite and not math.isfinite(self.last_loss):
            raise fail(
                NumericsError,
                "Trainer.fit",
                f"the loss is {self.last_loss} at step {self.step}, "
                f"batch {self.batch} of epoch {self.epoch + 1}",
                hint="schuss.debug.check_numerics() finds where it comes from; "
                "Trainer(..., check_finite=False) lets such a run go on",
            )
        count = count_samples(self.unpack(batch)[1])
        self.samples += count
        self.running_loss.update(self.last_loss, count)
        self._update(self.metrics, prediction, batch)

    def _validate(self) -> dict[str, Any]:
        if self.validation is None:
            return {}
        sources = self._random_sources()
        before = {name: source.state_dict() for name, source in sources.items()}
        try:
            with self._interrupts.at_once():
                results = self.evaluate(self.validation)
        except KeyboardInterrupt:  # as if it had not begun: the resumed run validates again
            for name, source in sources.items():
                source.load_state_dict(before[name])
            raise
        return {f"validation_{name}": value for name, value in results.items()}

    def _end_epoch(self, validation: dict[str, Any]) -> None:
        self.settled = False
        record: Record = {"epoch": self.epoch + 1, "step": self.step}
        record |= {"loss": self.running_loss.value()} | metric_values(self.metrics) | validation
        record["lr"] = self.lr
        if self.schedule is not None and self.schedule_every == "epoch":
            self.schedule.step()
        rate = self.samples / self.seconds if self.seconds else 0.0
        self.history.append(record, {"seconds": self.seconds, "samples_per_second": rate})
        self.epoch += 1
        self.start_epoch()
        self._call("on_epoch_end", record)
        self._interrupts.check()

    # Saving and restoring.

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])

    def parts(self) -> dict[str, Any]:
        """What a checkpoint of this run holds, as arguments of `save_checkpoint`."""
        return self._objects() | {"epoch": self.epoch}

    def _objects(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "loader": self.train_loader if isinstance(self.train_loader, Stateful) else None,
            "generators": self._generators(),
            "history": self.history,
            "extra": self,
        }

    def _generators(self) -> dict[str, Stateful]:
        """All generators that the run may draw from, by name."""
        found: dict[str, Stateful] = {"default": default_generator}
        if self.generator is not None:
            found["trainer"] = self.generator
        return found | generators_of(self.model)

    def _random_sources(self) -> dict[str, Stateful]:
        """What a validation may advance."""
        sources = self._generators()
        if isinstance(self.validation, Stateful):
            sources["validation"] = self.validation
        return sources

    def _all_hooks(
        self, folder: str | os.PathLike[str] | None, every: int | None, progress: bool
    ) -> list[Callback]:
        """The callbacks with those that `fit` was asked for, in the order of their calls."""
        hooks = list(self.callbacks)
        if folder is not None:
            hooks.append(Checkpoint(folder, every_steps=every))
        elif every is not None:
            problem = "checkpoint_every needs a folder"
            raise fail(ArgumentError, "Trainer.fit", problem, hint="give checkpoints=folder")
        if sum(isinstance(hook, Checkpoint) for hook in hooks) > 1:
            problem = "there can be one Checkpoint only, and checkpoints=folder makes one"
            raise fail(ArgumentError, "Trainer.fit", problem)
        if progress and not any(isinstance(hook, ProgressBar) for hook in hooks):
            hooks.append(ProgressBar())
        return sorted(hooks, key=lambda hook: hook.runs_last)

    def _saver(self) -> Checkpoint | None:
        return next((hook for hook in self.hooks if isinstance(hook, Checkpoint)), None)

    def _restore(self, resume: bool) -> None:
        """Load the newest checkpoint, or see to it that none is in the way of a new run."""
        saver = self._saver()
        if saver is None:
            if resume:
                problem = "resume=True needs a folder of checkpoints"
                raise fail(ArgumentError, "Trainer.fit", problem, hint="give checkpoints=folder")
            return
        if not isinstance(self.train_loader, (Stateful, list, tuple)):
            raise fail(
                ArgumentTypeError,
                "Trainer.fit",
                "checkpoints need a loader that knows its position, "
                f"not a {type(self.train_loader).__name__}",
                hint="give a DataLoader, a list, or a loader with state_dict and load_state_dict",
            )
        saver.claim()
        latest = saver.checkpoints.latest()
        if latest is None:
            return
        if not resume:
            raise fail(
                ArgumentError,
                "Trainer.fit",
                f"there are checkpoints of another run in {saver.checkpoints.folder}",
                hint="resume=True goes on from them; a new run needs another folder",
            )
        own = settings_of(self.optimizer, self.schedule)
        load_checkpoint(latest, **self._objects())
        changes = replaced(own, settings_of(self.optimizer, self.schedule))
        if changes:
            warnings.warn(
                f"resumed with the settings of {latest}, not those given: {changes}", UserWarning,
                stacklevel=3,
            )  # fmt: skip

    # Small things.

    def _remaining_batches(self) -> Iterator[Batch]:
        """The batches of this epoch that are not done; a loader with a state knows them itself."""
        if isinstance(self.train_loader, Stateful):
            return iter(self.train_loader)
        return itertools.islice(self.train_loader, self.batch, None)

    def _inputs(self, batch: Batch) -> tuple[Any, ...]:
        """The inputs of a batch that may lack the target."""
        if hasattr(batch, "shape"):
            return (batch,)
        if isinstance(batch, (tuple, list)) and len(batch) == 1:
            return tuple(batch)
        return self.unpack(batch)[0]

    def _update(self, metrics: dict[str, Metric], prediction: Any, batch: Batch) -> None:
        target = self.unpack(batch)[1] if metrics else None
        for metric in metrics.values():
            metric.update(prediction, target)

    def _call(self, name: str, *arguments: Any) -> None:
        for hook in self.hooks:
            getattr(hook, name)(self, *arguments)
