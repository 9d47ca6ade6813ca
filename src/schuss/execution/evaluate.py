"""Computing values: which nodes have to run, in which order, and which values stay.

An evaluation runs the nodes that its targets need and that have no value yet, in the order in which
they were recorded. A value is given back as soon as its last user has run, unless
  - it was asked for, or a tensor of the user points at it, or
  - a later `backward()` will look at it (`Op.saves`), so that printing a loss first costs no second
  forward pass.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import numpy as np

import schuss.compiler.cpu.host  # noqa: F401  # its lock is registered before ours: see below
from schuss.context import context
from schuss.errors import BadValueError, CheckFailedError, SchussError
from schuss.execution import tiers
from schuss.execution.capture import Capture, capture
from schuss.execution.compare import compare
from schuss.execution.interrupts import in_one_piece
from schuss.execution.memory import check_allocation, out_of_memory
from schuss.execution.reference import run
from schuss.execution.report import Run
from schuss.execution.shortcut import (
    Survey,
    known,
    references_to,
    remember,
    survey,
    values_to_keep,
)
from schuss.graph import Handle, Node, ancestors, relieves

_last_run: Run | tuple[tiers.Program, str, float] = Run()
one_at_a_time = threading.RLock()  # threads may share nodes, and an evaluation drops values
# Or the child of a fork would wait for a thread that it does not have. What is registered last is
# called first: this lock is taken before LLVM's, as in an evaluation.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=one_at_a_time.acquire,
        after_in_parent=one_at_a_time.release,
        after_in_child=one_at_a_time.release,
    )

# Called with each node right after it ran; `debug.check_numerics` sets one.
Watcher = Callable[[Node], None]
watchers: list[Watcher] = []


def last_run() -> Run:
    """What the last evaluation ran, and for how long."""
    global _last_run
    if isinstance(_last_run, tuple):  # put into words only now: most are never asked for
        program, why, seconds = _last_run
        _last_run = Run("compiled", why, program.kinds, seconds, 0.0, program.peak_bytes)
    return _last_run


def set_last_run(run: Run) -> None:
    """Note what ran, for `last_run`."""
    global _last_run
    _last_run = run


def note_run(program: tiers.Program, why: str, seconds: float) -> None:
    """Note that a program ran, for `last_run`."""
    global _last_run
    _last_run = program, why, seconds


def evaluate(targets: Iterable[Node], replaced: Sequence[Handle] = ()) -> None:
    """Give every target its value.

    The memory of what `replaced` points at may be taken over, where nobody else can see it.
    """
    with one_at_a_time:
        wanted = [node for node in targets if node.value is None]
        if wanted:
            _run_all(wanted, replaced)


def evaluate_pending(targets: Iterable[Node] = (), replaced: Sequence[Handle] = ()) -> None:
    """Give a value to every target and to all tensors alive in this thread that wait for one.

    `optimizer.step()` ends with this: what a loop computes and looks at later (a running loss, say)
    does not hold on to the graphs of all its steps. `replaced` are the last handles on values that
    nobody will look at again, if all goes well.
    """
    if context.recording is not None and context.recording.defers():
        return
    pending, context.pending = context.pending, []
    context.pending_bytes = context.pruned = 0
    waiting = [node for ref in pending if (node := ref()) and node.handles and node.value is None]
    targets = list(targets)
    try:
        evaluate({*targets, *waiting}, replaced)
    except SchussError as problem:
        try:
            evaluate(targets)
        except SchussError:
            raise problem from None
        for node in waiting:  # the fault lies with one of these: whoever looks at it is told
            with suppress(SchussError):
                evaluate([node])
    finally:
        _settle()
    _let_go_of_spent()


def _settle() -> None:
    """Put tensors with a state back to their last value where the new one cannot be computed."""
    unsettled, context.unsettled = context.unsettled, []
    for ref in unsettled:
        handle = ref()
        if handle is not None:
            handle._settle()


def _let_go_of_spent() -> None:
    """Cut the graphs behind computed values that a backward pass went through.

    A running sum of losses would hold on to the graphs of all steps otherwise. Another `backward()`
    through them is an error that says so.
    """
    spent, context.spent = context.spent, []
    for ref in spent:
        node = ref()
        if node is not None and node.value is not None and node.owner is None:
            node.finish()


# A loop that never looks at a value (a validation loop that only counts, say) would hold on to
# every batch that it has seen, and its graph would grow without end. So a large backlog is
# computed: before new data comes in, or after many nodes. Counted, never timed: runs repeat.
_BACKLOG_BYTES = 64 * 2**20


def relieve() -> None:
    """Compute a large backlog; not while a call is recorded whose evaluations wait for its end.

    To wait marks the recording, which must not depend on what was pending before the call. Nor
    while a pattern is recorded.
    """
    if context.learning:
        return
    if context.recording is None or not context.recording.defer:
        evaluate_pending()


def admit(nbytes: int) -> None:
    """Note that `nbytes` of host data enter the graph, and compute a large backlog first."""
    context.pending_bytes += nbytes
    if context.pending_bytes > _BACKLOG_BYTES:
        relieve()
        context.pending_bytes = nbytes


relieves(relieve)


def _run_all(targets: list[Node], replaced: Sequence[Handle]) -> None:
    global _last_run
    started = time.perf_counter()
    plain = watchers or tiers.reference_only() or tiers.checking()
    found = None if plain else survey(targets)
    if found is not None and _run_known(found, replaced, started):
        return
    order = ancestors(targets, _lacks_value)
    kept = values_to_keep(order, targets)
    report = Run()
    work = None if watchers or tiers.reference_only() else capture(order, kept)
    program = None if work is None else tiers.program_for(work, report)
    if program is None or work is None:
        _on_reference(order, kept, report)
        if work is not None:
            tiers.note_reference(work)
    elif found is None:
        _on_both(program, work, order, kept, report)
    else:
        remember(found, work)
        found = None  # it holds the leaves
        for node in work.outputs:
            check_allocation(node)
        leaves = [leaf for leaf in work.leaves if leaf.constant is None]
        dying = _dying(
            program, leaves, references_to(leaves, [node.inputs for node in order]), replaced
        )
        if _on_program(program, leaves, work.outputs, dying):
            report.tier = "compiled"
            report.take_from(program)
        else:
            report.why = "a value was outside of what is allowed"
            _on_reference(order, kept, report)
    _cut([node for node in order if node in kept])
    report.seconds = time.perf_counter() - started
    _last_run = report


def _run_known(found: Survey, replaced: Sequence[Handle], started: float) -> bool:
    """Run the program of a structure that has been evaluated before. False: there is none."""
    ready = known(found)
    if ready is None:
        return False
    program, shortcut = ready
    outputs = found.outputs
    for i in shortcut.large:
        check_allocation(outputs[i])
    leaves = [found.leaves[i] for i in shortcut.inputs]
    dying = _dying(program, leaves, shortcut.references, replaced)
    if not _on_program(program, leaves, outputs, dying):
        return False
    _cut(outputs)
    note_run(program, "", time.perf_counter() - started)
    return True


def _on_program(
    program: tiers.Program, leaves: list[Node], outputs: list[Node], dying: list[bool] | None
) -> bool:
    """One call. False where a check failed: the reference tier finds out what to say."""
    if dying is None:
        return _call(program, leaves, outputs, None)
    with in_one_piece():
        return _call(program, leaves, outputs, dying)


def _call(
    program: tiers.Program, leaves: list[Node], outputs: list[Node], dying: list[bool] | None
) -> bool:
    try:
        values = program.run([leaf.value for leaf in leaves], dying)  # type: ignore[misc]
    except (CheckFailedError, BadValueError):
        return False
    except MemoryError as problem:
        largest = max(outputs, key=lambda node: node.nbytes)
        raise out_of_memory(largest, [*outputs, *leaves]) from problem
    for node, value in zip(outputs, values, strict=True):
        node.value = value
    if dying is not None:
        for leaf, gone in zip(leaves, dying, strict=True):
            if gone:
                leaf.value = None  # its memory holds something else now
    return True


def _on_both(
    program: tiers.Program, work: Capture, order: list[Node], kept: set[Node], report: Run
) -> None:
    """Both tiers, which must agree; the values of the reference tier stay."""
    leaves = [leaf.value for leaf in work.leaves if leaf.constant is None]
    try:
        values = program.run(leaves)  # type: ignore[arg-type]
        values = [each.copy() for each in values]
    except (CheckFailedError, BadValueError):
        values = None
    _on_reference(order, kept, report)
    if values is not None:
        compare(work.outputs, values)
    report.tier = "both"


def _dying(
    program: tiers.Program,
    leaves: list[Node],
    references: list[int],
    replaced: Sequence[Handle],
) -> list[bool] | None:
    """Which leaves nobody will look at after this evaluation, except by what `replaced` holds.

    All references to such a node and to its array are accounted for: a single one more, and its
    memory stays as it is. `references` says how many nodes hold each; -1: it is too small.
    """
    if not replaced:
        return None
    held: dict[Node, int] = {}
    for handle in replaced:
        held[handle._node] = held.get(handle._node, 0) + 1
    found = [False] * len(leaves)
    for i in program.donors:
        leaf, nodes = leaves[i], references[i]
        handles = held.get(leaf) if nodes >= 0 else None
        if handles is None or leaf.handles != handles:
            continue
        value = leaf.value
        found[i] = (
            value is not None
            and value.base is None
            and value.flags.writeable
            and sys.getrefcount(leaf) == handles + nodes + _OWN_REFERENCES
            and sys.getrefcount(value) <= _ARRAY_REFERENCES + program.owns(value)
        )
    return found if True in found else None


# References to a leaf from here: `leaf`, the argument, `leaves`, `held`, and the leaves of the
# capture or the survey.
_OWN_REFERENCES = 5
# References to its array: the node, `value`, the argument; and the pool of the program, if there.
_ARRAY_REFERENCES = 3


def _on_reference(order: list[Node], kept: set[Node], report: Run) -> None:
    """Op by op, each value given back after its last use."""
    uses = _count_uses(order)
    held = 0
    with np.errstate(all="ignore"):
        for node in order:
            check_allocation(node)
            try:
                node.value = run(node)
            except MemoryError as problem:
                raise out_of_memory(node, order) from problem
            for watch in watchers:
                watch(node)
            report.ops[node.op.name] += 1  # type: ignore[union-attr]  # data has a value always
            if not node.op.view:  # type: ignore[union-attr]
                held += node.nbytes
                report.peak_bytes = max(report.peak_bytes, held)
            for each in node.inputs:
                if each in uses:
                    uses[each] -= 1
                    if uses[each] == 0 and each not in kept:
                        each.value = None
                        held -= 0 if each.op.view else each.nbytes  # type: ignore[union-attr]


def _lacks_value(node: Node) -> bool:
    return node.value is None


def _count_uses(order: list[Node]) -> dict[Node, int]:
    uses = dict.fromkeys(order, 0)
    for node in order:
        for each in node.inputs:
            if each in uses:
                uses[each] += 1
    return uses


def _cut(kept: Iterable[Node]) -> None:
    """Let go of the inputs of finished nodes that no gradient will pass: they are data now."""
    for node in kept:
        if not node.requires_grad or node.owner is not None:
            node.finish()
