"""What modules save, load and copy."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from tests.nn.networks import PARAMETERS, STATISTICS, Net, assert_same, train_a_little, values

import schuss
from schuss import nn
from schuss.errors import (
    ArgumentTypeError,
    StateDictError,
)

# --- state ---


def test_state_dict_and_back() -> None:
    net, other = Net(), Net()
    saved = net.state_dict()
    assert list(saved) == [*PARAMETERS, "offset", *STATISTICS], "and not the cache"
    assert not any(each.requires_grad for each in saved.values())
    report = other.load_state_dict(saved)
    assert report == ([], [])
    assert_same(values(net), values(other))
    assert all(each.requires_grad and each.is_leaf for each in other.parameters())


def test_state_dict_takes_arrays() -> None:
    net, other = Net(), Net()
    arrays = values(net)
    other.load_state_dict(arrays)
    arrays["scale"][0] = 7
    assert_same(values(net), values(other))


def test_training_does_not_change_a_state_dict() -> None:
    net = Net()
    saved = net.state_dict()
    before = {name: each.numpy().copy() for name, each in saved.items()}
    unread = net.state_dict()
    train_a_little(net)
    assert not np.array_equal(net.scale.numpy(), before["scale"])
    assert_same({name: each.numpy() for name, each in saved.items()}, before)
    assert_same({name: each.numpy() for name, each in unread.items()}, before)
    net.load_state_dict(saved)
    assert_same(values(net), before)


def test_training_after_loading_does_not_change_the_source() -> None:
    net, other = Net(), Net()
    other.load_state_dict(net.state_dict())
    before = values(net)
    train_a_little(other)
    assert_same(values(net), before)


def test_all_problems_are_listed_and_nothing_changes() -> None:
    net = Net()
    before = values(net)
    saved: dict[str, Any] = {name: each * 2 + 1 for name, each in before.items()}
    del saved["scale"]
    del saved["first.bias"]
    saved["surplus"] = saved["more"] = np.zeros(1)
    saved["heads.a.weight"] = np.zeros((3, 1), np.float32)
    saved["offset"] = np.zeros(2, np.int64)
    with pytest.raises(StateDictError) as caught:
        net.load_state_dict(saved)
    message = str(caught.value)
    assert message.startswith("Net.load_state_dict: the saved state is not this model's\n")
    assert "missing: scale, first.bias\n" in message
    assert "extra: surplus, more\n" in message
    assert "heads.a.weight: saved (3, 1) float32, here (1, 3) float32" in message
    assert "offset: saved (2,) int64, here (2,) float32" in message
    assert_same(values(net), before)
    with pytest.raises(StateDictError, match=r"mis-shaped: heads.a.weight"):
        net.load_state_dict(saved, strict=False)
    assert_same(values(net), before)


def test_not_strict() -> None:
    net = Net()
    before = values(net)
    report = net.load_state_dict(
        {"scale": np.float32([5, 6]), "surplus": np.zeros(1)}, strict=False
    )
    assert report.extra == ["surplus"]
    assert report.missing == [name for name in before if name != "scale"]
    assert_same(values(net), {**before, "scale": np.float32([5, 6])})
    with pytest.raises(StateDictError, match="hint: strict=False loads what matches"):
        net.load_state_dict({"scale": np.float32([5, 6])})


def test_loading_casts_floats() -> None:
    net = Net()
    net.load_state_dict({name: each.astype(np.float64) if each.dtype == np.float32 else each
                         for name, each in values(net).items()})  # fmt: skip
    assert {each.dtype for each in net.parameters()} == {schuss.float32}


def test_shared_parameter_is_saved_once() -> None:
    def tied() -> nn.Sequential:
        net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        net[1].weight = net[0].weight
        return net

    first, second = tied(), tied()
    saved = values(first)
    assert list(saved) == ["0.weight"]
    second.load_state_dict(saved)
    second.load_state_dict(
        {**saved, "1.weight": saved["0.weight"]}
    )  # names of files from elsewhere
    assert_same(values(first), values(second))
    assert second[0].weight is second[1].weight


def test_frozen_parameters_load() -> None:
    net = Net().requires_grad_(False)
    net.load_state_dict(Net().state_dict())
    assert not any(each.requires_grad for each in net.parameters())


# --- copies ---


def test_deepcopy_is_independent() -> None:
    net = Net()
    before = values(net)
    twin = copy.deepcopy(net)
    assert type(twin) is Net
    assert_same(values(twin), before)
    assert twin.again is twin.first
    assert twin.training
    assert all(type(each) is nn.Parameter and each.requires_grad for each in twin.parameters())
    assert [each.persistent for each in twin.buffers()] == [True, False, True, True, True]
    train_a_little(twin)
    assert_same(values(net), before)
    assert all(each.grad is None for each in net.parameters())
    assert not np.array_equal(twin.scale.numpy(), before["scale"])


def test_deepcopy_keeps_ties_and_freezing() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    twin = copy.deepcopy(net.requires_grad_(False).eval())
    assert twin[0].weight is twin[1].weight
    assert twin[0].weight is not net[0].weight
    assert not twin[0].weight.requires_grad
    assert not twin.training


def test_modules_are_not_pickled() -> None:
    with pytest.raises(
        ArgumentTypeError,
        match=r"pickle: modules are not pickled, because unpickling "
        r"runs code(.|\n)*hint: save model.state_dict\(\)",
    ):
        pickle.dumps(Net())
    with pytest.raises(ArgumentTypeError, match="pickle: tensors are not pickled"):
        pickle.dumps(nn.Parameter([1.0]))
