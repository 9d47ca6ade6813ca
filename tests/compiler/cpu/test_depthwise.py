"""Depthwise convolutions of the CPU target, and others with small groups, against sums written out
in NumPy.
"""

import ml_dtypes
import numpy as np
import pytest

from schuss.compiler.cpu import depthwise
from schuss.compiler.cpu.convolution_plan import Convolution
from schuss.compiler.cpu.depthwise import lower
from schuss.compiler.cpu.depthwise_weight import lower_weight
from schuss.compiler.cpu.matmul import plain_epilogue
from schuss.compiler.cpu.matmul_plan import Product
from schuss.compiler.geometry import UNIT, forward_axis, input_axis

from .test_convolution import PLAIN, close, counting, counts, split, strides, unfolded
from .test_matmul import MACHINES, NAMES, guarded, guarded_copy, run

# images, groups, channels and outputs of a group, then for each axis (size, kernel, stride, before,
# after, dilation)
SQUARE = (PLAIN, (6, 3, 1, 1, 1, 1), (9, 3, 1, 1, 1, 1))
CASES = {
    "3x3": (2, 32, 1, 1, *SQUARE),
    "tail": (3, 37, 1, 1, PLAIN, (5, 3, 1, 1, 1, 1), (33, 3, 1, 1, 1, 1)),
    "few": (2, 3, 1, 1, PLAIN, (5, 3, 1, 1, 1, 1), (7, 3, 1, 1, 1, 1)),
    "stride": (2, 40, 1, 1, PLAIN, (9, 3, 2, 1, 1, 1), (8, 3, 2, 1, 0, 1)),
    "dilated": (2, 20, 1, 1, PLAIN, (11, 3, 1, 2, 2, 2), (12, 3, 2, 2, 3, 3)),
    "5x5": (40, 16, 1, 1, PLAIN, (7, 5, 1, 2, 2, 1), (7, 5, 1, 2, 2, 1)),
    "wide kernel": (2, 18, 1, 1, PLAIN, PLAIN, (50, 31, 1, 15, 15, 1)),
    "wide strides": (2, 18, 1, 1, PLAIN, PLAIN, (50, 20, 2, 9, 9, 1)),
    "line": (1, 144, 1, 1, PLAIN, PLAIN, (300, 3, 1, 2, 0, 1)),
    "volume": (2, 17, 1, 1, (4, 2, 1, 1, 0, 1), (5, 3, 2, 1, 1, 1), (6, 3, 1, 1, 1, 1)),
    "far": (1, 6, 1, 1, PLAIN, (3, 2, 3, 4, 5, 1), (4, 1, 5, 2, 2, 1)),
    "parts": (2, 96, 1, 1, PLAIN, (40, 3, 1, 1, 1, 1), (20, 3, 1, 1, 1, 1)),
    "one": (1, 2, 1, 1, PLAIN, PLAIN, PLAIN),
    "two outputs": (2, 16, 1, 2, *SQUARE),
    "three outputs": (2, 13, 1, 3, *SQUARE),
    "twos": (2, 9, 2, 2, *SQUARE),
    "fours": (2, 32, 4, 4, PLAIN, (9, 3, 2, 1, 1, 1), (8, 3, 2, 1, 1, 1)),
    "five of three": (2, 7, 3, 5, *SQUARE),
    "sevens": (2, 3, 7, 7, *SQUARE),
    "wide groups": (1, 6, 2, 4, PLAIN, PLAIN, (30, 12, 1, 5, 6, 1)),
}
# A vector holds the outputs of a group at least.
PAIRS = [
    pytest.param(name, machine, id=f"{name}-{bits}")
    for name, case in CASES.items()
    for machine, bits in zip(MACHINES, NAMES, strict=True)
    if max(case[2:4]) <= machine.vector_bytes // 4
]


def orders(machine):
    """How x may lie in memory: for all machines as it is read, for one of them in other ways."""
    if machine != MACHINES[0]:
        return ("channels last",)
    return "channels last", "channels first", "half"


