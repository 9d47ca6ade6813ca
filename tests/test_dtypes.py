"""Which dtype two dtypes meet in, and what Python numbers do beside a tensor."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import schuss
from schuss import dtypes
from schuss.dtypes import as_dtype, meet_scalar, promote
from schuss.errors import ArgumentTypeError, DTypeError

# Where row and column meet; X: nowhere. From the array API standard, and floats of 16 bits.
INTEGERS = """
       i1 i2 i4 i8 u1 u2 u4 u8
    i1 i1 i2 i4 i8 i2 i4 i8 X
    i2 i2 i2 i4 i8 i2 i4 i8 X
    i4 i4 i4 i4 i8 i4 i4 i8 X
    i8 i8 i8 i8 i8 i8 i8 i8 X
    u1 i2 i2 i4 i8 u1 u2 u4 u8
    u2 i4 i4 i4 i8 u2 u2 u4 u8
    u4 i8 i8 i8 i8 u4 u4 u4 u8
    u8 X  X  X  X  u8 u8 u8 u8
"""
FLOATS = """
        f2  bf  f4  f8  c8  c16
    f2  f2  f4  f4  f8  c8  c16
    bf  f4  bf  f4  f8  c8  c16
    f4  f4  f4  f4  f8  c8  c16
    f8  f8  f8  f8  f8  c16 c16
    c8  c8  c8  c8  c16 c8  c16
    c16 c16 c16 c16 c16 c16 c16
