"""PyTorch's losses and ours: the same values and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.comparison

RNG = np.random.default_rng(0)
Array = np.ndarray[Any, Any]


def compare(ours: Any, theirs: Any, input: Array, target: Array, by_target: bool = False) -> None:
    x, y = schuss.tensor(input, requires_grad=True), schuss.tensor(target, requires_grad=by_target)
    a, b = torch.tensor(input, requires_grad=True), torch.tensor(target, requires_grad=by_target)
    found, expected = ours(x, y), theirs(a, b)
    assert found.shape == tuple(expected.shape)
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-9)
    gradient = np.random.default_rng(1).standard_normal(found.shape)
    found.backward(schuss.tensor(gradient))
    expected.backward(torch.tensor(gradient))
    np.testing.assert_allclose(x.grad.numpy(), a.grad.numpy(), rtol=1e-9, atol=1e-9)
    if by_target:
        np.testing.assert_allclose(y.grad.numpy(), b.grad.numpy(), rtol=1e-9, atol=1e-9)


REAL = RNG.standard_normal((4, 3)) * 2
CHANCES = RNG.uniform(0.02, 0.98, (4, 3))
SIGNS = np.where(RNG.random((4, 3)) < 0.5, -1.0, 1.0)
LOGS = np.log(CHANCES / CHANCES.sum(1, keepdims=True))
CASES: list[tuple[str, dict[str, Any], Array, Array]] = [
    ("MSELoss", {}, REAL, SIGNS),
    ("L1Loss", {}, REAL, SIGNS),
    ("HuberLoss", {}, REAL, SIGNS),
    ("HuberLoss", {"delta": 0.4}, REAL, SIGNS),
    ("SmoothL1Loss", {}, REAL, SIGNS),
    ("SmoothL1Loss", {"beta": 0.4}, REAL, SIGNS),
    ("BCELoss", {}, CHANCES, CHANCES[::-1].copy()),
    ("BCEWithLogitsLoss", {}, REAL, CHANCES),
    ("BCEWithLogitsLoss", {"pos_weight": np.array([0.5, 1.0, 4.0])}, REAL, CHANCES),
    ("SoftMarginLoss", {}, REAL, SIGNS),
    ("KLDivLoss", {}, LOGS, CHANCES),
    ("KLDivLoss", {}, LOGS, np.array([[0, 0.5, 0.5], [1, 0, 0], [0, 1, 0], [0.2, 0.3, 0.5]])),
    ("KLDivLoss", {"log_target": True}, LOGS, np.log(CHANCES)),
]


def theirs_of(name: str, options: dict[str, Any]) -> Any:
    tensors = {
        key: torch.tensor(v) if isinstance(v, np.ndarray) else v for key, v in options.items()
    }
    return getattr(torch.nn, name)(**tensors)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning")
@pytest.mark.parametrize(("name", "options", "input", "target"), CASES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "batchmean"])
def test_elementwise(
    name: str, options: dict[str, Any], input: Array, target: Array, reduction: str
) -> None:
    if reduction == "batchmean" and name != "KLDivLoss":
        return
    options = {**options, "reduction": reduction}
    differentiable = name in ("MSELoss", "L1Loss", "HuberLoss", "BCELoss")
    compare(getattr(nn, name)(**options), theirs_of(name, options), input, target, differentiable)


def test_bce_of_certainty() -> None:
    p, y = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0, 0.0])
    ours = nn.BCELoss("none")(schuss.tensor(p), schuss.tensor(y))
    theirs = torch.nn.BCELoss(reduction="none")(torch.tensor(p), torch.tensor(y))
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_bce_of_large_logits() -> None:
    x = np.array([[1e3, -1e3, 0.0, 30.0]])
    compare(
        nn.BCEWithLogitsLoss(), torch.nn.BCEWithLogitsLoss(), x, np.array([[0.0, 1.0, 0.5, 1.0]])
    )


WEIGHT = np.array([0.5, 2.0, 1.0, 3.0])
OPTIONS: list[dict[str, Any]] = [
    {},
    {"weight": WEIGHT},
    {"ignore_index": 1},
    {"label_smoothing": 0.2},
    {"label_smoothing": 1.0},
    {"weight": WEIGHT, "label_smoothing": 0.3},
    {"weight": WEIGHT, "ignore_index": 2, "label_smoothing": 0.1},
]
SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((4,), ()), ((1, 4), (1,)), ((6, 4), (6,)), ((3, 4, 5), (3, 5)), ((2, 4, 3, 2), (2, 3, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "target_shape"), SHAPES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(
    shape: tuple[int, ...], target_shape: tuple[int, ...], options: dict[str, Any], reduction: str
) -> None:
    options = {**options, "reduction": reduction}
    classes = np.array(3) if target_shape == () else RNG.integers(0, 4, target_shape)
    if target_shape:
        classes.flat[0] = 3  # not all are ignored
    input = RNG.standard_normal(shape)
    compare(nn.CrossEntropyLoss(**options), theirs_of("CrossEntropyLoss", options), input, classes)


@pytest.mark.parametrize(("shape", "target_shape"), SHAPES)
@pytest.mark.parametrize("options", [each for each in OPTIONS if "ignore_index" not in each])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_soft_cross_entropy(
    shape: tuple[int, ...], target_shape: tuple[int, ...], options: dict[str, Any], reduction: str
) -> None:
    options = {**options, "reduction": reduction}
    input, target = RNG.standard_normal(shape), RNG.random(shape)
    ours, theirs = nn.CrossEntropyLoss(**options), theirs_of("CrossEntropyLoss", options)
    compare(ours, theirs, input, target, by_target=True)


@pytest.mark.parametrize(("shape", "target_shape"), SHAPES[1:])
@pytest.mark.parametrize("options", OPTIONS[:3])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nll(shape: tuple[int, ...], target_shape: tuple[int, ...], options: dict[str, Any],
             reduction: str) -> None:  # fmt: skip
    options = {**options, "reduction": reduction}
    classes = RNG.integers(0, 4, target_shape)
    classes.flat[0] = 3
    compare(
        nn.NLLLoss(**options), theirs_of("NLLLoss", options), RNG.standard_normal(shape), classes
    )
