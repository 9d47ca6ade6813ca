"""Losses, as functions and as layers.

A loss compares a prediction with a target of the same shape: (N,) with (N, 1) is an error here,
because broadcasting them would compare all with all. `reduction` is "mean" over all elements, "sum"
or "none".
"""

from __future__ import annotations

from schuss import dtypes
from schuss.errors import ArgumentError, DTypeError, ShapeError, fail
from schuss.functions.arguments import ArrayLike, as_tensor, cast, floating
from schuss.functions.elementwise import abs, exp, log, log1p, logical_and, maximum, minimum, where
from schuss.functions.manipulation import expand_dims
from schuss.functions.neural import log_softmax, softplus
from schuss.functions.precision import for_sums
from schuss.functions.reduction import mean, sum
from schuss.graph import apply, labelled
from schuss.nn.function import Function
from schuss.ops.indexing import checked_index, gather, positions
from schuss.ops.infer import broadcast_shapes
from schuss.patterns import repeating
from schuss.tensor import Tensor


def _pair(where_: str, input: ArrayLike, target: ArrayLike) -> tuple[Tensor, Tensor]:
    """Prediction and target, of one shape and in the dtype of the prediction."""
    x, y = for_sums(floating(input, where_)), as_tensor(target, where_)
    if x.shape != y.shape:
        hint = "the prediction has an axis too many or too few: x.squeeze(-1) or y.reshape(x.shape)"
        raise fail(
            ShapeError,
            where_,
            "input and target must have the same shape; a loss does not broadcast",
            input=x,
            target=y,
            hint=hint if x.size == y.size else None,
        )
    if dtypes.is_complex(y.dtype) and not dtypes.is_complex(x.dtype):
        raise fail(DTypeError, where_, "a complex target needs a complex input", input=x, target=y)
    return x, cast(y, x.dtype)


