"""Direct convolutions of the CPU target against sums written out in NumPy."""

import ctypes
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from schuss.compiler.cpu.convolution import lower
from schuss.compiler.cpu.convolution_panels import Weights, lower_panels
from schuss.compiler.cpu.convolution_plan import Convolution, plan, tiling
from schuss.compiler.cpu.convolution_weight import as_product, lower_weight
from schuss.compiler.cpu.library import Source, compile_kernels
from schuss.compiler.cpu.matmul import plain_epilogue
from schuss.compiler.cpu.matmul_plan import Machine, Product
from schuss.compiler.geometry import UNIT, forward_axis, input_axis

from .test_matmul import KERNEL, MACHINES, NAMES, PAIRED, guarded, guarded_copy, run

# images, groups, channels, outputs, then for each axis (size, kernel, stride, before, after,
# dilation)
PLAIN = (1, 1, 1, 0, 0, 1)
CASES = {
    "3x3": (2, 1, 5, 7, PLAIN, (6, 3, 1, 1, 1, 1), (9, 3, 1, 1, 1, 1)),
    "wide": (3, 1, 33, 50, PLAIN, (5, 3, 1, 1, 1, 1), (33, 3, 1, 1, 1, 1)),
    "stride": (2, 1, 16, 40, PLAIN, (9, 3, 2, 1, 1, 1), (8, 3, 2, 1, 0, 1)),
    "first": (2, 1, 3, 64, PLAIN, (17, 7, 2, 3, 3, 1), (15, 7, 2, 3, 3, 1)),
    "dilated": (2, 1, 4, 20, PLAIN, (11, 3, 1, 2, 2, 2), (12, 3, 2, 2, 3, 3)),
    "groups": (2, 3, 6, 18, PLAIN, (7, 3, 1, 1, 1, 1), (7, 3, 1, 1, 1, 1)),
    "one": (1, 1, 1, 1, PLAIN, PLAIN, (5, 2, 1, 0, 0, 1)),
    "small": (9, 1, 40, 100, PLAIN, (4, 3, 1, 1, 1, 1), (4, 3, 1, 1, 1, 1)),
    "valid": (4, 1, 6, 16, PLAIN, (14, 5, 1, 0, 0, 1), (14, 5, 1, 0, 0, 1)),
    "lonely": (5, 1, 1, 6, PLAIN, (14, 5, 1, 2, 2, 1), (14, 5, 1, 2, 2, 1)),
    "batch": (21, 1, 24, 72, PLAIN, (4, 3, 1, 1, 1, 1), (3, 3, 1, 1, 1, 1)),
    "batch-stride": (13, 2, 20, 33, PLAIN, (5, 3, 2, 1, 1, 1), (5, 3, 2, 2, 2, 1)),
    "batch-dilated": (9, 1, 8, 16, PLAIN, (5, 3, 1, 2, 2, 2), (6, 3, 2, 2, 2, 2)),
    "batch-rows": (16, 1, 12, 16, PLAIN, (9, 5, 1, 2, 2, 1), (7, 5, 1, 2, 2, 1)),
    "batch-phases": (12, 1, 64, 16, PLAIN, (10, 3, 2, 1, 0, 1), (14, 3, 2, 1, 0, 1)),
    "batch-far": (10, 1, 4, 8, PLAIN, (3, 2, 3, 4, 5, 1), (4, 1, 5, 2, 2, 1)),
    "volume": (2, 1, 3, 17, (4, 2, 1, 1, 0, 1), (5, 3, 2, 1, 1, 1), (6, 3, 1, 1, 1, 1)),
    "far": (1, 1, 2, 3, PLAIN, (3, 2, 3, 4, 5, 1), (4, 1, 5, 2, 2, 1)),
    "many": (1, 1, 80, 80, PLAIN, (40, 3, 1, 1, 1, 1), (20, 3, 1, 1, 1, 1)),
    "heavy": (1, 1, 96, 200, PLAIN, (5, 3, 1, 1, 1, 1), (4, 3, 2, 1, 1, 1)),
    "heavy-in-place": (1, 1, 160, 300, PLAIN, (11, 1, 1, 0, 0, 1), (13, 1, 2, 0, 0, 1)),
    "mixed": (2, 1, 8, 24, PLAIN, (12, 4, 2, 1, 1, 1), (10, 4, 4, 0, 0, 1)),
}


