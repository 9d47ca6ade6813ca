"""One node at a time on NumPy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import schuss
from schuss.errors import ArgumentError, BadValueError
from schuss.execution.reference import run
from schuss.graph import Op, apply
from schuss.ops.infer import elementwise


def make(reference) -> Op:
    return Op(
        name="probe",
        doc="",
        infer=elementwise,
        reference=reference,
        gradient=None,
        samples=lambda rng: [],
    )


def test_runs_the_reference() -> None:
    node = (schuss.tensor([1.0]) + schuss.tensor([2.0]))._node
    assert run(node).tolist() == [3]


def test_scalars_become_arrays() -> None:
    node = apply(make(lambda x: np.float64(x) * 2), schuss.tensor(1.0, dtype=schuss.float64))._node
    assert type(run(node)) is np.ndarray


@pytest.mark.usefixtures("reference_tier")
def test_a_reference_that_disagrees_with_its_rule_is_an_error_of_ours() -> None:
    x = schuss.tensor([1.0, 2.0])
    with pytest.raises(AssertionError):
        apply(make(lambda x: x[:1]), x).numpy()
    with pytest.raises(AssertionError):
        apply(make(lambda x: x.astype(np.float64)), x).numpy()


def test_bad_values_become_the_users_error() -> None:
    def refuse(x):
        raise BadValueError(ArgumentError, "is bad", "take another")

    x = apply(make(refuse), schuss.tensor([1.0, 2.0]))
    with pytest.raises(ArgumentError, match="probe: is bad") as caught:
        x.numpy()
    message = str(caught.value)
    assert "input 0: (2,) float32" in message
    assert "hint: take another" in message
    assert __file__ in message


def test_no_warnings_from_numpy() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = schuss.tensor([0.0, -1.0, 1e30])
        for y in (
            1 / x,
            schuss.log(x),
            x * x * x,
            schuss.tensor([1, 2]) // 0,
            x.astype(schuss.float16),
        ):
            y.numpy()
