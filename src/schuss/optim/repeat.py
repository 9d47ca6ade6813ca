"""Updates of optimizers that need no second recording: see `schuss.patterns`.

What an `update` records depends on its parameters' kinds and on how its numbers compare, and the
numbers in it follow from settings and counts. `Trace` follows them, as for `schuss.jit`; from then
on the update is a use of a pattern and a few lines of arithmetic.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from schuss.context import context
from schuss.execution.jit_numbers import Operand
from schuss.execution.jit_trace import Trace
from schuss.graph import Node, next_number, number_node, wrap
from schuss.patterns import Memory, Pattern, Use, pattern_of, repeats
from schuss.tensor import Tensor

if TYPE_CHECKING:
    from schuss.optim.optimizer import Optimizer

Before = list[tuple[Tensor, Tensor]]
Numbers = Callable[[list[int | float]], tuple[list[Any], list[Any]] | None]


_NO_STATE: dict[str, Any] = {}


class _Survey:
    """What an update depends on.

    Attributes:
        key: equal for updates that record the same.
        tensors, nodes: the parameters, gradients and states.
        numbers: the settings and counts; those of one name that are equal, once.
        moved: the parameters that move, with their names.
        known: nothing else has been met.

    Args:
        places: where to note the places of the numbers, by container and name; None: nowhere.
    """

    def __init__(
        self, optimizer: Optimizer, places: dict[tuple[int, str], int] | None = None
    ) -> None:
        self._places = places
        self.key: list[Any] = [type(optimizer), type(optimizer).update]
        self.tensors: list[Tensor] = []
        self.numbers: list[int | float] = []
        self.moved: list[tuple[Tensor, str]] = []
        self.known = True
        self._numbers: dict[Any, int] = {}
        key, tensors, moved, state = self.key, self.tensors, self.moved, optimizer.state
        for group in optimizer.param_groups:
            for name, value in group.items():
                if name != "params" and name != "names":
                    self._value(group, name, value)
            for name, p in zip(group["names"], group["params"], strict=True):
                grad, node = p.grad, p._node
                if grad is None or not node.requires_grad:
                    continue
                if node.owner is None:
                    self.known = False
                moved.append((p, name))
                tensors += (p, grad)
                slots = state.get(name, _NO_STATE)
                key.append(-1 if slots is _NO_STATE else len(slots))
                for slot, value in slots.items():
                    self._value(slots, slot, value)
        self.nodes = nodes = [each._node for each in tensors]
        key += [node.kind.type for node in nodes]
        if len({*nodes}) < len(nodes):  # the same tensor, or one node, stands in two places
            at: dict[Any, int] = {}
            for each in (*nodes, *map(id, tensors)):
                key.append(at.setdefault(each, len(at)))

    def _value(self, container: dict[str, Any], name: str, value: Any) -> None:
        """A setting, or what a state holds."""
        kind = type(value)
        if kind is Tensor:
            self.key.append(name)
            self.tensors.append(value)
        elif kind is float or kind is int:
            numbers = self.numbers
            place = len(numbers)
            if value:  # 0.0 and -0.0 are equal
                place = self._numbers.setdefault((name, kind, value), place)
            if place == len(numbers):
                numbers.append(value)
            if self._places is not None:
                self._places[id(container), name] = place
            self.key += (name, kind, place)
        elif kind is bool or kind is str or value is None:
            self.key += (name, kind, value)
        elif kind is tuple:
            self.key += (name, repr(value))
        else:
            self.known = False


class _Slot(NamedTuple):
    """What a state holds after an update.

    Attributes:
        parameter: whose state it is: which of those that move.
        name: of the slot.
        kind: "tensor" (one that was there), "new" (a new tensor), "number", "plain".
        value: which one; or what.
    """

    parameter: int
    name: str
    kind: str
    value: Any


class _Update(NamedTuple):
    """An update that was recorded before.

    Attributes:
        numbers: of the settings and counts: the numbers that go in, and those that states keep;
            None where the update would record something else.
        dtypes: of the numbers that go in.
        parameters: the steps whose results are the new parameters.
        new: the steps whose results are new tensors of states.
        slots: what changes in the states.
    """

    pattern: Pattern
    numbers: Numbers
    dtypes: list[Any]
    parameters: list[int]
    new: list[int]
    slots: list[_Slot]


_updates: Memory[_Update] = Memory()


def repeated(optimizer: Optimizer, before: Before) -> bool:
    """Assign new values to all parameters, out of memory. False: they have to be recorded.

    Notes in `before` what the parameters pointed at.
    """
    ours = type(optimizer).__module__.startswith("schuss.") and "update" not in vars(optimizer)
    if not ours or not repeats():
        return False
    survey = _Survey(optimizer)
    if not survey.known or not survey.moved:
        return False
    key = tuple(survey.key)
    known = _updates.get(key)
    if known is None:
        if not _updates.comes_again(key):
            return False
        known = _recorded(optimizer, survey)
        _updates.keep(key, known)
        if known is None:
            return False
    found = known.numbers(survey.numbers)
    if found is None:
        return False
    going_in, kept = found
    try:
        leaves = [number_node(n, dtype) for n, dtype in zip(going_in, known.dtypes, strict=True)]
    except OverflowError:  # the plain recording says what is wrong
        return False
    use = known.pattern.between([*survey.nodes, *leaves], context.location, context.scope)
    _assign(optimizer, known, survey, use, kept, before)
    return True


def _assign(
    optimizer: Optimizer, known: _Update, survey: _Survey, use: Use, kept: list[Any], before: Before
) -> None:
    """Put the results of an update where they belong."""
    given = use.give([*known.parameters, *known.new])
    for (p, _), leaf in zip(survey.moved, given, strict=False):
        before.append((p, wrap(p._node)))
        leaf.requires_grad = True
        leaf.owner = weakref.ref(p)
        p._point_at(leaf)
    new = [wrap(node) for node in given[len(survey.moved) :]]
    sources = {"tensor": survey.tensors, "new": new, "number": kept}
    for parameter, name, kind, value in known.slots:
        state = optimizer.state.setdefault(survey.moved[parameter][1], {})
        state[name] = value if kind == "plain" else sources[kind][value]


# --- recording ---


def _recorded(optimizer: Optimizer, survey: _Survey) -> _Update | None:
    """Record an update, and undo it. None where it cannot be repeated."""
    from schuss.optim.optimizer import restore

    places: dict[tuple[int, str], int] = {}
    _Survey(optimizer, places)
    state = {name: dict(slots) for name, slots in optimizer.state.items()}
    before: Before = []
    trace = Trace(defer=True, live=True)
    first = next_number()
    try:
        with trace.running():
            optimizer._assign_all(before)
        return _concluded(optimizer, survey, _Arithmetic(trace, places), state, first)
    finally:
        for p, value in before:
            p._point_at(value._node)
        restore(optimizer.state, state)


def _concluded(
    optimizer: Optimizer,
    survey: _Survey,
    arithmetic: _Arithmetic,
    state: dict[str, dict[str, Any]],
    first: int,
) -> _Update | None:
    trace = arithmetic.trace
    changes = _changes(optimizer, survey, trace, state)
    if changes is None or trace.problem or trace.deferred or trace.draws:
        return None
    inputs: dict[Node, int] = {}
    for i, node in enumerate(survey.nodes):
        inputs.setdefault(node, i)
    going_in: dict[tuple[str, Any], int] = {}
    for leaf, register in trace.numbers.items():
        number = arithmetic.shown(Operand(register, 0)), leaf.dtype
        inputs[leaf] = len(survey.nodes) + going_in.setdefault(number, len(going_in))
    results = [each._node for each in [*[p for p, _ in survey.moved], *changes.new]]
    pattern = pattern_of(inputs, results, first)
    if pattern is None:
        return None
    count = len(survey.moved)
    return _Update(
        pattern, arithmetic.function([name for name, _ in going_in], changes.registers),
        [dtype for _, dtype in going_in], pattern.results[:count], pattern.results[count:],
        changes.slots,
    )  # fmt: skip


class _Changes(NamedTuple):
    """What an update does to the states: the new tensors, and the registers that they keep."""

    slots: list[_Slot]
    new: list[Tensor]
    registers: list[int]


def _changes(
    optimizer: Optimizer, survey: _Survey, trace: Trace, state: dict[str, dict[str, Any]]
) -> _Changes | None:
    """How the states differ from what they were; None where that cannot be repeated."""
    slots: list[_Slot] = []
    new: dict[Tensor, int] = {}
    registers: list[int] = []
    was = {id(each): i for i, each in enumerate(survey.tensors)}
    for i, (_, name) in enumerate(survey.moved):
        before, after = state.get(name, {}), optimizer.state.get(name, {})
        if before.keys() - after.keys():
            return None
        for slot, value in after.items():
            if slot in before and before[slot] is value:
                continue
            register = trace.outs.get((id(after), slot))
            if type(value) is Tensor and id(value) in was:
                slots.append(_Slot(i, slot, "tensor", was[id(value)]))
            elif type(value) is Tensor:
                slots.append(_Slot(i, slot, "new", new.setdefault(value, len(new))))
            elif register is not None and trace.tape.values[register] == value:
                slots.append(_Slot(i, slot, "number", len(registers)))
                registers.append(register)
            elif type(value) in (int, float, bool):
                slots.append(_Slot(i, slot, "plain", value))
            else:
                return None
    return _Changes(slots, [*new], registers)


class _Arithmetic:
    """The numbers of an update as Python, from what the tape of a trace says.

    Args:
        places: of the numbers that go in, by container and name.
    """

    def __init__(self, trace: Trace, places: dict[tuple[int, str], int]) -> None:
        self.trace = trace
        self._lines: list[str] = []
        self._known: dict[str, str] = {}  # expressions with the names of their values
        self._names: dict[int, str] = {}  # of registers
        for register, (container, name, _) in trace.reads.items():
            if (id(container), name) in places:
                self._names[register] = f"n[{places[id(container), name]}]"
        for line in trace.tape.lines:
            text = line.text(self.shown)
            if line.register >= 0:
                if text not in self._known:
                    self._known[text] = f"v{line.register}"
                    self._lines.append(f"v{line.register} = {text}")
                self._names[line.register] = self._known[text]
            elif text not in self._known:
                self._known[text] = ""
                self._lines.append(f"if ({text}) is not {line.outcome}: return None")

    def shown(self, operand: Operand) -> str:
        """An operand of the tape as an expression."""
        if operand.register in self._names:
            return self._names[operand.register]
        number = operand.number
        if operand.register >= 0:
            number = self.trace.tape.values[operand.register]
        return f"({number!r})" if math.isfinite(number) else f"float('{number}')"

    def function(self, going_in: list[str], kept: list[int]) -> Numbers:
        """From settings and counts to the numbers that go in and those that are kept."""
        keeps = [self.shown(Operand(register, 0)) for register in kept]
        lines = [*self._lines, f"return [{', '.join(going_in)}], [{', '.join(keeps)}]"]
        body = "\n".join(f"        {line}" for line in lines)
        text = (
            f"def numbers(n):\n    try:\n{body}\n    except ArithmeticError:\n        return None\n"
        )
        space: dict[str, Any] = {"__name__": __name__}
        exec(compile(text, "<numbers of an optimizer>", "exec"), space)
        return space["numbers"]
