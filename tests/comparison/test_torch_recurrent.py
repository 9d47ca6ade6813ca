"""The same weights in PyTorch's recurrent layers and ours: the same outputs and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.comparison

Array = np.ndarray[Any, Any]
SIZES = {"input_size": 4, "hidden_size": 5}


def leaves(tree: Any) -> list[Any]:
    return [each for part in tree for each in leaves(part)] if isinstance(tree, tuple) else [tree]


def compare(ours: nn.Module, theirs: Any, *inputs: Any) -> None:
    """Everything that comes out, and gradients by inputs and parameters, in float64."""
    rng = np.random.default_rng(1)
    ours.to(schuss.float64)
    theirs.double()
    theirs.zero_grad()
    for parameter in ours.parameters():
        parameter.grad = None
    ours.load_state_dict({name: x.detach().numpy() for name, x in theirs.state_dict().items()})
    assert list(ours.state_dict()) == list(theirs.state_dict())

    def made(make: Any, tree: Any) -> Any:
        if isinstance(tree, tuple):
            return tuple(made(make, part) for part in tree)
        return make(tree, requires_grad=True)

    mine = [made(schuss.tensor, x) for x in inputs]
    other = [made(torch.tensor, x) for x in inputs]
    results, expected = leaves(ours(*mine)), leaves(theirs(*other))
    weights = [rng.standard_normal(tuple(y.shape)) for y in expected]
    for y, z in zip(results, expected, strict=True):
        close(y, z)
    sum((y * schuss.tensor(w)).sum() for y, w in zip(results, weights, strict=True)).backward()
    sum((z * torch.tensor(w)).sum() for z, w in zip(expected, weights, strict=True)).backward()
    for x, z in zip(leaves(tuple(mine)), leaves(tuple(other)), strict=True):
        close(x.grad, z.grad)
    theirs_by_name = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        close(parameter.grad, theirs_by_name[name].grad)


def close(y: Any, z: Any) -> None:
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-9, atol=1e-10)


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
        {"bias": False, "num_layers": 2},
    ],
    ids=str,
)
def test_layers(kind: str, options: dict[str, Any]) -> None:
    ours, theirs = (getattr(side, kind)(**SIZES, **options) for side in (nn, torch.nn))
    compare(ours, theirs, normal(3, 2, 4))
    count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    n = 3 if options.get("batch_first") else 2
    state = normal(count, n, 5)
    compare(ours, theirs, normal(3, 2, 4), (state, 2 * state) if kind == "LSTM" else state)


def test_relu_projection_and_a_single_sequence() -> None:
    options = {**SIZES, "nonlinearity": "relu"}
    compare(nn.RNN(**options), torch.nn.RNN(**options), normal(3, 4))
    options = {**SIZES, "proj_size": 3, "num_layers": 2}
    compare(nn.LSTM(**options), torch.nn.LSTM(**options), normal(3, 2, 4))


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("shape", [(3,), ()])
def test_cells(kind: str, shape: tuple[int, ...]) -> None:
    ours, theirs = (getattr(side, kind)(**SIZES) for side in (nn, torch.nn))
    state = normal(*shape, 5)
    compare(ours, theirs, normal(*shape, 4))
    compare(ours, theirs, normal(*shape, 4), (state, 2 * state) if kind == "LSTMCell" else state)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_lengths_are_packed_sequences(kind: str) -> None:
    ours = getattr(nn, kind)(**SIZES, bidirectional=True, num_layers=2)
    theirs = getattr(torch.nn, kind)(**SIZES, bidirectional=True, num_layers=2)
    lengths = [3, 1, 5]
    rnn = torch.nn.utils.rnn

    class Ours(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = ours

        def forward(self, x: Any) -> Any:
            return self.inner(x, lengths=lengths)

    class Theirs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = theirs

        def forward(self, x: Any) -> Any:
            packed = rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
            y, state = self.inner(packed)
            return rnn.pad_packed_sequence(y)[0], state

    compare(Ours(), Theirs(), normal(5, 3, 4))
