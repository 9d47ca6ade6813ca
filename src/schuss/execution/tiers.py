"""Which tier computes an evaluation: a matter of the program alone, never of timing or caches.

The first evaluation of a structure goes to the reference tier, unless its work clearly outweighs
compiling. When the structure comes back it is compiled, and stays so. Where structures differ in
sizes alone, as batches of sentences do, this holds for the first few: each of the others waits
until the reference tier has spent on it what compiling costs, so that at worst twice the time of
the better choice is spent.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from schuss import settings
from schuss.execution.capture import Capture
from schuss.execution.report import Run
from schuss.graph import Node

if TYPE_CHECKING:
    from schuss.compiler.program import Program


_PROGRAMS = 256  # the least recently used go first
_SEEN = 4096
_SIZES = 8  # so many programs for one form are made without asking what they gain
_WORTH_SECONDS = 0.2  # of the reference tier, and so much more for each node to compile
_WORTH_PER_NODE = 4e-4
_SECONDS_PER_NODE = 2e-5  # what NumPy takes for next to no work

_programs: OrderedDict[tuple[int, ...], Program] = OrderedDict()
_forms: dict[tuple[int, ...], Hashable] = {}  # of the structures that have a program
_seen: OrderedDict[tuple[int, ...], int] = OrderedDict()  # how often the reference tier ran them
_mode: str | None = None
_checks: bool | None = None


def mode() -> str:
    """auto, reference or compiled: as SCHUSS_EXECUTION said when it was first asked for."""
    global _mode
    if _mode is None:
        _mode = settings.execution()
    return _mode


@contextmanager
def using(name: str) -> Iterator[None]:
    """Force a tier for a while: for tests, and to compare."""
    global _mode
    assert name in settings.EXECUTIONS, name
    before, _mode = mode(), name
    try:
        yield
    finally:
        _mode = before


@contextmanager
def at_once() -> Iterator[None]:
    """Compile what is met for the first time too, unless the user asked for the reference tier.

    What is computed then does not depend on what has been computed before: a training run that is
    resumed in another process gives the same bits.
    """
    with using("compiled" if mode() == "auto" else mode()):
        yield


def checking() -> bool:
    """Whether both tiers compute and are compared: SCHUSS_CHECK=1."""
    global _checks
    if _checks is None:
        _checks = settings.check()
    return _checks


def reference_only() -> bool:
    return mode() == "reference"


def known(key: tuple[int, ...]) -> Program | None:
    """The program of the structure with this key, if there is one."""
    found = _programs.get(key)
    if found is not None:
        _programs.move_to_end(key)
    return found


def program_for(work: Capture, report: Run) -> Program | None:
    """The program of this structure; None for the reference tier."""
    found = known(work.key)
    if found is None and mode() == "auto":
        report.why = _why_not_yet(work)
        if report.why:
            return None
    return found or compiled(work, report)


def compiled(work: Capture, report: Run) -> Program:
    """Make the program of a structure that has none."""
    from schuss.compiler.program import Program, compile_graph

    started = time.perf_counter()
    made = Program(compile_graph(work.graph()))
    report.compile_seconds = time.perf_counter() - started
    _programs[work.key] = made
    _forms[work.key] = _form(work)
    _seen.pop(work.key, None)
    if len(_programs) > _PROGRAMS:
        oldest, _ = _programs.popitem(last=False)
        del _forms[oldest]
        _note(oldest, 1)
    return made


def _why_not_yet(work: Capture) -> str:
    """Why the reference tier is to compute this once more; "" where a program is due."""
    met = _seen.get(work.key, 0)
    cost = _WORTH_SECONDS + _WORTH_PER_NODE * len(work.order)
    if (met + 1) * reference_seconds(work.order) > cost:
        return ""
    if not met:
        return "first evaluation of this structure: it is compiled when it comes back"
    form = _form(work)
    alike = sum(each == form for each in _forms.values())
    if alike < _SIZES or checking():
        return ""
    return (
        f"these ops are compiled for {alike} other sizes: for these sizes they will be when it pays"
    )


def _form(work: Capture) -> Hashable:
    """The same for structures that differ in sizes alone: ops and dtypes, ranks and axes."""
    return tuple(
        [
            (node.op.name, node.dtype, len(node.shape), node.attributes.get("axes"))  # type: ignore[union-attr]
            for node in work.order
        ]
    )


def note_reference(work: Capture) -> None:
    """The reference tier has computed this structure once more."""
    if mode() == "auto":
        _note(work.key, _seen.pop(work.key, 0) + 1)


def _note(key: tuple[int, ...], times: int) -> None:
    _seen[key] = times
    if len(_seen) > _SEEN:
        _seen.popitem(last=False)


def reference_seconds(order: Sequence[Node]) -> float:
    """About how long the reference tier takes, apart from what compiling does not help."""
    total = _SECONDS_PER_NODE * len(order)
    for node in order:
        op = node.op
        if op.view or op.name.startswith("convolve"):  # type: ignore[union-attr]
            continue
        if op.name == "matmul":  # type: ignore[union-attr]
            total += 2e-11 * node.size * node.inputs[0].shape[-1]
        else:
            total += 2.7e-9 * max(node.size, *[each.size for each in node.inputs], 0)
    return total


def give_back() -> None:
    """Let go of memory that programs keep for their next run."""
    for program in _programs.values():
        program.give_back()


def forget() -> None:
    """Drop all programs and all that was seen."""
    _programs.clear()
    _forms.clear()
    _seen.clear()
