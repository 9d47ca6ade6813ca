"""The gradient for weights by minimal filtering, against sums written out in NumPy."""

from dataclasses import replace

import numpy as np
import pytest

from schuss.compiler.cpu import winograd_gradient
from schuss.compiler.cpu.convolution_plan import Convolution
from schuss.compiler.cpu.matmul import plain_epilogue
from schuss.compiler.cpu.matmul_plan import Product
from schuss.compiler.cpu.winograd_filter import F2, FILTERS
from schuss.compiler.cpu.winograd_gradient import lower_gradient, plan
from schuss.compiler.geometry import UNIT, forward_axis

from .test_convolution import PLAIN, close, counts, operands, strides, unfolded
from .test_matmul import NAMES, WIDTHS, guarded, guarded_copy, run

# images, channels, outputs, (height, its padding), (width, its padding)
CASES = {
    "even": (2, 32, 48, (8, 1), (12, 1)),
    "odd": (3, 48, 32, (7, 1), (9, 0)),
    "wide": (1, 32, 80, (2, 2), (33, 2)),
    "narrow": (70, 16, 16, (4, 1), (4, 1)),
    "many": (5, 16, 32, (20, 1), (22, 1)),
}


@pytest.mark.parametrize("filter", FILTERS.values(), ids=map(str, FILTERS))
@pytest.mark.parametrize("staged", [True, False], ids=["staged", "sliced"])
@pytest.mark.parametrize("machine", WIDTHS, ids=NAMES[: len(WIDTHS)])
@pytest.mark.parametrize("name", CASES)
def test_sums(name, machine, staged, filter, monkeypatch):
    n, channels, outputs, *sizes = CASES[name]
    spans = [PLAIN, *[(size, 3, 1, p, p, 1) for size, p in sizes]]
    x, _, g, _ = operands((n, 1, channels, outputs, *spans))
    axes = UNIT, *[
        forward_axis(span[0], 3, 1, span[3], 1, count)
        for span, count in zip(spans[1:], counts(spans)[1:], strict=True)
    ]  # fmt: skip
    stored, gradient = guarded_copy(x.astype("float32")), guarded_copy(g.astype("float32"))
    c = Convolution("float32", n, 1, channels, outputs, axes, strides(stored))
    tiles = winograd_gradient.Tiles(c, filter, 4).count
    slices = 1 if staged else min(4, -(-tiles // 64))
    cut = replace(plan(c, filter, machine), staged=staged, slices=slices)
    monkeypatch.setattr(winograd_gradient, "plan", lambda *_: cut)
    made = guarded(9 * channels * outputs * 4).view(np.float32).reshape(9 * channels, outputs)
    product = Product("float32", (), 9 * channels, outputs, 1, (0, 0), (0, 0))
    lowered = lower_gradient(c, filter, strides(gradient), plain_epilogue(product), machine)
    run(lowered, [stored.ctypes.data, gradient.ctypes.data, made.ctypes.data], backwards=True)
    expected = np.einsum("nabcijkq,nabco->ijkqo", unfolded(x, spans), g)
    rough = 4 if filter == F2 else 40
    close(made, expected.reshape(made.shape), rough * np.sqrt(g.size / outputs))


def test_what_is_large_is_cut_into_slices_of_tiles():
    machine = WIDTHS[0]

    def cut(n, size, channels):
        axis = forward_axis(size, 3, 1, 1, 1, size)
        steps = size * size * channels, 0, size * channels, channels, 1
        c = Convolution("float32", n, 1, channels, channels, (UNIT, axis, axis), steps)
        return plan(c, F2, machine)

    assert cut(32, 8, 256).staged
    assert cut(32, 4, 512).staged
    assert cut(32, 32, 64).slices == 16
    assert cut(128, 28, 128).slices == 8
