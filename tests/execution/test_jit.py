"""`schuss.jit` does what the plain function does, whatever the function is."""

from __future__ import annotations

import gc
import importlib
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.execution.jitted import ENOUGH, draw, same, warned

import schuss
from schuss import nn, optim
from schuss.errors import ArgumentTypeError, OutOfBoundsError
from schuss.execution import tiers
from schuss.execution.evaluate import watchers


@pytest.fixture(autouse=True)
def _compiled() -> Iterator[None]:
    """One tier, so that results are equal bit for bit."""
    with tiers.using("compiled"):
        yield


# --- plain functions ---


def test_results_are_those_of_the_function() -> None:
    f = schuss.jit(lambda x, y: {"sum": x + y, "both": [x * y, (x, 2)]})
    for i in range(ENOUGH):
        x, y = draw(3, seed=i), draw(3, seed=i + 50)
        found = f(x, y)
        assert same(found["sum"], x + y)
        assert same(found["both"][0], x * y)
        assert found["both"][1] == (x, 2)
        assert found["both"][1][0] is x
    assert f.why == ""
    assert schuss.last_run().tier == "compiled"


def test_results_are_computed_and_earlier_ones_stay() -> None:
    f = schuss.jit(lambda x: x * 2 + 1)
    inputs = [draw(5, seed=i) for i in range(12)]
    results = [f(x) for x in inputs]
    assert all(result._node.value is not None for result in results[3:])
    assert all(same(result, x * 2 + 1) for x, result in zip(inputs, results, strict=True))


def test_a_call_unlike_the_one_before_is_not_taken_for_it() -> None:
    def plain(x: Any, y: Any = 3.0, *, flip: bool = False, n: int = 1) -> Any:
        total = sum(y) if isinstance(y, list) else y
        return (total - x if flip else x - total) * n

    f = schuss.jit(plain)
    x, y, w = draw(4, seed=1), draw(4, seed=2), draw(4, seed=3).requires_grad_()
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((x, y), {}), ((x, y), {"flip": True}), ((y, x), {}), ((x, y), {"n": 2}), ((x, y), {}),
        ((x, x), {}), ((x,), {}),
        ((x,), {"y": y}), ((x, 2.0), {}), ((x, [y]), {}), ((x, [y, x]), {}),
        ((y, x), {}), ((x, draw(2, 4)), {}), ((x, y), {"flip": True, "n": 2}),
    ]  # fmt: skip
    for _ in range(ENOUGH):
        for args, kwargs in calls:
            for _ in range(2):
                assert same(f(*args, **kwargs), plain(*args, **kwargs))
        with schuss.no_grad():
            assert same(f(x, w), plain(x, w))
            assert same(f(x, y), plain(x, y))
    assert f.why == ""


def test_modes_belong_to_a_recording() -> None:
    f = schuss.jit(lambda x, y: x @ y)
    x, y = draw(5, 300, seed=1), draw(300, 5, seed=2)
    for _ in range(ENOUGH):
        for dtype in (None, schuss.bfloat16):
            with schuss.autocast(dtype or schuss.bfloat16, enabled=dtype is not None):
                for _ in range(2):
                    found = f(x, y)
                    assert found.dtype == (dtype or schuss.float32)
                    assert same(found, x @ y)
    assert f.why == ""


def test_other_shapes_and_dtypes_are_other_recordings() -> None:
    f = schuss.jit(lambda x: (x * 3).sum(axis=0))
    for _ in range(ENOUGH):
        for x in (draw(3, 2), draw(4, 2), draw(4), draw(3, 2).astype(schuss.float64)):
            assert same(f(x), (x * 3).sum(axis=0))
            assert f(x).dtype == x.dtype


def test_python_arguments_count_by_value_and_type() -> None:
    f = schuss.jit(lambda x, n, up=True: x * n + (1 if up else -1))
    x = draw(3)
    for _ in range(ENOUGH):
        for n in (2, 3, 2.5, True):
            assert same(f(x, n), x * n + 1)
            assert same(f(x, n, up=False), x * n - 1)


def test_the_same_tensor_twice_and_two_tensors() -> None:
    def f(a, b):
        a += 1
        return a * b

    quick = schuss.jit(f)
    for _ in range(ENOUGH):
        x, y, z = draw(3), draw(3, seed=1), draw(3)
        assert same(quick(x, x), (z + 1) * (z + 1))
        assert same(x, z + 1)
        assert same(quick(x, y), (z + 2) * y)


