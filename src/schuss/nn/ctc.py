"""Connectionist temporal classification: a loss for labels whose places in time are not known.

A. Graves, S. Fernández, F. Gomez and J. Schmidhuber, "Connectionist temporal classification:
labelling unsegmented sequence data with recurrent neural networks", ICML 2006.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from schuss import dtypes
from schuss.autodiff.scan import scan
from schuss.errors import ArgumentError, DTypeError, ShapeError, fail
from schuss.functions.arguments import ArrayLike, as_tensor, cast, floating
from schuss.functions.creation import arange, full, zeros
from schuss.functions.elementwise import exp, log, logical_or, maximum, where
from schuss.functions.manipulation import concat, expand_dims, stack
from schuss.functions.reduction import cumulative_sum, logsumexp, mean, sum
from schuss.graph import apply, labelled
from schuss.nn.function import Function
from schuss.ops.indexing import checked_index
from schuss.patterns import repeating
from schuss.tensor import Tensor

# The logarithm of what is impossible: finite, so that sums over impossible paths have gradients,
# and so small that nothing possible comes near it, nor a sum over time to the end of float32.
_NEVER = -1e30


def ctc_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    input_lengths: ArrayLike,
    target_lengths: ArrayLike,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Minus the log-probability of the labels, over all their alignments with the input.

    An alignment gives each time step a label or the blank; it stands for the labels that remain
    when repetitions become one and blanks go. Two equal labels in a row need a blank between them.

    Args:
        log_probs: log-probabilities (T, N, C), or (T, C) for one sample, as `log_softmax` makes.
        targets: labels as integers other than the blank: (N, S), of which only the first
            target_lengths count; or those of all samples one behind the other, (sum of lengths,).
        input_lengths: (N,) integers up to T, or () for one sample.
        target_lengths: (N,) integers, or () for one sample.
        blank: which class is the blank.
        reduction: "none"; "sum"; or "mean", in which each loss is first divided by its target
            length (at least 1).
        zero_infinity: labels that no alignment can give, because the input is too short, count 0
            instead of infinity.

    Returns (N,) losses, or a scalar. Impossible labels have gradient 0. Differentiable to any
    order. PyTorch's own gradient for log_probs is another one, which only becomes right behind
    log_softmax; behind it both are the same.

    Raises ShapeError, DTypeError and ArgumentError for arguments that do not fit together, and
    OutOfBoundsError, when the value is computed, for lengths and labels out of range.
    """
    given = floating(log_probs, "ctc_loss")
    wide = cast(given, dtypes.accumulator(given.dtype))
    labels, ends, lengths = (
        _integers(name, value)
        for name, value in (
            ("targets", targets),
            ("input_lengths", input_lengths),
            ("target_lengths", target_lengths),
        )
    )
    single = given.ndim == 2
    if single:
        wide, ends, lengths = wide.expand_dims(1), ends.reshape((-1,)), lengths.reshape((-1,))
    _check(given, wide, labels, ends, lengths, blank)
    ends = _within("input_lengths", ends, wide.shape[0] + 1)
    padded, lengths = _padded(labels, lengths, wide.shape[1], single)
    losses = _losses(wide, padded, ends, lengths, blank, zero_infinity)
    return cast(_reduced(losses, lengths, reduction, single), given.dtype)


def _integers(name: str, value: ArrayLike) -> Tensor:
    tensor = as_tensor(value, "ctc_loss")
    if tensor.size == 0 and not hasattr(value, "dtype"):  # [] has no kind of its own
        return cast(tensor, dtypes.int64)
    if not dtypes.is_integral(tensor.dtype):
        shown: dict[str, Any] = {name: tensor}
        raise fail(DTypeError, "ctc_loss", f"{name} must be integers", **shown)
    return cast(tensor, dtypes.int64)


