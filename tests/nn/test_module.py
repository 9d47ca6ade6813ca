"""The tree of layers: what it finds, freezes and prints; and what its errors say."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from tests.nn.networks import PARAMETERS, STATISTICS, Net, assert_same, train_a_little, values

import schuss
from schuss import nn, optim
from schuss.errors import (
    ModuleError,
    ShapeError,
)

# --- the tree ---


def test_parameters_by_path_and_in_order() -> None:
    net = Net()
    assert list(dict(net.named_parameters())) == PARAMETERS
    assert net.parameters().names == PARAMETERS
    assert all(
        a is b for a, b in zip(net.parameters(), dict(net.named_parameters()).values(), strict=True)
    )
    assert net.parameter_count() == 2 + 3 + 9 + 12 + 6 + 9 + 4


def test_buffers_by_path() -> None:
    net = Net()
    assert list(dict(net.named_buffers())) == ["offset", "cache", *STATISTICS]
    assert [each.shape for each in net.buffers()] == [(2,), (1,), (3,), (3,), ()]


def test_modules_by_path() -> None:
    net = Net()
    assert list(dict(net.named_modules())) == [
        "",
        "first",
        "blocks.0",
        "blocks.1.0",
        "blocks.1.1",
        "heads.a",
    ]
    assert net.modules()[0] is net
    assert list(dict(net.named_children())) == [
        "first",
        "blocks.0",
        "blocks.1.0",
        "blocks.1.1",
        "heads.a",
        "again",
    ]


def test_shared_parameter_counts_once() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    assert list(dict(net.named_parameters())) == ["0.weight"]
    net(schuss.ones((1, 2))).sum().backward()
    assert net[0].weight.grad is net[1].weight.grad


def test_parts_that_contain_themselves() -> None:
    net = nn.Module()
    net.items = [nn.Linear(1, 1)]
    net.items.append(net.items)
    net.self = net
    assert list(dict(net.named_parameters())) == ["items.0.weight", "items.0.bias"]


def test_parts_are_found_as_they_change() -> None:
    net = nn.Module()
    net.layers = [nn.Linear(1, 1)]
    net.layers.append(nn.Linear(1, 1, bias=False))
    assert list(dict(net.named_parameters())) == [
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
    ]
    del net.layers
    assert list(dict(net.named_parameters())) == []


def test_parameter_and_buffer() -> None:
    data = np.ones(2, np.float32)
    parameter, buffer = nn.Parameter(data), nn.Buffer(data)
    data[0] = 7
    np.testing.assert_array_equal(parameter.numpy(), [1, 1])
    np.testing.assert_array_equal(buffer.numpy(), [1, 1])
    assert parameter.requires_grad
    assert parameter.is_leaf
    assert not buffer.requires_grad
    assert not nn.Parameter(data, requires_grad=False).requires_grad
    assert type(parameter * 1) is schuss.Tensor
    assert repr(nn.Parameter([1.0])) == "Parameter(tensor([1.], requires_grad=True))"
    with pytest.raises(TypeError, match="gradients exist for floating and complex dtypes only"):
        nn.Parameter([1, 2])


def test_parameter_of_a_computed_tensor_is_a_leaf() -> None:
    source = schuss.tensor([2.0], requires_grad=True)
    parameter = nn.Parameter(source * 3)
    (parameter * parameter).sum().backward()
    assert source.grad is None
    assert parameter.grad is not None
    assert parameter.grad.item() == 12


def test_apply_visits_every_layer() -> None:
    seen: list[nn.Module] = []
    net = Net()
    assert net.apply(seen.append) is net
    assert seen == net.modules()


# --- construction errors ---


def test_forgotten_super_init() -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.Linear(1, 1)

    with pytest.raises(
        ModuleError,
        match=r"Forgetful: super\(\).__init__\(\) was not called\n  at: "
        r".*test_module.py:\d+\n  hint: call super\(\).__init__\(\) first in __init__ "
        "before self.layer = ...",
    ):
        Forgetful()


def test_forgotten_super_init_is_seen_at_a_plain_number() -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            self.size = 3

    with pytest.raises(ModuleError, match=r"was not called(.|\n)*before self.size = ..."):
        Forgetful()


def test_forgotten_super_init_is_seen_at_a_call() -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            pass

    with pytest.raises(ModuleError, match=r"Forgetful: super\(\).__init__\(\) was not called"):
        Forgetful()(1)


@pytest.mark.parametrize("value", [schuss.zeros((1, 1)), np.zeros((1, 1)), 0.0, [1.0]])
def test_parameter_is_not_replaced_by_other_values(value: Any) -> None:
    layer = nn.Linear(1, 1)
    before = layer.weight
    kind = "a plain tensor" if isinstance(value, schuss.Tensor) else type(value).__name__
    with pytest.raises(
        ModuleError,
        match=f"Linear.weight: is a Parameter and would be replaced by {kind}"
        r"(.|\n)*hint: self.weight.assign\(value\) changes its value",
    ):
        layer.weight = value
    assert layer.weight is before


def test_buffer_is_not_replaced_by_a_plain_tensor() -> None:
    layer = nn.BatchNorm1d(2)
    with pytest.raises(ModuleError, match=r"BatchNorm1d.running_mean: is a Buffer and would be"):
        layer.running_mean = layer.running_mean * 0.5


def test_parameter_is_replaced_by_none_or_another() -> None:
    layer = nn.Linear(1, 2)
    layer.weight = nn.Parameter(np.zeros((2, 1), np.float32))
    layer.bias = None
    assert list(dict(layer.named_parameters())) == ["weight"]
    np.testing.assert_array_equal(layer(schuss.ones((1, 1))).numpy(), [[0, 0]])


def test_no_forward() -> None:
    with pytest.raises(
        ModuleError, match=r"Module: has no forward method(.|\n)*hint: define forward"
    ):
        nn.Module()(1)


# --- modes ---


def test_train_and_eval() -> None:
    net = Net()
    assert all(each.training for each in net.modules())
    assert net.eval() is net
    assert not any(each.training for each in net.modules())
    assert net.train() is net
    assert all(each.training for each in net.modules())
    assert not net.train(False).first.training


def test_frozen_parts_do_not_learn() -> None:
    net = Net()
    assert net.first.requires_grad_(False) is net.first
    before = values(net)
    train_a_little(net)
    after = values(net)
    assert net.first.weight.grad is None
    for name in PARAMETERS:
        same = np.array_equal(before[name], after[name])
        assert same == name.startswith("first"), name
    net.requires_grad_()
    train_a_little(net)
    assert not np.array_equal(net.first.weight.numpy(), before["first.weight"])


def test_freezing_after_backward() -> None:
    layer = nn.Linear(1, 1)
    layer(schuss.ones((1, 1))).sum().backward()
    before = values(layer)
    layer.requires_grad_(False)
    optim.SGD(layer.parameters(), lr=1.0).step()
    assert_same(values(layer), before)


def test_zero_grad() -> None:
    layer = nn.Linear(1, 1)
    layer(schuss.ones((1, 1))).sum().backward()
    assert all(each.grad is not None for each in layer.parameters())
    layer.zero_grad()
    assert all(each.grad is None for each in layer.parameters())


def test_training_in_float64() -> None:
    net = Net()
    before = values(net)
    assert net.to(schuss.float64) is net
    for name, each in net.state_dict().items():
        counts = name.endswith("num_batches_tracked")
        assert each.dtype == (schuss.int64 if counts else schuss.float64)
        np.testing.assert_array_equal(each.numpy(), before[name])
    train_a_little(net)
    assert {each.dtype for each in net.parameters()} == {schuss.float64}
    assert all(each.requires_grad for each in net.parameters())
    assert not np.array_equal(net.scale.numpy(), before["scale"])


def test_to_keeps_what_is_frozen_and_shared() -> None:
    layer = nn.Linear(1, 1).requires_grad_(False)
    assert not layer.to("float64").weight.requires_grad
    assert layer.to("cpu") is layer
    assert layer.weight.dtype == schuss.float64


# --- printing ---


def test_printed_tree() -> None:
    assert (
        repr(Net())
        == """\
