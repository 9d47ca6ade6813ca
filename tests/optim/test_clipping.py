"""Clipping by norm and by value."""

from __future__ import annotations

import math

import numpy as np
import pytest

import schuss
from schuss import nn, optim
from schuss.errors import ArgumentError, ArgumentTypeError


def with_gradient(*values: float, dtype: str = "float32") -> schuss.Tensor:
    p = schuss.zeros(len(values), dtype=dtype).requires_grad_()
    p.grad = schuss.tensor(list(values), dtype=dtype)
    return p


def gradients(*parameters: schuss.Tensor) -> list[list[float]]:
    return [p.grad.tolist() for p in parameters if p.grad is not None]


def test_norm_over_all_parameters() -> None:
    a, b, c = with_gradient(3.0, 0.0), with_gradient(4.0), schuss.zeros(1).requires_grad_()
    total = optim.clip_grad_norm([a, b, c], 1.0)
    assert total.item() == pytest.approx(5)
    np.testing.assert_allclose(gradients(a, b)[0], [0.6, 0], rtol=1e-6)
    np.testing.assert_allclose(gradients(a, b)[1], [0.8], rtol=1e-6)
    assert c.grad is None


def test_norm_below_the_limit() -> None:
    a = with_gradient(0.3, -0.4)
    assert optim.clip_grad_norm([a], 1.0).item() == pytest.approx(0.5)
    np.testing.assert_array_equal(gradients(a)[0], np.float32([0.3, -0.4]))


def test_largest_norm() -> None:
    a, b = with_gradient(1.0, -8.0), with_gradient(2.0)
    total = optim.clip_grad_norm([a, b], 2.0, norm_type=math.inf)
    assert total.item() == 8
    assert gradients(a, b) == [[0.25, -2.0], [0.5]]


def test_zero_gradients_and_none() -> None:
    a = with_gradient(0.0, 0.0)
    assert optim.clip_grad_norm([a], 1.0).item() == 0
    assert gradients(a) == [[0, 0]]
    assert optim.clip_grad_norm([schuss.zeros(1)], 1.0).item() == 0


def test_dtypes_stay() -> None:
    a, b = with_gradient(30.0, dtype="float64"), with_gradient(40.0)
    optim.clip_grad_norm([a, b], 5.0)
    assert a.grad is not None
    assert b.grad is not None
    assert (a.grad.dtype, b.grad.dtype) == (schuss.float64, schuss.float32)
    np.testing.assert_allclose([a.grad.item(), b.grad.item()], [3, 4], rtol=1e-6)


def test_norm_of_a_model_in_training() -> None:
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    before = [p.numpy().copy() for p in model.parameters()]
    (model(schuss.ones((4, 3))) * 100).sum().backward()
    optim.clip_grad_norm(model.parameters(), 0.1)
    optimizer.step()
    moved = [p.numpy() - old for p, old in zip(model.parameters(), before, strict=True)]
    assert math.sqrt(sum((each**2).sum() for each in moved)) == pytest.approx(0.1, rel=1e-4)


def test_values() -> None:
    a, b = with_gradient(3.0, -0.5, -7.0), schuss.zeros(1).requires_grad_()
    optim.clip_grad_value([a, b], 1.0)
    assert gradients(a) == [[1, -0.5, -1]]
    assert b.grad is None


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_limits(limit: float) -> None:
    with pytest.raises(ArgumentError, match="clip_grad_norm: max_norm must be positive"):
        optim.clip_grad_norm([], limit)
    with pytest.raises(ArgumentError, match="clip_grad_value: clip_value must be positive"):
        optim.clip_grad_value([], limit)


def test_other_norms() -> None:
    with pytest.raises(ArgumentError, match="clip_grad_norm: norm_type is 2 or infinity"):
        optim.clip_grad_norm([], 1.0, norm_type=1.0)


@pytest.mark.parametrize("clip", [optim.clip_grad_norm, optim.clip_grad_value])
def test_a_tensor_instead_of_a_list(clip: object) -> None:
    with pytest.raises(
        ArgumentTypeError, match=r"parameters must be a list of tensors(.|\n)*hint: wrap"
    ):
        clip(with_gradient(1.0), 1.0)  # type: ignore[operator]


def test_half_precision_gradients_do_not_overflow() -> None:
    w = schuss.zeros(100, dtype=schuss.float16).requires_grad_()
    w.grad = schuss.full((100,), 300.0, dtype=schuss.float16)
    assert optim.clip_grad_norm([w], 1.0).item() == pytest.approx(3000)
    np.testing.assert_allclose(w.grad.numpy(), 0.1, rtol=1e-2)
