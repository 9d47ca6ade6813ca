"""`cond` and `while_loop`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import schuss
from schuss import grad, jvp, vmap
from schuss.errors import ArgumentError, ArgumentTypeError, GradientError, ShapeError
from schuss.execution.tiers import using

X = schuss.tensor([0.5, -1.5, 2.0], dtype=schuss.float64)


def choice(x: Any, w: Any) -> Any:
    """Different branches, with results of two dtypes, and a tensor from outside."""
    y, n = schuss.cond(
        x.sum() > 0,
        lambda a: (schuss.sin(a) * w, schuss.tensor(1)),
        lambda a: (a * a, schuss.tensor(2)),
        x,
    )
    return (y**2).sum(), n


@pytest.mark.parametrize("tier", ["reference", "compiled"])
def test_cond(tier: str) -> None:
    w = schuss.tensor(3.0, dtype=schuss.float64)
    with using(tier):
        for x, expected, n in ((X, (schuss.sin(X) * w) ** 2, 1), (-X, X**4, 2)):
            y, chosen = choice(x, w)
            assert y.item() == pytest.approx(expected.sum().item(), rel=1e-12)
            assert chosen.item() == n
            gx, gw = grad(lambda x, w: choice(x, w)[0], (0, 1))(x, w)
            if n == 1:
                slope = 2 * np.sin(X.numpy()) * np.cos(X.numpy()) * 9
                np.testing.assert_allclose(gx.numpy(), slope, rtol=1e-12)
                assert gw.item() == pytest.approx(6 * (np.sin(X.numpy()) ** 2).sum())
            else:
                np.testing.assert_allclose(gx.numpy(), 4 * x.numpy() ** 3, rtol=1e-12)
                assert gw.item() == 0


def test_only_the_chosen_branch_runs() -> None:
    table = schuss.tensor([1.0, 2.0])
    pick = lambda i: schuss.cond(i < 2, lambda i: table[i], lambda i: table[0] * 0, i)
    assert pick(schuss.tensor(1)).item() == 2
    assert pick(schuss.tensor(7)).item() == 0  # table[7] would be an error


def test_cond_decided_in_python() -> None:
    assert schuss.cond(True, lambda: 1, lambda: 2) == 1
    assert schuss.cond(np.bool_(False), lambda x: x, lambda x: -x, 2) == -2


def test_cond_under_vmap_and_jit() -> None:
    f = lambda x: schuss.cond(x.sum() > 0, lambda x: x * 2, lambda x: -x, x)
    xs = schuss.stack([X, -X, X])
    expected = np.stack([f(x).numpy() for x in xs])
    np.testing.assert_array_equal(vmap(f)(xs).numpy(), expected)
    shared = vmap(lambda x: schuss.cond(X[0] > 0, lambda x: x * 2, lambda x: -x, x))(xs)
    np.testing.assert_array_equal(shared.numpy(), 2 * xs.numpy())
    fast = schuss.jit(f)
    for x in (X, -X, X, -X):
        np.testing.assert_array_equal(fast(x).numpy(), f(x).numpy())


def test_cond_in_a_scan() -> None:
    def step(c: Any, x: Any) -> Any:
        return schuss.cond(c > 1, lambda c, x: c - x, lambda c, x: c + x, c, x), c

    def run(x: Any) -> Any:
        c, ys = schuss.scan(step, schuss.tensor(0.0, dtype=schuss.float64), x)
        return c + (ys**2).sum()

    x = schuss.tensor([0.7, 0.8, 0.9, 0.3], dtype=schuss.float64)
    for tier in ("reference", "compiled"):
        with using(tier):
            schuss.check_gradients(run, [x.numpy()])


def newton(a: Any) -> Any:
    """The square root of a, and how many steps it took."""

    def far(carry: Any) -> Any:
        x, _ = carry
        return schuss.abs(x * x - a) > 1e-12 * a

    def step(carry: Any) -> Any:
        x, n = carry
        return (x + a / x) / 2, n + 1

    return schuss.while_loop(far, step, (schuss.ones((), dtype=schuss.float64), schuss.tensor(0)))


@pytest.mark.parametrize("tier", ["reference", "compiled"])
def test_while_loop(tier: str) -> None:
    with using(tier):
        for a in (2.0, 9.0):
            root, n = newton(schuss.tensor(a, dtype=schuss.float64))
            assert root.item() == pytest.approx(np.sqrt(a), rel=1e-12)
            assert 3 < n.item() < 10


def test_while_loop_forwards_and_in_batches() -> None:
    a = schuss.tensor([2.0, 9.0, 0.3], dtype=schuss.float64)
    roots, steps = vmap(newton)(a)
    np.testing.assert_allclose(roots.numpy(), np.sqrt(a.numpy()), rtol=1e-12)
    assert steps.numpy().tolist() == [newton(x)[1].item() for x in a]
    one = schuss.ones((), dtype=schuss.float64)
    _, slope = jvp(lambda a: newton(a)[0], (a[0],), (one,))
    assert slope.item() == pytest.approx(0.5 / np.sqrt(2.0), rel=1e-9)
    fast = schuss.jit(lambda a: newton(a)[0])
    for i in (0, 1, 2, 0):
        assert fast(a[i]).item() == pytest.approx(np.sqrt(a[i].item()), rel=1e-12)


# --- errors ---


def test_while_loop_has_no_gradient() -> None:
    a = schuss.tensor(2.0, dtype=schuss.float64, requires_grad=True)
    root, _ = newton(a)
    assert root.requires_grad
    with pytest.raises(GradientError, match=r"while_loop: has no gradient backwards(?s:.)*scan"):
        root.backward()


def test_errors_of_cond() -> None:
    p, x = schuss.tensor(True), schuss.zeros((2,))
    same = lambda x: x
    with pytest.raises(ArgumentTypeError, match="cond: needs a function, got int"):
        schuss.cond(p, 1, same, x)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="pred must be a tensor or a bool, got int"):
        schuss.cond(1, same, same, x)
    with pytest.raises(ShapeError, match=r"pred must have one element(?s:.)*where"):
        schuss.cond(x > 0, same, same, x)
    with pytest.raises(ArgumentError, match="both branches must return the same structure"):
        schuss.cond(p, same, lambda x: (x, x), x)
    with pytest.raises(ShapeError, match="both branches must return the same shapes and dtypes"):
        schuss.cond(p, same, lambda x: x.sum(), x)


def test_errors_of_while_loop() -> None:
    x = schuss.zeros((2,))
    with pytest.raises(ArgumentTypeError, match="while_loop: init must hold at least one tensor"):
        schuss.while_loop(lambda x: x > 0, lambda x: x, 3)
    with pytest.raises(ShapeError, match=r"while_loop: pred must have one element"):
        schuss.while_loop(lambda x: x > 0, lambda x: x, x)
    with pytest.raises(
        ArgumentError, match="the carry that body_fun returns has another structure"
    ):
        schuss.while_loop(lambda x: x.sum() > 0, lambda x: (x,), x)
    with pytest.raises(ShapeError, match="while_loop: a carry must keep its shape and dtype"):
        schuss.while_loop(lambda x: x.sum() > 0, lambda x: x.sum(), x)
