"""Patterns: what comes out of memory is what a plain recording makes, node for node."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn, optim
from schuss.errors import OutOfBoundsError, describe_location
from schuss.execution import tiers
from schuss.graph import Node, ancestors, next_number
from schuss.patterns import Memory, Promised, pattern_of, repeating

TIMES = 6  # a structure is noted, learned, and used from the third time on; derivatives later


@contextmanager
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(Memory, "get", lambda self, key: None)
        patch.setattr(Memory, "comes_again", lambda self, key: False)
        yield


@pytest.fixture
def nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """No derivative is known from the tests before."""
    monkeypatch.setattr(import_module("schuss.autodiff.backward"), "_derivatives", Memory())


def described(*results: schuss.Tensor) -> list[Any]:
    """The graph of what has no value yet: all that a plain recording settles."""
    order = ancestors([each._node for each in results], lambda node: node.value is None)
    place: dict[Node, int] = {node: i for i, node in enumerate(order)}
    return [
        (
            node.name, node.op, node.attributes, node.kind, node.requires_grad,
            describe_location(node.location), node.scope.path() if node.scope else None,
            [place.get(each, (each.name, each.shape)) for each in node.inputs],
        )
        for node in order
    ]  # fmt: skip


def batch(seed: int = 0, n: int = 6) -> tuple[schuss.Tensor, schuss.Tensor]:
    rng = np.random.default_rng(seed)
    x = schuss.tensor(rng.standard_normal((n, 4)).astype(np.float32))
    return x, schuss.tensor(rng.integers(0, 3, n))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = schuss.Generator(1)
        self.hidden = nn.Linear(4, 5, generator=generator)
        self.norm = nn.LayerNorm(5)
        self.out = nn.Linear(5, 3, generator=generator)

    def forward(self, x: schuss.Tensor) -> schuss.Tensor:
        return self.out(nn.functional.gelu(self.norm(self.hidden(x))))


class Images(nn.Module):
    """Convolutions, a normalisation and poolings over a picture made of (n, 4)."""

    def __init__(self) -> None:
        super().__init__()
        generator = schuss.Generator(1)
        self.first = nn.Conv2d(1, 3, 3, padding=1, generator=generator)
        self.norm = nn.BatchNorm2d(3)
        self.back = nn.ConvTranspose2d(3, 2, 2, generator=generator)
        self.largest, self.average = nn.MaxPool2d(2, 1), nn.AvgPool2d(2, 1, padding=1)
        self.out = nn.Linear(2, 3, generator=generator)

    def forward(self, x: schuss.Tensor) -> schuss.Tensor:
        x = self.norm(self.first(x.reshape(-1, 1, 2, 2)))
        x = self.average(self.largest(self.back(x)))
        return self.out(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize("kind", [Net, Images])
def test_forward_and_backward_are_the_plain_graph(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, loss_function = kind(), nn.CrossEntropyLoss()

    def record(seed: int) -> list[schuss.Tensor]:
        x, y = batch(seed)
        for p in net.parameters():
            p.grad = None
        loss = loss_function(net(x), y)
        loss.backward()
        return [loss, *[p.grad for p in net.parameters()]]

    with nothing_kept(monkeypatch):
        plain = described(*record(0))
    for seed in range(TIMES):
        results = record(seed)
    assert all(type(each._node) is Promised for each in results)
    assert described(*results) == plain
    assert all(type(each._node.op.name) is str for each in results)


@pytest.mark.parametrize("kind", [Net, Images])
def test_values_are_the_same_bits(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    def train() -> list[Any]:
        net, seen = kind(), []
        optimizer = optim.Adam(net.parameters(), lr=0.01)
        for step in range(2 * TIMES):
            x, y = batch(step)
            loss = nn.CrossEntropyLoss()(net(x), y)
            if step % 5 == 3:
                seen.append(loss.item())  # before the backward pass
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += [loss.item(), *[p.numpy().tolist() for p in net.parameters()]]
        return seen

    with tiers.at_once():
        patterned = train()
        with nothing_kept(monkeypatch):
            assert train() == patterned


@repeating
def scaled(x: schuss.Tensor, y: schuss.Tensor, factor: float = 1.0) -> schuss.Tensor:
    return (x * factor).exp() * y + x


def thrice(call: Callable[[], schuss.Tensor]) -> schuss.Tensor:
    for _ in range(2):
        call()
    return call()


def test_what_a_call_depends_on_is_told_apart() -> None:
    x, y = schuss.tensor([1.0, -2.0]), schuss.tensor([3.0, 5.0])
    first = thrice(lambda: scaled(x, y))
    assert type(first._node) is Promised
    assert np.allclose(first.numpy(), np.exp([1, -2]) * [3, 5] + [1, -2])
    assert np.allclose(scaled(y, y).numpy(), np.exp([3, 5]) * [3, 5] + [3, 5])
    assert np.allclose(scaled(x, y, 2.0).numpy(), np.exp([2, -4]) * [3, 5] + [1, -2])
    assert np.allclose(scaled(x, y[:1]).numpy(), np.exp([1, -2]) * 3 + [1, -2])
    assert scaled(x.astype("float64"), y).dtype == schuss.float64
    w = schuss.tensor([1.0, -2.0]).requires_grad_()
    assert scaled(w, y).requires_grad
    with schuss.no_grad():
        assert not scaled(w, y).requires_grad


def test_signs_of_zero_are_told_apart() -> None:
    divided = repeating(lambda x, by: x / schuss.full((), by))
    x = schuss.tensor([1.0])
    for by in (0.0, -0.0):
        assert thrice(lambda by=by: divided(x, by)).item() == np.copysign(np.inf, by)


def test_the_same_tensor_twice_is_another_structure() -> None:
    product = repeating(lambda a, b: a.exp() * b)
    x, y = schuss.tensor([1.0]), schuss.tensor([2.0])
    assert thrice(lambda: product(x, x)).item() == pytest.approx(np.e)
    assert product(x, y).item() == pytest.approx(2 * np.e)


def test_functions_of_several_results() -> None:
    def function(x: schuss.Tensor) -> tuple[schuss.Tensor, ...]:
        y = x.exp()
        return y, y * 2, y

    x = schuss.tensor([1.0], requires_grad=True)
    kept = repeating(function)
    for _ in range(3):
        y, double, again = kept(x)
    assert again is y
    assert type(double._node) is Promised
    (y * double).backward()
    assert x.grad.numpy() == pytest.approx(4 * np.exp(2.0))
    (alone,) = [repeating(lambda x: (x.exp(),))(x) for _ in range(3)][-1]
    assert alone.item() == pytest.approx(np.e)


def test_results_that_are_arguments_are_not_kept() -> None:
    same = repeating(lambda x: x)
    x = schuss.tensor([1.0])
    assert thrice(lambda: same(x)) is x


def test_what_is_not_a_number_outside_makes_no_pattern() -> None:
    x = schuss.tensor([1.0, 2.0])
    outside, first = x * 2.0, next_number()
    y = x.exp() + outside
    assert pattern_of({x._node: 0}, [y._node], first) is None
    assert pattern_of({x._node: 0, outside._node: 1}, [y._node], first) is not None


def test_a_value_can_be_looked_at_before_the_backward_pass() -> None:
    w = schuss.tensor([1.0, 2.0]).requires_grad_()
    for _ in range(TIMES):
        loss = nn.functional.mse_loss(w, schuss.tensor([3.0, 5.0]))
        assert loss.item() == pytest.approx(6.5)
        w.grad = None
        loss.backward()
        assert w.grad.numpy() == pytest.approx([-2, -3])


def test_a_value_can_be_looked_at_between_backward_and_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train() -> list[Any]:
        net, seen = Net(), []
        optimizer = optim.SGD(net.parameters(), lr=0.5)
        for step in range(2 * TIMES):
            x, y = batch(step)
            scores = net(x)
            loss = nn.CrossEntropyLoss()(scores, y)
            optimizer.zero_grad()
            loss.backward()
            seen.append((loss if step % 3 else scores).numpy().tolist())
            optimizer.step()
            seen += [p.numpy().tolist() for p in net.parameters()]
        return seen

    with tiers.at_once():
        patterned = train()
        with nothing_kept(monkeypatch):
            plain = train()
    for one, other in zip(patterned, plain, strict=True):
        assert np.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_graph_can_be_gone_through_twice() -> None:
    w = schuss.tensor([1.0, 2.0]).requires_grad_()
    for _ in range(TIMES):
        w.grad = None
        loss = nn.functional.mse_loss(w, schuss.tensor([3.0, 5.0]))
        loss.backward(retain_graph=True)
        assert w.grad.numpy() == pytest.approx([-2, -3])
        loss.backward()
        assert w.grad.numpy() == pytest.approx([-4, -6])


def test_losses_share_what_is_below_them() -> None:
    w = schuss.tensor([[1.0, 2.0]]).requires_grad_()
    x, y = schuss.tensor([[3.0, 4.0]]), schuss.tensor([[0.0]])
    for _ in range(TIMES):
        w.grad = None
        shared = nn.functional.linear(x, w)
        first, second = nn.functional.mse_loss(shared, y), nn.functional.l1_loss(shared, y)
        first.backward()
        second.backward()
        assert second.item() == 11
        assert w.grad.numpy() == pytest.approx(np.array([[2 * 11 * 3 + 3, 2 * 11 * 4 + 4]]))


def test_gradients_can_be_differentiated_again() -> None:
    w = schuss.tensor([2.0]).requires_grad_()
    for _ in range(TIMES):
        w.grad = None
        nn.functional.mse_loss(w * w, schuss.tensor([0.0])).backward(create_graph=True)
        slope, w.grad = w.grad, None
        slope.sum().backward()
        assert w.grad.item() == pytest.approx(12 * 4)


def test_one_gradient_can_be_looked_at_alone() -> None:
    net = Net()
    x, y = batch()
    found = []
    for _ in range(TIMES):
        for p in net.parameters():
            p.grad = None
        nn.functional.cross_entropy(net(x), y).backward()
        found.append([net.out.bias.grad.numpy(), net.hidden.weight.grad.numpy()])
    for each in found[1:]:
        assert np.allclose(each[0], found[0][0])
        assert np.allclose(each[1], found[0][1], atol=1e-6)


@pytest.mark.usefixtures("nothing_learned")
@pytest.mark.parametrize("first", [0, 1, 2])
def test_numbers_of_rules_are_not_those_of_the_user(first: int) -> None:
    """The rule of `mean` divides by a number that is not the one that was added this time."""
    p = schuss.tensor([0.5], requires_grad=True)
    for added in [first, first, 1, 2, 0, 3, first]:
        p.grad = None
        y = p * 3 + added
        (y * y).mean().backward()
        assert float(p.grad[0]) == 6 * (1.5 + added)


@pytest.mark.usefixtures("nothing_learned")
def test_numbers_of_patterns_are_not_those_of_the_user() -> None:
    """`gelu` has a number 0.5 of its own, which is not the one that was multiplied by at first."""
    for factor in [0.5] * TIMES + [0.25, 2, 0.5]:
        p = schuss.tensor([0.0, 50.0], requires_grad=True)
        (nn.functional.gelu(p) * factor).sum().backward()
        assert p.grad.tolist() == [0.5 * factor, factor]


@pytest.mark.usefixtures("nothing_learned")
def test_a_backlog_waits_while_a_pattern_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed meanwhile would have no inputs in the pattern."""
    monkeypatch.setattr("schuss.graph._PRUNE_AT", 2)
    monkeypatch.setattr("schuss.graph._BACKLOG", 10)
    both = repeating(lambda x: (x.exp() + 1).sum())
    for i in range(TIMES):
        p = schuss.tensor([float(i)], requires_grad=True)
        x = p
        for _ in range(20):
            x = x * 1.0 + 1
        x.sum().backward()
        assert p.grad.tolist() == [1]
        with schuss.no_grad():
            assert both(p).item() == pytest.approx(np.exp(i) + 1)


