"""Filters against sums of three terms, and their transforms against products of matrices."""

import numpy as np
import pytest

from schuss.compiler.cpu.matmul import Lowered
from schuss.compiler.cpu.matmul_stages import Stage
from schuss.compiler.cpu.matmul_text import Function
from schuss.compiler.cpu.winograd_filter import FILTERS, both_ways

from .test_matmul import guarded, guarded_copy, run

LANES = 4
MATRICES = ("b_transposed", "g", "a_transposed", "a", "g_transposed")


@pytest.mark.parametrize("filter", FILTERS.values(), ids=map(str, FILTERS))
def test_a_filter_gives_sums_of_three_terms(filter):
    """It is linear in inputs and in weights: one of each at a time tells all."""
    a, b, g = (np.array(each) for each in (filter.a_transposed, filter.b_transposed, filter.g))
    for i, d in enumerate(np.eye(filter.inputs)):
        for j, weights in enumerate(np.eye(3)):
            y = a @ ((g @ weights) * (b @ d))
            expected = [float(i == k + j) for k in range(filter.outputs)]
            np.testing.assert_allclose(y, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("filter", FILTERS.values(), ids=map(str, FILTERS))
def test_transforms(filter, name):
    matrix = getattr(filter, name)
    span, kind = len(matrix[0]), f"<{LANES} x float>"
    f = Function("define void @transform(ptr noalias %args, i64 %part, ptr noalias %scratch)")
    x, y = f.word(0), f.word(1)
    d = [f.let(f"load {kind}, ptr {f.at('float', x, LANES * i)}, align 4") for i in range(span**2)]
    for i, value in enumerate(both_ways(f, kind, matrix, d)):
        f.line(f"store {kind} {value}, ptr {f.at('float', y, LANES * i)}, align 4")
    f.line("ret void")
    lowered = Lowered((), (Stage(f"{f}\n", "transform", 1, 0),), 0)
    values = np.random.default_rng(0).standard_normal((span, span, LANES)).astype(np.float32)
    stored = guarded_copy(values)
    made = guarded(len(matrix) ** 2 * LANES * 4).view(np.float32)
    run(lowered, [stored.ctypes.data, made.ctypes.data])
    expected = np.einsum("ri,ijl,sj->rsl", matrix, values.astype(float), matrix)
    np.testing.assert_allclose(made.reshape(expected.shape), expected, rtol=1e-5, atol=1e-4)
