"""`checkpoint`: the same derivatives, for less memory."""

from __future__ import annotations

import numpy as np

import schuss
from schuss import checkpoint, grad, hessian, jvp, last_run, nn, vmap
from schuss.execution import tiers
from schuss.execution.evaluate import watchers

from .helpers import assert_trees_close, t

rng = np.random.default_rng(0)
X, W = rng.standard_normal((5, 4)), rng.standard_normal((4, 4))


def layer(x, w):
    return schuss.tanh(x @ w), (x * x).sum()


def loss_of(f):
    def loss(x, w):
        y, total = f(x, w)
        return (y**3).sum() * total

    return loss


def test_every_transform_sees_the_same() -> None:
    plain, kept = loss_of(layer), loss_of(checkpoint(layer))
    x, w = t(X), t(W)
    both = (0, 1)
    for transform in (
        lambda f: f(x, w),
        lambda f: grad(f, both)(x, w),
        lambda f: grad(lambda x, w: (grad(f)(x, w) ** 2).sum(), both)(x, w),
        lambda f: jvp(f, (x, w), (w[:1] + x, w)),
        lambda f: jvp(grad(f), (x, w), (w[:1] + x, w)),
        lambda f: hessian(f)(x[:2, :], w),
        lambda f: vmap(grad(f, both), (0, None))(x, w),
        lambda f: grad(lambda x, w: vmap(f, (0, None))(x, w).sum(), both)(x, w),
        lambda f: jvp(vmap(f, (0, None)), (x, w), (x, w)),
    ):
        assert_trees_close(transform(kept), transform(plain), 1e-9)


def test_nested_checkpoints() -> None:
    twice = checkpoint(loss_of(checkpoint(layer)))
    assert_trees_close(grad(twice, (0, 1))(t(X), t(W)), grad(loss_of(layer), (0, 1))(t(X), t(W)))


def test_gradients_flow_into_layers() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), schuss.tensor(X)
    model.to(schuss.float64)
    (model(x) ** 2).sum().backward()
    plain = [p.grad for p in model.parameters()]
    model.zero_grad()
    (checkpoint(model)(x) ** 2).sum().backward()
    assert_trees_close([p.grad for p in model.parameters()], plain)


def test_the_function_runs_once_and_draws_once() -> None:
    calls = []

    def noisy(x):
        calls.append(1)
        return x * schuss.random.uniform((3,), dtype=schuss.float64)

    x = t(np.ones(3), requires_grad=True)
    y = checkpoint(noisy)(x)
    y.sum().backward()
    assert len(calls) == 1
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())


def test_batch_norm_changes_its_statistics_once() -> None:
    norms = [nn.BatchNorm1d(4), nn.BatchNorm1d(4)]
    x = schuss.tensor(X, dtype=schuss.float32, requires_grad=True)
    (norms[0](x) ** 3).sum().backward()
    (checkpoint(norms[1])(x) ** 3).sum().backward()
    np.testing.assert_array_equal(norms[0].running_var.numpy(), norms[1].running_var.numpy())


def chain(x, kept: bool):
    for _ in range(8):
        block = lambda x: schuss.sin(schuss.cos(schuss.sin(schuss.cos(x))))
        x = checkpoint(block)(x) if kept else block(x)
    return x.sum()


def test_less_is_held_for_the_backward_pass() -> None:
    held = {}
    for kept in (False, True):
        x = schuss.zeros(1000).requires_grad_()
        loss = chain(x, kept)
        loss.item()
        nodes, stack = set(), [loss._node]
        while stack:
            node = stack.pop()
            if node not in nodes:
                nodes.add(node)
                stack += node.inputs
        held[kept] = sum(n.nbytes for n in nodes if n.value is not None and n.size > 1)
        loss.backward()
        assert np.isfinite(x.grad.numpy()).all()
    assert held[True] <= 10 * 4000
    assert held[False] >= 32 * 4000


def test_the_peak_of_forward_and_backward_together_is_lower() -> None:
    peaks = {}
    for kept in (False, True):
        x = schuss.zeros(1000).requires_grad_()
        chain(x, kept).backward()
        with tiers.using("reference"):  # the other tier computes such a chain in registers
            x.grad.numpy()
        peaks[kept] = last_run().peak_bytes
    assert peaks[True] < 0.7 * peaks[False]


def test_it_is_computed_again_in_the_backward_pass() -> None:
    x = t([0.5], requires_grad=True)
    y = checkpoint(lambda x: schuss.exp(schuss.sin(x)))(x)
    y.numpy()
    y.sum().backward()
    ran: list[str] = []
    watchers.append(lambda node: ran.append(node.op.name))
    try:
        x.grad.numpy()
    finally:
        watchers.pop()
    assert "sin" in ran


def test_where_nothing_is_differentiated() -> None:
    with schuss.no_grad():
        assert checkpoint(lambda x: x * 2)(t([1.0])).tolist() == [2]
    assert checkpoint(lambda x: x * 2)(t([1.0])).tolist() == [2]
    assert checkpoint(lambda: t([3.0]))().tolist() == [3]


def test_without_arguments() -> None:
    w = t([2.0], requires_grad=True)
    checkpoint(lambda: (w**3).sum())().backward()
    assert w.grad.tolist() == [12]
