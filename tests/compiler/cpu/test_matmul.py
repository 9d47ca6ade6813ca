"""Matrix products of the CPU target against NumPy.

All memory that kernels get ends where a page ends that nobody may touch, and what they have not
written is NaN: reading too far is a crash, using what is undefined a wrong result.
"""

import ctypes
import mmap
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from schuss import settings
from schuss.compiler.cpu.host import host
from schuss.compiler.cpu.library import Source, compile_kernels
from schuss.compiler.cpu.matmul import Machine, Product, lower, plain_epilogue, this_machine
from schuss.compiler.cpu.matmul_micro import Micro, definition
from schuss.compiler.cpu.matmul_plan import plan
from schuss.compiler.cpu.runtime import OK, Launch, Sequence, get_num_threads, set_num_threads

# AVX-512, AVX2, and what every 64-bit machine has, as far as this one goes; and then with the
# products of pairs that it has.
WIDTHS = [
    machine
    for machine in (Machine(64, 32), Machine(32, 16), Machine(16, 16))
    if 8 * machine.vector_bytes <= host().vector_bits
]
PAIRED = [replace(machine, pairs=this_machine().pairs) for machine in WIDTHS]
MACHINES = [*WIDTHS, *(PAIRED if this_machine().pairs else [])]
NAMES = [f"{8 * x.vector_bytes}{'-pairs' if x.pairs else ''}" for x in MACHINES]
needs_pairs = pytest.mark.skipif(not this_machine().pairs, reason="a machine without pairs")
KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)


