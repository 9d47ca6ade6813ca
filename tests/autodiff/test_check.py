"""The checker of gradients has to find wrong gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import schuss
from schuss.errors import GradientError
from schuss.graph import Op, apply
from schuss.ops.elementwise import cos, exp, multiply, sin
from schuss.ops.infer import elementwise, unary_samples

X = np.random.default_rng(0).uniform(0.5, 1.5, (3, 4))


def op(reference: Callable[..., Any], *rules: Callable[..., Any], broadcasts: bool = False) -> Op:
    """An op that is not in the registry, with these rules."""
    return Op(
        name="wrong", doc="", infer=elementwise, reference=reference, gradient=rules,
        samples=unary_samples(), saves=(0, 1, -1), broadcasts=broadcasts,
    )  # fmt: skip


def function(op: Op) -> Callable[..., schuss.Tensor]:
    return lambda *xs: apply(op, *xs)


def test_right_gradients_pass() -> None:
    right = op(np.sin, lambda g, y, x: g * apply(cos, x))
    schuss.check_gradients(function(right), [X])
    schuss.check_gradients(lambda a, b: (a @ b.mT) / a.sum(), [X, X + 1])


def test_first_order_wrong() -> None:
    wrong = op(np.sin, lambda g, y, x: g * apply(cos, x) * 1.001)
    with pytest.raises(GradientError, match=r"the gradient of order 1 says .*, differences say"):
        schuss.check_gradients(function(wrong), [X])


def test_sign_error() -> None:
    wrong = op(np.cos, lambda g, y, x: g * apply(sin, x))
    with pytest.raises(GradientError, match="order 1"):
        schuss.check_gradients(function(wrong), [X])


def test_second_order_wrong() -> None:
    """The cosine comes from a value through which no gradient flows."""
    wrong = op(np.sin, lambda g, y, x: g * apply(cos, x).detach())
    schuss.check_gradients(function(wrong), [X], order=1)
    with pytest.raises(GradientError, match="order 2"):
        schuss.check_gradients(function(wrong), [X], order=2)


def test_second_order_wrong_through_the_gradient_itself() -> None:
    """First order is right, but the rule lets no gradient flow into `g`."""
    wrong = op(np.exp, lambda g, y, x: g.detach() * y)
    square = lambda x: apply(multiply, apply(wrong, x), apply(wrong, x))
    schuss.check_gradients(square, [X], order=1)
    with pytest.raises(GradientError, match="order 2"):
        schuss.check_gradients(square, [X], order=2)


def test_one_wrong_input_of_two() -> None:
    wrong = op(np.multiply, lambda g, y, a, b: g * b, lambda g, y, a, b: g * b)
    with pytest.raises(GradientError, match="order 1"):
        schuss.check_gradients(function(wrong), [X, X + 1])


def test_missing_sum_over_a_broadcast_axis() -> None:
    """The mean where the sum is due: right in shape, wrong in size."""
    rule = lambda g, y, a, b: (g * a).mean(axis=0, keepdims=True)
    wrong = op(np.multiply, lambda g, y, a, b: g * b, rule)
    with pytest.raises(GradientError, match="order 1"):
        schuss.check_gradients(function(wrong), [X, X[:1]])


def test_missing_broadcast_sum_is_an_assertion_of_ours() -> None:
    wrong = op(np.multiply, lambda g, y, a, b: g * b, lambda g, y, a, b: g * a)
    with pytest.raises(AssertionError):
        schuss.check_gradients(function(wrong), [X, X[:1]])
    right = op(np.multiply, *wrong.gradient, broadcasts=True)
    schuss.check_gradients(function(right), [X, X[:1]])


def test_nan() -> None:
    wrong = op(np.exp, lambda g, y, x: g * y * float("nan"))
    with pytest.raises(GradientError, match="says nan"):
        schuss.check_gradients(function(wrong), [X])


def test_infinity() -> None:
    wrong = op(np.exp, lambda g, y, x: g * y * float("inf"))
    with pytest.raises(GradientError, match="order 1"):
        schuss.check_gradients(function(wrong), [X])


def test_one_wrong_element_among_many() -> None:
    mask = np.ones(X.shape)
    mask[1, 2] = 1.01
    wrong = op(np.exp, lambda g, y, x: g * apply(exp, x) * mask)
    with pytest.raises(GradientError, match="order 1"):
        schuss.check_gradients(function(wrong), [X])


def test_integers_are_taken_as_floats() -> None:
    schuss.check_gradients(lambda x: x * x, [[1, 2, 3]])


def test_empty_input_passes() -> None:
    schuss.check_gradients(schuss.sin, [np.zeros((0, 3))])


def test_infinite_values_do_not_pass_for_agreement() -> None:
    with pytest.raises(GradientError, match="differences say"):
        schuss.check_gradients(lambda x: schuss.exp(x * 710), [np.ones(1)])
