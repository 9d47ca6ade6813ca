"""The methods against their formulas in NumPy, and the programs of a first lecture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn, optim
from schuss.errors import ArgumentError

Step = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def sgd(lr: float, momentum: float = 0.0, dampening: float = 0.0, weight_decay: float = 0.0,
        nesterov: bool = False) -> Step:  # fmt: skip
    v: Any = None

    def step(p: np.ndarray, g: np.ndarray, t: int) -> np.ndarray:
        nonlocal v
        g = g + weight_decay * p
        v = g if v is None else momentum * v + (1 - dampening) * g
        return p - lr * (g + momentum * v if nesterov else v if momentum else g)

    return step


def adam(
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    decoupled: bool = False,
) -> Step:
    m: Any = 0.0
    v: Any = 0.0
    largest: Any = 0.0

    def step(p: np.ndarray, g: np.ndarray, t: int) -> np.ndarray:
        nonlocal m, v, largest
        if decoupled:
            p = p - lr * weight_decay * p
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        largest = np.maximum(largest, v)
        size = np.sqrt((largest if amsgrad else v) / (1 - betas[1] ** t)) + eps
        return p - lr * m / (1 - betas[0] ** t) / size

    return step


def adagrad(lr: float = 0.01, lr_decay: float = 0.0, weight_decay: float = 0.0,
            initial_accumulator_value: float = 0.0, eps: float = 1e-10) -> Step:  # fmt: skip
    s: Any = initial_accumulator_value

    def step(p: np.ndarray, g: np.ndarray, t: int) -> np.ndarray:
        nonlocal s
        g = g + weight_decay * p
        s = s + g * g
        return p - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s) + eps)

    return step


CASES: list[tuple[type[optim.Optimizer], Callable[..., Step], dict[str, Any]]] = [
    (optim.SGD, sgd, {"lr": 0.1}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    (optim.SGD, sgd, {"lr": 0.1, "weight_decay": 0.1}),
    (optim.Adam, adam, {"lr": 0.1}),
    (optim.Adam, adam, {"lr": 0.1, "betas": (0.5, 0.7), "eps": 1e-2, "weight_decay": 0.1}),
    (optim.Adam, adam, {"lr": 0.1, "betas": (0.0, 0.0)}),
    (optim.Adam, adam, {"lr": 0.1, "amsgrad": True, "betas": (0.9, 0.5)}),
    (optim.AdamW, lambda **o: adam(**o, decoupled=True), {"lr": 0.1, "weight_decay": 0.2}),
    (optim.AdamW, lambda **o: adam(**o, decoupled=True), {"lr": 0.1, "weight_decay": 0.01,
                                                          "amsgrad": True}),
    (optim.Adagrad, adagrad, {}),
    (optim.Adagrad, adagrad, {"lr": 0.2, "lr_decay": 0.1, "weight_decay": 0.1,
                              "initial_accumulator_value": 0.5, "eps": 1e-3}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "oracle", "options"), CASES)
@pytest.mark.parametrize("shape", [(3, 2), (1,), ()])
def test_formula(kind: Any, oracle: Any, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    expected = rng.standard_normal(shape)
    step = oracle(**options)
    p = schuss.tensor(expected, requires_grad=True)
    optimizer = kind([p], **options)
    for t in range(1, 8):
        g = rng.standard_normal(shape)
        p.grad = schuss.tensor(g)
        optimizer.step()
        expected = step(expected, g, t)
        np.testing.assert_allclose(p.numpy(), expected, rtol=1e-12)
    assert p.requires_grad
    assert p.is_leaf


@pytest.mark.parametrize("dtype", [schuss.float32, schuss.bfloat16])
@pytest.mark.parametrize(("kind", "oracle", "options"), CASES)
def test_dtype_stays(kind: Any, oracle: Any, options: dict[str, Any], dtype: Any) -> None:
    p = schuss.ones(3, dtype=dtype).requires_grad_()
    optimizer = kind([p], **options)
    for _ in range(3):
        optimizer.zero_grad()
        (p * p).sum().backward()
        optimizer.step()
    assert p.dtype == dtype
    for slots in optimizer.state.values():
        assert all(
            each.dtype == dtype for each in slots.values() if isinstance(each, schuss.Tensor)
        )


def test_defaults() -> None:
    p = schuss.ones(1).requires_grad_()
    assert optim.SGD([p]).defaults["lr"] == 1e-3
    assert optim.Adam([p]).defaults == {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8,
                                        "weight_decay": 0.0, "amsgrad": False}  # fmt: skip
    assert optim.AdamW([p]).defaults["weight_decay"] == 1e-2
    assert optim.Adagrad([p]).defaults["lr"] == 1e-2


def test_amsgrad_can_be_switched_on_later() -> None:
    p = schuss.ones(2).requires_grad_()
    optimizer = optim.Adam([p], lr=0.1)
    for _ in range(2):
        p.grad = schuss.ones(2)
        optimizer.step()
        optimizer.param_groups[0]["amsgrad"] = True
    assert "largest_v" in optimizer.state["param_0"]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (optim.SGD, {"lr": -0.1}, "SGD: lr must not be negative"),
        (optim.SGD, {"lr": float("nan")}, "SGD: lr must not be negative"),
        (optim.SGD, {"momentum": -0.1}, "SGD: momentum must not be negative"),
        (optim.SGD, {"weight_decay": -0.1}, "SGD: weight_decay must not be negative"),
        (optim.SGD, {"nesterov": True}, "SGD: nesterov needs momentum and no dampening"),
        (optim.SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "SGD: nesterov needs"),
        (
            optim.Adam,
            {"betas": (0.9, 1.0)},
            "Adam: betas are two numbers of at least 0 and below 1",
        ),
        (optim.Adam, {"betas": (0.9,)}, "Adam: betas are two numbers"),
        (optim.AdamW, {"betas": (-0.1, 0.9)}, "AdamW: betas are two numbers"),
        (optim.Adam, {"eps": -1.0}, "Adam: eps must not be negative"),
        (optim.Adagrad, {"lr": -1.0}, "Adagrad: lr must not be negative"),
    ],
)
def test_wrong_settings(kind: Any, options: dict[str, Any], message: str) -> None:
    p = schuss.ones(1).requires_grad_()
    with pytest.raises(ArgumentError, match=message):
        kind([p], **options)
    with pytest.raises(ArgumentError, match=message):
        kind([{"params": [p], **options}])


# --- first programs ---


def test_one_hidden_layer_by_hand() -> None:
    """h = relu(x W + c), y = w^T h + b, squared error: plain tensors, their gradients in NumPy."""
    rng = np.random.default_rng(0)
    arrays = {"W": rng.standard_normal(4), "c": rng.standard_normal(4), "w": rng.standard_normal(4),
              "b": rng.standard_normal(())}  # fmt: skip
    x, target = 1.5, 0.7
    W, c, w, b = (schuss.tensor(each, requires_grad=True) for each in arrays.values())
    h = schuss.relu(x * W + c)
    y = (w.T if w.ndim == 2 else w) @ h + b
    loss = (y - target) ** 2
    loss.backward()
    z = x * arrays["W"] + arrays["c"]
    hidden = np.maximum(z, 0)
    error = 2 * (arrays["w"] @ hidden + arrays["b"] - target)
    assert W.grad is not None
    assert c.grad is not None
    assert w.grad is not None
    assert b.grad is not None
    np.testing.assert_allclose(W.grad.numpy(), error * arrays["w"] * (z > 0) * x)
    np.testing.assert_allclose(c.grad.numpy(), error * arrays["w"] * (z > 0))
    np.testing.assert_allclose(w.grad.numpy(), error * hidden)
    np.testing.assert_allclose(b.grad.numpy(), error)
    before = loss.item()
    with schuss.no_grad():
        for each in (W, c, w, b):
            each -= 0.001 * each.grad
    y = w @ schuss.relu(x * W + c) + b
    assert ((y - target) ** 2).item() < before


class Dots:
    """Batches of points near a line."""

    def __iter__(self) -> Iterator[tuple[schuss.Tensor, schuss.Tensor]]:
        rng = np.random.default_rng(0)
        for _ in range(60):
            x = rng.standard_normal((16, 1)).astype(np.float32)
            yield schuss.tensor(x), schuss.tensor(3 * x - 1)


def test_training_loop_with_sgd() -> None:
    model = nn.Linear(1, 1)
    loss_fn = nn.MSELoss()
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for x, target in Dots():
        optimizer.zero_grad()
        output = model(x)
        loss = loss_fn(output, target)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01
    assert model.weight.item() == pytest.approx(3, abs=0.2)


def test_adam_on_two_variables() -> None:
    var1 = schuss.tensor([1.0, 2.0], requires_grad=True)
    var2 = schuss.tensor(3.0, requires_grad=True)
    optimizer = optim.Adam([var1, var2], lr=0.0001)
    for _ in range(3):
        optimizer.zero_grad()
        ((var1 * var2) ** 2).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(var1.numpy(), [0.9997, 1.9997], rtol=1e-6)
    np.testing.assert_allclose(var2.numpy(), 2.9997, rtol=1e-6)
