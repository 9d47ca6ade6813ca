"""Which values come to have their channels last, and where they are converted."""

from __future__ import annotations

import numpy as np
import pytest
from tests.compiler.graphs import filled, recorded

import schuss
from schuss import nn
from schuss.compiler.channels import channels_last
from schuss.compiler.program import compile_graph
from schuss.compiler.simplify import simplify
from schuss.compiler.units import Panels
from schuss.compiler.values import Graph
from schuss.compiler.verify import verify, verify_graph
from schuss.execution.tiers import using
from schuss.nn import functional as F  # noqa: N812


def passed(*tensors: object) -> Graph:
    graph = channels_last(simplify(recorded(*tensors)))
    verify_graph(graph)
    return graph


def named(graph: Graph, op: str) -> list[object]:
    return [value for value in graph.values if value.op == op]


def test_what_follows_a_convolution_has_channels_last() -> None:
    x, w = filled(2, 3, 8, 8), filled(4, 3, 3, 3)
    y = F.conv2d(x, w, padding=1).relu() * filled(1, 4, 1, 1)
    graph = passed(y.sum(axis=(2, 3)))
    (relu,) = named(graph, "relu")
    (total,) = named(graph, "sum")
    assert relu.shape == (2, 8, 8, 4)
    assert total.attributes["axes"] == (1, 2)
    assert total.shape == (2, 4)


def test_two_convolutions_have_no_conversion_between_them() -> None:
    x = filled(2, 3, 8, 8)
    y = F.conv2d(F.conv2d(x, filled(4, 3, 3, 3)).tanh(), filled(5, 4, 3, 3))
    graph = passed(y)
    (tanh,) = named(graph, "tanh")
    first, second = named(graph, "convolution")
    assert second.inputs[0] is tanh
    assert first.inputs[0].op == "permute"  # the images, as the user has them


@pytest.mark.parametrize("outputs", [6, 18])
def test_depthwise_convolutions_need_no_windows(outputs: int) -> None:
    x, w = filled(2, 6, 8, 8), filled(outputs, 1, 3, 3)
    x.requires_grad = w.requires_grad = True
    F.conv2d(x, w, padding=1, stride=2, groups=6).sum().backward()
    graph = passed(x.grad, w.grad)
    assert len(named(graph, "convolution")) == len(named(graph, "convolution_weight")) == 1
    assert not named(graph, "windows")
    assert not named(graph, "pieces")


def test_weights_are_packed_where_they_lie() -> None:
    x, w = filled(2, 20, 8, 8), filled(24, 20, 3, 3)
    x.requires_grad = True
    F.conv2d(x, w).sum().backward()
    compiled = compile_graph(recorded(x.grad))
    verify(compiled)
    (panels,) = [unit for unit in compiled.units if isinstance(unit, Panels)]
    assert [each.op for each in panels.reads()] == ["input"]


def test_a_gradient_of_a_weight_keeps_its_order() -> None:
    x, w = filled(2, 3, 8, 8), filled(4, 3, 3, 3)
    w.requires_grad = True
    F.conv2d(x, w).sum().backward()
    graph = passed(w - 2 * w.grad)
    (difference,) = named(graph, "subtract")
    assert difference.shape == (4, 3, 3, 3)


def test_a_graph_without_images_stays_as_it_is() -> None:
    graph = simplify(recorded(filled(2, 3, 4).sum(axis=1)))
    assert channels_last(graph) is graph


def test_outputs_lie_in_memory_as_everybody_expects() -> None:
    with using("compiled"):
        y = F.conv2d(filled(2, 3, 8, 8), filled(4, 3, 3, 3)).numpy()
    assert y.flags.c_contiguous


MODELS = {
    "residual": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.MaxPool2d(3, 2, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ),
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.SiLU(),
        nn.Conv2d(6, 12, 3, stride=2, groups=6), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 4),
    ),
    "overlapping": lambda: nn.Sequential(
        nn.Conv2d(3, 5, 3, dilation=2), nn.GELU(), nn.MaxPool2d(3, 2), nn.AvgPool2d(3, 1, 1),
        nn.Conv2d(5, 4, 3, stride=3, padding=2), nn.Flatten(2), nn.AdaptiveAvgPool1d(1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_networks_agree_with_the_reference(name: str) -> None:
    schuss.manual_seed(0)
    model = MODELS[name]()
    x = schuss.random.normal((5, 3, 11, 11))
    found = {}
    for tier in ("reference", "compiled"):
        with using(tier):
            model.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            found[tier] = [loss.numpy(), *[p.grad.numpy() for p in model.parameters()]]
    for ours, expected in zip(found["compiled"], found["reference"], strict=True):
        scale = max(1e-3, float(np.abs(expected).max()))
        np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-4 * scale)


def test_a_training_step_verifies() -> None:
    model = MODELS["residual"]()
    loss = model(filled(4, 3, 16, 16)).sum()
    loss.backward()
    verify(compile_graph(recorded(loss, *[p.grad for p in model.parameters()])))
