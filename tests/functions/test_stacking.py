"""Joining and laying out, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss.errors import ArgumentError, ShapeError

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order():
    rng.bit_generator.state = np.random.default_rng(0).bit_generator.state


def numbers(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


def test_swapaxes_and_atleast_nd() -> None:
    x = numbers(2, 3, 4)
    for pair in ((0, 1), (-1, 0), (1, 1)):
        np.testing.assert_array_equal(schuss.swapaxes(x, *pair).numpy(), np.swapaxes(x, *pair))
    assert schuss.atleast_nd(1.0, 3).shape == (1, 1, 1)
    assert schuss.atleast_nd(x, 2).shape == x.shape


@pytest.mark.parametrize("name", ["hstack", "vstack", "column_stack"])
def test_stacks(name) -> None:
    for arrays in ([numbers(3), numbers(3)], [numbers(2, 2), numbers(2, 2)]):
        found = getattr(schuss, name)(arrays)
        np.testing.assert_array_equal(found.numpy(), getattr(np, name)(arrays))
    mixed = [numbers(2, 3), numbers(2)]
    np.testing.assert_array_equal(schuss.column_stack(mixed).numpy(), np.column_stack(mixed))


@pytest.mark.parametrize("axes", [(0, 1), (2, 0), (1, -1)])
@pytest.mark.parametrize("k", [-1, 0, 1, 2, 3, 5])
def test_rot90(k, axes) -> None:
    x = numbers(2, 3, 4)
    np.testing.assert_array_equal(schuss.rot90(x, k, axes).numpy(), np.rot90(x, k, axes))


def test_block_diag() -> None:
    blocks = [numbers(2, 3), numbers(2), numbers(1, 1)]
    expected = np.zeros((4, 6))
    expected[:2, :3], expected[2, 3:5], expected[3:, 5:] = blocks
    np.testing.assert_array_equal(schuss.block_diag(*blocks).numpy(), expected)
    schuss.check_gradients(schuss.block_diag, blocks, order=1)


@pytest.mark.parametrize(
    ("a", "b"), [((2, 3), (4, 5)), ((3,), (2,)), ((2,), (3, 4)), ((2, 1, 3), (2, 2)), ((), (2,))]
)
def test_kron(a, b) -> None:
    x, y = numbers(*a), numbers(*b)
    np.testing.assert_allclose(schuss.kron(x, y).numpy(), np.kron(x, y))
    schuss.check_gradients(schuss.kron, [x, y])


def test_cartesian_prod() -> None:
    found = schuss.cartesian_prod([1, 2], [3, 4, 5])
    assert found.tolist() == [[1, 3], [1, 4], [1, 5], [2, 3], [2, 4], [2, 5]]


@pytest.mark.parametrize(("size", "step"), [(1, 1), (3, 1), (2, 2), (3, 2)])
def test_unfold(size, step) -> None:
    x = numbers(2, 7, 3)
    view = np.lib.stride_tricks.sliding_window_view(x, size, axis=1)[:, ::step]
    np.testing.assert_array_equal(schuss.unfold(x, size, step, axis=1).numpy(), view)
    schuss.check_gradients(lambda x: schuss.unfold(x, size, step, axis=1), [x])


def test_unflatten() -> None:
    x = numbers(2, 12)
    for sizes in ((3, 4), (-1, 6), (12,)):
        expected = x.reshape(2, *sizes)
        np.testing.assert_array_equal(schuss.unflatten(x, 1, sizes).numpy(), expected)


PADDING = ["edge", "reflect", "symmetric", "wrap"]


@pytest.mark.parametrize("mode", PADDING)
@pytest.mark.parametrize("widths", [((1, 2),), ((2, 0), (0, 1)), ((0, 0), (3, 2)), ((7, 9),)])
def test_pad_with_its_own_elements(mode, widths) -> None:
    x = numbers(3, 4)
    full = ((0, 0),) * (2 - len(widths)) + widths
    np.testing.assert_array_equal(schuss.pad(x, widths, mode=mode).numpy(), np.pad(x, full, mode))
    schuss.check_gradients(lambda x: schuss.pad(x, widths, mode=mode), [x])


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: schuss.rot90(numbers(2, 2), axes=(0, 0)), ArgumentError, "two different axes"),
        (lambda: schuss.block_diag(numbers(2, 2, 2)), ShapeError, "block_diag: needs matrices"),
        (lambda: schuss.unfold(numbers(3), 0), ArgumentError, "size and step are positive"),
        (lambda: schuss.unflatten(numbers(5), 0, (2, 3)), ShapeError, "5 elements do not fill"),
        (lambda: schuss.pad(numbers(3), [(1, 1)], mode="mean"), ArgumentError,
         "mode is one of constant, edge, reflect, symmetric, wrap"),
        (lambda: schuss.pad(numbers(0), [(1, 1)], mode="edge"), ShapeError, "nothing to pad with"),
    ],
)  # fmt: skip
def test_errors(call, kind, message) -> None:
    with pytest.raises(kind, match=message):
        call()
