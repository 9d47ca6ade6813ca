"""Graphs that a compiled program once got wrong. `fuzz.py` found most of them and cut them down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.compiler.cpu import translate
from schuss.execution.tiers import using

from .graphs import agree, numbers


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHUSS_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "kernels"))


def test_a_check_of_a_single_index() -> None:
    agree(lambda x, i: schuss.take_along_axis(x, i, axis=-1), numbers(1, 1), np.zeros((1, 1), int))
    agree(nn.functional.cross_entropy, numbers(1, 1), np.zeros(1, int))


@pytest.mark.parametrize("axis", [(), (1,), (0, 1)])
@pytest.mark.parametrize("function", [schuss.all, schuss.any])
def test_truth_of_numbers_over_axes_of_size_one(function: Any, axis: Any) -> None:
    for value in (0.0, 2.0):
        agree(lambda x: function(x, axis=axis), np.full((1, 1), value, np.float32))


@pytest.mark.parametrize("axis", [0, 1, (1, 2), (0, 1, 2)])
def test_reductions_of_what_is_the_same_everywhere(axis: Any) -> None:
    """Nothing is loaded along the loop that adds up."""
    for function in (schuss.sum, schuss.mean, schuss.max, schuss.prod):
        agree(lambda x, f=function: f(schuss.broadcast_to(x, (2, 8, 5)), axis=axis), numbers(1, 1))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("shape", [(1, 1, 2), (2, 3, 1), (5, 3, 7), (3, 40, 17)])
def test_products_of_integers(dtype: Any, shape: tuple[int, int, int]) -> None:
    """int8 is added up in 32 bits, and brought back to 8 before it is stored."""
    n, k, m = shape
    a = np.arange(n * k).reshape(n, k).astype(dtype)
    b = (np.arange(k * m).reshape(k, m) % 7).astype(dtype)
    agree(lambda x, y: x @ y, a, b)
    agree(lambda x, y: x @ y.mT, a, np.ascontiguousarray(b.T))


def test_an_arena_that_is_almost_large_enough() -> None:
    """What alignment takes of the memory that programs share does not count."""
    from schuss.compiler.program import _arena

    for size in range(64, 1500, 48):
        _arena.need(size)
        start = _arena.address - _arena.memory.ctypes.data
        assert start + size <= _arena.memory.size


def test_host_steps_between_kernels() -> None:
    def f(x: Any, part: Any, index: Any) -> Any:
        made = schuss.sort(schuss.exp(x), axis=0)
        made[index] = part
        return schuss.argsort(made * 2, axis=0) + 1, made

    agree(f, numbers(57, 2), numbers(2), np.asarray(40))


def gradient(f: Callable[..., Any]) -> Callable[..., Any]:
    """The gradient of the sum of squares of `f`."""
    return schuss.grad(lambda x: (f(x) * f(x)).sum())


@pytest.mark.parametrize("axis", [0, 1, (0, 2)])
@pytest.mark.parametrize("dtype", [schuss.float32, schuss.bfloat16, schuss.float64], ids=str)
def test_sums_of_sums_over_columns(axis: Any, dtype: Any) -> None:
    """One sum over columns reads what another one made, in one kernel."""
    x = numbers(2, 4, 3).astype(dtype)
    rough = 1e-1 if dtype == schuss.bfloat16 else 1e-4
    agree(gradient(lambda x: schuss.var(x, axis=axis, keepdims=True)), x, rtol=rough)
    agree(gradient(lambda x: schuss.tile(x, (2, 2, 1))), x, rtol=rough)


@pytest.mark.parametrize("dtype", [schuss.bfloat16, schuss.float16], ids=str)
def test_halves_are_rounded_before_they_are_compared(dtype: Any) -> None:
    """What equals the extreme is looked for: the wider number in a register equals nothing."""
    x = numbers(7, 19).astype(dtype)
    for f in (schuss.argmin, schuss.argmax):
        agree(lambda x, f=f: f(x * 1.1 + 0.3, axis=1), x)
    agree(schuss.grad(lambda x: (schuss.max(x * 1.1 + 0.3, axis=1)).sum()), x)
    agree(lambda x: (x / 3 == x / 3) & (x / 3 * 3 == schuss.max(x / 3 * 3, axis=0)), x)


def test_outputs_that_are_views_of_a_parameter_that_is_replaced() -> None:
    for look in (lambda w: w.detach(), lambda w: w[:1], lambda w: w.detach().reshape(2, 1).mT):
        w = schuss.tensor([1.0, 2.0], requires_grad=True)
        optimizer = schuss.optim.SGD([w], lr=0.25)
        kept, expected = [], []
        with using("compiled"):
            for i in range(5):
                expected.append(3 - 2 * 0.5**i)
                ((w - 3) ** 2).sum().backward()
                kept.append(look(w))
                optimizer.step()
                optimizer.zero_grad()
        np.testing.assert_allclose([each.numpy().ravel()[0] for each in kept], expected)


def test_nothing_is_written_behind_the_end_of_halves() -> None:
    """LLVM 22 widens a narrowing masked store of one known lane: 17 is one more than a vector."""
    from schuss import compiler

    x = schuss.tensor(np.ones((4, 17), np.float32)).astype(schuss.bfloat16)
    x.numpy()
    text = compiler.show(lambda x: schuss.softmax(x, axis=-1), x, stages=("llvm",))
    stores = [line for line in text.splitlines() if "@llvm.masked.store" in line and "call" in line]
    assert stores
    assert not [line for line in stores if "i16" in line and "i1 true" in line]


def test_gradients_of_complex_windows() -> None:
    """They stay on the host, which does not know the compiler's own ops."""
    for shape in ((10,), (1, 2, 10)):
        x = numbers(*shape).astype(np.complex64)
        agree(schuss.grad(lambda x: schuss.real(schuss.unfold(x, 3, 3) * 2j).sum()), x)


