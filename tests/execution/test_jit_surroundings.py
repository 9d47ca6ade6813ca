"""What a jitted function finds around it, and what it changes there."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.execution.jitted import ENOUGH, draw, same, warned

import schuss
from schuss.execution import tiers


@pytest.fixture(autouse=True)
def _compiled() -> Iterator[None]:
    """One tier, so that results are equal bit for bit."""
    with tiers.using("compiled"):
        yield


def test_a_captured_tensor_that_is_rebound_or_changed() -> None:
    w = draw(3)
    f = schuss.jit(lambda x: x * w)
    for i in range(2 * ENOUGH):
        w = draw(3, seed=i)
        w += i
        assert same(f(draw(3)), draw(3) * w)
    assert f.why == ""


def test_python_values_around_it_steer_it() -> None:
    factor, settings = 2.0, {"shift": 1, "negative": False}

    def f(x):
        y = x * factor + settings["shift"]
        return -y if settings["negative"] else y

    quick, x = schuss.jit(f), draw(3)
    for factor in (2.0, 3.0, 2.0, 2.5):  # noqa: B007  # f reads it
        for settings["negative"] in (True, False):
            for _ in range(ENOUGH):
                assert same(quick(x), f(x))
    assert quick.why == ""
    del settings["negative"], settings["shift"]
    with pytest.raises(KeyError):
        quick(x)


def test_a_value_that_changes_at_every_call_is_left_to_python() -> None:
    calls = 0

    def f(x):
        nonlocal calls
        calls += 1
        return x * calls

    quick = schuss.jit(f)
    with warned("again and again"):
        results = [quick(draw(2)).numpy() for _ in range(20)]
    assert calls == 20
    assert all(np.array_equal(r, draw(2).numpy() * (i + 1)) for i, r in enumerate(results))


def test_hidden_numbers_are_not_frozen() -> None:
    class Source:
        def __init__(self) -> None:
            self.numbers = iter(range(100))

    source = Source()
    f = schuss.jit(lambda x: x * next(source.numbers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(10):
            assert same(f(draw(2)), draw(2) * i)


def test_clocks_and_printing_are_not_replayed(capsys) -> None:
    def f(x):
        print("called")
        return x + 1

    quick = schuss.jit(f)
    with warned("calls print at .*test_jit_surroundings.py"):
        for _ in range(6):
            assert same(quick(draw(2)), draw(2) + 1)
    assert capsys.readouterr().out == "called\n" * 6
    clock = schuss.jit(lambda x: x * time.time())
    with warned("calls time.time"):
        clock(draw(2))
    assert clock.why.startswith("it calls time.time")


@pytest.mark.parametrize(
    "look",
    [lambda x: x.item(), bool, float, lambda x: x.numpy(), lambda x: x.tolist(), str],
)
def test_looking_at_a_value_is_not_frozen(look: Callable[[Any], Any]) -> None:
    f = schuss.jit(lambda x: (x + 1, look(x), look(x * 2)))
    with warned("looks at a value"):
        for i in range(4):
            x = schuss.tensor(i * 1.0)
            assert f(x)[1:] == (look(x), look(x * 2))


def test_a_branch_on_a_value() -> None:
    def f(x):
        return x * 2 if x.sum() > 0 else -x

    quick = schuss.jit(f)
    with warned(r"looks at a value in Python \(.*test_jit_surroundings.py:\d+\)"):
        for i in range(8):
            assert same(quick(draw(3, seed=i)), f(draw(3, seed=i)))


def test_numpy_arrays_are_not_frozen() -> None:
    array = np.ones(3, np.float32)
    f = schuss.jit(lambda x: x + schuss.tensor(array))
    with warned("makes a tensor of a ndarray"):
        for i in range(8):
            array[0] = i
            assert f(schuss.zeros(3))[0].item() == i
    g = schuss.jit(lambda x: x * float(array[0]))
    with warned("array"):
        for i in range(8):
            array[0] = i
            assert g(schuss.ones(3))[0].item() == i


def test_lists_that_grow() -> None:
    kept: list[schuss.Tensor] = []

    def f(x):
        kept.append(x * 2)
        return x

    quick = schuss.jit(f)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(10):
            quick(draw(2, seed=i))
    assert len(kept) == 10
    assert all(same(each, draw(2, seed=i) * 2) for i, each in enumerate(kept))


def test_replacing_what_it_finds() -> None:
    history = {"last": draw(2), "before": draw(2)}

    def f(x):
        history["before"], history["last"] = history["last"], x * 2
        return history["before"]

    quick = schuss.jit(f)
    for i in range(1, 10):
        expected = history["last"]
        assert quick(draw(2, seed=i)) is expected
        assert same(history["last"], draw(2, seed=i) * 2)
    assert quick.why == ""


def test_tensors_that_take_on_each_others_values() -> None:
    def f(a, b):
        a.assign(b)
        b.assign(b * 2)
        return a

    quick = schuss.jit(f)
    a, b, c, d = draw(3), draw(3, seed=1), draw(3), draw(3, seed=1)
    for _ in range(2 * ENOUGH):
        assert quick(a, b) is a
        f(c, d)
        assert same(a, c)
        assert same(b, d)
    assert quick.why == ""


def test_what_it_does_not_read_may_change() -> None:
    class Loop:
        def __init__(self) -> None:
            self.weight, self.count = draw(3), 0

        @schuss.jit
        def step(self, x):
            self.weight = self.weight + x
            return self.weight

        def run(self) -> list[str]:
            whys = []
            for _ in range(12):
                self.step(draw(3))
                self.count += 1
                whys.append(Loop.step.why)
            return whys

    assert Loop().run()[-6:] == [""] * 6


def test_slice_assignment_changes_the_callers_tensor() -> None:
    def f(x, y):
        x[0] = y
        x *= 2
        return x.sum()

    quick = schuss.jit(f)
    for i in range(ENOUGH):
        x, z = draw(3, seed=i), draw(3, seed=i)
        alias = x.detach()
        assert same(quick(x, schuss.tensor(5.0)), f(z, schuss.tensor(5.0)))
        assert same(x, z)
        assert same(alias, draw(3, seed=i))
    assert quick.why == ""


def test_methods_attributes_and_helpers() -> None:
    class Model:
        rate = 2.0

        def __init__(self, seed: int) -> None:
            self.weight, self.power = draw(3, seed=seed), 2

        @property
        def scaled(self):
            return self.weight * self.rate

        @schuss.jit
        def call(self, x):
            return helper(x * self.scaled, self.power)

    def helper(x, power):
        return x**power

    models = [Model(0), Model(1)]
    for _ in range(ENOUGH):
        for model in models:
            assert same(model.call(draw(3)), (draw(3) * (model.weight * 2.0)) ** 2)
    assert Model.call.why == ""
    models[0].power, Model.rate = 3, 3.0
    assert same(models[0].call(draw(3)), (draw(3) * (models[0].weight * 3.0)) ** 3)
