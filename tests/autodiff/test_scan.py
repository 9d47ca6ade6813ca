"""`scan` against the loop that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import grad, jvp, trees, vmap
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    GradientError,
    OutOfBoundsError,
    ShapeError,
    TransformError,
)
from schuss.execution.tiers import using
from schuss.graph import ancestors

RNG = np.random.default_rng(0)
T, B, N, H = 5, 3, 4, 6


def tensor(*shape: int) -> schuss.Tensor:
    return schuss.tensor(RNG.uniform(-0.7, 0.7, shape), dtype=schuss.float64)


def plain(f: Any, init: Any, xs: Any, length: int | None = None, reverse: bool = False) -> Any:
    """What `scan` means, one step after the other."""
    count = trees.leaves(xs)[0].shape[0] if length is None else length
    ys: list[Any] = [None] * count
    carry = init
    for t in range(count)[:: -1 if reverse else 1]:
        carry, ys[t] = f(carry, None if xs is None else trees.map(lambda x: x[t], xs))  # noqa: B023
    return carry, trees.map(lambda *each: schuss.stack(list(each)), *ys)


def rnn(w: Any, u: Any, b: Any, v: Any) -> Callable[..., Any]:
    def step(carry: Any, x: Any) -> Any:
        h, total = carry
        new = schuss.tanh(x @ w + h @ u + b)
        return (new, total + (new * new).sum(1)), {"out": new @ v, "h": new, "old": h * 0.3}

    return step


def inputs() -> list[schuss.Tensor]:
    return [tensor(N, H), tensor(H, H), tensor(H), tensor(H, 2), tensor(B, H), tensor(T, B, N)]


def loss(scan: Any, reverse: bool = False) -> Callable[..., Any]:
    def run(w: Any, u: Any, b: Any, v: Any, h: Any, xs: Any) -> Any:
        start = (h, schuss.zeros((B,), dtype=schuss.float64))
        (last, total), ys = scan(rnn(w, u, b, v), start, xs, reverse=reverse)
        return (last**3).sum() + total.sum() + (ys["out"] ** 2).sum() + (ys["h"] * ys["old"]).sum()

    return run


def close(a: Any, b: Any) -> None:
    for x, y in zip(trees.leaves(a), trees.leaves(b), strict=True):
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("tier", ["reference", "compiled"])
@pytest.mark.parametrize("reverse", [False, True])
def test_values_and_gradients(tier: str, reverse: bool) -> None:
    args = inputs()
    every = tuple(range(len(args)))
    with using(tier):
        found = schuss.value_and_grad(loss(schuss.scan, reverse), every)(*args)
        close(found, schuss.value_and_grad(loss(plain, reverse), every)(*args))


def test_tangents_second_order_and_batches() -> None:
    args = inputs()
    vs = [tensor(*x.shape) for x in args]
    ours, theirs = loss(schuss.scan), loss(plain)
    close(jvp(ours, args, vs), jvp(theirs, args, vs))
    every = tuple(range(len(args)))
    close(jvp(grad(ours, every), args, vs)[1], jvp(grad(theirs, every), args, vs)[1])
    many = [tensor(2, *x.shape) for x in args]
    close(vmap(grad(ours, every))(*many), vmap(grad(theirs, every))(*many))
    axes = (None, None, None, None, None, 0)
    close(vmap(ours, axes)(*args[:-1], many[-1]), vmap(theirs, axes)(*args[:-1], many[-1]))


def test_products_without_the_carry_are_outside() -> None:
    """One loop forwards and one backwards, and in each no product but that with the carry."""
    args = inputs()
    found = grad(loss(schuss.scan), tuple(range(len(args))))(*args)
    nodes = ancestors([g._node for g in found], lambda node: True)
    loops = [node.attributes["loop"] for node in nodes if node.op and node.op.name == "scan"]
    ops = [[step.op.name for step in loop.body.steps].count("matmul") for loop in loops]
    assert ops == [1, 1]


def test_ends_only_when_nothing_is_differentiated() -> None:
    u, x = tensor(H, H), tensor(T, B, H)
    last, _ = schuss.scan(lambda h, x: (schuss.tanh(h @ u + x), None), tensor(B, H), x)
    (node,) = [n for n in ancestors([last._node], lambda n: True) if n.op and n.op.name == "scan"]
    assert node.size == B * H


def test_carries_of_several_dtypes_and_no_xs() -> None:
    def step(carry: Any, _: Any) -> Any:
        i, x = carry
        return (i + 1, schuss.where(i % 2 == 0, x * 2, x + 1)), (i, x)

    start = (schuss.tensor(3), tensor(2))
    for tier in ("reference", "compiled"):
        with using(tier):
            close(schuss.scan(step, start, length=4), plain(step, start, None, length=4))

    def total(x: Any) -> Any:
        return (schuss.scan(step, (start[0], x), length=4)[1][1] ** 2).sum()

    def expected(x: Any) -> Any:
        return (plain(step, (start[0], x), None, length=4)[1][1] ** 2).sum()

    close(grad(total)(start[1]), grad(expected)(start[1]))


@pytest.mark.parametrize("tier", ["reference", "compiled"])
def test_results_of_half_precision_beside_others_are_one_loop(tier: str) -> None:
    w, h, xs = (tensor(*shape).astype(schuss.float32) for shape in ((H, H), (B, H), (T, B, H)))

    def step(h: Any, x: Any) -> Any:
        b = h.astype(schuss.bfloat16) @ w.astype(schuss.bfloat16)
        h = schuss.tanh(x + b.astype(schuss.float32))
        return h, {"b": b, "h": h * 2, "f": (h * 3).astype(schuss.float16), "i": h > 0}

    def loss(scan: Any) -> Callable[..., Any]:
        def run(h: Any, xs: Any) -> Any:
            last, ys = scan(step, h, xs)
            halves = (ys[name].astype(schuss.float32) for name in "bf")
            return (last**2).sum() + sum(((x * x).sum() for x in halves), ys["h"].sum())

        return run

    def agree(found: Any, expected: Any) -> None:
        for x, y in zip(trees.leaves(found), trees.leaves(expected), strict=True):
            assert x.dtype == y.dtype
            a, b = (each.numpy().astype(float) for each in (x, y))
            np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-2)

    def loops(results: Any) -> int:
        nodes = ancestors([x._node for x in trees.leaves(results)], lambda node: True)
        return sum(node.op is not None and node.op.name == "scan" for node in nodes)

    found = schuss.scan(step, h, xs)
    assert loops(found) == 2  # one for truth values
    slopes = grad(loss(schuss.scan), (0, 1))(h, xs)
    assert loops(slopes) == 2  # forwards and backwards
    many = schuss.stack([xs, xs * 2])
    with using(tier):
        agree(found, plain(step, h, xs))
        agree(slopes, grad(loss(plain), (0, 1))(h, xs))
        agree(*[jvp(loss(each), (h, xs), (h, xs)) for each in (schuss.scan, plain)])
        agree(*[vmap(lambda xs: each(step, h, xs))(many) for each in (schuss.scan, plain)])  # noqa: B023
        agree(*[vmap(grad(loss(each), 1), (None, 0))(h, many) for each in (schuss.scan, plain)])


def test_nothing_to_do_and_constant_results() -> None:
    start = tensor(2)
    carry, ys = schuss.scan(lambda c, x: (c, x * 2), start, schuss.zeros((0, 3)))
    assert carry is start
    assert (ys.shape, ys.dtype) == ((0, 3), schuss.float32)
    _, ys = schuss.scan(lambda c, x: (c, schuss.ones((2,))), start, schuss.zeros((3, 1)))
    np.testing.assert_array_equal(ys.numpy(), np.ones((3, 2)))


def test_loops_in_loops() -> None:
    u, xs = tensor(H, H), tensor(3, 2, H)

    def nested(scan: Any) -> Callable[..., Any]:
        def run(u: Any, xs: Any) -> Any:
            def outer(h: Any, rows: Any) -> Any:
                h, ys = scan(lambda h, x: (schuss.tanh(h @ u + x), h), h, rows)
                return h, ys.sum(0)

            h, ys = scan(outer, schuss.zeros((H,), dtype=schuss.float64), xs)
            return (h**2).sum() + (ys**3).sum()

        return run

    for tier in ("reference", "compiled"):
        with using(tier):
            close(grad(nested(schuss.scan), (0, 1))(u, xs), grad(nested(plain), (0, 1))(u, xs))


def test_each_step_draws_numbers_of_its_own() -> None:
    schuss.manual_seed(0)
    _, ys = schuss.scan(lambda c, _: (c, schuss.random.uniform((4,))), schuss.zeros(()), length=3)
    rows = ys.numpy()
    assert not np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[1], rows[2])


def test_one_structure_in_every_step_of_training() -> None:
    """The second recording of a loop compiles nothing."""
    x = tensor(T, B, H)
    with using("compiled"):
        for rate in (0.1, 0.2, 0.3):
            u = tensor(H, H)

            def step(h: Any, x: Any, u: Any = u, rate: float = rate) -> Any:
                return schuss.tanh(h @ u + x * rate), None

            schuss.scan(step, schuss.zeros((B, H), dtype=schuss.float64), x)[0].numpy()
            seconds = schuss.last_run().compile_seconds
        assert seconds == 0


def test_jit_and_any_number_of_threads() -> None:
    args = inputs()
    step = schuss.jit(lambda *args: grad(loss(schuss.scan), tuple(range(len(args))))(*args))
    found = [step(*args) for _ in range(3)]
    before = schuss.get_num_threads()
    try:
        schuss.set_num_threads(1)
        alone = step(*args)
    finally:
        schuss.set_num_threads(before)
    for a, b in zip(found[-1], alone, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    close(found[0], found[-1])


def test_an_index_outside_names_the_line() -> None:
    table = tensor(4, 2)

    def run(first: int) -> schuss.Tensor:
        def step(i: Any, _: Any) -> Any:
            return i + 1, table[i]

        return schuss.scan(step, schuss.tensor(first), length=3)[1]

    for tier in ("reference", "compiled"):
        with using(tier):
            np.testing.assert_array_equal(run(1).numpy(), table.numpy()[1:])
            with pytest.raises(
                OutOfBoundsError, match=r"scan: index 4 is outside axis 0(?s:.)*test_scan"
            ):
                run(2).numpy()


# --- errors ---


def test_errors() -> None:
    x, c = schuss.zeros((3, 2)), schuss.zeros((2,))
    same = lambda c, x: (c, x)
    with pytest.raises(ArgumentTypeError, match="scan: needs a function, got int"):
        schuss.scan(3, c, x)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="scan: init must hold at least one tensor"):
        schuss.scan(same, 0.0, x)
    with pytest.raises(ArgumentError, match="scan: needs xs or a length"):
        schuss.scan(same, c)
    with pytest.raises(ArgumentError, match="length must not be negative, got -1"):
        schuss.scan(same, c, length=-1)
    with pytest.raises(ArgumentTypeError, match=r"length must be an integer, got 2.0"):
        schuss.scan(same, c, length=2.0)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="xs must have a first axis to loop over"):
        schuss.scan(same, c, schuss.tensor(1.0))
    with pytest.raises(ArgumentError, match="all xs must have 3 steps along their first axis"):
        schuss.scan(same, c, (x, schuss.zeros((4,))))
    with pytest.raises(ArgumentTypeError, match=r"f must return a pair \(carry, y\), not Tensor"):
        schuss.scan(lambda c, x: c, c, x)  # type: ignore[arg-type, return-value]
    with pytest.raises(ArgumentError, match="the carry that f returns has another structure"):
        schuss.scan(lambda c, x: ((c, c), x), c, x)
    with pytest.raises(ShapeError, match=r"a carry must keep its shape and dtype(?s:.)*test_scan"):
        schuss.scan(lambda c, x: (c.sum(), x), c, x)


def test_looking_at_a_value() -> None:
    with pytest.raises(
        TransformError, match=r"another one in each step of the loop(?s:.)*test_scan"
    ):
        schuss.scan(lambda c, x: (c if c.sum() > 0 else -c, x), schuss.zeros((2,)), length=2)


def test_layers_that_would_keep_a_state() -> None:
    norm = schuss.nn.BatchNorm1d(2)
    with pytest.raises(TransformError, match="scan: a layer would take on a state inside"):
        schuss.scan(lambda c, x: (norm(c + x), None), schuss.zeros((3, 2)), schuss.ones((4, 3, 2)))
    norm.eval()
    schuss.scan(lambda c, x: (norm(c + x), None), schuss.zeros((3, 2)), schuss.ones((4, 3, 2)))


def test_rules_of_its_own_inside() -> None:
    clipped = schuss.custom_gradient(lambda g, y, x: g)(lambda x: x * 2)
    with pytest.raises(GradientError, match="derivatives of their own"):
        schuss.scan(lambda c, x: (clipped(c), x), schuss.zeros((2,)), schuss.zeros((3, 2)))
