"""Connectionist temporal classification against all alignments, one by one."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import ArgumentError, DTypeError, OutOfBoundsError, ShapeError
from schuss.execution import tiers

F = nn.functional
RNG = np.random.default_rng(5)


def logs(*shape: int) -> np.ndarray:
    x = RNG.standard_normal(shape)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def by_enumeration(log_probs: np.ndarray, labels: list[int], blank: int = 0) -> float:
    """Of one sample (T, C): the sum over all alignments."""
    steps, classes = log_probs.shape
    total = 0.0
    for path in itertools.product(range(classes), repeat=steps):
        merged = [label for label, _ in itertools.groupby(path)]
        if [label for label in merged if label != blank] == labels:
            total += math.exp(sum(log_probs[t, label] for t, label in enumerate(path)))
    return -math.log(total) if total else math.inf


LABELS = [[], [1], [2, 1], [1, 1], [2, 2, 1], [1, 2, 1, 2], [1, 1, 1]]


def padded(labels: list[list[int]], fill: int = 0) -> np.ndarray:
    width = max(map(len, labels))
    return np.array([row + [fill] * (width - len(row)) for row in labels], np.int64)


@pytest.mark.parametrize("blank", [0, 2])
def test_against_all_alignments(blank: int) -> None:
    labels = [[(label + blank) % 3 for label in row] for row in LABELS]
    log_probs = logs(5, len(labels), 3)
    steps = [5, 4, 5, 5, 5, 5, 5]
    expected = [
        by_enumeration(log_probs[: steps[n], n], row, blank) for n, row in enumerate(labels)
    ]
    lengths = [len(row) for row in labels]
    joined = np.array([label for row in labels for label in row])
    for targets in (padded(labels, fill=99), joined):
        found = F.ctc_loss(log_probs, targets, steps, lengths, blank, reduction="none")
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_labels_that_no_alignment_gives() -> None:
    log_probs = logs(2, 4, 3)
    targets, lengths = padded([[1, 1], [1, 2], [1, 2, 1], []]), [2, 2, 3, 0]
    ends = [2, 2, 2, 0]
    x = schuss.tensor(log_probs, requires_grad=True)
    losses = F.ctc_loss(x, targets, ends, lengths, reduction="none")
    expected = [math.inf, by_enumeration(log_probs[:, 1], [1, 2]), math.inf, 0.0]
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-12)
    losses.sum().backward()
    gradient = x.grad.numpy()
    assert not gradient[:, [0, 2, 3]].any()
    assert gradient[:, 1].any()
    finite = F.ctc_loss(log_probs, targets, ends, lengths, reduction="none", zero_infinity=True)
    np.testing.assert_allclose(finite.numpy(), np.where(np.isinf(expected), 0, expected))


def test_classes_of_probability_zero() -> None:
    log_probs = logs(4, 1, 3)
    log_probs[1, 0, 1] = log_probs[2, 0, 2] = -math.inf
    x = schuss.tensor(log_probs, requires_grad=True)
    loss = F.ctc_loss(x, [[1, 2]], [4], [2], reduction="sum")
    assert loss.item() == pytest.approx(by_enumeration(log_probs[:, 0], [1, 2]), rel=1e-12)
    loss.backward()
    assert np.isfinite(x.grad.numpy()).all()
    log_probs[:, 0, 2] = -math.inf
    assert F.ctc_loss(log_probs, [[1, 2]], [4], [2], reduction="sum").item() == math.inf


def test_gradients() -> None:
    log_probs = logs(5, 3, 3)
    arguments: Any = (padded([[1, 2], [1, 1], []]), [5, 4, 5], [2, 2, 0])
    schuss.check_gradients(lambda x: F.ctc_loss(x, *arguments, reduction="none"), [log_probs])


def test_the_gradient_is_minus_the_posterior() -> None:
    """At each step it adds up to -1: one class is taken."""
    x = schuss.tensor(logs(6, 1, 4), requires_grad=True)
    F.ctc_loss(x, [[3, 3, 1]], [6], [3], reduction="sum").backward()
    np.testing.assert_allclose(x.grad.numpy().sum(-1), -1, rtol=1e-12)
    assert (x.grad.numpy() <= 0).all()


def test_reductions() -> None:
    log_probs = logs(5, 3, 3)
    arguments: Any = (padded([[1, 2], [1], []]), [5, 4, 5], [2, 1, 0])
    losses = F.ctc_loss(log_probs, *arguments, reduction="none").numpy()
    total = F.ctc_loss(log_probs, *arguments, reduction="sum").item()
    assert total == pytest.approx(losses.sum(), rel=1e-12)
    mean = nn.CTCLoss()(schuss.tensor(log_probs), *arguments).item()
    assert mean == pytest.approx((losses / [2, 1, 1]).mean(), rel=1e-12)
    with pytest.raises(ArgumentError, match="reduction is 'mean', 'sum' or 'none'"):
        F.ctc_loss(log_probs, *arguments, reduction="batchmean")


def test_one_sample() -> None:
    log_probs = logs(5, 3)
    loss = F.ctc_loss(log_probs, [2, 1], 5, 2, reduction="none")
    assert loss.shape == ()
    assert loss.item() == pytest.approx(by_enumeration(log_probs, [2, 1]), rel=1e-12)
    mean = F.ctc_loss(log_probs, [2, 1], 5, 2)
    assert mean.item() == pytest.approx(loss.item() / 2, rel=1e-12)
    empty = F.ctc_loss(log_probs, [], 5, 0)
    assert empty.item() == pytest.approx(-log_probs[:, 0].sum(), rel=1e-12)


def test_long_inputs_are_stable() -> None:
    """Probabilities of exp(-2000) and less, in float32."""
    x = (RNG.standard_normal((60, 2, 50)) * 30).astype(np.float32)
    targets = RNG.integers(1, 50, (2, 12))
    for dtype, rtol in ((np.float32, 1e-5), (np.float16, 2e-3)):
        z = schuss.tensor(x.astype(dtype), requires_grad=True)
        loss = F.ctc_loss(F.log_softmax(z), targets, [60, 50], [12, 12], reduction="none")
        assert loss.numpy().dtype == dtype
        exact = F.ctc_loss(
            F.log_softmax(x.astype(dtype).astype(np.float64)), targets, [60, 50], [12, 12],
            reduction="none",
        )  # fmt: skip
        np.testing.assert_allclose(loss.numpy(), exact.numpy(), rtol=rtol)
        assert (exact.numpy() > 1000).all()
        loss.sum().backward()
        assert np.isfinite(z.grad.numpy()).all()


def test_what_lies_behind_the_lengths_does_not_count() -> None:
    log_probs, targets = logs(6, 1, 3), np.array([[1, 2, 1]])
    before = F.ctc_loss(log_probs, targets, [4], [2]).item()
    log_probs[4:], targets[:, 2] = np.nan, -7
    assert F.ctc_loss(log_probs, targets, [4], [2]).item() == before


def test_a_plain_loop_learns() -> None:
    x = nn.Parameter(np.zeros((8, 2, 4)))
    optimizer = schuss.optim.SGD([x], lr=10.0)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.ctc_loss(F.log_softmax(x), [[1, 2], [3, 3]], [8, 7], [2, 2])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    expected = "reference" if tiers.mode() == "reference" else "compiled"
    assert schuss.last_run().tier == expected


GOOD: dict[str, Any] = {
    "log_probs": np.zeros((4, 2, 3)), "targets": [[1, 2], [1, 1]],
    "input_lengths": [4, 3], "target_lengths": [2, 1],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        (ShapeError, {"log_probs": np.zeros(4)}, r"log_probs must be \(T, N, C\), or \(T, C\)"),
        (ShapeError, {"input_lengths": [4]}, r"input_lengths and target_lengths must be \(N,\)"),
        (ShapeError, {"target_lengths": 2}, r"target_lengths must be \(N,\)(.|\n)*\n  target_len"),
        (ShapeError, {"targets": [[1, 2]]}, r"targets must be \(N, S\), or \(sum of"),
        (ShapeError, {"targets": [1, 2]}, "target_lengths must add up to the number of targets"),
        (ShapeError, {"targets": [1], "target_lengths": [2, -1]}, "and none be negative"),
        (DTypeError, {"targets": [[1.0, 2], [1, 1]]}, "targets must be integers"),
        (DTypeError, {"input_lengths": [4.0, 3]}, "input_lengths must be integers"),
        (ArgumentError, {"blank": 3}, "blank must be a class, from 0 to 2\n  blank: 3"),
        (OutOfBoundsError, {"targets": [[1, 3], [1, 1]]}, "ctc_loss: targets(.|\n)*index 3 is"),
        (OutOfBoundsError, {"targets": [[1, -1], [1, 1]]}, "ctc_loss: targets(.|\n)*index -1 is"),
        (OutOfBoundsError, {"input_lengths": [4, 5]}, "input_lengths(.|\n)*index 5 is outside"),
        (OutOfBoundsError, {"target_lengths": [3, 1]}, "target_lengths(.|\n)*index 3 is outside"),
    ],
)
def test_wrong_arguments(kind: type[Exception], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(kind, match=message):
        F.ctc_loss(**{**GOOD, **changed}).item()


def test_padding_may_hold_anything() -> None:
    targets = [[1, 2], [1, 77]]
    assert math.isfinite(F.ctc_loss(**{**GOOD, "targets": targets}).item())


def test_repr() -> None:
    assert repr(nn.CTCLoss(2)) == "CTCLoss(blank=2, reduction='mean')"
