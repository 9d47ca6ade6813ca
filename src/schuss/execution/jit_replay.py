"""Replays: Python written for one recording, so that a call costs microseconds.

The text first compares what steers the function with what was recorded, then collects arrays, runs
the program and puts the results where the function would have put them. `Replay.text` shows it.

Names in the text: h tensors that were found, n their nodes, a their arrays; v numbers of the tape,
x their arrays; d states of generators, p their positions before; o outputs of the program, m new
nodes, t new tensors, c constants.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from schuss.errors import BadValueError, CheckFailedError
from schuss.execution.evaluate import evaluate
from schuss.execution.interrupts import in_one_piece
from schuss.execution.jit_numbers import Operand
from schuss.execution.jit_places import ITEM, MISSING, At, Place, same
from schuss.execution.jit_record import Found, NewNode, Recording, Source
from schuss.graph import Node, number_array
from schuss.tensor import Tensor

MISS: Any = object()  # the recording does not fit this call
FAILED: Any = object()  # a value was wrong; nothing has changed

_WORTH_TAKING_OVER = 4096  # bytes; smaller memory is not worth a look at its references


class Replay:
    """A recording that can be called.

    Attributes:
        program, deferred: of the recording, on the way of every call.
        text: the Python that runs.
        call: of the tensors among the arguments; returns the result, `MISS` or `FAILED`.
        fits: as `call`, but only compares: True, or `MISS`.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.program = recording.program
        self.deferred = recording.deferred
        writer = _Writer(recording)
        self.text = writer.text(recording.verified)
        function = _compiled(self.text, writer.space)
        if recording.program is not None and writer.dying() != "None":
            function = _undivided(function)
        self.call = function if recording.verified else _misses
        self.fits = _misses if recording.verified else function


def _misses(tensors: Sequence[Tensor]) -> Any:
    return MISS


