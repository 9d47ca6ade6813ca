"""Functions with derivatives of their own, in every transform."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss import custom_gradient, custom_jvp, grad, hessian, jvp, vmap
from schuss.errors import ArgumentError, GradientError, ShapeError

from .helpers import assert_trees_close, t


def log1pexp_rule(g, y, x):
    return g * (1 - 1 / (1 + schuss.exp(x)))


@custom_gradient(log1pexp_rule)
def log1pexp(x):
    """log(1 + exp(x))"""
    return schuss.log(1 + schuss.exp(x))


def test_the_value_is_that_of_the_function() -> None:
    assert log1pexp(t(0.0)).item() == pytest.approx(np.log(2))
    assert log1pexp.__doc__ == "log(1 + exp(x))"


def test_the_rule_is_used_and_differentiated_again() -> None:
    assert grad(log1pexp)(t(100.0)).item() == 1, "not NaN"
    schuss.check_gradients(log1pexp, [np.array([-1.0, 0.5, 2.0])])
    sigmoid = 1 / (1 + np.exp(-0.5))
    assert hessian(log1pexp)(t(0.5)).item() == pytest.approx(sigmoid * (1 - sigmoid))


def test_forward_mode_transposes_the_rule() -> None:
    x = t([-1.0, 0.5])
    _, tangent = jvp(log1pexp, (x,), (t([1.0, 10.0]),))
    np.testing.assert_allclose(tangent.numpy(), [1, 10] / (1 + np.exp(-x.numpy())))


def test_batches() -> None:
    x = t([-1.0, 0.5, 100.0])
    slope = 1 / (1 + np.exp(-x.numpy()))
    np.testing.assert_allclose(vmap(grad(log1pexp))(x).numpy(), slope)
    np.testing.assert_allclose(grad(lambda x: vmap(log1pexp)(x).sum())(x).numpy(), slope)
    _, tangent = jvp(vmap(log1pexp), (x,), (schuss.ones_like(x),))
    np.testing.assert_allclose(tangent.numpy(), slope)


def test_a_rule_that_says_something_else() -> None:
    @custom_gradient(lambda g, y, x: schuss.clip(g, -1, 1))
    def clipped(x):
        return x

    assert grad(lambda x: (clipped(x) * t([5.0, 0.5])).sum())(t([1.0, 1.0])).tolist() == [1, 0.5]
    x = t([1.0, 2.0], requires_grad=True)
    (clipped(x) * 7).sum().backward()
    assert x.grad.tolist() == [1, 1]


def test_several_arguments_trees_and_other_dtypes() -> None:
    def rule(g, y, p, indices, scale):
        first, second = g
        return {"w": first * 2, "b": second["z"] * 3}, None, (g[0] * p["w"]).sum()

    @custom_gradient(rule)
    def f(p, indices, scale):
        return p["w"] * scale, {"z": p["b"][indices], "count": indices + 1}

    p, indices = {"w": t([1.0, 2.0]), "b": t([3.0, 4.0])}, schuss.tensor([1, 0])
    y, rest = f(p, indices, t(10.0))
    assert (y.tolist(), rest["z"].tolist(), rest["count"].tolist()) == ([10, 20], [4, 3], [2, 1])

    def total(p, scale):
        y, rest = f(p, indices, scale)
        return (y * t([1.0, 10.0])).sum() + rest["z"].sum()

    gp, gs = grad(total, (0, 1))(p, t(10.0))
    assert (gp["w"].tolist(), gp["b"].tolist(), gs.item()) == ([2, 20], [3, 3], 21)


def test_an_unbatched_argument_gets_the_sum() -> None:
    @custom_gradient(lambda g, y, x, w: (g * w, g * x))
    def product(x, w):
        return x * w

    xs, w = t([1.0, 2.0, 3.0]), t(5.0)
    gx, gw = grad(lambda x, w: vmap(product, (0, None))(x, w).sum(), (0, 1))(xs, w)
    assert (gx.tolist(), gw.item()) == ([5, 5, 5], 6)


def test_rules_that_look_at_what_is_another_for_each_example() -> None:
    def f(x):
        own = custom_gradient(lambda g, y, z: g * x)(lambda z: z * 2)
        return own(x)

    assert grad(lambda x: vmap(f)(x).sum())(t([3.0, 4.0])).tolist() == [3, 4]


def test_mixed_precision_results() -> None:
    @custom_gradient(lambda g, y, x: g[0].astype(schuss.float64) + g[1])
    def f(x):
        return x.astype(schuss.float32), x

    a, b = f(t([1.0]))
    assert (a.dtype, b.dtype) == (schuss.float32, schuss.float64)
    assert grad(lambda x: f(x)[0].sum() * 2)(t([1.0])).tolist() == [2]


def test_errors_of_rules() -> None:
    x = t([1.0, 2.0])
    pair = custom_gradient(lambda g, y, a, b: g)(lambda a, b: a * b)
    with pytest.raises(GradientError, match="the rule must return a tuple of 2 gradients"):
        grad(lambda x: pair(x, x).sum())(x)
    short = custom_gradient(lambda g, y, a: g[0])(lambda a: a * 1)
    with pytest.raises(ShapeError, match="the result has another shape than what it belongs to"):
        grad(lambda x: short(x).sum())(x)
    listed = custom_gradient(lambda g, y, a: [g])(lambda a: a * 1)
    with pytest.raises(ArgumentError, match="the gradient has another structure"):
        grad(lambda x: listed(x).sum())(x)


# --- custom_jvp ---


@custom_jvp(lambda ts, y, x, w: 3 * ts[0] * w + ts[1] * x)
def product(x, w):
    return x * w


def test_custom_jvp() -> None:
    x, w = t([1.0, 2.0]), t([10.0, 20.0])
    assert jvp(product, (x, w), (t([1.0, 1.0]), t([0.0, 1.0])))[1].tolist() == [30, 62]
    assert jvp(lambda x: product(x, w), (x,), (t([1.0, 1.0]),))[1].tolist() == [30, 60]
    gx, gw = grad(lambda x, w: product(x, w).sum(), (0, 1))(x, w)
    assert (gx.tolist(), gw.tolist()) == ([30, 60], [1, 2])
    assert vmap(grad(product, (0, 1)))(x, w)[0].tolist() == [30, 60]
    batched = grad(lambda x, w: vmap(product, (0, None))(x, w).sum(), (0, 1))(x, t(10.0))
    assert (batched[0].tolist(), batched[1].item()) == ([30, 30], 3)
    tangents = jvp(vmap(product), (x, w), (t([1.0, 1.0]), t([0.0, 1.0])))[1]
    assert tangents.tolist() == [30, 62]


def test_custom_jvp_of_higher_order() -> None:
    exp = custom_jvp(lambda ts, y, x: ts[0] * y)(lambda x: schuss.exp(x))
    f = exp
    for _ in range(3):
        f = grad(f)
        assert f(t(0.5)).item() == pytest.approx(np.exp(0.5))
    slope = lambda x: jvp(exp, (x,), (schuss.ones_like(x),))[1]
    assert_trees_close(jvp(grad(slope), (t(0.5),), (t(1.0),))[1], schuss.exp(t(0.5)))


def test_a_result_without_floats() -> None:
    f = custom_gradient(lambda g, y, x: g)(lambda x: x > 0)
    assert f(t([1.0, -1.0])).tolist() == [True, False]
