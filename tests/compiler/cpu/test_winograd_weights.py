"""Transformed weights for minimal filtering, against the matrices of the algorithm."""

import numpy as np
import pytest

from schuss.compiler.cpu.convolution_panels import Weights
from schuss.compiler.cpu.winograd_filter import FILTERS
from schuss.compiler.cpu.winograd_weights import lower_weights

from .test_matmul import NAMES, WIDTHS, guarded, guarded_copy, run


@pytest.mark.parametrize("filter", FILTERS.values(), ids=map(str, FILTERS))
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("machine", WIDTHS, ids=NAMES[: len(WIDTHS)])
@pytest.mark.parametrize(("outputs", "channels"), [(32, 5), (48, 70), (16, 1)])
def test_panels(machine, outputs, channels, backwards, filter):
    lanes = machine.vector_bytes // 4
    width = min(2 * lanes, outputs)
    w = np.random.default_rng(0).standard_normal((outputs, channels, 3, 3)).astype(np.float32)
    stored = guarded_copy(w.swapaxes(0, 1)).swapaxes(0, 1) if backwards else guarded_copy(w)
    o, c, _, t = (step // 4 for step in stored.strides)
    panels = -(-outputs // width)
    made = guarded(panels * filter.taps * channels * width * 4).view(np.float32)
    spec = Weights("float32", 1, outputs, channels, 9, width, (0, o, c, t))
    lowered = lower_weights(spec, filter, backwards, machine)
    run(lowered, [stored.ctypes.data, made.ctypes.data])
    made = made.reshape(panels, filter.taps, channels, width)
    turned = w[:, :, ::-1, ::-1] if backwards else w
    expected = np.einsum("ri,ocij,sj->rsco", filter.g, turned, filter.g)
    expected = expected.reshape(filter.taps, channels, outputs)
    for panel in range(panels):
        part = expected[:, :, panel * width : (panel + 1) * width]
        np.testing.assert_allclose(made[panel, :, :, : part.shape[2]], part, rtol=1e-5, atol=1e-6)
