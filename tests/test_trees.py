"""Taking trees of tensors apart and putting them together."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple

import pytest

import schuss
from schuss import nn, trees
from schuss.errors import ArgumentError

Pair = namedtuple("Pair", "left right")


@dataclasses.dataclass
class State:
    weight: schuss.Tensor
    step: int
    more: list


@dataclasses.dataclass(frozen=True)
class Frozen:
    weight: schuss.Tensor


def numbers(count: int) -> list[schuss.Tensor]:
    return [schuss.tensor(float(i)) for i in range(count)]


def test_leaves_come_in_order_and_go_back() -> None:
    a, b, c, d, e = numbers(5)
    tree = {"x": [a, None, (b,)], "y": Pair(c, State(d, 3, [e]))}
    leaves, structure = trees.flatten(tree)
    assert [each.item() for each in leaves] == [0, 1, 2, 3, 4]
    again = structure.unflatten(range(5))
    assert again["x"] == [0, None, (1,)]
    assert again["y"].left == 2
    assert again["y"].right == State(3, 3, [4])
    assert tree["y"].right.weight is d, "the tree itself is as before"


def test_a_tensor_is_a_tree() -> None:
    (x,) = numbers(1)
    leaves, structure = trees.flatten(x)
    assert leaves == [x]
    assert structure.unflatten([7]) == 7
    assert structure.count == 1


def test_frozen_dataclasses_and_subclasses() -> None:
    a, b = numbers(2)
    assert trees.map(lambda x: x + 1, Frozen(a)).weight.item() == 1
    assert trees.map(lambda x: x, OrderedDict(k=b)) == {"k": b}
    assert trees.flatten(OrderedDict(k=b))[1] == trees.flatten({"k": a})[1]


def test_map_over_several() -> None:
    a, b, c, d = numbers(4)
    made = trees.map(lambda x, y: 10 * x + y, [a, {"k": b}], [c, {"k": d}])
    assert made[0].item() == 2
    assert made[1]["k"].item() == 13


def test_structures_that_differ_are_shown() -> None:
    a, b = numbers(2)
    with pytest.raises(ArgumentError, match="the tree has another structure") as caught:
        trees.map(lambda x, y: x, [a, {"k": b}], [a, (b,)])
    assert "expected: [*, {'k': *}]" in str(caught.value)
    assert "got: [*, (*)]" in str(caught.value)


def test_what_is_no_tensor_may_differ() -> None:
    a, b = numbers(2)
    assert trees.flatten(State(a, 1, []))[1] == trees.flatten(State(b, 2, []))[1]
    assert trees.flatten([a])[1] != trees.flatten([a, b])[1]
    assert trees.flatten({"x": a})[1] != trees.flatten({"y": a})[1]


def test_own_containers() -> None:
    class Box:
        def __init__(self, inside: object) -> None:
            self.inside = inside

    (x,) = numbers(1)
    assert trees.leaves(Box(x)) == []
    trees.register(Box, lambda box: ([box.inside], None), lambda rest, parts: Box(*parts))
    assert trees.leaves(Box(x)) == [x]
    assert trees.map(lambda x: x + 1, Box(x)).inside.item() == 1


# --- layers ---


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.blocks = [nn.Linear(3, 3), {"norm": nn.BatchNorm1d(3)}]
        self.again = self.first
        self.name = "net"

    def forward(self, x: schuss.Tensor) -> schuss.Tensor:
        return self.blocks[1]["norm"](self.blocks[0](self.first(x)))


def test_leaves_of_a_layer_are_its_parameters() -> None:
    net = Net()
    assert trees.leaves(net) == net.parameters()


def test_a_layer_around_other_parameters() -> None:
    net = Net()
    doubled = trees.map(lambda p: 2 * p, net)
    names = [name for name, _ in net.named_parameters()]
    assert [name for name, _ in doubled.named_parameters()] == names
    assert doubled.again is doubled.first, "shared layers stay shared"
    assert doubled.name == "net"
    assert doubled.blocks[1]["norm"].running_mean is net.blocks[1]["norm"].running_mean
    assert (doubled.first.weight == 2 * net.first.weight).all()
    assert net.first.weight.is_leaf
    assert doubled.first is not net.first
    x = schuss.ones(4, 2)
    doubled.eval()
    assert doubled(x).shape == (4, 3)


def test_structures_of_layers() -> None:
    assert trees.flatten(Net())[1] == trees.flatten(Net())[1]
    assert trees.flatten(nn.Linear(2, 3))[1] != trees.flatten(nn.Linear(2, 3, bias=False))[1]
