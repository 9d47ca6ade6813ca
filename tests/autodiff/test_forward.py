"""`jvp` and `linearize`: structures, nesting, what moves and what does not."""

from __future__ import annotations

import time

import numpy as np
import pytest

import schuss
from schuss import grad, jvp, linearize, nn, vmap
from schuss.errors import ArgumentError, ArgumentTypeError, DTypeError, GradientError
from schuss.execution.evaluate import watchers

from .helpers import assert_trees_close, t


def test_value_and_tangent() -> None:
    value, tangent = jvp(lambda x: x * x, (t([2.0, 3.0]),), (t([1.0, 10.0]),))
    assert value.tolist() == [4, 9]
    assert tangent.tolist() == [4, 60]
    assert not value.requires_grad
    assert not tangent.requires_grad


def test_trees_go_in_and_come_out() -> None:
    f = lambda p, y: {"product": p["w"] * y, "sum": [p["b"] + y, None]}
    p, y = {"w": t(2.0), "b": t(1.0)}, t(3.0)
    value, tangent = jvp(f, (p, y), ({"w": t(1.0), "b": t(10.0)}, t(100.0)))
    assert value["product"].item() == 6
    assert tangent["product"].item() == 3 + 200
    assert tangent["sum"][0].item() == 110
    assert tangent["sum"][1] is None


def test_aux_is_passed_on() -> None:
    value, tangent, aux = jvp(
        lambda x: (x * x, {"n": 3, "x": x}), (t(2.0),), (t(1.0),), has_aux=True
    )
    assert (value.item(), tangent.item(), aux["n"], aux["x"].item()) == (4, 4, 3, 2)
    assert not aux["x"].requires_grad


def test_layers() -> None:
    model, x = nn.Linear(3, 2), schuss.ones(4, 3)
    direction = schuss.trees.map(lambda p: schuss.ones_like(p), model)
    with schuss.no_grad():
        _, tangent = jvp(lambda m: m(x), (model,), (direction,))
    assert tangent.tolist() == [[4, 4]] * 4
    assert not tangent.requires_grad


def test_what_does_not_depend_on_the_argument_does_not_move() -> None:
    w = t([5.0])
    _, tangent = jvp(
        lambda x: [w * 2, x.astype(schuss.int32), x.detach()], (t([1.0]),), (t([1.0]),)
    )
    assert [each.tolist() for each in tangent] == [[0], [0], [0]]
    assert tangent[1].dtype == schuss.int32


def test_detach_and_no_grad_stop_tangents_as_they_stop_gradients() -> None:
    def f(x):
        with schuss.no_grad():
            y = x * x
        return x * y + x.detach()

    assert jvp(f, (t(3.0),), (t(1.0),))[1].item() == 9
    assert grad(f)(t(3.0)).item() == 9


def test_nested_directions_do_not_mix() -> None:
    """d/dx of x * (d/dy of x y at y = 1) = d/dx x² = 2 x."""
    f = lambda x: x * jvp(lambda y: x * y, (t(1.0),), (t(1.0),))[1]
    assert jvp(f, (t(3.0),), (t(1.0),))[1].item() == 6
    assert grad(f)(t(3.0)).item() == 6


def test_derivatives_of_every_order() -> None:
    f = lambda x: x**5
    for expected in (5 * 2**4, 20 * 2**3, 60 * 2**2, 120 * 2, 120, 0):
        f = lambda x, f=f: jvp(f, (x,), (schuss.ones_like(x),))[1]
        assert f(t(2.0)).item() == pytest.approx(expected)


def test_python_control_flow_on_values() -> None:
    f = lambda x: x * x if x.item() > 0 else -x
    assert jvp(f, (t(3.0),), (t(1.0),))[1].item() == 6
    assert jvp(f, (t(-3.0),), (t(1.0),))[1].item() == -1


def test_stays_connected_to_what_is_outside() -> None:
    w = t(3.0, requires_grad=True)
    _, tangent = jvp(lambda x: w * x * x, (t(2.0),), (t(1.0),))
    tangent.backward()
    assert w.grad.item() == 4


def test_poles_that_are_not_reached() -> None:
    f = lambda x: schuss.where(x > 0, schuss.sqrt(x), 0)
    assert jvp(f, (t([0.0, 4.0]),), (t([1.0, 1.0]),))[1].tolist()[1] == 0.25
    assert jvp(f, (t([0.0, 4.0]),), (t([0.0, 1.0]),))[1].tolist() == [0, 0.25]


