"""Operands that convolutions compute as they read them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.compiler.graphs import agree, numbers, recorded

import schuss
from schuss.compiler import prologues
from schuss.compiler.program import Compiled, compile_graph
from schuss.compiler.units import Convolution
from schuss.compiler.verify import verify
from schuss.execution import tiers
from schuss.nn import functional as F  # noqa: N812


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prologues, "_FEWEST", 1)


def compiled(f: Callable[..., Any], *arrays: np.ndarray) -> Compiled:
    made = f(*map(schuss.tensor, arrays))
    found = compile_graph(recorded(*(made if isinstance(made, (list, tuple)) else [made])))
    verify(found)
    return found


def computed(made: Compiled) -> list[tuple[str, bool, bool]]:
    """For each convolution whether its operands are computed."""
    units = [unit for unit in made.units if isinstance(unit, Convolution)]
    return [(u.value.op, *[p is not None for p in u.prologues]) for u in units]


def in_memory(made: Compiled, op: str) -> bool:
    return any(value.op == op for unit in made.units for value in unit.writes())


def weights(*sizes: int) -> list[np.ndarray]:
    """Of convolutions with so many inputs and outputs."""
    pairs = itertools.pairwise(sizes)
    return [numbers(o, c, 3, 3, seed=i) / 9 for i, (c, o) in enumerate(pairs)]


def scaled(y: Any, scale: Any) -> Any:
    """What has to wait until all of y is there."""
    centred = y - y.mean(axis=(0, 2, 3), keepdims=True)
    return (centred * scale.reshape((1, -1, 1, 1)) + 0.3).relu()


def two(padding: int) -> Callable[..., Any]:
    """Two convolutions, between which something is computed."""

    def f(x: Any, w: Any, v: Any, scale: Any) -> Any:
        y = scaled(F.conv2d(x, w, padding=1), scale)
        return F.conv2d(y, v, padding=padding)

    return f


# images, height, width: few tiles, whose transform is a launch of its own, and many
SIZES = [(1, 13, 12), (3, 12, 12), (7, 7, 9), (40, 8, 5), (9, 21, 30), (2, 3, 100), (33, 4, 4)]


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_what_stands_between_convolutions(size: tuple[int, ...], padding: int) -> None:
    n, *image = size
    arrays = numbers(n, 32, *image), *weights(32, 48, 32), numbers(48)
    made = compiled(two(padding), *arrays)
    tiles = n * np.prod([(s + 2 * padding - 1) // 2 for s in image])
    goes = tiles >= 36
    assert computed(made)[1] == ("convolution", goes, False)
    assert in_memory(made, "relu") != goes
    agree(two(padding), *arrays, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("padding", [0, 3, 4])
def test_gradients_where_more_or_less_is_seen_of_the_border(padding: int) -> None:
    """The gradient for the input begins to read inside of what is computed, or outside of it."""

    def loss(x: Any, w: Any, v: Any, scale: Any) -> Any:
        y = scaled(F.conv2d(x, w, padding=padding), scale)
        return (F.conv2d(y, v) ** 2).mean()

    arrays = numbers(5, 32, 9, 11) / 3, *weights(32, 32, 8), numbers(32) / 9
    g = schuss.grad(loss, argnums=(0, 1))
    assert computed(compiled(g, *arrays))[-1] == ("convolution", True, False)
    agree(g, *arrays, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("act", ["abs", "exp", "sigmoid", "silu", "sqrt", "floor"])
@pytest.mark.parametrize("n", [3, 40])
def test_what_stands_before_and_behind_may_be_the_same(act: str, n: int) -> None:
    """Both are functions of one module."""

    def f(x: Any, w: Any, v: Any) -> Any:
        y = F.conv2d(x, w, padding=1)
        y = y - y.mean(axis=(0, 2, 3), keepdims=True) + 3.0
        apply = getattr(F, act, None) or getattr(schuss, act)
        y = apply(F.conv2d(apply(y.abs() * 0.1), v, padding=1).abs() * 0.1)
        return y.sum(axis=1), y.relu()

    arrays = numbers(n, 32, 12, 12) / 9, *weights(32, 48, 32)
    made = compiled(f, *arrays)
    assert computed(made)[1] == ("convolution", True, False) or act in ("sigmoid", "silu")
    agree(f, *arrays, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", SIZES[1:])
def test_gradients(size: tuple[int, ...]) -> None:
    n, *image = size
    arrays = numbers(n, 32, *image) / 3, *weights(32, 32, 48), numbers(32) / 9

    def loss(x: Any, w: Any, v: Any, scale: Any) -> Any:
        return (two(1)(x, w, v, scale) ** 2).mean()

    g = schuss.grad(loss, argnums=(0, 1, 2, 3))
    made = compiled(g, *arrays)
    of_weights = [both for op, *both in computed(made) if op == "convolution_weight"]
    assert of_weights == [[True, False], [False, True]]
    assert computed(made).count(("convolution", True, False)) == 2
    assert not in_memory(made, "relu")
    agree(g, *arrays, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str) -> None:
    """What is computed is rounded as if it had been stored."""
    arrays = numbers(3, 32, 12, 12), *weights(32, 32, 32), numbers(32)
    halves = [schuss.tensor(each).astype(getattr(schuss, dtype)) for each in arrays]
    found = {}
    for tier in ("reference", "compiled"):
        with tiers.using(tier):
            found[tier] = two(1)(*halves).astype(schuss.float32).numpy()
    np.testing.assert_allclose(found["compiled"], found["reference"], rtol=0.02, atol=0.1)


def test_borders_are_zeros_and_not_what_is_made_of_zeros() -> None:
    x, w = np.zeros((4, 32, 8, 8), "f4"), np.zeros((32, 32, 3, 3), "f4")
    v = np.ones((32, 32, 3, 3), "f4")

    def f(x: Any, w: Any, v: Any) -> Any:
        y = F.conv2d(x, w, padding=1)
        return F.conv2d(y + y.mean(axis=(0, 2, 3), keepdims=True) + 1.0, v, padding=1)

    assert computed(compiled(f, x, w, v))[1][1]
    with tiers.using("compiled"):
        y = f(*map(schuss.tensor, (x, w, v))).numpy()
    np.testing.assert_allclose(y[0, 0, 0], 32 * np.array([4, 6, 6, 6, 6, 6, 6, 4]), rtol=1e-5)


def used_otherwise() -> dict[str, Callable[..., Any]]:
    def between(f: Callable[[Any], Any]) -> Callable[..., Any]:
        def g(x: Any, w: Any, v: Any, scale: Any) -> Any:
            y = scaled(F.conv2d(x, w, padding=1), scale)
            return F.conv2d(y, v, padding=1), f(y)

        return g

    def long(x: Any, w: Any, v: Any, scale: Any) -> Any:
        y = schuss.tanh(schuss.sin(scaled(F.conv2d(x, w, padding=1), scale).exp()))
        return F.conv2d(y.relu(), v, padding=1)

    def added(x: Any, w: Any, v: Any, scale: Any) -> Any:
        """Two images would be read in place of one."""
        y = F.conv2d(x, w, padding=1)
        y = scaled(y, scale) + F.conv2d(x, 2 * w, padding=1)
        return F.conv2d(y, v, padding=1), y.exp().sum(axis=(0, 2, 3))

    return {
        "pooling": between(lambda y: F.max_pool2d(y, 2)),
        "product": between(lambda y: y.reshape((3, -1)) @ schuss.ones((48 * 144, 2))),
        "other kernel": between(lambda y: F.conv2d(y, schuss.ones((8, 48, 1, 1)))),
        "long": long,
        "of two images": added,
    }


@pytest.mark.parametrize("f", used_otherwise().values(), ids=used_otherwise())
def test_what_has_to_be_in_memory_is_read_from_there(f: Callable[..., Any]) -> None:
    arrays = numbers(3, 32, 12, 12), *weights(32, 48, 32), numbers(48)
    assert not any(operand for _, *both in computed(compiled(f, *arrays)) for operand in both)
    agree(f, *arrays, rtol=1e-4, atol=5e-3)


def test_what_reductions_and_maps_look_at_is_computed_again() -> None:
    def f(x: Any, w: Any, v: Any, scale: Any) -> Any:
        y = scaled(F.conv2d(x, w, padding=1), scale)
        return F.conv2d(y, v, padding=1), y.sum(axis=(0, 2, 3)), (y > 1).sum(axis=(2, 3))

    arrays = numbers(3, 32, 12, 12), *weights(32, 48, 32), numbers(48)
    made = compiled(f, *arrays)
    assert computed(made)[1][1]
    assert not in_memory(made, "relu")
    agree(f, *arrays, rtol=1e-4, atol=5e-3)


def test_operands_that_lie_across_are_brought_into_order_first() -> None:
    """Channels of what comes from outside lie apart: rows of them would be slow to read."""

    def f(x: Any, w: Any, v: Any, other: Any) -> Any:
        y = F.conv2d(x, w, padding=1)
        return F.conv2d(other * y.mean(axis=(0, 2, 3), keepdims=True), v, padding=1)

    arrays = numbers(3, 32, 12, 12), *weights(32, 48, 32), numbers(3, 48, 12, 12)
    made = compiled(f, *arrays)
    assert computed(made)[1] == ("convolution", False, False)
    agree(f, *arrays, rtol=1e-4, atol=1e-3)


def test_what_need_not_wait_belongs_to_the_epilogue() -> None:
    def f(x: Any, w: Any, v: Any, scale: Any) -> Any:
        y = F.conv2d(x, w, padding=1) * scale.reshape((1, -1, 1, 1))
        return F.conv2d((y + x.mean()).relu(), v, padding=1)

    arrays = numbers(3, 32, 12, 12), *weights(32, 48, 32), numbers(48)
    made = compiled(f, *arrays)
    assert computed(made) == [("convolution", False, False)] * 2
    assert in_memory(made, "relu")
    agree(f, *arrays, rtol=1e-4, atol=1e-3)


def test_small_operands_are_left_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prologues, "_FEWEST", 1 << 20)
    arrays = numbers(3, 32, 12, 12), *weights(32, 48, 32), numbers(48)
    assert not computed(compiled(two(1), *arrays))[1][1]
