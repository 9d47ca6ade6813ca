"""Streaming metrics against one computation over everything."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from schuss import dtypes
from schuss.errors import ArgumentError, OutOfBoundsError, ShapeError, StateDictError
from schuss.training.metrics import (
    Accuracy,
    ConfusionMatrix,
    Mean,
    MeanAbsoluteError,
    MeanSquaredError,
    Metric,
)

RANDOM = np.random.default_rng(3)
SCORES = RANDOM.normal(size=(50, 6)).astype(np.float32)
CLASSES = RANDOM.integers(0, 6, 50)


def in_batches(metric: Metric, prediction: np.ndarray, target: np.ndarray) -> Any:
    for start in range(0, len(prediction), 7):
        metric.update(prediction[start : start + 7], target[start : start + 7])
    return metric.value()


def test_mean_is_weighted() -> None:
    mean = Mean()
    assert math.isnan(mean.value())
    mean.update(1.0, 3)
    mean.update(5.0, 1)
    assert mean.value() == 2.0


def test_accuracy_from_scores() -> None:
    expected = np.mean(SCORES.argmax(1) == CLASSES)
    assert in_batches(Accuracy(), SCORES, CLASSES) == pytest.approx(expected, rel=1e-15)


def test_accuracy_from_one_hot_targets() -> None:
    one_hot = np.eye(6, dtype=np.float32)[CLASSES]
    assert in_batches(Accuracy(), SCORES, one_hot) == in_batches(Accuracy(), SCORES, CLASSES)


@pytest.mark.parametrize("k", [1, 2, 6, 9])
def test_accuracy_of_the_best_k(k: int) -> None:
    best = np.argsort(-SCORES, axis=1)[:, :k]
    expected = np.mean((best == CLASSES[:, None]).any(1))
    assert in_batches(Accuracy(top_k=k), SCORES, CLASSES) == pytest.approx(expected, rel=1e-15)


def test_accuracy_of_chosen_classes_and_of_booleans() -> None:
    assert in_batches(Accuracy(), np.array([[1, 2], [0, 0]]), np.array([[1, 0], [0, 0]])) == 0.75
    assert in_batches(Accuracy(), np.array([True, False]), np.array([True, True])) == 0.5


def test_accuracy_of_images() -> None:
    scores = RANDOM.normal(size=(4, 3, 5, 5))
    target = RANDOM.integers(0, 3, (4, 5, 5))
    assert in_batches(Accuracy(), scores, target) == np.mean(scores.argmax(1) == target)


def test_accuracy_ignores_an_index() -> None:
    target = CLASSES.copy()
    target[::2] = -100
    expected = np.mean(SCORES.argmax(1)[1::2] == CLASSES[1::2])
    found = in_batches(Accuracy(ignore_index=-100), SCORES, target)
    assert found == pytest.approx(expected, rel=1e-15)
    nothing = Accuracy(ignore_index=0)
    nothing.update(np.ones((2, 3)), np.zeros(2, int))
    assert math.isnan(nothing.value())


def test_accuracy_with_ties_and_nan() -> None:
    tied = np.zeros((3, 3))
    assert in_batches(Accuracy(), tied, np.array([0, 1, 2])) == pytest.approx(1 / 3)
    broken = np.full((3, 3), np.nan)
    assert in_batches(Accuracy(), broken, np.array([0, 1, 2])) == 0


def test_accuracy_of_half_precision() -> None:
    scores = SCORES.astype(dtypes.bfloat16)
    expected = in_batches(Accuracy(), scores.astype(np.float32), CLASSES)
    assert in_batches(Accuracy(), scores, CLASSES) == expected


@pytest.mark.parametrize(
    ("metric", "error"), [(MeanSquaredError(), np.square), (MeanAbsoluteError(), np.abs)]
)
def test_mean_errors(metric: Metric, error: Any) -> None:
    target = RANDOM.normal(size=SCORES.shape)
    expected = np.mean(error(SCORES.astype(float) - target))
    assert in_batches(metric, SCORES, target) == pytest.approx(expected, rel=1e-14)


def test_mean_errors_of_unsigned_and_complex() -> None:
    metric = MeanAbsoluteError()
    metric.update(np.array([1], np.uint8), np.array([3], np.uint8))
    assert metric.value() == 2
    metric.update(np.array([3 + 4j], np.complex64), np.array([0j], np.complex64))
    assert metric.value() == 3.5


def test_confusion_matrix() -> None:
    matrix = in_batches(ConfusionMatrix(6), SCORES, CLASSES)
    expected = np.zeros((6, 6), np.int64)
    for target, chosen in zip(CLASSES, SCORES.argmax(1), strict=True):
        expected[target, chosen] += 1
    np.testing.assert_array_equal(matrix, expected)
    again = in_batches(ConfusionMatrix(6), SCORES.argmax(1), CLASSES)
    np.testing.assert_array_equal(again, expected)


METRICS = [Accuracy, MeanSquaredError, MeanAbsoluteError, lambda: ConfusionMatrix(3)]


@pytest.mark.parametrize("make", METRICS)
def test_a_state_continues_exactly(make: Any) -> None:
    one_hot = np.eye(3)[RANDOM.integers(0, 3, 20)]
    scores = RANDOM.normal(size=(20, 3))
    whole, first, second = make(), make(), make()
    for metric in (whole, first):
        metric.update(scores[:9], one_hot[:9])
    second.update(scores, one_hot)  # what load_state_dict replaces
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for metric in (whole, second):
        metric.update(scores[9:], one_hot[9:])
    assert np.array_equal(whole.value(), second.value())
    whole.reset()
    assert whole.state_dict() == make().state_dict()


@pytest.mark.parametrize("metric", [MeanSquaredError(), MeanAbsoluteError()])
def test_no_silent_broadcast(metric: Metric) -> None:
    with pytest.raises(ShapeError, match="prediction and target must have the same shape"):
        metric.update(np.zeros((4, 1)), np.zeros(4))


@pytest.mark.parametrize(
    ("prediction", "target", "kind", "text"),
    [
        (np.zeros((4, 1), int), np.zeros(4, int), ShapeError, "must have the same shape"),
        (np.zeros((4, 3)), np.zeros((4, 1), int), ShapeError, r"must be \(N, C, ...\) and target"),
        (np.zeros(4), np.zeros(4), ShapeError, r"give integers or booleans of one shape"),
        (np.zeros((4, 3)), np.zeros(4), ArgumentError, "class indices must be integers"),
        (np.zeros((2, 3)), np.array([0, 3]), OutOfBoundsError, "classes must lie from 0 to 2"),
        (np.zeros((2, 3)), np.array([0, -1]), OutOfBoundsError, "smallest: -1"),
    ],
)
@pytest.mark.parametrize("metric", [Accuracy(), ConfusionMatrix(3)])
def test_predictions_and_targets_that_do_not_fit(
    metric: Metric, prediction: np.ndarray, target: np.ndarray, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        metric.update(prediction, target)


def test_wrong_arguments_and_states() -> None:
    with pytest.raises(ArgumentError, match="top_k must be at least 1"):
        Accuracy(top_k=0)
    with pytest.raises(ArgumentError, match="num_classes must be at least 1"):
        ConfusionMatrix(0)
    with pytest.raises(StateDictError, match="the state has no weight"):
        Accuracy().load_state_dict({"total": 1.0})
    with pytest.raises(StateDictError, match="of another number of classes"):
        ConfusionMatrix(3).load_state_dict({"counts": [[1]]})
