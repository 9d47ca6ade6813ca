"""Loops that add up in blocks, and blocks of blocks.

A number added to a large sum is rounded to the places that the sum has. Numbers that are alike are
all rounded to the same side, and the error grows with how many there are. So no more than `BLOCK`
of them go into an accumulator, which then goes into one of the next level and begins anew: much
like pairwise summation (Higham, The accuracy of floating point summation, 1993).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from schuss.compiler.cpu.elementwise import kind_of
from schuss.compiler.cpu.printer import Printer

BLOCK = 128  # additions to an accumulator


@dataclass(frozen=True)
class Nest:
    """A loop over an axis, or over one `span` of an axis where a loop around it goes by spans.

    Attributes:
        axis: of the kernel.
        size: of the axis.
        step: from one round to the next.
        span: how far the loop goes; None is to the end of the axis.
        moves: the level whose accumulators go into those of the next after each round, or None.
    """

    axis: int
    size: int
    step: int
    span: int | None
    moves: int | None


def nest(
    axes: Sequence[tuple[int, int, int]], added: int = 1, level: int = 0, most: float = BLOCK
) -> tuple[list[Nest], int, int]:
    """The loops over axes given as (axis, size, step), outermost first.

    Each round of the innermost adds `added` numbers to accumulators of `level`, each of which takes
    `most`. What comes back beside the loops is how many numbers go into which level in the end.
    """
    loops: list[Nest] = []
    for axis, size, step in reversed(axes):
        rounds, moves = -(-size // step), None
        while added * rounds > most and rounds > 1:
            block = max(1, int(most) // added)
            if block > 1:
                loops.insert(0, Nest(axis, size, step, step * block, moves))
                step *= block
            moves, level, added = level, level + 1, 1
            rounds = -(-rounds // block)
        loops.insert(0, Nest(axis, size, step, None, moves))
        added *= rounds
    return loops, added, level


class Cascade:
    """The accumulators of reductions, vectors in memory, level above level.

    Args:
        printer: that prints the loops.
        reductions: numbers of their lines.
        width: accumulators that each has on the lowest level.
        above: and on those above it, `width` of them or one.
        levels: how many there are above it.
    """

    def __init__(
        self, printer: Printer, reductions: Sequence[int], width: int, above: int, levels: int
    ) -> None:
        self.p, self.reductions = printer, reductions
        self._held: list[dict[int, list[str]]] = []
        for level in range(levels + 1):
            count = above if level else width
            self._held.append({i: [self._new(i) for _ in range(count)] for i in reductions})

    def add(self, number: int, place: int, value: str) -> None:
        """A value to an accumulator of the lowest level."""
        self._into(self._held[0][number][place], number, value)

    def move(self, level: int) -> None:
        """Add the accumulators of a level to those of the next and empty them."""
        for i in self.reductions:
            parts, totals = self._held[level][i], self._held[level + 1][i]
            for place, part in enumerate(parts):
                self._into(totals[place % len(totals)], i, self._load(part, i))
                self._empty(part, i)

    def totals(self, number: int) -> list[str]:
        """The accumulators of the highest level."""
        return [self._load(each, number) for each in self._held[-1][number]]

    @contextmanager
    def loops(self, nests: Sequence[Nest]) -> Iterator[None]:
        """Loops around what is printed inside."""
        if not nests:
            with self.p.scope():
                yield
            return
        t, at = self.p.t, self.p.at
        one, *rest = nests
        start, stop = "0", str(one.size)
        if one.span is not None:  # inside a loop over the same axis
            start = at[one.axis]
            end = t.plus(start, str(one.span))
            stop = end if one.size % one.span == 0 else t.smaller(end, stop)
        with t.loop(start, stop, one.step) as i:
            at[one.axis] = i
            with self.loops(rest):
                yield
            if one.moves is not None:
                self.move(one.moves)

    def _kind(self, number: int) -> str:
        return kind_of(self.p.kernel.lines[number].dtype, self.p.lanes)

    def _new(self, number: int) -> str:
        pointer = self.p.t.alloca(self._kind(number))
        self._empty(pointer, number)
        return pointer

    def _empty(self, pointer: str, number: int) -> None:
        nothing = self.p.identity(self.p.kernel.lines[number])
        self.p.t.put(f"store {self._kind(number)} {nothing}, ptr {pointer}, align 64")

    def _load(self, pointer: str, number: int) -> str:
        return self.p.t.new(f"load {self._kind(number)}, ptr {pointer}, align 64")

    def _into(self, pointer: str, number: int, value: str) -> None:
        held, line = self._load(pointer, number), self.p.kernel.lines[number]
        total = self.p.combine(line, held, value, self.p.lanes)
        self.p.t.put(f"store {self._kind(number)} {total}, ptr {pointer}, align 64")