def counts(spans):
    return [(n + b + a - d * (k - 1) - 1) // s + 1 for n, k, s, b, a, d in spans]


def unfolded(x, spans):
    """Windows of x (n, sizes, c): (n, counts, kernel, c)."""
    x = np.pad(x, ((0, 0), *[(b, a) for _, _, _, b, a, _ in spans], (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(
        x, [d * (k - 1) + 1 for _, k, _, _, _, d in spans], axis=(1, 2, 3)
    )
    view = np.moveaxis(view, 4, -1)
    steps = tuple(slice(None, None, s) for _, _, s, _, _, _ in spans)
    taps = tuple(slice(None, None, d) for *_, d in spans)
    return view[(slice(None), *steps, *taps)]


def operands(case, seed=0):
    n, groups, channels, outputs, *spans = case
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, *[span[0] for span in spans], groups * channels))
    w = rng.standard_normal((groups, outputs, channels, *[span[1] for span in spans]))
    g = rng.standard_normal((n, *counts(spans), groups * outputs))
    return x, w, g, spans


def input_axes(spans):
    depth, height, width = [
        input_axis(size, k, s, b, d, count)
        for (size, k, s, b, _, d), count in zip(spans, counts(spans), strict=True)
    ]
    return UNIT if spans[0] == PLAIN else depth, height, width


def split(x, groups):
    return x.reshape(*x.shape[:-1], groups, -1)


def strides(x):
    return tuple(s // x.itemsize for s in x.strides)


def panels(w, width):
    """(groups, outputs, channels, taps...) as (groups, panels, taps..., channels, width)."""
    groups, outputs = w.shape[:2]
    count = -(-outputs // width)
    w = np.pad(w, ((0, 0), (0, count * width - outputs), *[(0, 0)] * 4))
    w = w.reshape(groups, count, width, *w.shape[2:])
    return np.ascontiguousarray(w.transpose(0, 1, 4, 5, 6, 3, 2))


def sums_of(c, axes, x, w, machine, backwards):
    tiles = tiling(machine, c.element, c.images, c.channels, c.outputs, axes)
    packed = guarded_copy(panels(w, tiles.width).astype(x.dtype))
    shape = c.images, *[axis.outputs for axis in axes], c.groups * c.outputs
    y = guarded(int(np.prod(shape)) * x.itemsize).view(x.dtype).reshape(shape)
    rows = Product(c.dtype, (), int(np.prod(shape[:-1])), shape[-1], 1, (0, 0), (0, 0))
    lowered = lower(c, plain_epilogue(rows), machine)
    run(lowered, [x.ctypes.data, packed.ctypes.data, y.ctypes.data], backwards)
    return y


def close(got, expected, scale):
    eps = np.finfo(got.dtype).eps
    assert np.abs(got - expected).max() <= 30 * eps * scale  # NaN fails


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("machine", MACHINES, ids=NAMES)
@pytest.mark.parametrize("name", CASES)
def test_forward(name, machine, dtype):
    x, w, _, spans = operands(CASES[name])
    n, groups, channels, outputs = CASES[name][:4]
    axes = tuple(
        forward_axis(size, k, s, b, d, count)
        for (size, k, s, b, _, d), count in zip(spans, counts(spans), strict=True)
    )
    stored = guarded_copy(x.astype(dtype))
    c = Convolution(dtype, n, groups, channels, outputs, axes, strides(stored))
    got = sums_of(c, axes, stored, w, machine, backwards=True)
    windows = split(unfolded(x, spans), groups)
    expected = np.einsum("nabcijkgq,goqijk->nabcgo", windows, w)
    close(got, expected.reshape(got.shape), 4 * np.sqrt(w[0, 0].size))


@pytest.mark.parametrize("machine", MACHINES, ids=NAMES)
@pytest.mark.parametrize("name", CASES)
def test_input_gradient(name, machine):
    x, w, g, spans = operands(CASES[name])
    n, groups, channels, outputs = CASES[name][:4]
    axes = input_axes(spans)
    stored = guarded_copy(g.astype("float32"))
    c = Convolution("float32", n, groups, outputs, channels, axes, strides(stored))
    got = sums_of(c, axes, stored, w.swapaxes(1, 2), machine, backwards=False)
    windows = np.einsum("nabcgo,goqijk->nabcijkgq", split(g, groups), w)
    windows = windows.reshape(*windows.shape[:7], -1)
    padded = np.zeros([x.shape[0], *[s[0] + s[3] + s[4] for s in spans], x.shape[-1]])
    for taps in np.ndindex(*windows.shape[4:7]):
        place = tuple(
            slice(t * span[5], t * span[5] + (count - 1) * span[2] + 1, span[2])
            for t, span, count in zip(taps, spans, counts(spans), strict=True)
        )
        padded[(slice(None), *place)] += windows[(slice(None),) * 4 + taps]
    inside = tuple(slice(s[3], s[3] + s[0]) for s in spans)
    close(got, padded[(slice(None), *inside)], 4 * np.sqrt(w[0, :, 0].size))


@pytest.mark.parametrize("machine", MACHINES, ids=NAMES)
@pytest.mark.parametrize("name", CASES)
def test_weight_gradient(name, machine):
    x, _, g, spans = operands(CASES[name])
    n, groups, channels, outputs = CASES[name][:4]
    axes = tuple(
        forward_axis(size, k, s, b, d, count)
        for (size, k, s, b, _, d), count in zip(spans, counts(spans), strict=True)
    )
    stored, upper = guarded_copy(x.astype("float32")), guarded_copy(g.astype("float32"))
    c = Convolution("float32", n, groups, channels, outputs, axes, strides(stored))
    kernel = [span[1] for span in spans]
    shape = groups, int(np.prod(kernel)) * channels, outputs
    got = guarded(int(np.prod(shape)) * 4).view(np.float32).reshape(shape)
    rows = Product("float32", (groups,), *shape[1:], 1, (0, 0, 0), (0, 0, 0))
    lowered = lower_weight(c, strides(upper), plain_epilogue(rows), machine)
    run(lowered, [stored.ctypes.data, upper.ctypes.data, got.ctypes.data], backwards=True)
    windows = split(unfolded(x, spans), groups)
    expected = np.einsum("nabcijkgq,nabcgo->gijkqo", windows, split(g, groups))
    close(got, expected.reshape(shape), 4 * np.sqrt(g[..., 0].size))


DOTS = [machine for machine in PAIRED if "bfloat16" in machine.pairs]


def in_pairs(w, width, machine):
    """Weights in bfloat16 as the kernel that packs them lays them out."""
    groups, outputs, channels = w.shape[:3]
    taps = int(np.prod(w.shape[3:]))
    stored = guarded_copy(w.reshape(groups, outputs, channels, taps))
    spec = Weights("bfloat16", groups, outputs, channels, taps, width, strides(stored), pairs=True)
    shape = groups, -(-outputs // width), taps, -(-channels // 2), width, 2
    packed = guarded(int(np.prod(shape)) * 2).view(ml_dtypes.bfloat16).reshape(shape)
    run(lower_panels(spec, machine), [stored.ctypes.data, packed.ctypes.data])
    whole = np.pad(w, ((0, 0), (0, 0), (0, channels % 2), *[(0, 0)] * 3))
    expected = panels(whole, width).reshape(*shape[:3], shape[3], 2, width).swapaxes(-1, -2)
    np.testing.assert_array_equal(packed, expected)
    return packed


@pytest.mark.parametrize("machine", DOTS, ids=[str(8 * x.vector_bytes) for x in DOTS])
@pytest.mark.parametrize("name", CASES)
def test_forward_in_pairs(name, machine):
    x, w, _, spans = operands(CASES[name])
    n, groups, channels, outputs = CASES[name][:4]
    if channels % 2:
        x = np.pad(split(x, groups), (*[(0, 0)] * 5, (0, 1))).reshape(*x.shape[:-1], -1)
    x, w = (each.astype(ml_dtypes.bfloat16) for each in (x, w))
    axes = tuple(
        forward_axis(size, k, s, b, d, count)
        for (size, k, s, b, _, d), count in zip(spans, counts(spans), strict=True)
    )
    stored = guarded_copy(x)
    c = Convolution(
        "bfloat16", n, groups, x.shape[-1] // groups, outputs, axes, strides(stored)
    ).in_pairs()
    width = tiling(machine, "float", n, c.channels, outputs, axes).width
    packed = in_pairs(w, width, machine)
    shape = n, *counts(spans), groups * outputs
    got = guarded(int(np.prod(shape)) * 4).view(np.float32).reshape(shape)
    rows = Product("bfloat16", (), int(np.prod(shape[:-1])), shape[-1], 1, (0, 0), (0, 0))
    words = [each.ctypes.data for each in (stored, packed, got)]
    run(lower(c, plain_epilogue(rows), machine), words, backwards=True)
    windows = split(unfolded(x.astype(float), spans), groups)[..., :channels]
    expected = np.einsum("nabcijkgq,goqijk->nabcgo", windows, w.astype(float))
    close(got, expected.reshape(shape), 4 * np.sqrt(w[0, 0].size))


@pytest.mark.parametrize("machine", MACHINES, ids=NAMES)
@pytest.mark.parametrize("name", CASES)
def test_weight_gradient_of_bfloat16(name, machine):
    x, _, g, spans = operands(CASES[name])
    n, groups, channels, outputs = CASES[name][:4]
    x, g = (each.astype(ml_dtypes.bfloat16) for each in (x, g))
    axes = tuple(
        forward_axis(size, k, s, b, d, count)
        for (size, k, s, b, _, d), count in zip(spans, counts(spans), strict=True)
    )
    stored, upper = guarded_copy(x), guarded_copy(g)
    c = Convolution("bfloat16", n, groups, channels, outputs, axes, strides(stored))
    shape = groups, int(np.prod([span[1] for span in spans])) * channels, outputs
    got = guarded(int(np.prod(shape)) * 4).view(np.float32).reshape(shape)
    rows = Product("bfloat16", (groups,), *shape[1:], 1, (0, 0, 0), (0, 0, 0))
    lowered = lower_weight(c, strides(upper), plain_epilogue(rows), machine)
    run(lowered, [stored.ctypes.data, upper.ctypes.data, got.ctypes.data], backwards=True)
    windows = split(unfolded(x.astype(float), spans), groups)
    expected = np.einsum("nabcijkgq,nabcgo->gijkqo", windows, split(g.astype(float), groups))
    close(got, expected.reshape(shape), 4 * np.sqrt(g[..., 0].size))


@pytest.mark.parametrize(
    ("channels", "outputs", "size", "rows"),
    [
        (64, 64, 56, 7),  # inputs and outputs of 7 rows stay in the cache
        (512, 256, 28, 4),  # weights do not, but inputs of 4 rows do
        (256, 1024, 14, 14),  # inputs of all rows do
    ],
)
def test_parts_that_read_in_place_go_through_little(channels, outputs, size, rows):
    axis = forward_axis(size, 1, 1, 0, 1, size)
    x_strides = (size * size * channels, 0, size * channels, channels, 1)
    c = Convolution("float32", 64, 1, channels, outputs, (UNIT, axis, axis), x_strides)
    cut = plan(c, Machine(64, 32))
    assert cut.in_place
    assert cut.rows == rows


def test_parts_of_one_image_share_out_heavy_weights():
    """Panels are shared out before rows."""
    axis = forward_axis(7, 3, 1, 1, 1, 7)
    c = Convolution("float32", 1, 1, 512, 512, (UNIT, axis, axis), (7 * 3584, 0, 3584, 512, 1))
    cut = plan(c, Machine(64, 32))
    assert (cut.heavy, cut.panels, cut.rows) == (True, 1, 4)
    assert not plan(replace(c, images=2), Machine(64, 32)).heavy
    assert not plan(replace(c, outputs=8), Machine(64, 32)).heavy


def test_each_part_asks_for_the_weights_that_come_after_those_it_reads():
    """Of two panels the first asks for the second, that for the first of the part that follows:
    the next one, or in the later half, which threads take from the end, the one before.
    """
    x, w, _, spans = operands((1, 1, 64, 1528, PLAIN, (5, 1, 1, 0, 0, 1), (9, 1, 1, 0, 0, 1)))
    x, w = x.astype(np.float32), w.astype(np.float32)
    axes = tuple(forward_axis(n, 1, 1, 0, 1, n) for n, *_ in spans)
    c = Convolution("float32", 1, 1, 64, 1528, axes, strides(x))
    cut = plan(c, Machine(64, 32))
    packed = guarded_copy(panels(w, cut.tiling.width))
    assert (cut.panels, packed.shape[1]) == (2, 32)
    rows = Product("float32", (), 45, 1528, 1, (0, 0), (0, 0))
    lowered = lower(c, plain_epilogue(rows), Machine(64, 32))
    (stage,) = lowered.stages
    ask = "call void @llvm.prefetch.p0(ptr %soon.now, i32 0, i32 3, i32 1)"
    assert ask in stage.text
    text = stage.text.replace(ask, _NOTE.format(lines=packed.nbytes // 64))
    addresses = compile_kernels([*lowered.shared, Source(text, (stage.name,))])
    y, scratch = guarded(45 * 1528 * 4), guarded(-(-stage.scratch // 64) * 64)
    for part in range(16):
        asked = np.zeros(packed.nbytes // 64 + 1, np.uint8)  # each line, and all that lie elsewhere
        words = [each.ctypes.data for each in (x, packed, y, y, asked)]
        table = (ctypes.c_int64 * len(words))(*words)
        KERNEL(addresses[stage.name])(ctypes.addressof(table), part, scratch.ctypes.data)
        by_panel = asked[:-1].reshape(32, -1)
        following = 2 * part + 2 if part < 8 else 2 * part - 2
        assert set(np.flatnonzero(by_panel.all(1))) == {2 * part + 1, following}
        assert by_panel.sum() <= 2 * (by_panel.shape[1] + 2)  # a line or two behind each


# In place of asking for a line: a 1 in the table at the fourth word.
_NOTE = """
  %note.words = getelementptr ptr, ptr %args, i64 4
  %note.table = load ptr, ptr %note.words
  %note.second = getelementptr ptr, ptr %args, i64 1
  %note.weights = load ptr, ptr %note.second
  %note.start = ptrtoint ptr %note.weights to i64
  %note.soon = ptrtoint ptr %soon.now to i64
  %note.away = sub i64 %note.soon, %note.start
  %note.line = lshr i64 %note.away, 6
  %note.inside = icmp ult i64 %note.line, {lines}
  %note.entry = select i1 %note.inside, i64 %note.line, i64 {lines}
  %note.at = getelementptr i8, ptr %note.table, i64 %note.entry
  store i8 1, ptr %note.at"""


@pytest.mark.parametrize(
    ("channels", "lines", "is_printed_often"), [(256, 0, True), (257, 0, False), (256, 40, False)]
)
def test_short_epilogues_are_printed_for_each_vector_of_a_short_sum(
    channels, lines, is_printed_often
):
    """Both ways give the same: sums of one term that is not 0."""
    x = guarded_copy(np.zeros((1, 1, 1, 6, channels), np.float32))
    x[..., 0] = np.arange(6)
    w = guarded_copy(np.ones((channels, 64), np.float32))
    axes = UNIT, UNIT, forward_axis(6, 1, 1, 0, 1, 6)
    c = Convolution("float32", 1, 1, channels, 64, axes, strides(x))
    rows = Product("float32", (), 6, 64, 1, (0, 0), (0, 0))
    long = "; a remark\n" * lines
    lowered = lower(c, lambda *given: long + plain_epilogue(rows)(*given), Machine(64, 32))
    assert lowered.stages[0].text.count("call void @epilogue(") == (24 if is_printed_often else 4)
    y = guarded(6 * 64 * 4).view(np.float32).reshape(6, 64)
    run(lowered, [x.ctypes.data, w.ctypes.data, y.ctypes.data])
    np.testing.assert_array_equal(y, np.broadcast_to(np.arange(6.0)[:, None], y.shape))


def test_tiles_of_several_images_are_shared_out_by_rows():
    """One tile holds all images: it would be one part."""
    axis = input_axis(14, 5, 1, 2, 1, 14)
    c = Convolution("float32", 16, 1, 48, 16, (UNIT, axis, axis), (14 * 672, 0, 672, 48, 1))
    cut = plan(c, Machine(64, 32))
    assert (cut.tiling.images, cut.rows) == (16, 1)


@pytest.mark.parametrize(
    ("sizes", "channels", "outputs", "stages"),
    [((40, 50), 16, 24, 2), ((7, 9), 16, 24, 1), ((7, 9), 16, 1, 1), ((7, 9), 1, 24, 1)],
)
def test_weights_of_one_tap_are_a_product(sizes, channels, outputs, stages):
    """That of many positions is cut into slices of them, which are added in a stage."""
    rng = np.random.default_rng(3)
    x = guarded_copy(rng.standard_normal((3, 1, *sizes, channels), np.float32))
    g = guarded_copy(rng.standard_normal((3, 1, *sizes, outputs), np.float32))
    axes = (UNIT, *[forward_axis(size, 1, 1, 0, 1, size) for size in sizes])
    c = Convolution("float32", 3, 1, channels, outputs, axes, strides(x))
    got = guarded(channels * outputs * 4).view(np.float32).reshape(channels, outputs)
    rows = Product("float32", (1,), channels, outputs, 1, (0, 0, 0), (0, 0, 0))
    lowered = lower_weight(c, strides(g), plain_epilogue(rows), Machine(64, 32))
    assert lowered.stages[0].name.startswith("matmul")
    assert len(lowered.stages) == stages
    run(lowered, [x.ctypes.data, g.ctypes.data, got.ctypes.data], backwards=True)
    expected = np.einsum("nzhwc,nzhwo->co", x.astype(float), g.astype(float))
    close(got, expected, 4 * np.sqrt(3 * sizes[0] * sizes[1]))


@pytest.mark.parametrize(
    ("images", "size", "channels", "outputs", "is_product"),
    [
        (16, 14, 1024, 512, True),  # a third-level cache has room for both operands
        (64, 14, 1024, 512, False),
        (16, 28, 512, 256, True),  # too large, but cut into slices of positions
        (16, 28, 128, 512, False),  # rows of 2 KB, of which few stay in the first-level cache
    ],
)
def test_weights_of_one_tap_are_a_product_where_that_reads_little(
    images, size, channels, outputs, is_product
):
    axis = forward_axis(size, 1, 1, 0, 1, size)
    x_strides, g_strides = [(size * size * n, 0, size * n, n, 1) for n in (channels, outputs)]
    c = Convolution("float32", images, 1, channels, outputs, (UNIT, axis, axis), x_strides)
    rows = Product("float32", (1,), channels, outputs, 1, (0, 0, 0), (0, 0, 0))
    lowered = lower_weight(c, g_strides, plain_epilogue(rows), Machine(64, 32))
    assert lowered.stages[0].name.startswith("matmul") == is_product


def test_which_weight_gradients_are_products():
    def taken(
        size=8, kernel=1, stride=1, before=0, groups=1, row=128, dtype="float32", pairs=()
    ):  # fmt: skip
        axis = forward_axis(
            size, kernel, stride, before, 1, (size + 2 * before - kernel) // stride + 1
        )
        c = Convolution(dtype, 2, groups, 16, 16, (UNIT, axis, axis), (8 * row, 0, row, 16, 1))
        return as_product(c, (1024, 0, 128, 16, 1), Machine(64, 32, pairs)) is not None

    assert taken()
    assert not taken(kernel=3, before=1)
    assert not taken(stride=2)
    assert not taken(before=1)
    assert not taken(groups=2)
    assert not taken(row=144)  # rows lie apart
    assert not taken(dtype="bfloat16")
    assert taken(dtype="bfloat16", pairs=("bfloat16",))


def counting(rows):
    """The plain epilogue, which counts in word 4 how often each vector has been asked for ahead."""

    def text(name, lanes, accumulator):
        return f"""{plain_epilogue(rows)(name, lanes, accumulator)}
define internal void @{name}_ahead(ptr %args, i64 %batch, i64 %m, i64 %n) alwaysinline {{
  %word = getelementptr i64, ptr %args, i64 4
  %counts = load ptr, ptr %word
  %before = mul i64 %m, {rows.n}
  %at = add i64 %before, %n
  %p = getelementptr i32, ptr %counts, i64 %at
  %old = load i32, ptr %p
  %sum = add i32 %old, 1
  store i32 %sum, ptr %p
  ret void
}}
"""

    return text


@pytest.mark.parametrize("name", ["3x3", "wide", "stride", "batch", "batch-stride", "volume"])
@pytest.mark.parametrize("machine", MACHINES, ids=NAMES)
def test_what_epilogues_read_is_asked_for_once_a_vector(name, machine):
    x, w, g, spans = operands(CASES[name])
    n, groups, channels, outputs = CASES[name][:4]
    axes = input_axes(spans)
    stored = guarded_copy(g.astype("float32"))
    c = Convolution("float32", n, groups, outputs, channels, axes, strides(stored))
    tiles = tiling(machine, c.element, n, outputs, channels, axes)
    packed = guarded_copy(panels(w.swapaxes(1, 2), tiles.width).astype("float32"))
    shape = x.size // x.shape[-1], x.shape[-1]
    asked = np.zeros(shape, np.int32)
    y = guarded(x.size * 4)
    rows = Product("float32", (), *shape, 1, (0, 0), (0, 0))
    words = [each.ctypes.data for each in (stored, packed, y, asked)]
    run(lower(c, counting(rows), machine), words)
    expected = np.zeros((groups, channels), np.int32)
    expected[:, :: tiles.lanes] = 1
    np.testing.assert_array_equal(asked, np.broadcast_to(expected.reshape(-1), shape))
