"""Sides that take turns on a workload, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from common import report
from common.processes import Failure, Worker


class Absent(Failure):
    """A side has no way to do a workload, here or yet: nothing went wrong."""


@dataclass
class Outcome:
    """What a side did on a workload. Times of steps in ms, first steps in s, memory in bytes."""

    problem: str | None = None
    absent: bool = False
    curve: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    memory: int = 0
    description: str = ""

    @property
    def counts(self) -> bool:
        return self.problem is None and bool(self.steps)


Row = dict[str, Outcome]


def take_turns(row: Row, workers: dict[str, Worker], repeats: dict[str, int], rounds: int) -> None:
    """One burst of steps from each side in each round."""
    for _ in range(rounds):
        for side, outcome in row.items():
            if outcome.problem is None:
                try:
                    outcome.steps.append(workers[side].ask("time", repeats[side]))
                except Failure as problem:
                    outcome.problem = str(problem)


def cell(outcome: Outcome | None, scale: float | None = None) -> str:
    """An entry of a table: the times; or, for `scale` images at once, images each second."""
    if outcome is None:
        return report.NOTHING
    if outcome.problem is not None:
        return outcome.problem.partition(":")[0] if outcome.absent else "see below"
    if scale is None:
        return report.spread(outcome.steps)
    return report.spread([1e3 * scale / each for each in outcome.steps])