def test_views_and_broadcasts_go_in() -> None:
    f = schuss.jit(lambda x, y: x @ y)
    for i in range(ENOUGH):
        x, y = draw(3, 4, seed=i), draw(3, 4, seed=i)
        assert same(f(x, y.T), x @ y.T)
        assert same(f(schuss.ones((3, 4)), y.T), schuss.ones((3, 4)) @ y.T)


def test_inputs_that_are_not_computed_yet() -> None:
    f = schuss.jit(lambda x: x.exp())
    for i in range(ENOUGH):
        assert same(f(draw(4, seed=i) * 2), (draw(4, seed=i) * 2).exp())
    assert f.why == ""


def test_a_bad_index_raises_the_error_of_the_plain_function() -> None:
    table = draw(5, 2)
    f = schuss.jit(lambda i: table[i])
    for i in range(ENOUGH):
        assert same(f(schuss.tensor([i % 5, 1])), table[schuss.tensor([i % 5, 1])])
    assert f.why == ""
    with pytest.raises(OutOfBoundsError):
        f(schuss.tensor([7, 1])).numpy()
    assert same(f(schuss.tensor([3, 1])), table[schuss.tensor([3, 1])])


def test_it_needs_a_function() -> None:
    with pytest.raises(ArgumentTypeError, match=r"jit: needs a function, got Tensor"):
        schuss.jit(draw(3))  # type: ignore[arg-type]


# --- what the function finds around it ---


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
    with warned("calls print at .*test_jit.py"):
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
    with warned(r"looks at a value in Python \(.*test_jit.py:\d+\)"):
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


# --- randomness ---


def test_random_numbers_go_on_as_in_a_plain_loop() -> None:
    own = schuss.Generator(5)

    def f(x):
        return x + schuss.random.normal((3,)) * schuss.random.uniform((3,), generator=own)

    quick = schuss.jit(f)
    schuss.manual_seed(1)
    found = [quick(draw(3)).numpy() for _ in range(10)]
    assert quick.why == ""
    schuss.manual_seed(1)
    own.load_state_dict(schuss.Generator(5).state_dict())
    expected = [f(draw(3)).numpy() for _ in range(10)]
    assert np.array_equal(found, expected)
    assert len({each.tobytes() for each in found}) == 10


def test_seeding_inside() -> None:
    def f(x):
        schuss.manual_seed(7)
        return x + schuss.random.uniform((3,))

    quick = schuss.jit(f)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(8):
            assert same(quick(draw(3)), f(draw(3)))


# --- what waits to be computed when it is called ---


@pytest.mark.parametrize("call", range(4))
def test_a_backlog_from_before_a_call_is_no_part_of_it(call: int, monkeypatch) -> None:
    """Many nodes outside wait, and it is a node of the recorded call that is one too many."""
    monkeypatch.setattr("schuss.graph._PRUNE_AT", 8)
    monkeypatch.setattr("schuss.graph._BACKLOG", 16)
    check_backlog(call, lambda: [schuss.ones(3) * i for i in range(24)])


@pytest.mark.parametrize("call", range(4))
def test_host_data_from_before_a_call_is_no_part_of_it(call: int, monkeypatch) -> None:
    module = importlib.import_module("schuss.execution.evaluate")
    monkeypatch.setattr(module, "_BACKLOG_BYTES", 1050)
    check_backlog(call, lambda: [schuss.tensor([1.0] * 240)])


def check_backlog(call: int, wait: Callable[[], Any]) -> None:
    @schuss.jit
    def f(x: schuss.Tensor) -> schuss.Tensor:
        y = x + schuss.tensor([0.5, 1.5, 2.5, 3.5] * 4)
        for _ in range(6):
            y = schuss.sin(y) * 2
        return y

    kept = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(ENOUGH):
            if i == call:
                kept.append(wait())
            f(draw(16, seed=i)).numpy()
    assert f.why == ""


# --- where it stays away ---


def test_errors_in_the_function_come_out() -> None:
    calls = {"bad": False}

    def f(x):
        if calls["bad"]:
            raise KeyError("mine")
        return x + 1

    quick = schuss.jit(f)
    for i in range(12):
        calls["bad"] = i % 4 == 3
        if calls["bad"]:
            with pytest.raises(KeyError, match="mine"):
                quick(draw(2))
        else:
            assert same(quick(draw(2)), draw(2) + 1)


