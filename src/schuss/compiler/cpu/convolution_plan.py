"""What a direct convolution is, and how it is cut into parts, slabs and tiles.

As for matrix products the cuts depend on the shapes and the machine's vectors alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from schuss.compiler.cpu.matmul_micro import size
from schuss.compiler.cpu.matmul_plan import ELEMENTS, Machine, ceil_div, ceil_to
from schuss.compiler.geometry import UNIT, Axis

Axes = tuple[Axis, Axis, Axis]

# Bytes of packed input that a part works on: with a panel of the weights they should stay in a
# second-level cache of a megabyte.
_SLAB = 400 << 10
_IMAGES = 640 << 10  # the same, for tiles of several images
_IN_PLACE = 256 << 10  # of inputs, and perhaps outputs, of a part that packs nothing
_WEIGHTS = 320 << 10  # which stay in the cache beside them
_POSITIONS = 256  # outputs of a part that make reading all weights worth while
_MOST_WIDE = 4  # vectors of a panel
_PARTS = 16  # that a convolution should have, ...
_PART = 200_000  # ... each of so many multiply-adds at least
_SUMS = 384 << 10  # bytes of the sums of a part of a gradient for the weights
_WORKSPACE = 8 << 20  # bytes of sums of slices


@dataclass(frozen=True)
class Convolution:
    """y[n, p, o] = sum over taps t and channels c of x[n, q(p, t), c] * w[t, c, o], in groups.

    Attributes:
        dtype: of x.
        images: N.
        groups: into which channels and outputs are cut.
        channels, outputs: of a group.
        axes: three of them, depth, height and width.
        x_strides: in elements, of the images, the three axes and the channels.
        pairs: numbers of x and of the weights come in pairs of channels, which are multiplied at
            once (matmul_pairs.py): a pair counts as one channel and one element, of 32 bits.
    """

    dtype: str
    images: int
    groups: int
    channels: int
    outputs: int
    axes: Axes
    x_strides: tuple[int, int, int, int, int]
    pairs: bool = False

    def in_pairs(self) -> Convolution:
        """The same in pairs; channels must lie side by side, and be even in number."""
        *strides, last = self.x_strides
        assert last == 1, "channels lie apart"
        assert not any(n % 2 for n in (*strides, self.channels)), "half a pair"
        n, depth, height, width = (stride // 2 for stride in strides)
        steps = n, depth, height, width, 1
        return replace(self, channels=self.channels // 2, x_strides=steps, pairs=True)

    @property
    def source(self) -> str:
        """The LLVM type of x; pairs are moved as if they were floats."""
        return "float" if self.pairs else ELEMENTS[self.dtype][0]

    @property
    def paired(self) -> str:
        """The LLVM type of the numbers of a pair, if there are any."""
        return ELEMENTS[self.dtype][0] if self.pairs else ""

    @property
    def element(self) -> str:
        """The LLVM type that is computed in."""
        return ELEMENTS[self.dtype][1]

    @property
    def accumulator(self) -> str:
        return {"float": "float32", "double": "float64"}[self.element]

    @property
    def taps(self) -> int:
        return prod(axis.kernel for axis in self.axes)

    @property
    def all_outputs(self) -> int:
        return self.groups * self.outputs

    @property
    def work(self) -> int:
        """Multiply-adds of an image, about."""
        steps = prod(sum(p.outputs * p.taps for p in axis.phases) for axis in self.axes)
        return self.groups * self.channels * self.outputs * steps


@dataclass(frozen=True)
class Tiling:
    """Tiles of `images` x `rows` x `columns` positions times `vectors` vectors of outputs.

    A tile of several images is at one position of each, so that no tap is outside of the input for
    one and inside for another: small images are mostly border.
    """

    lanes: int
    vectors: int
    images: int
    rows: int
    columns: int

    @property
    def width(self) -> int:
        """Outputs of a panel."""
        return self.lanes * self.vectors


@dataclass(frozen=True)
class Plan:
    """How a convolution is cut.

    A part is `images` images, one position along the depth, `rows` positions of each phase along
    the height, all of the width, and `panels` panels of outputs. With `heavy` weights, which are
    more than the input, the parts of a panel come one after the other, and ask for the next panel.
    """

    tiling: Tiling
    images: int
    rows: int
    panels: int
    in_place: bool
    heavy: bool


def lanes_for(machine: Machine, element: str, outputs: int) -> int:
    """Lanes of the vectors; half of what there is where that holds all outputs."""
    lanes = machine.vector_bytes // size(element)
    return lanes // 2 if outputs <= lanes // 2 and lanes * size(element) >= 32 else lanes


def tiling(
    machine: Machine, element: str, images: int, channels: int, outputs: int, axes: Axes
) -> Tiling:
    """The cheapest tiles, by the cycles that their steps take."""
    lanes = lanes_for(machine, element, outputs)
    across = ceil_div(outputs, lanes)
    found: list[tuple[float, Tiling]] = []
    for vectors in range(1, min(_MOST_WIDE, across) + 1):
        most = max(1, (machine.registers - vectors - 2) // vectors)
        panels = [(vectors, across // vectors), (across % vectors, 1)]
        found += _of_positions(axes, lanes, most, panels)
        image_bytes = axes[1].size * axes[2].size * channels * size(element)
        together = min(most, images, _IMAGES // image_bytes)
        if axes[0] == UNIT and together >= 4:
            together = ceil_div(images, ceil_div(images, together))
            meetings = axes[1].meetings * axes[2].meetings
            cost = meetings * _panel_cost(together, panels) / together
            found.append((1.02 * cost, Tiling(lanes, vectors, together, 1, 1)))
    return min(found, key=lambda pair: pair[0])[1]


def _of_positions(
    axes: Axes, lanes: int, most: int, panels: list[tuple[int, int]]
) -> list[tuple[float, Tiling]]:
    """Tiles of positions of one image, and the cycles that they cost for it."""
    _, height, width = axes
    across = max(phase.taps for phase in width.phases) * len(width.phases)
    down = max(phase.taps for phase in height.phases) * len(height.phases)
    met = max(1.0, height.meetings / height.most)
    found = []
    for rows in range(1, min(height.most, most) + 1):
        if rows > 1 and width.most * (rows - 1) >= most:
            break
        tiles = ceil_div(width.most, most // rows)
        if rows > 1 and tiles > 1:
            break
        columns = ceil_div(width.most, tiles)
        cost = 0.0
        for high, count in ((rows, height.most // rows), (1, height.most % rows)):
            taps = across * (met if high == 1 else down)
            for wide in widths(width.most, columns):
                cost += taps * count * _panel_cost(high * wide, panels)
        found.append((cost, Tiling(lanes, panels[0][0], 1, rows, columns)))
    return found


def _panel_cost(rows: int, panels: list[tuple[int, int]]) -> float:
    return sum(count * _step_cost(rows, vectors) for vectors, count in panels if vectors)


def _step_cost(rows: int, vectors: int) -> float:
    """Cycles of a step of a tile: its sums, at least the latency of one, and its loads."""
    return max(rows * vectors, 5) + 0.15 * (rows + vectors) + 0.5


def widths(count: int, most: int) -> list[int]:
    """`count` positions cut into as few pieces of at most `most`, as equal, as can be."""
    pieces = ceil_div(count, most)
    short, tall = divmod(count, pieces)
    return [short + 1] * tall + [short] * (pieces - tall)


def segments(count: int, most: int) -> Iterator[tuple[int, int, int]]:
    """The pieces of `widths` as runs of equal ones: (first position, how many, width)."""
    pieces, start = widths(count, most), 0
    for width in dict.fromkeys(pieces):
        number = pieces.count(width)
        yield start, number, width
        start += number * width


def plan(c: Convolution, machine: Machine) -> Plan:
    """Cut a convolution none of whose sizes is 0."""
    depth, height, width = c.axes
    tiles = tiling(machine, c.element, c.images, c.channels, c.outputs, c.axes)
    in_place = _reads_in_place(c)
    panels = ceil_div(c.outputs, tiles.width)
    rows, images = height.most, tiles.images
    if images > 1:
        in_place = False
    while images == 1 and rows > tiles.rows and _crowds(c, rows, in_place):
        rows = ceil_to(ceil_div(rows, 2), tiles.rows)
    positions = height.most * width.most
    while (
        rows == height.most
        and tiles.images == 1
        and images * 2 <= max(1, c.images // 8)
        and images * positions < _POSITIONS
        and (in_place or 2 * images * slab_bytes(c, rows) <= _SLAB)
    ):
        images *= 2
    wanted = min(_PARTS, max(1, c.images * c.work // _PART))

    def parts(rows: int, panel_block: int) -> int:
        blocks = ceil_div(height.most, rows) * ceil_div(panels, panel_block)
        return ceil_div(c.images, images) * depth.most * c.groups * blocks

    heavy, block = _is_heavy(c), panels
    while heavy and parts(rows, block) < wanted and block > 1:
        block = ceil_div(block, 2)
    while parts(rows, block) < wanted and rows >= 4 * tiles.rows:
        rows = ceil_to(ceil_div(rows, 2), tiles.rows)
    while parts(rows, block) < wanted and block > 1:
        block = ceil_div(block, 2)
    while tiles.images > 1 and parts(rows, block) < wanted and rows > 1:
        rows = ceil_div(rows, 2)
    return Plan(tiles, images, rows, block, in_place, heavy)


def slab_shape(c: Convolution, rows: int) -> tuple[int, int, int]:
    """Input positions along each axis behind `rows` rows of outputs of each phase."""
    depth, height, width = c.axes
    return depth.reach(1), height.reach(rows), width.reach(width.most)


def slab_bytes(c: Convolution, rows: int) -> int:
    return prod(slab_shape(c, rows)) * c.channels * size(c.element)


def _crowds(c: Convolution, rows: int, in_place: bool) -> bool:
    """Whether a part of so many rows goes through more than should stay in a cache.

    In place these are the inputs, which are read again for every panel, and the outputs if the
    weights stay there beside them: then all panels of a position are written near each other.
    """
    if not in_place:
        return slab_bytes(c, rows) > _SLAB
    stays = c.taps * c.channels * c.outputs * size(c.element) <= _WEIGHTS
    numbers = c.channels + (c.outputs if stays else 0)
    return rows * c.axes[2].most * numbers * size(c.element) > _IN_PLACE


def _is_heavy(c: Convolution) -> bool:
    """Whether a single image is smaller than the weights, of which no part should read many."""
    _, height, width = c.axes
    single = c.images == c.groups == c.axes[0].outputs == c.axes[0].kernel == 1
    whole = single and height.most * width.most == height.outputs * width.outputs
    weights = c.taps * c.channels * c.outputs * size(c.element)
    return whole and weights > slab_bytes(c, height.most)


def _reads_in_place(c: Convolution) -> bool:
    """Whether kernels can look at x where it lies: no position is outside of it."""
    inside = all(
        axis.lowest >= 0 and axis.lowest + axis.reach(axis.most) <= axis.size for axis in c.axes
    )
    return inside and c.source == c.element and c.x_strides[-1] == 1


@dataclass(frozen=True)
class WeightPlan:
    """How a gradient for the weights is cut.

    The sums of a part are those of `channels` channels, `panels` panels of outputs, and of every
    `slices`-th run of chunks. A chunk is `images` images, `depths` positions along the depth and
    `rows` along the height. Tiles are `runs` runs of `length` elements, side by side in a slab.
    Where it is `trimmed`, each tap leaves out the positions at which it is outside of the input.
    With `pairs` numbers of neighbouring outputs along the width are multiplied at once.
    """

    tiling: Tiling
    channels: int
    panels: int
    slices: int
    images: int
    depths: int
    rows: int
    run: int
    runs: int
    length: int
    trimmed: bool
    pairs: bool


def weight_plan(c: Convolution, machine: Machine) -> WeightPlan:
    """Cut the gradient for the weights of a convolution none of whose sizes is 0."""
    depth, height, width = c.axes
    lanes = lanes_for(machine, c.element, c.outputs)
    across = ceil_div(c.outputs, lanes)
    bytes_ = size(c.element)
    channels, outputs = c.channels, ceil_to(c.outputs, lanes)
    while c.taps * channels * outputs * bytes_ > _SUMS and outputs >= 16 * lanes:
        outputs = ceil_to(ceil_div(outputs, 2), lanes)
    while c.taps * channels * outputs * bytes_ > _SUMS and channels >= 32:
        channels = ceil_div(channels, 2)
    pairs = c.dtype in machine.pairs
    trimmed = not pairs and _is_mostly_border(c)
    trimmed = trimmed and _chunk(c, channels, outputs)[2] == height.outputs
    merged = width.phases[0].place_step == 1 and not trimmed
    run = channels * (width.kernel if merged else 1)
    count = c.taps * channels // run
    best: tuple[float, int, int, int] | None = None
    for vectors in range(1, min(_MOST_WIDE, outputs // lanes) + 1):
        most = max(1, (machine.registers - vectors - 2) // vectors)
        runs = 1 if trimmed else max(1, min(count, most // run))
        length = min(run, most)
        cost = 0.0
        for high, times in ((runs, count // runs), (count % runs, 1)):
            for wide in widths(run, length) if high else ():
                for v, panels in ((vectors, across // vectors), (across % vectors, 1)):
                    cost += times * panels * _step_cost(high * wide, v) if v else 0
        if best is None or cost < best[0]:
            best = cost, vectors, runs, length
    assert best is not None
    _, vectors, runs, length = best
    tiles = Tiling(lanes, vectors, 1, runs, length)
    panels = max(1, outputs // tiles.width)
    images, depths, rows = _chunk(c, channels, panels * tiles.width)
    chunks = ceil_div(c.images, images) * ceil_div(depth.outputs, depths)
    chunks *= ceil_div(height.outputs, rows)
    parts = c.groups * ceil_div(c.channels, channels)
    parts *= ceil_div(ceil_div(c.outputs, tiles.width), panels)
    wanted = min(_PARTS, max(1, c.images * c.work // _PART))
    whole = c.groups * c.taps * c.channels * ceil_to(c.outputs, tiles.width) * bytes_
    slices = min(chunks, ceil_div(wanted, parts), max(1, _WORKSPACE // whole))
    return WeightPlan(
        tiles, channels, panels, slices, images, depths, rows, run, runs, length, trimmed, pairs
    )  # fmt: skip


def _is_mostly_border(c: Convolution) -> bool:
    """Whether leaving out what is outside of the input saves more than it costs."""
    _, height, width = c.axes
    all_pairs = height.outputs * height.kernel * width.outputs * width.kernel
    few = height.meetings * width.meetings < 0.96 * all_pairs
    return few and c.axes[0] == UNIT and c.channels >= 8


def _chunk(c: Convolution, channels: int, outputs: int) -> tuple[int, int, int]:
    """Images, depths and rows that are packed at a time."""
    depth, height, width = c.axes
    bytes_ = size(c.element)

    def needs(images: int, depths: int, rows: int) -> int:
        slab = depth.reach(depths) * height.reach(rows) * width.reach(width.outputs) * channels
        return images * (slab + depths * rows * width.outputs * outputs) * bytes_

    images, depths, rows = 1, depth.outputs, height.outputs
    if needs(1, depths, rows) > 2 * _SLAB:
        depths = 1
    while depths == 1 and rows > 1 and needs(1, depths, rows) > 2 * _SLAB:
        rows = ceil_div(rows, 2)
    if (depths, rows) != (depth.outputs, height.outputs):
        return 1, depths, rows
    positions = depths * rows * width.outputs
    while (
        2 * images <= c.images
        and images * positions < 4 * _POSITIONS
        and needs(2 * images, depths, rows) <= 2 * _SLAB
    ):
        images *= 2
    return images, depths, rows