def _reduced(where_: str, losses: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return mean(losses)
    if reduction == "sum":
        return sum(losses)
    if reduction == "none":
        return losses
    raise fail(ArgumentError, where_, "reduction is 'mean', 'sum' or 'none'", reduction=reduction)


# --- regression ---


@repeating
def mse_loss(input: ArrayLike, target: ArrayLike, reduction: str = "mean") -> Tensor:
    """Squared error: (x - y)**2."""
    x, y = _pair("mse_loss", input, target)
    difference = x - y
    return _reduced("mse_loss", difference * difference, reduction)


@repeating
def l1_loss(input: ArrayLike, target: ArrayLike, reduction: str = "mean") -> Tensor:
    """Absolute error: |x - y|."""
    x, y = _pair("l1_loss", input, target)
    return _reduced("l1_loss", abs(x - y), reduction)


@repeating
def huber_loss(
    input: ArrayLike, target: ArrayLike, reduction: str = "mean", delta: float = 1.0
) -> Tensor:
    """d**2 / 2 up to |d| = delta, delta * (|d| - delta / 2) beyond (Huber, 1964); d = x - y."""
    if delta <= 0:
        raise fail(ArgumentError, "huber_loss", "delta must be positive", delta=delta)
    return _huber("huber_loss", input, target, reduction, delta)


def smooth_l1_loss(
    input: ArrayLike, target: ArrayLike, reduction: str = "mean", beta: float = 1.0
) -> Tensor:
    """The Huber loss with delta = beta, divided by beta."""
    if beta <= 0:
        raise fail(ArgumentError, "smooth_l1_loss", "beta must be positive", beta=beta)
    return _huber("smooth_l1_loss", input, target, reduction, beta) / beta


def _huber(
    where_: str, input: ArrayLike, target: ArrayLike, reduction: str, delta: float
) -> Tensor:
    x, y = _pair(where_, input, target)
    distance = abs(x - y)
    near = minimum(distance, delta)
    return _reduced(where_, near * (distance - 0.5 * near), reduction)


# --- two classes ---


@repeating
def binary_cross_entropy(input: ArrayLike, target: ArrayLike, reduction: str = "mean") -> Tensor:
    """-(y log p + (1 - y) log(1 - p)) for p and targets y in [0, 1]. Logarithms end at -100."""
    p, y = _pair("binary_cross_entropy", input, target)
    yes, no = maximum(log(p), -100.0), maximum(log1p(-p), -100.0)
    return _reduced("binary_cross_entropy", -(y * yes + (1 - y) * no), reduction)


@repeating
def binary_cross_entropy_with_logits(
    input: ArrayLike,
    target: ArrayLike,
    reduction: str = "mean",
    pos_weight: ArrayLike | None = None,
) -> Tensor:
    """Cross-entropy of sigmoid(x), stable for all x. `pos_weight` weighs the class 1."""
    x, y = _pair("binary_cross_entropy_with_logits", input, target)
    yes, no = y * softplus(-x), (1 - y) * softplus(x)  # nothing cancels for any x
    if pos_weight is not None:
        weights = cast(as_tensor(pos_weight), x.dtype)
        if broadcast_shapes("binary_cross_entropy_with_logits", x.shape, weights.shape) != x.shape:
            raise fail(
                ShapeError,
                "binary_cross_entropy_with_logits",
                "pos_weight must have the last axes of the input",
                input=x,
                pos_weight=weights,
            )
        yes = weights * yes
    return _reduced("binary_cross_entropy_with_logits", yes + no, reduction)


def _signs(where_: str, input: ArrayLike, target: ArrayLike) -> Tensor:
    """The margins y * f(x) of scores and targets -1 or 1."""
    x, y = _pair(where_, input, target)
    return x * y


def hinge_loss(input: ArrayLike, target: ArrayLike, reduction: str = "mean") -> Tensor:
    """max(0, 1 - y f) for scores f and targets y of -1 or 1."""
    return _reduced("hinge_loss", (1 - _signs("hinge_loss", input, target)).relu(), reduction)


def squared_margin_loss(input: ArrayLike, target: ArrayLike, reduction: str = "mean") -> Tensor:
    """(1 - y f)**2 for scores f and targets y of -1 or 1: squared loss of a linear classifier."""
    slack = 1 - _signs("squared_margin_loss", input, target)
    return _reduced("squared_margin_loss", slack * slack, reduction)


def soft_margin_loss(input: ArrayLike, target: ArrayLike, reduction: str = "mean") -> Tensor:
    """log(1 + exp(-y f)) for scores f and targets y of -1 or 1: logistic regression's loss."""
    return _reduced(
        "soft_margin_loss", softplus(-_signs("soft_margin_loss", input, target)), reduction
    )


def zero_one_loss(input: ArrayLike, target: ArrayLike, reduction: str = "mean") -> Tensor:
    """1 where the sign of the score is not the target's (-1 or 1), else 0. It has no gradient."""
    wrong = _signs("zero_one_loss", input, target) <= 0
    return _reduced("zero_one_loss", cast(wrong, dtypes.default_float), reduction)


# --- several classes ---


@repeating
def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(input) at the target class, computed in the stable form.

    Args:
        input: logits (N, C) or (N, C, ...), or (C,) for one sample.
        target: classes (N, ...) as integers, or probabilities of the shape of the input.
        weight: (C,) weights of the classes; "mean" then divides by the weights that occurred.
        ignore_index: targets of this value count nothing.
        label_smoothing: how much of each target is spread evenly over all classes, from 0 to 1
            (Szegedy et al., 2016).

    Raises OutOfBoundsError, when the value is computed, for a class outside 0 to C - 1.
    """
    given = for_sums(floating(input, "cross_entropy"))
    y = as_tensor(target, "cross_entropy")
    x = cast(given, dtypes.accumulator(given.dtype))
    if x.ndim == 0:
        raise fail(ShapeError, "cross_entropy", "logits need an axis of classes", input=x)
    if not 0 <= label_smoothing <= 1:
        raise fail(ArgumentError, "cross_entropy", "label_smoothing lies between 0 and 1",
                   label_smoothing=label_smoothing)  # fmt: skip
    axis = _class_axis(x)
    logs = log_softmax(x, axis=axis)
    if dtypes.is_floating(y.dtype):
        soft = _soft_cross_entropy(x, logs, y, weight, reduction, label_smoothing)
        return cast(soft, given.dtype)
    losses, weights = _picked("cross_entropy", logs, y, weight, ignore_index)
    if label_smoothing:
        each = -logs if weight is None else -logs * _along_classes("cross_entropy", weight, logs)
        spread = where(cast(y, dtypes.int64) == ignore_index, 0, mean(each, axis=axis))
        losses = (1 - label_smoothing) * losses + label_smoothing * spread
    if reduction == "mean":
        return cast(_weighted_mean(losses, weights), given.dtype)
    return cast(_reduced("cross_entropy", losses, reduction), given.dtype)


def _class_axis(x: Tensor) -> int:
    """Where the classes are: (C,) or (N, C, ...)."""
    return min(1, x.ndim - 1)


def _class_weights(where_: str, weight: ArrayLike, logs: Tensor) -> Tensor:
    table = cast(as_tensor(weight), logs.dtype)
    if table.shape != (logs.shape[_class_axis(logs)],):
        raise fail(ShapeError, where_, "there must be one weight for each class", input=logs,
                   weight=table)  # fmt: skip
    return table


def _along_classes(where_: str, weight: ArrayLike, logs: Tensor) -> Tensor:
    table = _class_weights(where_, weight, logs)
    return table.reshape((-1,) + (1,) * (logs.ndim - 1 - _class_axis(logs)))


def _soft_cross_entropy(
    x: Tensor, logs: Tensor, y: Tensor, weight: ArrayLike | None, reduction: str, smoothing: float
) -> Tensor:
    if x.shape != y.shape:
        raise fail(
            ShapeError,
            "cross_entropy",
            "target probabilities must have the shape of the input",
            input=x,
            target=y,
            hint="classes must be integers: target.astype(schuss.int64)",
        )
    axis, y = _class_axis(x), cast(y, x.dtype)
    if smoothing:
        y = y * (1 - smoothing) + smoothing / x.shape[axis]
    each = logs * y
    if weight is not None:
        each = each * _along_classes("cross_entropy", weight, logs)
    return _reduced("cross_entropy", -sum(each, axis=axis), reduction)


def _picked(where_: str, logs: Tensor, y: Tensor, weight: ArrayLike | None,
            ignore_index: int) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Minus the log-probability of each target, weighted, and the weights."""
    if not dtypes.is_integral(y.dtype):
        raise fail(DTypeError, where_, "classes must be integers", input=logs, target=y)
    axis = _class_axis(logs)
    expected = (*logs.shape[:axis], *logs.shape[axis + 1 :])
    if y.shape != expected:
        hint = "target.squeeze(-1) drops the last axis" if y.shape == (*expected, 1) else None
        raise fail(
            ShapeError,
            where_,
            f"target must have the shape {expected}: the input's without the classes",
            input=logs,
            target=y,
            hint=hint,
        )
    y = cast(y, dtypes.int64)
    counted = y != ignore_index
    checked = apply(checked_index, y, size=logs.shape[axis], axis=axis, ignored=ignore_index)
    labelled(checked, f"{where_}: target")
    # Compared rather than gathered: this and its gradient fuse with the softmax around them. An
    # ignored target equals no class, whichever number it is.
    here = apply(positions, shape=logs.shape, axis=axis) == expand_dims(checked, axis=axis)
    if 0 <= ignore_index < logs.shape[axis]:
        here = logical_and(here, expand_dims(counted, axis=axis))
    chosen = sum(where(here, logs, 0), axis=axis)
    if weight is None:
        return -chosen, cast(counted, logs.dtype)
    table = _class_weights(where_, weight, logs)
    classes = where(counted, checked, 0)
    drawn = labelled(apply(gather, table, classes, axes=(0,), wrap=False), f"{where_}: target")
    weights = where(counted, drawn, 0)
    return -chosen * weights, weights


def _weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    return sum(losses) / sum(weights)


@repeating
def nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-input at the target class, for log-probabilities (N, C, ...); see `cross_entropy`."""
    x, y = for_sums(floating(input, "nll_loss")), as_tensor(target, "nll_loss")
    if x.ndim < 2:
        raise fail(ShapeError, "nll_loss", "log-probabilities need the axes (N, C)", input=x)
    losses, weights = _picked("nll_loss", x, y, weight, ignore_index)
    return (
        _weighted_mean(losses, weights)
        if reduction == "mean"
        else _reduced("nll_loss", losses, reduction)
    )


def kl_div(
    input: ArrayLike, target: ArrayLike, reduction: str = "mean", log_target: bool = False
) -> Tensor:
    """Kullback-Leibler divergence: y (log y - x) for log-probabilities x and probabilities y.

    Args:
        reduction: "batchmean" divides the sum by the batch size: the divergence as it is defined.
        log_target: the targets are log-probabilities too.
    """
    x, y = _pair("kl_div", input, target)
    if log_target:
        losses = exp(y) * (y - x)
    else:
        present = y > 0
        losses = where(present, y * (log(where(present, y, 1)) - x), 0)
    if reduction == "batchmean":
        if x.ndim == 0:
            raise fail(ShapeError, "kl_div", "'batchmean' needs a batch axis", input=x)
        return sum(losses) / float(x.shape[0])
    return _reduced("kl_div", losses, reduction)


# --- as layers ---


class _Loss(Function):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        return self.call(input, target)


class _Reduced(_Loss):
    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)


class MSELoss(_Reduced):
    """Mean squared error."""

    function = staticmethod(mse_loss)


class L1Loss(_Reduced):
    """Mean absolute error."""

    function = staticmethod(l1_loss)


class HuberLoss(_Loss):
    """Squared near 0, absolute beyond delta."""

    function = staticmethod(huber_loss)

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction=reduction, delta=delta)


class SmoothL1Loss(_Loss):
    """The Huber loss divided by beta."""

    function = staticmethod(smooth_l1_loss)

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction=reduction, beta=beta)


class BCELoss(_Reduced):
    """Binary cross-entropy of probabilities."""

    function = staticmethod(binary_cross_entropy)


class BCEWithLogitsLoss(_Loss):
    """Binary cross-entropy of logits."""

    function = staticmethod(binary_cross_entropy_with_logits)

    def __init__(self, reduction: str = "mean", pos_weight: ArrayLike | None = None) -> None:
        super().__init__(reduction=reduction, pos_weight=pos_weight)


class HingeLoss(_Reduced):
    """max(0, 1 - y f) for targets -1 and 1."""

    function = staticmethod(hinge_loss)


class SquaredMarginLoss(_Reduced):
    """(1 - y f)**2 for targets -1 and 1."""

    function = staticmethod(squared_margin_loss)


class SoftMarginLoss(_Reduced):
    """log(1 + exp(-y f)) for targets -1 and 1."""

    function = staticmethod(soft_margin_loss)


class ZeroOneLoss(_Reduced):
    """The share of wrong signs, for targets -1 and 1."""

    function = staticmethod(zero_one_loss)


class CrossEntropyLoss(_Loss):
    """Cross-entropy of logits with classes or probabilities; see `cross_entropy`."""

    function = staticmethod(cross_entropy)

    def __init__(
        self,
        weight: ArrayLike | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction,
                         label_smoothing=label_smoothing)  # fmt: skip


class NLLLoss(_Loss):
    """Minus the log-probability of the target class."""

    function = staticmethod(nll_loss)

    def __init__(
        self, weight: ArrayLike | None = None, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)


class KLDivLoss(_Loss):
    """Kullback-Leibler divergence of log-probabilities from probabilities."""

    function = staticmethod(kl_div)

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction=reduction, log_target=log_target)
