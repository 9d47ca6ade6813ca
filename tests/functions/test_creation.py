"""Making tensors: dtypes, copies, limits."""

from __future__ import annotations

import array

import numpy as np
import pytest

import schuss
from schuss.errors import ArgumentError, ArgumentTypeError, DTypeError


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1, "int64"),
        (1.0, "float32"),
        (True, "bool"),
        (1j, "complex64"),
        ([1, 2], "int64"),
        ([1, 2.5], "float32"),
        ([True], "bool"),
        ([1j, 1], "complex64"),
        ([], "float32"),
        ([[]], "float32"),
        (np.float64(1), "float64"),
        (np.float16(1), "float16"),
        (np.arange(3, dtype=np.int8), "int8"),
        ([np.float64(1)], "float64"),
        (np.ones(2), "float64"),
        (range(3), "int64"),
        (array.array("d", [1.0]), "float32"),
        (((1, 2), (3, 4)), "int64"),
        (np.ones(2, ">f4"), "float32"),
    ],
)
def test_dtype_of_data(value, dtype: str) -> None:
    x = schuss.asarray(value)
    assert str(x.dtype) == dtype
    assert x.dtype.isnative
    np.testing.assert_array_equal(x.numpy(), np.asarray(value))


def test_explicit_dtype() -> None:
    for dtype in schuss.dtypes.ALL:
        assert schuss.tensor([0, 1], dtype=dtype).dtype == dtype
        assert schuss.tensor([0, 1], dtype=str(dtype)).dtype == dtype
    assert schuss.tensor([1.9, -1.9], dtype=int).tolist() == [1, -1]
    assert schuss.tensor(np.array([300]), dtype=schuss.uint8).tolist() == [44], (
        "NumPy's numbers wrap"
    )


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        ([1, 300], "int8", "300 does not fit into int8"),
        ([-1], "uint8", "-1 does not fit into uint8"),
        (300, "int8", "300 does not fit into int8"),
        ([float("nan")], "int32", "nan does not fit into int32"),
        ([1e30], "int64", "does not fit into int64"),
        ([1j], "float32", "complex numbers do not fit into float32"),
        (2**63, None, "9223372036854775808 does not fit into int64"),
        ([2**63], None, "9223372036854775808 does not fit into int64"),
    ],
)
def test_python_numbers_have_to_fit(value, dtype, message: str) -> None:
    with pytest.raises(DTypeError, match=message):
        schuss.tensor(value, dtype=dtype)


def test_what_is_too_large_for_a_float_is_infinite() -> None:
    assert schuss.tensor([1e300, -1e300]).tolist() == [np.inf, -np.inf]
    assert schuss.tensor(1e5, dtype=schuss.float16).item() == np.inf
    assert schuss.tensor(np.array([1e300]), dtype=schuss.float32).item() == np.inf


@pytest.mark.parametrize("value", ["abc", None, [[1], [1, 2]], {"a": 1}, object(), [2**64]])
def test_not_numbers(value) -> None:
    with pytest.raises(ArgumentTypeError, match="cannot make a"):
        schuss.tensor(value)


def test_sequences_of_tensors() -> None:
    with pytest.raises(ArgumentTypeError, match="got a sequence that contains tensors") as caught:
        schuss.tensor([schuss.ones(2), schuss.ones(2)])
    assert "schuss.stack" in str(caught.value)


def test_arrays_are_copied() -> None:
    source = np.arange(3.0)
    x, y, z = schuss.tensor(source), schuss.asarray(source), schuss.ones(3) + source
    source[:] = 9
    assert x.tolist() == [0, 1, 2]
    assert y.tolist() == [0, 1, 2]
    assert z.tolist() == [1, 2, 3]


def test_asarray_of_a_tensor() -> None:
    x = schuss.ones(2)
    assert schuss.asarray(x) is x
    assert schuss.asarray(x, copy=True) is not x
    assert schuss.asarray(x, dtype=schuss.int8).dtype == schuss.int8
    with pytest.raises(ArgumentError, match="another dtype needs a copy"):
        schuss.asarray(x, dtype=schuss.int8, copy=False)
    with pytest.raises(ArgumentError, match="a ndarray can only be copied"):
        schuss.asarray(np.ones(2), copy=False)


def test_tensor_of_a_tensor_is_a_leaf_of_its_own() -> None:
    x = schuss.ones(2)
    x.requires_grad = True
    y = schuss.tensor(x * 2)
    assert not y.requires_grad
    z = schuss.tensor(x, requires_grad=True)
    z.sum().backward()
    assert x.grad is None


