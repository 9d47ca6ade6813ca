"""`vmap`: axes, structures, nesting, random numbers, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss import grad, nn, vmap
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    OutOfBoundsError,
    ShapeError,
    TransformError,
)

from .helpers import assert_trees_close, t

rng = np.random.default_rng(0)
X = rng.standard_normal((3, 4, 2))


def by_hand(f, *arrays):
    return np.stack([f(*each).numpy() for each in zip(*[map(t, a) for a in arrays], strict=True)])


def test_every_example_on_its_own() -> None:
    f = lambda x: schuss.softmax(x @ x.T, axis=0).sum(axis=1)
    np.testing.assert_allclose(vmap(f)(t(X)).numpy(), by_hand(f, X), rtol=1e-12)


def test_batches_that_were_computed_already() -> None:
    """A reshape that has its value knows no longer what it was made of."""
    x = schuss.arange(24).reshape(6, 4)
    x.numpy()
    found = schuss.vmap(lambda row: row.reshape(2, 2))(x)
    np.testing.assert_array_equal(found.numpy(), np.arange(24).reshape(6, 2, 2))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_in_axes(axis: int) -> None:
    f = lambda x: schuss.cumulative_sum(x, axis=0) * 2
    expected = by_hand(f, np.moveaxis(X, axis, 0))
    np.testing.assert_allclose(vmap(f, axis)(t(X)).numpy(), expected)
    np.testing.assert_allclose(vmap(f, (axis,))(t(X)).numpy(), expected)
    np.testing.assert_allclose(
        vmap(f, axis, out_axes=-1)(t(X)).numpy(), np.moveaxis(expected, 0, -1)
    )
    np.testing.assert_allclose(vmap(f, axis, out_axes=1)(t(X)).numpy(), np.moveaxis(expected, 0, 1))


def test_what_is_the_same_for_all() -> None:
    w = t(rng.standard_normal((2, 5)))
    y = vmap(lambda x, w: x @ w, in_axes=(0, None))(t(X), w)
    np.testing.assert_allclose(y.numpy(), X @ w.numpy())
    closed_over = vmap(lambda x: x @ w)(t(X))
    np.testing.assert_allclose(closed_over.numpy(), y.numpy(), rtol=1e-12)


def test_trees_of_arguments_axes_and_results() -> None:
    def f(p, x):
        return {"y": p["w"] * x, "pair": (p["b"][0], x + p["b"][1])}

    p = {"w": t([1.0, 2.0, 3.0]), "b": [t(10.0), t([[1.0, 2.0, 3.0]])]}
    x = t([1.0, 1.0, 1.0])
    axes = ({"w": 0, "b": [None, 1]}, 0)
    out = vmap(f, axes, out_axes={"y": 0, "pair": (None, 0)})(p, x)
    assert out["y"].tolist() == [1, 2, 3]
    assert out["pair"][0].tolist() == 10
    assert out["pair"][1].tolist() == [[2], [3], [4]]
    spread = vmap(f, axes)(p, x)
    assert spread["pair"][0].tolist() == [10, 10, 10]


def test_keyword_arguments_are_the_same_for_all() -> None:
    f = lambda x, *, scale, power=1: (x * scale) ** power
    assert vmap(f)(t([1.0, 2.0]), scale=t(3.0), power=2).tolist() == [9, 36]


def test_nested() -> None:
    a, b = t([1.0, 2.0]), t([10.0, 20.0, 30.0])
    table = vmap(lambda x: vmap(lambda y: x * y)(b))(a)
    assert table.tolist() == [[10, 20, 30], [20, 40, 60]]
    pairs = vmap(vmap(lambda x, y: x + y, (None, 0)), (0, None))(a, b)
    assert pairs.tolist() == [[11, 21, 31], [12, 22, 32]]


def test_results_without_examples() -> None:
    assert vmap(lambda x: t([7.0]))(t([1.0, 2.0])).tolist() == [[7], [7]]
    assert vmap(lambda x: t(7.0), out_axes=None)(t([1.0, 2.0])).item() == 7
    assert vmap(lambda x: None)(t([1.0])) is None


def test_no_examples() -> None:
    y = vmap(lambda x: (x @ x.T).sum(), out_axes=0)(schuss.zeros(0, 3, 2))
    assert y.shape == (0,)
    assert y.numpy().size == 0


def test_indexing_and_updates() -> None:
    def f(x, i):
        x = x + 0.0
        x[i] = 9.0
        x += 1
        return x, x[i], x[i:][:0] if isinstance(i, int) else x[::-1]

    xs, positions = t([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), schuss.tensor([2, 0])
    changed, taken, turned = vmap(f)(xs, positions)
    assert changed.tolist() == [[2, 3, 10], [10, 6, 7]]
    assert taken.tolist() == [10, 10]
    assert turned.tolist() == [[10, 3, 2], [7, 6, 10]]


def test_gradients_of_examples() -> None:
    model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1))
    loss = lambda m, x: (m(x) ** 2).sum()
    x = schuss.tensor(X[:, 0], dtype=schuss.float32)
    many = vmap(grad(loss), in_axes=(None, 0))(model, x)
    for i in range(3):
        assert_trees_close(
            schuss.trees.map(lambda g, i=i: g[i], many), grad(loss)(model, x[i]), 1e-5
        )


def test_ensembles_of_layers() -> None:
    models = [nn.Linear(2, 3) for _ in range(4)]
    together = schuss.trees.map(lambda *p: schuss.stack(list(p)), *models)
    x = schuss.tensor(X[0], dtype=schuss.float32)
    y = vmap(lambda m, x: m(x), in_axes=(0, None))(together, x)
    for i, model in enumerate(models):
        np.testing.assert_allclose(y[i].numpy(), model(x).numpy(), rtol=1e-6)


def test_gradients_go_through() -> None:
    w = t(rng.standard_normal(2), requires_grad=True)
    x = t(X, requires_grad=True)
    vmap(lambda x: schuss.tanh(x @ w).sum())(x).sum().backward()
    by_vmap = w.grad, x.grad
    w.grad = x.grad = None
    schuss.tanh(x @ w).sum().backward()
    assert_trees_close(by_vmap, (w.grad, x.grad))


def test_no_grad_inside() -> None:
    def f(x):
        with schuss.no_grad():
            y = x * x
        return x * y

    assert grad(lambda x: vmap(f)(x).sum())(t([2.0, 3.0])).tolist() == [4, 9]


def test_convolutional_layers() -> None:
    layer = nn.Conv2d(2, 3, 3, padding=1)
    x = schuss.random.normal((4, 5, 2, 6, 6))
    np.testing.assert_allclose(
        vmap(layer)(x).numpy(),
        layer(x.reshape(20, 2, 6, 6)).numpy().reshape(4, 5, 3, 6, 6),
        atol=1e-5,
    )


# --- random numbers ---


def test_each_example_draws_its_own() -> None:
    f = lambda x: x + schuss.random.uniform((100,), dtype=schuss.float64)
    y = vmap(f)(t(np.zeros((50, 1)))).numpy()
    assert len(np.unique(y)) == y.size
    assert abs(y.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(y[0], y[1])[0, 1]) < 0.4


def test_several_draws_in_one_function_are_independent() -> None:
    def f(x):
        a = schuss.random.uniform((64,), dtype=schuss.float64)
        b = schuss.random.uniform((64,), dtype=schuss.float64)
        return schuss.stack([a, b]) + x

    y = vmap(f)(t(np.zeros((20, 1)))).numpy()
    assert len(np.unique(y)) == y.size, "no number occurs twice, in any draw of any example"


def test_nested_draws() -> None:
    f = lambda x: x + schuss.random.uniform((8,), dtype=schuss.float64)
    y = vmap(vmap(f))(t(np.zeros((5, 6, 1)))).numpy()
    assert len(np.unique(y)) == y.size


def test_draws_outside_are_shared() -> None:
    noise = schuss.random.uniform((4,))
    y = vmap(lambda x: x + noise)(schuss.zeros(3, 1)).numpy()
    assert (y == y[0]).all()


def test_draws_are_a_function_of_the_state() -> None:
    f = lambda x: x + schuss.random.uniform((4,))

    def run():
        schuss.manual_seed(7)
        first = vmap(f)(schuss.zeros(3, 1)).numpy()
        return first, schuss.random.uniform((4,)).numpy()

    (first, after), (again, after_again) = run(), run()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(after, after_again)
    schuss.manual_seed(7)
    f(schuss.zeros(1)).numpy()
    np.testing.assert_array_equal(schuss.random.uniform((4,)).numpy(), after)


def test_the_numbers_of_an_example_do_not_depend_on_how_many_there_are() -> None:
    f = lambda x: x + schuss.random.uniform((4,))
    schuss.manual_seed(1)
    few = vmap(f)(schuss.zeros(3, 1)).numpy()
    schuss.manual_seed(1)
    many = vmap(f)(schuss.zeros(9, 1)).numpy()
    np.testing.assert_array_equal(few, many[:3])


def test_dropout_and_permutations() -> None:
    x = schuss.ones(6, 200)
    kept = vmap(lambda x: nn.functional.dropout(x, 0.5, training=True))(x).numpy() > 0
    assert len({row.tobytes() for row in kept}) == 6
    orders = vmap(lambda x: schuss.random.permutation(50) + x * 0)(
        schuss.zeros(6, 1, dtype=schuss.int64)
    )
    assert len({row.tobytes() for row in orders.numpy()}) == 6
    assert (np.sort(orders.numpy(), axis=1) == np.arange(50)).all()


def test_gradients_see_the_same_draw() -> None:
    """The noise of the value is the noise of the gradient."""

    def f(w, x):
        return (w * schuss.random.uniform((3,), dtype=schuss.float64)).sum() * x

    w = t(np.ones(3))
    value, g = vmap(schuss.value_and_grad(f), (None, 0))(w, t(np.ones(5)))
    np.testing.assert_allclose(g.numpy().sum(axis=1), value.numpy())


# --- what it refuses ---


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * x.sum().item(),
        lambda x: x[x > 0],
        lambda x: print(x) or x,
        lambda x: [x for _ in range(int(x.sum()))],
        lambda x: schuss.asarray(np.asarray(x)),
    ],
    ids=["if", "item", "mask", "print", "int", "numpy"],
)
def test_looking_at_an_example(look) -> None:
    line = look.__code__.co_firstlineno
    with pytest.raises(TransformError, match="vmap: this value depends on the example") as caught:
        vmap(look)(t(X))
    assert f"test_batching.py:{line}" in str(caught.value)
    assert "hint: choose with schuss.where" in str(caught.value)


def test_looking_at_what_is_the_same_for_all_is_allowed() -> None:
    scale = t(2.0)
    assert vmap(lambda x: x * 2 if scale.item() == 2 else x)(t([1.0])).tolist() == [2]


def test_an_example_that_got_out() -> None:
    kept = []
    vmap(lambda x: kept.append(x * 2) or x)(t([1.0, 2.0]))
    with pytest.raises(TransformError, match="nor after it except in its result"):
        kept[0].numpy()


def test_running_statistics_are_refused_and_stay() -> None:
    layer = nn.BatchNorm1d(4)
    x = schuss.ones(3, 5, 4)
    with pytest.raises(TransformError, match="a layer would take on a state that depends"):
        vmap(layer)(x)
    assert layer.running_mean.tolist() == [0, 0, 0, 0]
    assert vmap(layer.eval())(x).shape == (3, 5, 4)


def test_errors() -> None:
    x, y = t(np.ones((3, 2))), t(np.ones((4, 2)))
    with pytest.raises(ArgumentError, match="the arguments have 3 and 4 examples"):
        vmap(lambda x, y: x)(x, y)
    with pytest.raises(
        ArgumentError, match="no tensor among the arguments has an axis to map over"
    ):
        vmap(lambda x: x, in_axes=None)(x)
    with pytest.raises(ArgumentError, match="in_axes does not fit the tree that it speaks of"):
        vmap(lambda x: x, in_axes=(0, 0))(x)
    with pytest.raises(OutOfBoundsError, match="axis 2 does not exist"):
        vmap(lambda x: x, in_axes=2)(x)
    with pytest.raises(ArgumentError, match="out_axes is None for a result that differs"):
        vmap(lambda x: x, out_axes=None)(x)
    with pytest.raises(ArgumentTypeError, match="out_axes is made of integers and None"):
        vmap(lambda x: x, out_axes="0")(x)
    with pytest.raises(ArgumentTypeError, match="vmap: needs a function, got Tensor"):
        vmap(x)
    with pytest.raises(ShapeError, match="do not broadcast") as caught:
        vmap(lambda x: x + t([1.0, 2.0, 3.0]))(x)
    assert "(2,)" in str(caught.value), "shapes are those of one example"


def test_a_failed_call_leaves_nothing_behind() -> None:
    for _ in range(2):
        with pytest.raises(TransformError):
            vmap(lambda x: x.item())(t([1.0]))
    assert schuss.fixed_point(lambda x: x * 0.5, t(1.0)).item() < 1e-5
    assert vmap(lambda x: x)(t([1.0])).tolist() == [1]
