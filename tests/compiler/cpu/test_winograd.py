"""Convolutions by minimal filtering against sums written out in NumPy, and their accuracy."""

from __future__ import annotations

import numpy as np
import pytest

from schuss.compiler.cpu import winograd
from schuss.compiler.cpu.convolution_plan import Convolution
from schuss.compiler.cpu.matmul import plain_epilogue, this_machine
from schuss.compiler.cpu.matmul_plan import Machine, Product
from schuss.compiler.cpu.winograd_filter import F2, FILTERS, Filter
from schuss.compiler.geometry import UNIT, forward_axis

from .test_convolution import strides
from .test_matmul import MACHINES, NAMES, guarded, guarded_copy, run

# images, channels, outputs, height, width, zeros on each side
CASES = {
    "one tile": (1, 16, 16, 2, 2, 1),
    "odd": (2, 16, 48, 5, 7, 1),
    "valid": (3, 32, 16, 6, 4, 0),
    "wide border": (1, 16, 32, 3, 3, 2),
    "pieces": (1, 16, 80, 13, 13, 1),
    "many": (9, 32, 32, 16, 20, 1),
}


def direct(x: np.ndarray, w: np.ndarray, border: int) -> np.ndarray:
    """(N, H, W, C) and (O, C, 3, 3) -> (N, H', W', O)"""
    x = np.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    return np.einsum("nhwcij,ocij->nhwo", windows, w, optimize=True)


def panels(w: np.ndarray, filter: Filter, width: int) -> np.ndarray:
    """(O, C, 3, 3) as transformed weights (panels, taps, C, width)."""
    outputs, channels = w.shape[:2]
    made = np.einsum("ri,ocij,sj->rsco", filter.g, w, filter.g)
    made = made.reshape(filter.taps, channels, outputs)
    made = made.astype(np.float32)
    count = -(-outputs // width)
    made = np.pad(made, ((0, 0), (0, 0), (0, count * width - outputs)))
    made = made.reshape(filter.taps, channels, count, width).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(made)


def computed(
    x: np.ndarray, w: np.ndarray, border: int, machine: Machine, filter: Filter = F2
) -> np.ndarray:
    n, *sizes, channels = x.shape
    counts = [size + 2 * border - 2 for size in sizes]
    axes = tuple(
        forward_axis(size, 3, 1, border, 1, count)
        for size, count in zip(sizes, counts, strict=True)
    )
    image, row, column, channel = strides(x)
    c = Convolution(
        "float32", n, 1, channels, w.shape[0], (UNIT, *axes), (image, 0, row, column, channel)
    )
    cut = winograd.plan(c, filter, machine)
    y = guarded(n * counts[0] * counts[1] * w.shape[0] * 4).view(np.float32)
    product = Product("float32", (), n * counts[0] * counts[1], w.shape[0], 1, (0, 0), (0, 0))
    lowered = winograd.lower(c, filter, plain_epilogue(product), machine)
    assert len(lowered.stages) == 1 + cut.staged
    packed = guarded_copy(panels(w, filter, cut.width))
    run(lowered, [x.ctypes.data, packed.ctypes.data, y.ctypes.data], backwards=True)
    return y.reshape(n, *counts, w.shape[0])


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("filter", FILTERS.values(), ids=map(str, FILTERS))
@pytest.mark.parametrize("machine", MACHINES, ids=NAMES)
@pytest.mark.parametrize("name", CASES)
def test_values(name: str, machine: Machine, filter: Filter) -> None:
    n, channels, outputs, height, width, border = CASES[name]
    x, w = guarded_copy(sample(n, height, width, channels)), sample(outputs, channels, 3, 3, seed=1)
    got = computed(x, w, border, machine, filter)
    expected = direct(x.astype(float), w.astype(float), border)
    error = 3e-6 if filter == F2 else 3e-5
    np.testing.assert_allclose(got, expected, rtol=0, atol=error * np.sqrt(9 * channels))


def test_rows_may_lie_apart() -> None:
    whole = guarded_copy(sample(2, 6, 14, 48))
    x, w = whole[:, :, 3:11, 16:32], sample(16, 16, 3, 3)
    np.testing.assert_allclose(
        computed(x, w, 1, this_machine()), direct(x, w, 1), rtol=0, atol=1e-4
    )


def test_errors_are_about_those_of_sums() -> None:
    """Within 6 units in the last place of the largest result, and on average within 1."""
    x, w = np.maximum(sample(1, 14, 14, 256), 0), sample(64, 256, 3, 3) / 48
    expected = direct(x.astype(float), w.astype(float), 1)
    errors = np.abs(computed(x, w, 1, this_machine()) - expected) / np.abs(expected).max()
    unit = np.finfo(np.float32).eps
    assert errors.max() < 6 * unit
    assert errors.mean() < unit


def test_infinite_inputs_reach_those_outputs_that_see_them() -> None:
    x, w = sample(1, 12, 12, 16), sample(16, 16, 3, 3)
    expected = computed(x, w, 1, this_machine())
    for i, j in ((5, 5), (6, 7)):
        before, x[0, i, j, 3] = x[0, i, j, 3], np.inf
        sees = np.zeros((12, 12), bool)
        sees[i - 1 : i + 2, j - 1 : j + 2] = True
        got = computed(x, w, 1, this_machine())[0]
        assert not np.isfinite(got[sees]).any()
        np.testing.assert_array_equal(got[~sees], expected[0][~sees])
        x[0, i, j, 3] = before


@pytest.mark.parametrize(("tiles", "staged"), [(49, True), (196, True), (784, False)])
def test_few_tiles_share_out_panels(tiles: int, staged: bool) -> None:
    side = 2 * int(np.sqrt(tiles))
    axis = forward_axis(side, 3, 1, 1, 1, side)
    c = Convolution("float32", 1, 1, 128, 128, (UNIT, axis, axis), (0, 0, 0, 0, 1))
    cut = winograd.plan(c, F2, Machine(64, 32))
    assert cut.staged == staged
    assert cut.pieces * cut.height + cut.tall == tiles
    parts = -(-cut.pieces // cut.block) * (-(-128 // cut.width) if staged else 1)
    assert parts >= 16
