"""Computing values: which nodes have to run, in which order, and which values stay.

An evaluation runs the nodes that its targets need and that have no value yet, in the order in which
they were recorded. A value is given back as soon as its last user has run, unless
  - it was asked for, or a tensor of the user points at it, or
  - a later `backward()` will look at it (`Op.saves`), so that printing a loss first costs no second
  forward pass.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from schuss.context import context
from schuss.errors import SchussError
from schuss.execution.memory import check_allocation, out_of_memory
from schuss.execution.reference import run
from schuss.graph import OUTPUT, Node, ancestors, is_wanted, relieves


@dataclass
class Run:
    """What an evaluation did.

    Attributes:
        tier: which tier computed it; "reference" is NumPy, op by op.
        ops: how often each op ran.
        seconds: wall time.
        peak_bytes: the most bytes of values that this evaluation held at once, beside what it
            found.
    """

    tier: str = "reference"
    ops: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    peak_bytes: int = 0

    @property
    def nodes(self) -> int:
        return self.ops.total()

    def __str__(self) -> str:
        most = ", ".join(f"{name} {count}" for name, count in self.ops.most_common(8))
        return (
            f"{self.tier}: {self.nodes} ops in {self.seconds * 1e3:.2f} ms, "
            f"at most {self.peak_bytes / 2**20:.1f} MiB; {most}"
        )


_last_run = Run()
_one_at_a_time = threading.RLock()  # threads may share nodes, and an evaluation drops values

# Called with each node right after it ran; `debug.check_numerics` sets one.
Watcher = Callable[[Node], None]
watchers: list[Watcher] = []


def last_run() -> Run:
    """What the last evaluation ran, and for how long."""
    return _last_run


def evaluate(targets: Iterable[Node]) -> None:
    """Give every target its value."""
    with _one_at_a_time:
        wanted = [node for node in targets if node.value is None]
        if wanted:
            _run_all(wanted)


def evaluate_pending(targets: Iterable[Node] = ()) -> None:
    """Give a value to every target and to all tensors alive in this thread that wait for one.

    `optimizer.step()` ends with this: what a loop computes and looks at later (a running loss, say)
    does not hold on to the graphs of all its steps.
    """
    pending, context.pending = context.pending, []
    context.pending_bytes = context.pruned = 0
    waiting = [node for ref in pending if is_wanted(node := ref())]
    targets = list(targets)
    try:
        evaluate([*targets, *waiting])  # type: ignore[list-item]  # is_wanted excludes None
    except SchussError as problem:
        try:
            evaluate(targets)
        except SchussError:
            raise problem from None
        for node in waiting:  # the fault lies with one of these: whoever looks at it is told
            with suppress(SchussError):
                evaluate([node])  # type: ignore[list-item]
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
            node.inputs = ()
            node.scope = None


# A loop that never looks at a value (a validation loop that only counts, say) would hold on to
# every batch that it has seen, and its graph would grow without end. So a large backlog is
# computed: before new data comes in, or after many nodes. Counted, never timed: runs repeat.
_BACKLOG_BYTES = 64 * 2**20


def admit(nbytes: int) -> None:
    """Note that `nbytes` of host data enter the graph, and compute a large backlog first."""
    context.pending_bytes += nbytes
    if context.pending_bytes > _BACKLOG_BYTES:
        evaluate_pending()
        context.pending_bytes = nbytes


relieves(evaluate_pending)


def _run_all(targets: list[Node]) -> None:
    global _last_run
    started = time.perf_counter()
    report = Run()
    order = ancestors(targets, _lacks_value)
    uses = _count_uses(order)
    kept = _values_to_keep(order, targets)
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
    _cut(order, kept)
    report.seconds = time.perf_counter() - started
    _last_run = report


def _lacks_value(node: Node) -> bool:
    return node.value is None


def _count_uses(order: list[Node]) -> dict[Node, int]:
    uses = dict.fromkeys(order, 0)
    for node in order:
        for each in node.inputs:
            if each in uses:
                uses[each] += 1
    return uses


def _values_to_keep(order: list[Node], targets: list[Node]) -> set[Node]:
    """The nodes whose values outlive the evaluation."""
    kept = {node for node in order if node.handles > 0}
    kept.update(targets)
    # A backward pass can start at these. (A second one through spent nodes computes them again.)
    on_tape = {node for node in kept if node.requires_grad and not node.spent}
    for node in reversed(order):
        if node not in on_tape or node.owner is not None:
            continue
        for index in node.op.saves:  # type: ignore[union-attr]
            if index < len(node.inputs):
                kept.add(node if index == OUTPUT else node.inputs[index])
        on_tape.update(each for each in node.inputs if each.requires_grad)
    return kept


def _cut(order: list[Node], kept: set[Node]) -> None:
    """Let go of the inputs of finished nodes that no gradient will pass: they are data now."""
    for node in order:
        if node in kept and (not node.requires_grad or node.owner is not None):
            node.inputs = ()
            node.scope = None
