"""Convolutions from the graph to the result, most of them by minimal filtering."""

import numpy as np
import pytest

import schuss
from schuss.compiler.convolution import winograd
from schuss.compiler.cpu.winograd_filter import F2, F4
from schuss.compiler.geometry import UNIT, forward_axis, input_axis
from schuss.execution.tiers import using


def results(x, w, g, padding):
    """The convolution and both of its gradients, compiled."""

    def together(x, w, g):
        def dot(x, w):
            return (schuss.nn.functional.conv2d(x, w, padding=padding) * g).sum()

        return schuss.nn.functional.conv2d(x, w, padding=padding), *schuss.grad(dot, (0, 1))(x, w)

    return [y.numpy() for y in schuss.jit(together)(*map(schuss.tensor, (x, w, g)))]


@pytest.mark.parametrize(
    ("shape", "outputs", "padding"),
    [((4, 32, 9, 9), 48, 1), ((2, 64, 12, 7), 32, 0), ((3, 48, 10, 11), 80, 2)],
)
def test_minimal_filtering_is_as_near_as_sums_are(shape, outputs, padding):
    """Against float64, which is computed directly."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(shape), rng.standard_normal((outputs, shape[1], 3, 3))
    sizes = [n + 2 * padding - 2 for n in shape[2:]]
    g = rng.standard_normal((shape[0], outputs, *sizes))
    exact = results(x, w, g, padding)
    near = results(*[each.astype(np.float32) for each in (x, w, g)], padding)
    for found, expected in zip(near, exact, strict=True):
        assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", [schuss.float16, schuss.bfloat16])
def test_minimal_filtering_of_half_precision_is_rounded_once(dtype):
    rng = np.random.default_rng(0)
    shapes = (8, 32, 9, 10), (48, 32, 3, 3), (8, 48, 9, 10)
    halves = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    near = results(*halves, 1)
    for found, expected in zip(near, results(*[x.astype(float) for x in halves], 1), strict=True):
        error = np.abs(found.astype(float) - expected)
        eps = float(schuss.finfo(dtype).eps)
        assert (error <= 0.51 * eps * np.abs(expected) + 1e-5 * np.abs(expected).max()).all()


@pytest.mark.parametrize(
    ("shape", "outputs", "kernel", "named"),
    [
        ((2, 3, 19, 18), 64, (7, 7), {"stride": 2, "padding": 3}),  # a first layer
        ((3, 40, 15, 9), 24, (3, 3), {"stride": 2, "padding": 1}),
        ((2, 12, 9, 9), 80, (5, 5), {"padding": 2, "groups": 2}),
        ((2, 6, 9, 8), 20, (3, 2), {"dilation": 2, "padding": 1}),
        ((1, 64, 7, 8), 33, (1, 1), {}),
        ((2, 48, 7, 6), 40, (1, 1), {"stride": 2}),
        ((32, 4, 6, 5), 3, (3, 3), {"padding": 1}),  # vectors along the images
        ((2, 7, 6, 5), 14, (1, 1), {"groups": 7}),
        ((2, 16, 4, 3), 2, (1, 1), {"groups": 2}),  # small groups, if pairs counted as channels
    ],
)
def test_convolutions_of_bfloat16_are_rounded_once(shape, outputs, kernel, named):
    rng = np.random.default_rng(0)
    w = (outputs, shape[1] // named.get("groups", 1), *kernel)
    x, w = (rng.standard_normal(each).astype(schuss.bfloat16) for each in (shape, w))

    def convolved(x, w):
        return schuss.nn.functional.conv2d(x, w, **named)

    def gradients(x, w, g):
        return schuss.vjp(convolved, x, w)[1](g)

    def computed(x, w, g):
        x, w, g = (schuss.tensor(each) for each in (x, w, g))
        return schuss.jit(convolved)(x, w), *schuss.jit(gradients)(x, w, g)

    g = rng.standard_normal(convolved(schuss.tensor(x), schuss.tensor(w)).shape)
    g = g.astype(schuss.bfloat16)
    with using("compiled"):
        near = computed(x, w, g)
        exact = computed(*[each.astype(float) for each in (x, w, g)])
    eps = float(schuss.finfo(schuss.bfloat16).eps)
    for found, expected in zip(near, exact, strict=True):
        found, expected = found.numpy().astype(float), expected.numpy()
        allowed = 0.51 * eps * np.abs(expected) + 1e-5 * np.abs(expected).max()
        assert (np.abs(found - expected) <= allowed).all()


@pytest.mark.parametrize(("dtype", "share"), [(schuss.bfloat16, 2e-3), (schuss.float16, 1.2e-2)])
def test_the_larger_filter_hardly_ever_changes_a_rounding(dtype, share):
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((8, 64, 32, 32)), 0).astype(dtype)
    w = (rng.standard_normal((64, 64, 3, 3)) / 24).astype(dtype)

    def convolved(x, w):
        x, w = schuss.tensor(x), schuss.tensor(w)
        return schuss.nn.functional.conv2d(x, w, padding=1).numpy()

    with using("compiled"):
        found, exact = convolved(x, w), convolved(x.astype(float), w.astype(float))
    assert (found != exact.astype(dtype)).mean() < share


def test_what_is_filtered_minimally():
    forward, backward = forward_axis(16, 3, 1, 1, 1, 16), input_axis(16, 3, 1, 1, 1, 16)

    def applies(
        dtype=schuss.float32, images=8, channels=32, outputs=32, axis=forward, other=None,
        pairs=False,
    ):  # fmt: skip
        axes = UNIT, axis, other or axis
        return winograd.choose(dtype, images, channels, outputs, axes, pairs)

    assert applies() == F2
    assert applies(axis=backward) == F2
    assert applies(dtype=schuss.bfloat16) == F4
    assert applies(dtype=schuss.float16, axis=backward) == F4
    assert applies(dtype=schuss.bfloat16, images=1) == F2  # larger weights for so few tiles
    assert applies(dtype=schuss.bfloat16, images=1, pairs=True) is None
    assert applies(dtype=schuss.bfloat16, images=32, pairs=True) == F4
    assert not applies(other=backward)
    assert not applies(dtype=schuss.float64)
    assert not applies(channels=33)
    assert not applies(channels=16)
    assert not applies(axis=forward_axis(16, 3, 2, 1, 1, 8))
    assert not applies(axis=forward_axis(16, 3, 1, 2, 2, 16))
    assert not applies(axis=forward_axis(16, 5, 1, 2, 1, 16))
    assert not applies(images=1, axis=forward_axis(4, 3, 1, 1, 1, 4))


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding"),
    [
        ((3, 8, 7, 10), (1, 1), (2, 3), (0, 0)),
        ((3, 8, 9, 6), (1, 3), (2, 2), (0, 1)),  # one axis has gaps, the other has not
        ((3, 8, 5, 6), (1, 1), (4, 2), (1, 0)),  # positions in front of the first
        ((3, 8, 5, 1), (1, 1), (3, 3), (0, 2)),
    ],
)
def test_strides_of_single_taps(shape, kernel, stride, padding):
    """Against sums over what each output looks at."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal(shape), rng.standard_normal((5, 8, *kernel))

    def convolved(x, w):
        return schuss.nn.functional.conv2d(x, w, stride=stride, padding=padding)

    padded = np.pad(x, ((0, 0), (0, 0), *[(p, p) for p in padding]))
    seen = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))
    seen = seen[:, :, :: stride[0], :: stride[1]]
    y = schuss.jit(convolved)(schuss.tensor(x), schuss.tensor(w)).numpy()
    np.testing.assert_allclose(y, np.einsum("nchwij,ocij->nohw", seen, w), atol=1e-12)
    g = rng.standard_normal(y.shape)
    grad = schuss.jit(lambda x, w, g: schuss.vjp(lambda w: convolved(x, w), w)[1](g)[0])
    found = grad(*map(schuss.tensor, (x, w, g))).numpy()
    np.testing.assert_allclose(found, np.einsum("nchwij,nohw->ocij", seen, g), atol=1e-12)


def test_gaps_between_single_taps_are_never_packed():
    x, w = schuss.zeros((2, 64, 8, 8)), schuss.zeros((96, 64, 1, 1))
    shown = str(
        schuss.compiler.show(lambda x, w: schuss.nn.functional.conv2d(x, w, stride=2), x, w)
    )
    assert "cut=((0, 2, 1), (0, 4, 2), (0, 4, 2), (0, 64, 1))" in shown
    assert "Axis(size=4, outputs=4, kernel=1" in shown