def _check(
    given: Tensor, wide: Tensor, labels: Tensor, ends: Tensor, lengths: Tensor, blank: int
) -> None:
    shown: dict[str, Any] = {
        "log_probs": given,
        "targets": labels,
        "input_lengths": ends,
        "target_lengths": lengths,
    }
    if wide.ndim != 3:
        problem = "log_probs must be (T, N, C), or (T, C) for one sample"
        raise fail(ShapeError, "ctc_loss", problem, log_probs=given)
    n, classes = wide.shape[1:]
    if ends.shape != (n,) or lengths.shape != (n,):
        problem = "input_lengths and target_lengths must be (N,), one for each sample"
        raise fail(ShapeError, "ctc_loss", problem, **shown)
    if labels.ndim not in (1, 2) or (labels.ndim == 2 and labels.shape[0] != n):
        problem = "targets must be (N, S), or (sum of target_lengths,)"
        raise fail(ShapeError, "ctc_loss", problem, **shown)
    if not 0 <= blank < classes:
        raise fail(ArgumentError, "ctc_loss", f"blank must be a class, from 0 to {classes - 1}",
                   blank=blank)  # fmt: skip


def _within(name: str, values: Tensor, size: int) -> Tensor:
    """The same values, checked to be from 0 to size - 1 when they are computed."""
    checked = apply(checked_index, values, size=size, axis=0, ignored=None)
    return labelled(checked, f"ctc_loss: {name}")


def _padded(labels: Tensor, lengths: Tensor, n: int, single: bool) -> tuple[Tensor, Tensor]:
    """Targets as (N, S), and their lengths. Joined ones are as wide as the longest."""
    if labels.ndim == 2 or single:
        labels = labels.reshape((n, -1)) if labels.size else zeros((n, 0), dtype=dtypes.int64)
        return labels, _within("target_lengths", lengths, labels.shape[1] + 1)
    sizes = np.asarray(lengths.numpy())  # the widest decides on shapes, so it is looked at now
    if sizes.sum() != labels.shape[0] or (sizes < 0).any():
        problem = "target_lengths must add up to the number of targets, and none be negative"
        raise fail(ShapeError, "ctc_loss", problem, targets=labels, target_lengths=sizes.tolist())
    width = int(sizes.max(initial=0))
    if not width:
        return zeros((n, 0), dtype=dtypes.int64), lengths
    first = expand_dims(cumulative_sum(lengths) - lengths, axis=1)
    places = (first + arange(width)).clip(0, labels.shape[0] - 1)
    return labels[places], lengths


@repeating
def _losses(
    log_probs: Tensor, labels: Tensor, ends: Tensor, lengths: Tensor, blank: int,
    zero_infinity: bool,
) -> Tensor:  # fmt: skip
    """The losses of all samples, (N,), of labels (N, S)."""
    states, skips = _states(labels, lengths, blank, log_probs.shape[2])
    losses = -_log_likelihood(log_probs, states, skips, ends, lengths)
    impossible = losses > -0.1 * _NEVER
    return where(impossible, 0.0 if zero_infinity else math.inf, losses)


def _states(labels: Tensor, lengths: Tensor, blank: int, classes: int) -> tuple[Tensor, Tensor]:
    """The classes of the states, blank, label, blank, ..., blank; and which may follow on the last
    but one: those of labels that differ, since the blank between them may be left out.

    Both (N, 2 S + 1).
    """
    n, width = labels.shape
    counted = arange(width) < expand_dims(lengths, axis=1)
    labels = _within("targets", where(counted, labels, blank), classes)
    blanks = full((n, width + 1), blank, dtype=dtypes.int64)
    states = _interleaved(blanks, labels)
    differs = labels[:, 1:] != labels[:, :-1]
    first = zeros((n, min(width, 1)), dtype=dtypes.bool_)
    never = zeros((n, width + 1), dtype=dtypes.bool_)
    return states, _interleaved(never, concat([first, differs], axis=1))


