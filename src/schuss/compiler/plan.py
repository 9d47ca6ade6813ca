"""When each unit runs and where each value lies.

Units are put into waves: a wave may run what needs nothing from the same wave. Values that only
live inside a run share one arena, by the waves in which they live. An output may take over the
memory of an input that nobody needs any more (a parameter and its next value): the plan says which,
and whether it happens is decided at each run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from schuss.compiler.kernel import Kernel
from schuss.compiler.units import Convolution, Host, Loops, Panels, Product, Repeat, Unit
from schuss.compiler.values import Graph, Value, memory_of

_ALIGNMENT = 64


@dataclass(slots=True)
class Step:
    """A unit in its waves, one after the other; between them may be those of a loop."""

    unit: Unit
    length: int
    workspace: int
    waves: range | list[int] = range(0)

    @property
    def start(self) -> int:
        return self.waves[0]

    @property
    def end(self) -> int:
        return self.waves[-1]


@dataclass(slots=True)
class Plan:
    """Steps with waves, and the arena.

    Attributes:
        steps: in the order of their waves' needs.
        waves: how many there are.
        checked: the last wave of the checks, -1 where there are none.
        offsets: where values lie in the arena, in bytes.
        workspaces: where the workspace of a step lies, by its place in `steps`.
        arena: its size in bytes.
        donations: for outputs the inputs whose memory they may take over.
    """

    steps: list[Step]
    waves: int = 0
    checked: int = -1
    offsets: dict[Value, int] = field(default_factory=dict)
    workspaces: dict[int, int] = field(default_factory=dict)
    arena: int = 0
    donations: dict[Value, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.waves} waves, arena of {self.arena} bytes"]
        for step in sorted(self.steps, key=lambda each: each.start):
            names = ", ".join(value.name for value in step.unit.writes())
            lines.append(f"  wave {step.start}: {type(step.unit).__name__.lower()} -> {names}")
        for value, offset in self.offsets.items():
            lines.append(f"  {value.name} at {offset}, {value.room} bytes")
        for output, source in self.donations.items():
            lines.append(f"  {output.name} may take over {source.name}")
        return "\n".join(lines)


def plan(
    graph: Graph,
    units: list[Unit],
    outputs: list[Value],
    measure: Callable[[Unit], tuple[int, int]],
) -> Plan:
    """Waves and places for `units`, of which `measure` tells (waves, bytes of workspace).

    `outputs` are the values whose memory outlives the run.
    """
    steps = [Step(unit, *measure(unit)) for unit in units]
    made = Plan(steps)
    needs = _needs(steps)
    seen = {memory_of(value) for value in graph.outputs}  # outputs may be views of inputs
    made.donations = _donations(steps, needs, set(outputs), seen)
    _set_waves(made, needs, {memory_of(value) for value in graph.checks})
    _set_places(made, set(outputs))
    return made


def _needs(steps: list[Step]) -> list[set[int]]:
    """For each step those that make what it reads."""
    makers: dict[Value, set[int]] = {}
    needs = []
    for i, step in enumerate(steps):
        needs.append(set().union(*[makers.get(each, ()) for each in step.unit.reads()]))
        for each in step.unit.writes():
            makers.setdefault(each, set()).add(i)
    return needs


def _donations(
    steps: list[Step], needs: list[set[int]], outputs: set[Value], seen: set[Value]
) -> dict[Value, Value]:
    """Pairs of an output and an input that one kernel reads and writes at the same places.

    Inputs in `seen` go on to be looked at. All other readers of the input have to come first, which
    `needs` is told. A memory that several steps write to is nobody's to choose.
    """
    readers: dict[Value, set[int]] = {}
    makers = Counter(value for step in steps for value in step.unit.writes())
    for i, step in enumerate(steps):
        for each in step.unit.reads():
            if each.op == "input":
                readers.setdefault(each, set()).add(i)
    before = _transitive(needs)
    found: dict[Value, Value] = {}
    taken: set[Value] = set()
    for i, step in enumerate(steps):
        for output, source in _alike(step.unit):
            if output not in outputs or output in found or source in taken or source in seen:
                continue
            if makers[output] > 1:
                continue
            others = readers[source] - {i}
            if any(before[other] >> i & 1 for other in others):
                continue
            found[output] = source
            taken.add(source)
            if others - needs[i]:
                needs[i] |= others
                before = _transitive(needs)
    return found


def _transitive(needs: list[set[int]]) -> list[int]:
    """For each step all that come before it, as a set of bits."""
    before: list[int | None] = [None] * len(needs)
    for start in range(len(needs)):
        stack = [start]
        while stack:
            i = stack[-1]
            missing = [each for each in needs[i] if before[each] is None]
            if missing:
                stack += missing
                continue
            stack.pop()
            bits = 0
            for each in needs[i]:
                bits |= 1 << each | (before[each] or 0)
            before[i] = bits
    return [each or 0 for each in before]


def _alike(unit: Unit) -> list[tuple[Value, Value]]:
    """Outputs and inputs of one dtype and size that a kernel goes through in step."""
    if not isinstance(unit, (Loops, Product, Convolution)):
        return []
    kernel: Kernel = unit.kernel
    if isinstance(unit, Loops) and kernel.inner:
        return []
    found = []
    operands = _operands(unit)
    for store in kernel.stores:
        output = kernel.buffers[store.word]
        for line in kernel.lines:
            if line.op != "load" or line.detail[1] != store.affine:  # type: ignore[index]
                continue
            source = kernel.buffers[line.detail[0]]  # type: ignore[index]
            same = source.dtype == output.dtype and source.size == output.size
            alone = _only_read_at(kernel, line.detail[0], store.affine)  # type: ignore[index]
            alone = alone and source not in operands
            if same and alone and source.op == "input" and source.strides is None:
                found.append((output, source))
    return found


def _operands(unit: Loops | Product | Convolution) -> list[Value]:
    """What a template reads for other places of its result too."""
    if isinstance(unit, Product):
        return [unit.left[0], unit.right[0]]
    return unit.operands_read() if isinstance(unit, Convolution) else []


def _only_read_at(kernel: Kernel, word: int, affine: tuple[int, ...]) -> bool:
    for line in kernel.lines:
        detail: Any = line.detail
        if line.op == "load" and detail[0] == word and detail[1] != affine:
            return False
        if line.op == "gather" and detail[0] == word:
            return False
    # A row that is gone over several times is read again after a pass has written it.
    return not any(line.op.startswith("reduce.") for line in kernel.lines)


def _set_waves(made: Plan, needs: list[set[int]], checks: set[Value]) -> None:
    steps = made.steps
    ends: dict[int, int] = {}
    lengths = [1 if isinstance(step.unit, Repeat) else step.length for step in steps]
    order = sorted(range(len(steps)), key=lambda i: i)
    # Host steps may find bad values too.
    checking = [
        i
        for i in order
        if isinstance(steps[i].unit, Host) or checks.intersection(steps[i].unit.writes())
    ]
    before = _transitive(needs)
    early = 0
    for i in checking:
        early |= 1 << i | before[i]
    donated = {i for i in order if any(v in made.donations for v in steps[i].unit.writes())} - {
        i for i in order if early >> i & 1
    }
    for i in donated:
        needs[i] |= set(checking)
    pending = list(order)
    while pending:
        left = []
        for i in pending:
            if all(each in ends for each in needs[i]):
                start = max((ends[each] + 1 for each in needs[i]), default=0)
                steps[i].waves = range(start, start + lengths[i])
                ends[i] = steps[i].end
            else:
                left.append(i)
        assert len(left) < len(pending), "units need each other"
        pending = left
    _pack_late(steps, needs)
    made.waves = _alone(steps, max((end + 1 for end in ends.values()), default=0))
    looked_at = [i for i in checking if checks.intersection(steps[i].unit.writes())]
    made.checked = max((steps[i].end for i in looked_at), default=-1)
    for i in order:  # an input that a check's own forerunner would overwrite stays
        if early >> i & 1:
            for value in steps[i].unit.writes():
                made.donations.pop(value, None)


def _alone(steps: list[Step], count: int) -> int:
    """Give loops, which count as one wave so far, waves of their own. Returns how many there are.

    What runs beside a loop would be repeated with it, so it runs before.
    """
    loops: list[list[Step]] = [[] for _ in range(count)]
    for step in steps:
        if isinstance(step.unit, Repeat):
            loops[step.start].append(step)
    moved, total = [], 0
    for wave in range(count):
        moved.append(total)
        total += 1
        for step in loops[wave]:
            step.waves = range(total, total + step.length)
            total += step.length
    for step in steps:
        if not isinstance(step.unit, Repeat):
            step.waves = [moved[wave] for wave in step.waves]
    return total


def _pack_late(steps: list[Step], needs: list[set[int]]) -> None:
    """Weights are brought into panels just before they are used: then they still lie in a cache,
    and their memory serves one after the other.
    """
    latest: dict[int, list[int]] = {
        i: [] for i, step in enumerate(steps) if isinstance(step.unit, Panels)
    }
    for i, needed in enumerate(needs):
        for each in needed & latest.keys():
            latest[each].append(steps[i].start)
    for i, users in latest.items():
        start = min(users, default=steps[i].end + 1) - steps[i].length
        steps[i].waves = range(start, start + steps[i].length)


def _set_places(made: Plan, outputs: set[Value]) -> None:
    """Offsets in the arena: the largest first, each as low as those that live beside it allow."""
    first: dict[Value | int, int] = {}
    last: dict[Value | int, int] = {}
    sizes: dict[Value | int, int] = {}
    for i, step in enumerate(made.steps):
        for value in step.unit.writes():
            first[value] = min(first.get(value, step.start), step.start)
            last[value] = max(last.get(value, 0), step.end)
            sizes[value] = value.room
        for value in step.unit.reads():
            if value in last or value.op not in ("input", "constant"):
                last[value] = max(last.get(value, 0), step.end)
        if step.workspace:
            first[i], last[i], sizes[i] = step.start, step.end, step.workspace
    placed: list[tuple[int, int, int, int]] = []  # first, last, low, high
    for each in sorted(sizes, key=lambda key: (-sizes[key], first[key])):
        if isinstance(each, Value) and (each in outputs or not each.nbytes):
            continue
        size = -(-sizes[each] // _ALIGNMENT) * _ALIGNMENT
        beside = sorted(
            (low, high) for a, b, low, high in placed if a <= last[each] and first[each] <= b
        )
        place = 0
        for low, high in beside:
            if place + size <= low:
                break
            place = max(place, high)
        placed.append((first[each], last[each], place, place + size))
        made.arena = max(made.arena, place + size)
        if isinstance(each, Value):
            made.offsets[each] = place
        else:
            made.workspaces[each] = place
