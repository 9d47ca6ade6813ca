"""Runs a program on both tiers and tells what is wrong."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np

from schuss.execution import tiers
from schuss.patterns import Memory

from .compare import differing, unexplained, with_noise
from .program import Outcome, Program, run

_MOVED = (1, 3, 8, 48)  # runs with moved roundings: more only ever explain more


@dataclass
class Failure:
    """What went wrong, and a name under which the same fault is found again.

    Attributes:
        kind: "value", or the exception and where it came from.
        text: for people.
    """

    kind: str
    text: str

    def same(self, other: Failure | None) -> bool:
        return other is not None and self.kind.split("|")[0] == other.kind.split("|")[0]


class Suspicions:
    """How many programs needed runs with moved roundings."""

    count = 0


def check(program: Program, runs: tuple[int, ...] = (0, 1, 0)) -> Failure | None:
    """Compare the tiers over runs with several inputs; None where they agree.

    What the first runs returned is held until the end: later runs must not touch it.
    """
    try:
        function = program.function()
    except SyntaxError as error:
        return Failure("syntax", str(error))
    arrays = {number: program.arrays(number) for number in set(runs)}
    expected = {}
    for number in arrays:
        with tiers.using("reference"), _nothing_remembered():
            expected[number] = run(program, function, number, arrays[number])
    held: list[tuple[Outcome, list[bytes]]] = []
    for number in runs:
        _poison()
        try:
            with tiers.using(program.tier):
                outcome = run(program, function, number, arrays[number])
        except AssertionError as error:
            return Failure("input|written", str(error))

        def again(number: int = number) -> list[np.ndarray]:
            return run(program, function, number, arrays[number]).values

        found = _compare(program, again, number, expected[number], outcome)
        if found is not None:
            return found
        held.append((outcome, [each.tobytes() for each in outcome.values]))
    for i, (outcome, before) in enumerate(held):
        for j, (each, was) in enumerate(zip(outcome.values, before, strict=True)):
            if each.tobytes() != was:
                name = _name(program, j)
                return Failure("value|changed", f"{name} of run {i} was overwritten by a later run")
    jitted = any("schuss.jit" in line for line in program.lines)  # calls are recorded or replayed
    same = runs[0] == runs[-1] and program.tier == "compiled" and not jitted
    if same and len(held) > 1 and held[0][1] != held[-1][1]:
        return Failure("value|repeat", "the same inputs gave other bits the second time")
    return None


@contextmanager
def _nothing_remembered() -> Iterator[None]:
    """Derivatives and updates are recorded in full, so that what was learned is judged too."""
    with (
        patch.object(Memory, "get", lambda self, key: None),
        patch.object(Memory, "comes_again", lambda self, key: False),
    ):
        yield


def _poison() -> None:
    """Fill the memory that runs share: what reads there without writing first shows itself."""
    from schuss.compiler import program

    arena = getattr(program, "_arena", None)
    if arena is not None and getattr(arena, "memory", None) is not None:
        arena.memory[...] = 0xFF


def _compare(program, again, number, expected, outcome):  # type: ignore[no-untyped-def]
    """What is wrong with a run; `again` gives its values anew, on the tier in use."""
    if expected.error is not None or outcome.error is not None:
        return _compare_errors(expected.error, outcome.error)
    suspects = []
    if len(expected.values) != len(outcome.values):
        return Failure("value|count", f"{len(outcome.values)} results instead of "
                       f"{len(expected.values)}")  # fmt: skip
    for i, (reference, found) in enumerate(zip(expected.values, outcome.values, strict=True)):
        if reference.shape != found.shape or reference.dtype != found.dtype:
            return Failure("value|type", f"{_name(program, i)}: {found.dtype}{found.shape}, "
                           f"reference {reference.dtype}{reference.shape}")  # fmt: skip
        if differing(reference, found).any():
            suspects.append(i)
    if not suspects:
        return None
    Suspicions.count += 1
    moved: list[list[np.ndarray]] = []
    for count in _MOVED:
        while len(moved) < count:
            moved.append(with_noise(again, len(moved)))
        for i in suspects:
            each = [values[i] for values in moved if values]
            wrong = unexplained(expected.values[i], outcome.values[i], each)
            if wrong.any():
                break
        else:
            return None
    return Failure("value", _described(_name(program, i), expected.values[i],
                                       outcome.values[i], wrong, number))  # fmt: skip


def _name(program: Program, i: int) -> str:
    """An output may be a list of several."""
    plain = all(name[0] in "vx" for name in program.outputs)
    return program.outputs[i] if plain else f"result {i}"


def _described(name, reference, found, wrong, number):  # type: ignore[no-untyped-def]
    places = np.argwhere(wrong)
    lines = [f"{name} {reference.dtype}{list(reference.shape)}, run {number}: "
             f"{len(places)} of {reference.size} elements differ"]  # fmt: skip
    for place in places[:6]:
        at = tuple(int(i) for i in place)
        lines.append(f"  {list(at)}: reference {reference[at]!r}, compiled {found[at]!r}")
    return "\n".join(lines)


def _compare_errors(expected: BaseException | None, found: BaseException | None) -> Failure | None:
    if expected is not None and found is not None:
        if type(expected) is type(found) and str(expected) == str(found):
            return None
        if type(expected) is type(found):
            return Failure("message", f"reference: {expected}\ncompiled: {found}")
    if found is None:
        return Failure("no error", f"the reference raised {expected!r}")
    where = traceback.extract_tb(found.__traceback__)[-1]
    place = f"{os.path.basename(where.filename)}:{where.lineno} {where.name}"
    text = "".join(traceback.format_exception(found)[-6:])
    return Failure(f"{type(found).__name__} {place}", text)
