from __future__ import annotations

import numpy as np
import pytest

from common import training_schuss
from common.networks import network
from common.workloads import WORKLOADS, Layer


def count(name: str) -> int:
    return sum(each.size for each in WORKLOADS[name].weights().values())


def test_parameters_are_those_of_the_literature() -> None:
    assert count("lenet") == 61_706
    assert count("resnet") == 11_173_962  # ResNet-18 with ten classes and a 3x3 first convolution
    assert count("lstm") == 65 * 64 + 4 * 256 * (64 + 256 + 2) + 65 * 257


def test_multiply_adds() -> None:
    assert WORKLOADS["mlp-256"].multiply_adds == 3 * 256 * (784 * 256 + 256 * 10)
    forward = WORKLOADS["resnet"].multiply_adds / 3 / 32
    assert forward == pytest.approx(555.4e6, rel=1e-3)
    # 12 width^2 for each block and symbol, the head, and two products of attention
    symbols, attention = 16 * 128, 4 * 16 * 2 * 128 * 128 * 256
    assert WORKLOADS["gpt"].multiply_adds == 3 * (
        symbols * (4 * 12 * 256**2 + 65 * 256) + attention
    )


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
def test_weights_and_batches_repeat(workload) -> None:  # type: ignore[no-untyped-def]
    first, second = workload.weights(), workload.weights()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert all(each.dtype == np.float32 for each in first.values())
    x, y = workload.batch()
    assert x.shape == workload.inputs
    assert np.array_equal(x, workload.batch()[0])
    if workload.labels is not None:
        assert y.shape == workload.labels
        assert 0 <= y.min() <= y.max() < workload.classes


def test_a_layer_within_the_bound() -> None:
    made = Layer("a.b", (8, 4, 3, 3), 1, "no bias").weights(np.random.default_rng(0))
    assert list(made) == ["a.b.weight"]
    assert 0.15 < np.abs(made["a.b.weight"]).max() <= 1 / 6


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
def test_weights_fit_our_networks(workload) -> None:  # type: ignore[no-untyped-def]
    if training_schuss.unavailable(workload, "plain"):
        pytest.skip("not yet")
    model = network(workload.network, training_schuss.LIBRARY)
    found = model.load_state_dict(workload.weights(), strict=False)
    assert not found.extra
    assert not set(found.missing) & {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("name", ["linear", "mlp-256"])
def test_our_losses_fall(name: str) -> None:
    workload = WORKLOADS[name]
    step = training_schuss.make(workload, "plain", workload.weights(), workload.batch())
    losses = [step().item() for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]
