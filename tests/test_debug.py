from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import NumericsError
from schuss.execution.evaluate import watchers


def test_names_op_layer_and_line():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.second = Bad()

        def forward(self, x):
            return self.second(self.first(x))

    class Bad(nn.Module):
        def forward(self, x):
            return (x * 0).log()

    net = Net()
    with (
        schuss.debug.check_numerics(),
        pytest.raises(NumericsError, match="log: 0 NaN and 6 infinities among 6 results") as caught,
    ):
        net(schuss.ones(3, 2)).numpy()
    text = str(caught.value)
    assert "its inputs had none" in text
    assert "in: Net.second (Bad)" in text
    assert "test_debug.py:" in text
    assert "float32, from 0 to 0" in text.replace("-0", "0")


def test_nan_in_the_data_is_told_apart():
    x = schuss.tensor([1.0, float("nan")])
    with (
        schuss.debug.check_numerics(),
        pytest.raises(NumericsError, match="there were NaN in its input already"),
    ):
        (x + 1).numpy()


def test_backward_is_watched():
    x = schuss.tensor([0.0], requires_grad=True)
    x.sqrt().sum().backward()
    assert x.grad is not None
    with (
        schuss.debug.check_numerics(),
        pytest.raises(NumericsError, match="divide in the gradient of sqrt: 0 NaN and 1 inf"),
    ):
        x.grad.numpy()


def test_a_gradient_is_named_with_the_line_and_layer_of_its_forward_pass():
    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt()

    x = schuss.tensor([0.0], requires_grad=True)
    y = Root()(x).sum()
    y.backward()
    assert x.grad is not None
    with schuss.debug.check_numerics(), pytest.raises(NumericsError) as caught:
        x.grad.numpy()
    line = inspect.getsourcelines(Root.forward)[1] + 1
    assert re.search(rf"test_debug.py:{line}$", str(caught.value), re.MULTILINE)
    assert "in: Root" in str(caught.value)


def test_meant_infinities_pass():
    """Max pooling pads with minus infinity."""
    x = schuss.random.normal((1, 1, 5, 5))
    with schuss.debug.check_numerics():
        assert np.isfinite(nn.functional.max_pool2d(x, 3, padding=1).numpy()).all()


def test_half_precision_is_watched():
    product = schuss.tensor([3e38], dtype=schuss.bfloat16) * 10
    with (
        schuss.debug.check_numerics(),
        pytest.raises(NumericsError, match="multiply: 0 NaN and 1 inf"),
    ):
        product.numpy()


def test_ends_with_the_block():
    with schuss.debug.check_numerics():
        assert watchers
    assert not watchers
    assert np.isnan(schuss.tensor([-1.0]).log().numpy()).all()
