"""Which tier computes an evaluation: a matter of the program alone, never of timing or caches.

The first evaluation of a structure goes to the reference tier, unless its work clearly outweighs
compiling. When the structure comes back it is compiled, and stays so.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from schuss import settings
from schuss.execution.capture import Capture
from schuss.execution.report import Run
from schuss.graph import Node

if TYPE_CHECKING:
    from schuss.compiler.program import Program


class CheckFailedError(Exception):
    """An index points outside. Nothing has been overwritten; the reference tier knows which."""


_PROGRAMS = 256  # the least recently used go first
_SEEN = 4096
_HEAVY = 1e11  # multiply-adds that the reference tier would take seconds for

_programs: OrderedDict[tuple[int, ...], Program] = OrderedDict()
_seen: OrderedDict[tuple[int, ...], None] = OrderedDict()
_mode: str | None = None


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


def reference_only() -> bool:
    return mode() == "reference"


def program_for(work: Capture, report: Run) -> Program | None:
    """The program of this structure; None for the reference tier."""
    known = _programs.get(work.key)
    if known is not None:
        _programs.move_to_end(work.key)
        return known
    if mode() == "auto" and work.key not in _seen and multiply_adds(work.order) < _HEAVY:
        report.why = "first evaluation of this structure: it is compiled when it comes back"
        return None
    from schuss.compiler.program import Program, compile_graph

    started = time.perf_counter()
    made = Program(compile_graph(work.graph()))
    report.compile_seconds = time.perf_counter() - started
    _programs[work.key] = made
    _seen.pop(work.key, None)
    if len(_programs) > _PROGRAMS:
        _programs.popitem(last=False)
    return made


def note_reference(work: Capture) -> None:
    """The reference tier has computed this structure once."""
    _seen[work.key] = None
    if len(_seen) > _SEEN:
        _seen.popitem(last=False)


def multiply_adds(order: list[Node]) -> float:
    """What the products among these nodes cost."""
    total = 0.0
    for node in order:
        name = node.op.name  # type: ignore[union-attr]
        if name == "matmul":
            total += float(node.size) * node.inputs[0].shape[-1]
        elif name.startswith("convolve"):
            total += float(max(x.size for x in (node, *node.inputs))) * math.prod(
                min((x.shape for x in node.inputs), key=math.prod)[1:]
            )
    return total


def forget() -> None:
    """Drop all programs and all that was seen."""
    _programs.clear()
    _seen.clear()