def _undivided(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, during which signals wait: what it computes may lie where the old values were,
    and is yet to be put into its places.
    """

    def call(tensors: Sequence[Tensor]) -> Any:
        with in_one_piece():
            return function(tensors)

    return call


def _compiled(text: str, space: dict[str, Any]) -> Any:
    exec(compile(text, "<replay of schuss.jit>", "exec"), space)
    return space["replay"]


def differs(a: Any, b: Any) -> bool:
    """For values that are not the same object, which is seen at once."""
    return not same(a, b)


def settle(node: Node) -> np.ndarray:
    """The value of a node, dense; computed if need be."""
    if node.value is None:
        evaluate([node])
    node.value = np.ascontiguousarray(node.value).reshape(node.shape)
    return node.value


class _Writer:
    """Writes the Python of a replay. Constants are names of its namespace."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.tensors = recording.tensors
        self.floating = [i for i, each in enumerate(self.tensors) if each.fixed is None]
        self.varying = {r for r, place in recording.reads.items() if place in recording.live}
        self.lines: list[str] = []
        self.read: set[int] = set()
        self.names: dict[int, str] = {}
        self.kept: list[Any] = []
        self.space: dict[str, Any] = {
            "MISS": MISS, "FAILED": FAILED, "differs": differs, "settle": settle, "Node": Node,
            "Tensor": Tensor, "ref": weakref.ref, "count": sys.getrefcount,
            "number_array": number_array, "CheckFailedError": CheckFailedError,
            "BadValueError": BadValueError,
        }  # fmt: skip

    def text(self, whole: bool) -> str:
        """The function; without `whole` it only compares."""
        self._compare()
        if whole:
            arrays = self._collect()
        else:
            self.lines.append("return True")
        body = ["try:", *("    " + line for line in self.lines)]
        body += ["except Exception:", "    return MISS"]
        if whole:
            self.lines = []
            self._run(arrays)
            self._finish()
            body += self.lines
        return "\n".join(["def replay(a):", *("    " + line for line in body), ""])

    def constant(self, value: Any) -> str:
        name = self.names.get(id(value))
        if name is None:
            name = self.names[id(value)] = f"c{len(self.kept)}"
            self.kept.append(value)  # or another object could take on its id
            self.space[name] = value
        return name

    def add(self, *lines: str) -> None:
        self.lines += lines

    def unless(self, condition: str) -> None:
        self.add(f"if not ({condition}): return MISS")

    # --- comparing ---

    def _compare(self) -> None:
        recording = self.recording
        for i in range(recording.arguments):
            self._tensor(i, f"a[{i}]")
        registers = {place: register for register, place in recording.reads.items()}
        for i, (place, value) in enumerate(recording.places):
            if value is MISSING:
                continue
            shown = self._place(place)
            if isinstance(value, At):
                self._tensor(value.number, shown)
            elif i in recording.live:
                register = f"v{registers[i]}"
                self.add(f"{register} = {shown}")
                self.unless(f"type({register}) is {type(value).__name__}")
            else:
                expected = self.constant(value)
                self.add(
                    f"if {shown} is not {expected} and differs({shown}, {expected}): return MISS"
                )
        self._compare_containers()
        self._aliases()
        self._numbers()

    def _compare_containers(self) -> None:
        for container, size in self.recording.sizes:
            shown = self.constant(container)
            if isinstance(size, frozenset):
                self.unless(f"{shown} == {self.constant(size)}")
            else:
                self.unless(f"len({shown}) == {size}")
        for names, name in self.recording.absent:
            self.unless(f"{name!r} not in {self.constant(names)}")
        for generator, seed, stream in self.recording.seeds:
            shown = self.constant(generator)
            self.unless(f"{shown}.seed == {seed} and {shown}.stream == {stream}")

    def _place(self, place: Place) -> str:
        container = place.container
        shown = f"h{container.number}" if isinstance(container, At) else self.constant(container)
        if place.how == ITEM:
            plain = type(place.key) in (str, int)
            return f"{shown}[{place.key!r}]" if plain else f"{shown}[{self.constant(place.key)}]"
        return f"{shown}.{place.key}"

    def _tensor(self, i: int, shown: str) -> None:
        if i in self.read:
            self.unless(f"{shown} is h{i}")
            return
        self.read.add(i)
        found = self.tensors[i]
        self.add(f"h{i} = {shown}")
        if found.fixed is None:
            self.unless(f"type(h{i}) is {self.constant(found.owner)}")
        else:
            self.unless(f"h{i} is {self.constant(found.fixed)}")
        self.add(f"n{i} = h{i}._node")
        wanted = "" if found.requires_grad else "not "
        self.unless(f"n{i}.kind.type == {found.kind.type} and {wanted}n{i}.requires_grad")
        if found.same_as != i:
            self.unless(f"n{i} is n{found.same_as}")

    def _aliases(self) -> None:
        """Tensors that were several are several: what changes one does not change the other."""
        if not (self.recording.rebound or self.recording.writes) or not self.floating:
            return
        self.add(f"several = {{{', '.join(f'h{i}' for i in self.floating)}}}")
        self.unless(f"len(several) == {len(self.floating)}")
        fixed = frozenset(each.fixed for each in self.tensors if each.fixed is not None)
        if fixed:
            self.unless(f"several.isdisjoint({self.constant(fixed)})")
        self.add("del several")

    def _numbers(self) -> None:
        """Compute the numbers of optimizers that depend on live places."""
        for line in self.recording.tape.lines:
            if not any(each.register in self.varying for each in line.operands):
                continue
            text = line.text(self._operand)
            if line.register >= 0:
                self.varying.add(line.register)
                self.add(f"v{line.register} = {text}")
            else:
                self.unless(f"({text}) is {line.outcome}")

    def _operand(self, operand: Operand) -> str:
        if operand.register in self.varying:
            return f"v{operand.register}"
        if operand.register >= 0:
            return self.constant(self.recording.tape.values[operand.register])
        return self.constant(operand.number)

    # --- running ---

    def _collect(self) -> list[str]:
        """Names of the arrays that go into the program."""
        arrays = []
        for source in self.recording.inputs:
            i = source.number
            if source.kind == "handle":
                self.add(f"a{i} = n{i}.value")
                self.add(f"if a{i} is None or not a{i}.flags.c_contiguous: a{i} = settle(n{i})")
                arrays.append(f"a{i}")
            elif source.kind == "draw":
                arrays.append(f"d{i}")
            elif source.kind == "frozen":
                arrays.append(self.constant(source.value))
            elif i in self.varying:
                self.add(f"x{len(arrays)} = number_array(v{i}, {self.constant(source.value)})")
                arrays.append(f"x{len(arrays)}")
            else:
                value = number_array(self.recording.tape.values[i], source.value)
                arrays.append(self.constant(value))
        return arrays

    def _run(self, arrays: list[str]) -> None:
        recording = self.recording
        for i, (generator, count) in enumerate(recording.draws):
            shown = self.constant(generator)
            self.add(f"p{i} = {shown}.position", f"d{i} = {shown}.reserve({count})")
        if recording.program is None:
            return
        run = self.constant(recording.program.run)
        self.add(
            "try:",
            f"    o = {run}([{', '.join(arrays)}], {self.dying()})",
            "except (CheckFailedError, BadValueError, MemoryError):",
        )
        for i, (generator, _) in reversed([*enumerate(recording.draws)]):
            self.add(f"    {self.constant(generator)}.position = p{i}")
        self.add("    return FAILED")

    def dying(self) -> str:
        """For each input whether its memory may be overwritten: it is replaced, and nobody else
        can see it. All references are accounted for, as in evaluations."""
        recording = self.recording
        rebound = {i for i, _ in recording.rebound}
        replaced = rebound | {self._before(place) for place, _ in recording.writes}
        after = [*recording.made, *recording.outcome()]
        stays = {each.number for each in after if each.kind == "handle"}
        used = [each.number for each in recording.inputs if each.kind == "handle"]
        owns = self.constant(recording.program.owns)
        shown = []
        for source in recording.inputs:
            i = source.number
            possible = source.kind == "handle" and i in replaced and i not in stays
            if not possible or used.count(i) > 1 or self.tensors[i].nbytes < _WORTH_TAKING_OVER:
                shown.append("False")
                continue
            alone = f"n{i}.handles == 1 and {self._alone(i)} and a{i} is n{i}.value"
            if i not in rebound:
                alone += f" and count(h{i}) == 3"
            shown.append(
                f"{alone} and a{i}.base is None and a{i}.flags.writeable "
                f"and count(a{i}) <= 4 + {owns}(a{i})"
            )
        return f"[{', '.join(shown)}]" if any(each != "False" for each in shown) else "None"

    def _alone(self, i: int) -> str:
        """Whether only tensor i points at its node. References: the tensor, n, the argument; and
        a buffer's memory of it."""
        if self.tensors[i].settled:
            return f"count(n{i}) == 4 and h{i}._settled is n{i}"
        return f"count(n{i}) == 3"

    def _before(self, place: Place) -> int:
        """The number of the tensor that was at a place; -1 for none."""
        for each, value in self.recording.places:
            if isinstance(value, At) and each.identity == place.identity:
                return value.number
        return -1

    # --- what changes ---

    def _finish(self) -> None:
        recording = self.recording
        outcome = [(each.kind, each.number) for each in [*recording.made, *recording.outcome()]]
        self.shared = {each for each in outcome if outcome.count(each) > 1}
        nodes = [*recording.made, *(source for _, source in recording.rebound)]
        self.nodes_on = {each.number for each in nodes if each.kind == "handle"}
        self.tensors_on = {number for kind, number in outcome if kind == "handle"}
        self.ready: set[str] = set()
        for i, source in recording.rebound:
            self._rebind(i, source)
        for place, source in recording.writes:
            self._write(place, source)
        self.add(f"return {self._tree(recording.result)}")

    def _rebind(self, i: int, source: Source) -> None:
        """Tensor i points at another node; at its own with a new value, where nobody else does."""
        node = self._node_name(source)
        made = self._making(source)
        change = [*made, f"{node}.handles += 1", f"n{i}.handles -= 1", f"h{i}._node = {node}"]
        if self.tensors[i].settled:
            change.append(f"h{i}._settled = {node}")
        if not made or not self._reusable(i, source):
            self.add(*change)
            return
        new = self.recording.news[source.number]
        self.add(
            f"if {self._alone(i)} and n{i}.kind is {self.constant(new.node.kind)} "
            f"and not n{i}.inputs:",
            f"    n{i}.value = {self._value(new)}",
            "else:",
            *("    " + line for line in change),
        )

    def _write(self, place: Place, source: Source) -> None:
        """A place holds something else; the same tensor with a new value, if nobody else has it."""
        made = self._making(source)
        change = [*made, f"{self._place(place)} = {self._content(source)}"]
        i = self._before(place)
        node = self.recording.made[source.number] if source.kind == "made" else source
        if not made or i < 0 or node.kind != "new" or not self._reusable(i, node):
            self.add(*change)
            return
        moved = i in self.tensors_on or ("made", source.number) in self.shared
        if moved or self.tensors[i].owner is not Tensor:
            self.add(*change)
            return
        new = self.recording.news[node.number]
        self.add(
            f"if count(h{i}) == 3 and h{i}.grad is None and {self._alone(i)} "
            f"and n{i}.kind is {self.constant(new.node.kind)} and not n{i}.inputs:",
            f"    n{i}.value = {self._value(new)}",
            "else:",
            *("    " + line for line in change),
        )

    def _reusable(self, i: int, source: Source) -> bool:
        """Whether a new node could be the one that tensor i has, as far as that is known now."""
        if source.kind != "new" or ("new", source.number) in self.shared:
            return False
        new = self.recording.news[source.number]
        found: Found = self.tensors[i]
        if i in self.nodes_on:  # others point at it after the run
            return False
        alike = new.node.requires_grad == found.requires_grad
        return alike and (new.owner == i or not found.requires_grad) and found.same_as == i

    def _making(self, source: Source) -> list[str]:
        """Lines that make a tensor or a node, if that has not been done."""
        lines: list[str] = []
        if source.kind == "made":
            node = self.recording.made[source.number]
            lines += self._making(node)
            if f"t{source.number}" not in self.ready:
                self.ready.add(f"t{source.number}")
                lines.append(f"t{source.number} = Tensor({self._node_name(node)})")
        elif source.kind == "new" and f"m{source.number}" not in self.ready:
            self.ready.add(f"m{source.number}")
            lines += self._new_node(source.number, self.recording.news[source.number])
        return lines

    def _new_node(self, k: int, new: NewNode) -> list[str]:
        node = new.node
        parts = [self.constant(each) for each in (node.op, node.attributes, node.kind)]
        lines = [f"m{k} = Node({parts[0]}, (), {parts[1]}, {parts[2]}, {self._value(new)})"]
        if node.requires_grad:
            lines.append(f"m{k}.requires_grad = True")
            owned = new.owner >= 0
            lines.append(f"m{k}.owner = ref(h{new.owner})" if owned else f"m{k}.spent = True")
        return lines

    def _value(self, new: NewNode) -> str:
        if new.source.kind == "output":
            return f"o[{new.source.number}]"
        return self.constant(new.source.value)

    def _node_name(self, source: Source) -> str:
        return f"m{source.number}" if source.kind == "new" else f"n{source.number}"

    def _content(self, source: Source) -> str:
        if source.kind == "handle":
            return f"h{source.number}"
        if source.kind == "made":
            return f"t{source.number}"
        if source.kind == "number" and source.number in self.varying:
            return f"v{source.number}"
        if source.kind == "number":
            return self.constant(self.recording.tape.values[source.number])
        return self.constant(source.value)

    def _tree(self, tree: Any) -> str:
        if isinstance(tree, Source):
            self.add(*self._making(tree))
            return self._content(tree)
        parts = [self._tree(each) for each in tree.parts]
        if tree.kind is dict:
            pairs = zip(tree.keys, parts, strict=True)
            return "{" + ", ".join(f"{self.constant(key)}: {part}" for key, part in pairs) + "}"
        if tree.kind is list:
            return f"[{', '.join(parts)}]"
        kind = self.constant(tree.kind)
        if hasattr(tree.kind, "_fields"):
            return f"{kind}({', '.join(parts)})"
        return f"{kind}([{', '.join(parts)}])"
