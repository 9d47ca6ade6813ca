"""How templates keep the sums of blocks of rows while they give these to their epilogue.

epilogue.py has the functions that they call; in between the sums are in registers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import NamedTuple

from schuss.compiler.cpu.cascade import BLOCK
from schuss.compiler.cpu.epilogue import SUMS
from schuss.compiler.cpu.matmul_plan import ceil_div, ceil_to
from schuss.compiler.cpu.matmul_text import Function
from schuss.compiler.geometry import Phase


class Block(NamedTuple):
    """The block to which the next rows belong, and whether they are the first ones there."""

    number: str
    is_first: str


class RowBlocks(NamedTuple):
    """Blocks of `rows` rows of an image, or of the images of a tile.

    Attributes:
        sizes: for each phase of a convolution its outputs along depth and height.
        starts: for each phase the first of its blocks.
        total: how many blocks there are.
    """

    rows: int
    sizes: list[tuple[int, int]]
    starts: list[int]
    total: int

    def whole(self, rows: int, most: int) -> int:
        """So many rows for a part, or a few more: none of two parts has a part of a block."""
        return ceil_to(rows, self.rows) if rows < most else rows

    def at(self, f: Function, phase: int, image: str, z: str, row: str) -> tuple[str, str]:
        """The block of a row of a phase, and which row it is there."""
        depth, height = self.sizes[phase]
        block, inside = f.divide(row, self.rows)
        lead = f.mul(f.add(f.mul(image, depth), z), ceil_div(height, self.rows))
        return f.add(f.add(lead, block), self.starts[phase]), inside


def row_blocks(
    images: int, phases: Iterable[Sequence[Phase]], positions: int, high: int = 1
) -> RowBlocks:
    """Blocks of about so many positions as one accumulator should take, `high` rows or some times
    as many, of which each has so many `positions`; `images` counts those of tiles as one.
    """
    rows = high * max(1, BLOCK // (high * positions))
    sizes = [(depth.outputs, height.outputs) for depth, height, *_ in phases]
    counts = [images * depth * ceil_div(height, rows) for depth, height in sizes]
    starts = [0, *accumulate(counts)]
    return RowBlocks(rows, sizes, starts[:-1], starts[-1])


class Rows(NamedTuple):
    """Rows of a block, one after the other, in the same columns."""

    is_first: str
    sums: str

    def arguments(self, f: Function, is_first: str = "true") -> str:
        """What the call of an epilogue ends with, for the first one of these rows or another."""
        if is_first == "true":
            is_first = self.is_first
        elif is_first != "false":
            is_first = f.let(f"and i1 {is_first}, {self.is_first}")
        return f", i1 {is_first}, ptr {self.sums}"


def sums_up(epilogue: str) -> bool:
    """Whether the text of an epilogue sums up blocks of rows."""
    return f"{SUMS} = type" in epilogue


@contextmanager
def rows_of(f: Function, block: Block | None, n: str, count: str) -> Iterator[Rows | None]:
    """Rows of a block, in `count` columns from `n` on; without one, there is nothing to sum up."""
    if block is None:
        yield None
        return
    sums = f.room(SUMS)
    place = f"ptr %args, i64 {n}, i64 {count}, i64 {block.number}, ptr {sums}"
    f.line(f"call void @epilogue_load({place}, i1 {block.is_first})")
    yield Rows(block.is_first, sums)
    f.line(f"call void @epilogue_store({place})")
