"""Replays: Python written for one recording, so that a call costs microseconds.

The text first compares what steers the function with what was recorded, then collects arrays, runs
the program and puts the results where the function would have put them. `Replay.text` shows it.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from schuss.errors import BadValueError, CheckFailedError
from schuss.execution.evaluate import evaluate
from schuss.execution.jit_numbers import Operand
from schuss.execution.jit_places import ITEM, MISSING, Place, same
from schuss.execution.jit_record import NewNode, Recording, Source, Tree
from schuss.graph import Node, number_array
from schuss.tensor import Tensor

MISS: Any = object()  # the recording does not fit this call
FAILED: Any = object()  # a value was wrong; nothing has changed

_WORTH_TAKING_OVER = 4096  # bytes; smaller memory is not worth the look at its references


class Replay:
    """A recording that can be called.

    Attributes:
        text: the Python that runs.
        call: of the tensors among the arguments; returns the result, `MISS` or `FAILED`.
        fits: as `call`, but only compares: True, or `MISS`.
    """

    def __init__(self, recording: Recording, floating: set[Any]) -> None:
        self.recording = recording
        writer = _Writer(recording, floating)
        self.text = writer.text(whole=True)
        self.call: Callable[[list[Tensor]], Any] = writer.compile(self.text)
        self._fits: Callable[[list[Tensor]], Any] | None = None
        self._writer = writer

    def fits(self, tensors: list[Tensor]) -> bool:
        """Whether what steers the function is as it was recorded."""
        if self._fits is None:
            self._fits = self._writer.compile(self._writer.text(whole=False))
        return self._fits(tensors) is True


def differs(a: Any, b: Any) -> bool:
    """For values that are not the same object, which is seen at once."""
    return not same(a, b)


def settle(node: Node) -> np.ndarray:
    """A dense value of a node; computed if need be."""
    if node.value is None:
        evaluate([node])
    return np.ascontiguousarray(node.value).reshape(node.shape)


class _Writer:
    """Writes the Python of a replay. Constants are names of its namespace."""

    def __init__(self, recording: Recording, floating: set[Any]) -> None:
        self.recording = recording
        self.handles = list(recording.walk.handles)
        self.index = {handle: i for i, handle in enumerate(self.handles)}
        self.floating = self._floating(floating)
        self.names: dict[int, str] = {}
        self.kept: list[Any] = []
        self.space: dict[str, Any] = {
            "MISS": MISS, "FAILED": FAILED, "differs": differs, "settle": settle, "Node": Node,
            "Tensor": Tensor, "ref": weakref.ref, "count": sys.getrefcount,
            "number_array": number_array, "CheckFailedError": CheckFailedError,
            "BadValueError": BadValueError,
        }  # fmt: skip

    def _floating(self, learned: set[Any]) -> set[int]:
        """The tensors that may be others at the next call: all their places are read anew."""
        found = set(range(self.recording.arguments))
        for i, (place, value) in enumerate(self.recording.walk.places):
            if isinstance(value, Tensor) and (
                i in self.recording.floating
                or place.identity in learned
                or isinstance(place.container, Tensor)  # a gradient
            ):
                found.add(self.index[value])
        return found

    def compile(self, text: str) -> Any:
        space = dict(self.space)
        exec(compile(text, "<replay of schuss.jit>", "exec"), space)
        return space["replay"]

    def constant(self, value: Any) -> str:
        name = self.names.get(id(value))
        if name is None:
            name = self.names[id(value)] = f"c{len(self.kept)}"
            self.kept.append(value)  # or another object could take on its id
            self.space[name] = value
        return name

    def text(self, whole: bool) -> str:
        self.lines: list[str] = []
        self._compare()
        if not whole:
            body = ["    try:", *("        " + each for each in self.lines), "        return True"]
        else:
            body = ["    try:", *("        " + each for each in [*self.lines, *self._collect()])]
        body += ["    except Exception:", "        return MISS"]
        if whole:
            self.lines = []
            self._run()
            self._finish()
            body += ["    " + each for each in self.lines]
        return "\n".join(["def replay(a):", *body, ""])

    # --- comparing ---

    def _compare(self) -> None:
        recording, walk = self.recording, self.recording.walk
        self.read: set[int] = set()
        for i in range(recording.arguments):
            self._tensor(i, f"a[{i}]")
        reads = {place: register for register, place in recording.reads.items()}
        for i, (place, value) in enumerate(walk.places):
            shown = self._place(place)
            if value is MISSING:
                continue
            if isinstance(value, Tensor):
                self._tensor(self.index[value], shown)
            elif i in recording.live:
                self.lines.append(f"v{reads[i]} = {shown}")
                self._unless(f"type(v{reads[i]}) is {type(value).__name__}")
            else:
                expected = self.constant(value)
                self._unless(f"{shown} is {expected} or not differs({shown}, {expected})")
        for container, copy, _ in walk.copies:
            if isinstance(container, set):
                same_content = f"{self.constant(container)} == {self.constant(copy)}"
                self._unless(same_content)
            else:
                self._unless(f"len({self.constant(container)}) == {len(copy)}")
        for names, name in walk.absent:
            self._unless(f"{name!r} not in {self.constant(names)}")
        for generator, state in walk.generators.items():
            shown = self.constant(generator)
            self._unless(f"{shown}.seed == {state['seed']} and {shown}.stream == {state['stream']}")
        self._aliases()
        self._numbers()

    def _unless(self, condition: str) -> None:
        self.lines.append(f"if not ({condition}): return MISS")

    def _place(self, place: Place) -> str:
        container = place.container
        if isinstance(container, Tensor):
            shown = f"h{self.index[container]}"
        else:
            shown = self.constant(container)
        if place.how == ITEM:
            plain = type(place.key) in (str, int)
            return f"{shown}[{place.key!r}]" if plain else f"{shown}[{self.constant(place.key)}]"
        return f"{shown}.{place.key}"

    def _tensor(self, i: int, shown: str) -> None:
        if i in self.read:
            self._unless(f"{shown} is h{i}")
            return
        self.read.add(i)
        handle = self.handles[i]
        node = self.recording.walk.handles[handle]
        if i in self.floating:
            self.lines.append(f"h{i} = {shown}")
            self._unless(f"type(h{i}) is {self.constant(type(handle))}")
        else:
            self._unless(f"{shown} is {self.constant(handle)}")
            self.lines.append(f"h{i} = {self.constant(handle)}")
        self.lines.append(f"n{i} = h{i}._node")
        negated = "" if node.requires_grad else "not "
        self._unless(f"n{i}.kind.type == {node.kind.type} and {negated}n{i}.requires_grad")

    def _aliases(self) -> None:
        """Tensors that were one are one; those that were several are several."""
        first: dict[Node, int] = {}
        for i, node in enumerate(self.recording.walk.handles.values()):
            if node in first:
                self._unless(f"n{i} is n{first[node]}")
            first.setdefault(node, i)
        if not (self.recording.rebound or self.recording.writes) or not self.floating:
            return
        shown = ", ".join(f"h{i}" for i in sorted(self.floating))
        self.lines.append(f"several = {{{shown}}}")
        self._unless(f"len(several) == {len(self.floating)}")
        fixed = [each for i, each in enumerate(self.handles) if i not in self.floating]
        if fixed:
            self._unless(f"several.isdisjoint({self.constant(frozenset(fixed))})")

    def _numbers(self) -> None:
        """Compute the numbers of optimizers that depend on live places."""
        recording = self.recording
        self.varying = {r for r, place in recording.reads.items() if place in recording.live}
        for line in recording.tape.lines:
            if not any(each.register in self.varying for each in line.operands):
                continue
            text = line.text(self._operand)
            if line.register >= 0:
                self.varying.add(line.register)
                self.lines.append(f"v{line.register} = {text}")
            else:
                self._unless(f"({text}) is {line.outcome}")

    def _operand(self, operand: Operand) -> str:
        if operand.register in self.varying:
            return f"v{operand.register}"
        value = operand.number
        if operand.register >= 0:
            value = self.recording.tape.values[operand.register]
        return self.constant(value)

    # --- running ---

    def _collect(self) -> list[str]:
        """Arrays for the inputs of the program."""
        self.lines = []
        self.arrays: list[str] = []
        for source, strides in self.recording.inputs:
            if source.kind == "handle":
                self._array(source.index, strides)
                self.arrays.append(f"a{source.index}")
            elif source.kind == "number" and source.index in self.varying:
                self.lines.append(
                    f"x{source.index} = number_array(v{source.index}, "
                    f"{self.constant(source.value)})"
                )
                self.arrays.append(f"x{source.index}")
            elif source.kind == "number":
                value = self.recording.tape.values[source.index]
                self.arrays.append(self.constant(number_array(value, source.value)))
            elif source.kind == "draw":
                self.arrays.append(f"d{source.index}")
            else:
                self.arrays.append(self.constant(source.value))
        return self.lines

    def _array(self, i: int, strides: tuple[int, ...] | None) -> None:
        self.lines.append(f"a{i} = n{i}.value")
        if strides is None:
            self.lines.append(
                f"if a{i} is None or not a{i}.flags.c_contiguous: a{i} = settle(n{i})"
            )
        else:
            steps = tuple(step * self._itemsize(i) for step in strides)
            self._unless(f"a{i}.strides == {steps}")

    def _itemsize(self, i: int) -> int:
        return self.recording.walk.handles[self.handles[i]].dtype.itemsize

    def _run(self) -> None:
        recording = self.recording
        for i, (generator, count) in enumerate(recording.draws):
            shown = self.constant(generator)
            self.lines.append(f"p{i} = {shown}.position")
            self.lines.append(f"d{i} = {shown}.reserve({count})")
        if recording.program is None:
            return
        dying = self._dying()
        self.lines += [
            "try:",
            f"    o = {self.constant(recording.program.run)}([{', '.join(self.arrays)}], {dying})",
            "except (CheckFailedError, BadValueError, MemoryError):",
        ]
        for i, (generator, _) in reversed([*enumerate(recording.draws)]):
            self.lines.append(f"    {self.constant(generator)}.position = p{i}")
        self.lines.append("    return FAILED")

    def _dying(self) -> str:
        """For each input whether its memory may be overwritten: it is replaced, and nobody else
        can see it. All references are accounted for, as in evaluations."""
        recording = self.recording
        replaced = {i for i, _ in recording.rebound}
        written = {self._value_before(place) for place, _ in recording.writes}
        used = [each.index for each, _ in recording.inputs if each.kind == "handle"]
        outside = {source.index for _, source in recording.writes if source.kind == "handle"}
        owns = self.constant(recording.program.owns)
        shown = []
        for source, _ in recording.inputs:
            i = source.index
            gone = source.kind == "handle" and (i in replaced or i in written)
            if not gone or used.count(i) > 1 or i in outside or self._nbytes(i) < _WORTH_TAKING_OVER:
                shown.append("False")
                continue
            alone = f"n{i}.handles == 1 and count(n{i}) == 3 and a{i} is n{i}.value"
            if i not in replaced:
                alone += f" and count(h{i}) == 3"
            shown.append(
                f"{alone} and a{i}.base is None and a{i}.flags.writeable "
                f"and count(a{i}) <= 3 + {owns}(a{i})"
            )
        return f"[{', '.join(shown)}]" if any(each != "False" for each in shown) else "None"

    def _nbytes(self, i: int) -> int:
        return self.recording.walk.handles[self.handles[i]].nbytes

    def _value_before(self, place: Place) -> int:
        for each, value in self.recording.walk.places:
            if each is place and isinstance(value, Tensor):
                return self.index[value]
        return -1

    # --- what changes ---

    def _finish(self) -> None:
        recording = self.recording
        for k, new in enumerate(recording.news):
            self._new_node(k, new)
        for k, source in enumerate(recording.made):
            self.lines.append(f"t{k} = Tensor({self._node(source)})")
        for i, source in recording.rebound:
            node = self._node(source)
            self.lines += [f"{node}.handles += 1", f"n{i}.handles -= 1", f"h{i}._node = {node}"]
            if hasattr(self.handles[i], "_settled"):
                self.lines.append(f"h{i}._settled = {node}")
        for place, source in recording.writes:
            self.lines.append(f"{self._place(place)} = {self._content(source)}")
        self.lines.append(f"return {self._tree(recording.result)}")

    def _new_node(self, k: int, new: NewNode) -> None:
        value = (
            f"o[{new.source.index}]"
            if new.source.kind == "output"
            else self.constant(new.source.value)
        )
        node = new.node
        parts = [self.constant(each) for each in (node.op, node.attributes, node.kind)]
        self.lines.append(f"m{k} = Node({parts[0]}, (), {parts[1]}, {parts[2]}, {value})")
        if node.requires_grad:
            self.lines.append(f"m{k}.requires_grad = True")
            if new.owner >= 0:
                self.lines.append(f"m{k}.owner = ref(h{new.owner})")
            else:
                self.lines.append(f"m{k}.spent = True")

    def _node(self, source: Source) -> str:
        return f"m{source.index}" if source.kind == "new" else f"n{source.index}"

    def _content(self, source: Source) -> str:
        if source.kind == "handle":
            return f"h{source.index}"
        if source.kind == "made":
            return f"t{source.index}"
        if source.kind == "number" and source.index in self.varying:
            return f"v{source.index}"
        if source.kind == "number":
            return self.constant(self.recording.tape.values[source.index])
        return self.constant(source.value)

    def _tree(self, tree: Any) -> str:
        if isinstance(tree, Source):
            return self._content(tree)
        parts = [self._tree(each) for each in tree.parts]
        if tree.kind is dict:
            pairs = zip(tree.keys, parts, strict=True)
            return "{" + ", ".join(f"{self.constant(key)}: {part}" for key, part in pairs) + "}"
        if hasattr(tree.kind, "_fields"):
            return f"{self.constant(tree.kind)}({', '.join(parts)})"
        if tree.kind is list:
            return f"[{', '.join(parts)}]"
        return f"{self.constant(tree.kind)}([{', '.join(parts)}])"


__all__ = ["FAILED", "MISS", "Replay", "Tree"]
