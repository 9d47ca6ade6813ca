"""`grad` and `value_and_grad`: nesting, structures, kinks, and what they leave behind."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest

import schuss
from schuss import grad, value_and_grad
from schuss.errors import ArgumentTypeError, DTypeError, GradientError
from schuss.functions import neural, pooling, windows
from schuss.nn.functional import softplus


def t(values, requires_grad=False) -> schuss.Tensor:
    return schuss.tensor(values, dtype=schuss.float64, requires_grad=requires_grad)


def total(f):
    return lambda *xs: f(*xs).sum()


# --- what goes in, what comes out ---


def test_value_and_gradient() -> None:
    value, gradient = value_and_grad(lambda x: (x * x).sum())(t([1, 2]))
    assert value.item() == 5
    assert gradient.tolist() == [2, 4]
    assert not value.requires_grad
    assert not gradient.requires_grad


def test_argnums() -> None:
    f = lambda a, b, c: (a * b * c).sum()
    a, b, c = t([2.0]), t([3.0]), t([5.0])
    assert grad(f)(a, b, c).tolist() == [15]
    assert grad(f, argnums=1)(a, b, c).tolist() == [10]
    assert grad(f, argnums=-1)(a, b, c).tolist() == [6]
    assert [g.tolist() for g in grad(f, argnums=(2, 0))(a, b, c)] == [[6], [15]]


def test_argnums_out_of_range() -> None:
    with pytest.raises(ArgumentTypeError, match="argnums names argument 2, there are 1"):
        grad(lambda x: x.sum(), argnums=2)(t([1.0]))


def test_has_aux() -> None:
    f = lambda x: ((x * x).sum(), {"double": x * 2, "name": "f"})
    (value, aux), gradient = value_and_grad(f, has_aux=True)(t([3.0]))
    assert value.item() == 9
    assert gradient.tolist() == [6]
    assert aux["double"].tolist() == [6]
    assert aux["name"] == "f"
    assert not aux["double"].requires_grad
    gradient, aux = grad(f, has_aux=True)(t([3.0]))
    assert gradient.tolist() == [6]


def test_keyword_arguments_are_passed_on() -> None:
    f = lambda x, *, scale: (x * scale).sum()
    assert grad(f)(t([1.0]), scale=4).tolist() == [4]


Pair = namedtuple("Pair", "left right")


def test_nested_structures() -> None:
    params = {"layers": [t([1.0]), (t([2.0]), t([3.0]))], "pair": Pair(t([4.0]), t([5.0]))}

    def f(p):
        a, (b, c) = p["layers"]
        return (a * b * c * p["pair"].left).sum()

    g = grad(f)(params)
    assert g["layers"][0].tolist() == [24]
    assert [each.tolist() for each in g["layers"][1]] == [[12], [8]]
    assert isinstance(g["layers"][1], tuple)
    assert g["pair"] == Pair(g["pair"].left, g["pair"].right)
    assert g["pair"].left.tolist() == [6]
    assert g["pair"].right.tolist() == [0], "not used"


def test_unused_argument_gives_zeros() -> None:
    g = grad(lambda x, y: y.sum())(t([[1.0, 2.0]]), t([1.0]))
    assert g.tolist() == [[0, 0]]
    assert g.dtype == schuss.float64
    assert grad(lambda x: schuss.tensor(1.0))(t([1.0])).tolist() == [0]


def test_the_same_tensor_twice() -> None:
    x = t([3.0])
    a, b = grad(lambda a, b: (a * a * b).sum(), argnums=(0, 1))(x, x)
    assert (a.tolist(), b.tolist()) == ([18], [9])


def test_arguments_are_not_touched() -> None:
    x = t([1.0], requires_grad=True)
    grad(lambda x: (x * x).sum())(x)
    assert x.grad is None
    y = t([1.0])
    grad(lambda x: (x * x).sum())(y)
    assert not y.requires_grad


def test_in_place_inside_the_function() -> None:
    def f(x):
        x += 1
        x[0] = 0
        return (x * x).sum()

    x = t([1.0, 2.0])
    assert grad(f)(x).tolist() == [0, 6]
    assert x.tolist() == [1, 2]


def test_python_control_flow_on_values() -> None:
    f = lambda x: x * x if x.item() > 0 else -x
    assert grad(f)(t(3.0)).item() == 6
    assert grad(f)(t(-3.0)).item() == -1


def test_no_grad_inside_and_outside() -> None:
    def f(x):
        with schuss.no_grad():
            y = x * x
        return (x * y).sum()

    assert grad(f)(t([3.0])).tolist() == [9]
    with schuss.no_grad():
        assert grad(lambda x: (x * x).sum())(t([3.0])).tolist() == [6]


@pytest.mark.parametrize("result", [1.0, None, [1.0]])
def test_not_a_tensor(result) -> None:
    with pytest.raises(GradientError, match="the function must return a tensor, not "):
        grad(lambda x: result)(t([1.0]))


def test_not_a_scalar() -> None:
    with pytest.raises(GradientError, match="the function must return a scalar") as caught:
        grad(lambda x: x * 2)(t([1.0, 2.0]))
    assert "value: (2,) float64" in str(caught.value)
    assert "hint: reduce it first" in str(caught.value)


def test_complex_results_are_refused() -> None:
    with pytest.raises(GradientError, match="grad: a complex number has no gradient") as caught:
        grad(lambda z: z * z)(schuss.tensor(1j))
    assert "hint: return its abs(), real() or imag()" in str(caught.value)


def test_derivatives_of_complex_numbers_nest() -> None:
    z = schuss.tensor(0.3 + 0.4j, dtype=schuss.complex128)
    slope = grad(lambda z: schuss.abs(z) ** 3)
    np.testing.assert_allclose(slope(z).numpy(), 3 * 0.5 * z.numpy(), rtol=1e-12)
    turned = grad(lambda z: schuss.real(slope(z)))(z)
    schuss.check_gradients(lambda z: schuss.abs(z) ** 3, [z.numpy()])
    np.testing.assert_allclose(turned.numpy(), 3 * (0.5 + 0.3 * z.numpy() / 0.5), rtol=1e-12)


def test_integers_are_refused() -> None:
    with pytest.raises(DTypeError, match="gradients exist for floating and complex dtypes only"):
        grad(lambda x: x.sum())(schuss.tensor([1, 2]))


def test_numbers_are_refused() -> None:
    with pytest.raises(
        ArgumentTypeError, match=r"can differentiate for tensors and lists, .* got float"
    ):
        grad(lambda x: x)(1.0)


def test_names_are_kept() -> None:
    def loss(x):
        """The loss."""

    assert grad(loss).__name__ == "loss"
    assert value_and_grad(loss).__doc__ == "The loss."


# --- nesting ---


def test_derivatives_of_every_order() -> None:
    f = lambda x: x**5
    for expected in (5 * 2**4, 20 * 2**3, 60 * 2**2, 120 * 2, 120, 0):
        f = grad(f)
        assert f(t(2.0)).item() == pytest.approx(expected)


def test_transcendental_orders() -> None:
    x, f = 0.7, schuss.sin
    for expected in (np.cos(x), -np.sin(x), -np.cos(x), np.sin(x)):
        f = grad(f)
        assert f(t(x)).item() == pytest.approx(expected)


def test_gradient_inside_a_function_of_an_outer_variable() -> None:
    """d/dy of (d/dx of x²y at x = y) = d/dy of 2y² = 4y."""
    outer = lambda y: grad(lambda x: x * x * y)(y)
    assert grad(outer)(t(3.0)).item() == 12


def test_perturbations_are_not_confused() -> None:
    """d/dx of x * (d/dy of (x + y) at 1) = 1, not 2."""
    f = lambda x: x * grad(lambda y: x + y)(t(1.0))
    assert grad(f)(t(5.0)).item() == 1


def test_gradient_of_value_and_grad() -> None:
    def f(x):
        value, gradient = value_and_grad(lambda z: z**3)(x)
        return value + gradient

    assert grad(f)(t(2.0)).item() == 3 * 4 + 6 * 2


def test_gradient_with_aux_inside() -> None:
    def f(x):
        gradient, aux = grad(lambda z: (z**3, z * 7), has_aux=True)(x)
        return gradient * aux

    assert grad(f)(t(2.0)).item() == pytest.approx(21 * 3 * 4)


def test_outer_backward_through_grad() -> None:
    w = t([2.0], requires_grad=True)
    x = t([3.0])
    g = grad(lambda z: (w * z * z).sum())(x)
    assert g.requires_grad
    g.sum().backward()
    assert w.grad.tolist() == [6]


def test_grad_at_a_leaf_stays_connected() -> None:
    w = t([2.0], requires_grad=True)
    (grad(lambda z: (z * z * z).sum())(w)).sum().backward()
    assert w.grad.tolist() == [12]


def test_grad_under_no_grad_is_not_connected() -> None:
    w = t([2.0], requires_grad=True)
    with schuss.no_grad():
        g = grad(lambda z: (z * z * z).sum())(w.detach())
    assert not g.requires_grad


def test_hessian_by_rows_is_symmetric_and_right() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 4))
    f = lambda x: schuss.exp(schuss.tanh(x @ a) @ x)
    x = t(rng.standard_normal(4) * 0.3)
    rows = [grad(lambda z, i=i: grad(f)(z)[i])(x).numpy() for i in range(4)]
    hessian = np.stack(rows)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)
    schuss.check_gradients(f, [x], order=2)


# --- kinks, and sides that are not taken ---


@pytest.mark.parametrize(
    ("f", "x", "expected"),
    [
        (schuss.abs, [-2, 0, 3], [-1, 0, 1]),
        (schuss.relu, [-2, 0, 3], [0, 0, 1]),
        (lambda x: schuss.maximum(x, 0), [-2, 0, 3], [0, 0.5, 1]),
        (lambda x: schuss.minimum(x, 0), [-2, 0, 3], [1, 0.5, 0]),
        (lambda x: schuss.clip(x, -1, 1), [-2, -1, 0, 1, 2], [0, 1, 1, 1, 0]),
        (schuss.max, [1, 3, 3], [0, 0.5, 0.5]),
        (schuss.min, [1, 1, 1, 3], [1 / 3, 1 / 3, 1 / 3, 0]),
        (schuss.sort, [3, 1, 1], [1, 1, 1]),
        (schuss.sign, [-1, 0, 1], [0, 0, 0]),
        (schuss.round, [0.5, 1.2], [0, 0]),
        (schuss.norm, [0, 0], [0, 0]),
        (schuss.std, [2, 2], [0, 0]),
        (schuss.prod, [0, 3, 4], [12, 0, 0]),
        (schuss.prod, [0, 3, 0], [0, 0, 0]),
        (schuss.cumulative_prod, [2, 0, 3], [1, 2 + 6, 0]),
        (lambda x: x**0, [0, 2], [0, 0]),
        (lambda x: x**1, [0, 2], [1, 1]),
        (lambda x: x**2, [0, -2], [0, -4]),
        (lambda x: x**3.0, [0, -2], [0, 12]),
        (lambda x: x % 2, [0.5, -0.5], [1, 1]),
        (softplus, [0, 800, -800], [0.5, 1, 0]),
        (schuss.sigmoid, [0, 800, -800], [0.25, 0, 0]),
        (schuss.tanh, [0, 800, -800], [1, 0, 0]),
        (lambda x: schuss.hypot(x, 0), [0, 3, -3], [0, 1, -1]),
    ],
)
def test_sub_gradients(f, x, expected) -> None:
    np.testing.assert_allclose(grad(total(f))(t(x)).numpy(), expected, atol=1e-12)


GUARDED = {
    "sqrt": (
        lambda x: schuss.where(x > 0, schuss.sqrt(x), 0),
        lambda x: x > 0,
        lambda x: 0.5 * x**-0.5,
        lambda x: -0.25 * x**-1.5,
    ),
    "inverse": (
        lambda x: schuss.where(x != 0, 1 / x, 0),
        lambda x: x != 0,
        lambda x: -(x**-2.0),
        lambda x: 2 * x**-3.0,
    ),
    "log": (
        lambda x: schuss.where(x > 0, schuss.log(x), 0),
        lambda x: x > 0,
        lambda x: 1 / x,
        lambda x: -(x**-2.0),
    ),
    "rsqrt": (
        lambda x: schuss.where(x > 0, schuss.rsqrt(x), 0),
        lambda x: x > 0,
        lambda x: -0.5 * x**-1.5,
        lambda x: 0.75 * x**-2.5,
    ),
    "power": (
        lambda x: schuss.where(x > 0, x**0.5, 0),
        lambda x: x > 0,
        lambda x: 0.5 * x**-0.5,
        lambda x: -0.25 * x**-1.5,
    ),
    "inverse power": (
        lambda x: schuss.where(x != 0, x**-2.0, 0),
        lambda x: x != 0,
        lambda x: -2 * x**-3.0,
        lambda x: 6 * x**-4.0,
    ),
    "log1p": (
        lambda x: schuss.where(x > 0, schuss.log1p(x - 1), 0),
        lambda x: x > 0,
        lambda x: 1 / x,
        lambda x: -(x**-2.0),
    ),
    "overflow": (
        lambda x: schuss.where(x < 100, schuss.exp(schuss.where(x < 100, x, 0)), 0),
        lambda x: x < 100,
        np.exp,
        np.exp,
    ),
}


@pytest.mark.parametrize("name", GUARDED)
def test_the_side_not_taken_leaks_nothing(name: str) -> None:
    f, taken, first, second = GUARDED[name]
    x = np.array([0.0, 0.5, 2.0, -0.0, 1e3])
    expected = [np.where(taken(x), d(np.where(taken(x), x, 1)), 0) for d in (first, second)]
    once = grad(total(f))
    twice = grad(total(once))
    np.testing.assert_allclose(once(t(x)).numpy(), expected[0], rtol=1e-12)
    np.testing.assert_allclose(twice(t(x)).numpy(), expected[1], rtol=1e-12)


def test_kinked_arcs_at_their_ends() -> None:
    for f, end in (
        (schuss.asin, 1.0),
        (schuss.acos, 1.0),
        (schuss.acosh, 1.0),
        (schuss.atanh, 1.0),
    ):
        g = grad(total(lambda x, f=f: schuss.where(x < -5, f(x), 0)))(t([end]))
        assert g.tolist() == [0]


def test_softmax_of_masked_scores() -> None:
    mask = np.array([True, False, True])
    f = lambda x: (schuss.softmax(schuss.where(mask, x, -np.inf)) * t([1.0, 2.0, 3.0])).sum()
    g = grad(f)(t([0.3, 0.7, -0.2]))
    p = np.exp([0.3, -0.2]) / np.exp([0.3, -0.2]).sum()
    expected = p * (np.array([1, 3]) - p @ [1, 3])
    np.testing.assert_allclose(g.numpy(), [expected[0], 0, expected[1]], atol=1e-15)


def test_zero_to_powers() -> None:
    a, b = t([0, 0, 0, 2]), t([0, 1, 2, 0])
    ga, gb = grad(total(schuss.pow), argnums=(0, 1))(a, b)
    assert ga.tolist() == [0, 1, 0, 0]
    np.testing.assert_allclose(gb.numpy(), [0, 0, 0, np.log(2)])


SMOOTH = {
    "logsumexp": lambda x: schuss.logsumexp(x, axis=0),
    "softmax": lambda x: schuss.softmax(x, axis=0),
    "log_softmax": schuss.log_softmax,
    "var": lambda x: schuss.var(x, axis=1, correction=1),
    "std": schuss.std,
    "norm": lambda x: schuss.norm(x, axis=0),
    "hypot of equals": lambda x: schuss.hypot(x, x * 1.0),
    "hypot": lambda x: schuss.hypot(x, x[::-1]),
    "logaddexp of equals": lambda x: schuss.logaddexp(x, x * 1.0),
    "logaddexp": lambda x: schuss.logaddexp(x, -x),
    "gelu": neural.gelu,
    "gelu tanh": lambda x: neural.gelu(x, "tanh"),
    "silu": neural.silu,
    "softplus": neural.softplus,
    "logsigmoid": neural.logsigmoid,
    "elu": neural.elu,
    "layer_norm": lambda x: neural.layer_norm(x, (4,)),
    "mean": lambda x: schuss.mean(x, axis=(0, 1)) ** 3,
    "einsum trace": lambda x: schuss.einsum("ii->i", x[:, :3]),
    "einsum": lambda x: schuss.einsum("ij,kj,k->i", x, x, x[:, 0]),
    "tensordot": lambda x: schuss.tensordot(x, x, axes=([0], [0])),
    "roll": lambda x: schuss.roll(x, (1, 2), axis=(0, 1)) * x,
    "repeat": lambda x: schuss.repeat(x, 2, axis=1) ** 2,
    "tile": lambda x: schuss.tile(x, (2, 1)) ** 2,
    "pad": lambda x: schuss.pad(x, [(1, 2), (0, 1)]) ** 2,
    "take_along_axis": lambda x: schuss.take_along_axis(x, schuss.argsort(x, axis=1), axis=1) ** 2,
    "cumulative_prod": lambda x: schuss.cumulative_prod(x, axis=1),
    "solve": lambda x: schuss.solve(x[:, :3] @ x[:, :3].mT + 2 * np.eye(3), x),
    "tril": lambda x: schuss.tril(x) @ x.mT,
    "conv2d": lambda x: windows.conv2d(x[None, None], x[None, None, :2, :2], padding="same"),
    "avg_pool2d": lambda x: pooling.avg_pool2d(x[None, None] ** 2, 2, 1, 1, False, False),
    "max_pool2d": lambda x: pooling.max_pool2d(x[None, None], 2, 1) ** 2,
    "adaptive_avg_pool2d": lambda x: pooling.adaptive_avg_pool2d(x[None, None] ** 2, (2, 3)),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_composed_functions_have_right_gradients(name: str) -> None:
    x = np.random.default_rng(1).permutation(np.linspace(0.3, 2.1, 12)).reshape(3, 4)
    schuss.check_gradients(SMOOTH[name], [x])


# --- what they leave behind ---


def test_results_do_not_chain_from_step_to_step() -> None:
    p = t([1.0, -2.0])
    loss = lambda p: (p * p).sum()
    for _ in range(1000):
        p = p - 0.01 * grad(loss)(p)
        p.numpy()
    np.testing.assert_allclose(p.numpy(), np.array([1, -2]) * 0.98**1000)
    assert p._node.inputs == ()


def test_results_of_unevaluated_steps_are_right() -> None:
    p = t([1.0, -2.0])
    for _ in range(300):
        p = p - 0.01 * grad(lambda p: (p * p).sum())(p)
    np.testing.assert_allclose(p.numpy(), np.array([1, -2]) * 0.98**300)


def test_value_keeps_no_tape() -> None:
    value, _ = value_and_grad(lambda p: (p * p).sum())(t([1.0, 2.0]))
    value.numpy()
    assert value._node.inputs == ()
