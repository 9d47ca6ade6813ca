"""Networks for images: published numbers of parameters, shapes on the way, gradients."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import models, nn
from schuss.execution import tiers
from schuss.execution.evaluate import evaluate_pending

PUBLISHED = {
    "alexnet": 61_100_840,
    "googlenet": 6_624_904,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "mobilenet_v2": 3_504_872,
}


@pytest.fixture(autouse=True)
def _nothing_waits() -> None:
    """Shapes are known without computing; a backlog of earlier tests would set that going."""
    gc.collect()
    evaluate_pending()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(name: str) -> None:
    model = getattr(models, name)()
    assert model.parameter_count() == PUBLISHED[name]
    assert f"{PUBLISHED[name]:,} parameters" in getattr(models, name).__doc__
    assert model(schuss.zeros((2, 3, 224, 224))).shape == (2, 1000)


def test_shapes_inside_alexnet() -> None:
    model = models.alexnet(num_classes=7)
    assert model.features(schuss.zeros((1, 3, 224, 224))).shape == (1, 256, 6, 6)
    assert model(schuss.zeros((1, 3, 224, 224))).shape == (1, 7)


def test_shapes_inside_googlenet() -> None:
    """Table 1 of the paper."""
    model = models.googlenet()
    x = model.maxpool1(model.conv1(schuss.zeros((1, 3, 224, 224))))
    assert x.shape == (1, 64, 56, 56)
    x = model.maxpool2(model.conv3(model.conv2(x)))
    assert x.shape == (1, 192, 28, 28)
    x = model.inception3b(model.inception3a(x))
    assert x.shape == (1, 480, 28, 28)
    for name, channels in zip("abcde", (512, 512, 512, 528, 832), strict=True):
        x = getattr(model, f"inception4{name}")(model.maxpool3(x) if name == "a" else x)
        assert x.shape == (1, channels, 14, 14)
    assert model.inception5b(model.inception5a(model.maxpool4(x))).shape == (1, 1024, 7, 7)


@pytest.mark.parametrize(("name", "widest"), [("resnet34", 512), ("resnet50", 2048)])
def test_shapes_inside_resnets(name: str, widest: int) -> None:
    model = getattr(models, name)()
    x = model.maxpool(model.conv1(schuss.zeros((1, 3, 224, 224))))
    assert x.shape == (1, 64, 56, 56)
    for stage, channels, size in zip(
        (model.layer1, model.layer2, model.layer3, model.layer4),
        (widest // 8, widest // 4, widest // 2, widest),
        (56, 28, 14, 7),
        strict=True,
    ):
        x = stage(x)
        assert x.shape == (1, channels, size, size)


def test_shapes_inside_mobilenet() -> None:
    """Table 2 of the paper."""
    x, shapes = schuss.zeros((1, 3, 224, 224)), []
    for layer in models.mobilenet_v2().features:
        x = layer(x)
        shapes.append(x.shape[1:3])
    expected = [(32, 112), (16, 112), *[(24, 56)] * 2, *[(32, 28)] * 3, *[(64, 14)] * 4]
    assert shapes == [*expected, *[(96, 14)] * 3, *[(160, 7)] * 3, (320, 7), (1280, 7)]


@pytest.mark.parametrize("name", ["googlenet", "resnet18", "mobilenet_v2"])
def test_all_parameters_learn(name: str) -> None:
    schuss.manual_seed(1)
    model = getattr(models, name)(num_classes=5)
    x = schuss.random.normal((2, 3, 32, 32))
    optimizer = schuss.optim.SGD(model.parameters(), lr=0.1)
    with tiers.using("reference"):  # once, for which compiling would take longer
        nn.functional.cross_entropy(model(x), schuss.tensor([1, 3])).backward()
        optimizer.step()
        gradients = [each.grad.numpy() for each in model.parameters()]
    assert all(np.isfinite(each).all() for each in gradients)
    assert np.mean([each.any() for each in gradients]) > 0.95  # a small unit may be silent


def test_names_are_torchvisions() -> None:
    names: dict[str, Any] = {
        "alexnet": ("features.10.bias", "classifier.6.weight"),
        "googlenet": ("conv1.bn.running_var", "inception3a.branch4.1.conv.weight", "fc.bias"),
        "resnet50": ("layer1.0.downsample.1.num_batches_tracked", "layer4.2.conv3.weight"),
        "mobilenet_v2": ("features.0.1.weight", "features.2.conv.1.0.weight", "classifier.1.bias"),
    }
    for name, some in names.items():
        assert set(some) <= getattr(models, name)().state_dict().keys()
