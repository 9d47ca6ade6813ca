"""Nodes, handles and walks over the graph."""

from __future__ import annotations

import copy
import dataclasses
import gc

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.context import context
from schuss.graph import (
    REGISTRY,
    Handle,
    Node,
    ancestors,
    apply,
    data,
    define,
    is_wanted,
    scalar,
    wrap,
)
from schuss.ops.elementwise import add
from schuss.patterns import Promised


def test_nodes_are_numbered_as_recorded() -> None:
    x = schuss.ones(2)
    y = x + 1
    z = y * y
    assert x._node.number < y._node.number < z._node.number
    assert all(each.number < z._node.number for each in z._node.inputs)


def test_what_a_node_tells() -> None:
    node = (schuss.ones((2, 3)) + 1)._node
    assert (node.name, node.shape, node.ndim, node.size, node.nbytes) == ("add", (2, 3), 2, 6, 24)
    assert node.dtype == schuss.float32
    assert repr(node) == f"<Node {node.number} add (2, 3) float32>"
    assert data(np.ones(2)).name == "data"
    assert repr(add) == "Op('add')"


def test_ops_are_immutable_and_named_once() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        add.name = "other"
    with pytest.raises(AssertionError):
        define("add", "again")
    assert REGISTRY["add"] is add


def test_ancestors_come_inputs_first_and_once() -> None:
    x = schuss.ones(2)
    a, b = x + 1, x * 2
    c = a + b
    found = ancestors([c._node, a._node], lambda node: True)
    assert len(found) == len(set(found))
    place = {node: i for i, node in enumerate(found)}
    for node in found:
        assert all(place[each] < place[node] for each in node.inputs)
    assert ancestors([c._node], lambda node: node.op is not None and node.op.name == "add") == [
        a._node, c._node
    ]  # fmt: skip
    assert ancestors([c._node], lambda node: False) == []


def test_handles_are_counted() -> None:
    x = schuss.ones(2)
    node = x._node
    assert node.handles == 1
    y = Handle(node)
    assert node.handles == 2
    del y
    assert node.handles == 1
    other = schuss.zeros(2)
    x._point_at(other._node)
    assert (node.handles, other._node.handles) == (0, 2)
    del x
    assert other._node.handles == 1


def test_wanted_are_living_tensors_without_a_value() -> None:
    x = schuss.ones(2) + 1
    node = x._node
    assert is_wanted(node)
    x.numpy()
    assert not is_wanted(node)
    assert not is_wanted(None)
    y = schuss.ones(2) + 1
    node = y._node
    del y
    assert not is_wanted(node)


def test_python_numbers_are_inputs_not_attributes() -> None:
    a, b = schuss.ones(2) * 2, schuss.ones(2) * 3
    assert a._node.attributes == b._node.attributes == {}
    assert scalar(2, schuss.float32)._node.op is None


def test_handles_of_ops_are_tensors() -> None:
    x = apply(add, schuss.ones(2), schuss.ones(2))
    assert type(x) is schuss.Tensor
    assert type(wrap(data(np.ones(1)))) is schuss.Tensor


@pytest.mark.parametrize("times", [0, 6])  # recorded plainly, and out of memory
def test_dropped_graphs_are_freed_at_once(times: int) -> None:
    def nodes() -> int:
        return sum(type(each) in (Node, Promised) for each in gc.get_objects())

    def record() -> None:
        x = schuss.ones(101 + times).requires_grad_()  # a structure that no other test has
        loss = nn.functional.mse_loss(x * x, x, reduction="sum")
        loss.backward()
        x.grad.numpy()

    for _ in range(times):
        record()
    gc.collect()
    gc.disable()
    try:
        before = nodes()
        record()
        after = nodes()
    finally:
        gc.enable()
    assert after == before, "no cycles: nothing waits for the garbage collector"


def test_pending_does_not_grow_without_bound() -> None:
    context.pending = []
    for _ in range(10_000):
        schuss.ones(1)
    assert len(context.pending) <= 4096


def test_copies() -> None:
    x = schuss.ones(2)
    for made in (copy.copy(x), copy.deepcopy(x)):
        made += 1
        assert x.tolist() == [1, 1]
        assert made.tolist() == [2, 2]
