"""Loads that do not lie along the vectors: strided, reversed, transposed."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import compiler
from schuss.compiler.cpu.crossing import crossing_axis, straightened, turned
from schuss.compiler.cpu.host import host
from schuss.compiler.cpu.library import Source, compile_kernels
from schuss.compiler.cpu.tiles import print_transposed
from schuss.compiler.fuse import fuse
from schuss.compiler.kernel import Kernel
from schuss.compiler.simplify import simplify
from schuss.compiler.units import Loops

from ..graphs import agree, filled, numbers, recorded

DTYPES = [np.float32, np.float64, np.int8, np.int16, np.int64, np.float16, np.bool_]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHUSS_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "kernels"))


def kernel_of(tensor: Any) -> Kernel:
    (unit,) = fuse(simplify(recorded(tensor)))
    assert isinstance(unit, Loops)
    return unit.kernel


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_every_so_many_th_element(dtype: Any) -> None:
    x = numbers(333, dtype=dtype)
    steps = (-9, -8, -3, -2, -1, 2, 3, 4, 8, 9)

    def all_steps(x: Any) -> list[Any]:
        return [schuss.where(x[::step] == x[::step], x[::step], x[:1]) for step in steps]

    agree(all_steps, x)


def test_small_steps_need_no_gather() -> None:
    x = schuss.tensor(np.ones((4, 192), np.float32))
    for step, gathers in ((-1, False), (2, False), (-3, False), (9, True)):
        text = compiler.show(
            lambda x, step=step: x[:, ::step][:, :16] + x[:, 16:32], x, stages=("llvm",)
        )
        assert ("gather" in text) == gathers


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("shape", [(40, 133), (4, 4), (17, 33), (9, 5), (1, 70), (70, 1)])
def test_transposed_operands(dtype: Any, shape: tuple[int, int]) -> None:
    x, y = numbers(*shape, dtype=dtype), numbers(*shape[::-1], dtype=dtype, seed=1)
    agree(lambda x, y: (x.T + y, y == x[::-1].T, y == x[:, ::-1].T), x, y)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))), ids=str)
def test_permuted_operands(axes: tuple[int, ...]) -> None:
    x = numbers(5, 12, 37, dtype=np.float64)
    y = numbers(*[x.shape[axis] for axis in axes], dtype=np.float64, seed=1)
    agree(lambda x, y: schuss.permute_dims(x, axes) * 2 + y.sum(axis=-1, keepdims=True), x, y)


def test_nothing_outside_of_a_tile_is_read() -> None:
    """The rows of a tile are those of its memory; what lies between them is not touched."""
    n = host().lanes(schuss.float32)
    name = "transposed_for_a_test"
    text, needs = print_transposed(f"@{name}", 32, n, n)
    text = text.replace("define internal", "define")
    address = compile_kernels([Source("\n".join([*sorted(needs), text]), (name,))])[name]
    import ctypes

    run = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p])
    source = np.arange(n * 50, dtype=np.int32).reshape(n, 50)
    for rows, columns in ((n, n), (3, n), (n, 3), (2, 1)):
        target = np.full((n, n), -1, np.int32)
        part = np.ascontiguousarray(source[:rows, :columns])
        run(address)(part.ctypes.data, columns, rows, columns, target.ctypes.data)
        np.testing.assert_array_equal(target[:columns, :rows], part.T)


def test_sums_of_transposes_go_the_other_way_round() -> None:
    x = filled(40, 300)
    for axis, inner in ((1, True), (0, False)):
        kernel = kernel_of(x.T.sum(axis=axis))
        assert bool(kernel.inner) != inner
        assert bool(turned(kernel).inner) == inner
        assert crossing_axis(turned(kernel)) is None
    straight = kernel_of(x.sum(axis=1))
    assert turned(straight) is straight


def test_reductions_of_transposes() -> None:
    for shape in ((40, 333), (17, 5), (4, 4)):
        x = numbers(*shape, dtype=np.float64)
        y = numbers(*shape[::-1], dtype=np.float64, seed=1)
        agree(lambda x, y: (x.T.sum(axis=1), x.T.sum(axis=0), (x.T * y).max(axis=1)), x, y)
        agree(lambda x, y: (schuss.argmax(x.T, axis=1), schuss.argmax(x.T + y, axis=0)), x, y)
        agree(lambda x, y: schuss.softmax(x.T + y, axis=-1), x, y)


def test_what_crosses_in_the_end_is_copied_first() -> None:
    x = numbers(260, 130, dtype=np.float64)
    y = numbers(130, 260, dtype=np.float64, seed=1)
    kernel = kernel_of((schuss.tensor(x).T * schuss.tensor(y)).sum(axis=1))
    copies, straight = straightened(turned(kernel))
    assert [each.sizes for each in copies] == [(130, 260)]
    assert crossing_axis(straight) is None
    agree(lambda x, y: ((x.T * y).sum(axis=1), schuss.softmax(x.T * y, axis=-1)), x, y)
    z = numbers(30, 40, 50)
    w = numbers(50, 40, 30, seed=1)
    v = numbers(40, 50, 30, seed=2)
    agree(lambda z, w, v: schuss.permute_dims(z, (2, 1, 0)) + schuss.permute_dims(v, (1, 0, 2)) + w,
          z, w, v)  # fmt: skip
