"""Where a training run stands: counters, running sums and hooks, and how they are saved."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np

from schuss.errors import ArgumentError, ArgumentTypeError, StateDictError, fail
from schuss.training.callbacks import Callback
from schuss.training.history import History
from schuss.training.metrics import Mean, Metric
from schuss.training.state import Stateful

Batch = Any
Metrics = Mapping[str, Metric] | Sequence[Metric]

_RESERVED = ("epoch", "step", "loss", "lr", "times")


class Run:
    """Where a run stands.

    Attributes:
        history: the records of the epochs that are done.
        step, epoch: how many of them are done.
        batch: how many batches of this epoch are done.
        epochs: how many the run shall have.
        batches: how many an epoch has; None if the loader does not say.
        stop: set it to True to end the run after this epoch.
        last_loss, lr: loss and learning rate of the last step.
        running_loss, metrics: over the samples of this epoch.
        samples, seconds: samples seen in this epoch, and the wall time that took.
        all_trained: no batch of this epoch is left; its validation is next.
        settled: everything stands at the same step, so that it can be saved.
        train_loader, validation, hooks: what `fit` was given.
    """

    def __init__(self, metrics: Metrics | None) -> None:
        self.metrics = named_metrics(metrics)
        self.start_run((), None, [], epochs=0)

    def start_run(
        self,
        train_loader: Iterable[Batch],
        validation: Iterable[Batch] | None,
        hooks: list[Callback],
        epochs: int,
    ) -> None:
        """Forget a former run; its steps have not been."""
        self.train_loader = train_loader
        self.validation = validation
        self.hooks = hooks
        self.epochs = epochs
        self.batches = len(train_loader) if isinstance(train_loader, Sized) else None
        self.history = History()
        self.step = 0
        self.epoch = 0
        self.stop = False
        self.last_loss = math.nan
        self.lr = math.nan
        self.start_epoch()

    def start_epoch(self) -> None:
        self.batch = 0
        self.samples = 0
        self.seconds = 0.0
        self.running_loss = Mean()
        for metric in self.metrics.values():
            metric.reset()
        self.all_trained = False
        self.settled = True

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands, beside the states of model, optimizer and the like."""
        validation = self.validation
        return {
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "stop": self.stop,
            "last_loss": self.last_loss,
            "lr": self.lr,
            "samples": self.samples,
            "seconds": self.seconds,
            "all_trained": self.all_trained,
            "running_loss": self.running_loss.state_dict(),
            "metrics": {name: metric.state_dict() for name, metric in self.metrics.items()},
            "validation": validation.state_dict() if isinstance(validation, Stateful) else None,
            "callbacks": {name: hook.state_dict() for name, hook in self._named_hooks().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises StateDictError where the metrics are not the saved ones."""
        if state["metrics"].keys() != self.metrics.keys():
            raise fail(
                StateDictError,
                "Trainer",
                "the metrics are not those of the checkpoint",
                saved=sorted(state["metrics"]),
                here=sorted(self.metrics),
            )
        for name, metric in self.metrics.items():
            metric.load_state_dict(state["metrics"][name])
        for name, hook in self._named_hooks().items():
            if name in state["callbacks"]:  # one that was added since begins anew
                hook.load_state_dict(state["callbacks"][name])
        if isinstance(self.validation, Stateful) and state["validation"] is not None:
            self.validation.load_state_dict(state["validation"])
        self.running_loss.load_state_dict(state["running_loss"])
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        self.samples, self.seconds = state["samples"], state["seconds"]
        self.last_loss, self.lr = state["last_loss"], state["lr"]
        self.stop, self.all_trained = state["stop"], state["all_trained"]

    def _named_hooks(self) -> dict[str, Callback]:
        """Hooks by their class; the second of a class is called `Name.1`."""
        counts: Counter[str] = Counter()
        named = {}
        for hook in self.hooks:
            name = type(hook).__name__
            named[f"{name}.{counts[name]}" if counts[name] else name] = hook
            counts[name] += 1
        return named


def named_metrics(metrics: Metrics | None) -> dict[str, Metric]:
    """Metrics by name, each checked."""
    if metrics is None:
        return {}
    if isinstance(metrics, Mapping):
        pairs = list(metrics.items())
    else:
        pairs = [(getattr(metric, "name", ""), metric) for metric in metrics]
    for name, metric in pairs:
        if not isinstance(metric, Metric):
            problem = f"metrics must be Metric objects, not {metric!r}"
            raise fail(ArgumentTypeError, "Trainer", problem, hint="metrics=[Accuracy()]")
        if name in _RESERVED or name.startswith("validation_"):
            problem = f"a metric cannot be called {name!r}: records have such entries of their own"
            raise fail(ArgumentError, "Trainer", problem)
    if len(dict(pairs)) != len(pairs):
        names = [name for name, _ in pairs]
        hint = "give a dict of names to metrics"
        problem = "two metrics have the same name"
        raise fail(ArgumentError, "Trainer", problem, hint=hint, names=names)
    return dict(pairs)


def checked_callbacks(callbacks: Iterable[Callback]) -> list[Callback]:
    found = list(callbacks)
    for callback in found:
        if not isinstance(callback, Callback):
            problem = f"callbacks must be Callback objects, not {callback!r}"
            hint = "give an object, not its class" if isinstance(callback, type) else None
            raise fail(ArgumentTypeError, "Trainer", problem, hint=hint)
    return found


def metric_values(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """The metrics as records hold them: numbers, and lists of lists for arrays."""
    values = {name: metric.value() for name, metric in metrics.items()}
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in values.items()
    }
