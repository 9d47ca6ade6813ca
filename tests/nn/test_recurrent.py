"""Recurrent layers: shapes, states, lengths, errors. tests/comparison has PyTorch's values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from schuss.execution.tiers import using
from schuss.patterns import Promised

RNG = np.random.default_rng(0)


def x_of(*shape: int) -> schuss.Tensor:
    return schuss.tensor(RNG.standard_normal(shape), dtype=schuss.float32)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_layer_is_its_cell_step_by_step(kind: str) -> None:
    layer, cell = getattr(nn, kind)(3, 4), getattr(nn, f"{kind}Cell")(3, 4)
    weights = {f"{name}_l0": each for name, each in cell.state_dict().items()}
    assert list(layer.state_dict()) == list(weights)
    layer.load_state_dict(weights)
    x, state, outputs = x_of(5, 2, 3), None, []
    for row in x:
        state = cell(row, state)
        outputs.append(state[0] if kind == "LSTM" else state)
    y, last = layer(x)
    np.testing.assert_allclose(y.numpy(), schuss.stack(outputs).numpy(), rtol=1e-5, atol=1e-6)
    ends = zip(last, state, strict=True) if kind == "LSTM" else [(last, state)]
    for a, b in ends:
        np.testing.assert_allclose(a.numpy()[0], b.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tier", ["reference", "compiled"])
def test_lengths_do_not_see_what_is_behind(tier: str) -> None:
    """Each sequence alone gives the same, and so do numbers behind its end."""
    layer = nn.GRU(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    x, lengths = x_of(3, 6, 3), [6, 2, 4]
    with using(tier):
        y, last = layer(x, lengths=lengths)
        other, _ = layer(
            schuss.where(schuss.abs(y).sum(2, keepdims=True) > 0, x, 7.0), lengths=lengths
        )
        np.testing.assert_array_equal(y.numpy(), other.numpy())
        for i, n in enumerate(lengths):
            alone, end = layer(x[i : i + 1, :n])
            np.testing.assert_allclose(y.numpy()[i, :n], alone.numpy()[0], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(last.numpy()[:, i], end.numpy()[:, 0], rtol=1e-5, atol=1e-6)
            assert not y.numpy()[i, n:].any()


def test_layers_come_out_of_memory_when_they_come_again() -> None:
    layer = nn.LSTM(3, 4, num_layers=2, bidirectional=True, dropout=0.5)
    x, start = x_of(5, 2, 3), (x_of(4, 2, 4), x_of(4, 2, 4))

    def results() -> list[schuss.Tensor]:
        y, (h, c) = layer(x, start, lengths=[5, 3])
        (y.sum() + (h * c).sum()).backward()
        grads = [each.grad for each in layer.parameters()]
        layer.zero_grad()
        return [y, h, c, *grads]

    first = results()  # with a dropout in it, which is drawn anew
    assert not any(isinstance(each._node, Promised) for _ in range(3) for each in results()[:3])
    layer.eval()
    expected, *_, found = [results() for _ in range(4)]
    assert all(isinstance(each._node, Promised) for each in found[:3])
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)
    assert np.abs(first[0].numpy() - found[0].numpy()).max() > 0.01


def test_one_loop_for_any_number_of_steps_of_training() -> None:
    model = nn.LSTM(3, 4, num_layers=2, dropout=0.5)
    optimizer = schuss.optim.SGD(model.parameters(), lr=0.1)
    x, losses = x_of(7, 2, 3), []
    with using("compiled"):
        for _ in range(5):
            optimizer.zero_grad()
            y, _ = model(x)
            loss = ((y - 0.3) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            seconds = schuss.last_run().compile_seconds
    assert seconds == 0
    assert losses[-1] < losses[0]


def test_dropout_is_between_layers_and_in_training_only() -> None:
    schuss.manual_seed(0)
    x = x_of(3, 2, 3)

    def repeats(model: nn.Module) -> bool:
        return np.allclose(model(x)[0].numpy(), model(x)[0].numpy(), atol=1e-5)

    one, two = nn.RNN(3, 4, dropout=0.5), nn.RNN(3, 4, 2, dropout=0.5)
    assert repeats(one)
    assert not repeats(two)
    two.eval()
    assert repeats(two)


def test_threads_change_no_bit() -> None:
    model = nn.LSTM(64, 128)
    x, before = x_of(9, 16, 64), schuss.get_num_threads()

    def gradients() -> list[Any]:
        for each in model.parameters():
            each.grad = None
        model(x)[0].sum().backward()
        with using("compiled"):
            schuss.evaluate(*[each.grad for each in model.parameters()])
        return [each.grad.numpy().copy() for each in model.parameters()]

    try:
        found = []
        for n in (1, 2, 3):
            schuss.set_num_threads(n)
            found.append(gradients())
    finally:
        schuss.set_num_threads(before)
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_dtypes_meet_as_elsewhere(kind: str) -> None:
    """The state has the dtype of what is computed from it, not that of x."""
    layer = getattr(nn, kind)(3, 4, num_layers=2)
    x = x_of(5, 2, 3).astype(schuss.bfloat16)
    expected, _ = layer(x.astype(schuss.float32))
    y, _ = layer(x)
    assert y.dtype == schuss.float32
    np.testing.assert_allclose(y.numpy(), expected.numpy(), atol=1e-2)
    half, wide = schuss.zeros((2, 2, 4), dtype=schuss.float16), schuss.float64
    for given, state, dtype in ((x, half, schuss.float32), (x[:0].astype(wide), half, wide)):
        y, last = layer(given, (state, state) if kind == "LSTM" else state)
        ends = last if kind == "LSTM" else (last,)
        assert [y.dtype, *[each.dtype for each in ends]] == [dtype] * (1 + len(ends))


def test_a_layer_behind_another_one_under_autocast() -> None:
    before, layer = nn.Linear(3, 3), nn.LSTM(3, 4)
    x = x_of(5, 2, 3)
    with schuss.autocast(schuss.bfloat16):
        y, _ = layer(before(x))
    y.sum().backward()
    assert before.weight.grad is not None
    np.testing.assert_allclose(y.numpy(), layer(before(x))[0].numpy(), atol=2e-2)


def test_nothing_to_read() -> None:
    y, (h, c) = nn.LSTM(3, 4)(schuss.zeros((0, 2, 3)))
    assert y.shape == (0, 2, 4)
    assert h.shape == c.shape == (1, 2, 4)


def test_description() -> None:
    assert (
        nn.LSTM(3, 4, 2, bidirectional=True).describe() == "3, 4, num_layers=2, bidirectional=True"
    )
    assert nn.GRUCell(3, 4, bias=False).describe() == "3, 4, bias=False"


# --- errors ---


def test_errors_of_settings() -> None:
    with pytest.raises(ArgumentError, match="LSTM: hidden_size must be a positive integer"):
        nn.LSTM(3, 0)
    with pytest.raises(ArgumentError, match="GRU: dropout must be between 0 and 1"):
        nn.GRU(3, 4, dropout=2.0)
    with pytest.raises(ArgumentError, match="LSTM: proj_size must be smaller than hidden_size"):
        nn.LSTM(3, 4, proj_size=4)
    for layer in (nn.RNN, nn.RNNCell):
        with pytest.raises(ArgumentError, match='nonlinearity must be "tanh" or "relu"'):
            layer(3, 4, nonlinearity="sin")


def test_errors_of_inputs() -> None:
    lstm, x = nn.LSTM(3, 4), x_of(5, 2, 3)
    with pytest.raises(ShapeError, match=r"LSTM: x must have the shape \(T, N, 3\) or \(T, 3\)"):
        lstm(x_of(5, 2, 4))
    with pytest.raises(DTypeError, match="LSTM: needs floating input"):
        lstm(schuss.zeros((5, 2, 3), dtype=schuss.int64))
    with pytest.raises(
        ArgumentTypeError, match=r"LSTM: the state is a pair \(h_0, c_0\), got Tensor"
    ):
        lstm(x, x)
    with pytest.raises(ShapeError, match=r"LSTM: the state must have the shape \(1, 2, 4\)"):
        lstm(x, (schuss.zeros((2, 4)), schuss.zeros((2, 4))))
    with pytest.raises(
        ShapeError, match="LSTM: there must be a length for each of the 2 sequences"
    ):
        lstm(x, lengths=[5, 5, 5])
    with pytest.raises(DTypeError, match="LSTM: lengths must be integers"):
        lstm(x, lengths=[5.0, 5.0])
    with pytest.raises(ArgumentError, match="LSTM: lengths need a batch of sequences"):
        lstm(x_of(5, 3), lengths=[5])
    with pytest.raises(ShapeError, match=r"LSTMCell: x must have the shape \(N, 3\) or \(3,\)"):
        nn.LSTMCell(3, 4)(x_of(2, 4))
    with pytest.raises(ShapeError, match=r"GRUCell: the state must have the shape \(2, 4\)"):
        nn.GRUCell(3, 4)(x_of(2, 3), x_of(3, 4))
