"""Loops whose last axis is narrower than a vector."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.compiler.cpu.library import Source, compile_kernels
from schuss.compiler.cpu.loops import print_loops
from schuss.compiler.cpu.lower import lanes_for
from schuss.compiler.cpu.narrow import grouped_axes
from schuss.compiler.fuse import fuse
from schuss.compiler.kernel import Kernel
from schuss.compiler.simplify import simplify
from schuss.compiler.units import Loops

from ..graphs import agree, filled, numbers, recorded
from .test_matmul import guarded, guarded_copy

DTYPES = [np.float32, np.float64, np.int8, np.int64, np.float16, np.bool_]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHUSS_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "kernels"))


def kernel_of(tensor: Any) -> Kernel:
    (unit,) = fuse(simplify(recorded(tensor)))
    assert isinstance(unit, Loops)
    return unit.kernel


def spread(x: Any) -> Any:
    """(n, h, w, c) with each position twice along h and w, as a pooling spreads its gradient."""
    n, h, w, c = x.shape
    wide = schuss.broadcast_to(x.reshape(n, h, 1, w, 1, c), (n, h, 2, w, 2, c))
    return wide.reshape(n, 2 * h, 2 * w, c)


def pooled(x: Any) -> Any:
    n, h, w, c = x.shape
    windows = x.reshape(n, h // 2, 2, w // 2, 2, c)
    return (windows.any if x.dtype == schuss.bool else windows.max)(axis=(2, 4))


def test_which_axes_are_gone_over_as_one() -> None:
    lanes = 16
    x, per_channel = filled(8, 28, 28, 6), filled(6)
    assert grouped_axes(kernel_of(x + per_channel), lanes) == [0, 1]
    assert grouped_axes(kernel_of(pooled(x + per_channel)), lanes) == [1, 4]
    assert grouped_axes(kernel_of(x * spread(filled(8, 14, 14, 6))), lanes) == [2, 3, 4]
    wide = filled(8, 28, 28, 14)
    assert grouped_axes(kernel_of(wide + filled(14)), lanes) == []  # nearly all lanes have work
    assert grouped_axes(kernel_of(filled(9, 6) + filled(6)), lanes) == []  # too little
    assert grouped_axes(kernel_of(x.sum(axis=(0, 1, 2))), lanes) == []  # a long sum
    assert grouped_axes(kernel_of(filled(70, 31) + filled(31)), lanes) == []  # 31 vectors a block
    far = filled(100, 50, 6)[:, ::9]
    assert grouped_axes(kernel_of(far + filled(6)), lanes) == []  # lanes far from each other
    looked_up = simplify(
        recorded(schuss.where(x > per_channel, x, per_channel[filled(6, dtype=np.int64)]))
    )
    kernels = [each.kernel for each in fuse(looked_up) if isinstance(each, Loops)]
    chosen = [k for k in kernels if any(line.op == "gather" for line in k.lines)]
    assert [grouped_axes(kernel, lanes) for kernel in chosen] == [[]]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("shape", [(3, 28, 28, 6), (5, 10, 6, 3), (2, 4, 70, 1), (1, 34, 2, 10)])
def test_images_with_few_channels(dtype: Any, shape: tuple[int, ...]) -> None:
    x, per_channel = numbers(*shape, dtype=dtype), numbers(shape[-1], dtype=dtype, seed=1)
    half = numbers(shape[0], shape[1] // 2, shape[2] // 2, shape[3], dtype=dtype, seed=2)

    def everything(x: Any, per_channel: Any, half: Any) -> list[Any]:
        biased = schuss.where(x == per_channel, x, per_channel)
        wide = schuss.where(spread(half) == x, biased, spread(half))
        return [
            biased,
            wide,
            pooled(biased),
            x[:, ::-1, ::2] == per_channel,
            x != per_channel[::-1],
        ]

    agree(everything, x, per_channel, half)


def test_several_reductions() -> None:
    x, y = numbers(4, 12, 12, 5), numbers(4, 6, 6, 5, seed=1)

    def everything(x: Any, y: Any) -> list[Any]:
        windows = (x * 2).reshape(4, 6, 2, 6, 2, 5)
        sums = windows.sum(axis=(2, 4)), windows.max(axis=(2, 4)), windows.min(axis=(2, 4))
        flags = (windows > 0).any(axis=(2, 4)), windows.all(axis=(2, 4))
        return [sums[0] * y, sums[1] - y, sums[2] / (y * y + 1), *flags]

    agree(everything, x, y)


@pytest.mark.parametrize("layer", [nn.AvgPool2d(2), nn.MaxPool2d(3, 2), nn.AvgPool2d(3, 1, 1)],
                         ids=repr)  # fmt: skip
def test_a_network_of_few_channels(layer: Any) -> None:
    generator = schuss.Generator(0)
    first = nn.Conv2d(1, 6, 3, generator=generator)
    second = nn.Conv2d(6, 3, 3, generator=generator)

    def gradients(x: Any) -> Any:
        return schuss.grad(lambda x: (second(layer(first(x).sigmoid())).tanh() ** 2).sum())(x)

    agree(gradients, numbers(20, 1, 14, 14), rtol=1e-4)


OUTSIDE: dict[str, Callable[[Any, Any], Any]] = {
    "dense": lambda x, y: x + y[0, 0, 0],
    "spread": lambda x, y: x * spread(y),
    "pooled": lambda x, y: pooled(x) - y[0, 0, 0],
}


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_nothing_outside_is_read_or_written(name: str, after: bool, dtype: Any) -> None:
    x, y = numbers(2, 14, 56, 3, dtype=dtype), numbers(2, 7, 28, 3, dtype=dtype, seed=1)
    result = OUTSIDE[name](schuss.tensor(x), schuss.tensor(y))
    kernel = kernel_of(result)
    lanes = lanes_for(kernel)
    assert grouped_axes(kernel, lanes)
    given = {each.size: guarded_copy(each, after) for each in (x, y)}
    (output,) = kernel.written()
    made = guarded(output.nbytes, after).view(dtype).reshape(output.shape)
    arrays = [made if each is output else given[each.size] for each in kernel.buffers]
    printed = print_loops(kernel, f"narrow_{name}", lanes)
    source = Source(printed.text, (f"narrow_{name}",))
    address = compile_kernels([source])[f"narrow_{name}"]
    table = (ctypes.c_int64 * len(arrays))(*[each.ctypes.data for each in arrays])
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)(address)
    for part in reversed(range(printed.parts)):
        run(ctypes.addressof(table), part, None)
    expected = result.numpy()
    np.testing.assert_allclose(made.ravel(), expected.ravel(), rtol=1e-6)
