"""Axes of convolutions, and of their gradients for the input, written out."""

from __future__ import annotations

import numpy as np
import pytest

from schuss.compiler.geometry import forward_axis, input_axis

SPANS = [
    (7, 3, 1, 1, 1), (8, 3, 2, 1, 1), (9, 1, 3, 0, 1), (5, 2, 3, 4, 1), (10, 4, 2, 1, 3),
    (6, 3, 2, 2, 2), (4, 1, 5, 2, 1), (1, 1, 1, 0, 1),
]  # fmt: skip


def count_of(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def matrix(axis: object) -> np.ndarray:
    """Which input positions (columns) each output adds up, with the number of the tap + 1."""
    found = np.zeros((axis.outputs, axis.size), int)
    for phase in axis.phases:
        for i in range(phase.outputs):
            for t in range(phase.taps):
                place = phase.place + t * phase.place_step + i * phase.move
                assert (t in phase.inside(i, axis.size)) == (0 <= place < axis.size)
                if 0 <= place < axis.size:
                    row = phase.first + phase.every * i
                    found[row, place] += 1 + phase.tap + t * phase.tap_step
    return found


@pytest.mark.parametrize("span", SPANS)
def test_an_axis_meets_the_taps_of_its_windows(span: tuple[int, ...]) -> None:
    size, kernel, stride, padding, dilation = span
    count = count_of(*span)
    axis = forward_axis(size, kernel, stride, padding, dilation, count)
    expected = np.zeros((count, size), int)
    for i in range(count):
        for k in range(kernel):
            place = i * stride + k * dilation - padding
            if 0 <= place < size:
                expected[i, place] += 1 + k
    np.testing.assert_array_equal(matrix(axis), expected)
    assert axis.meetings == np.count_nonzero(expected)


@pytest.mark.parametrize("span", SPANS)
def test_the_gradient_for_the_input_is_the_transpose(span: tuple[int, ...]) -> None:
    size, kernel, stride, padding, dilation = span
    count = count_of(*span)
    forward = forward_axis(size, kernel, stride, padding, dilation, count)
    backward = input_axis(size, kernel, stride, padding, dilation, count)
    np.testing.assert_array_equal(matrix(backward), matrix(forward).T)


@pytest.mark.parametrize("span", SPANS)
def test_reach_covers_all_that_is_looked_at(span: tuple[int, ...]) -> None:
    size, kernel, stride, padding, dilation = span
    for axis in (
        forward_axis(size, kernel, stride, padding, dilation, count_of(*span)),
        input_axis(size, kernel, stride, padding, dilation, count_of(*span)),
    ):
        for phase in axis.phases:
            for i in range(phase.outputs):
                for t in range(phase.taps):
                    place = phase.place + t * phase.place_step + i * phase.move - axis.lowest
                    assert 0 <= place < axis.reach(axis.most)
