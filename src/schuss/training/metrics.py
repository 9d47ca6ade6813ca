"""Streaming metrics: `update` with each batch, `value` over all that came since `reset`.

They compute with NumPy in float64, and their state is made of Python numbers and lists, so it goes
through JSON without losing a bit.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from schuss.dtypes import HALF, INTEGRAL, bool_, is_complex
from schuss.errors import ArgumentError, OutOfBoundsError, ShapeError, StateDictError, fail
from schuss.training.state import as_array

Direction = Literal["min", "max"]


class Metric:
    """The base of the metrics; a subclass gives `update`, `value` and its state.

    Attributes:
        name: how it is called in records when the user gives no name.
        better: whether a smaller ("min") or a larger ("max") value is better; None for neither.
    """

    name: str = "metric"
    better: Direction | None = None

    def update(self, prediction: Any, target: Any) -> None:
        """Take in a batch: tensors or arrays whose first axis is the samples."""
        raise NotImplementedError

    def value(self) -> Any:
        """The metric over all batches since `reset`; nan if there were none."""
        raise NotImplementedError

    def reset(self) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError


class Mean:
    """The weighted mean of numbers: sum of value times weight, over the sum of weights."""

    def __init__(self) -> None:
        self.reset()

    def update(self, value: float, weight: float = 1.0) -> None:
        self.total += float(value) * weight
        self.weight += weight

    def value(self) -> float:
        return self.total / self.weight if self.weight else float("nan")

    def reset(self) -> None:
        self.total = 0.0
        self.weight = 0.0

    def state_dict(self) -> dict[str, float]:
        return {"total": self.total, "weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        total, weight = _entries("Mean", state, "total", "weight")
        self.total, self.weight = float(total), float(weight)


class _MeanMetric(Metric):
    """A metric that is the mean of something over samples or elements."""

    def __init__(self) -> None:
        self._mean = Mean()

    def value(self) -> float:
        return self._mean.value()

    def reset(self) -> None:
        self._mean.reset()

    def state_dict(self) -> dict[str, Any]:
        return dict(self._mean.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mean.load_state_dict(state)


class Accuracy(_MeanMetric):
    """The part of the predictions that is right, from 0 to 1.

    Args:
        top_k: right means that the target is among the `top_k` highest scores.
        ignore_index: targets of this value do not count; None counts all.

    Predictions are scores (N, C, ...), the classes on axis 1. Targets are class indices (N, ...) or
    one-hot entries (N, C, ...). Integer or boolean predictions are classes that are chosen already;
    they are compared with integer or boolean targets of the same shape.
    Among equal scores the lower index wins; a score that is NaN is right for no class.

    Raises ShapeError for other shapes, OutOfBoundsError for a target that is no class.
    """

    name = "accuracy"
    better: Direction | None = "max"

    def __init__(self, top_k: int = 1, *, ignore_index: int | None = None) -> None:
        super().__init__()
        if top_k < 1:
            raise fail(ArgumentError, "Accuracy", "top_k must be at least 1", top_k=top_k)
        self.top_k = top_k
        self.ignore_index = ignore_index

    def update(self, prediction: Any, target: Any) -> None:
        scores, wanted = _array(prediction), _array(target)
        if _is_discrete(scores) and _is_discrete(wanted) and self.top_k == 1:
            _check_same_shape("Accuracy", scores, wanted)
            right, classes = scores == wanted, wanted
        else:
            classes = _class_indices("Accuracy", scores, wanted)
            right = self._among_best(scores, classes)
        if self.ignore_index is not None:
            right = right[classes != self.ignore_index]
        if right.size:
            self._mean.update(float(right.mean(dtype=np.float64)), float(right.size))

    def _among_best(self, scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
        counted = classes if self.ignore_index is None else classes[classes != self.ignore_index]
        _check_classes("Accuracy", counted, scores.shape[1])
        inside = np.clip(classes, 0, scores.shape[1] - 1)[:, None]  # ignored ones may lie outside
        own = np.take_along_axis(scores, inside, axis=1)  # (N, 1, ...)
        index = np.arange(scores.shape[1]).reshape(1, -1, *[1] * (scores.ndim - 2))
        above = ~(scores <= own) | ((scores == own) & (index < inside))
        return above.sum(axis=1) < self.top_k


class MeanSquaredError(_MeanMetric):
    """The mean over all elements of |prediction - target|^2; both of one shape."""

    name = "mean_squared_error"
    better: Direction | None = "min"

    def update(self, prediction: Any, target: Any) -> None:
        error = _difference("MeanSquaredError", prediction, target)
        if error.size:
            self._mean.update(float(np.mean(error * error)), float(error.size))


class MeanAbsoluteError(_MeanMetric):
    """The mean over all elements of |prediction - target|; both of one shape."""

    name = "mean_absolute_error"
    better: Direction | None = "min"

    def update(self, prediction: Any, target: Any) -> None:
        error = _difference("MeanAbsoluteError", prediction, target)
        if error.size:
            self._mean.update(float(np.mean(error)), float(error.size))


class ConfusionMatrix(Metric):
    """How often each class was taken for each: `value()[target, prediction]`, int64 (C, C).

    Args:
        num_classes: C.

    Predictions and targets as for `Accuracy`.
    """

    name = "confusion_matrix"

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            problem = "num_classes must be at least 1"
            raise fail(ArgumentError, "ConfusionMatrix", problem, num_classes=num_classes)
        self.num_classes = num_classes
        self.reset()

    def update(self, prediction: Any, target: Any) -> None:
        scores, wanted = _array(prediction), _array(target)
        if _is_discrete(scores) and _is_discrete(wanted):
            _check_same_shape("ConfusionMatrix", scores, wanted)
            chosen, classes = scores, wanted
        else:
            classes = _class_indices("ConfusionMatrix", scores, wanted)
            chosen = scores.argmax(axis=1)
        _check_classes("ConfusionMatrix", classes, self.num_classes)
        _check_classes("ConfusionMatrix", chosen, self.num_classes)
        np.add.at(self._counts, (classes.astype(np.int64), chosen.astype(np.int64)), 1)

    def value(self) -> np.ndarray:
        return self._counts.copy()

    def reset(self) -> None:
        self._counts = np.zeros((self.num_classes, self.num_classes), np.int64)

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self._counts.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        counts = np.asarray(_entries("ConfusionMatrix", state, "counts")[0], np.int64)
        if counts.shape != self._counts.shape:
            problem = "the saved counts are of another number of classes"
            raise fail(StateDictError, "ConfusionMatrix", problem, saved=counts, own=self._counts)
        self._counts = counts


def _array(value: Any) -> np.ndarray:
    array = as_array(value)
    return array.astype(np.float32) if array.dtype in HALF else array


def _is_discrete(array: np.ndarray) -> bool:
    return array.dtype in INTEGRAL or array.dtype == bool_


def _class_indices(where: str, scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Targets as class indices (N, ...), given scores (N, C, ...)."""
    if scores.ndim >= 2 and target.shape == scores.shape:
        return target.argmax(axis=1)
    if scores.ndim < 2 or target.shape != (scores.shape[0], *scores.shape[2:]):
        raise fail(
            ShapeError,
            where,
            "prediction must be (N, C, ...) and target (N, ...) or (N, C, ...)",
            hint="for classes that are already chosen, give integers or booleans of one shape",
            prediction=scores,
            target=target,
        )
    if not _is_discrete(target):
        problem = "targets that are class indices must be integers"
        raise fail(ArgumentError, where, problem, prediction=scores, target=target)
    return target


def _check_classes(where: str, classes: np.ndarray, count: int) -> None:
    if classes.size and not 0 <= classes.min() <= classes.max() < count:
        raise fail(
            OutOfBoundsError,
            where,
            f"classes must lie from 0 to {count - 1}",
            smallest=int(classes.min()),
            largest=int(classes.max()),
        )


def _check_same_shape(where: str, prediction: np.ndarray, target: np.ndarray) -> None:
    if prediction.shape != target.shape:
        raise fail(
            ShapeError,
            where,
            "prediction and target must have the same shape",
            prediction=prediction,
            target=target,
        )


def _difference(where: str, prediction: Any, target: Any) -> np.ndarray:
    """|prediction - target| in float64."""
    first, second = _array(prediction), _array(target)
    _check_same_shape(where, first, second)
    wide = np.complex128 if is_complex(first.dtype) or is_complex(second.dtype) else np.float64
    return np.abs(first.astype(wide) - second.astype(wide))


def _entries(where: str, state: dict[str, Any], *names: str) -> list[Any]:
    missing = [name for name in names if name not in state]
    if missing:
        raise fail(StateDictError, where, "the state has no " + ", ".join(missing), state=state)
    return [state[name] for name in names]
