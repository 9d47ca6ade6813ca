"""When values are computed, how often, and what is kept."""

from __future__ import annotations

import gc
import inspect
import os
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import last_run
from schuss.context import context
from schuss.errors import OutOfBoundsError
from schuss.execution import evaluate as evaluate_nodes
from schuss.execution import evaluate_pending
from schuss.execution.evaluate import watchers
from schuss.functions.arguments import adopt
from schuss.graph import Node


@pytest.fixture
def ran():
    """The nodes that run during the test, in order."""
    seen: list[Node] = []
    watchers.append(seen.append)
    yield seen
    watchers.remove(seen.append)


@pytest.fixture(autouse=True)
def _nothing_pending():
    context.pending = []
    context.pending_bytes = context.pruned = 0


def leaf(*shape: int) -> schuss.Tensor:
    values = np.random.default_rng(0).standard_normal(shape)
    return schuss.tensor(values, requires_grad=True)


def test_recording_computes_nothing(ran) -> None:
    x = leaf(3)
    y = (x * 2).sum() + schuss.exp(x).mean()
    y.backward()
    assert ran == []
    assert y._node.value is None


LOOKS = {
    "numpy": lambda x: x.numpy(),
    "item": lambda x: x.item(),
    "tolist": lambda x: x.tolist(),
    "repr": repr,
    "str": str,
    "format": lambda x: f"{x:.3f}",
    "bool": bool,
    "float": float,
    "array": np.asarray,
    "dlpack": np.from_dlpack,
    "evaluate": schuss.evaluate,
}


@pytest.mark.parametrize("name", LOOKS)
def test_looking_computes(name: str, ran) -> None:
    x = schuss.tensor(3.0) + 1
    LOOKS[name](x)
    assert [node.name for node in ran] == ["add"]
    LOOKS[name](x)
    assert len(ran) == 1, "a value is computed once"


@pytest.mark.usefixtures("reference_tier")
def test_last_run_tells_what_ran() -> None:
    x = schuss.ones(8) * 2 + 1
    y = x + x
    y.numpy()
    run = last_run()
    assert run.tier == "reference"
    assert run.ops == {"broadcast_to": 1, "multiply": 1, "add": 2}
    assert run.nodes == 4
    assert run.seconds > 0
    assert str(run).startswith("reference: 4 ops in ")


@pytest.mark.usefixtures("reference_tier")
def test_shared_values_are_computed_once() -> None:
    x = schuss.exp(schuss.ones(4))
    (x + 1).numpy()
    assert last_run().ops["exp"] == 1
    (x + 2).numpy()
    assert last_run().ops["exp"] == 0, "the user holds x, so its value was kept"


@pytest.mark.usefixtures("reference_tier")
def test_evaluate_several_in_one_run() -> None:
    x = schuss.exp(schuss.ones(4))
    a, b = x + 1, x + 2
    schuss.evaluate(a, b)
    assert last_run().ops == {"broadcast_to": 1, "exp": 1, "add": 2}
    schuss.evaluate(a, b)
    assert last_run().ops["add"] == 2, "nothing was left to run"


def network(w: schuss.Tensor) -> schuss.Tensor:
    h = schuss.tanh(w @ w)
    return (h * schuss.sigmoid(h)).sum()


def test_printing_the_loss_first_costs_no_second_forward_pass(ran) -> None:
    w = leaf(4, 4)
    loss = network(w)
    recorded = loss._node.number
    loss.item()
    forward = len(ran)
    loss.backward()
    w.grad.numpy()
    again = [node for node in ran[forward:] if node.number <= recorded]
    assert again == []

    silent = leaf(4, 4)
    loss = network(silent)
    loss.backward()
    silent.grad.numpy()
    np.testing.assert_array_equal(silent.grad.numpy(), w.grad.numpy())


def test_second_backward_without_retain_computes_the_forward_pass_again(ran) -> None:
    w = leaf(4, 4)
    loss = network(w)
    loss.backward()
    first = w.grad.numpy().copy()
    del ran[:]
    loss.backward()
    np.testing.assert_allclose(w.grad.numpy(), 2 * first)
    assert any(node.name == "matmul" for node in ran)


def test_retain_graph_keeps_what_the_forward_pass_computed(ran) -> None:
    w = leaf(4, 4)
    loss = network(w)
    recorded = loss._node.number
    loss.item()
    loss.backward(retain_graph=True)
    first = w.grad.numpy().copy()
    del ran[:]
    loss.backward()
    np.testing.assert_allclose(w.grad.numpy(), 2 * first)
    assert [node for node in ran if node.number <= recorded] == []


def chain(x: schuss.Tensor, length: int) -> schuss.Tensor:
    for _ in range(length):
        x = schuss.sin(x)
    return x


def test_buffers_are_given_back() -> None:
    x = schuss.tensor(np.zeros(1000))
    chain(x, 100).numpy()
    assert last_run().peak_bytes <= 3 * x.nbytes


@pytest.mark.usefixtures("reference_tier")
def test_saved_values_are_kept_until_backward_has_run() -> None:
    x = leaf(1000)
    y = chain(x, 100).sum()
    y.numpy()
    assert last_run().peak_bytes >= 100 * x.nbytes, "backward will look at every cosine's argument"


def test_a_spent_tape_keeps_nothing() -> None:
    x = leaf(1000)
    y = chain(x, 50).sum()
    y.backward()
    schuss.evaluate(y, x.grad)
    held = [node for node in ancestors_of(y) if node.value is not None]
    assert {node.name for node in held} <= {"sum", "detach", "data"}