def test_reference_tier_and_watchers_go_without() -> None:
    f = schuss.jit(lambda x: x + 1)
    with tiers.using("reference"):
        assert same(f(draw(2)), draw(2) + 1)
        assert f.why == "SCHUSS_EXECUTION=reference"
    for _ in range(ENOUGH):
        f(draw(2))
    seen: list[Any] = []
    watchers.append(seen.append)
    try:
        f(draw(2)).numpy()
    finally:
        watchers.clear()
    assert len(seen) == 1


def test_threads() -> None:
    f = schuss.jit(lambda x: (x * 2).sum())
    wrong: list[int] = []

    def work(seed: int) -> None:
        for i in range(40):
            x = draw(4, seed=seed * 100 + i)
            if f(x).item() != (x * 2).sum().item():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert wrong == []


@pytest.mark.parametrize("way", ["optimizer", "groups", "group"])
def test_learning_rates_that_the_function_looks_at(way: str) -> None:
    w = draw(3).requires_grad_()
    optimizer = optim.SGD([w], lr=1.0)
    groups = optimizer.param_groups
    group = groups[0]
    rates = {
        "optimizer": lambda: optimizer.param_groups[0]["lr"],
        "groups": lambda: groups[0]["lr"],
        "group": lambda: group["lr"],
    }
    rate = rates[way]

    def step():
        w.grad = None
        (w * w).sum().backward()
        if rate() > 0.5:
            optimizer.step()

    quick = schuss.jit(step)
    for lr in (1.0, 0.9, 0.8, 0.7):
        for _ in range(4):
            group["lr"] = lr
            quick()
    assert quick.why == ""
    group["lr"], before = 0.4, w.numpy().copy()
    for _ in range(ENOUGH):
        quick()
    assert np.array_equal(w.numpy(), before)


def test_it_holds_on_to_no_tensors() -> None:
    w = draw(3).requires_grad_()
    optimizer = optim.Adam([w], lr=1.0)

    def step(x):
        optimizer.zero_grad()
        (w * x).sum().backward()
        optimizer.step()
        return x * 2

    quick = schuss.jit(step)
    held = []
    for i in range(ENOUGH):
        x = draw(3, seed=i)
        held += [weakref.ref(x), weakref.ref(quick(x))]
    assert quick.why == ""
    w.grad = None
    del x
    gc.collect()
    assert [each() for each in held] == [None] * len(held)


def test_modes_of_layers_that_users_derive() -> None:
    class Noise(nn.Dropout):
        pass

    noise = Noise(0.5)
    f = schuss.jit(lambda x: noise(x))
    for _ in range(3):
        noise.train()
        for _ in range(ENOUGH):
            assert (f(schuss.ones(200)) == 0).any()
        noise.eval()
        for _ in range(ENOUGH):
            assert same(f(schuss.ones(200)), schuss.ones(200))
    assert f.why == ""


def test_in_a_module_that_is_being_imported(tmp_path, monkeypatch) -> None:
    lines = [
        "import schuss",
        "factor = 1.0",
        "f = schuss.jit(lambda x: x * factor)",
        "found = []",
        "for i in range(20):",
        "    factor = float(i // 5)",
        "    found.append(f(schuss.ones(2)).tolist()[0])",
    ]
    (tmp_path / "trains_at_once.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("trains_at_once")
    assert module.found == [float(i // 5) for i in range(20)]
    assert module.f.why == ""


# --- memory ---


def test_replays_keep_what_they_replace_no_longer_than_plain_steps(monkeypatch) -> None:
    """A parameter and a momentum take over their last values' memory; gradients take turns."""
    tiers.forget()
    gave_back = []
    give_back = tiers.give_back
    monkeypatch.setattr(tiers, "give_back", lambda: gave_back.append(give_back()))
    model = nn.Linear(64, 64, bias=False)
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
    x = schuss.ones((8, 64))

    @schuss.jit
    def step(x: schuss.Tensor) -> schuss.Tensor:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(8):
        step(x)
    assert step.why == ""
    assert len(gave_back) >= 2, "once for each recording"
    pools = [pool for program in tiers._programs.values() for pool in program._pools]
    kept = [array for pool in pools for array, _ in pool if array.nbytes == model.weight.nbytes]
    assert len(kept) == 2
