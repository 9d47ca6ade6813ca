"""Convolutions of 3 x 3 by minimal filtering, from the graph to the result."""

import numpy as np
import pytest

import schuss
from schuss.compiler.convolution import winograd
from schuss.compiler.geometry import UNIT, forward_axis, input_axis


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
    shapes = (3, 32, 9, 10), (48, 32, 3, 3), (3, 48, 9, 10)
    halves = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    near = results(*halves, 1)
    for found, expected in zip(near, results(*[x.astype(float) for x in halves], 1), strict=True):
        error = np.abs(found.astype(float) - expected)
        eps = float(schuss.finfo(dtype).eps)
        assert (error <= 0.51 * eps * np.abs(expected) + 1e-5 * np.abs(expected).max()).all()


def test_what_is_filtered_minimally():
    forward, backward = forward_axis(16, 3, 1, 1, 1, 16), input_axis(16, 3, 1, 1, 1, 16)

    def applies(dtype=schuss.float32, images=8, channels=32, outputs=32, axis=forward, other=None):
        return winograd.applies(dtype, images, channels, outputs, (UNIT, axis, other or axis))

    assert applies()
    assert applies(axis=backward)
    assert applies(dtype=schuss.bfloat16)
    assert not applies(other=backward)
    assert not applies(dtype=schuss.float64)
    assert not applies(channels=33)
    assert not applies(channels=16)
    assert not applies(axis=forward_axis(16, 3, 2, 1, 1, 8))
    assert not applies(axis=forward_axis(16, 3, 1, 2, 2, 16))
    assert not applies(axis=forward_axis(16, 5, 1, 2, 1, 16))
    assert not applies(images=1, axis=forward_axis(4, 3, 1, 1, 1, 4))
