"""What compiled loops of other frameworks are known to get wrong, on the plain loop.

Constants and branches frozen when they were traced, results overwritten by the next call, numbers
repeated, state half updated after an error: nothing of that, on either tier.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn, optim
from schuss.execution import tiers

STEPS = 6


@pytest.fixture(params=["reference", "compiled", "auto"], autouse=True)
def tier(
    request: Any, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    monkeypatch.setenv("SCHUSS_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "kernels"))
    tiers.forget()
    with tiers.using(request.param):
        yield request.param


def vector(*values: float) -> schuss.Tensor:
    return schuss.tensor(np.array(values, np.float32))


def weight(*values: float) -> schuss.Tensor:
    return schuss.tensor(np.array(values, np.float32), requires_grad=True)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-6, atol=1e-6)


# --- what Python says this time counts ---


def test_constants_are_not_frozen() -> None:
    x, scale = vector(1, 2), 1.0
    for i in range(STEPS):
        scale = scale * 1.5 + i
        close((x * scale + i).numpy(), np.array([1, 2], np.float32) * np.float32(scale) + i)


def test_a_number_that_is_one_once_is_not_one_for_ever() -> None:
    """0, 1, 2 belong to the structure of a graph, other numbers do not."""
    x = vector(3, -4)
    for k in (1, 1, 2, 0, 3, 1, 0.5, -1, 2):
        close((x * k).numpy(), np.array([3, -4]) * k)
        close((x**k).numpy()[0], 3.0**k)
        close((x + k).numpy(), np.array([3, -4]) + k)


def test_branches_are_not_frozen() -> None:
    x = vector(1, 2)
    for i in range(STEPS):
        y = x * 2 if i % 2 else x - 2
        close(y.numpy(), [2, 4] if i % 2 else [-1, 0])


def test_branches_on_values_are_not_frozen() -> None:
    x, seen = vector(1.0), []
    for _ in range(STEPS):
        x = x * 3 if x.sum() < 20 else x / 4
        seen.append(x.item())
    close(seen, [3, 9, 27, 6.75, 20.25, 5.0625])


def test_a_tensor_of_the_closure_that_is_rebound() -> None:
    offset = vector(0, 0)

    def f(x: schuss.Tensor) -> schuss.Tensor:
        return x * 2 + offset

    for i in range(STEPS):
        offset = vector(i, -i)
        close(f(vector(1, 1)).numpy(), [2 + i, 2 - i])


def test_a_tensor_of_the_closure_that_changes_in_place() -> None:
    table = schuss.zeros(3) + 0

    def f() -> schuss.Tensor:
        return table * 10

    for i in range(STEPS):
        table[i % 3] = float(i)
        expected = [max((j for j in range(i + 1) if j % 3 == k), default=0) * 10 for k in range(3)]
        close(f().numpy(), expected)


def test_inputs_of_changing_shape_and_dtype() -> None:
    for i in range(2 * STEPS):
        n = 1 + i % 4
        dtype = (np.float32, np.float64, np.int64)[i % 3]
        x = schuss.tensor(np.arange(n, dtype=dtype))
        y = x * x + 1
        assert y.dtype == dtype
        close(y.numpy(), np.arange(n) ** 2 + 1)


def test_the_same_tensor_passed_twice() -> None:
    a, b = vector(1, 2), vector(5, 7)
    for x, y in [(a, b), (a, a), (b, b), (a, a), (b, a), (a, b)]:
        close((x - y + x * y).numpy(), x.numpy() - y.numpy() + x.numpy() * y.numpy())


def test_equal_tensors_that_are_two() -> None:
    for _ in range(STEPS):
        a, b = weight(3), weight(3)
        (a * b + a).sum().backward()
        close([a.grad.item(), b.grad.item()], [4, 3])


# --- randomness ---


def test_random_numbers_differ_each_time() -> None:
    draws = [schuss.random.uniform((4,)).tolist() for _ in range(STEPS)]
    assert len({tuple(each) for each in draws}) == STEPS


def test_random_numbers_are_the_same_from_one_seed_on_both_tiers() -> None:
    found = []
    for name in ("reference", "compiled"):
        with tiers.using(name):
            schuss.manual_seed(3)
            found.append([(schuss.random.uniform((5,)) + 1).tolist() for _ in range(STEPS)])
    assert found[0] == found[1]


def test_dropout_differs_each_step() -> None:
    x = schuss.ones(50) + 0
    masks = [tuple(nn.functional.dropout(x, 0.5).tolist()) for _ in range(STEPS)]
    assert len(set(masks)) == STEPS
    assert all(set(mask) == {0.0, 2.0} for mask in masks)


# --- what was handed out stays ---


def test_results_are_not_overwritten_by_the_next_call() -> None:
    results = []
    for i in range(STEPS):
        results.append(schuss.exp(vector(0, 0) + np.log(i + 1.0)).sum())
        results[-1].numpy()
    close([each.item() for each in results], [2.0 * (i + 1) for i in range(STEPS)])


def test_numpy_views_are_not_overwritten_by_the_next_call() -> None:
    views = [(vector(1, 2) * float(i)).numpy() for i in range(STEPS)]
    close(views, [[i, 2 * i] for i in range(STEPS)])


def test_arrays_of_the_user_may_change_afterwards() -> None:
    array = np.ones(3, np.float32)
    for i in range(STEPS):
        array[...] = i
        x = schuss.tensor(array) * 2
        array[...] = -1
        close(x.numpy(), [2 * i] * 3)


def test_slice_assignment_leaves_others_alone() -> None:
    for i in range(STEPS):
        x = vector(1, 2, 3) + 0
        other, part = x.detach(), x[:2]
        x[1:] = float(i)
        x += 1
        close(x.numpy(), [2, i + 1, i + 1])
        close(other.numpy(), [1, 2, 3])
        close(part.numpy(), [1, 2])


def descend(method: Any, look: Any, steps: int = STEPS) -> tuple[list[Any], schuss.Tensor]:
    """Minimise (w - 3)**2 from w = (1, 2), looking at it in each step."""
    w = weight(1, 2)
    optimizer = method([w])
    kept: list[Any] = []
    for _ in range(steps):
        loss = ((w - 3) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        kept.append(look(w, loss, optimizer))
        optimizer.step()
    return kept, w


def halves(w: schuss.Tensor | None = None) -> list[list[float]]:
    """w of each step, where the rate 0.25 halves the distance to 3."""
    return [[3 - 2 * 0.5**i, 3 - 0.5**i] for i in range(STEPS)]


def sgd(params: Any) -> optim.Optimizer:
    return optim.SGD(params, lr=0.25)


LOOKS = {
    "detach": lambda w, loss, o: w.detach(),
    "numpy": lambda w, loss, o: w.numpy(),
    "reshape": lambda w, loss, o: w.detach().reshape(2, 1)[:, 0],
    "slice": lambda w, loss, o: w.detach()[:],
    "numpy of a view": lambda w, loss, o: w.detach().reshape(1, 2).numpy()[0],
    "copy": lambda w, loss, o: w.detach() * 1,
    "with the graph": lambda w, loss, o: w * 1,
    "looked at at once": lambda w, loss, o: (w.detach(), w.numpy())[0],
}


@pytest.mark.parametrize("name", LOOKS)
def test_old_parameters_stay(name: str) -> None:
    kept, w = descend(sgd, LOOKS[name])
    close([each.numpy() if isinstance(each, schuss.Tensor) else each for each in kept], halves())
    close(w.numpy(), [3 - 2 * 0.5**STEPS, 3 - 0.5**STEPS])


def test_old_losses_and_gradients_stay() -> None:
    kept, _ = descend(sgd, lambda w, loss, o: (loss, loss.detach(), w.grad, w.grad.numpy()))
    for (loss, same, grad, array), w in zip(kept, halves(), strict=True):
        distance = np.array(w) - 3
        close(loss.item(), (distance**2).sum())
        close(same.item(), (distance**2).sum())
        close(grad.numpy(), 2 * distance)
        close(array, 2 * distance)


def test_old_state_of_an_optimizer_stays() -> None:
    def momentum(params: Any) -> optim.Optimizer:
        return optim.SGD(params, lr=0.1, momentum=0.5)

    def look(w: Any, loss: Any, o: Any) -> Any:
        return [v for slots in o.state.values() for v in slots.values()] + [o.state_dict()["state"]]

    kept, _ = descend(momentum, look)
    w, v = np.array([1.0, 2.0]), None
    for *tensors, saved in kept:
        if v is not None:
            close(tensors[0].numpy(), v)
            close(next(iter(saved.values()))["momentum"].numpy(), v)
        gradient = 2 * (w - 3)
        v = gradient if v is None else 0.5 * v + gradient
        w = w - 0.1 * v


def test_a_second_handle_on_a_parameters_value() -> None:
    """`before` is what `w` was, whatever becomes of w; `alias` is w itself."""
    w = weight(1, 2)
    optimizer = sgd([w])
    alias, before = w, w.detach()
    for _ in range(STEPS):
        optimizer.zero_grad()
        ((w - 3) ** 2).sum().backward()
        optimizer.step()
    close(before.numpy(), [1, 2])
    close(alias.numpy(), [3 - 2 * 0.5**STEPS, 3 - 0.5**STEPS])


def test_two_models_that_start_from_one_array() -> None:
    start = schuss.tensor(np.array([1, 2], np.float32))
    a, b = start.detach(), start.detach()
    a.requires_grad = b.requires_grad = True
    optimizer = sgd([a])
    for _ in range(STEPS):
        optimizer.zero_grad()
        ((a - 3) ** 2).sum().backward()
        optimizer.step()
    close(b.detach().numpy(), [1, 2])
    close(start.numpy(), [1, 2])


def test_an_average_of_parameters() -> None:
    """Reads old and new parameters beside the step that replaces the one by the other."""
    w = weight(1, 2)
    optimizer, average = sgd([w]), vector(1, 2)
    expected = np.array([1.0, 2.0])
    for i in range(STEPS):
        optimizer.zero_grad()
        ((w - 3) ** 2).sum().backward()
        optimizer.step()
        average = 0.5 * average + 0.5 * w.detach()
        expected = 0.5 * expected + 0.5 * (3 - np.array([2, 1]) * 0.5 ** (i + 1))
    close(average.numpy(), expected)


# --- loops that change on the way ---


def test_a_learning_rate_that_changes() -> None:
    w = weight(1.0)
    optimizer = optim.SGD([w], lr=1.0)
    expected = 1.0
    for i in range(STEPS):
        optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
        optimizer.zero_grad()
        ((w - 3) ** 2).sum().backward()
        optimizer.step()
        expected -= 0.1 / (i + 1) * 2 * (expected - 3)
        close(w.item(), expected)


@pytest.mark.parametrize("method", ["SGD", "Adam"])
def test_printing_changes_nothing(method: str) -> None:
    def train(often: int) -> np.ndarray:
        w, sink = weight(1, 2), io.StringIO()
        optimizer = getattr(optim, method)([w], lr=0.1)
        for i in range(STEPS):
            loss = (schuss.exp(w * 0.1) ** 2).sum()
            if often and i % often == 0:
                print(loss, w, file=sink)
            optimizer.zero_grad()
            loss.backward()
            if often and i % often == 1:
                print(w.grad, float(loss), file=sink)
            optimizer.step()
        return w.numpy()

    silent = train(0)
    np.testing.assert_allclose(train(1), silent, rtol=1e-6)
    np.testing.assert_allclose(train(2), silent, rtol=1e-6)


def test_freezing_on_the_way() -> None:
    a, b = weight(1.0), weight(1.0)
    optimizer = optim.SGD([a, b], lr=0.5)
    for i in range(STEPS):
        b.requires_grad = i < 2
        optimizer.zero_grad()
        (a + 2 * b).sum().backward()
        optimizer.step()
    close([a.item(), b.item()], [1 - 0.5 * STEPS, 1 - 2])


def test_gradients_gathered_over_several_batches() -> None:
    w = weight(1.0)
    optimizer = optim.SGD([w], lr=0.1)
    expected = 1.0
    for i in range(STEPS):
        optimizer.zero_grad()
        for k in range(1 + i % 3):
            (w * (k + 1.0)).sum().backward()
        optimizer.step()
        expected -= 0.1 * sum(range(1, 2 + i % 3))
        close(w.item(), expected)


def test_a_parameter_assigned_by_hand() -> None:
    w = weight(1.0)
    optimizer = optim.SGD([w], lr=0.5)
    for i in range(STEPS):
        optimizer.zero_grad()
        (w * w).sum().backward()
        optimizer.step()
        close(w.item(), 0)
        if i % 2:
            w.assign([float(i)])
            close(w.item(), i)
            with schuss.no_grad():
                w -= i
        old = w.detach()
        with schuss.no_grad():
            w += 1
            w -= 1
        close(old.item(), w.item())


# --- errors ---


class Training:
    """A table, a layer and Adam, which one bad label must not disturb."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.table = schuss.tensor(rng.standard_normal((5, 3)).astype("f"), requires_grad=True)
        self.weight = schuss.tensor(rng.standard_normal((3, 4)).astype("f"), requires_grad=True)
        self.optimizer = optim.Adam([self.table, self.weight], lr=0.05)

    def step_on(self, words: schuss.Tensor, labels: schuss.Tensor) -> schuss.Tensor:
        x = nn.functional.embedding(words, self.table)
        loss = nn.functional.cross_entropy(x @ self.weight, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def step(self, words: list[int], labels: list[int]) -> float:
        return self.step_on(schuss.tensor(words), schuss.tensor(labels)).item()

    def everything(self) -> list[np.ndarray]:
        slots = [v for each in self.optimizer.state.values() for v in each.values()]
        held = [self.table, self.weight, *slots]
        return [np.asarray(x.numpy() if isinstance(x, schuss.Tensor) else x) for x in held]


@pytest.mark.parametrize(
    ("words", "labels"), [([0, 1], [3, 4]), ([0, 5], [3, 0]), ([-1, 0], [0, 0]), ([7, 7], [9, 9])]
)
def test_a_bad_label_or_word_leaves_everything_as_before(words: Any, labels: Any) -> None:
    plain = Training()
    losses = [plain.step([0, 4], [1, 2]) for _ in range(3)]
    losses += [plain.step([1, 3], [0, 3]) for _ in range(3)]
    tiers.forget()
    disturbed = Training()
    found = [disturbed.step([0, 4], [1, 2]) for _ in range(3)]
    before = [each.copy() for each in disturbed.everything()]
    for _ in range(2):
        with pytest.raises(IndexError, match="outside axis"):
            disturbed.step(words, labels)
        for old, new in zip(before, disturbed.everything(), strict=True):
            np.testing.assert_array_equal(old, new)
    found += [disturbed.step([1, 3], [0, 3]) for _ in range(3)]
    assert found == losses
    for a, b in zip(plain.everything(), disturbed.everything(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_error_of_a_host_step_leaves_everything_as_before() -> None:
    """A singular matrix is found in the middle of a compiled run."""
    w = schuss.tensor(np.eye(2, dtype=np.float32) * 2, requires_grad=True)
    u = weight(1, 1)
    optimizer = optim.SGD([w, u], lr=0.1, momentum=0.9)

    def step(matrix: Any) -> None:
        optimizer.zero_grad()
        x = schuss.solve(schuss.tensor(np.array(matrix, np.float32)) + 0 * w, vector(1, 2)[:, None])
        (x.sum() + (u * u).sum() + (w * w).sum()).backward()
        optimizer.step()

    for _ in range(3):
        step([[2, 0], [0, 2]])
    before = [w.numpy().copy(), u.numpy().copy()]
    state = [v.numpy().copy() for each in optimizer.state.values() for v in each.values()]
    with pytest.raises(schuss.errors.NumericsError, match="the matrix is singular"):
        step([[1, 1], [1, 1]])
    close(w.numpy(), before[0])
    close(u.numpy(), before[1])
    for old, new in zip(
        state, [v for each in optimizer.state.values() for v in each.values()], strict=True
    ):
        np.testing.assert_array_equal(new.numpy(), old)
    step([[2, 0], [0, 2]])


def test_an_error_in_the_loop_body_leaves_nothing_behind() -> None:
    w = weight(1.0)
    optimizer = optim.SGD([w], lr=0.25)
    for i in range(STEPS):
        optimizer.zero_grad()
        loss = ((w - 3) ** 2).sum()
        loss.backward()
        if i % 2:
            with pytest.raises(ValueError, match="broadcast"):
                (w * schuss.ones(2)) + schuss.ones(3)
        optimizer.step()
    close(w.item(), 3 - 2 * 0.5**STEPS)


# --- the same under jit ---

CALLS = 8  # seen, recorded twice, then replayed


def called(f: Any, *arguments: Any) -> np.ndarray:
    return f(*arguments).numpy().copy()


def test_jit_reads_variables_around_it_each_time() -> None:
    scale, offset = 1.0, vector(0, 0)

    @schuss.jit
    def f(x: schuss.Tensor) -> schuss.Tensor:
        return x * scale + offset

    for i in range(CALLS):
        scale, offset = 1.0 + i % 2, vector(i, -i)
        close(called(f, vector(1, 2)), [scale + i, 2 * scale - i])


def test_jit_follows_branches_on_what_it_is_given() -> None:
    @schuss.jit
    def f(x: schuss.Tensor, double: bool) -> schuss.Tensor:
        return x * 2 if double else x - 1

    for i in range(2 * CALLS):
        close(called(f, vector(3), i % 2 == 0), [6] if i % 2 == 0 else [2])


def test_jit_looks_at_values_each_time(tier: str) -> None:
    @schuss.jit
    def f(x: schuss.Tensor) -> schuss.Tensor:
        return x * 2 if x.sum() > 0 else -x

    def all_calls() -> None:
        for i in range(CALLS):
            value = float((-1) ** i * (i + 1))
            close(called(f, vector(value)), [2 * value if value > 0 else -value])

    if tier == "reference":
        all_calls()
    else:
        with pytest.warns(UserWarning, match="runs as without jit: it looks at a value in Python"):
            all_calls()
        assert "looks at a value" in f.why


def test_jit_gives_each_result_memory_of_its_own() -> None:
    f = schuss.jit(lambda x: schuss.exp(x) * 2)
    results = [f(vector(i, -i)) for i in range(CALLS)]
    views = [each.numpy() for each in results]
    expected = [2 * np.exp(np.array([i, -i], np.float32)) for i in range(CALLS)]
    np.testing.assert_allclose(views, expected, rtol=1e-5)
    np.testing.assert_allclose([each.tolist() for each in results], expected, rtol=1e-5)


def test_jit_takes_one_tensor_twice_and_changing_shapes() -> None:
    f = schuss.jit(lambda a, b: a - b + a * b)
    for i in range(3 * CALLS):
        a, b = vector(*range(1 + i % 3)), vector(*range(5, 6 + i % 3))
        x, y = ((a, a), (a, b), (b, a))[i % 5 % 3]
        close(called(f, x, y), x.numpy() - y.numpy() + x.numpy() * y.numpy())


def test_jit_draws_new_numbers_each_time() -> None:
    f = schuss.jit(lambda x: nn.functional.dropout(x, 0.5))
    masks = [tuple(called(f, schuss.ones(60))) for _ in range(CALLS)]
    assert len(set(masks)) == CALLS


def test_jit_of_a_training_step() -> None:
    """Learning rates change, old parameters, losses and gradients stay."""
    w = weight(1, 2)
    optimizer = optim.SGD([w], lr=0.25)

    @schuss.jit
    def step(target: schuss.Tensor) -> schuss.Tensor:
        optimizer.zero_grad()
        loss = ((w - target) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    expected, kept = np.array([1.0, 2.0]), []
    for i in range(2 * CALLS):
        optimizer.param_groups[0]["lr"] = 0.25 / (1 + i % 3)
        kept.append((w.detach(), w.numpy(), expected, step(vector(3, 3 + i))))
        distance = expected - [3, 3 + i]
        expected = expected - 2 * 0.25 / (1 + i % 3) * distance
        close(w.numpy(), expected)
        close(w.grad.numpy(), 2 * distance)
        kept[-1] += ((distance**2).sum(),)
    for tensor, array, before, loss, by_hand in kept:
        close(tensor.numpy(), before)
        close(array, before)
        close(loss.item(), by_hand)


def test_jit_leaves_everything_as_before_where_a_step_fails() -> None:
    training = Training()
    step = schuss.jit(training.step_on)
    good, bad = schuss.tensor([1, 3]), schuss.tensor([9, 9])
    for _ in range(CALLS):
        step(good, good)
    before = [each.copy() for each in training.everything()]
    for words, labels in ((good, bad), (bad, good)):
        with pytest.raises(IndexError, match="outside axis"):
            step(words, labels)
        for old, new in zip(before, training.everything(), strict=True):
            np.testing.assert_array_equal(old, new)
    step(good, good)
    assert any((a != b).any() for a, b in zip(before, training.everything(), strict=True))
