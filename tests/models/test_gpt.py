"""The small GPT: causal, tied or not, and what it writes."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss import nn, optim
from schuss.errors import ArgumentError, ShapeError
from schuss.models import GPT


def small(**settings: object) -> GPT:
    schuss.manual_seed(0)
    return GPT(11, 6, layers=2, heads=2, width=8, **settings)  # type: ignore[arg-type]


def test_the_number_of_parameters() -> None:
    """nanoGPT prints 0.80M for its CPU setting, positions left out."""
    model = GPT(65, 64)
    positions = 64 * 128
    block = 4 * 128 * 128 + 8 * 128 * 128 + 2 * 128
    assert model.parameter_count() == 65 * 128 + positions + 4 * block + 128
    assert round((model.parameter_count() - positions) / 1e6, 2) == 0.80
    untied = GPT(65, 64, tied=False, bias=True)
    more = 65 * 128 + 4 * (3 * 128 + 128 + 4 * 128 + 128 + 2 * 128) + 128
    assert untied.parameter_count() == model.parameter_count() + more


@pytest.mark.parametrize("tied", [True, False])
def test_no_place_sees_later_ones(tied: bool) -> None:
    model = small(tied=tied)
    tokens = np.array([[1, 2, 3, 4, 5, 6]])
    changed = tokens.copy()
    changed[0, 4] = 9
    first, second = (model(schuss.tensor(each)).numpy() for each in (tokens, changed))
    assert first.shape == (1, 6, 11)
    np.testing.assert_allclose(first[:, :4], second[:, :4], rtol=1e-6)
    assert not np.allclose(first[:, 4:], second[:, 4:])


def test_initial_weights() -> None:
    model = GPT(65, 64, layers=8, bias=True)
    named = dict(model.named_parameters())
    assert named["tokens.weight"].numpy().std() == pytest.approx(0.02, rel=0.05)
    assert named["blocks.3.attention.qkv.weight"].numpy().std() == pytest.approx(0.02, rel=0.05)
    assert named["blocks.3.narrow.weight"].numpy().std() == pytest.approx(0.005, rel=0.05)
    assert not named["blocks.3.attention.qkv.bias"].numpy().any()
    assert (named["blocks.3.norm1.weight"].numpy() == 1).all()


def test_groups_for_the_optimizer() -> None:
    model = small(bias=True)
    decaying, others = model.parameter_groups(0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert all(each.ndim == 2 for each in decaying["params"])
    assert "blocks.0.norm1.weight" in others["names"]
    assert len(decaying["params"]) + len(others["params"]) == len(model.parameters())


def test_it_learns_a_cycle_and_goes_on_with_it() -> None:
    model = small()
    optimizer = optim.AdamW(model.parameter_groups(0.0), lr=1e-2)
    tokens = schuss.tensor((np.arange(5)[:, None] + np.arange(7)) % 5)
    for _ in range(60):
        optimizer.zero_grad()
        logits = model(tokens[:, :-1]).reshape((-1, 11))
        nn.functional.cross_entropy(logits, tokens[:, 1:].reshape((-1,))).backward()
        optimizer.step()
    model.train()
    written = model.generate([2, 3], 12, top_k=1)  # beyond the length of a block
    assert written.tolist() == [(4 + i) % 5 for i in range(12)]
    assert model.training
    cold = model.generate(schuss.tensor([2, 3]), 12, temperature=0.01)
    assert cold.tolist() == written.tolist()


def test_draws() -> None:
    model = small()
    drawn = [model.generate([1], 40, generator=schuss.Generator(seed)) for seed in (0, 0, 1)]
    assert drawn[0].dtype == np.int64
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()
    few = model.generate([1], 40, top_k=2, temperature=100.0)
    assert len(set(drawn[0].tolist())) > 4  # nearly even: it has learnt nothing
    assert drawn[0].max() < 11
    logits = model(schuss.tensor([[1]])).numpy()[0, 0]
    assert few[0] in np.argsort(logits)[-2:]


def test_frequencies_are_those_of_the_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    logits = np.log(np.array([0.5, 0.3, 0.2]))
    monkeypatch.setattr(model, "_next_logits", lambda context: logits, raising=True)
    counts = np.bincount(model.generate([0], 4000, generator=schuss.Generator(2)), minlength=3)
    np.testing.assert_allclose(counts / 4000, [0.5, 0.3, 0.2], atol=0.03)


def test_errors() -> None:
    model = small()
    with pytest.raises(
        ShapeError, match=r"tokens must be \(N, T\) with T up to 6\n  tokens: \(1, 7"
    ):
        model(schuss.zeros((1, 7), dtype=schuss.int64))
    with pytest.raises(ArgumentError, match="the prompt needs a token"):
        model.generate([], 3)
    for wrong in ({"temperature": 0.0}, {"top_k": 0}):
        with pytest.raises(ArgumentError, match="temperature must be positive, and top_k at least"):
            model.generate([1], 3, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"heads must divide width\n  width: 8\n  heads: 3"):
        GPT(11, 6, heads=3, width=8)