def test_one_channel_a_group_adds_up_in_float32() -> None:
    x = numbers(2, 2, 1, 7).astype(schuss.bfloat16)
    w = numbers(6, 1, 1, 3, seed=1).astype(schuss.bfloat16)

    def convolved(x: Any, w: Any) -> Any:
        return nn.functional.conv2d(x, w, stride=2, groups=2)

    agree(convolved, x, w, rtol=1e-2)
    agree(schuss.grad(lambda x, w: (convolved(x, w) ** 2).sum(), argnums=(0, 1)), x, w, rtol=2e-2)


def test_gathered_from_a_view_of_one_number() -> None:
    def f(x: Any, index: Any) -> Any:
        x = x * 1
        x[:, 0:2] = 0
        picked = schuss.permute_dims(x[::-1, 1::2], (1, 0))[:, index]
        return schuss.concat([picked, picked * 2], axis=1)

    agree(f, numbers(2, 2), np.array([0, -2, 1]))


@pytest.mark.parametrize("dtype", [schuss.bfloat16, schuss.float16])
def test_products_of_halves_with_their_own_transpose(dtype: Any) -> None:
    x = numbers(1, 5).astype(dtype)
    agree(lambda x, i: (x @ x.mT)[:, i], x, np.zeros(5, np.int64), rtol=1e-2)


def test_small_groups_whose_taps_meet_no_input() -> None:
    def f(x: Any, w: Any) -> Any:
        x.requires_grad = True
        y = schuss.nn.functional.conv_transpose2d(x, w, stride=3, padding=(1, 2), groups=2)
        (y * y).sum().backward()
        return x.grad

    agree(f, numbers(2, 2, 2, 2), numbers(2, 1, 1, 2))


@pytest.mark.parametrize("join", [schuss.logical_or, schuss.logical_and])
def test_truths_that_repeat_every_few_bytes(join: Any) -> None:
    """LLVM never came to an end."""
    x, y = np.array([[True, False], [False, False]]), np.array([[False, False], [True, False]])
    agree(lambda x, y: join(*[schuss.broadcast_to(each, (65, 2, 2)) for each in (x, y)]), x, y)


def test_comparisons_of_bytes_that_repeat() -> None:
    x, y = np.array([1, -1, 0, 3], np.int8), np.array([0, 2, 0, -3], np.int8)

    def f(x: Any, y: Any) -> list[Any]:
        x, y = (schuss.broadcast_to(each, (65, 4)) for each in (x, y))
        return [(x > 0) | (y > 0), (x < 0) & (y < 0), (x == 0) & (y == 0)]

    agree(f, x, y)


@pytest.mark.parametrize("length", [2, 7, 19])
@pytest.mark.parametrize("dtype", [schuss.uint16, schuss.int8])
def test_quotients_beside_the_end_of_a_row(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, length: int
) -> None:
    """Where LLVM only translates, it took 0 / 0 for 0 in lanes that count for nothing."""
    monkeypatch.setattr(translate, "_LEVEL", 0)
    monkeypatch.setattr(translate, "_ORDER", ("always_inliner", "sroa"))
    monkeypatch.setenv("SCHUSS_CACHE", "0")
    x = (np.arange(2 * length) % 5 + 1).astype(dtype)[::2]
    agree(lambda x: (x / x).sum(), x)


def test_attention_over_many_features_loses_no_digits() -> None:
    rng = np.random.default_rng(0)
    q, k = (rng.uniform(0, 0.3, (2, 70_001)) for _ in range(2))
    v = np.array([[1.0], [-1.0]])

    def computed(*arrays: np.ndarray) -> np.ndarray:
        with using("compiled"):
            return nn.functional.scaled_dot_product_attention(*map(schuss.tensor, arrays)).numpy()

    scores = q @ k.T / np.sqrt(70_001)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    expected = weights / weights.sum(1, keepdims=True) @ v
    found = computed(*[x.astype(np.float32) for x in (q, k, v)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
