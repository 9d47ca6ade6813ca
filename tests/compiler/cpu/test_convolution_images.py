"""Convolutions with vectors along the images, against sums written out in NumPy."""

import ml_dtypes
import numpy as np
import pytest

from schuss.compiler.cpu.convolution_images import applies, lower, plan
from schuss.compiler.cpu.convolution_plan import Convolution, tiling
from schuss.compiler.cpu.matmul import plain_epilogue
from schuss.compiler.cpu.matmul_plan import Machine, Product
from schuss.compiler.geometry import forward_axis, input_axis

from .test_convolution import PLAIN, close, counts, operands, panels, split, strides, unfolded
from .test_matmul import WIDTHS, guarded, guarded_copy, run

# images, groups, channels, outputs, then for each axis (size, kernel, stride, before, after,
# dilation)
CASES = {
    "first": (70, 1, 1, 6, PLAIN, (9, 5, 1, 2, 2, 1), (8, 5, 1, 2, 2, 1)),
    "second": (33, 1, 6, 5, PLAIN, (9, 5, 1, 0, 0, 1), (11, 5, 1, 0, 0, 1)),
    "few images": (3, 1, 5, 7, PLAIN, (6, 3, 1, 1, 1, 1), (9, 3, 1, 1, 1, 1)),
    "stride": (18, 1, 4, 3, PLAIN, (9, 3, 2, 1, 1, 1), (8, 3, 2, 1, 0, 1)),
    "dilated": (17, 1, 4, 20, PLAIN, (11, 3, 1, 2, 2, 2), (12, 3, 2, 2, 3, 3)),
    "many outputs": (20, 1, 3, 70, PLAIN, (5, 3, 1, 1, 1, 1), (5, 3, 1, 1, 1, 1)),
    "far": (16, 1, 2, 3, PLAIN, (3, 2, 3, 4, 5, 1), (4, 1, 5, 2, 2, 1)),
    "line": (40, 1, 3, 2, PLAIN, PLAIN, (30, 4, 1, 1, 2, 1)),
    "one": (1, 1, 1, 1, PLAIN, PLAIN, (5, 2, 1, 0, 0, 1)),
}
ORDERS = ("channels last", "channels first", "half")


def axes_of(rule, spans):
    return tuple(
        rule(size, k, s, b, d, count)
        for (size, k, s, b, _, d), count in zip(spans, counts(spans), strict=True)
    )


def stored(x, dtype, order):
    """A copy in guarded memory; with channels first in order, or rounded to half precision."""
    if order == "channels first":
        return np.moveaxis(guarded_copy(np.moveaxis(x, -1, 1).astype(dtype)), 1, -1)
    return guarded_copy(x.astype(ml_dtypes.bfloat16 if order == "half" else dtype))


def sums_of(x, w, axes, machine, dtype="float32"):
    """The convolution of x with w (groups, outputs, channels, kernel)."""
    name = "bfloat16" if x.dtype.itemsize == 2 else dtype
    c = Convolution(name, x.shape[0], 1, w.shape[2], w.shape[1], axes, strides(x))
    tiles = tiling(machine, c.element, c.images, c.channels, c.outputs, axes)
    packed = guarded_copy(panels(w, tiles.width).astype(dtype))
    shape = c.images, *[axis.outputs for axis in axes], c.outputs
    y = guarded(int(np.prod(shape)) * packed.itemsize).view(dtype).reshape(shape)
    rows = Product(dtype, (), y.size // c.outputs, c.outputs, 1, (0, 0), (0, 0))
    lowered = lower(c, plain_epilogue(rows), machine)
    run(lowered, [x.ctypes.data, packed.ctypes.data, y.ctypes.data], backwards=True)
    return y


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("machine", WIDTHS, ids=lambda machine: 8 * machine.vector_bytes)
@pytest.mark.parametrize("name", CASES)
def test_forward(name, machine, order):
    x, w, _, spans = operands(CASES[name])
    x = x.astype(ml_dtypes.bfloat16).astype(np.float64)
    axes = axes_of(forward_axis, spans)
    got = sums_of(stored(x, "float32", order), w, axes, machine)
    expected = np.einsum("nabcijkgq,goqijk->nabco", split(unfolded(x, spans), 1), w)
    close(got, expected, 4 * np.sqrt(w[0, 0].size))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("machine", WIDTHS, ids=lambda machine: 8 * machine.vector_bytes)
@pytest.mark.parametrize("name", CASES)
def test_input_gradient(name, machine, dtype):
    x, w, g, spans = operands(CASES[name])
    axes = axes_of(input_axis, spans)
    got = sums_of(stored(g, dtype, "channels last"), w.swapaxes(1, 2), axes, machine, dtype)
    windows = np.einsum("nabco,goqijk->nabcijkq", g, w)
    padded = np.zeros([x.shape[0], *[s[0] + s[3] + s[4] for s in spans], x.shape[-1]])
    for taps in np.ndindex(*windows.shape[4:7]):
        place = tuple(
            slice(t * span[5], t * span[5] + (count - 1) * span[2] + 1, span[2])
            for t, span, count in zip(taps, spans, counts(spans), strict=True)
        )
        padded[(slice(None), *place)] += windows[(slice(None),) * 4 + taps]
    inside = tuple(slice(s[3], s[3] + s[0]) for s in spans)
    close(got, padded[(slice(None), *inside)], 4 * np.sqrt(w[0, :, 0].size))


def square(images, channels, outputs, size, kernel, groups=1):
    axis = forward_axis(size, kernel, 1, kernel // 2, 1, size)
    depth = forward_axis(1, 1, 1, 0, 1, 1)
    place = size * size * groups * channels, 0, size * groups * channels, groups * channels, 1
    return Convolution("float32", images, groups, channels, outputs, (depth, axis, axis), place)


def test_where_it_applies():
    wide = Machine(64, 32)
    assert applies(square(256, 1, 6, 28, 5), wide)
    assert applies(square(64, 64, 3, 32, 3), wide)
    assert applies(square(64, 32, 20, 16, 3), wide)
    assert not applies(square(256, 6, 16, 28, 5), wide)  # vectors of outputs are full
    assert not applies(square(256, 6, 8, 28, 5), wide)  # half vectors are
    assert not applies(square(8, 1, 6, 28, 5), wide)  # too few images
    assert not applies(square(17, 1, 6, 28, 5), wide)  # the second vector would be empty
    assert not applies(square(256, 1, 6, 28, 3), wide)  # turning results round would cost more
    assert not applies(square(256, 64, 3, 224, 3), wide)  # a row would fill the cache
    assert not applies(square(256, 16, 6, 28, 5, groups=2), wide)


def test_parts_are_many_and_their_slabs_stay_in_the_cache():
    wide = Machine(64, 32)
    for c in (square(256, 1, 6, 28, 5), square(64, 16, 3, 112, 3), square(1000, 32, 3, 32, 3)):
        cut = plan(c, wide)
        rows = min(c.axes[1].reach(cut.rows), c.axes[1].size)
        assert rows * c.axes[2].size * c.channels * cut.images * 4 <= 640 << 10
        blocks = -(-c.images // cut.images) * -(-c.axes[1].most // cut.rows)
        assert blocks >= 16
        assert cut.outputs * cut.vectors + cut.vectors < wide.registers
