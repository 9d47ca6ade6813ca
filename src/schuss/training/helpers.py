"""Small things that the trainer does with modules, losses and batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from schuss.errors import ArgumentError, ShapeError, fail
from schuss.functions.creation import asarray
from schuss.philox import Generator, default_generator

if TYPE_CHECKING:
    from schuss.nn import Module
    from schuss.tensor import Tensor


@contextmanager
def mode(model: Module, *, training: bool) -> Iterator[None]:
    """The model in training or evaluation mode; afterwards each module is as it was before."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, flag in before:
            module.training = flag


def generators_of(model: Module) -> dict[str, Generator]:
    """The random generators that modules keep as attributes, by path."""
    return {
        f"model/{path}/{name}": value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, Generator) and value is not default_generator
    }


def settings_of(optimizer: Any, schedule: Any) -> list[dict[str, Any]]:
    """What each group of an optimizer was given; learning rates as they were before a schedule."""
    settings = [
        {key: value for key, value in group.items() if key not in ("params", "names")}
        for group in optimizer.param_groups
    ]
    for group, lr in zip(settings, getattr(schedule, "base_lrs", ()), strict=False):
        group["lr"] = lr
    return settings


def replaced(given: list[dict[str, Any]], saved: list[dict[str, Any]]) -> str:
    """Where the settings of two optimizers differ, in words; each difference once."""
    found = {
        f"{key}={after[key]!r}, not {value!r}": None
        for before, after in zip(given, saved, strict=True)
        for key, value in before.items()
        if key in after and after[key] != value
    }
    return "; ".join(found)


def scalar(loss: Tensor) -> Tensor:
    """`loss`, or a ShapeError that says how to make it a scalar."""
    if loss.shape != ():
        hint = "take the mean over the batch, as reduction='mean' does"
        raise fail(ShapeError, "Trainer", "the loss must be a scalar", hint=hint, loss=loss)
    return loss


def count_samples(target: Any) -> int:
    """The length of the first axis of a target, or of the first of several."""
    while isinstance(target, (tuple, list)):
        target = target[0]
    if not target.shape:
        problem = "a target must have an axis of samples"
        raise fail(ShapeError, "Trainer", problem, target=target)
    return int(target.shape[0])


def rows(data: Any, batch_size: int | None) -> Iterator[tuple[Tensor]]:
    """A tensor or array in pieces of `batch_size` rows, as tensors."""
    if batch_size is not None and batch_size < 1:
        problem = "batch_size must be at least 1, or None"
        raise fail(ArgumentError, "Trainer.predict", problem, batch_size=batch_size)
    count = data.shape[0]
    for start in range(0, count, batch_size or max(count, 1)):
        yield (asarray(data[start : start + (batch_size or count)]),)