def test_leaves_that_are_gone_collect_nothing() -> None:
    w = schuss.tensor([1.0]).requires_grad_()
    for _ in range(TIMES):
        w.grad = None
        gone = schuss.tensor([2.0]).requires_grad_()
        loss = (w * gone).sum()
        del gone
        loss.backward()
        assert w.grad.item() == 2


def test_the_root_may_be_a_leaf_of_any_shape() -> None:
    for _ in range(TIMES):
        scalar = schuss.tensor(1.0).requires_grad_()
        scalar.backward()
        assert scalar.grad.item() == 1
    vector = schuss.tensor([1.0, 2.0]).requires_grad_()
    with pytest.raises(schuss.errors.GradientError, match="only a scalar can do without"):
        vector.backward()


def test_losses_of_past_steps_hold_on_to_nothing() -> None:
    w = schuss.tensor([[1.0, 2.0]]).requires_grad_()
    optimizer, y = optim.SGD([w], lr=0.1), schuss.tensor([[0.0]])
    losses, inputs = [], []
    for _ in range(TIMES):
        x = schuss.tensor([[3.0, 4.0]])
        inputs.append(weakref.ref(x._node))
        losses.append(nn.functional.mse_loss(nn.functional.linear(x, w), y))
        del x
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert type(losses[-1]._node) is Promised
    assert [ref() for ref in inputs] == [None] * TIMES
    assert losses[-1]._node.op.name == "divide"
    with pytest.raises(schuss.errors.GradientError, match="a step has let go of it since"):
        losses[-1].backward()


