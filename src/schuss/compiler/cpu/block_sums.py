"""How templates keep the sums of blocks of rows while they give these to their epilogue.

epilogue.py has the functions that they call; in between the sums are in registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from schuss.compiler.cpu.epilogue import SUMS
from schuss.compiler.cpu.matmul_text import Function


class Block(NamedTuple):
    """The block to which the next rows belong, and whether they are the first ones there."""

    number: str
    is_first: str


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
