from __future__ import annotations

import os
from argparse import Namespace
from typing import Any

import numpy as np
import pytest

import inference
from common.machine import Limits
from common.pictures import PICTURES, weights
from common.turns import Outcome
from schuss import models

OPTIONS = Namespace(rounds=3, threads=2)
LIMITS = Limits(multiply_adds=1e11, bandwidth=1e10)


def outcome(ms: float) -> Outcome:
    return Outcome(steps=[ms] * 3, memory=2**20, description="the tier")


def test_logits_that_differ_do_not_count() -> None:
    row = {side: outcome(1.0) for side in ("schuss", "compiled", "PyTorch")}
    right = np.array([[1.0, -2.0]])
    inference.compare(row, {"PyTorch": right, "schuss": right + 1e-3, "compiled": right + 1e-5})
    assert row["PyTorch"].counts
    assert row["compiled"].counts
    assert (
        row["schuss"].problem == "logits differ by 0.0005 of the largest (PyTorch): does not count"
    )
    inference.compare(row, {"PyTorch": right, "compiled": right * np.nan})
    assert not row["compiled"].counts


def test_line_of_a_workload() -> None:
    row = {
        "schuss": outcome(640.0),
        "compiled": outcome(320.0),
        "PyTorch": outcome(1280.0),
        "ONNX Runtime": outcome(480.0),
    }
    sides = ["schuss", "compiled", "PyTorch", "torch.compile", "ONNX Runtime"]
    cells = inference.line_of(PICTURES["alexnet-128"], row, sides, LIMITS.multiply_adds)
    assert cells == [
        "AlexNet",
        "128",
        "140",
        "200 (200 to 200)",
        "400 (400 to 400)",
        "100 (100 to 100)",
        "–",
        "267 (267 to 267)",
        "0.75, 1.50 compiled",
    ]


def test_report() -> None:
    row = {"schuss": outcome(10.0), "PyTorch": Outcome(problem="no luck")}
    text = "\n".join(inference.lines_of({"resnet50-1": row}, list(row), LIMITS, OPTIONS))
    assert "| ResNet-50 | 1 | 24.5 | 100 (100 to 100) | see below | – |" in text
    assert "| ResNet-50 | 1 | 1 | – |" in text
    assert "- ResNet-50, batch 1, PyTorch: no luck" in text


def test_weights_go_by_name() -> None:
    shapes = {"conv.weight": (4, 3, 3, 3), "bn.running_var": (4,), "bn.num_batches_tracked": ()}
    first, second = weights(shapes), weights(dict(reversed(shapes.items())))
    for name, shape in shapes.items():
        assert first[name].shape == shape
        np.testing.assert_array_equal(first[name], second[name])
    assert first["bn.running_var"].min() > 0.5
    assert first["conv.weight"].dtype == np.float32


def multiply_adds(model: Any) -> int:
    """Counted with PyTorch's own hooks."""
    torch = pytest.importorskip("torch")
    total = 0

    def count(layer: Any, inputs: Any, output: Any) -> None:
        nonlocal total
        total += output[0].numel() * layer.weight[0].numel()

    for layer in model.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            layer.register_forward_hook(count)
    with torch.device("meta"):
        model.to("meta")(torch.zeros(1, 3, 224, 224))
    return total


@pytest.mark.comparison
@pytest.mark.parametrize("name", ["alexnet", "googlenet", "resnet50"])
def test_networks_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", str(torch.get_num_threads()))
    from common import inference_pytorch

    theirs = inference_pytorch._NETWORKS[name]().eval()
    ours = getattr(models, name)()
    shapes = {key: tuple(each.shape) for key, each in theirs.state_dict().items()}
    assert shapes == {key: each.shape for key, each in ours.state_dict().items()}
    assert multiply_adds(theirs) == PICTURES[f"{name}-1"].multiply_adds