"""


def table(text: str) -> list[tuple[np.dtype, np.dtype, np.dtype | None]]:
    def named(code: str) -> np.dtype | None:
        return {"bf": dtypes.bfloat16, "X": None}.get(code) or (
            None if code == "X" else np.dtype(code)
        )

    head, *rows = [line.split() for line in text.strip().splitlines()]
    return [
        (named(row[0]), named(column), named(met))
        for row in rows
        for column, met in zip(head, row[1:], strict=True)
    ]


@pytest.mark.parametrize("text", [INTEGERS, FLOATS], ids=["integers", "floats"])
def test_within_a_kind(text: str) -> None:
    for a, b, met in table(text):
        if met is None:
            with pytest.raises(DTypeError, match="have no common integer type"):
                promote(a, b)
        else:
            assert promote(a, b) == met, (a, b)
            x, y = schuss.ones(1, dtype=a), schuss.ones(1, dtype=b)
            assert (x + y).dtype == met
            assert (y * x).dtype == met


def test_across_kinds_the_wider_kind_wins() -> None:
    for whole, floating in itertools.product((dtypes.bool_, *dtypes.INTEGRAL), dtypes.FLOATING):
        assert promote(whole, floating) == promote(floating, whole) == floating
    for whole, c in itertools.product((dtypes.bool_, *dtypes.INTEGRAL), dtypes.COMPLEX):
        assert promote(whole, c) == c
    for whole in dtypes.INTEGRAL:
        assert promote(dtypes.bool_, whole) == whole


def test_promotion_commutes_and_associates_but_for_uint64() -> None:
    plain = [each for each in dtypes.ALL if each != dtypes.uint64]
    for a, b, c in itertools.product(plain, repeat=3):
        assert promote(a, b) == promote(b, a)
        assert promote(promote(a, b), c) == promote(a, promote(b, c)) or dtypes.is_floating(
            promote(a, b, c)
        )


def test_uint64_with_a_signed_integer() -> None:
    a, b = schuss.ones(1, dtype=schuss.uint64), schuss.ones(1, dtype=schuss.int64)
    with pytest.raises(DTypeError, match="uint64 and int64 have no common integer type") as caught:
        a + b
    assert "hint: cast one of them with astype" in str(caught.value)
    assert __file__ in str(caught.value)


def test_python_scalars_take_the_dtype_of_the_tensor() -> None:
    for dtype in dtypes.ALL:
        x = schuss.ones(2, dtype=dtype)
        assert (x * True).dtype == dtype
        assert (x * 2).dtype == (schuss.int64 if dtype == schuss.bool else dtype)
        narrow = dtype == schuss.bool or dtypes.is_integral(dtype)
        assert (x * 0.5).dtype == (schuss.float32 if narrow else dtype)
        assert (0.5 * x).dtype == (x * 0.5).dtype
        wide = dtype in (dtypes.float64, dtypes.complex128)
        assert (x * 1j).dtype == (dtypes.complex128 if wide else dtypes.complex64)


def test_two_scalars_meet_as_tensors_would() -> None:
    assert schuss.add(1, 2).dtype == schuss.int64
    assert schuss.add(1, 2.0).dtype == schuss.float32
    assert schuss.add(True, 1).dtype == schuss.int64
    assert schuss.add(1, 1j).dtype == schuss.complex64


def test_numpy_values_are_strong_but_python_like_scalars_weak() -> None:
    x = schuss.ones(2)
    assert (x + np.ones(2)).dtype == schuss.float64
    assert (x + np.float64(1)).dtype == schuss.float32, "np.float64 is a Python float"
    assert (np.ones(2) + x).dtype == schuss.float64


@pytest.mark.parametrize(
    ("dtype", "number"),
    [
        ("int8", 128),
        ("int8", -129),
        ("uint8", -1),
        ("uint8", 256),
        ("int64", 2**63),
        ("uint64", -1),
    ],
)
def test_python_integers_have_to_fit(dtype: str, number: int) -> None:
    x = schuss.ones(2, dtype=dtype)
    with pytest.raises(DTypeError, match=f"add: {number} does not fit into {dtype}") as caught:
        x + number
    assert "hint: cast with astype first" in str(caught.value)
    with pytest.raises(DTypeError, match="does not fit"):
        number < x  # noqa: B015


def test_huge_integers_are_described_not_printed() -> None:
    with pytest.raises(DTypeError, match="an integer of 5001 bits does not fit into float32"):
        schuss.ones(1) + 2**5000


def test_comparisons_are_bool_and_promote() -> None:
    a = schuss.tensor([1, 2], dtype=schuss.int8)
    b = schuss.tensor([1.0, 3.0])
    assert (a == b).tolist() == [True, False]
    assert (a < b).dtype == schuss.bool
    assert (a != 1.5).tolist() == [True, True]
    assert (a >= 2).tolist() == [False, True]
    assert (a <= 2).tolist() == [True, True]


def test_division_of_integers() -> None:
    for dtype in dtypes.INTEGRAL:
        assert (schuss.ones(1, dtype=dtype) / schuss.ones(1, dtype=dtype)).dtype == schuss.float32
        assert (schuss.ones(1, dtype=dtype) // 2).dtype == dtype


@pytest.mark.parametrize(
    "name", ["exp", "sqrt", "sin", "tanh", "sum", "max", "mean", "cumulative_sum"]
)
def test_floating_functions_keep_the_dtype(name: str) -> None:
    for dtype in dtypes.FLOATING:
        x = schuss.ones((2, 3), dtype=dtype)
        named = {"axis": 0} if name == "cumulative_sum" else {}
        assert getattr(schuss, name)(x, **named).dtype == dtype
        assert getattr(schuss, name)(x, **named).numpy().dtype == dtype


def test_as_dtype() -> None:
    assert as_dtype("bfloat16") == dtypes.bfloat16
    assert as_dtype(float) == dtypes.float32
    assert as_dtype(int) == dtypes.int64
    assert as_dtype(bool) == dtypes.bool_
    assert as_dtype(complex) == dtypes.complex64
    assert as_dtype(np.float64) == dtypes.float64
    with pytest.raises(ArgumentTypeError, match="dtype: None is not a dtype"):
        as_dtype(None)
    assert as_dtype(np.dtype(">f4")) == dtypes.float32
    for dtype in dtypes.ALL:
        assert as_dtype(dtype) is dtype or as_dtype(dtype) == dtype
        assert as_dtype(str(dtype)) == dtype


@pytest.mark.parametrize(
    "value", ["float33", "object", object, np.dtype("U3"), [], "datetime64[s]"]
)
def test_what_is_no_dtype(value) -> None:
    with pytest.raises(ArgumentTypeError, match="is not a dtype of this package") as caught:
        as_dtype(value)
    assert "hint: one of bool, int8" in str(caught.value)


def test_kinds() -> None:
    assert dtypes.is_floating(dtypes.bfloat16)
    assert dtypes.is_complex(dtypes.complex64)
    assert dtypes.is_integral(dtypes.uint8)
    assert not dtypes.is_integral(dtypes.bool_)
    assert [
        dtypes.is_differentiable(each) for each in (dtypes.float16, dtypes.int8, dtypes.complex64)
    ] == [True, False, True]
    assert dtypes.real_of(dtypes.complex64) == dtypes.float32
    assert dtypes.real_of(dtypes.complex128) == dtypes.float64
    assert dtypes.real_of(dtypes.int8) == dtypes.int8
    assert dtypes.accumulator(dtypes.bfloat16) == dtypes.float32
    assert dtypes.accumulator(dtypes.float64) == dtypes.float64


def test_meet_scalar() -> None:
    assert meet_scalar(True, dtypes.bool_) == dtypes.bool_
    assert meet_scalar(1, dtypes.bool_) == dtypes.int64
    assert meet_scalar(1.0, dtypes.float16) == dtypes.float16
    assert meet_scalar(1j, dtypes.float16) == dtypes.complex64


def test_default_dtypes() -> None:
    assert schuss.zeros(1).dtype == schuss.float32
    assert schuss.arange(2).dtype == schuss.int64
