"""What is made of constants alone is made once, when the Program is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.compiler.test_absorb import some, with_constants

import schuss
from schuss.compiler.program import Program, compile_graph
from schuss.compiler.verify import verify


def prepared(x: Any, *wanted: Any) -> Program:
    """A program of these tensors, with everything but x constant. It gives the right values."""
    compiled = compile_graph(with_constants(x, *wanted))
    verify(compiled)
    program = Program(compiled)
    for _ in range(2):
        for found, each in zip(program.run([x.numpy()]), wanted, strict=True):
            np.testing.assert_allclose(found, each.numpy(), rtol=1e-5)
    return program


def kinds(units: list[Any]) -> list[str]:
    return [type(unit).__name__ for unit in units]


def test_sums_of_weights() -> None:
    x, w = some(30, 40), some(40, 50)
    program = prepared(x, x @ (w * 2).sum(axis=1, keepdims=True))
    assert program.compiled.once is not None
    assert kinds(program.compiled.once.units) == ["Loops"]
    assert kinds(program.compiled.units) == ["Product"]


def test_packed_weights_lie_in_lines() -> None:
    x, w = some(64, 40), some(30, 40)
    program = prepared(x, x @ w.mT)
    (product,) = program.compiled.units
    assert product.packed is not None
    assert product.packed.array.ctypes.data % 64 == 0
    assert kinds(program.compiled.once.units) == ["Pack"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int8])
@pytest.mark.parametrize(("m", "n", "k"), [(7, 33, 20), (200, 50, 300), (150, 700, 2100)])
def test_packed_products(dtype: Any, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(1)
    x, w = (
        schuss.tensor(rng.integers(-3, 4, shape).astype(dtype)) for shape in ((2, m, k), (n, k))
    )
    plain = (x.numpy().astype(np.float64) @ w.numpy().astype(np.float64).T).astype(dtype)
    program = Program(compile_graph(with_constants(x, x @ w.mT)))
    assert kinds(program.compiled.once.units) == ["Pack"]
    (found,) = program.run([x.numpy()])
    np.testing.assert_array_equal(found, plain)


def test_batches_of_weights() -> None:
    x, w = some(3, 64, 20), some(3, 30, 20)
    program = prepared(x, x @ w.mT)
    assert kinds(program.compiled.once.units) == ["Pack"]


def test_weights_that_are_read_in_place_are_not_copied() -> None:
    x, w = some(64, 40), some(40, 32)
    program = prepared(x, x @ w)
    assert program.compiled.once is None


def test_constants_that_are_not_needed_again_are_let_go() -> None:
    x, w, bias = some(64, 40), some(30, 40), some(30)
    graph = with_constants(x, x @ w.mT + bias)
    kept = [value.array for value in graph.inputs if value.array is not None]
    Program(compile_graph(graph))
    left = [value.array.size for value in graph.inputs if value.array is not None]
    assert [each.size for each in kept] == [1200, 30]
    assert left == [0, 30]


def test_a_result_may_be_constant() -> None:
    x, w = some(4, 3), some(3, 5)
    doubled = w * 2
    program = prepared(x, doubled, x @ doubled, w.mT)
    assert "Loops" in kinds(program.compiled.units)


def test_on_the_host() -> None:
    x, w = some(5, 5), some(5, 5)
    prepared(x, schuss.linalg.solve(x + 4 * schuss.eye(5), w))
    prepared(x, x @ schuss.linalg.inv(w + 4 * schuss.eye(5)))