# --- linearize ---


def test_linearize_runs_the_function_once_for_many_directions() -> None:
    calls = []

    def f(x):
        calls.append(x)
        return schuss.sin(x) * x

    x = t([0.5, 1.0])
    value, along = linearize(f, x)
    for v in ([1.0, 0.0], [0.0, 1.0], [2.0, 3.0]):
        assert_trees_close(along(t(v)), jvp(f, (x,), (t(v),))[1])
    assert_trees_close(value, f(x))
    assert len(calls) == 1 + 3 + 1


def test_linearize_computes_values_once() -> None:
    _, along = linearize(lambda x: schuss.exp(schuss.sin(x)), t([0.5, 1.0]))
    ran: list[str] = []
    along(t([1.0, 0.0])).numpy()
    watchers.append(lambda node: ran.append(node.op.name))
    try:
        along(t([0.0, 1.0])).numpy()
    finally:
        watchers.pop()
    assert "exp" not in ran
    assert "sin" not in ran


def test_linearize_is_linear_and_differentiable() -> None:
    x = t([0.5, 1.0])
    _, along = linearize(lambda x: x**3, x)
    g = grad(lambda v: (along(v) ** 2).sum())(t([1.0, 2.0]))
    slope = 3 * x.numpy() ** 2
    np.testing.assert_allclose(g.numpy(), 2 * slope**2 * [1, 2])


# --- cost ---


def test_a_long_chain_is_no_more_than_linear() -> None:
    def chain(x, n):
        for _ in range(n):
            x = x * 1.0001 + schuss.sin(x) * 0.001
        return x

    def count(n):
        ran: list[object] = []
        watchers.append(ran.append)
        try:
            jvp(lambda x: chain(x, n), (t(1.0),), (t(1.0),))[1].numpy()
        finally:
            watchers.pop()
        return len(ran)

    assert count(400) < 2.1 * count(200)
    started = time.process_time()
    count(3000)
    assert time.process_time() - started < 10, "not exponential"


# --- errors ---


def test_errors() -> None:
    x = t([1.0, 2.0])
    with pytest.raises(ArgumentTypeError, match="primals is a tuple, one for each argument of f"):
        jvp(lambda x: x, x, x)
    with pytest.raises(ArgumentError, match="needs a tangent for each argument: 1, got 2"):
        jvp(lambda x: x, (x,), (x, x))
    with pytest.raises(ArgumentError, match="the tangent has another structure"):
        jvp(lambda x: x, (x,), ([x],))
    with pytest.raises(ArgumentError, match="the tangent must have the shape of the tensor"):
        jvp(lambda x: x, (x,), (t(1.0),))
    with pytest.raises(DTypeError, match="jvp: gradients exist for floating and complex"):
        jvp(lambda x: x, (schuss.tensor([1]),), (schuss.tensor([1]),))
    with pytest.raises(GradientError, match="the function must return a tensor, not float"):
        jvp(lambda x: 1.0, (x,), (x,))
    with pytest.raises(ArgumentTypeError, match="linearize: needs a function, got Tensor"):
        linearize(x)


def test_messages_name_the_forward_line() -> None:
    _, tangent = jvp(lambda x: x * x, (t(2.0),), (t(1.0),))
    names = set()
    stack = [tangent._node]
    while stack:
        node = stack.pop()
        names.add(node.name)
        stack += node.inputs
    assert "multiply in the tangent of multiply" in names


def test_tangents_of_batches_of_tangents() -> None:
    f = lambda x: schuss.exp(schuss.sin(x)).sum()
    slope = lambda x: jvp(f, (x,), (schuss.ones_like(x),))[1]
    xs = t([[0.1, 0.2], [0.3, 0.4]])
    many = vmap(slope)(xs)
    assert_trees_close(many, schuss.stack([slope(xs[0]), slope(xs[1])]))
    _, curve = jvp(vmap(slope), (xs,), (schuss.ones_like(xs),))
    twice = lambda x: jvp(slope, (x,), (schuss.ones_like(x),))[1]
    assert_trees_close(curve, schuss.stack([twice(xs[0]), twice(xs[1])]))