def test_filled() -> None:
    assert (
        schuss.zeros(2, 3).shape
        == schuss.zeros((2, 3)).shape
        == schuss.empty([2, 3]).shape
        == (2, 3)
    )
    assert schuss.zeros(()).shape == ()
    assert schuss.ones(np.int64(2)).tolist() == [1, 1]
    assert schuss.ones(2, dtype=bool).tolist() == [True, True]
    assert schuss.full(2, 7).dtype == schuss.int64
    assert schuss.full((1, 2), 2.5).tolist() == [[2.5, 2.5]]
    assert schuss.full(2, 1, dtype=schuss.float16).dtype == schuss.float16
    like = schuss.ones((2, 1), dtype=schuss.int8)
    assert schuss.zeros_like(like).dtype == schuss.int8
    assert schuss.ones_like(like, dtype=schuss.float64).dtype == schuss.float64
    assert schuss.full_like(like, 3).tolist() == [[3], [3]]
    assert schuss.empty_like(like).shape == (2, 1)
    with pytest.raises(DTypeError, match="300 does not fit into int8"):
        schuss.full_like(like, 300)


@pytest.mark.parametrize("shape", [(-1,), (2, True), (1.5,), ("a",)])
def test_wrong_shapes(shape) -> None:
    with pytest.raises(ArgumentError, match="a shape is made of integers that are not negative"):
        schuss.zeros(shape)


@pytest.mark.parametrize(
    "args",
    [(5,), (2, 7), (7, 2), (7, 2, -2), (0,), (-3,), (0, 1, 0.25), (1.5,), (0.5, 3), (1, 0, -0.3)],
)
def test_arange(args) -> None:
    x = schuss.arange(*args)
    np.testing.assert_allclose(x.numpy(), np.arange(*args), rtol=1e-6)
    whole = all(isinstance(each, int) for each in args)
    assert x.dtype == (schuss.int64 if whole else schuss.float32)


def test_arange_has_to_fit() -> None:
    assert schuss.arange(256, dtype=schuss.uint8)[-1].item() == 255
    with pytest.raises(DTypeError, match="arange: 256 does not fit into uint8"):
        schuss.arange(300, dtype=schuss.uint8)


def test_arange_step_zero() -> None:
    with pytest.raises(ArgumentError, match="step must not be 0"):
        schuss.arange(0, 1, 0)


def test_linspace() -> None:
    for args in ((0, 1, 5), (1, -1, 4), (2, 3, 1), (0, 1, 0)):
        np.testing.assert_allclose(schuss.linspace(*args).numpy(), np.linspace(*args), rtol=1e-6)
    assert schuss.linspace(0, 1, 4, endpoint=False).tolist() == [0, 0.25, 0.5, 0.75]
    assert schuss.linspace(0, 1j, 2).dtype == schuss.complex64
    with pytest.raises(ArgumentError, match="num must not be negative"):
        schuss.linspace(0, 1, -1)


def test_eye_and_triangles() -> None:
    for args, k in (((3,), 0), ((2, 4), 1), ((4, 2), -1)):
        np.testing.assert_array_equal(schuss.eye(*args, k=k).numpy(), np.eye(*args, k=k))
    x = np.arange(24).reshape(2, 3, 4)
    for k in (-2, -1, 0, 1, 4):
        np.testing.assert_array_equal(schuss.tril(x, k=k).numpy(), np.tril(x, k))
        np.testing.assert_array_equal(schuss.triu(x, k=k).numpy(), np.triu(x, k))
    with pytest.raises(ArgumentError, match="tril: needs at least 2 axes"):
        schuss.tril(np.ones(3))


def test_meshgrid() -> None:
    lines = [np.arange(2), np.arange(3), np.arange(4)]
    for indexing in ("xy", "ij"):
        for count in (1, 2, 3):
            found = schuss.meshgrid(*lines[:count], indexing=indexing)
            for a, b in zip(found, np.meshgrid(*lines[:count], indexing=indexing), strict=True):
                np.testing.assert_array_equal(a.numpy(), b)
    with pytest.raises(ArgumentError, match="indexing is 'xy' or 'ij'"):
        schuss.meshgrid([1], indexing="yx")
    assert schuss.meshgrid() == schuss.broadcast_arrays() == []


def test_devices() -> None:
    assert str(schuss.zeros(1, device="cpu").device) == "cpu"
    with pytest.raises(ArgumentError, match="device: 'tpu' is not available") as caught:
        schuss.zeros(1, device="tpu")
    assert "hint: available: 'cpu'" in str(caught.value)


def test_from_dlpack() -> None:
    source = np.arange(3.0)
    x = schuss.from_dlpack(source)
    source[0] = 9
    assert x.tolist() == [0, 1, 2], "memory that its owner may write to is copied"
    shared = schuss.from_dlpack(source, copy=False)
    assert np.shares_memory(shared.numpy(), source)
    y = schuss.tensor([1.0, 2.0])
    assert schuss.from_dlpack(y).tolist() == [1, 2]
    assert np.shares_memory(schuss.from_dlpack(y, copy=False).numpy(), y.numpy())


def test_booleans_fit_into_every_dtype() -> None:
    for dtype in schuss.dtypes.ALL:
        assert schuss.asarray([True, False], dtype=dtype).tolist() == [1, 0]