Net()  # 45 parameters
  first: Linear(2, 3)  # 9 parameters
  blocks.0: Linear(3, 3)  # 12 parameters
  blocks.1.0: BatchNorm1d(3, eps=1e-05, momentum=0.1)  # 6 parameters
  blocks.1.1: Linear(3, 3, bias=False)  # 9 parameters
  heads.a: Linear(3, 1)  # 4 parameters"""
    )


def test_printed_nested_tree() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(1000, 2), nn.Sequential(nn.ReLU()))
            self.head = [nn.Dropout(0.2)]

    assert (
        repr(Outer())
        == """\
Outer()  # 2,002 parameters
  body: Sequential()  # 2,002 parameters
    0: Linear(1000, 2)  # 2,002 parameters
    1: Sequential()
      0: ReLU()
  head.0: Dropout(p=0.2)"""
    )


# --- messages say where ---


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
        self.head = [nn.Linear(10, 2)]

    def forward(self, x: schuss.Tensor) -> schuss.Tensor:
        return self.head[0](self.features(x))  # the line of the error


def test_message_has_the_path_and_the_line() -> None:
    with pytest.raises(ShapeError) as caught:
        LeNet()(schuss.ones((2, 3, 8, 8)))
    lines, start = inspect.getsourcelines(LeNet.forward)
    assert str(caught.value) == (
        "Conv2d: expects 1 input channels on axis 1, got 3\n"
        "  x: (2, 3, 8, 8) float32\n"
        "  weight: (4, 1, 3, 3) float32\n"
        "  in: LeNet.features.0 (Conv2d)\n"
        f"  at: {__file__}:{start + len(lines) - 1}"
    )


