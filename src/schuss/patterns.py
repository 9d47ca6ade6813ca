"""Graphs that are recorded again and again, kept as patterns, so that they need no second recording.

Every step of a training loop has the same derivative and the same update. A `Pattern` is such a
graph without its ends, a `Use` puts it between nodes. What comes out are nodes like all others
(`Promised`), which find out their op and inputs when somebody asks for them: the graph is then what
the plain recording makes, node for node. An evaluation of a structure that is known does not ask.
"""

from __future__ import annotations

import itertools
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from schuss.context import Scope, context
from schuss.errors import Location
from schuss.graph import Kind, Node, Op, ancestors, next_number, note_pending

Kept = TypeVar("Kept")

_numbers = itertools.count()
_MOST_FIXED = 1024  # elements of data that belongs to a pattern


class Step(NamedTuple):
    """One op of a pattern.

    Attributes:
        operands: what it is applied to: places among the inputs, the fixed leaves and the steps.
        of: the place of the input whose derivative it is part of; -1 for none.
        fraction: what the number of its node has more than that of the use.
    """

    op: Op
    operands: tuple[int, ...]
    attributes: dict[str, Any]
    kind: Kind
    of: int
    fraction: float


class Pattern:
    """A recorded graph without its ends.

    Attributes:
        number: names the pattern in structural keys.
        inputs: how many inputs it has.
        reads: the places of the inputs that steps are applied to.
        derived: the places of the inputs whose derivatives there are.
        fixed: leaves that are part of the pattern: numbers of rules, say.
        steps: inputs first.
        results: the steps whose nodes are wanted.
    """

    def __init__(
        self, inputs: int, fixed: tuple[Node, ...], steps: list[Step], results: list[int]
    ) -> None:
        self.number = next(_numbers)
        self.inputs = inputs
        self.fixed = fixed
        self.steps = steps
        self.results = results
        self.derived = sorted({step.of for step in steps if step.of >= 0})
        self.reads = sorted({k for step in steps for k in step.operands if k < inputs})


def pattern_of(
    inputs: Mapping[Node, int],
    results: Sequence[Node],
    first: int,
    marks: Sequence[tuple[int, int]] = (),
) -> Pattern | None:
    """What was recorded between `inputs` and `results`, as a pattern.

    Args:
        inputs: nodes with their places.
        first: the nodes of the recording have larger numbers than this.
        marks: where the derivative of another input begins: the number before its first node, and
            the place of the input; ascending.

    Returns None where the recording uses something else from outside that is no number.
    """
    order = ancestors(results, lambda node: node.number > first and node not in inputs)
    known = {*inputs, *order}
    outside = [each for node in order for each in node.inputs if each not in known]
    fixed = dict.fromkeys([*outside, *[node for node in order if node.op is None]])
    if any(each.op is not None or each.size > _MOST_FIXED for each in fixed):
        return None
    count = max(inputs.values()) + 1
    place = {**inputs, **{node: count + i for i, node in enumerate(fixed)}}
    recorded = [node for node in order if node.op is not None]
    start = count + len(fixed)
    steps: list[Step] = []
    ahead = [*marks, (_END, -1)][::-1]
    of = -1
    for i, node in enumerate(recorded):
        while node.number > ahead[-1][0]:
            of = ahead.pop()[1]
        operands = tuple([place[each] for each in node.inputs])
        fraction = (i + 1) / (len(recorded) + 1)
        assert node.op is not None
        steps.append(Step(node.op, operands, node.attributes, node.kind, of, fraction))
        place[node] = start + i
    found = [place[node] - start for node in results]
    if min(found, default=-1) < 0:
        return None  # what comes out is what went in
    return Pattern(count, tuple(fixed), steps, found)


_END = 2**62


def repeats() -> bool:
    """Whether what is recorded now may come out of memory: nobody watches the recording."""
    return context.recording is None and not context.mapping and context.examples is None


