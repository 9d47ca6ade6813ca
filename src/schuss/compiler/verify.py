"""What has to hold between the passes. Tests and `show` run it; a failure is a mistake of ours."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss.compiler.cpu.lower import Calls, lower
from schuss.compiler.kernel import Kernel, position_of
from schuss.compiler.units import (
    Assemble,
    Convolution,
    Host,
    Loops,
    Product,
    Repeat,
    ScatterAdd,
    Unit,
)
from schuss.compiler.values import VIEWS, Graph, Value

if TYPE_CHECKING:
    from schuss.compiler.plan import Plan
    from schuss.compiler.program import Compiled


def verify(compiled: Compiled) -> None:
    """Check all stages. Raises AssertionError with what is wrong."""
    verify_graph(compiled.recorded)
    verify_graph(compiled.simplified)
    first = compiled.once.units if compiled.once else []
    verify_units(compiled.simplified, [*first, *compiled.units])
    for each in filter(None, (compiled, compiled.once)):
        verify_calls(each.units, each.calls)
        verify_plan(each.plan, set(each.memories))


def verify_graph(graph: Graph) -> None:
    """Values come after their inputs, and what is wanted is there."""
    seen: set[Value] = set()
    for value in graph.values:
        assert all(each in seen for each in value.inputs), f"{value!r} before its inputs"
        assert all(n >= 0 for n in value.shape), f"{value!r} has a negative size"
        seen.add(value)
    assert all(each in seen for each in (*graph.outputs, *graph.checks)), "an output is missing"


def verify_units(graph: Graph, units: list[Unit]) -> None:
    """Units come after all that make what they read; every place of an output is made once."""
    made = {value for value in graph.values if value.op in ("input", "constant")}
    given = set(made)
    makers = Counter(value for unit in units for value in unit.writes())
    left = Counter(makers)
    for unit in units:
        missing = [each for each in unit.reads() if each not in made or left[each] > 0]
        assert not missing, f"{missing} read before they are made"
        for each in unit.writes():
            assert each not in given, f"{each!r} is an input that is written to"
            left[each] -= 1
            made.add(each)
        for kernel in kernels_of(unit):
            verify_kernel(kernel)
        if isinstance(unit, Repeat):
            verify_graph(unit.steps)
            verify_units(unit.steps, unit.units)
            verify_places(unit)
    for value, count in makers.items():
        if count > 1:
            verify_apart(value, units)
    for each in (*graph.outputs, *graph.checks):
        while each.op in VIEWS and each not in made:
            each = each.inputs[0]
        assert each in made, f"nobody makes {each!r}"


def verify_apart(value: Value, units: list[Unit]) -> None:
    """What several units write to is written everywhere, and nowhere twice."""
    times = np.zeros(value.size, np.int64)
    for unit in units:
        for kernel in kernels_of(unit):
            for store in kernel.stores:
                if kernel.buffers[store.word] is not value:
                    continue
                axes = zip(store.affine[:-1], kernel.sizes, strict=True)
                steps = [np.arange(n) * step for step, n in axes if step]
                places = sum(np.ix_(*steps), start=np.full((), store.affine[-1]))
                np.add.at(times, places, 1)
    assert (times == 1).all(), f"{value!r} is not written once everywhere"


def verify_calls(units: list[Unit], calls: list[Calls | None]) -> None:
    """Units that were lowered together with others have the launches that they have alone."""
    for unit, found in zip(units, calls, strict=True):
        alone = None if isinstance(unit, Host) else lower(unit)
        assert found == alone, f"not the launches of\n{unit}"


def verify_places(loop: Repeat) -> None:
    """What a step reads and writes stays inside the memories around it in every round."""
    for value, (memory, first, even, odd) in loop.places.items():
        if value.strides is not None or memory.strides is not None:
            continue
        rounds = loop.rounds
        ends = [first, first + rounds // 2 * even + (rounds - 1) // 2 * odd]
        ends += [first + even * (rounds > 1)]
        assert min(ends) >= 0, f"{value!r} begins before {memory!r}"
        assert max(ends) + value.nbytes <= memory.nbytes, f"{value!r} ends behind {memory!r}"


def kernels_of(unit: Unit) -> list[Kernel]:
    if isinstance(unit, (Loops, Product)):
        return [unit.kernel]
    if isinstance(unit, Convolution):
        return [unit.kernel, *filter(None, unit.prologues)]
    if isinstance(unit, Assemble):
        return [kernel for group in unit.kernels for kernel in group]
    if isinstance(unit, Repeat):
        return [*unit.before, *unit.behind]
    return [unit.fill] if isinstance(unit, ScatterAdd) else []


def verify_kernel(kernel: Kernel) -> None:
    """Lines use earlier lines, and no access leaves its memory."""
    if 0 in kernel.sizes:
        return
    for number, line in enumerate(kernel.lines):
        assert all(each < number for each in line.inputs), f"line {number} uses a later one"
        if line.op == "load":
            detail: Any = line.detail
            _verify_inside(kernel, kernel.buffers[detail[0]], detail[1])
        affine = position_of(line)
        assert affine is None or len(affine) == len(kernel.sizes) + 1, f"line {number}: {affine}"
        unfinished = [each for each in line.inputs if kernel.lines[each].op == "partial.sum"]
        assert not unfinished, f"line {number} uses a sum that is not finished"
    running = any(line.op.startswith("running.") for line in kernel.lines)
    assert kernel.reduced == 1 or not running, "things add up along several axes"
    for store in kernel.stores:
        assert store.line < len(kernel.lines)
        _verify_inside(kernel, kernel.buffers[store.word], store.affine)


def _verify_inside(kernel: Kernel, buffer: Value, affine: tuple[int, ...]) -> None:
    steps = [step * (n - 1) for step, n in zip(affine[:-1], kernel.sizes, strict=True)]
    lowest = affine[-1] + sum(min(0, each) for each in steps)
    highest = affine[-1] + sum(max(0, each) for each in steps)
    if buffer.op == "input" and buffer.strides is not None:
        return  # a view of memory that reaches further than its elements
    inside = lowest >= 0 and highest < max(1, buffer.room // buffer.dtype.itemsize)
    assert inside, f"{buffer!r} is accessed from {lowest} to {highest}"


def verify_plan(plan: Plan, outputs: set[Value]) -> None:
    """What lives at the same time lies apart, and everything is made before it is read."""
    first: dict[Value, int] = {}
    made: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for step in plan.steps:
        for value in step.unit.writes():
            first[value] = min(first.get(value, step.start), step.start)
            made[value] = max(made.get(value, 0), step.end)
            last[value] = max(last.get(value, 0), step.end)
    for step in plan.steps:
        for value in step.unit.reads():
            if value in first:
                assert made[value] < step.start, f"{value!r} is read in the wave that makes it"
                last[value] = max(last[value], step.end)
    placed = [(value, offset) for value, offset in plan.offsets.items() if value not in outputs]
    for i, (one, low) in enumerate(placed):
        assert low + one.room <= plan.arena
        for other, place in placed[:i]:
            together = first[one] <= last[other] and first[other] <= last[one]
            apart = low + one.room <= place or place + other.room <= low
            assert apart or not together, f"{one!r} and {other!r} share memory"


__all__ = ["verify", "verify_graph", "verify_kernel", "verify_plan", "verify_units"]