def ancestors_of(x: schuss.Tensor) -> list[Node]:
    found, stack = set(), [x._node]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(node.inputs)
    return list(found)


def test_values_without_gradients_forget_where_they_came_from() -> None:
    x = schuss.ones(3) + 1
    x.numpy()
    assert x._node.inputs == ()


def test_evaluate_pending_computes_what_is_alive_only() -> None:
    kept = schuss.ones(3) + 1
    dropped = schuss.ones(3) * 2
    del dropped
    evaluate_pending()
    assert kept._node.value is not None
    assert "multiply" not in last_run().ops
    assert context.pending == []


def test_evaluate_pending_takes_targets() -> None:
    x, y = schuss.ones(3) + 1, schuss.ones(3) * 2
    evaluate_pending([x._node])
    assert x._node.value is not None
    assert y._node.value is not None


def test_counters_that_nobody_looks_at_do_not_hold_on_to_batches() -> None:
    correct = schuss.tensor(0)
    for _ in range(40):
        batch = adopt(np.ones(2**20, np.float32))  # 4 MiB
        correct = correct + (batch > 0).sum()
    gc.collect()
    alive = sum(node.nbytes for node in ancestors_of(correct) if node.value is not None)
    assert alive < 100 * 2**20, "160 MiB went through"
    assert correct.item() == 40 * 2**20


def test_a_long_chain_is_computed_in_portions() -> None:
    """Nobody looks and no data comes in: the graph must not grow without end."""
    evaluate_pending()
    total = schuss.tensor(0.0)
    first: Any = None
    for i in range(60_000):
        total = total + 1
        if i == 100:
            first = weakref.ref(total._node)
    assert first() is None
    assert len(context.pending) + context.pruned < 25_000
    assert total.item() == 60_000


@pytest.mark.usefixtures("one_tier")
def test_recomputation_gives_the_same_random_bits() -> None:
    noise = schuss.random.normal((50,), generator=schuss.Generator(3))
    x = leaf(50)
    loss = (x * noise).sum()
    del noise
    loss.backward()
    first = x.grad.numpy().copy()
    x.grad = None
    loss.backward()  # draws the noise again
    np.testing.assert_array_equal(x.grad.numpy(), first)


def test_draws_differ_but_each_stays() -> None:
    a, b = schuss.random.uniform((5,)), schuss.random.uniform((5,))
    assert a.tolist() != b.tolist()
    assert a.tolist() == a.tolist()


def test_errors_of_values_name_the_line_that_recorded() -> None:
    x = schuss.arange(3)
    line = inspect.currentframe().f_lineno + 1
    y = x[schuss.tensor([7])]
    z = y + 1
    with pytest.raises(OutOfBoundsError, match=r"gather: index 7 is outside axis 0") as caught:
        z.numpy()
    assert f"{__file__}:{line}" in str(caught.value)
    with pytest.raises(OutOfBoundsError, match="index 7"):
        z.numpy()


def test_errors_of_values_name_the_layer() -> None:
    class Scope:
        def path(self) -> str:
            return "Net.head (Embedding)"

    x = schuss.arange(3)
    context.scope = Scope()
    try:
        y = x[schuss.tensor([7])]
    finally:
        context.scope = None
    with pytest.raises(OutOfBoundsError, match=r"in: Net\.head \(Embedding\)"):
        y.numpy()


DEPTH = 100_000


def test_deep_graph_forward_backward_and_deletion(ran) -> None:
    x = schuss.tensor(1.0, dtype=schuss.float64, requires_grad=True)
    y = x
    for _ in range(DEPTH):
        y = y + 1
    assert y.item() == DEPTH + 1
    y.backward()
    assert x.grad.item() == 1
    assert len(ran) < 3 * DEPTH
    del y, ran[:]
    gc.collect()


def test_deep_graph_dropped_without_evaluation() -> None:
    x = schuss.tensor(1.0)
    for _ in range(DEPTH):
        x = x + 1
    del x
    gc.collect()


def test_deep_unlooked_at_gradient_graph() -> None:
    x = schuss.tensor(0.5, requires_grad=True)
    y = x
    for _ in range(10_000):
        y = schuss.sin(y)
    g = schuss.grad(lambda t: (t * y).sum())(schuss.tensor(1.0))
    assert np.isfinite(g.item())


def test_evaluating_nothing_runs_nothing(ran) -> None:
    evaluate_nodes([])
    schuss.evaluate()
    assert ran == []


def test_a_watcher_sees_each_node_with_its_value(ran) -> None:
    (schuss.ones(2) + 1).numpy()
    assert [node.name for node in ran] == ["broadcast_to", "add"]


def test_threads_may_share_nodes() -> None:
    """Eight threads look at results of one unevaluated model at once."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(10):
            shared = (schuss.ones(8, 8) * 2 + 1).relu() @ schuss.ones(8, 8)
            with ThreadPoolExecutor(8) as pool:
                found = list(pool.map(lambda k, x=shared: (x * k).sum().item(), range(8)))
            assert found == [1536.0 * k for k in range(8)]
    finally:
        sys.setswitchinterval(interval)


FORKING = """
import os, signal, threading
import schuss

x, ended = schuss.ones(200, 200), threading.Event()

def compute():
    while not ended.is_set():
        (x @ x).sum().item()

thread = threading.Thread(target=compute)
thread.start()
codes = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends it where it waits for ever
        os._exit(0 if (x @ x)[0, 0].item() == 200 else 1)
    codes.append(os.waitpid(child, 0)[1])
ended.set()
thread.join()
print(codes)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_fork_beside_an_evaluation() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "[0, 0, 0, 0]\n", done.stderr