def _interleaved(even: Tensor, odd: Tensor) -> Tensor:
    """(N, S + 1) and (N, S) as one (N, 2 S + 1), in turns."""
    n, width = odd.shape
    pairs = stack([even[:, :-1], odd], axis=2).reshape((n, 2 * width))
    return concat([pairs, even[:, -1:]], axis=1)


def _log_likelihood(
    log_probs: Tensor, states: Tensor, skips: Tensor, ends: Tensor, lengths: Tensor
) -> Tensor:
    """The forward variables of section 4.1 in logarithms, all samples and states at once: (N,)."""
    steps, n = log_probs.shape[:2]
    count = states.shape[1]
    emitted = maximum(_emitted(log_probs, states), _NEVER)
    skip = where(skips, 0.0, _NEVER).astype(emitted.dtype)
    start = full((n, count - 1), _NEVER, dtype=emitted.dtype)
    # As if a blank had come before: from there the first step reaches a blank or the first label.
    forward = concat([zeros((n, 1), dtype=emitted.dtype), start], axis=1)
    going = expand_dims(expand_dims(arange(steps), axis=1) < ends, axis=2)

    def step(forward: Tensor, x: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        emitted, going = x  # behind the end of a sample all stays as it is
        return where(going, _step(forward, emitted, skip), forward), None

    forward, _ = scan(step, forward, (emitted, going))
    behind = expand_dims(2 * lengths, axis=1) - arange(count)
    final = logical_or(behind == 0, behind == 1)  # on the last blank or the last label
    return logsumexp(where(final, forward, _NEVER), axis=1)


def _emitted(log_probs: Tensor, states: Tensor) -> Tensor:
    """The log-probabilities of the states' classes: (T, N, states).

    As rows over all times of a table of all samples' classes: the gradient adds up such rows.
    """
    steps, n, classes = log_probs.shape
    rows = expand_dims(arange(n) * classes, axis=1) + states
    table = log_probs.reshape((steps, n * classes)).mT
    return table[rows.reshape((-1,))].mT.reshape((steps, n, states.shape[1]))


def _step(forward: Tensor, emitted: Tensor, skip: Tensor) -> Tensor:
    """From the log-probabilities of all states at one time to those at the next: (N, states)."""
    n, count = forward.shape
    edge = full((n, 2), _NEVER, dtype=forward.dtype)
    before = concat([edge, forward], axis=1)
    stay, move, leap = before[:, 2:], before[:, 1:-1], before[:, :count] + skip
    return _log_sum(stay, move, leap) + emitted


def _log_sum(*terms: Tensor) -> Tensor:
    """log(sum(exp(term))) of finite terms."""
    largest = terms[0]
    for each in terms[1:]:
        largest = maximum(largest, each)
    largest = largest.detach()
    total = exp(terms[0] - largest)
    for each in terms[1:]:
        total = total + exp(each - largest)
    return largest + log(total)


def _reduced(losses: Tensor, lengths: Tensor, reduction: str, single: bool) -> Tensor:
    if reduction == "mean":
        return mean(losses / cast(maximum(lengths, 1), losses.dtype))
    if reduction == "sum":
        return sum(losses)
    if reduction == "none":
        return losses[0] if single else losses
    raise fail(ArgumentError, "ctc_loss", "reduction is 'mean', 'sum' or 'none'",
               reduction=reduction)  # fmt: skip


class CTCLoss(Function):
    """Minus the log-probability of labels whose places in time are not known; see `ctc_loss`.

    Shapes: (T, N, C) log-probabilities, (N, S) labels, (N,) and (N,) lengths -> a scalar, or (N,).
    """

    function = staticmethod(ctc_loss)

    def __init__(
        self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False
    ) -> None:
        super().__init__(blank=blank, reduction=reduction, zero_infinity=zero_infinity)

    def forward(  # type: ignore[override]
        self, log_probs: Tensor, targets: Any, input_lengths: Any, target_lengths: Any
    ) -> Tensor:
        return self.call(log_probs, targets, input_lengths, target_lengths)
