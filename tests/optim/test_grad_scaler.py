"""Loss scaling: gradients that float16 would lose, overflows, and what is refused."""

import numpy as np
import pytest

import schuss
from schuss import nn, optim
from schuss.errors import ArgumentError


def make(**options):
    parameter = nn.Parameter(schuss.ones(2))
    return parameter, optim.SGD([parameter], lr=1.0), optim.GradScaler(**options)


def backward(parameter, scaler, factor):
    """The gradient is `factor`, which passes through float16."""
    half = parameter.astype(schuss.float16).astype(schuss.float32)
    scaler.scale((half * factor).sum()).backward()


def test_small_gradients_survive():
    for enabled, moved in ((True, 1 - 2.0**-26), (False, 1.0)):
        parameter = nn.Parameter(schuss.ones(2, dtype=schuss.float64))
        optimizer, scaler = optim.SGD([parameter], lr=1.0), optim.GradScaler(enabled=enabled)
        backward(parameter, scaler, 2.0**-26)
        scaler.step(optimizer)
        scaler.update()
        np.testing.assert_array_equal(parameter.numpy(), [moved, moved])


def test_a_step_that_overflows_is_left_out():
    parameter, optimizer, scaler = make(init_scale=2.0**10, growth_interval=2)
    scales = []
    for factor in (100.0, 1.0, 1.0, 1.0, np.nan):  # 100 * 2**10 is beyond float16
        optimizer.zero_grad()
        before = parameter.numpy().copy()
        backward(parameter, scaler, factor)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale() / 2.0**10)
        moved = before - parameter.numpy()
        np.testing.assert_array_equal(moved, [factor == 1.0] * 2)
    assert scales == [0.5, 0.5, 1.0, 1.0, 0.5]


def test_gradients_can_be_clipped_in_between():
    parameter, optimizer, scaler = make()
    backward(parameter, scaler, 3.0 / 2**10)
    scaler.unscale_(optimizer)
    np.testing.assert_array_equal(parameter.grad.numpy(), [3.0 / 2**10] * 2)
    optim.clip_grad_value([parameter], 2.0**-10)
    scaler.step(optimizer)
    np.testing.assert_array_equal(parameter.numpy(), [1 - 2.0**-10] * 2)
    with pytest.raises(ArgumentError, match=r"divided in this step already[^$]*update\(\)"):
        scaler.unscale_(optimizer)


def test_without_gradients_there_is_no_overflow():
    _, optimizer, scaler = make()
    scaler.unscale_(optimizer)
    with pytest.warns(UserWarning, match="no parameter has a gradient"):
        scaler.step(optimizer)


def test_state():
    parameter, optimizer, scaler = make(init_scale=8.0, growth_interval=2)
    backward(parameter, scaler, 1.0)
    scaler.step(optimizer)
    scaler.update()
    _, _, other = make(growth_interval=2)
    other.load_state_dict(scaler.state_dict())
    assert other.state_dict() == {"scale": 8.0, "since_change": 1}
    backward(parameter, other, 1.0)
    other.step(optimizer)
    other.update()
    assert other.get_scale() == 16.0


def test_disabled_it_does_nothing():
    parameter, optimizer, scaler = make(enabled=False)
    loss = parameter.sum()
    assert scaler.scale(loss) is loss
    assert scaler.get_scale() == 1.0
    loss.backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    np.testing.assert_array_equal(parameter.numpy(), [0.0, 0.0])


@pytest.mark.parametrize(
    "options", [{"init_scale": 0.0}, {"growth_factor": 1.0}, {"backoff_factor": 1.0},
                {"growth_interval": 0}],
)  # fmt: skip
def test_wrong_arguments(options):
    with pytest.raises(ArgumentError, match="needs init_scale > 0, growth_factor > 1 > backoff"):
        optim.GradScaler(**options)