def test_errors_in_a_pattern_name_line_and_layer() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = nn.CrossEntropyLoss()

        def forward(self, x: schuss.Tensor, y: schuss.Tensor) -> schuss.Tensor:
            return self.loss(x, y)

    head, x = Head(), schuss.zeros((1, 3))
    for _ in range(TIMES):
        head(x, schuss.tensor([1])).item()
    loss = head(x, schuss.tensor([7]))
    assert type(loss._node) is Promised
    with pytest.raises(
        OutOfBoundsError, match=r"cross_entropy: target(.|\n)*in: Head\.loss"
    ) as info:
        loss.item()
    assert "test_patterns.py" in str(info.value)


def test_transforms_record_plainly() -> None:
    x, y = schuss.tensor([[1.0, 2.0]]), schuss.tensor([[3.0, 5.0]])
    for _ in range(TIMES):
        slope = schuss.grad(lambda x: nn.functional.mse_loss(x, y))(x)
        assert slope.numpy() == pytest.approx(np.array([[-2.0, -3.0]]))
        _, tangent = schuss.jvp(lambda x: nn.functional.mse_loss(x, y), (x,), (x,))
        assert tangent.item() == pytest.approx(-8)
        each = schuss.vmap(nn.functional.mse_loss)(x, y)
        assert each.numpy() == pytest.approx([6.5])


