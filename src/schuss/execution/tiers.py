"""Which tier computes an evaluation: a matter of the program alone, never of timing or caches.

The first evaluation of a structure goes to the reference tier, unless its work clearly outweighs
compiling. When the structure comes back it is compiled, and stays so.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
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
_WORTH_SECONDS = 0.2  # of the reference tier, and so much more for each node to compile
_WORTH_PER_NODE = 4e-4

_programs: OrderedDict[tuple[int, ...], Program] = OrderedDict()
_seen: OrderedDict[tuple[int, ...], None] = OrderedDict()
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


def is_known(work: Capture) -> bool:
    """Whether there is a program of this structure, or it was met before."""
    return work.key in _programs or work.key in _seen


def known(key: tuple[int, ...]) -> Program | None:
    """The program of the structure with this key, if there is one."""
    found = _programs.get(key)
    if found is not None:
        _programs.move_to_end(key)
    return found


def program_for(work: Capture, report: Run) -> Program | None:
    """The program of this structure; None for the reference tier."""
    found = known(work.key)
    if found is not None:
        return found
    if mode() == "auto" and work.key not in _seen and not _is_due(work):
        report.why = "first evaluation of this structure: it is compiled when it comes back"
        return None
    from schuss.compiler.program import Program, compile_graph

    started = time.perf_counter()
    made = Program(compile_graph(work.graph()))
    report.compile_seconds = time.perf_counter() - started
    _programs[work.key] = made
    _seen.pop(work.key, None)
    if len(_programs) > _PROGRAMS:
        oldest, _ = _programs.popitem(last=False)
        _seen[oldest] = None
    return made


def _is_due(work: Capture) -> bool:
    """Whether a structure is compiled although this process meets it for the first time."""
    return reference_seconds(work.order) > _WORTH_SECONDS + _WORTH_PER_NODE * len(work.order)


def note_reference(work: Capture) -> None:
    """The reference tier has computed this structure once."""
    if mode() != "auto":
        return
    _seen[work.key] = None
    if len(_seen) > _SEEN:
        _seen.popitem(last=False)


def reference_seconds(order: Sequence[Node]) -> float:
    """About how long the reference tier takes, apart from what compiling does not help."""
    total = 0.0
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
    _seen.clear()