class Memory(Generic[Kept]):
    """What is kept of structures that come again; the least recently used goes first.

    The first time a structure is only noted: most of those that never come back cost no more.
    """

    def __init__(self, most: int = 128, seen: int = 2048) -> None:
        self._most = most
        self._most_seen = seen
        self._kept: OrderedDict[Any, Kept | None] = OrderedDict()
        self._seen: OrderedDict[int, None] = OrderedDict()  # hashes: keys may be long

    def get(self, key: Any) -> Kept | None:
        """What is kept of a structure."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def comes_again(self, key: Any) -> bool:
        """Whether this structure, of which nothing is kept, was asked for before."""
        number = hash(key)
        if number in self._seen:
            return key not in self._kept
        self._seen[number] = None
        if len(self._seen) > self._most_seen:
            self._seen.popitem(last=False)
        return False

    def keep(self, key: Any, made: Kept | None) -> None:
        """Keep something of a structure; None: nothing can be kept."""
        self._kept[key] = made
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._seen.clear()


class Use:
    """A pattern between nodes.

    Args:
        inputs: the nodes in the places of the pattern's inputs.
        location, scope: the user's line and layer, for steps that are part of no derivative.

    Attributes:
        reads: the inputs and leaves that its values depend on.
        derived: the inputs whose derivatives it has.
    """

    __slots__ = ("_results", "derived", "location", "number", "pattern", "reads", "scope")

    def __init__(
        self,
        pattern: Pattern,
        inputs: Sequence[Node],
        location: Location | None,
        scope: Scope | None,
    ) -> None:
        self.pattern = pattern
        self.reads = (*[inputs[place] for place in pattern.reads], *pattern.fixed)
        self.derived = [inputs[place] for place in pattern.derived]
        self.location = location
        self.scope = scope
        self.number = next_number()
        self._results: list[weakref.ref[Node]] = []

    def result(self, place: int) -> Node:
        """The node of a step: to be called once for each."""
        node = Promised(self, place)
        self._results.append(note_pending(node, context.pending))
        return node

    def expand(self) -> None:
        """Give all results their op and inputs: the recorded graph."""
        pattern = self.pattern
        there: Any = dict(zip(pattern.reads, self.reads, strict=False))
        made = [there.get(place) for place in range(pattern.inputs)] + [*pattern.fixed]
        derived = dict(zip(pattern.derived, self.derived, strict=True))
        results: dict[int, Any] = {each.place: each for ref in self._results if (each := ref())}
        for place, step in enumerate(pattern.steps):
            node = results.get(place)
            if node is None or node.use is not None:
                inputs = tuple([made[each] for each in step.operands])
                if node is None:
                    node = Node(step.op, inputs, step.attributes, step.kind)
                    node.number = self.number + step.fraction
                else:
                    node.op, node.inputs, node.attributes = step.op, inputs, step.attributes
                    node.use = None
                self._describe(node, derived.get(step.of))
            made.append(node)

    def _describe(self, node: Node, differentiated: Node | None) -> None:
        """What messages say of a node."""
        if differentiated is None:
            node.location, node.scope = self.location, self.scope
        else:
            node.location, node.scope = differentiated.location, differentiated.scope
            node.gradient_of = differentiated.name


class Promised(Node):
    """The result of a pattern: its op, inputs and attributes are found when somebody asks.

    Attributes:
        place: of its step.
    """

    def __init__(self, use: Use, place: int) -> None:
        step = use.pattern.steps[place]
        self.number = use.number + step.fraction
        self.kind = kind = step.kind
        self.shape = kind.shape
        self.size = kind.size
        self.dtype = kind.dtype
        self.value = None
        self.use = use
        self.place = place
        self.location = use.location

    def __getattr__(self, name: str) -> Any:
        if name not in ("op", "inputs", "attributes") or self.use is None:
            raise AttributeError(name)
        self.use.expand()
        return self.__dict__[name]

    def finish(self) -> None:
        """Let go of what it was computed from: its value is known."""
        assert self.use is not None
        step = self.use.pattern.steps[self.place]
        self.op, self.inputs, self.attributes, self.use = step.op, (), step.attributes, None