def guarded(nbytes, after=True):
    """Bytes, NaN when taken for floats, that end at a page that may not be touched, or if not
    `after` begin after one. The end is 64-byte aligned, and so is the start if nbytes is.
    """
    page = mmap.PAGESIZE
    size = max(page, -(-nbytes // page) * page)
    memory = mmap.mmap(-1, size + 2 * page)
    whole = np.frombuffer(memory, np.uint8)
    if sys.platform == "linux":
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        for guard in (whole.ctypes.data, whole.ctypes.data + page + size):
            assert protect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
    inside = whole[page : page + size]
    inside[:] = 0xFF
    return inside[size - nbytes :] if after else inside[:nbytes]


def guarded_copy(array, after=True):
    """The same values in guarded memory, with the axes in the same order in memory."""
    order = np.argsort([-abs(s) for s in array.strides], kind="stable")
    stored = array.transpose(order)
    copy = guarded(stored.nbytes, after).view(array.dtype).reshape(stored.shape)
    copy[...] = stored
    return copy.transpose(np.argsort(order))


def run(lowered, words, backwards=False, workspace=None):
    """Run all parts of all stages."""
    sources = [*lowered.shared, *(Source(x.text, (x.name,)) for x in lowered.stages)]
    addresses = compile_kernels(sources)
    if workspace is None:
        workspace = guarded(-(-lowered.workspace // 64) * 64)
    words = [*words[:2], workspace.ctypes.data, *words[2:]]
    table = (ctypes.c_int64 * len(words))(*words)
    for stage in lowered.stages:
        scratch = guarded(-(-stage.scratch // 64) * 64)
        kernel = KERNEL(addresses[stage.name])
        parts = range(stage.parts)
        for part in reversed(parts) if backwards else parts:
            kernel(ctypes.addressof(table), part, scratch.ctypes.data)


def product_of(a, b):
    """The product of arrays (..., m, k) and (..., k, n), with their strides."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a = np.broadcast_to(a, batch + a.shape[-2:])
    b = np.broadcast_to(b, batch + b.shape[-2:])
    strides = [tuple(s // x.itemsize for s in x.strides) for x in (a, b)]
    return Product(a.dtype.name, batch, a.shape[-2], b.shape[-1], a.shape[-1], *strides)


def multiply(a, b, machine=MACHINES[0], backwards=False):
    product = product_of(a, b)
    shape = *product.batch, product.m, product.n
    accumulator = np.dtype(product.accumulator)
    c = guarded(int(np.prod(shape)) * accumulator.itemsize).view(accumulator).reshape(shape)
    lowered = lower(product, plain_epilogue(product), machine)
    run(lowered, [a.ctypes.data, b.ctypes.data, c.ctypes.data], backwards)
    return c


def sample(rng, shape, dtype="float32"):
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    if dtype.kind in "iu":
        return rng.integers(-100 if dtype.kind == "i" else 0, 100, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("machine", MACHINES, ids=NAMES)
@pytest.mark.parametrize("m", [1, 7, 8, 19, 32, 100, 200])
@pytest.mark.parametrize("turned", [False, True])
def test_a_right_operand_that_is_packed_once(machine, m, turned):
    """The first stage packs B and looks at nothing else; the others look at B no more."""
    rng = np.random.default_rng(0)
    b = sample(rng, (70, 150)).T if turned else sample(rng, (150, 70))
    a, nothing = sample(rng, (m, 150)), np.full((150, 150), np.nan, np.float32)
    lowered = lower(product_of(a, b), plain_epilogue(product_of(a, b)), machine, packs_right=True)
    assert lowered.packs_right
    c = guarded(m * 70 * 4).view(np.float32).reshape(m, 70)
    workspace = guarded(-(-lowered.workspace // 64) * 64)
    first, rest = lowered.stages[:1], lowered.stages[1:]
    for stages, left, right in ((first, nothing, b), (rest, a, nothing)):
        words = [left.ctypes.data, right.ctypes.data, c.ctypes.data]
        run(replace(lowered, stages=stages), words, workspace=workspace)
    np.testing.assert_allclose(c, a @ b, rtol=1e-4, atol=1e-3)


def check(a, b, machine=MACHINES[0]):
    got = multiply(a, b, machine)
    if got.dtype.kind in "iu":  # sums of narrow integers have the right lower bits
        np.testing.assert_array_equal(got.astype(a.dtype), a @ b)
        return
    a, b = a.astype(np.float64), b.astype(np.float64)
    bound = 1e-30 + np.abs(a) @ np.abs(b)  # the scale of the rounding errors of a sum
    error = np.abs(got - a @ b)
    # Equal terms, which broadcasts make, are all rounded the same way.
    roundings = 8 + a.shape[-1] / 4
    assert (error <= roundings * np.finfo(got.dtype).eps * bound).all()  # NaN fails


@pytest.mark.parametrize("machine", WIDTHS, ids=NAMES[: len(WIDTHS)])
@pytest.mark.parametrize("m", [1, 5, 14, 29])
def test_sizes(machine, m):
    rng = np.random.default_rng(m)
    for n in (1, 7, 16, 33, 80):
        for k in (1, 3, 40):
            a, b = sample(rng, (m, k)), sample(rng, (k, n))
            check(guarded_copy(a), guarded_copy(b), machine)


EDGES = [(43, 47, 37), (3, 100, 200), (57, 1, 61), (1, 65, 70), (20, 130, 6)]


@pytest.mark.parametrize("machine", WIDTHS, ids=NAMES[: len(WIDTHS)])
@pytest.mark.parametrize("after", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("layout", ["NN", "NT", "TN", "TT"])
def test_layouts_at_edges_of_memory(machine, after, layout):
    """Sizes next to those of tiles, for each way of packing."""
    check_layout(layout, "float32", EDGES, machine, after)


def check_layout(layout, dtype, sizes, machine, after=True):
    """Operands of a layout, next to pages that nobody may touch."""
    rng = np.random.default_rng(0)
    for m, n, k in sizes:
        a = sample(rng, (k, m), dtype).T if layout[0] == "T" else sample(rng, (m, k), dtype)
        b = sample(rng, (n, k), dtype).T if layout[1] == "T" else sample(rng, (k, n), dtype)
        check(guarded_copy(a, after), guarded_copy(b, after), machine)


@needs_pairs
@pytest.mark.parametrize("machine", PAIRED, ids=NAMES[len(WIDTHS) :])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "uint16"])
@pytest.mark.parametrize("layout", ["NN", "NT", "TN", "TT"])
def test_pairs_at_edges_of_memory(machine, dtype, layout):
    """Even and odd k, whose last one is in no pair, and panels that end within a vector."""
    sizes = [(43, 47, 37), (5, 100, 200), (57, 1, 61), (20, 35, 7), (4, 5, 300)]
    check_layout(layout, dtype, sizes, machine)
    check_layout(layout, dtype, [(30, 30, 38)], machine, after=False)


@pytest.mark.parametrize("machine", MACHINES, ids=NAMES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_conversion_as_kernels_read(machine, dtype):
    """Few rows meet rows of B in place; few of both meet along k; few k are summed in registers."""
    check_layout("NN", dtype, [(1, 50, 40), (3, 100, 21), (2, 7, 300)], machine)
    check_layout("NT", dtype, [(1, 50, 333), (4, 9, 64), (30, 3, 500), (7, 30, 1001)], machine)
    check_layout("NN", dtype, [(9, 260, 3), (70, 80, 9), (40, 8, 2)], machine)


@needs_pairs
def test_pairs_in_blocks_and_slices():
    """Several blocks of an odd number of k; and k cut into slices."""
    rng = np.random.default_rng(8)
    for m, n, k in [(40, 50, 5001), (10, 20, 30_011), (10, 20, 30_010)]:
        for dtype in ("bfloat16", "int16"):
            a, b = sample(rng, (m, k), dtype), sample(rng, (k, n), dtype)
            check(guarded_copy(a), guarded_copy(b), PAIRED[0])
    a, b = sample(rng, (30_011, 10), "bfloat16").T, sample(rng, (30_011, 20), "bfloat16")
    lowered = lower(product_of(a, b), plain_epilogue(product_of(a, b)), PAIRED[0])
    assert lowered.stages[-1].name.endswith("_add")
    forwards, backwards = (multiply(a, b, PAIRED[0], order) for order in (False, True))
    np.testing.assert_array_equal(forwards, backwards)


@needs_pairs
def test_pairs_wrap_around():
    """The largest products of int16 fill 32 bits; a sum of two is taken modulo 2**32."""
    a = np.full((20, 6), -(2**15), np.int16)
    check(a, np.full((6, 40), -(2**15), np.int16), PAIRED[0])
    a = np.full((20, 6), 255, np.uint8)
    check(a, np.full((6, 40), 255, np.uint8), PAIRED[0])


def strided(rng, shape, dtype):
    """An array with random strides: axes permuted, steps, negative steps, broadcasts."""
    order = rng.permutation(len(shape))
    steps = rng.choice([1, 1, 1, 2, -1, -3], len(shape))
    kept = [1 if rng.random() < 0.1 else size for size in shape]
    stored = sample(rng, [kept[i] * abs(steps[i]) for i in order], dtype)
    array = stored.transpose(np.argsort(order))[tuple(slice(None, None, s) for s in steps)]
    return np.broadcast_to(array, shape)


@pytest.mark.parametrize("seed", range(30))
def test_random_strides(seed):
    rng = np.random.default_rng(seed)
    dtypes = ["float32", "float64", "bfloat16", "float16", "int8", "uint8", "int16", "int64"]
    dtype = rng.choice(["float32", *dtypes])
    batch = [(), (3,), (2, 3)][rng.integers(3)]
    m, n, k = rng.choice([1, 2, 3, 9, 13, 14, 15, 16, 17, 28, 31, 33, 64, 65, 100], 3)
    a = strided(rng, (*batch, m, k), dtype)
    b = strided(rng, (*batch, k, n), dtype)
    check(a, b, MACHINES[seed % len(MACHINES)])


@pytest.mark.parametrize("machine", MACHINES, ids=NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "int8", "int32"])
@pytest.mark.parametrize("n", [7, 129, 1000, 2500])
def test_a_single_row(machine, dtype, n):
    """B is read in place, up to its very end; and where its rows lie apart."""
    rng = np.random.default_rng(n)
    for k in (5, 19, 70, 600):
        a, b = sample(rng, (1, k), dtype), sample(rng, (k, n), dtype)
        check(guarded_copy(a), guarded_copy(b), machine)
        check(sample(rng, (2, 1, 3 * k), dtype)[..., ::3], strided(rng, (2, k, n), dtype), machine)


@pytest.mark.parametrize("machine", MACHINES, ids=NAMES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("k", [1, 2, 6])
def test_all_halves(machine, dtype, k):
    """Each of the 65,536 numbers of half precision, infinities and NaN too, times one.

    Products of pairs of bfloat16 take subnormal numbers for zeros.
    """
    numbers = np.arange(2**16, dtype=np.uint16).view(getattr(ml_dtypes, dtype, dtype))
    a = np.zeros((2**16, k), numbers.dtype)
    a[:, 0] = numbers
    got = multiply(a, np.eye(k, 5, dtype=a.dtype), machine)[:, 0]
    want = numbers.astype(np.float32)
    if dtype in machine.pairs and k > 4:
        want[np.abs(want) < np.finfo(np.float32).smallest_normal] = 0
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int8"])
@pytest.mark.parametrize("layout", ["NN", "NT"])
def test_many_blocks(dtype, layout):
    """Operands packed by a stage of their own, several blocks of k, rows and columns."""
    rng = np.random.default_rng(1)
    machine = PAIRED[0]
    a = sample(rng, (170, 1100), dtype)
    b = sample(rng, (600, 1100), dtype).T if layout == "NT" else sample(rng, (1100, 600), dtype)
    product = product_of(a, b)
    packs = layout == "NT" or dtype in ("bfloat16", "int8")
    assert len(lower(product, plain_epilogue(product), machine).stages) == 1 + packs
    check(guarded_copy(a), guarded_copy(b), machine)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("k", [129, 1500])
def test_parts_pack_columns_for_themselves(dtype, k):
    """Few rows of A are one block, so that no other part reads the same columns of B."""
    rng = np.random.default_rng(1)
    machine = PAIRED[0]
    a, b = sample(rng, (70, k), dtype), sample(rng, (1050, k), dtype).T
    product = product_of(a, b)
    cut = plan(product, machine)
    assert (cut.row_blocks, cut.b_mode) == (1, "part")
    assert cut.column_blocks >= 16
    check(guarded_copy(a), guarded_copy(b), machine)
    np.testing.assert_array_equal(multiply(a, b), multiply(a, b, backwards=True))


@pytest.mark.parametrize("transposed", ["", "A", "B", "AB"])
def test_rows_a_page_apart_are_packed(transposed):
    """Columns of wide matrices: of A for tiles of two heights, and with a last panel of B that is
    narrower.
    """
    rng = np.random.default_rng(2)
    m, n, k = 170, 150, 300
    a = sample(rng, (k, 1024))[:, :m].T if "A" in transposed else sample(rng, (m, 1024))[:, :k]
    b = sample(rng, (n, 1024))[:, :k].T if "B" in transposed else sample(rng, (k, 1024))[:, :n]
    product = product_of(a, b)
    assert len(lower(product, plain_epilogue(product)).stages) == 2
    check(a, b)


@pytest.mark.parametrize("layout", ["NN", "NT", "TN"])
def test_slices_of_k(layout):
    """Few elements of C and many of k: k is cut, and the order of parts does not matter."""
    rng = np.random.default_rng(3)
    m, n, k = 10, 20, 30_011
    a = sample(rng, (k, m)).T if layout[0] == "T" else sample(rng, (m, k))
    b = sample(rng, (n, k)).T if layout[1] == "T" else sample(rng, (k, n))
    product = product_of(a, b)
    stages = lower(product, plain_epilogue(product)).stages
    assert stages[0].parts >= 16
    assert stages[-1].name.endswith("_add")
    check(a, b)
    np.testing.assert_array_equal(multiply(a, b), multiply(a, b, backwards=True))


@pytest.mark.parametrize(
    ("m", "n", "k", "slices"),
    [
        (64, 64, 50_000, 32),  # sums of slices are an eighth of what is read
        (384, 384, 12_288, 8),  # a quarter
        (1024, 1024, 8192, 1),  # as much
        (64, 384, 3136, 8),  # a quarter, of what a third-level cache keeps
        (64, 384, 2048, 1),  # of less than that
    ],
)
def test_large_operands_are_read_once(m, n, k, slices):
    product = Product("float32", (), m, n, k, (1, m), (n, 1))
    assert plan(product, Machine(64, 32)).slices == slices


@pytest.mark.parametrize(
    ("m", "n", "k", "mode"),
    [
        (256, 1500, 1500, "stage"),  # nine million bytes in 1500 rows
        (255, 1500, 1500, "direct"),  # which too few rows of A use
        (256, 1300, 1300, "direct"),  # less of it
        (256, 10_000, 250, "direct"),  # few rows
    ],
)
def test_wide_operands_are_packed(m, n, k, mode):
    product = Product("float32", (), m, n, k, (k, 1), (n, 1))
    assert plan(product, Machine(64, 32)).b_mode == mode


@pytest.mark.parametrize(("k", "rows", "columns"), [(512, 140, 416), (2048, 266, 256)])
def test_blocks_are_closer_to_squares_where_operands_come_from_memory(k, rows, columns):
    cut = plan(Product("float32", (), 2048, 2048, k, (k, 1), (2048, 1)), Machine(64, 32))
    assert cut.block_panels * cut.width == columns
    assert cut.block_tiles * (cut.height + 1) == rows


@pytest.mark.parametrize(
    ("batch", "m", "n", "k"), [((), 250, 230, 64), ((40,), 30, 40, 50), ((2, 3), 100, 5, 200)]
)
def test_order_of_parts_does_not_matter(batch, m, n, k):
    rng = np.random.default_rng(4)
    a, b = sample(rng, (*batch, m, k)), sample(rng, (*batch, k, n))
    product = product_of(a, b)
    assert lower(product, plain_epilogue(product)).stages[-1].parts >= 4
    check(a, b)
    np.testing.assert_array_equal(multiply(a, b), multiply(a, b, backwards=True))


def test_number_of_threads_does_not_matter():
    """All stages through the runtime; k is cut into slices, whose sums are added."""
    rng = np.random.default_rng(7)
    a, b = sample(rng, (30_000, 40)).T, sample(rng, (50, 30_000)).T
    product = product_of(a, b)
    lowered = lower(product, plain_epilogue(product))
    assert max(stage.parts for stage in lowered.stages) >= 8
    sources = [*lowered.shared, *(Source(x.text, (x.name,)) for x in lowered.stages)]
    addresses = compile_kernels(sources)
    launches = [Launch(addresses[x.name], (1, 2, 3, 4), x.parts, x.scratch) for x in lowered.stages]
    sequence = Sequence([[each] for each in launches], slots=5)
    workspace = guarded(-(-lowered.workspace // 64) * 64)
    results = []
    assert lowered.stages[-1].name.endswith("_add")
    before = get_num_threads()
    try:
        for threads in (1, 2, 5):
            set_num_threads(threads)
            results.append(np.empty((40, 50), np.float32))
            for slot, array in enumerate((a, b, workspace, results[-1]), start=1):
                sequence.slots[slot] = array.ctypes.data
            assert sequence.run() == OK
    finally:
        set_num_threads(before)
    np.testing.assert_allclose(results[0], a @ b, rtol=1e-4, atol=0.01)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_small_products_are_one_part():
    for m, n, k in [(10, 1, 2), (2, 1, 10), (32, 32, 32), (1, 200, 200), (3000, 3, 3)]:
        product = Product("float32", (), m, n, k, (k, 1), (n, 1))
        assert [x.parts for x in lower(product, plain_epilogue(product)).stages] == [1]


@pytest.mark.parametrize("shape", [(0, 5, 3), (4, 0, 3)])
def test_nothing_to_compute(shape):
    m, n, k = shape
    product = Product("float32", (), m, n, k, (k, 1), (n, 1))
    assert lower(product, plain_epilogue(product)).stages == ()
    product = Product("float32", (2, 0), 3, 3, 3, (0, 9, 3, 1), (0, 9, 3, 1))
    assert lower(product, plain_epilogue(product)).stages == ()


@pytest.mark.parametrize("shape", [(3, 37), (5, 1), (1, 1)])
def test_sum_over_nothing_is_zero(shape):
    m, n = shape
    c = multiply(np.zeros((2, m, 0), np.float32), np.zeros((2, 0, n), np.float32))
    np.testing.assert_array_equal(c, np.zeros((2, m, n)))


@pytest.mark.parametrize("layout", ["NN", "NT"])
@pytest.mark.parametrize(
    ("m", "n", "k"), [(20, 20, 21), (20, 20, 20), (2, 50, 300), (9, 80, 2), (30, 1, 40)]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_infinities_and_nans(layout, m, n, k, dtype):
    rng = np.random.default_rng(5)
    a, b = sample(rng, (m, k), dtype), sample(rng, (n, k), dtype).T
    b = np.ascontiguousarray(b) if layout == "NN" else b
    a[0], a[-1, 0], b[k // 2, 0], b[0, -1] = 0, np.inf, np.nan, np.inf
    with np.errstate(invalid="ignore"):
        want = a.astype(np.float64) @ b.astype(np.float64)
    got = multiply(a, b, PAIRED[0])
    assert np.isnan(got[0, 0])  # 0 * NaN
    assert np.isnan(got[0, -1])  # 0 * inf
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))


def adding_epilogue(product, ahead=False):
    """Adds C to what is in word 3: an element that is given twice, or never, is wrong.

    With `ahead`, it can ask for what is there before.
    """
    asks = """
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
define internal void @{name}_ahead(ptr %args, i64 %batch, i64 %m, i64 %n) alwaysinline {{
  %word = getelementptr i64, ptr %args, i64 3
  %c = load ptr, ptr %word
  call void @llvm.prefetch.p0(ptr %c, i32 0, i32 2, i32 1)
  ret void
}}
"""

    def text(name, lanes, accumulator):
        return f"""
define internal void @{name}(ptr %args, i64 %batch, i64 %m, i64 %n, <{lanes} x i32> %value, \
i64 %count) alwaysinline {{
entry:
  %word = getelementptr i64, ptr %args, i64 3
  %c = load ptr, ptr %word
  %rows = mul i64 %batch, {product.m}
  %row = add i64 %rows, %m
  %before = mul i64 %row, {product.n}
  %start = add i64 %before, %n
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
  %at = add i64 %start, %i
  %p = getelementptr i32, ptr %c, i64 %at
  %old = load i32, ptr %p
  %x = extractelement <{lanes} x i32> %value, i64 %i
  %sum = add i32 %old, %x
  store i32 %sum, ptr %p
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}}
{asks.format(name=name) if ahead else ""}"""

    return text


@pytest.mark.parametrize(
    ("batch", "m", "n", "k"),
    [((), 60, 70, 80), ((5,), 3, 40, 2), ((), 33, 1, 500), ((), 4, 5, 20_000), ((), 7, 9, 0)],
)
def test_every_element_reaches_the_epilogue_once(batch, m, n, k):
    rng = np.random.default_rng(6)
    a, b = sample(rng, (*batch, m, k), "int32"), sample(rng, (*batch, k, n), "int32")
    c = np.full((*batch, m, n), 1000, np.int32)
    product = product_of(a, b)
    lowered = lower(product, adding_epilogue(product), MACHINES[0])
    run(lowered, [a.ctypes.data, b.ctypes.data, c.ctypes.data])
    np.testing.assert_array_equal(c, 1000 + a @ b)


@pytest.mark.parametrize("machine", WIDTHS, ids=NAMES[: len(WIDTHS)])
@pytest.mark.parametrize(
    ("batch", "m", "n", "k", "turned"),
    [
        ((), 60, 80, 80, False),
        ((3,), 33, 48, 40, False),
        ((), 150, 608, 30, False),
        ((), 300, 96, 2100, False),
        ((), 200, 610, 50, True),
    ],
)
def test_rows_are_finished_from_end_to_end_for_epilogues_that_ask_ahead(
    machine, batch, m, n, k, turned
):
    rng = np.random.default_rng(6)
    a, b = sample(rng, (*batch, m, k), "int32"), sample(rng, (*batch, k, n), "int32")
    b = np.ascontiguousarray(b.T).T if turned else b
    c = np.full((*batch, m, n), 1000, np.int32)
    product = product_of(a, b)
    lowered = lower(product, adding_epilogue(product, ahead=True), machine)
    run(lowered, [a.ctypes.data, b.ctypes.data, c.ctypes.data])
    np.testing.assert_array_equal(c, 1000 + a @ b)
    assert "call void @epilogue_ahead(" in lowered.stages[-1].text


def test_product_of_pairs_is_rounded_like_sums_of_float32():
    """Against exact sums: an odd number of k, all signs, sizes of very different magnitude."""
    rng = np.random.default_rng(9)
    a, b = (
        sample(rng, shape) * 10.0 ** rng.integers(-9, 9, shape) for shape in [(30, 51), (51, 30)]
    )
    check(a.astype(ml_dtypes.bfloat16), b.astype(ml_dtypes.bfloat16), PAIRED[0])


def test_printing_is_deterministic():
    product = Product("float32", (3,), 50, 60, 70, (3500, 70, 1), (0, 1, 70))
    first, second = (lower(product, plain_epilogue(product)) for _ in range(2))
    assert first == second


def test_pairs_are_those_of_the_processor():
    assert ("bfloat16" in this_machine().pairs) == host().has_bf16_dot
    flags = Path("/proc/cpuinfo")
    if flags.exists() and host().is_x86 and not settings.cpu():
        assert host().has_bf16_dot == ("avx512_bf16" in flags.read_text())


@pytest.mark.parametrize(
    ("dtype", "shape", "layout", "reads"),
    [
        ("bfloat16", (64, 64, 64), "NN", "pairs"),
        ("bfloat16", (64, 64, 64), "TT", "pairs"),
        ("bfloat16", (1, 64, 640), "NT", "pairs"),
        ("bfloat16", (1, 64, 640), "NN", "source"),
        ("bfloat16", (90, 90, 3), "NN", "sums"),
        ("float16", (64, 64, 64), "NN", "sums"),
        ("float16", (1, 64, 640), "NT", "source"),
        ("float32", (64, 64, 64), "NN", "sums"),
        ("int8", (64, 64, 64), "NN", "pairs"),
        ("int8", (1, 64, 640), "NT", "pairs"),
    ],
)
def test_what_kernels_read(dtype, shape, layout, reads):
    m, n, k = shape
    a_strides = (k, 1) if layout[0] == "N" else (1, m)
    b_strides = (n, 1) if layout[1] == "N" else (1, k)
    machine = Machine(64, 32, ("bfloat16", "int8"))
    assert plan(Product(dtype, (), m, n, k, a_strides, b_strides), machine).reads == reads


@pytest.mark.parametrize(("m", "k", "k_block"), [(1, 9216, 9216), (4, 9216, 9216), (16, 9216, 512)])
def test_few_rows_meet_columns_in_one_go(m, k, k_block):
    """Columns of B, which come from memory, are read from end to end while A stays in a cache."""
    cut = plan(Product("float32", (), m, 4096, k, (k, 1), (1, k)), MACHINES[0])
    assert cut.kernel == "dot"
    assert cut.k_block == k_block


def test_high_tiles_ask_ahead_for_what_they_read():
    high, low = (definition(Micro("float", 16, rows, 2)) for rows in (12, 4))
    assert high.count("call void @llvm.prefetch") == 4  # two lines of B, two ends of A
    assert "llvm.prefetch" not in low
