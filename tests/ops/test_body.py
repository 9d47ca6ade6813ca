"""Bodies: pieces of graphs as values."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss.errors import TransformError
from schuss.ops.body import Type, aside, body_of, derive_once, stand_in, types_of

FLOAT = np.dtype(np.float32)


def recorded(factor: float = 2.0):  # type: ignore[no-untyped-def]
    x, w = stand_in(Type((2, 3), FLOAT)), stand_in(Type((3, 4), FLOAT))
    y = schuss.tanh(x @ w) * factor
    return body_of([y._node, x._node], [x._node, w._node])


def test_one_structure_is_one_body() -> None:
    assert recorded() is recorded()
    assert recorded(0.3) is not recorded(0.4)
    assert repr(recorded()) == "<body of 3 ops>"
    assert str(recorded()).endswith("return %5, %0")


def test_it_runs_and_is_recorded_again() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3), (3, 4))]
    expected = 2 * np.tanh(arrays[0] @ arrays[1])
    values = recorded().run(arrays)
    again = recorded()([schuss.tensor(x) for x in arrays])
    for found in (values, [y.numpy() for y in again]):
        np.testing.assert_allclose(found[0], expected, rtol=1e-6)
        np.testing.assert_array_equal(found[1], arrays[0])


def test_types_follow_from_the_inputs() -> None:
    body = recorded()
    found = body.types((Type((5, 3), FLOAT), Type((3, 1), FLOAT)))
    assert [found[i] for i in body.outputs] == [Type((5, 1), FLOAT), Type((5, 3), FLOAT)]


def test_it_ends_at_its_inputs() -> None:
    x = stand_in(Type((2,), FLOAT))
    y = schuss.exp(x)
    body = body_of([(y * 3)._node], [y._node])
    assert [step.op.name for step in body.steps] == ["multiply"]


def test_stand_ins_have_no_value() -> None:
    with pytest.raises(TransformError, match="it is not known while the function runs"):
        stand_in(Type((2,), FLOAT)).numpy()


def test_what_is_derived_is_no_part_of_the_users_graph() -> None:
    from schuss.context import context

    calls = []

    @derive_once
    def double(n: int) -> int:
        calls.append(n)
        assert context.pending == []
        stand_in(Type((n,), FLOAT))
        return 2 * n

    kept = schuss.ones((2,)) + 1
    before = list(context.pending)
    assert (double(3), double(3), calls) == (6, 6, [3])
    assert context.pending == before
    with aside():
        assert context.pending == []
    assert types_of([kept]) == (Type((2,), FLOAT),)
