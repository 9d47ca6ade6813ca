"""Sums over positions of channels: which ones are left, and that they say the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.compiler.graphs import agree, filled, numbers, recorded

import schuss
from schuss import nn
from schuss.compiler.channels import channels_last
from schuss.compiler.program import compile_graph
from schuss.compiler.simplify import simplify
from schuss.compiler.units import Loops
from schuss.compiler.values import Graph, Value
from schuss.compiler.verify import verify, verify_graph
from schuss.execution.tiers import using
from schuss.nn import functional as F  # noqa: N812

X, W = (3, 2, 6, 6), (5, 2, 3, 3)


def passed(*tensors: object) -> Graph:
    graph = channels_last(simplify(recorded(*tensors)))
    verify_graph(graph)
    return graph


def sums(graph: Graph) -> list[Value]:
    return [value for value in graph.values if value.op == "sum"]


FACTORS: dict[str, Callable] = {
    "negative": lambda y, c: (-y).sum(axis=(0, 2, 3)),
    "behind": lambda y, c: (y * c).sum(axis=(0, 2, 3)),
    "before": lambda y, c: (c * y).sum(axis=(0, 2, 3)),
    "divided": lambda y, c: (y / c).sum(axis=(0, 2, 3)),
    "twice": lambda y, c: (y + y).sum(axis=(0, 2, 3)),
    "several": lambda y, c: (-(y * c) / 3.0 * c).sum(axis=(0, 2, 3)),
    "spread": lambda y, c: (y * c.broadcast_to(y.shape)).sum(axis=(0, 2, 3)),
    "of images": lambda y, c: (y * c).sum(axis=(2, 3)),
    "number": lambda y, c: (y * 3.0).sum(axis=(2, 3)),
}


@pytest.mark.parametrize("f", FACTORS.values(), ids=FACTORS)
def test_factors_of_a_channel_are_taken_out(f) -> None:
    y, c = F.conv2d(filled(*X), filled(*W)), filled(1, 5, 1, 1) + 1
    (total,) = [each for each in sums(passed(f(y, c))) if len(each.inputs[0].shape) > 2]
    summed = total.inputs[0]
    while summed.op == "reshape":
        summed = summed.inputs[0]
    assert summed.op == "convolution"
    agree(lambda x, w, c: f(F.conv2d(x, w), c), numbers(*X), numbers(*W), numbers(1, 5, 1, 1) + 9)


def test_factors_of_both_sides_of_a_product_are_taken_out() -> None:
    def f(x, w, c):
        y = F.conv2d(x, w)
        return ((y * c) * (c * y.tanh())).sum(axis=(0, 2, 3)), (y * y.tanh()).sum(axis=(0, 2, 3))

    assert len(sums(passed(*f(filled(*X), filled(*W), filled(1, 5, 1, 1))))) == 1
    agree(f, numbers(*X), numbers(*W), numbers(1, 5, 1, 1))


def test_what_varies_along_the_sum_stays_inside() -> None:
    def f(x, w, c):
        return (F.conv2d(x, w) * c).sum(axis=(0, 2, 3)), (F.conv2d(x, w) * c).sum(axis=(2, 3))

    for shape in ((1, 5, 1, 4), (3, 5, 1, 1), (3, 1, 1, 1), (4,)):
        agree(f, numbers(*X), numbers(*W), numbers(*shape), rtol=1e-4)


def normalized(x, w, scale, shift):
    """A normalised convolution with relu behind it, and the gradients of all operands."""
    norm = nn.BatchNorm2d(5)
    for each in (x, w, scale, shift):
        each.requires_grad = True
    norm.weight.assign(scale)
    y = norm(F.conv2d(x, w)).relu()
    (y * shift).sum().backward()
    return y, x.grad, w.grad, norm.weight.grad, norm.bias.grad


def test_a_normalisation_has_two_sums_there_and_two_back() -> None:
    graph = passed(*normalized(*[filled(*s) for s in (X, W, (5,), (1, 5, 1, 1))]))
    positions = [each for each in sums(graph) if each.inputs[0].shape == (3, 4, 4, 5)]
    assert len(positions) == 4


def test_the_sums_back_are_made_in_one_pass() -> None:
    compiled = compile_graph(
        recorded(*normalized(*[filled(*s) for s in (X, W, (5,), (1, 5, 1, 1))]))
    )
    verify(compiled)
    counts = [
        sum(line.op == "reduce.sum" for line in unit.kernel.lines)
        for unit in compiled.units
        if isinstance(unit, Loops)
    ]
    assert sorted(count for count in counts if count) == [1, 1, 2]


def test_gradients_of_a_normalisation_agree_with_the_reference() -> None:
    operands = [numbers(*s, seed=i) for i, s in enumerate((X, W, (5,), (1, 5, 1, 1)))]
    agree(normalized, *operands, rtol=2e-4)


@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_gradients_are_as_precise_far_from_zero_as_without_the_compiler(mean: float) -> None:
    rng = np.random.default_rng(0)
    x, g = (rng.standard_normal((8, 4, 12, 12)).astype("f4") for _ in range(2))
    w = np.eye(4, dtype="f4").reshape(4, 4, 1, 1)

    def gradient(tier: str, dtype: str) -> np.ndarray:
        with using(tier):
            a, b, c = (schuss.tensor(each.astype(dtype)) for each in (x, w, g))
            a.requires_grad = True
            norm = nn.BatchNorm2d(4, dtype=dtype)
            y = norm(F.conv2d(a, b) + mean)
            (y * y * c).sum().backward()
            return a.grad.numpy()

    exact = gradient("reference", "float64")
    errors = [np.abs(gradient(t, "float32") - exact).max() for t in ("compiled", "reference")]
    assert errors[0] <= 4 * errors[1]


def test_sums_about_other_centres_are_made_directly() -> None:
    def f(x, c):
        y = F.conv2d(x, schuss.ones((1, 1, 1, 1)))
        return y.sum(axis=(0, 2, 3)), (y - c).sum(axis=(0, 2, 3))

    x = (1000 + np.random.default_rng(0).random((4, 1, 8, 8))).astype("f4")
    c = np.full((1, 1, 1, 1), 1000, "f4")
    with using("compiled"):
        found = f(schuss.tensor(x), schuss.tensor(c))[1].numpy()
    np.testing.assert_allclose(found, [(x.astype("f8") - 1000).sum()], rtol=1e-6)


@pytest.mark.parametrize("dtype", [schuss.bfloat16, schuss.float16], ids=str)
def test_sums_about_a_mean_of_halves_are_made_directly(dtype) -> None:
    """The mean is rounded to few bits, so that what is summed is not zero in the mean."""

    def f(x):
        y = F.conv2d(x, schuss.ones((1, 1, 1, 1), dtype=dtype))
        mean = y.sum(axis=(0, 2, 3), keepdims=True) / y.size
        return (y - mean).sum(axis=(0, 2, 3))

    x = (100 + 9 * np.random.default_rng(0).random((4, 1, 8, 8))).astype(dtype)
    agree(f, x, rtol=1e-2)
