"""What a matrix product is, and how it is cut into blocks.

The plan depends on the product and the machine's vectors alone, never on the number of threads, so
that results do not either. Its constants were measured on Zen 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from schuss.compiler.cpu.matmul_dot import best_rows
from schuss.compiler.cpu.matmul_elements import size

# LLVM types of the elements of a dtype, and of their sums.
ELEMENTS = {
    "float32": ("float", "float"),
    "float64": ("double", "double"),
    "bfloat16": ("bfloat", "float"),
    "float16": ("half", "float"),
    "int8": ("i8", "i32"),
    "uint8": ("i8", "i32"),
    "int16": ("i16", "i32"),
    "uint16": ("i16", "i32"),
    "int32": ("i32", "i32"),
    "uint32": ("i32", "i32"),
    "int64": ("i64", "i64"),
    "uint64": ("i64", "i64"),
}
_ACCUMULATORS = dict.fromkeys(("bfloat16", "float16"), "float32") | dict.fromkeys(
    ("int8", "uint8", "int16", "uint16"), "int32"
)

ALIGN = 64  # bytes; where scratch memory and the workspace are cut

# Multiply-adds: below _SERIAL a product is one part; above it parts have about _PART.
_SERIAL = 50_000
_PART = 100_000
_LONG_PART = 500_000
_MOST_PARTS = 32
# Bytes along k: longer products are summed in blocks, of half the length.
_LONGEST_BLOCK = 4096
_FEW_BYTES = 1 << 18  # of all rows of A, where columns of B are read from memory
# A product of fewer tiles is cut along k too, in slices of at least so many elements.
_FEW_CELLS = 16
_SHORTEST_SLICE = 256
_FEWEST_SLICES = 8
_SLICED_BLOCK = 1 << 19  # bytes of A and B for a block of k of a slice
_LARGE = 1 << 22  # bytes of A and B that no second-level cache keeps
# Rows and columns of the largest block of C: with blocks of k, what it is made from stays in a
# second-level cache of a megabyte or two, and in half of that it comes from the third in time.
_BLOCK_ROWS = 140
_BLOCK_COLUMNS = 512
SHARED = 24 << 20  # bytes of A and B which stay in a third-level cache
# Where they are more, they come from memory: the closer blocks are to squares, the less often.
_FAR_ROWS, _FAR_COLUMNS = 280, 256
_KEPT = 1 << 19  # bytes of B that stay there beside all else
# Packing what crowds the caches pays if so many rows of A or columns of B use it.
_REUSE = 128
# Twice as many use a B of so many bytes, whose pieces of rows lie in too many pages otherwise.
_WIDE = 8 << 20
# Sums over no more than this are formed in registers, row by row, from so many elements of B in
# the first-level cache.
_OUTER_K = 16
_OUTER_VALUES = 3072
_OUTER_ROWS = 64
# Vectors of a row of C in the first-level cache, with a few lines of as many rows of B as fit.
_LONGEST_ROW = 128
# Each part packs for itself what would not be worth a stage: so many elements more in all.
_NOT_A_STAGE = 8192
# Up to so many rows, converting elements of B as they are read costs less than packing them.
_FEW_ROWS = 3
# Repeated products of so many rows are shared out by rows, and so many blocks of columns.
_FEWEST_ROWS, _MOST_ROWS = 8, 128
_COLUMN_BLOCKS = 8


@dataclass(frozen=True)
class Machine:
    """The vector registers of a processor: the bytes of one, and how many there are; and the dtypes
    whose numbers it multiplies in pairs (matmul_pairs).
    """

    vector_bytes: int
    registers: int
    pairs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Product:
    """C[batch, m, n] = sum over k of A[batch, m, k] * B[batch, k, n].

    Strides count elements and may be zero or negative: those of A are one for each batch axis,
    then m, then k; those of B one for each batch axis, then k, then n. `batch` has the sizes of
    the batch axes and may be empty. Any size may be 0. With `b_packed`, B has been packed before.
    """

    dtype: str
    batch: tuple[int, ...]
    m: int
    n: int
    k: int
    a_strides: tuple[int, ...]
    b_strides: tuple[int, ...]
    b_packed: bool = False

    def __post_init__(self) -> None:
        assert self.dtype in ELEMENTS, self.dtype
        assert len(self.a_strides) == len(self.b_strides) == len(self.batch) + 2

    @property
    def batches(self) -> int:
        return prod(self.batch)

    @property
    def source(self) -> str:
        """The LLVM type of the elements of A and B."""
        return ELEMENTS[self.dtype][0]

    @property
    def element(self) -> str:
        """The LLVM type of the sums, and so of the vectors that an epilogue gets. Those of small
        integers are right in as many bits as the dtype has.
        """
        return ELEMENTS[self.dtype][1]

    @property
    def accumulator(self) -> str:
        """The dtype of the sums."""
        return _ACCUMULATORS.get(self.dtype, self.dtype)


@dataclass(frozen=True)
class Plan:
    """How a product is computed.

    `kernel` is the way tiles of C are computed: 'tile' by micro-kernels that broadcast elements of
    A (matmul_micro), 'dot' by those that go along k (matmul_dot), 'outer' row by row in registers
    for very small k.

    Rows are cut into `tiles` of `height` or, the first `tall` of them, height + 1 rows, where the
    last of 'dot' and 'outer' may have fewer; columns into `panels` of `vectors` vectors, where the
    last may be narrower; k into `slices` of `slice_k` whose sums are added in the end, and a slice
    into blocks of `k_block`. A part of the work is `group` batches of a block of `block_tiles` x
    `block_panels` and one slice.

    `a_mode` and `b_mode` say where kernels read an operand: 'direct' in place, 'stage' from a copy
    in the workspace that a stage before has packed, 'part' from a copy that each part packs for
    itself in its scratch memory, 'packed' from one that was there before. `reads` says what they
    find there: 'sums', of the type of the sums, 'source', of the operand's own, which they
    convert, or 'pairs' of the latter, for which `slice_k` and `k_block` count pairs.

    Each tile is finished as soon as its sums are there, or, with `row_by_row`, all tiles of a
    block that are side by side, one row after the other.
    """

    kernel: str
    reads: str
    lanes: int
    tiles: int
    height: int
    tall: int
    vectors: int
    panels: int
    k_block: int
    slices: int
    slice_k: int
    block_tiles: int
    block_panels: int
    group: int
    a_mode: str
    b_mode: str
    row_by_row: bool = False

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.vectors * self.lanes

    @property
    def tallest(self) -> int:
        """Rows of the highest tile."""
        return self.height + (self.tall > 0)

    @property
    def row_blocks(self) -> int:
        return ceil_div(self.tiles, self.block_tiles)

    @property
    def column_blocks(self) -> int:
        return ceil_div(self.panels, self.block_panels)


def plan(product: Product, machine: Machine) -> Plan:
    """Cut a product, all of whose sizes but k are at least 1, for a machine."""
    lanes = machine.vector_bytes // size(product.element)
    kernel = _kernel(product, lanes, machine)
    reads = _reads(product, kernel, machine)
    tiles, height, tall, vectors = _tiles(product, machine.registers, lanes, kernel, reads)
    panels = ceil_div(product.n, vectors * lanes)
    parts = _parts(product)
    steps = ceil_div(product.k, 2) if reads == "pairs" else product.k
    slices, slice_k, k_block = _k_blocks(
        replace(product, k=steps), tiles * panels, parts, lanes, kernel
    )
    packs_b = not product.b_packed and not _reads_b_in_place(product, reads)
    block_tiles, block_panels, group = _blocks(
        product, (tiles, height + (tall > 0)), (panels, vectors * lanes), parts, slices, kernel,
        packs_b,
    )  # fmt: skip
    a_mode, b_mode = "direct", "direct"
    alone = slices > 1 or parts == 1
    if kernel == "tile" and not _reads_a_in_place(product, reads):
        again = ceil_div(panels, block_panels) - 1
        is_small = again * product.m * product.k <= _NOT_A_STAGE
        a_mode = "part" if alone or is_small else "stage"
    if kernel == "outer" and (product.n % lanes or product.m >= _OUTER_ROWS // 2 or packs_b):
        b_mode = "part"  # also to align vectors, which are loaded for every row
    if kernel == "tile" and packs_b:
        again = ceil_div(tiles, block_tiles) - 1
        is_small = again * product.n * product.k <= _NOT_A_STAGE
        b_mode = "part" if alone or is_small else "stage"
    if product.b_packed:
        assert kernel == "tile"
        b_mode = "packed"
    return Plan(
        kernel=kernel,
        reads=reads,
        lanes=lanes,
        tiles=tiles,
        height=height,
        tall=tall,
        vectors=vectors,
        panels=panels,
        k_block=k_block,
        slices=slices,
        slice_k=slice_k,
        block_tiles=block_tiles,
        block_panels=block_panels,
        group=group,
        a_mode=a_mode,
        b_mode=b_mode,
    )


def for_reading_epilogue(product: Product, cut: Plan) -> Plan:
    """The plan for an epilogue that reads memory of C's size: row by row, in wide blocks.

    The pieces of rows in one tile are too short for memory to be fast.
    """
    is_ragged = cut.b_mode == "direct" and product.n % cut.lanes > 0
    if cut.b_mode == "part" or is_ragged:  # B would be packed again for each row of tiles
        return cut
    if cut.kernel != "tile" or cut.slices > 1 or cut.tiles == 1:
        return cut
    if product.batches > 1:
        return replace(cut, row_by_row=True)
    parts = cut.row_blocks * cut.column_blocks
    panel = cut.width * cut.k_block * size(product.element)
    columns = ceil_div(cut.panels, max(1, _KEPT // panel))
    rows = 1
    while rows * columns < parts and (2 * rows < cut.tiles or columns < cut.panels):
        # Two tiles at least share a block of B, which comes from the third-level cache.
        if 2 * rows < cut.tiles:
            rows += 1
        else:
            columns += 1
    return replace(
        cut,
        block_tiles=ceil_div(cut.tiles, rows),
        block_panels=ceil_div(cut.panels, columns),
        row_by_row=True,
    )


def by_rows(product: Product, machine: Machine, cut: Plan) -> Plan:
    """The plan for a product of few rows that is repeated with the same packed B.

    The parts of the upper half of the rows come first. Threads that come back to the same parts
    then keep to rows, in this product and in what is done with it elementwise, and need not fetch
    from each other's caches what the other one has just written.
    """
    if cut.tiles == 1 or product.batches > 1 or not _FEWEST_ROWS <= product.m <= _MOST_ROWS:
        return cut
    if product.dtype in machine.pairs:
        return cut
    vectors = min(3 if machine.registers >= 32 else 2, ceil_div(product.n, cut.lanes))
    tiles = 2 * ceil_div(product.m, 2 * most_rows(machine.registers, vectors))
    height, tall = divmod(product.m, tiles)
    panels = ceil_div(product.n, vectors * cut.lanes)
    # So few rows stay in the first-level cache even where they lie a page apart.
    a_mode = "direct" if product.source == product.element else "part"
    return replace(
        cut, tiles=tiles, height=height, tall=tall, vectors=vectors, panels=panels,
        block_tiles=tiles // 2, block_panels=ceil_div(panels, _COLUMN_BLOCKS), group=1,
        slices=1, slice_k=product.k, k_block=min(cut.k_block, product.k),
        a_mode=a_mode, b_mode="stage",
    )  # fmt: skip


def _kernel(product: Product, lanes: int, machine: Machine) -> str:
    """Which kernel suits a product."""
    writes_most = product.n > 4 * lanes and product.dtype not in machine.pairs
    if 0 < product.k <= (_OUTER_K if writes_most else _OUTER_K // 4):
        return "outer"
    along_k = product.a_strides[-1] == 1 and product.b_strides[-2] == 1
    # A dot product costs as much as a few vectors of k to start and to end; packing B costs as
    # much as a few rows of A; and a narrow C leaves lanes of the other kernels empty.
    if along_k and (product.element in ("float", "double") or product.dtype in machine.pairs):
        few = product.m <= 4 and product.k >= 2 * lanes
        some = product.m <= 2 * lanes or product.n <= min(12, 3 * lanes // 2)
        if few or (some and product.k >= 8 * lanes):
            return "dot"
    return "tile"


def _reads(product: Product, kernel: str, machine: Machine) -> str:
    """What elements the kernels read."""
    if kernel == "outer" or (product.source == product.element):
        return "sums"
    rows_of_b = product.b_strides[-1] == 1 or product.n == 1
    if kernel == "tile" and rows_of_b and product.m <= _FEW_ROWS:
        return "source"
    if product.dtype in machine.pairs:
        return "pairs"
    return "source" if kernel == "dot" else "sums"


def most_rows(registers: int, vectors: int) -> int:
    """Rows of the highest tile whose sums stay in registers beside a row of B and two elements
    of A. Beyond 14 rows nothing is gained.
    """
    return max(1, min(14, (registers - vectors - 2) // vectors))


def _tiles(
    product: Product, registers: int, lanes: int, kernel: str, reads: str
) -> tuple[int, int, int, int]:
    """Number of tiles, their height, how many are higher, and the vectors of a panel."""
    m, across = product.m, ceil_div(product.n, lanes)
    if kernel == "dot":
        rows = best_rows(lanes, m)
        return ceil_div(m, rows), rows, 0, 1
    if kernel == "outer":
        return ceil_div(m, _OUTER_ROWS), min(m, _OUTER_ROWS), 0, 1
    vectors = min(2, across)
    for wider in range(3, min(8, across) + 1):
        if most_rows(registers, wider) >= m:
            vectors = wider
    if m == 1:
        # Each vector of B is used once, from memory: the longer the pieces of its rows the better.
        vectors = min(16, registers - 4, across) if reads == "pairs" else min(_LONGEST_ROW, across)
    vectors = ceil_div(across, ceil_div(across, vectors))
    tiles = ceil_div(m, most_rows(registers, vectors))
    return tiles, *divmod(m, tiles), vectors


def _parts(product: Product) -> int:
    """About how many parts the work is worth: more, for more threads, where they are long."""
    work = product.batches * product.m * product.n * product.k
    if work <= _SERIAL:
        return 1
    return max(1, min(_MOST_PARTS, work // _PART), min(2 * _MOST_PARTS, work // _LONG_PART))


def _k_blocks(
    product: Product, cells: int, parts: int, lanes: int, kernel: str
) -> tuple[int, int, int]:
    """Slices of k, the length of a slice, and of a block in it."""
    k, element = product.k, size(product.element)
    slices = _slices(product, product.batches * cells, parts, kernel)
    if slices == 1:
        # Few rows stay in the cache: each column of B is best read in one go, as it comes.
        streams = kernel == "dot" and product.m * k * element <= _FEW_BYTES
        if k * element <= _LONGEST_BLOCK or streams:
            return 1, k, k
        return 1, k, ceil_to(ceil_div(k, ceil_div(2 * k * element, _LONGEST_BLOCK)), lanes)
    slice_k = ceil_to(ceil_div(k, slices), lanes)
    # All of C is one block: what a block of k makes it from is to stay in the cache.
    block = _SLICED_BLOCK // ((product.m + product.n) * element)
    block = ceil_to(min(max(block, 32), 256, slice_k), lanes)
    return ceil_div(k, slice_k), slice_k, min(block, slice_k)


def _slices(product: Product, cells: int, parts: int, kernel: str) -> int:
    """Into how many slices to cut k: where there are too few tiles to share out, and where C is
    small and A and B are not, so that they are best read once and as they lie in memory.
    """
    most = min(parts, _MOST_PARTS, product.k // _SHORTEST_SLICE)
    if cells < min(_FEW_CELLS, parts):
        return max(1, most)
    reads = (product.m + product.n) * product.k
    bytes_, sums = reads * size(product.element), 2 * product.m * product.n
    # Sums are written and read once for each slice: an eighth of the other traffic at most, or a
    # third where that makes the fewest slices that are worth it.
    few = _FEWEST_SLICES if reads >= 3 * _FEWEST_SLICES * sums else 0
    most = min(most, max(few, reads // (8 * sums)))
    is_worth = bytes_ > _LARGE and most >= _FEWEST_SLICES and product.batches == 1
    return most if kernel == "tile" and is_worth else 1


def _blocks(
    product: Product,
    tiles: tuple[int, int],
    panels: tuple[int, int],
    parts: int,
    slices: int,
    kernel: str,
    packs_b: bool,
) -> tuple[int, int, int]:
    """Tiles and panels of a block, and batches of a part. `tiles` and `panels` say how many there
    are, and how high or wide they are.
    """
    batches, is_outer = product.batches, kernel == "outer"
    if parts == 1:
        return tiles[0], panels[0], batches
    if slices > 1:
        return tiles[0], panels[0], 1
    # Whole rows are best for an outer product, which writes more than it reads.
    is_far = (product.m + product.n) * product.k * size(product.element) > SHARED
    most_rows = _FAR_ROWS if is_far else _BLOCK_ROWS
    most_columns = _FAR_COLUMNS if is_far else _BLOCK_COLUMNS
    rows = 1 if is_outer else ceil_div(tiles[0], ceil_div(most_rows, tiles[1]))
    most_columns = _OUTER_VALUES // product.k if is_outer else most_columns
    columns = ceil_div(panels[0], ceil_div(most_columns, panels[1]))
    enough = ceil_div(min(parts, _MOST_PARTS), batches)
    if packs_b and kernel == "tile" and rows == 1 and panels[0] >= enough:
        # Each part packs columns that no other reads: nothing is packed in a stage before.
        columns = min(panels[0], max(columns, ceil_div(parts, batches)))
        parts = batches * columns
    while batches * rows * columns < parts and rows * columns < tiles[0] * panels[0]:
        # Cut what is longer, so that blocks become square in tiles.
        longer = ceil_div(tiles[0], rows) >= 2 * ceil_div(panels[0], columns)
        if longer or (is_outer and rows < tiles[0]):
            rows += 1
        else:
            columns += 1
    block_tiles, block_panels = ceil_div(tiles[0], rows), ceil_div(panels[0], columns)
    blocks = ceil_div(tiles[0], block_tiles) * ceil_div(panels[0], block_panels)
    return block_tiles, block_panels, max(1, min(batches, batches * blocks // parts))


def _reads_a_in_place(product: Product, reads: str) -> bool:
    """Broadcasting loads take A with any strides, but where they are unlucky packing pays: with
    two large strides each element is in a cache line of its own.
    """
    m_stride, k_stride = product.a_strides[-2:]
    if reads == "source":
        return True
    if reads == "pairs":  # which A has where k is contiguous
        paired = k_stride == 1 and product.k % 2 == 0 and size(product.source) == 2
        return paired and not _a_page(product, m_stride)
    if product.source != product.element:
        return False
    if product.k == 1 or product.m <= 4:
        return True
    if abs(m_stride) <= 1:
        return m_stride != 1 or product.n < _REUSE or not _crowds(product, k_stride)
    if abs(k_stride) > 1:
        return product.n <= 64
    return not _a_page(product, m_stride)


def _reads_b_in_place(product: Product, reads: str) -> bool:
    """B can be read where it is if its rows are contiguous."""
    if reads == "source":
        return True
    k_stride, n_stride = product.b_strides[-2:]
    if product.source != product.element or (n_stride != 1 and product.n > 1):
        return False
    is_wide = product.k * product.n * size(product.source) > _WIDE
    if is_wide and product.k > 256 and product.m >= 2 * _REUSE:
        return False
    return product.m < _REUSE or not _crowds(product, k_stride)


def _crowds(product: Product, k_stride: int) -> bool:
    """Pieces of k rows, a multiple of a page apart, do not stay in the caches together."""
    return product.k > 256 and _a_page(product, k_stride)


def _a_page(product: Product, stride: int) -> bool:
    """Elements so far apart lie in the same few lines of the first-level cache."""
    return stride != 0 and stride * size(product.source) % 4096 == 0


def ceil_div(x: int, y: int) -> int:
    """x / y, rounded up."""
    return -(-x // y)


def ceil_to(x: int, y: int) -> int:
    """x rounded up to a multiple of y."""
    return ceil_div(x, y) * y
