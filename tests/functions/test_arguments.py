"""What may be passed where a tensor is meant, and how renamed arguments are answered."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss.errors import ArgumentTypeError, DTypeError
from schuss.functions.arguments import (
    adopt,
    array_api_names,
    as_tensor,
    cast,
    number,
    operands,
    same,
)


def test_adopt_takes_the_array_as_it_is() -> None:
    source = np.arange(3.0)
    x = adopt(source)
    assert np.shares_memory(x.numpy(), source)
    assert source.flags.writeable, "the caller's own view stays writable"
    assert not x.numpy().flags.writeable


def test_adopt_turns_bytes_around() -> None:
    x = adopt(np.array([1, 2], ">i4"))
    assert x.dtype == schuss.int32
    assert x.dtype.isnative
    assert x.tolist() == [1, 2]


def test_adopt_takes_numpy_scalars() -> None:
    x = adopt(np.ones(()) * 2)
    assert type(x.numpy()) is np.ndarray
    assert x.item() == 2


def test_as_tensor() -> None:
    x = schuss.ones(2)
    assert as_tensor(x) is x
    assert as_tensor(3).dtype == schuss.int64
    assert as_tensor(np.float64(3)).dtype == schuss.float64
    with pytest.raises(ArgumentTypeError, match="place: cannot make a tensor of str"):
        as_tensor("a", "place")
    with pytest.raises(DTypeError, match="place: 9223372036854775808 does not fit into int64"):
        as_tensor(2**63, "place")


def test_operands_meet_in_one_dtype() -> None:
    a, b, c = operands("f", schuss.ones(1, dtype=schuss.int8), 2.5, np.ones(1, np.float16))
    assert a.dtype == b.dtype == c.dtype == schuss.float16


def test_number_has_to_fit() -> None:
    assert number("f", True, schuss.float32).item() == 1
    with pytest.raises(DTypeError, match="f: 1j does not fit into float32"):
        number("f", 1j, schuss.float32)


def test_cast_and_same() -> None:
    x = schuss.ones(2)
    assert cast(x, schuss.float32) is x
    y = same(x)
    assert y is not x
    assert y._node is x._node
    x.requires_grad = True
    assert not same(x).is_leaf
    assert same(x).requires_grad


def test_other_names_are_answered() -> None:
    @array_api_names
    def function(x, axis=0, keepdims=False):
        """Doc."""
        return axis

    assert function(1, axis=2) == 2
    assert function.__doc__ == "Doc."
    with pytest.raises(
        ArgumentTypeError, match="function: the argument 'dim' is called 'axis' here"
    ) as e:
        function(1, dim=-1)
    assert "hint: write axis=-1" in str(e.value)
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        function(1, other=2)
