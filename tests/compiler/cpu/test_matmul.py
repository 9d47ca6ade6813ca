"""Matrix products of the CPU target against NumPy."""

import ctypes

import ml_dtypes
import numpy as np
import pytest

from schuss.compiler.cpu.library import Source, compile_kernels
from schuss.compiler.cpu.matmul import Machine, Product, lower, plain_epilogue

# AVX-512, AVX2, and what every 64-bit machine has.
MACHINES = [Machine(64, 32), Machine(32, 16), Machine(16, 16)]
KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)


def aligned(nbytes, fill=0xA5):
    """Bytes at an address that is a multiple of 64, with contents that nobody should rely on."""
    memory = np.full(nbytes + 64, fill, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + nbytes]


def run(lowered, words, order=1):
    """Run all parts of all stages, in reverse order if `order` is -1."""
    sources = [*lowered.shared, *(Source(x.text, (x.name,)) for x in lowered.stages)]
    addresses = compile_kernels(sources)
    workspace = aligned(lowered.workspace)
    words = [*words[:2], workspace.ctypes.data, *words[2:]]
    table = (ctypes.c_int64 * len(words))(*words)
    for stage in lowered.stages:
        scratch = aligned(stage.scratch)
        kernel = KERNEL(addresses[stage.name])
        for part in range(stage.parts)[::order]:
            kernel(ctypes.addressof(table), part, scratch.ctypes.data)


def product_of(a, b):
    """The product of arrays (..., m, k) and (..., k, n), whose batch axes broadcast."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a = np.broadcast_to(a, batch + a.shape[-2:])
    b = np.broadcast_to(b, batch + b.shape[-2:])
    strides = [tuple(s // x.itemsize for s in x.strides) for x in (a, b)]
    dtype = a.dtype.name
    return Product(dtype, batch, a.shape[-2], b.shape[-1], a.shape[-1], *strides)


def multiply(a, b, machine=MACHINES[0], order=1):
    """a @ b, all strides taken as they are."""
    product = product_of(a, b)
    c = np.full((*product.batch, product.m, product.n), 77, np.dtype(product.accumulator))
    lowered = lower(product, plain_epilogue(product), machine)
    run(lowered, [a.ctypes.data, b.ctypes.data, c.ctypes.data], order)
    return c


def sample(rng, shape, dtype):
    if np.issubdtype(np.dtype(dtype), np.integer):
        return rng.integers(-100, 100, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def check(a, b, machine=MACHINES[0]):
    got = multiply(a, b, machine)
    if np.issubdtype(got.dtype, np.integer):
        want = a.astype(got.dtype) @ b.astype(got.dtype)
        np.testing.assert_array_equal(got, want)
        return
    a, b = a.astype(np.float64), b.astype(np.float64)
    bound = 1 + np.abs(a) @ np.abs(b)  # the scale of rounding errors of a sum
    worst = np.abs(got - a @ b) / bound
    assert worst.max(initial=0) < 4 * np.finfo(got.dtype).eps


@pytest.mark.parametrize("machine", MACHINES, ids=["512", "256", "128"])
@pytest.mark.parametrize("m", [1, 5, 14, 29])
def test_sizes(machine, m):
    rng = np.random.default_rng(m)
    for n in (1, 7, 16, 33, 80):
        for k in (1, 3, 40):
            check(sample(rng, (m, k), "float32"), sample(rng, (k, n), "float32"), machine)


def strided(rng, shape, dtype):
    """An array of a shape with random strides: axes permuted, steps, negative steps, broadcasts."""
    order = rng.permutation(len(shape))
    steps = rng.choice([1, 1, 1, 2, -1, -3], len(shape))
    kept = [1 if rng.random() < 0.1 else size for size in shape]
    stored = sample(rng, [kept[i] * abs(steps[i]) for i in order], dtype)
    array = stored.transpose(np.argsort(order))[tuple(slice(None, None, s) for s in steps)]
    return np.broadcast_to(array, shape)


@pytest.mark.parametrize("seed", range(24))
def test_random_strides(seed):
    rng = np.random.default_rng(seed)
    dtype = rng.choice(["float32", "float32", "float64", "bfloat16", "float16", "int8", "int64"])
    dtype = getattr(ml_dtypes, dtype, dtype)
    batch = [(), (3,), (2, 3)][rng.integers(3)]
    m, n, k = rng.choice([1, 2, 3, 9, 13, 14, 15, 16, 17, 28, 31, 33, 64, 65, 100], 3)
    a = strided(rng, (*batch, m, k), dtype)
    b = strided(rng, (*batch, k, n), dtype)
    check(a, b, MACHINES[seed % 3])
