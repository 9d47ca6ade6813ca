"""K-FAC: its curvature against the Fisher information written out, and how fast it learns."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss import nn, optim
from schuss.errors import ArgumentError, StateDictError
from schuss.optim.kfac import _kronecker_solve

rng = np.random.default_rng(0)


def test_a_division_by_a_kronecker_product() -> None:
    """vec(G^-1 S A^-1) = (G x A)^-1 vec(S), for rows behind each other."""
    a, g = (
        m @ m.T + np.eye(len(m)) for m in (rng.standard_normal((3, 3)), rng.standard_normal((2, 2)))
    )
    slope = rng.standard_normal((2, 3))
    found = _kronecker_solve(*[schuss.tensor(m) for m in (a, g, slope)], 1e-20).numpy()
    expected = np.linalg.solve(np.kron(g, a), slope.ravel()).reshape(2, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_one_layer_with_squared_errors_is_solved_in_one_step() -> None:
    """There the curvature is a Kronecker product: G = I, and A the inputs' second moments."""
    schuss.manual_seed(0)
    x = schuss.tensor(rng.standard_normal((4000, 3)))
    w = schuss.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 2.0]], dtype=schuss.float64)
    y = x @ w.T + 0.7
    model = nn.Linear(3, 2).to(schuss.float64)
    loss = lambda out, y: 0.5 * ((out - y) ** 2).sum(axis=1).mean()
    kfac = optim.KFAC(
        model, loss, lr=1.0, damping=1e-8, momentum=0.0, likelihood="gaussian", limit=1e9
    )
    before = kfac.step(x, y).item()
    after = loss(model(x), y).item()
    assert after < 0.01 * before
    np.testing.assert_allclose(model.weight.numpy(), w.numpy(), atol=0.15)


def test_factors_are_the_moments_of_inputs_and_drawn_gradients() -> None:
    schuss.manual_seed(0)
    x = schuss.random.normal((5000, 2))
    model = nn.Sequential(nn.Linear(2, 3, bias=False))
    labels = schuss.zeros(5000, dtype=schuss.int64)
    kfac = optim.KFAC(model, nn.CrossEntropyLoss(), momentum=0.0)
    p = schuss.softmax(model(x), axis=1).numpy()
    kfac.step(x, labels)
    a, g = kfac.factors[0]
    np.testing.assert_allclose(a.numpy(), x.numpy().T @ x.numpy() / 5000, rtol=1e-4, atol=1e-5)
    fisher = np.mean([np.diag(q) - np.outer(q, q) for q in p], axis=0)
    np.testing.assert_allclose(g.numpy(), fisher, atol=0.02)


def network() -> nn.Sequential:
    schuss.manual_seed(3)
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 2))


def data() -> tuple[schuss.Tensor, schuss.Tensor]:
    x = schuss.random.normal((200, 2), generator=schuss.Generator(5))
    return x, (x[:, 0] * x[:, 1] > 0).astype(schuss.int64)


def test_it_learns_faster_than_gradient_descent() -> None:
    x, y = data()
    model, plain = network(), network()
    kfac = optim.KFAC(model, nn.CrossEntropyLoss(), lr=0.3)
    losses = [kfac.step(x, y).item() for _ in range(30)]
    sgd = optim.SGD(plain.parameters(), lr=0.3, momentum=0.9)
    for _ in range(30):
        sgd.zero_grad()
        loss = nn.functional.cross_entropy(plain(x), y)
        loss.backward()
        sgd.step()
    assert losses[-1] < 0.5 * loss.item()
    assert losses[-1] < 0.1 * losses[0]


def test_the_model_itself_is_moved_and_stays_a_model() -> None:
    x, y = data()
    model = network()
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    optim.KFAC(model, nn.CrossEntropyLoss()).step(x, y)
    for name, p in model.named_parameters():
        assert p.is_leaf
        assert p.grad is None
        assert not np.array_equal(p.numpy(), before[name]), f"{name} moves too"


def test_inputs_with_more_axes() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    x = schuss.random.normal((5, 7, 2))
    loss = lambda out, y: ((out - y) ** 2).sum(axis=(1, 2)).mean()
    kfac = optim.KFAC(model, loss, likelihood="gaussian")
    assert np.isfinite(kfac.step(x, schuss.zeros(5, 7, 3)).item())


def test_errors() -> None:
    with pytest.raises(ArgumentError, match="likelihood is 'categorical' or 'gaussian'"):
        optim.KFAC(network(), nn.CrossEntropyLoss(), likelihood="poisson")
    with pytest.raises(ArgumentError, match="the model has no linear layers"):
        optim.KFAC(nn.Sequential(nn.ReLU()), nn.CrossEntropyLoss())
    with pytest.raises(ArgumentError, match="KFAC: damping must be positive"):
        optim.KFAC(network(), nn.CrossEntropyLoss(), damping=0)


def steps(kfac: optim.KFAC, count: int) -> list[float]:
    batches = np.random.default_rng(1).standard_normal((8, 32, 2)).astype(np.float32)
    taken = [schuss.tensor(batches[(kfac.steps + i) % 8]) for i in range(count)]
    return [kfac.step(x, (x[:, 0] > 0).astype(schuss.int64)).item() for x in taken]


def made(generator: schuss.Generator) -> optim.KFAC:
    return optim.KFAC(network(), nn.CrossEntropyLoss(), generator=generator)


def test_a_run_goes_on_from_its_state(tmp_path) -> None:
    whole = made(schuss.Generator(5))
    steps(whole, 3)
    weights = {name: p.numpy().copy() for name, p in whole.model.named_parameters()}
    saved = whole.state_dict()
    assert saved["groups"][0]["steps"] == 3
    flat = {f"{n}/{slot}": v for n, slots in saved["state"].items() for slot, v in slots.items()}
    schuss.save(flat, tmp_path / "state.safetensors")
    loaded = schuss.load(tmp_path / "state.safetensors")
    state: dict = {}
    for key, value in loaded.items():
        state.setdefault(key.partition("/")[0], {})[key.partition("/")[2]] = value
    again = made(schuss.Generator(5))
    again.lr = 0.7
    again.generator.load_state_dict(whole.generator.state_dict())
    for name, p in again.model.named_parameters():
        p.assign(schuss.tensor(weights[name]))
    again.load_state_dict({"state": state, "groups": saved["groups"]})
    assert again.lr == whole.lr
    assert steps(again, 3) == pytest.approx(steps(whole, 3), rel=1e-5)


def test_a_state_before_the_first_step() -> None:
    kfac = made(schuss.Generator(5))
    kfac.load_state_dict(made(schuss.Generator(5)).state_dict())
    assert (kfac.velocity, kfac.factors, kfac.steps) == (None, [], 0)


def test_states_of_others_are_refused() -> None:
    kfac = made(schuss.Generator(5))
    steps(kfac, 1)
    saved = kfac.state_dict()
    other = optim.KFAC(nn.Sequential(nn.Linear(2, 2)), nn.CrossEntropyLoss())
    with pytest.raises(StateDictError, match="the saved parameters are not this optimizer's"):
        other.load_state_dict(saved)
    with pytest.raises(StateDictError, match="the state was saved by SGD"):
        kfac.load_state_dict(optim.SGD(kfac.model.parameters(), lr=0.1).state_dict())
    saved["state"]["0.weight"]["inputs"] = schuss.eye(7)
    with pytest.raises(StateDictError, match=r"the slots of 0\.weight have other shapes"):
        kfac.load_state_dict(saved)
