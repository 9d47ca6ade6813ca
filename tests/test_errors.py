"""How errors are worded, and where they say that they happened."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import schuss
from schuss import errors
from schuss.context import context
from schuss.errors import SchussError, describe, describe_location, fail, require, user_location


def line() -> int:
    return inspect.currentframe().f_back.f_lineno


KINDS = {
    "ShapeError": ValueError,
    "ArgumentError": ValueError,
    "ArgumentTypeError": TypeError,
    "DTypeError": TypeError,
    "OutOfBoundsError": IndexError,
    "GradientError": RuntimeError,
    "NumericsError": FloatingPointError,
    "AllocationError": MemoryError,
    "ModuleError": AttributeError,
    "StateDictError": ValueError,
    "FileFormatError": ValueError,
    "MissingDependencyError": ImportError,
}


def test_every_kind_is_one_of_pythons_kinds_too() -> None:
    defined = [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, SchussError) and each is not SchussError
    ]
    for each in defined:
        assert len(each.__bases__) == 2 or each.__base__ is not SchussError
        assert each.__doc__
    for name, base in KINDS.items():
        assert issubclass(getattr(errors, name), base)


def test_form_of_a_message() -> None:
    x = schuss.ones((2, 3))
    made = line() + 1
    error = fail(errors.ShapeError, "op", "what is wrong", x=x, axis=1, name="a", hint="do this")
    assert isinstance(error, errors.ShapeError)
    assert str(error) == (
        "op: what is wrong\n  x: (2, 3) float32\n  axis: 1\n  name: 'a'\n"
        f"  at: {__file__}:{made}\n  hint: do this"
    )


def test_scope_stands_in_the_message() -> None:
    class Scope:
        def path(self) -> str:
            return "LeNet.head (Linear)"

    context.scope = Scope()
    try:
        message = str(fail(errors.ShapeError, "op", "wrong"))
    finally:
        context.scope = None
    assert "  in: LeNet.head (Linear)\n" in message
    assert "other" in str(fail(errors.ShapeError, "op", "wrong", scope="other"))


def test_describe() -> None:
    assert describe(np.ones((2, 1), np.int8)) == "(2, 1) int8"
    assert describe(schuss.ones(3)) == "(3,) float32"
    assert describe("text") == "'text'"
    assert describe([1]) == "[1]"


def test_describing_computes_nothing() -> None:
    x = schuss.ones(3) + 1
    describe(x)
    assert x._node.value is None


def test_the_line_is_the_users_even_deep_inside() -> None:
    with pytest.raises(errors.ShapeError) as caught:
        schuss.einsum("ij,jk->ik", np.ones((2, 3)), np.ones((4, 5)))
    assert f"at: {__file__}:{line() - 1}" in str(caught.value)


def test_the_line_within_a_long_statement() -> None:
    first = line()
    with pytest.raises(errors.ShapeError) as caught:
        schuss.where(
            schuss.ones(2) > 0,
            schuss.ones(2) + schuss.ones(3),  # here
            schuss.ones(2),
        )
    assert f"at: {__file__}:{first + 4}\n" in str(caught.value) + "\n"


def test_user_location_of_a_lambda() -> None:
    where = (lambda: user_location())()
    assert describe_location(where) == f"{__file__}:{line() - 1}"
    assert describe_location(None) == "unknown line"


def test_require() -> None:
    assert require("math", "x", "counting") is not None
    with pytest.raises(
        errors.MissingDependencyError, match="plots: needs the package no_such_package"
    ) as caught:
        require("no_such_package.part", "plot", "plots")
    assert "hint: pip install 'schuss[plot]'" in str(caught.value)
    assert isinstance(caught.value.__cause__, ImportError)


def test_errors_can_be_caught_as_what_they_are_in_python() -> None:
    with pytest.raises(ValueError, match="do not broadcast"):
        schuss.ones(2) + schuss.ones(3)
    with pytest.raises(IndexError):
        schuss.ones(2)[2]
    with pytest.raises(TypeError):
        schuss.ones(2) & 1
