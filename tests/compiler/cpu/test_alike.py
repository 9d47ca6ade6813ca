"""Units of the same code are lowered once, and no others."""

from __future__ import annotations

from typing import Any

import pytest
from tests.compiler.graphs import filled, recorded

import schuss
from schuss import nn
from schuss.compiler.channels import channels_last
from schuss.compiler.cpu import alike
from schuss.compiler.cpu.alike import lower_all
from schuss.compiler.cpu.lower import lower
from schuss.compiler.fuse import fuse
from schuss.compiler.keep import keep
from schuss.compiler.layout import layout
from schuss.compiler.simplify import simplify
from schuss.compiler.units import Host, Unit
from schuss.models.resnet import BasicBlock
from schuss.nn import functional


def units_of(*tensors: Any) -> list[Unit]:
    return fuse(layout(keep(channels_last(simplify(recorded(*tensors))))))


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> list[Unit]:
    """The units that are lowered, not just renamed."""
    found: list[Unit] = []

    def noted(unit: Unit) -> Any:
        found.append(unit)
        return lower(unit)

    monkeypatch.setattr(alike, "lower", noted)
    return found


def gradients(model: nn.Module, x: Any) -> list[Any]:
    """What a training step makes, before the update."""
    loss = model(x).square().mean()
    loss.backward()
    return [loss, *[each.grad for each in model.parameters()]]


class First(nn.Module):
    """The first result of a layer that is called with so many times the same."""

    def __init__(self, layer: nn.Module, times: int) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x: Any) -> Any:
        return self.layer(*[x] * self.times)[0]


MODELS = {
    "residual": lambda: (
        nn.Sequential(*[BasicBlock(16, 16) for _ in range(3)], BasicBlock(16, 32, stride=2)),
        filled(2, 16, 8, 8),
    ),
    "attention": lambda: (
        nn.Sequential(*[First(nn.MultiheadAttention(16, 2), 3) for _ in range(3)]),
        filled(2, 5, 16),
    ),
    "depthwise": lambda: (
        nn.Sequential(*[nn.Conv2d(16, 16, 3, padding=1, groups=16) for _ in range(3)]),
        filled(2, 16, 8, 8),
    ),
    "recurrent": lambda: (First(nn.LSTM(5, 7, num_layers=2), 1), filled(6, 2, 5)),
}


@pytest.mark.parametrize("name", MODELS)
def test_launches_are_those_of_each_unit_alone(name: str, lowered: list[Unit]) -> None:
    schuss.manual_seed(0)
    units = units_of(*gradients(*MODELS[name]()))
    found = lower_all(units)
    assert found == [None if isinstance(unit, Host) else lower(unit) for unit in units]
    assert len(lowered) < len(units)


def test_equal_layers_are_lowered_once(lowered: list[Unit]) -> None:
    x, weights = filled(8, 8), [filled(8, 8) for _ in range(5)]
    calls = lower_all(units_of(*[schuss.relu(x @ weight) for weight in weights]))
    assert len(lowered) == 1
    assert len({call.words for each in calls for group in each.groups for call in group}) == 5


def different() -> dict[str, list[Any]]:
    """Pairs that share much, but not their code."""
    x, y, q = filled(8, 8), filled(8, 8), filled(1, 2, 4, 8)
    images, weight = filled(1, 4, 6, 6), filled(4, 4, 3, 3)
    attention, convolve = functional.scaled_dot_product_attention, functional.conv2d
    return {
        "the same memory twice": [x * y + 1.5, y * y + 1.5],
        "a transpose": [x @ y, x @ y.T],
        "an attribute": [attention(q, q, q), attention(q, q, q, is_causal=True)],
        "another attribute": [attention(q, q, q, scale=2.0), attention(q, q, q, scale=3.0)],
        "padding": [convolve(images, weight, padding=each) for each in (1, 2)],
        "a dtype": [x * 2.5, x.astype(schuss.float64) * 2.5],
    }


@pytest.mark.parametrize("name", different())
def test_other_units_are_lowered_each(name: str, lowered: list[Unit]) -> None:
    units = [unit for tensor in different()[name] for unit in units_of(tensor)]
    assert lower_all(units) == [lower(unit) for unit in units]
    last = {id(unit) for unit in (units[0], units[-1])}
    assert last <= {id(unit) for unit in lowered}