def test_ops_outside_the_registry_have_no_patterns() -> None:
    calls = []

    def rule(g: schuss.Tensor, y: schuss.Tensor, x: schuss.Tensor) -> schuss.Tensor:
        calls.append(g)
        return g * len(calls)

    same = schuss.custom_gradient(rule)(lambda x: x * 1.0)
    w = schuss.tensor([1.0]).requires_grad_()
    for i in range(TIMES):
        w.grad = None
        same(w).sum().backward()
        assert w.grad.item() == i + 1


def test_memory_forgets_the_least_recently_used() -> None:
    memory: Memory[str] = Memory(most=2, seen=2)
    assert not memory.comes_again("a")
    assert memory.comes_again("a")
    for key in "abc":
        memory.keep(key, key)
        memory.get("a")
    assert [memory.get(key) for key in "abc"] == ["a", None, "c"]
    assert not memory.comes_again("x")
    assert not memory.comes_again("y")
    assert not memory.comes_again("z")
    assert not memory.comes_again("x")  # forgotten
    memory.keep("n", None)
    memory.comes_again("n")
    assert not memory.comes_again("n")  # nothing can be kept of it
    memory.clear()
    assert memory.get("a") is None


def test_threads_share_a_memory() -> None:
    memory: Memory[int] = Memory(4)
    problems: list[Exception] = []

    def fill(start: int) -> None:
        try:
            for i in range(5000):
                memory.keep(start + i, i)
        except (KeyError, RuntimeError) as problem:
            problems.append(problem)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=fill, args=(10_000 * k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not problems


def test_other_attributes_are_not_promised() -> None:
    node = thrice(lambda: scaled(schuss.ones(2), schuss.ones(2)))._node
    assert not hasattr(node, "nothing")
    assert type(node) is Promised
    assert node.op.name == "add"
