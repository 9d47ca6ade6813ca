"""Loops with a body: the steps as a graph of their own, and the memories that they go through.

A step is simplified and fused like any graph. Its inputs and outputs are pieces of the memories
around the loop: an x is the next row of the xs in each round, a carry whose history is kept is
written behind where it was read. Other carries take turns in a buffer of two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from schuss import dtypes
from schuss.compiler.index import Affine, identity
from schuss.compiler.kernel import Kernel, collapse
from schuss.compiler.layout import layout
from schuss.compiler.lookup import is_lookup
from schuss.compiler.units import Host, Moving, Repeat, Unit
from schuss.compiler.values import VIEWS, Graph, Shape, Value, strides_of
from schuss.ops.loop import HISTORY, LAST, Layout, Loop, layout_of

Locate = Callable[[Value, tuple[Affine, ...], Sequence[int]], tuple[Value, Affine]]
Passes = Callable[[Graph], Graph]
Fuse = Callable[[Graph], list[Unit]]


class CannotRepeatError(Exception):
    """A step needs the host: so does the whole loop."""


def can_repeat(loop: Loop) -> bool:
    """Whether a graph can say all that a step does."""
    return not any(each.shape or dtypes.is_complex(each.dtype) for each in loop.body.literals)


def steps_of(loop: Loop, inputs: Sequence[Value], places: Sequence[Value | None]) -> Graph:
    """The graph of a step.

    Args:
        loop: with its body.
        inputs: the values that go into the loop.
        places: for each what stands for it in a step; None for an input like any.

    Raises CannotRepeatError where a graph cannot say it.
    """
    if not can_repeat(loop):
        raise CannotRepeatError
    invariants, xs, carries = loop.sorted(inputs)
    like = [(v.shape, v.dtype) for v in invariants]
    like += [(v.shape[1:], v.dtype) for v in xs]
    like += [(v.shape, v.dtype) for v in carries]
    values: list[Value] = []
    graph = Graph(values, [], [])
    found: list[Value] = []

    def enter(value: Value) -> Value:
        value.number = len(values)
        values.append(value)
        return value

    for (shape, dtype), given in zip(like, places, strict=True):
        if given is None:
            found.append(enter(Value("input", (), {}, shape, dtype)))
            graph.inputs.append(found[-1])
            continue
        for each in (*given.inputs, given):
            enter(each)
            if each.op == "input":
                graph.inputs.append(each)
        found.append(given)
    for literal in loop.body.literals:
        number = {"value": literal.array().item() if literal.constant is None else literal.constant}
        found.append(enter(Value("constant", (), number, (), literal.dtype)))
    types = layout_of(loop, inputs).body[len(found) :]
    for step, made in zip(loop.body.steps, types, strict=True):
        operands = tuple([found[i] for i in step.places])
        value = enter(Value(step.op.name, operands, dict(step.attributes), made.shape, made.dtype))
        value.definition = step.op
        found.append(value)
    wishes = [True] * len(carries) + list(loop.ys)
    pairs = zip(loop.body.outputs, wishes, strict=True)
    graph.outputs = [found[i] for i, wish in pairs if wish]
    return graph


def repeat(
    value: Value, checks: Sequence[Value], locate: Locate, simplify: Passes, fuse: Fuse
) -> Repeat:
    """The unit of a loop.

    Args:
        value: the results.
        checks: values that say for each step whether some index points outside.
        locate: finds the memory behind a value, and the position there.
        simplify, fuse: the passes.

    Raises CannotRepeatError where a step cannot run without the host.
    """
    return _Builder(value, checks, locate).build(simplify, fuse)


class _Builder:
    def __init__(self, value: Value, checks: Sequence[Value], locate: Locate) -> None:
        self.value, self.checks, self.locate = value, checks, locate
        self.loop: Loop = value.attributes["loop"]
        self.layout: Layout = layout_of(self.loop, value.inputs)
        self.parts = {part.number: part for part in self.layout.parts}
        self.places: dict[Value, Moving] = {}
        self.before: list[Kernel] = []
        self.behind: list[Kernel] = []
        self.rings: list[Value | None] = []

    def build(self, simplify: Passes, fuse: Fuse) -> Repeat:
        loop = self.loop
        invariants, xs, carries = loop.sorted(self.value.inputs)
        inputs = [self._invariant(each) for each in invariants] + [self._x(each) for each in xs]
        inputs += [self._carry(k, each) for k, each in enumerate(carries)]
        graph = steps_of(loop, self.value.inputs, inputs)
        self._widen(graph, len(carries))
        graph = layout(simplify(graph))
        for each in graph.values:
            if each.op == "rows":  # whose index has been checked, unlike that of a gather
                each.op = "gather"
        self._own_memories(graph)
        units = fuse(graph)
        if any(isinstance(unit, (Host, Repeat)) for unit in units):
            raise CannotRepeatError
        wanted = [i for i in self.parts if i >= len(carries)]
        for i, output in zip([*range(len(carries)), *wanted], graph.outputs, strict=True):
            self._output(i, output, len(carries))
        for check, found in zip(self.checks, graph.checks, strict=True):
            self.places[found] = self._forward(check, 0, 1)
        others = [*[ring for ring in self.rings if ring is not None], *self.checks]
        return Repeat(
            self.value, loop.length, graph, units, self.places, self.before, self.behind, others
        )

    # --- what goes in ---

    def _invariant(self, given: Value) -> Value:
        memory, affine = self.locate(given, identity(given.shape), given.shape)
        return self._input(given.shape, memory, affine, 0)

    def _x(self, given: Value) -> Value:
        if is_lookup(given):  # a step looks up its rows, and only that
            table, index = self._invariant(given.inputs[0]), self._x(given.inputs[1])
            return Value("rows", (table, index), given.attributes, given.shape[1:], given.dtype)
        memory, affine = self.locate(given, identity(given.shape), given.shape)
        step, rest = affine[0], affine[1:]
        if self.loop.reverse:
            rest = (*rest[:-1], rest[-1] + step * (self.loop.length - 1))
        return self._input(given.shape[1:], memory, rest, -step if self.loop.reverse else step)

    def _input(self, shape: Shape, memory: Value, affine: Affine, step: int) -> Value:
        if memory.op == "constant":
            number = Value("constant", (), memory.attributes, (), memory.dtype)
            return Value("broadcast_to", (number,), {"shape": shape}, shape, memory.dtype)
        made = Value("input", (), {}, shape, memory.dtype)
        dense = strides_of(shape)
        if any(n > 1 and a != b for n, a, b in zip(shape, affine[:-1], dense, strict=True)):
            made.strides = tuple(affine[:-1])
        size = memory.dtype.itemsize
        self.places[made] = Moving(memory, affine[-1] * size, step * size, step * size)
        return made

    def _carry(self, k: int, given: Value) -> Value:
        made = Value("input", (), {}, given.shape, given.dtype)
        if self.loop.carries[k] == HISTORY:
            start = self.parts[k].start + (
                self.loop.length * given.size if self.loop.reverse else 0
            )
            self.rings.append(None)
            self._copy(given, self.value, start)
            step = (-1 if self.loop.reverse else 1) * given.nbytes
            self.places[made] = Moving(self.value, start * given.dtype.itemsize, step, step)
            return made
        ring = Value("ring", (), {}, (2, *given.shape), given.dtype)
        ring.number = self.value.number
        self.rings.append(ring)
        self._copy(given, ring, 0)
        self.places[made] = Moving(ring, 0, given.nbytes, -given.nbytes)
        return made

    def _copy(self, source: Value, target: Value, start: int) -> None:
        """Copy a value before the loop to where the first step looks for it."""
        memory, affine = self.locate(source, identity(source.shape), source.shape)
        self.before.append(_copy(memory, affine, target, start, source.shape))

    # --- what comes out ---

    def _widen(self, graph: Graph, carries: int) -> None:
        """Let stacked outputs have the dtype that they are packed in."""
        dtype = self.value.dtype
        for i, output in enumerate(graph.outputs[carries:], carries):
            if output.dtype != dtype:
                wide = Value("astype", (output,), {"dtype": dtype}, output.shape, dtype)
                wide.number = len(graph.values)
                graph.values.append(wide)
                graph.outputs[i] = wide

    def _own_memories(self, graph: Graph) -> None:
        """Let each output be a value of its own, which can be stored where it belongs."""
        seen: set[Value] = set()
        for i, output in enumerate(graph.outputs):
            if output in seen or output.op in (*VIEWS, "input", "constant"):
                attributes = {"dtype": output.dtype}
                copy = Value("astype", (output,), attributes, output.shape, output.dtype)
                copy.number = len(graph.values)
                graph.values.append(copy)
                graph.outputs[i] = copy
            seen.add(graph.outputs[i])

    def _output(self, i: int, made: Value, carries: int) -> None:
        if i >= carries:
            self.places[made] = self._forward(self.value, self.parts[i].start, made.size)
            return
        ring = self.rings[i]
        if ring is None:
            start = self.parts[i].start + (
                (self.loop.length - 1) * made.size if self.loop.reverse else made.size
            )
            step = (-1 if self.loop.reverse else 1) * made.nbytes
            self.places[made] = Moving(self.value, start * made.dtype.itemsize, step, step)
            return
        self.places[made] = Moving(ring, made.nbytes, -made.nbytes, made.nbytes)
        if self.loop.carries[i] == LAST:
            last = self.loop.length % 2 * made.size
            affine = (*strides_of(made.shape), last)
            self.behind.append(_copy(ring, affine, self.value, self.parts[i].start, made.shape))

    def _forward(self, memory: Value, start: int, size: int) -> Moving:
        """Row after row of a stack that begins at `start`."""
        item = memory.dtype.itemsize
        if self.loop.reverse:
            return Moving(memory, (start + (self.loop.length - 1) * size) * item,
                          -size * item, -size * item)  # fmt: skip
        return Moving(memory, start * item, size * item, size * item)


def _copy(memory: Value, affine: Affine, target: Value, start: int, shape: Shape) -> Kernel:
    kernel = Kernel(tuple(shape), len(shape))
    if memory.op == "constant":
        line = kernel.add("constant", (), memory.dtype, memory.attributes["value"])
    else:
        line = kernel.add("load", (), memory.dtype, (kernel.word(memory), affine))
    kernel.store(target, (*strides_of(shape), start), line, target.dtype)
    return collapse(kernel)


__all__ = ["CannotRepeatError", "Repeat", "can_repeat", "repeat", "steps_of"]
