"""From a run of a function to what a replay needs: inputs, a program, and what changes after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from schuss.context import context
from schuss.errors import describe_location
from schuss.execution import tiers
from schuss.execution.capture import capture
from schuss.execution.evaluate import evaluate_pending, one_at_a_time
from schuss.execution.jit_numbers import Tape
from schuss.execution.jit_places import MISSING, At, Place, Walk, is_plain, same
from schuss.execution.jit_trace import Trace
from schuss.execution.report import Run
from schuss.graph import Kind, Node, ancestors, is_shared_number, is_wanted
from schuss.philox import Generator
from schuss.tensor import Tensor


class RefusedError(Exception):
    """This run cannot be replayed; the message says why.

    Args:
        passing: another run may do better.
    """

    def __init__(self, problem: str, passing: bool = False) -> None:
        super().__init__(problem)
        self.passing = passing


class Source(NamedTuple):
    """Where something comes from in a replay.

    Attributes:
        kind: "handle" (a tensor that was found), "made" (a new tensor), "new" (a new node),
            "frozen" (an array), "number" (a register of the tape), "draw" (of a generator),
            "plain" (a Python value).
        number: which one.
        value: the array, the Python value, or the dtype of a number.
    """

    kind: str
    number: int = -1
    value: Any = None

    def agrees(self, other: Source) -> bool:
        """Whether it is the same in another recording."""
        if self.kind != other.kind or self.number != other.number:
            return False
        if self.kind == "frozen":
            a, b = self.value, other.value
            return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        return self.kind not in ("plain", "number") or same(self.value, other.value)


@dataclass(slots=True)
class Found:
    """A tensor that was found before the run.

    Attributes:
        fixed: the tensor; None where another one may be found at each call.
        owner: its class.
        kind: of its node.
        requires_grad: of its node.
        same_as: the number of the first tensor that points at the same node.
        settled: whether it is a buffer, which remembers its last good node.
    """

    fixed: Tensor | None
    owner: type
    kind: Kind
    requires_grad: bool
    same_as: int
    settled: bool

    @property
    def nbytes(self) -> int:
        return self.kind.size * self.kind.dtype.itemsize


@dataclass(slots=True)
class NewNode:
    """A node that a replay makes: computed, or data.

    Attributes:
        node: the one that was recorded, without its inputs and value.
        source: "output" of the program, or "frozen".
        owner: the index of the tensor whose leaf it is; -1 for none.
    """

    node: Node
    source: Source
    owner: int


@dataclass(slots=True)
class Recording:
    """All that a replay needs.

    Attributes:
        tensors: what was found before the run; first the arguments, of this number.
        places: where Python values and tensors (`At`) were found.
        sizes: containers with their lengths, sets with their contents.
        absent: names that no module defines.
        seeds: generators with their seeds and streams.
        tape, reads, draws: see `Trace`.
        key: the structure of the graph.
        program: computes it; None where there is nothing to compute.
        inputs: what goes into the program.
        news: the nodes that come out.
        made: the nodes of new tensors.
        rebound: tensors that point at another node after the run.
        writes: places that hold something else after the run.
        result: what is returned: a Source, or lists, tuples and dicts of them.
        deferred: whether the function asked for an evaluation.
        live: places whose numbers may change from call to call.
        verified: a second run has agreed.
    """

    tensors: list[Found]
    arguments: int
    places: list[tuple[Place, Any]]
    sizes: list[tuple[Any, Any]]
    absent: list[tuple[dict[str, Any], str]]
    seeds: list[tuple[Generator, int, int]]
    tape: Tape
    reads: dict[int, int]  # register -> index of a place
    draws: list[tuple[Generator, int]]
    result: Any
    deferred: bool
    key: tuple[int, ...] = ()
    program: Any = None
    inputs: list[Source] = field(default_factory=list)
    news: list[NewNode] = field(default_factory=list)
    made: list[Source] = field(default_factory=list)
    rebound: list[tuple[int, Source]] = field(default_factory=list)
    writes: list[tuple[Place, Source]] = field(default_factory=list)
    live: set[int] = field(default_factory=set)
    verified: bool = False

    def agrees(self, other: Recording) -> str:
        """Why another recording does not tell the same; empty where it does.

        Numbers that differ must be explained: read at a place, and computed in the same way.
        """
        if self.key != other.key:
            return "it does not record the same operations each time"
        mine, others = self.places, other.places
        if [each.identity for each, _ in mine] != [each.identity for each, _ in others]:
            return "what it can reach has changed"
        if self._text() != other._text():
            return "what it changes differs from call to call"
        pairs = [*zip(self.sources(), other.sources(), strict=True)]
        if not all(a.agrees(b) for a, b in pairs):
            return "a number that it computes with differs from call to call"
        known = set(self.reads.values())
        for i, ((place, a), (_, b)) in enumerate(zip(mine, others, strict=True)):
            if isinstance(a, At) != isinstance(b, At):
                return f"{place.name} is a tensor at times"
            if not isinstance(a, At) and is_plain(a) and not same(a, b) and i not in known:
                return f"{place.name} has changed from {b!r} to {a!r}"
        return ""

    def changed(self, other: Recording) -> set[int]:
        """The places whose plain values differ from those in another recording."""
        return {
            i
            for i, ((_, a), (_, b)) in enumerate(zip(self.places, other.places, strict=True))
            if not isinstance(a, At) and is_plain(a) and not same(a, b)
        }

    def sources(self) -> list[Source]:
        """All of them, in a fixed order."""
        return self.inputs + [each.source for each in self.news] + self.made + self.outcome()

    def outcome(self) -> list[Source]:
        """What tensors, places and the result hold after the run."""
        found = [each for _, each in self.rebound] + [each for _, each in self.writes]
        todo = [self.result]
        while todo:
            each = todo.pop()
            if isinstance(each, Source):
                found.append(each)
            elif isinstance(each, Tree):
                todo.extend(each.parts)
        return found

    def _text(self) -> str:
        """The structure, without the values."""
        lines = [
            (each.name, each.operands, each.outcome, each.register) for each in self.tape.lines
        ]
        plain = [
            (name, tuple((r, None if r >= 0 else v) for r, v in operands), outcome, register)
            for name, operands, outcome, register in lines
        ]
        sources = [(each.kind, each.number) for each in self.sources()]
        places = [each.identity for each, _ in self.writes]
        owners = [(each.owner, each.node.kind.number) for each in self.news]
        draws = [(id(generator), count) for generator, count in self.draws]
        rebound = [i for i, _ in self.rebound]
        return repr((plain, sources, places, owners, draws, rebound, self.reads, self.deferred))


class Tree(NamedTuple):
    """A container of the result."""

    kind: type
    keys: tuple[Any, ...]  # of a dict
    parts: tuple[Any, ...]


def conclude(
    trace: Trace, walk: Walk, arguments: int, floating: set[Any], first: float, result: Any
) -> Recording:
    """Compute what a run has recorded, and tell how to replay it.

    Args:
        arguments: how many tensors are arguments.
        floating: places where another tensor may be found at each call.
        first: the number of the first node of the run.
        result: what the function returned.

    Raises RefusedError, before anything is computed, where it cannot be replayed.
    """
    return _Conclusion(trace, walk, arguments, first).recording(result, floating)


class _Conclusion:
    def __init__(self, trace: Trace, walk: Walk, arguments: int, first: float) -> None:
        self.trace, self.walk, self.first = trace, walk, first
        self.arguments = arguments
        self.index = {handle: i for i, handle in enumerate(walk.handles)}
        self.node_index: dict[Node, int] = {}
        for handle, node in walk.handles.items():
            self.node_index.setdefault(node, self.index[handle])
        self.new_at: dict[Node, int] = {}
        self.made_at: dict[Tensor, int] = {}
        self.made: list[Source] = []
        self.draws: list[tuple[Generator, int]] = []
        self.draw_at: dict[Node, int] = {}

    def recording(self, result: Any, learned: set[Any]) -> Recording:
        self._check_containers()
        self._check_generators()
        rebound = [
            (self.index[handle], self._node(handle._node))
            for handle, node in self.walk.handles.items()
            if handle._node is not node
        ]
        writes = self._writes()
        made = Recording(
            self._tensors(learned), self.arguments,
            [(self._stripped(place), self._at(value)) for place, value in self.walk.places],
            self._sizes(), self.walk.absent,
            [(each, state["seed"], state["stream"])
             for each, state in self.walk.generators.items()],
            self.trace.tape, self._reads(), self.draws, self._result(result), self.trace.deferred,
            made=self.made, rebound=rebound,
            writes=[(self._stripped(place), source) for place, source in writes],
        )  # fmt: skip
        targets = [node for node in self.new_at if node.value is None]
        self._check_leaks(set(targets))
        check_gradients(list(self.new_at))
        order = ancestors(targets, lambda node: node.value is None)
        for node in order:
            if node.number < self.first:
                raise RefusedError("it goes on with a graph that was recorded before")
        work = capture(order, set(targets))
        leaves = [leaf for leaf in work.leaves if leaf.constant is None]
        made.inputs = [self._leaf(leaf) for leaf in leaves]
        made.key = work.key
        outputs = {node: i for i, node in enumerate(work.outputs)}
        if order:
            made.program = _compute(work, leaves)
        made.news = [self._new(node, outputs) for node in self.new_at]
        _detach_from_graph(order, self.trace.deferred)
        return made

    # --- what was found, without the tensors that may be others next time ---

    def _tensors(self, learned: set[Any]) -> list[Found]:
        """The tensors; those may be others that are arguments, gradients, or were replaced."""
        floating = set(range(self.arguments))
        for place, value in self.walk.places:
            if isinstance(value, Tensor) and (
                isinstance(place.container, Tensor)
                or place.identity in learned
                or place.read() is not value
            ):
                floating.add(self.index[value])
        return [
            Found(
                None if i in floating else handle,
                type(handle),
                node.kind,
                node.requires_grad,
                self.node_index[node],
                hasattr(handle, "_settled"),
            )
            for i, (handle, node) in enumerate(self.walk.handles.items())
        ]

    def _at(self, value: Any) -> Any:
        return At(self.index[value]) if isinstance(value, Tensor) else value

    def _stripped(self, place: Place) -> Place:
        if isinstance(place.container, Tensor):
            return Place(At(self.index[place.container]), place.how, place.key, place.name)
        return place

    def _sizes(self) -> list[tuple[Any, Any]]:
        return [
            (container, frozenset(copy) if isinstance(container, set) else len(copy))
            for container, copy, _ in self.walk.copies
        ]

    # --- what has changed ---

    def _check_containers(self) -> None:
        for container, before, name in self.walk.copies:
            if isinstance(container, set):
                changed = container != before
            elif isinstance(container, list):
                changed = len(container) != len(before)
            else:
                changed = container.keys() != before.keys()
            if changed:
                raise RefusedError(f"it adds to or takes from {name}", passing=True)

    def _check_generators(self) -> None:
        expected = {generator: dict(state) for generator, state in self.walk.generators.items()}
        for leaf, (generator, count) in self.trace.draws.items():
            if generator in expected:
                self.draw_at[leaf] = len(self.draws)
                self.draws.append((generator, count))
                position = expected[generator]["position"] + (count + 3) // 4
                expected[generator]["position"] = position & (2**64 - 1)
        for generator, state in expected.items():
            if generator.state_dict() != state:
                raise RefusedError("it changes the state of a random generator in Python")

    def _writes(self) -> list[tuple[Place, Source]]:
        writes: list[tuple[Place, Source]] = []
        for place, before in self.walk.places:
            after = place.read()
            if after is before:
                continue
            register = self.trace.outs.get((id(place.container), place.key))
            if register is not None and self.trace.tape.values[register] == after:
                writes.append((place, Source("number", register)))
            elif isinstance(after, Tensor):
                writes.append((place, self._handle(after)))
            elif is_plain(after) and after is not MISSING:
                writes.append((place, Source("plain", -1, after)))
            else:
                raise RefusedError(f"it puts a {type(after).__name__} at {place.name}")
        return writes

    def _reads(self) -> dict[int, int]:
        """The places of the registers that were read, where nothing had changed them before.

        A group that the user's code can see by another way than through its optimizer does not
        count: that code may look at the number, too.
        """
        at = {place.identity: i for i, (place, _) in enumerate(self.walk.places)}
        holders: dict[int, list[Any]] = {}
        for place, value in self.walk.places:
            holders.setdefault(id(value), []).append(place.container)
        found = {}
        for register, (container, key, value) in self.trace.reads.items():
            i = at.get((id(container), "item", key))
            above = holders.get(id(container), [])
            hidden = len(above) == 1 and len(holders.get(id(above[0]), [])) == 1
            if hidden and i is not None and self.walk.places[i][1] is value:
                found[register] = i
        return found

    def _handle(self, tensor: Tensor) -> Source:
        known = self.index.get(tensor)
        if known is not None:
            return Source("handle", known)
        if tensor not in self.made_at:
            if type(tensor) is not Tensor or tensor.grad is not None:
                raise RefusedError(f"it makes a {type(tensor).__name__} that collects gradients")
            self.made_at[tensor] = len(self.made)
            self.made.append(self._node(tensor._node))
        return Source("made", self.made_at[tensor])

    def _node(self, node: Node) -> Source:
        known = self.node_index.get(node)
        if known is not None:
            return Source("handle", known)
        return Source("new", self.new_at.setdefault(node, len(self.new_at)))

    def _result(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._handle(value)
        if isinstance(value, (list, tuple)) and not is_plain(value):
            return Tree(type(value), (), tuple([self._result(each) for each in value]))
        if type(value) is dict:
            return Tree(dict, tuple(value), tuple([self._result(each) for each in value.values()]))
        if is_plain(value):
            return Source("plain", -1, value)
        raise RefusedError(f"it returns a {type(value).__name__}")

    # --- what is computed ---

    def _check_leaks(self, targets: set[Node]) -> None:
        for ref in context.pending:
            node = ref()
            if is_wanted(node) and node.number >= self.first and node not in targets:  # type: ignore[union-attr]
                where = describe_location(node.location)  # type: ignore[union-attr]
                raise RefusedError(f"a tensor that it computes ({where}) is kept out of sight")

    def _leaf(self, leaf: Node) -> Source:
        known = self.node_index.get(leaf)
        if known is not None:
            return Source("handle", known)
        if leaf in self.trace.numbers:
            return Source("number", self.trace.numbers[leaf], leaf.dtype)
        if leaf in self.draw_at:
            return Source("draw", self.draw_at[leaf])
        if leaf.op is None and (leaf.number >= self.first or is_shared_number(leaf)):
            return Source("frozen", -1, leaf.value)
        raise RefusedError(
            f"it uses a tensor ({leaf.name} {leaf.shape}, {describe_location(leaf.location)}) "
            "that cannot be found again"
        )

    def _new(self, node: Node, outputs: dict[Node, int]) -> NewNode:
        owner = node.owner() if node.owner is not None else None
        at = -1 if owner is None else self.index.get(owner, -1)
        if node.owner is not None and at < 0:
            raise RefusedError("it makes a tensor that collects gradients")
        if node in outputs:
            source = Source("output", outputs[node])
        elif node in self.trace.numbers or node in self.draw_at or node.op is not None:
            raise RefusedError("it keeps a number of an optimizer as a tensor")
        else:
            source = Source("frozen", -1, node.value)
        twin = Node(node.op, (), node.attributes, node.kind)
        twin.requires_grad = node.requires_grad
        return NewNode(twin, source, at)


def check_gradients(news: Sequence[Node]) -> None:
    """Raise RefusedError where somebody may still call `backward()` on what was computed."""
    for node in news:
        if node.requires_grad and node.owner is None and not node.spent:
            raise RefusedError(
                "a result requires a gradient, which a replay would cut: "
                "detach() it, or compute under no_grad()"
            )


def _compute(work: Any, leaves: list[Node]) -> Any:
    with one_at_a_time:
        program = tiers.known(work.key) or tiers.compiled(work, Run())
        arrays: list[np.ndarray] = [leaf.value for leaf in leaves]  # type: ignore[misc]
        values = program.run(arrays)
        for node, value in zip(work.outputs, values, strict=True):
            node.value = value
    return program


def _detach_from_graph(order: Sequence[Node], deferred: bool) -> None:
    """What an evaluation does at its end."""
    for node in order:
        if node.value is not None and (not node.requires_grad or node.owner is not None):
            node.finish()
    if deferred:
        evaluate_pending()
