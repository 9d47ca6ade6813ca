"""Evaluations of known structures: found in one walk, and the same as without."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn, optim
from schuss.execution import shortcut, tiers
from schuss.execution.shortcut import references_to, survey
from schuss.patterns import repeating


@pytest.fixture(autouse=True)
def _compiled() -> Any:
    with tiers.using("auto"), tiers.at_once():
        yield


def chain(x: schuss.Tensor, n: int = 3) -> schuss.Tensor:
    for _ in range(n):
        x = x * 3.0 + 1.0
    return x


def test_known_structures_are_captured_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in range(5):
        result = chain(schuss.tensor([float(value)]))
        if value == 3:
            monkeypatch.setattr(sys.modules["schuss.execution.evaluate"], "capture", None)
        assert result.item() == 27 * value + 13
        assert schuss.last_run().tier == "compiled"


def test_keys_tell_structures_apart() -> None:
    x, y = schuss.tensor([1.0, 2.0]), schuss.tensor([3.0, 4.0])

    def key(*results: schuss.Tensor) -> tuple[int, ...]:
        return survey([each._node for each in results]).key

    assert key(x + y) == key(y + x)
    different = [
        key(x + y), key(x + x), key(x * y), key((x + y) + y), key((x + y) + x), key(x + 1.0),
        key(x + 2.0), key(x + 3.0), key(x[:1] + y[:1]), key(x.reshape(2, 1) + y),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    assert key(x + 3.0) == key(x + 4.0)  # numbers are inputs
    total = x + y
    product, with_total = (x + y) * y, key(total * y)
    assert with_total != key(product)  # somebody will look at the sum
    turned = schuss.tensor(np.ones((3, 2), np.float32).T.copy()).mT
    turned.numpy()
    assert key(turned + 1.0) != key(schuss.ones((3, 2)) + 1.0)


def test_programs_that_were_dropped_are_made_again() -> None:
    x = schuss.tensor([2.0])
    for _ in range(3):
        assert chain(x).item() == 67
    tiers.forget()
    assert chain(x).item() == 67
    assert schuss.last_run().compile_seconds > 0


def test_what_backward_looks_at_is_kept_within_patterns() -> None:
    w = schuss.tensor([[1.0, 2.0]]).requires_grad_()
    x, y = schuss.tensor([[3.0, 4.0]]), schuss.tensor([0])
    for _ in range(6):
        w.grad = None
        scores = nn.functional.linear(w * x, schuss.ones((2, 2)))
        loss = nn.functional.cross_entropy(scores, y)
        loss.item()
        loss.backward()
        w.grad.numpy()
        names = {*schuss.last_run().ops}
    assert "exp" not in names
    assert np.allclose(w.grad.numpy(), 0, atol=1e-6)


def test_losses_that_are_looked_at_before_backward_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What backward will look at is computed too, apart from what has a value already."""
    schuss.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), schuss.ones((2, 3))
    found = []
    for step in range(12):
        if step == 8:
            monkeypatch.setattr(sys.modules["schuss.execution.evaluate"], "capture", None)
        loss = model(x).square().mean()
        found.append(loss.item())
        loss.backward()
        found += [each.grad.numpy().sum() for each in model.parameters()]
        model.zero_grad()
    assert found[:5] * 12 == found


def test_results_of_patterns_with_values_go_in_again() -> None:
    found = []
    for _ in range(8):
        x, bias = schuss.tensor([[1.0, 2.0, 6.0]]), schuss.zeros(3)
        bias.requires_grad = True
        y = nn.functional.layer_norm(x, (3,), schuss.ones(3), bias)
        (y * y).sum().backward()
        bias.grad = None
        y.numpy()
        found.append((y * y).sum().item())
    assert found == pytest.approx([3] * 8, abs=1e-4)


def test_references_are_counted_by_node() -> None:
    small, large = schuss.zeros(4), schuss.zeros(4096)
    small.numpy()
    large.numpy()
    held = [(large._node, large._node), (small._node,), (large._node,)]
    assert references_to([small._node, large._node], held) == [-1, 3]


def test_parameters_take_over_the_memory_of_the_last_ones() -> None:
    w = schuss.zeros(shortcut.WORTH_TAKING_OVER).requires_grad_()
    optimizer = optim.SGD([w], lr=1.0, momentum=0.5)
    places = set()
    for _ in range(12):
        w.grad = None
        (w * w - w).sum().backward()
        optimizer.step()
        places.add(w._node.value.ctypes.data)
    assert len(places) <= 4, "the first steps, and one place from then on"


def test_independent_results_come_out_in_their_order() -> None:
    for i in range(5):
        x = schuss.tensor([float(i)])
        a, b = x * 2.0, x * 3.0
        schuss.evaluate(b, a)
        assert (a.item(), b.item()) == (2 * i, 3 * i)


@repeating
def two_and_a_half(x: schuss.Tensor) -> schuss.Tensor:
    return (x * 2.5).exp() + x


def test_a_number_in_a_pattern_and_outside_may_be_one_node() -> None:
    x = schuss.tensor([1.0])

    def computed(outside: float) -> schuss.Tensor:
        return two_and_a_half(x) * outside

    keys = set()
    for outside in (2.5, 3.5, 2.5, 3.5, 2.5, 3.5, 4.5):
        result = computed(outside)
        keys.add(survey([result._node]).key)
        assert result.item() == pytest.approx(outside * (np.exp(2.5) + 1))
    keys = {survey([computed(outside)._node]).key for outside in (2.5, 3.5, 4.5)}
    assert len(keys) == 2


def test_results_that_nobody_asks_for_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    both = repeating(lambda x: (x.exp() + 1, x.exp() - 1))
    for i in range(8):
        more, less = both(schuss.tensor([float(i)]))
        if i == 7:
            monkeypatch.setattr(sys.modules["schuss.execution.evaluate"], "capture", None)
        assert less.item() == pytest.approx(np.exp(i) - 1)
        assert more._node.value is None
    monkeypatch.undo()
    assert more.item() == pytest.approx(np.exp(7) + 1)


def test_another_thread_expands_patterns_before_a_walk_or_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    structure = shortcut._structure
    for _ in range(4):
        y = two_and_a_half(schuss.tensor([1.0]))
        z = y * 2
    use = y._node.use
    assert use is not None
    other = threading.Thread(target=use.expand)

    def while_another_expands(*args: Any) -> Any:
        if other.ident is None:
            other.start()
            other.join(0.05)
        return structure(*args)

    monkeypatch.setattr(shortcut, "_structure", while_another_expands)
    assert z.item() == pytest.approx(2 * (np.exp(2.5) + 1))
    other.join()
    assert y._node.use is None