def test_message_of_a_layer_in_a_list() -> None:
    with pytest.raises(
        ShapeError,
        match=r"Linear: the last axis must have in_features=10 elements\n"
        r"  x: \(2, 144\) float32(.|\n)*in: LeNet.head.0 \(Linear\)\n",
    ):
        LeNet()(schuss.ones((2, 1, 8, 8)))


def test_message_of_an_op_in_a_layer() -> None:
    class Sum(nn.Module):
        def forward(self, x: schuss.Tensor) -> schuss.Tensor:
            return x + schuss.ones(5)

    with pytest.raises(ShapeError, match=r"in: Sequential.1 \(Sum\)\n  at: .*test_module.py:\d+"):
        nn.Sequential(nn.Identity(), Sum())(schuss.ones(3))


def test_path_ends_with_the_call() -> None:
    """Also after an error inside."""
    net = LeNet()
    with pytest.raises(ShapeError):
        net(schuss.ones((2, 3, 8, 8)))
    with pytest.raises(ShapeError) as caught:
        schuss.ones(2) + schuss.ones(3)
    assert "in:" not in str(caught.value)


def test_message_of_a_value_computed_later() -> None:
    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(3, 2)

        def forward(self, x: schuss.Tensor) -> schuss.Tensor:
            return self.table(x)

    rows = Lookup()(schuss.tensor([5]))
    with pytest.raises(
        IndexError, match=r"in: Lookup.table \(Embedding\)\n  at: .*test_module.py:\d+"
    ):
        rows.numpy()


def test_small_network_learns_xor() -> None:
    schuss.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    x = schuss.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    y = schuss.tensor([[0.0], [1], [1], [0]])
    loss_function = nn.BCEWithLogitsLoss()
    for _ in range(200):
        optimizer.zero_grad()
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    np.testing.assert_array_equal(model(x).numpy() > 0, y.numpy() > 0.5)


def test_conv_net_overfits() -> None:
    schuss.manual_seed(0)
    rng = np.random.default_rng(0)
    x = schuss.tensor(rng.standard_normal((32, 1, 8, 8)).astype(np.float32))
    y = schuss.tensor(rng.integers(0, 10, 32))
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding="same"),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    loss_function = nn.CrossEntropyLoss()
    for _ in range(40):
        optimizer.zero_grad()
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    accuracy = (model.eval()(x).numpy().argmax(1) == y.numpy()).mean()
    assert accuracy > 0.9


def test_parts_of_one_name_are_refused() -> None:
    class Net(nn.Module):
        def __init__(self, parts: Any) -> None:
            super().__init__()
            self.parts = parts

    with pytest.raises(ModuleError, match=r"Net.parts.0: names two parts"):
        Net({0: nn.Linear(1, 1), "0": nn.Linear(1, 1)}).parameters()
    with pytest.raises(ModuleError, match=r"Net.parts: is a set, which has no order"):
        Net({nn.Linear(1, 1)}).parameters()
