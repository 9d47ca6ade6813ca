"""Largest elements of windows that reach beyond the edge need no copy with a border."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.compiler.graphs import agree, filled, numbers, ops, recorded

import schuss
from schuss.compiler.borders import without_borders
from schuss.compiler.program import compile_graph
from schuss.compiler.simplify import simplify
from schuss.compiler.units import Assemble
from schuss.compiler.verify import verify
from schuss.nn import functional as F  # noqa: N812


def simple(*tensors: Any) -> Any:
    """What becomes of these, in a graph that also has a convolution."""
    other = F.conv1d(filled(1, 1, 1), filled(1, 1, 1))
    return without_borders(simplify(recorded(*tensors, other)))


CASES = [
    ((2, 3, 7, 8), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((1, 17, 6, 6), {"kernel_size": 3, "stride": 1, "padding": 1}),
    ((2, 2, 8, 8), {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    ((1, 2, 9, 10), {"kernel_size": (2, 3), "stride": (3, 1), "padding": (1, 0)}),
    ((1, 2, 9, 9), {"kernel_size": 2, "stride": 2, "padding": 1, "dilation": 3}),
    ((2, 3, 11), {"kernel_size": 4, "stride": 3, "padding": 2}),
    ((1, 2, 5, 6, 7), {"kernel_size": 2, "stride": 2, "padding": (0, 0, 1), "ceil_mode": True}),
    ((1, 2, 1, 1), {"kernel_size": 3, "stride": 2, "padding": 1}),
]


@pytest.mark.parametrize(("shape", "settings"), CASES)
def test_windows_at_the_edge_are_pooled_by_themselves(shape, settings):
    pool = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}[len(shape)]
    assert "slice_update" in ops(simplify(recorded(pool(filled(*shape), **settings))))
    assert "slice_update" not in ops(simple(pool(filled(*shape), **settings)))
    verify(compile_graph(recorded(pool(filled(*shape), **settings))))
    x = numbers(*shape)
    x[0, 0] = -np.inf
    x[0, 1, ..., 0] = np.nan
    agree(lambda x: pool(x, **settings), x, rtol=0, atol=0)
    w = numbers(4, shape[1], *[1] * (len(shape) - 2), seed=1)
    convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[len(shape)]
    agree(lambda x, w: pool(convolve(x, w), **settings), numbers(*shape), w, rtol=1e-4)


def test_parts_are_as_few_as_the_edges_need():
    graph = simple(F.max_pool2d(filled(1, 1, 8, 8), 3, 2, 1))
    assert ops(graph).count("max") == 4  # a first row and column, and all that is behind
    (pieces,) = [value for value in graph.values if value.op == "pieces"]
    rows = [cut[2][:2] for cut in pieces.attributes["cuts"]]
    assert rows == [(0, 1), (0, 1), (1, 3), (1, 3)]


def test_all_windows_with_the_same_taps_inside_are_one_part():
    graph = simple(F.max_pool2d(filled(1, 1, 2, 2), 2, 4, 1))
    assert "pieces" not in ops(graph)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 13, "stride": 1, "padding": 6},  # too many different edges
        {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": 13},  # nothing of it inside
    ],
)
def test_other_windows_keep_their_border(settings):
    x = filled(1, 1, 12, 12)
    assert "slice_update" in ops(simple(F.max_pool2d(x, **settings)))
    agree(lambda x: F.max_pool2d(x, **settings), numbers(1, 1, 12, 12), rtol=0, atol=0)


def test_a_border_of_other_numbers_stays():
    x = schuss.pad(filled(1, 1, 6, 6), ((1, 1), (1, 1)), -5.0)
    assert "slice_update" in ops(simple(F.max_pool2d(x, 3, 2)))


def test_rows_are_cut_where_they_are_long():
    """Without a convolution vectors lie along the rows."""
    for n, stride, stays in ((46, 2, True), (48, 2, False), (47, 1, True), (48, 1, False)):
        graph = simplify(recorded(F.max_pool1d(filled(1, 2, n), 3, stride, 1)))
        assert ("slice_update" in ops(without_borders(graph))) == stays
        agree(lambda x, s=stride: F.max_pool1d(x, 3, s, 1), numbers(1, 2, n), rtol=0, atol=0)


def test_gradients_look_at_the_border_too():
    x = filled(1, 2, 6, 6)
    found = schuss.grad(lambda x: (F.max_pool2d(x, 3, 2, 1) ** 2).sum())(x)
    assert "slice_update" in ops(simple(found))


def test_nothing_is_copied_in_front_of_a_pooling_or_behind_it():
    x, w = filled(2, 3, 12, 12), filled(16, 3, 3, 3)
    compiled = compile_graph(recorded(F.max_pool2d(F.relu(F.conv2d(x, w)), 3, 2, 1).sum(axis=1)))
    verify(compiled)
    assert not any(isinstance(unit, Assemble) for unit in compiled.units)
