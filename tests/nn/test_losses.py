"""Losses: values against NumPy, gradients against differences, and no broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import ArgumentError, DTypeError, OutOfBoundsError, ShapeError

F = nn.functional
Oracle = Callable[..., np.ndarray]
RNG = np.random.default_rng(3)

SCORES = RNG.uniform(0.1, 2.5, (4, 3)) * np.array([1, -1, 1])  # away from the kinks at 0
REAL = SCORES - np.array([[0.4], [0.6], [-0.5], [1.7]])
SIGNS = np.where(RNG.random((4, 3)) < 0.5, -1.0, 1.0)
CHANCES = RNG.uniform(0.05, 0.95, (4, 3))
SOME = RNG.uniform(0.05, 0.95, (4, 3))
LOGS = np.log(CHANCES / CHANCES.sum(1, keepdims=True))


def huber(x: np.ndarray, y: np.ndarray, delta: float = 1.0) -> np.ndarray:
    d = np.abs(x - y)
    return np.where(d <= delta, d * d / 2, delta * (d - delta / 2))


def bce(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def weighted_bce(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -(np.array([1, 2, 3]) * y * np.log(sigmoid(x)) + (1 - y) * np.log(1 - sigmoid(x)))


# layer, function, oracle without reduction, input, target
ELEMENTWISE: dict[str, tuple[Callable[..., nn.Module], Any, Oracle, np.ndarray, np.ndarray]] = {
    "mse": (nn.MSELoss, F.mse_loss, lambda x, y: (x - y) ** 2, SCORES, REAL),
    "l1": (nn.L1Loss, F.l1_loss, lambda x, y: np.abs(x - y), SCORES, REAL),
    "huber": (nn.HuberLoss, F.huber_loss, huber, SCORES, REAL),
    "smooth l1": (nn.SmoothL1Loss, F.smooth_l1_loss, huber, SCORES, REAL),
    "bce": (nn.BCELoss, F.binary_cross_entropy, bce, CHANCES, SOME),
    "bce with logits": (nn.BCEWithLogitsLoss, F.binary_cross_entropy_with_logits,
                        lambda x, y: bce(sigmoid(x), y), SCORES, SOME),
    "hinge": (nn.HingeLoss, F.hinge_loss, lambda f, y: np.maximum(0, 1 - y * f), SCORES, SIGNS),
    "squared margin": (nn.SquaredMarginLoss, F.squared_margin_loss, lambda f, y: (1 - y * f) ** 2,
                       SCORES, SIGNS),
    "soft margin": (nn.SoftMarginLoss, F.soft_margin_loss, lambda f, y: np.log(1 + np.exp(-y * f)),
                    SCORES, SIGNS),
    "kl": (nn.KLDivLoss, F.kl_div, lambda x, y: y * (np.log(y) - x), LOGS, SOME),
}  # fmt: skip
ZERO_ONE = (nn.ZeroOneLoss, F.zero_one_loss, lambda f, y: (f * y <= 0) * 1.0, SCORES, SIGNS)
ALL = {**ELEMENTWISE, "zero one": ZERO_ONE}
REDUCE: dict[str, Callable[[np.ndarray], Any]] = {
    "mean": np.mean,
    "sum": np.sum,
    "none": lambda x: x,
}


def test_every_loss_is_covered() -> None:
    losses = [getattr(nn, name) for name in nn.__all__ if name.endswith("Loss")]
    covered = {case[0] for case in ALL.values()} | {nn.CrossEntropyLoss, nn.NLLLoss, nn.CTCLoss}
    assert set(losses) == covered


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("reduction", REDUCE)
def test_values(name: str, reduction: str) -> None:
    layer, function, oracle, x, y = ALL[name]
    expected = REDUCE[reduction](oracle(x, y))
    for loss in (layer(reduction=reduction), lambda a, b: function(a, b, reduction=reduction)):
        found = loss(schuss.tensor(x), schuss.tensor(y))
        assert found.shape == expected.shape
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert REDUCE["mean"](oracle(x, y)) == pytest.approx(
        layer()(schuss.tensor(x), y).item(), rel=1e-6
    )


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_gradients(name: str) -> None:
    _, function, _, x, y = ELEMENTWISE[name]
    schuss.check_gradients(lambda a, b: function(a, b, reduction="none"), [x, y], directions=1)
    schuss.check_gradients(lambda a: function(a, y), [x], directions=1)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("shape", "other"), [((4,), (4, 1)), ((4, 1), (4,)), ((4, 3), (3,)), ((4, 3), (1, 3)),
                         ((4,), ()), ((1,), ()), ((0,), (0, 1)), ((4,), (5,))],
)  # fmt: skip
def test_nothing_broadcasts(name: str, shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    function = ALL[name][1]
    with pytest.raises(ShapeError, match="input and target must have the same shape; a loss does "
                       rf"not broadcast\n  input: \({', '.join(map(str, shape))}.*float32\n"
                       rf"  target: \({', '.join(map(str, other))}"):  # fmt: skip
        function(schuss.ones(shape), schuss.ones(other))


@pytest.mark.parametrize("name", ALL)
def test_messages_name_the_loss(name: str) -> None:
    layer, function, *_ = ALL[name]
    with pytest.raises(
        ShapeError, match=rf"^{function.__name__}: (.|\n)*in: {layer().__class__.__name__}\n"
    ):
        layer()(schuss.ones(4), schuss.ones((4, 1)))
    with pytest.raises(
        ArgumentError, match=f"{function.__name__}: reduction is 'mean', 'sum' or 'none'"
    ):
        function(schuss.ones(4), schuss.ones(4), reduction="average")


def test_hint_about_an_axis_too_many() -> None:
    with pytest.raises(
        ShapeError, match=r"hint: the prediction has an axis too many or too few: x.squeeze"
    ):
        F.mse_loss(schuss.ones((4, 1)), schuss.ones(4))
    with pytest.raises(ShapeError) as caught:
        F.mse_loss(schuss.ones((4, 2)), schuss.ones(4))
    assert "hint" not in str(caught.value)


@pytest.mark.parametrize("name", ALL)
def test_targets_take_the_dtype_of_the_prediction(name: str) -> None:
    _, function, _, x, y = ALL[name]
    predicted = schuss.tensor(x.astype(np.float32))
    assert function(predicted, schuss.tensor(y)).dtype == schuss.float32
    assert function(predicted, schuss.ones((4, 3), dtype=schuss.int64)).dtype == schuss.float32


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_empty_batch(name: str) -> None:
    function = ELEMENTWISE[name][1]
    empty = schuss.zeros((0, 3))
    assert function(empty, empty, reduction="sum").item() == 0
    assert math.isnan(function(empty, empty).item())
    assert function(empty, empty, reduction="none").shape == (0, 3)


def test_widths() -> None:
    np.testing.assert_allclose(
        F.huber_loss(SCORES, REAL, "none", 0.5).numpy(), huber(SCORES, REAL, 0.5)
    )
    np.testing.assert_allclose(
        nn.HuberLoss(delta=2.0)(SCORES, REAL).item(), huber(SCORES, REAL, 2.0).mean()
    )
    expected = huber(SCORES, REAL, 0.5) / 0.5
    np.testing.assert_allclose(nn.SmoothL1Loss("none", beta=0.5)(SCORES, REAL).numpy(), expected)
    for width in (0.0, -1.0):
        with pytest.raises(ArgumentError, match="huber_loss: delta must be positive"):
            F.huber_loss(SCORES, REAL, delta=width)
        with pytest.raises(ArgumentError, match="smooth_l1_loss: beta must be positive"):
            F.smooth_l1_loss(SCORES, REAL, beta=width)


def test_integer_predictions() -> None:
    loss = F.mse_loss(schuss.tensor([1, 2]), schuss.tensor([0, 0]))
    assert loss.dtype == schuss.float32
    assert loss.item() == 2.5


def test_bce_of_certainty() -> None:
    """Logarithms end at -100, and no gradient is NaN."""
    p = schuss.tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    losses = F.binary_cross_entropy(p, schuss.tensor([0.0, 1.0, 1.0, 0.0]), reduction="none")
    np.testing.assert_array_equal(losses.numpy(), [0, 0, 100, 100])
    losses.sum().backward()
    assert p.grad is not None
    assert np.isfinite(p.grad.numpy()).all()


def test_bce_of_large_logits() -> None:
    x = schuss.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    losses = F.binary_cross_entropy_with_logits(x, schuss.tensor([1.0, 0, 0, 1]), reduction="none")
    np.testing.assert_array_equal(losses.numpy(), [0, 0, 1e4, 1e4])
    losses.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [0, 0, 1, -1])


def test_pos_weight() -> None:
    weight = np.array([1.0, 2.0, 3.0])
    expected = weighted_bce(SCORES, SOME)
    loss = nn.BCEWithLogitsLoss("none", pos_weight=weight)(
        schuss.tensor(SCORES), schuss.tensor(SOME)
    )
    np.testing.assert_allclose(loss.numpy(), expected)
    schuss.check_gradients(
        lambda x: F.binary_cross_entropy_with_logits(x, SOME, pos_weight=weight), [SCORES]
    )
    single = F.binary_cross_entropy_with_logits(SCORES.astype(np.float32), SOME, pos_weight=weight)
    assert single.dtype == schuss.float32


@pytest.mark.parametrize("shape", [(3,), (2, 1, 1)])
def test_pos_weight_does_not_broadcast_the_loss(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="pos_weight must have the last axes of the input"):
        F.binary_cross_entropy_with_logits(schuss.ones((2, 1)), schuss.ones((2, 1)),
                                           pos_weight=np.ones(shape))  # fmt: skip


def test_kl_div() -> None:
    target = np.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
    logs = LOGS[:2]
    present = np.where(target > 0, target, 1)
    expected = target * (np.log(present) - logs)
    np.testing.assert_allclose(F.kl_div(logs, target, "none").numpy(), expected)
    np.testing.assert_allclose(F.kl_div(logs, target, "batchmean").item(), expected.sum() / 2)
    of_logs = F.kl_div(LOGS, np.log(SOME), "none", log_target=True)
    np.testing.assert_allclose(of_logs.numpy(), F.kl_div(LOGS, SOME, "none").numpy())
    layer = nn.KLDivLoss("batchmean", log_target=True)
    np.testing.assert_allclose(layer(LOGS, np.log(SOME)).item(), of_logs.numpy().sum() / 4)
    schuss.check_gradients(lambda x, y: F.kl_div(x, y, log_target=True), [LOGS, np.log(SOME)])
    with pytest.raises(ShapeError, match="kl_div: 'batchmean' needs a batch axis"):
        F.kl_div(schuss.tensor(0.0), schuss.tensor(1.0), "batchmean")


def test_zero_one_counts_the_undecided_as_wrong() -> None:
    assert F.zero_one_loss(schuss.tensor([0.0, 1.0]), schuss.tensor([1, 1])).item() == 0.5


# --- several classes ---


def cross_entropy(x: np.ndarray, y: np.ndarray, weight: Any = None, ignore_index: int = -100,
                  reduction: str = "mean", label_smoothing: float = 0.0) -> Any:  # fmt: skip
    """For logits (N, C, ...), classes (N, ...), one element after the other."""
    weight = np.ones(x.shape[1]) if weight is None else weight
    logs = x - np.log(np.exp(x).sum(1, keepdims=True))
    losses, weights = np.zeros(y.shape), np.zeros(y.shape)
    for place in np.ndindex(*y.shape):
        if y[place] != ignore_index:
            row = logs[(place[0], slice(None), *place[1:])]
            one_hot = np.eye(x.shape[1])[y[place]]
            spread = one_hot * (1 - label_smoothing) + label_smoothing / x.shape[1]
            losses[place] = -(spread * row * weight).sum()
            weights[place] = weight[y[place]]
    return losses.sum() / weights.sum() if reduction == "mean" else REDUCE[reduction](losses)


WEIGHT = np.array([0.5, 2.0, 1.0, 3.0])
OPTIONS: list[dict[str, Any]] = [
    {},
    {"weight": WEIGHT},
    {"ignore_index": 1},
    {"label_smoothing": 0.2},
    {"weight": WEIGHT, "ignore_index": 2, "label_smoothing": 0.1},
]
LOGITS = RNG.standard_normal((3, 4, 2, 5))
CLASSES = RNG.integers(0, 4, (3, 2, 5))
FLAT = (LOGITS[:, :, 0, 0], np.array([1, 3, 0]))
IMAGE = (LOGITS, CLASSES)


@pytest.mark.parametrize(("x", "y"), [FLAT, IMAGE], ids=["flat", "image"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("reduction", REDUCE)
def test_cross_entropy(
    x: np.ndarray, y: np.ndarray, options: dict[str, Any], reduction: str
) -> None:
    expected = cross_entropy(x, y, **options, reduction=reduction)
    found = nn.CrossEntropyLoss(**options, reduction=reduction)(schuss.tensor(x), schuss.tensor(y))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-12)
    assert found.shape == np.shape(expected)


@pytest.mark.parametrize("options", OPTIONS)
def test_cross_entropy_gradients(options: dict[str, Any]) -> None:
    for x, y in (FLAT, IMAGE):
        schuss.check_gradients(lambda z, y=y: F.cross_entropy(z, y, **options), [x], directions=1)


def test_gradient_is_softmax_minus_target() -> None:
    x, y = FLAT
    logits = schuss.tensor(x, requires_grad=True)
    F.cross_entropy(logits, y, reduction="sum").backward()
    assert logits.grad is not None
    softmax = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    np.testing.assert_allclose(logits.grad.numpy(), softmax - np.eye(4)[y], rtol=1e-10)


@pytest.mark.parametrize("options", OPTIONS[:2] + OPTIONS[3:4])
def test_soft_targets(options: dict[str, Any]) -> None:
    x, y = FLAT
    mixed = 0.75 * np.eye(4)[y] + 0.25 / 4
    smoothing = options.get("label_smoothing", 0.0)
    logs = x - np.log(np.exp(x).sum(1, keepdims=True))
    target = mixed * (1 - smoothing) + smoothing / 4
    losses = -(target * logs * options.get("weight", np.ones(4))).sum(1)
    for reduction, reduce in REDUCE.items():
        found = F.cross_entropy(x, mixed, **options, reduction=reduction)
        np.testing.assert_allclose(found.numpy(), reduce(losses), rtol=1e-6)
    schuss.check_gradients(lambda z, t: F.cross_entropy(z, t, **options), [x, mixed], directions=1)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("reduction", REDUCE)
def test_one_sample_without_batch_axis(options: dict[str, Any], reduction: str) -> None:
    x = LOGITS[0, :, 0, 0]
    batched = F.cross_entropy(x[None], np.array([3]), **options, reduction=reduction)
    single = F.cross_entropy(x, 3, **options, reduction=reduction)
    assert single.shape == ()
    assert single.item() == pytest.approx(batched.item())
    soft = F.cross_entropy(x, np.eye(4)[3], reduction=reduction)
    assert soft.shape == ()


@pytest.mark.parametrize("dtype", [schuss.uint8, schuss.int16, schuss.int32, schuss.int64])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classes_of_any_integer_dtype(dtype: Any, smoothing: float) -> None:
    x, y = FLAT
    expected = F.cross_entropy(x, y, label_smoothing=smoothing).item()
    found = F.cross_entropy(x, schuss.tensor(y).astype(dtype), label_smoothing=smoothing)
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("options", OPTIONS)
def test_dtype_is_that_of_the_logits(options: dict[str, Any]) -> None:
    logits = schuss.tensor(FLAT[0].astype(np.float32))
    assert F.cross_entropy(logits, FLAT[1], **options).dtype == schuss.float32
    if "ignore_index" not in options:
        assert F.cross_entropy(logits, np.full((3, 4), 0.25), **options).dtype == schuss.float32


def test_cross_entropy_of_large_and_masked_logits() -> None:
    x = schuss.tensor([[1e4, 0.0, -math.inf], [0.0, 1e4, -math.inf]], requires_grad=True)
    losses = F.cross_entropy(x, schuss.tensor([0, 0]), reduction="none")
    np.testing.assert_array_equal(losses.numpy(), [0, 1e4])
    losses.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [[0, 0, 0], [-1, 1, 0]])


def test_cross_entropy_when_all_is_ignored() -> None:
    x = schuss.tensor(FLAT[0])
    ignored = schuss.tensor([-100, -100, -100])
    assert math.isnan(F.cross_entropy(x, ignored).item())
    assert F.cross_entropy(x, ignored, reduction="sum").item() == 0


def test_cross_entropy_of_an_empty_batch() -> None:
    empty, none = schuss.zeros((0, 4)), schuss.zeros(0, dtype=schuss.int64)
    assert F.cross_entropy(empty, none, reduction="sum").item() == 0
    assert F.cross_entropy(empty, none, reduction="none").shape == (0,)
    assert math.isnan(F.cross_entropy(empty, none).item())


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[1], OPTIONS[2]])
@pytest.mark.parametrize("reduction", REDUCE)
def test_nll(options: dict[str, Any], reduction: str) -> None:
    for x, y in (FLAT, IMAGE):
        logs = F.log_softmax(schuss.tensor(x), axis=1)
        found = nn.NLLLoss(**options, reduction=reduction)(logs, schuss.tensor(y))
        expected = F.cross_entropy(x, y, **options, reduction=reduction)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-10, atol=1e-12)
        schuss.check_gradients(lambda z, y=y: F.nll_loss(z, y, **options), [x], directions=1)


# --- wrong targets ---


@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
@pytest.mark.parametrize(
    ("shape", "target", "expected"),
    [
        ((3, 4), (3, 1), r"\(3,\)"),
        ((3, 4), (1,), r"\(3,\)"),
        ((3, 4), (), r"\(3,\)"),
        ((3, 4), (4,), r"\(3,\)"),
        ((3, 4), (3, 4), r"\(3,\)"),
        ((3, 4, 2), (3, 1), r"\(3, 2\)"),
        ((3, 4, 2), (2, 3), r"\(3, 2\)"),
    ],
)
def test_wrong_target_shapes(loss: Any, shape: Any, target: Any, expected: str) -> None:
    with pytest.raises(
        ShapeError,
        match=f"{loss.__name__}: target must have the shape {expected}: "
        r"the input's without the classes\n  input: .*float32\n  target: .*int64",
    ):
        loss(schuss.ones(shape), schuss.zeros(target, dtype=schuss.int64))


def test_wrong_target_shape_of_one_sample() -> None:
    """Shapes are shown as the user passed them."""
    with pytest.raises(
        ShapeError, match=r"the shape \(\): (.|\n)*input: \(4,\) .*\n  target: \(1,\)"
    ):
        F.cross_entropy(schuss.ones(4), schuss.tensor([1]))


def test_hint_to_squeeze() -> None:
    with pytest.raises(ShapeError, match=r"hint: target.squeeze\(-1\) drops the last axis"):
        F.cross_entropy(schuss.ones((3, 4)), schuss.zeros((3, 1), dtype=schuss.int64))


def test_floating_classes() -> None:
    with pytest.raises(
        ShapeError,
        match=r"target probabilities must have the shape of the input(.|\n)*"
        r"hint: classes must be integers: target.astype\(schuss.int64\)",
    ):
        F.cross_entropy(schuss.ones((3, 4)), schuss.ones(3))
    with pytest.raises(DTypeError, match="nll_loss: classes must be integers"):
        F.nll_loss(schuss.ones((3, 4)), schuss.ones(3))
    with pytest.raises(DTypeError, match="cross_entropy: classes must be integers"):
        F.cross_entropy(schuss.ones((3, 4)), schuss.tensor([True, False, True]))


@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
@pytest.mark.parametrize("wrong", [4, -1])
def test_class_out_of_range(loss: Any, wrong: int) -> None:
    value = loss(schuss.ones((3, 4)), schuss.tensor([0, wrong, 1]))
    with pytest.raises(
        OutOfBoundsError,
        match=rf"index {wrong} is outside .*allowed are from 0 to 3"
        r"(.|\n)*at: .*test_losses.py:\d+",
    ):
        value.item()


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize(
    "target", [[0, 1, 2], np.full((3, 4), 0.25)], ids=["classes", "probabilities"]
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_wrong_number_of_weights(count: int, target: Any, smoothing: float) -> None:
    with pytest.raises(ShapeError, match="cross_entropy: there must be one weight for each class"):
        F.cross_entropy(
            schuss.ones((3, 4)), target, weight=np.ones(count), label_smoothing=smoothing
        )


def test_logits_without_classes() -> None:
    with pytest.raises(ShapeError, match="cross_entropy: logits need an axis of classes"):
        F.cross_entropy(schuss.tensor(1.0), 0)
    with pytest.raises(ShapeError, match=r"nll_loss: log-probabilities need the axes \(N, C\)"):
        F.nll_loss(schuss.ones(3), 0)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, math.nan])
def test_smoothing_limits(smoothing: float) -> None:
    with pytest.raises(ArgumentError, match="label_smoothing lies between 0 and 1"):
        F.cross_entropy(schuss.ones((3, 4)), [0, 1, 2], label_smoothing=smoothing)


def test_unknown_reduction() -> None:
    for loss in (F.cross_entropy, F.nll_loss):
        with pytest.raises(ArgumentError, match="reduction is 'mean', 'sum' or 'none'"):
            loss(schuss.ones((3, 4)), [0, 1, 2], reduction="batchmean")


def test_printed_losses() -> None:
    assert repr(nn.MSELoss()) == "MSELoss(reduction='mean')"
    assert "label_smoothing=0.1" in repr(nn.CrossEntropyLoss(label_smoothing=0.1))


def test_a_class_that_does_not_exist_names_the_loss() -> None:
    loss = F.cross_entropy(schuss.zeros(2, 3), schuss.tensor([0, 3]))
    text = r"cross_entropy: target: index 3 is outside axis 1: allowed are from 0 to 2"
    with pytest.raises(OutOfBoundsError, match=text):
        loss.item()


def test_logits_far_out_keep_their_digits() -> None:
    x, y = schuss.tensor([5.0, -5.0], dtype=schuss.bfloat16), schuss.tensor([1.0, 0.0])
    found = F.binary_cross_entropy_with_logits(x, y, reduction="none").astype(schuss.float32)
    np.testing.assert_allclose(found.numpy(), [0.0067, 0.0067], rtol=1e-2)
    logits = schuss.tensor([[3e7, 3e7, 5.0]])
    assert F.cross_entropy(logits, schuss.tensor([0])).item() == pytest.approx(0.693147)
