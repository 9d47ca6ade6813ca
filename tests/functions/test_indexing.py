"""`x[key]` and `x[key] = value` against NumPy, and the named ways to take elements."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import schuss
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    DTypeError,
    OutOfBoundsError,
    ShapeError,
)

Rng = np.random.Generator


# --- random keys ---


def random_slice(rng: Rng, n: int) -> slice:
    ends = [None, *range(-n - 2, n + 3)]
    start, stop = (ends[rng.integers(len(ends))] for _ in range(2))
    step = [None, 1, 2, 3, -1, -2, -3][rng.integers(7)]
    return slice(start, stop, step)


def random_index_array(rng: Rng, n: int, shape: tuple[int, ...]) -> Any:
    made = rng.integers(-n, n, shape)
    return made.tolist() if rng.random() < 0.3 else made


def random_key(rng: Rng) -> tuple[tuple[int, ...], Any]:
    """A shape and a key that NumPy accepts for it."""
    shape = tuple(int(n) for n in rng.integers(1, 5, rng.integers(1, 5)))
    lead = tuple(int(n) for n in rng.integers(1, 4, rng.integers(0, 3)))
    parts: list[Any] = []
    axis, masked = 0, False
    while axis < len(shape) and rng.random() < 0.85:
        n = shape[axis]
        kind = rng.integers(7)
        if kind == 0:
            parts.append(int(rng.integers(-n, n)))
        elif kind in (1, 2):
            parts.append(random_slice(rng, n))
        elif kind == 3:
            parts.append(None)
            continue
        elif kind in (4, 5) and not masked:
            # Some of the axes of `lead`, some of them 1, so that index arrays have to broadcast.
            own = tuple(m if rng.random() < 0.7 else 1 for m in lead[rng.integers(len(lead) + 1) :])
            parts.append(random_index_array(rng, n, own))
        elif kind == 6 and not masked and not any(is_array(part) for part in parts):
            masked = True
            width = int(rng.integers(1, len(shape) - axis + 1))
            parts.append(rng.random(shape[axis : axis + width]) < 0.5)
            axis += width
            continue
        else:
            parts.append(slice(None))
        axis += 1
    if rng.random() < 0.3:
        parts.insert(int(rng.integers(len(parts) + 1)), Ellipsis)
    if len(parts) == 1 and rng.random() < 0.5:
        return shape, parts[0]
    return shape, tuple(parts)


def is_array(part: Any) -> bool:
    return isinstance(part, (np.ndarray, list))


def known_to_numpy(x: np.ndarray, key: Any) -> bool:
    """An `...` put between a mask and its axes can make a key wrong."""
    try:
        x[key]
    except IndexError:
        return False
    return True


def cases(seed: int, count: int) -> list[tuple[np.ndarray, Any]]:
    rng = np.random.default_rng(seed)
    made = []
    while len(made) < count:
        shape, key = random_key(rng)
        x = rng.standard_normal(shape)
        if known_to_numpy(x, key):
            made.append((x, key))
    return made


def test_random_keys_read_as_numpy_reads_them() -> None:
    for x, key in cases(0, 500):
        expected = x[key]
        found = schuss.tensor(x)[key]
        assert found.shape == np.shape(expected), (x.shape, key)
        np.testing.assert_array_equal(found.numpy(), expected, err_msg=repr((x.shape, key)))


def test_random_keys_with_tensors_in_them() -> None:
    for x, key in cases(1, 200):
        parts = key if isinstance(key, tuple) else (key,)
        wrapped = tuple(
            schuss.tensor(part) if isinstance(part, np.ndarray) else part for part in parts
        )
        np.testing.assert_array_equal(schuss.tensor(x)[wrapped].numpy(), x[parts])


def test_random_keys_write_as_numpy_writes_them() -> None:
    rng = np.random.default_rng(2)
    for x, key in cases(3, 500):
        place = np.shape(x[key])
        keep = place[int(rng.integers(len(place) + 1)) :]
        shape = tuple(n if rng.random() < 0.7 else 1 for n in keep)
        value = rng.standard_normal(shape)
        expected = x.copy()
        expected[key] = value
        y = schuss.tensor(x)
        old = y[...]
        y[key] = schuss.tensor(value)
        np.testing.assert_array_equal(y.numpy(), expected, err_msg=repr((x.shape, key, shape)))
        np.testing.assert_array_equal(old.numpy(), x)


def test_gradients_through_random_keys() -> None:
    for x, key in cases(4, 60):
        place = np.shape(x[key])
        schuss.check_gradients(lambda t, key=key: t[key] ** 2, [x], directions=1)

        def write(t, v, key=key):
            t = t * 1.0
            t[key] = v
            return t**2

        schuss.check_gradients(write, [x, np.ones(place)], directions=1)


# --- by hand ---


def test_of_duplicates_the_last_one_stays() -> None:
    x = schuss.zeros(3)
    x[[0, 1, 0]] = schuss.tensor([1.0, 2.0, 3.0])
    assert x.tolist() == [3, 2, 0]


def test_gradient_of_duplicates() -> None:
    read = schuss.grad(lambda x: (x[[0, 1, 0]] * schuss.tensor([1.0, 2.0, 4.0])).sum())
    assert read(schuss.zeros(3)).tolist() == [5, 2, 0]

    def write(v):
        x = schuss.zeros(3)
        x[[0, 1, 0]] = v
        return (x * schuss.tensor([1.0, 10.0, 100.0])).sum()

    assert schuss.grad(write)(schuss.ones(3)).tolist() == [0, 10, 1]


def test_add_at_an_index_counts_each_place_once() -> None:
    """As in NumPy: `x[i] += v` reads, adds and writes."""
    x = schuss.zeros(3)
    x[[0, 0, 1]] += 1
    assert x.tolist() == [1, 1, 0]


def test_mask_of_the_whole_shape() -> None:
    x = schuss.arange(6).reshape(2, 3)
    x[x > 3] = 0
    assert x.tolist() == [[0, 1, 2], [3, 0, 0]]
    x[x == 0] = schuss.tensor([7, 8, 9])
    assert x.tolist() == [[7, 1, 2], [3, 8, 9]]
    assert x[x > 100].shape == (0,)


@pytest.mark.parametrize("truth", [True, False, np.True_, np.False_])
def test_scalar_masks(truth) -> None:
    x = np.arange(3.0)
    for key in (truth, schuss.tensor(bool(truth))):
        np.testing.assert_array_equal(schuss.tensor(x)[key].numpy(), x[truth])
        y, expected = schuss.tensor(x), x.copy()
        y[key] = 5
        expected[truth] = 5
        np.testing.assert_array_equal(y.numpy(), expected)


def test_scalars() -> None:
    x = schuss.tensor(3.0)
    assert x[()].item() == 3
    assert x[...].item() == 3
    assert x[None].shape == (1,)
    x[()] = 4
    assert x.item() == 4
    x[x > 3] = 5
    assert x.item() == 5


def test_empty_axes() -> None:
    x = schuss.zeros((0, 3))
    assert x[:, 1].shape == (0,)
    assert x[[]].shape == (0, 3)
    assert x[::-1].shape == (0, 3)
    x[:] = 1
    assert x.shape == (0, 3)


def test_a_slice_keeps_the_old_values() -> None:
    x = schuss.arange(4)
    whole, part, same = x[:], x[1:], x
    x[1] = 10
    x += 1
    assert whole.tolist() == [0, 1, 2, 3]
    assert part.tolist() == [1, 2, 3]
    assert same is x
    assert x.tolist() == [1, 11, 3, 4]
    whole += 5
    assert x.tolist() == [1, 11, 3, 4]


def test_values_are_cast_to_the_dtype_of_the_tensor() -> None:
    x = schuss.zeros(3, dtype=schuss.int32)
    x[0] = 2.9
    x[1] = True
    x[2] = schuss.tensor(7)
    assert x.dtype == schuss.int32
    assert x.tolist() == [2, 1, 7]
    y = schuss.zeros(2)
    y[:] = schuss.tensor([1, 2], dtype=schuss.int8)
    assert y.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (300, schuss.int8, "300 does not fit into int8"),
        (-1, schuss.uint8, "-1 does not fit into uint8"),
        (1j, schuss.float32, "1j does not fit into float32"),
        (float("nan"), schuss.int32, "nan does not fit into int32"),
        (float("inf"), schuss.int32, "inf does not fit into int32"),
        ([1.5, 2.5], schuss.int64, "float32 does not fit into int64"),
        (np.array([1.5]), schuss.float32, "float64 does not fit into float32"),
    ],
)
def test_values_that_do_not_fit(value, dtype, message) -> None:
    x = schuss.zeros(2, dtype=dtype)
    with pytest.raises(DTypeError, match=message):
        x[:] = value
    assert x.tolist() == [0, 0]


def test_an_ellipsis_of_no_axes_still_separates_arrays() -> None:
    x = np.arange(12).reshape(3, 4)
    key = (None, [0, 2], ..., [1, 3])
    assert schuss.tensor(x)[key].tolist() == x[key].tolist()
    y = schuss.tensor(x)
    y[key] = schuss.tensor([[-1], [-2]])
    assert y[0, 1].item() == -1
    assert y[2, 3].item() == -2


def test_values_may_have_axes_of_size_one_in_front() -> None:
    x = schuss.zeros((2, 3))
    x[0] = schuss.tensor([[[1.0, 2.0, 3.0]]])
    x[1, [0, 1]] = schuss.tensor([[4.0, 5.0]])
    assert x.tolist() == [[1, 2, 3], [4, 5, 0]]


def test_value_of_another_shape() -> None:
    x = schuss.zeros((2, 3))
    with pytest.raises(ShapeError, match=r"assignment: the value does not broadcast to \(3,\)"):
        x[0] = schuss.ones(2)


# --- errors ---


def test_integer_out_of_bounds_names_value_axis_and_line() -> None:
    x = schuss.zeros((2, 3))
    line = inspect.currentframe().f_lineno + 2
    with pytest.raises(OutOfBoundsError, match="index 3 is outside axis 1 of size 3") as caught:
        x[0, 3]
    assert f"at: {__file__}:{line}" in str(caught.value)
    assert isinstance(caught.value, IndexError)
    with pytest.raises(OutOfBoundsError, match="index -3 is outside axis 0 of size 2"):
        x[-3]
    with pytest.raises(OutOfBoundsError, match="index 5 is outside axis 0"):
        x[5] = 1


def test_index_array_out_of_bounds_names_value_axis_and_line() -> None:
    x = schuss.zeros((2, 3))
    line = inspect.currentframe().f_lineno + 1
    y = x[:, schuss.tensor([0, -4])]
    with pytest.raises(
        OutOfBoundsError, match="index -4 is outside axis 1: allowed are from -3 to 2"
    ) as e:
        y.numpy()
    assert f"at: {__file__}:{line}" in str(e.value)
    with pytest.raises(OutOfBoundsError, match="allowed are none, the axis is empty"):
        schuss.zeros((0,))[[0]].numpy()


def test_write_out_of_bounds() -> None:
    x = schuss.zeros(3)
    x[[3]] = 1
    with pytest.raises(OutOfBoundsError, match="scatter: index 3 is outside axis 0"):
        x.numpy()


@pytest.mark.parametrize(
    ("key", "kind", "message"),
    [
        ((0, 0, 0), OutOfBoundsError, "3 indices for 2 axes"),
        ((..., ...), ArgumentTypeError, r"a key may contain one \.\.\. only"),
        ("a", ArgumentTypeError, "cannot index with str 'a'"),
        (1.0, ArgumentTypeError, "cannot index with float 1.0"),
        (slice(0.5, None), ArgumentTypeError, "bad slice"),
        (slice(None, None, 0), ArgumentTypeError, "bad slice .*: slice step cannot be zero"),
        ([0.5], DTypeError, "an index array must be of integers or booleans"),
        (
            np.ones(3, bool),
            OutOfBoundsError,
            r"a mask of shape \(3,\) stands for axes of shape \(2,\)",
        ),
        (np.ones((2, 3, 1), bool), (ShapeError, OutOfBoundsError), "mask"),
        (([0, 1], [0, 1, 2]), ShapeError, "the shapes do not broadcast"),
    ],
)
def test_wrong_keys(key, kind, message) -> None:
    x = schuss.zeros((2, 3))
    with pytest.raises(kind, match=message):
        x[key]
    with pytest.raises(kind, match=message):
        x[key] = 0


# --- named ---


def test_take() -> None:
    x = np.arange(12).reshape(3, 4)
    for axis in (0, 1, -1):
        found = schuss.take(x, [2, 0, -1], axis=axis)
        np.testing.assert_array_equal(found.numpy(), np.take(x, [2, 0, -1], axis))
    assert schuss.take([5, 6, 7], [2, 0]).tolist() == [7, 5]
    with pytest.raises(ArgumentTypeError, match="axis may be left out for 1-d input only"):
        schuss.take(x, [0])
    with pytest.raises(ArgumentTypeError, match="the argument 'dim' is called 'axis' here"):
        schuss.take(x, [0], dim=0)


def test_take_along_axis() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 4))
    for axis in (0, 1, 2, -1):
        shape = list(x.shape)
        shape[axis] = 5
        index = rng.integers(-x.shape[axis], x.shape[axis], shape)
        found = schuss.take_along_axis(x, index, axis=axis)
        np.testing.assert_array_equal(found.numpy(), np.take_along_axis(x, index, axis))
    index = rng.integers(0, 3, (1, 2, 1))
    found = schuss.take_along_axis(x, index, axis=1)
    np.testing.assert_array_equal(found.numpy(), np.take_along_axis(x, index, 1))
    with pytest.raises(ShapeError, match="indices need as many axes as x"):
        schuss.take_along_axis(x, [0])


def test_sort_and_topk() -> None:
    x = np.array([[3.0, 1, 2, 1], [0, -1, 5, 5]])
    np.testing.assert_array_equal(schuss.sort(x).numpy(), np.sort(x))
    np.testing.assert_array_equal(schuss.sort(x, axis=0).numpy(), np.sort(x, 0))
    np.testing.assert_array_equal(schuss.sort(x, descending=True).numpy(), -np.sort(-x))
    slopes = schuss.grad(lambda x: (schuss.sort(x) * schuss.arange(4)).sum())(schuss.tensor(x))
    assert slopes.tolist() == [[3, 0, 2, 1], [1, 0, 2, 3]]
    with pytest.raises(DTypeError, match="sort: is defined for real dtypes"):
        schuss.sort([1j])
    values, positions = schuss.topk(x, 2)
    assert values.tolist() == [[3, 2], [5, 5]]
    assert positions.tolist() == [[0, 2], [2, 3]]
    assert schuss.topk(x, 0)[0].shape == (2, 0)
    with pytest.raises(ShapeError, match="k must lie between 0 and 4"):
        schuss.topk(x, 5)


def test_nonzero() -> None:
    x = np.array([[0, 1], [2, 0]])
    for found, expected in zip(schuss.nonzero(x), np.nonzero(x), strict=True):
        np.testing.assert_array_equal(found.numpy(), expected)
        assert found.dtype == schuss.int64
    with pytest.raises(ShapeError, match="a scalar has no positions"):
        schuss.nonzero(schuss.tensor(1))


def test_searchsorted() -> None:
    line, values = [1.0, 2, 2, 4], [[0.0, 2], [3, 5]]
    for side in ("left", "right"):
        found = schuss.searchsorted(line, values, side=side)
        np.testing.assert_array_equal(found.numpy(), np.searchsorted(line, values, side))
    shuffled = [4.0, 1, 2, 2]
    assert schuss.searchsorted(shuffled, [2.0], sorter=[1, 2, 3, 0]).tolist() == [1]
    large = schuss.tensor([1, 2**63], dtype=schuss.uint64)
    assert schuss.searchsorted(large, 2**63).item() == 1  # a number takes the line's dtype
    with pytest.raises(ArgumentError, match="side is 'left' or 'right'"):
        schuss.searchsorted(line, values, side="middle")


def test_one_hot() -> None:
    assert schuss.one_hot([[2, 0]], 3).tolist() == [[[0, 0, 1], [1, 0, 0]]]
    assert schuss.one_hot([1], 2, dtype=schuss.int8).dtype == schuss.int8
    with pytest.raises(DTypeError, match="labels must be integers"):
        schuss.one_hot([1.0], 2)
    for bad in (2, -1):
        with pytest.raises(
            OutOfBoundsError, match=f"index {bad} is outside axis 0: allowed are from 0"
        ):
            schuss.one_hot([bad], 2).numpy()


def test_masks_without_elements_stand_for_any_sizes() -> None:
    """As the array API's tests have it, and NumPy."""
    x = schuss.arange(6).reshape(2, 3)
    assert x[schuss.zeros((0,), dtype=schuss.bool)].shape == (0, 3)
    assert x[schuss.zeros((0, 3), dtype=schuss.bool)].shape == (0,)
    with pytest.raises(IndexError, match="a mask of shape"):
        x[schuss.ones((1,), dtype=schuss.bool)]


def test_assignment_to_a_scalar_mask() -> None:
    x = schuss.tensor(1.0)
    x[schuss.tensor(False)] = schuss.zeros((0,))
    assert x.item() == 1
    x[schuss.tensor(True)] = schuss.tensor([5.0])
    assert x.item() == 5
