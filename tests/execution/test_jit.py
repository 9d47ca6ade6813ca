"""`schuss.jit` does what the plain function does, whatever the function is."""

from __future__ import annotations

import gc
import importlib
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.execution.jitted import ENOUGH, draw, same

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
