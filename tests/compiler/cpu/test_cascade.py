"""Sums in blocks: which loops there are, and how small the errors stay."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest

import schuss
from schuss.compiler.cpu.cascade import BLOCK, Nest, nest
from schuss.execution.tiers import using
from schuss.nn import functional


def _walk(loops: list[Nest], level: int, added: int = 1) -> tuple[list[tuple[int, ...]], list[int]]:
    """The counters of all rounds of the loops, in order, and the most that went into a level."""
    rounds: list[tuple[int, ...]] = []
    held, most = [0] * (level + 1), [0] * (level + 1)
    at: dict[int, int] = {}

    def go(rest: list[Nest]) -> None:
        if not rest:
            rounds.append(tuple(at[axis] for axis in sorted(at)))
            held[0] += added
            most[0] = max(most[0], held[0])
            return
        one, *inner = rest
        start = 0 if one.span is None else at[one.axis]
        stop = one.size if one.span is None else min(start + one.span, one.size)
        for i in range(start, stop, one.step):
            at[one.axis] = i
            go(inner)
            if one.moves is not None:
                held[one.moves + 1] += 1
                most[one.moves + 1] = max(most[one.moves + 1], held[one.moves + 1])
                held[one.moves] = 0
        if one.span is not None:
            at[one.axis] = start

    go(loops)
    assert held[:-1] == [0] * level  # nothing stays behind
    return rounds, most


@pytest.mark.parametrize(
    "sizes",
    [(1,), (7,), (BLOCK,), (BLOCK + 1,), (3 * BLOCK,), (40_000,), (3, 5), (300, 2), (2, 300),
     (200, 150), (2, 3, 4), (130, 1, 130), (5, 20_000), (20_000, 5), (0,), (3, 0)],
)  # fmt: skip
def test_loops_visit_all_and_no_accumulator_takes_many(sizes: tuple[int, ...]) -> None:
    loops, added, level = nest([(axis, size, 1) for axis, size in enumerate(sizes)])
    rounds, most = _walk(loops, level)
    assert sorted(rounds) == list(np.ndindex(*sizes))
    assert max(most) <= BLOCK
    assert most[-1] <= added


def test_steps_and_numbers_from_inside() -> None:
    """Rows of 40 numbers, in levels of their own before."""
    loops, added, level = nest([(0, 100, 1)], added=40, level=1)
    assert (added, level) == (34, 2)  # 3 rows at a time
    assert loops == [Nest(0, 100, 3, None, 1), Nest(0, 100, 1, 3, None)]
    assert nest([(0, 6400, 64)]) == ([Nest(0, 6400, 64, None, None)], 100, 0)
    assert nest([(4, 10, 1)], added=500) == ([Nest(4, 10, 1, None, 0)], 10, 1)
    assert nest([(0, 10**6, 1)], most=np.inf) == ([Nest(0, 10**6, 1, None, None)], 10**6, 0)


def _error(f: Callable[..., Any], *arrays: np.ndarray) -> float:
    """The largest error of the compiled tier in float32, relative to the largest true number."""
    with using("compiled"):
        found = f(*[schuss.tensor(x) for x in arrays]).numpy()
    with using("reference"):
        true = f(*[schuss.tensor(x.astype(np.float64)) for x in arrays]).numpy()
    return float(np.abs(found - true).max() / np.abs(true).max())


@pytest.mark.parametrize(
    "shape",
    [(3333, 3), (203, 29, 2), (2, 30000, 2, 2), (8, 3, 100, 100), (5000, 2, 3), (2, 65536),
     (64, 56, 56, 8), (3, 5000, 17), (20000, 3, 3)],
)  # fmt: skip
@pytest.mark.parametrize("form", ["plain", "broadcast", "turned", "exponential"])
def test_sums_of_equal_numbers(shape: tuple[int, ...], form: str) -> None:
    """All of them are rounded to the same side. Sums one after the other are off by up to 6e-4."""
    x, ones = np.full(shape, 0.1, np.float32), np.ones((*shape[:-1], 1), np.float32)
    every = range(len(shape))
    for axes in (each for n in range(1, len(shape) + 1) for each in combinations(every, n)):
        turned = tuple(len(shape) - 1 - axis for axis in axes)
        forms: dict[str, Callable[..., Any]] = {
            "plain": lambda x, y, axes=axes: x.sum(axis=axes),
            "broadcast": lambda x, y, axes=axes: (x * y[0]).sum(axis=axes),
            "turned": lambda x, y, axes=turned: (x.permute(*reversed(every)) * 1.5).sum(axis=axes),
            "exponential": lambda x, y, axes=axes: schuss.logsumexp(x, axis=axes).exp(),
        }
        assert _error(forms[form], x, ones) < 4e-6, axes


def test_attention_over_many_keys() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.random((1, 2, n, 16), np.float32) + 0.1 for n in (64, 8000, 8000))
    assert _error(functional.scaled_dot_product_attention, q, k, v) < 2e-6

    def gradient(q: Any, k: Any, v: Any) -> Any:
        return schuss.grad(lambda v: (functional.scaled_dot_product_attention(q, k, v) ** 2).sum())(
            v
        )

    assert _error(gradient, q, k, v) < 2e-6


@pytest.mark.parametrize(("channels", "kernel"), [(1024, 3), (64, 5), (300, 5), (11, 11)])
def test_convolutions_with_many_terms(channels: int, kernel: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.random((2, channels, 8, 8), np.float32)
    w = rng.random((24, channels, kernel, kernel), np.float32)
    assert _error(lambda x, w: functional.conv2d(x, w, padding=kernel // 2), x, w) < 1.5e-6