def operands(case):
    n, groups, channels, outputs, *spans = case
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, *[span[0] for span in spans], groups * channels))
    w = rng.standard_normal((*[span[1] for span in spans], channels, groups, outputs))
    g = rng.standard_normal((n, *counts(spans), groups * outputs))
    return [a.astype(ml_dtypes.bfloat16).astype(np.float64) for a in (x, w, g)], spans


def stored(x, dtype, order):
    """A copy in guarded memory; with channels first in order, or rounded to half precision."""
    if order == "half":
        return guarded_copy(x.astype(ml_dtypes.bfloat16))
    if order == "channels last":
        return guarded_copy(x.astype(dtype))
    return np.moveaxis(guarded_copy(np.moveaxis(x, -1, 1).astype(dtype)), 1, -1)


def axes_of(rule, spans):
    return tuple(
        rule(size, k, s, b, d, count)
        for (size, k, s, b, _, d), count in zip(spans, counts(spans), strict=True)
    )


def sums_of(x, w, axes, machine, dtype, backwards):
    """The convolution of x with w (kernel, channels, groups, outputs), as `lower` computes it."""
    channels, groups, outputs = w.shape[3:]
    name = "bfloat16" if x.dtype.itemsize == 2 else dtype
    c = Convolution(name, x.shape[0], groups, channels, outputs, axes, strides(x))
    taps = guarded_copy(w.reshape(-1, groups * outputs).astype(dtype))
    shape = x.shape[0], *[axis.outputs for axis in axes], groups * outputs
    y = guarded(int(np.prod(shape)) * taps.itemsize).view(dtype).reshape(shape)
    rows = Product(dtype, (), y.size // shape[-1], shape[-1], 1, (0, 0), (0, 0))
    lowered = lower(c, plain_epilogue(rows), machine)
    run(lowered, [x.ctypes.data, taps.ctypes.data, y.ctypes.data], backwards)
    return y


def expected_forward(x, w, spans):
    windows = split(unfolded(x, spans), w.shape[4])
    y = np.einsum("nabcijkgq,ijkqgo->nabcgo", windows, w)
    return y.reshape(*y.shape[:4], -1)


@pytest.mark.parametrize(("name", "machine"), PAIRS)
def test_forward(name, machine):
    (x, w, _), spans = operands(CASES[name])
    expected, axes = expected_forward(x, w, spans), axes_of(forward_axis, spans)
    for order in orders(machine):
        memory = stored(x, "float32", order)
        got = sums_of(memory, w, axes, machine, "float32", backwards=True)
        close(got, expected, 4 * np.sqrt(w[..., 0, 0].size))


@pytest.mark.parametrize(("name", "machine"), PAIRS)
def test_input_gradient(name, machine):
    (x, w, g), spans = operands(CASES[name])
    windows = np.einsum("nabcgo,ijkqgo->nabcijkgq", split(g, w.shape[4]), w)
    windows = windows.reshape(*windows.shape[:7], -1)
    padded = np.zeros([x.shape[0], *[s[0] + s[3] + s[4] for s in spans], x.shape[-1]])
    for taps in np.ndindex(*w.shape[:3]):
        place = tuple(
            slice(t * span[5], t * span[5] + (count - 1) * span[2] + 1, span[2])
            for t, span, count in zip(taps, spans, counts(spans), strict=True)
        )
        padded[(slice(None), *place)] += windows[(slice(None),) * 4 + taps]
    inside = tuple(slice(s[3], s[3] + s[0]) for s in spans)
    axes, turned = axes_of(input_axis, spans), w.swapaxes(3, 5)
    for order in orders(machine):
        memory = stored(g, "float32", order)
        got = sums_of(memory, turned, axes, machine, "float32", backwards=False)
        close(got, padded[(slice(None), *inside)], 4 * np.sqrt(w[..., 0, 0, :].size))


def gradient_of(x, g, shape, spans, machine):
    """The gradient for weights w of a shape (kernel, channels, groups, outputs), rows of those."""
    channels, groups, outputs = shape[3:]
    dtype = "bfloat16" if x.dtype.itemsize == 2 else "float32"
    axes = axes_of(forward_axis, spans)
    c = Convolution(dtype, x.shape[0], groups, channels, outputs, axes, strides(x))
    got = guarded(int(np.prod(shape)) * 4).view(np.float32).reshape(-1, groups * outputs)
    rows = Product("float32", (), *got.shape, 1, (0, 0), (0, 0))
    lowered = lower_weight(c, strides(g), plain_epilogue(rows), machine)
    run(lowered, [x.ctypes.data, g.ctypes.data, got.ctypes.data], backwards=True)
    return got


@pytest.mark.parametrize(("name", "machine"), PAIRS)
def test_weight_gradient(name, machine):
    (x, w, g), spans = operands(CASES[name])
    windows = split(unfolded(x, spans), w.shape[4])
    expected = np.einsum("nabcijkgq,nabcgo->ijkqgo", windows, split(g, w.shape[4]))
    for order in orders(machine):
        memory, upper = stored(x, "float32", order), stored(g, "float32", order)
        got = gradient_of(memory, upper, w.shape, spans, machine)
        close(got, expected.reshape(got.shape), 4 * np.sqrt(g[..., 0].size))


@pytest.mark.parametrize(("images", "is_far"), [(8, False), (16, True)])
def test_what_comes_from_memory_is_asked_for_ahead(images, is_far):
    axis = forward_axis(56, 3, 1, 1, 1, 56)
    x_strides = (56 * 56 * 64, 0, 56 * 64, 64, 1)
    c = Convolution("float32", images, 64, 1, 1, (UNIT, axis, axis), x_strides)
    rows = Product("float32", (), images * 56 * 56, 64, 1, (0, 0), (0, 0))
    sums = lower(c, plain_epilogue(rows), MACHINES[0])
    gradient = lower_weight(c, x_strides, plain_epilogue(rows), MACHINES[0])
    for lowered in (sums, gradient):
        assert ("@llvm.prefetch" in lowered.stages[0].text) == is_far


@pytest.mark.parametrize("name", ["3x3", "stride", "dilated", "volume", "twos", "fours"])
def test_asking_ahead_changes_no_result(name, monkeypatch):
    """Also where it asks for what is behind the edges of memory."""
    (x, w, g), spans = operands(CASES[name])
    x, g = (stored(each, "float32", "channels last") for each in (x, g))

    def results():
        given = MACHINES[0], "float32", False
        yield sums_of(x, w, axes_of(forward_axis, spans), *given)
        yield sums_of(g, w.swapaxes(3, 5), axes_of(input_axis, spans), *given)
        yield gradient_of(x, g, w.shape, spans, MACHINES[0])

    near = list(results())
    monkeypatch.setattr(depthwise, "_FAR", 0)
    for one, other in zip(results(), near, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_epilogues_read_is_asked_for_once_a_vector():
    (x, w, _), spans = operands(CASES["tail"])
    axes = axes_of(forward_axis, spans)
    memory, groups = stored(x, "float32", "channels last"), w.shape[4]
    c = Convolution("float32", x.shape[0], groups, 1, 1, axes, strides(memory))
    taps = guarded_copy(w.reshape(-1, groups).astype("float32"))
    shape = x.size // groups, groups
    asked, y = np.zeros(shape, np.int32), guarded(x.size * 4)
    rows = Product("float32", (), *shape, 1, (0, 0), (0, 0))
    lowered = lower(c, counting(rows), MACHINES[0])
    run(lowered, [each.ctypes.data for each in (memory, taps, y, asked)])
    expected = np.zeros(groups, np.int32)
    expected[:: MACHINES[0].vector_bytes // 4] = 1
    np.testing.assert_array_equal(asked, np.broadcast_to(expected, shape))


def test_double_precision():
    (x, w, _), spans = operands(CASES["tail"])
    axes = axes_of(forward_axis, spans)
    got = sums_of(guarded_copy(x), w, axes, MACHINES[0], "float64", backwards=True)
    close(got, expected_forward(x, w, spans), 12)
