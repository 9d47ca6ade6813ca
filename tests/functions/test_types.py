"""Questions about dtypes."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss import dtypes
from schuss.errors import ArgumentError
from schuss.execution.tiers import using


def test_finfo() -> None:
    assert schuss.finfo(schuss.float32).eps == np.finfo(np.float32).eps
    assert schuss.finfo("float16").max == 65504
    assert schuss.finfo(schuss.bfloat16).eps == 2**-7
    assert schuss.finfo(schuss.bfloat16).bits == 16
    assert schuss.finfo(schuss.complex64).dtype == schuss.float32
    assert schuss.finfo(schuss.ones(1)).smallest_normal == 2.0**-126
    with pytest.raises(ArgumentError, match="int8 is not a floating dtype"):
        schuss.finfo(schuss.int8)


def test_iinfo() -> None:
    assert (schuss.iinfo(schuss.int8).min, schuss.iinfo(schuss.int8).max) == (-128, 127)
    assert schuss.iinfo(schuss.ones(1, dtype=schuss.uint64)).max == 2**64 - 1
    with pytest.raises(ArgumentError, match="float32 is not an integer dtype"):
        schuss.iinfo(schuss.float32)


def test_isdtype() -> None:
    kinds = {
        "bool": ["bool"], "signed integer": ["int8", "int64"], "unsigned integer": ["uint8"],
        "integral": ["int8", "uint64"], "real floating": ["float16", "bfloat16", "float64"],
        "complex floating": ["complex64"], "numeric": ["int8", "float32", "complex128"],
    }  # fmt: skip
    for kind, names in kinds.items():
        assert all(schuss.isdtype(name, kind) for name in names), kind
    assert not schuss.isdtype("bool", "numeric")
    assert schuss.isdtype(schuss.int8, ("bool", "integral"))
    assert schuss.isdtype(schuss.int8, schuss.int8)
    assert not schuss.isdtype(schuss.int8, schuss.int16)


def test_result_type() -> None:
    assert schuss.result_type(schuss.int64, schuss.float32) == schuss.float32
    assert schuss.result_type(schuss.ones(1, dtype=schuss.float16), 1.5) == schuss.float16
    assert schuss.result_type(1, 2.0) == schuss.float32
    assert schuss.result_type(schuss.int8, 1.0) == schuss.float32
    assert schuss.result_type(schuss.int8, True) == schuss.int8


def test_can_cast_agrees_with_promotion() -> None:
    assert schuss.can_cast(schuss.int8, schuss.int16)
    assert not schuss.can_cast(schuss.int16, schuss.int8)
    assert schuss.can_cast(schuss.int64, schuss.float32)
    assert not schuss.can_cast(schuss.float64, schuss.float32)
    assert not schuss.can_cast(schuss.uint64, schuss.int64)
    assert all(schuss.can_cast(each, each) for each in dtypes.ALL)


@pytest.mark.parametrize("tier", ["reference", "compiled"])
def test_doubles_are_rounded_to_bfloat16_once(tier: str) -> None:
    """Beside the middle of two numbers, a rounding to float32 first would lead to the middle."""
    rng = np.random.default_rng(0)
    low = np.concatenate([rng.integers(128, 256, 200) / 64.0, [2.0**127, 2.0**-120]])
    unit = 2.0 ** (np.floor(np.log2(low)) - 7)
    for side, expected in ((-1, low), (1, low + unit)):
        x = (low + unit / 2) * (1 + side * 2.0**-40)
        for sign in (-1, 1):
            with using(tier):
                cast = schuss.tensor(sign * x).astype(schuss.bfloat16).astype(schuss.float64)
                made = schuss.tensor(sign * x, dtype=schuss.bfloat16).astype(schuss.float64)
                np.testing.assert_array_equal(cast.numpy(), sign * expected)
                np.testing.assert_array_equal(made.numpy(), sign * expected)
    special = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e300, -1e300, 1e-300, 3.4e38])
    with using(tier):
        found = schuss.tensor(special).astype(schuss.bfloat16).astype(schuss.float64).numpy()
    expected = [np.inf, -np.inf, np.nan, 0.0, -0.0, np.inf, -np.inf, 0.0, np.inf]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found[3:5]), [False, True])
