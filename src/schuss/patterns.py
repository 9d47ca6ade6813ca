"""Graphs that are recorded again and again, kept as patterns that need no second recording.

Every step of a training loop has the same derivative and the same update. A `Pattern` is such a
graph without its ends, a `Use` puts it between nodes. What comes out are nodes like all others
(`Promised`), which find out their op and inputs when somebody asks for them: the graph is then what
the plain recording makes, node for node. An evaluation of a structure that is known does not ask.
"""

from __future__ import annotations

import functools
import itertools
import operator
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar

from schuss.context import Scope, context, learning
from schuss.errors import Location, user_location
from schuss.graph import Handle, Kind, Node, Op, ancestors, next_number, numbers, prune, wrap

if TYPE_CHECKING:
    import numpy as np

    from schuss.tensor import Tensor

Kept = TypeVar("Kept")

# Threads may share nodes: a walk finds a use as it is or expanded from its start to its end. And
# they share what is kept.
in_turn = threading.RLock()
if hasattr(os, "register_at_fork"):  # or the child would wait for a thread that it does not have
    os.register_at_fork(
        before=in_turn.acquire,
        after_in_parent=in_turn.release,
        after_in_child=in_turn.release,
    )

_numbers = itertools.count(-1, -1)
_MOST_FIXED = 1024  # elements of data that belongs to a pattern


class Step(NamedTuple):
    """One op of a pattern.

    Attributes:
        operands: what it is applied to: places among the inputs, the fixed leaves and the steps.
        label, requires_grad: of its node.
        of: the place of the input whose derivative it is part of; -1 for none.
        fraction: what the number of its node has more than that of the use.
    """

    op: Op
    operands: tuple[int, ...]
    attributes: dict[str, Any]
    kind: Kind
    label: str | None
    requires_grad: bool
    of: int
    fraction: float


class Pattern:
    """A recorded graph without its ends.

    Attributes:
        number: names the pattern in structural keys. It is negative, apart from those of kinds.
        inputs: how many inputs it has.
        reads: the places of the inputs that steps are applied to and that are nodes.
        inner: the places of those that are steps of other uses: which of `Use.uses`, which step.
        derived: the places of the inputs whose derivatives there are: which of `Use.derived`, and
            which step of it; -1 for a node.
        fixed: leaves that are part of the pattern: numbers of rules, say.
        steps: inputs first.
        results: the steps whose nodes are wanted.
        alone: a function that records it gives its result, and not a tuple of them.
    """

    alone = True

    def __init__(
        self, inputs: int, fixed: dict[Node, None], steps: list[Step], results: list[int]
    ) -> None:
        self.number = next(_numbers)
        self.inputs = inputs
        self.fixed = fixed
        self.steps = steps
        self.results = results
        of = sorted({step.of for step in steps if step.of >= 0})
        self.derived = {place: (i, -1) for i, place in enumerate(of)}
        self.inner: dict[int, tuple[int, int]] = {}
        self.reads = sorted({k for step in steps for k in step.operands if k < inputs})

    def between(
        self, inputs: Sequence[Node], location: Location | None, scope: Scope | None
    ) -> Use:
        """A use of the pattern on nodes."""
        reads = tuple([inputs[place] for place in self.reads])
        return Use(self, reads, [inputs[place] for place in self.derived], location, scope)


def pattern_of(
    inputs: Mapping[Node, int],
    results: Sequence[Node],
    first: int,
    marks: Sequence[tuple[int, Node]] = (),
) -> Pattern | None:
    """What was recorded between `inputs` and `results`, as a pattern.

    Args:
        inputs: nodes with their places.
        first: the nodes of the recording have larger numbers than this.
        marks: where the derivative of another input begins: the number before its first node, and
            the input; ascending.

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
    ahead = [*[(number, inputs[node]) for number, node in marks], (_END, -1)][::-1]
    of = -1
    for i, node in enumerate(recorded):
        while node.number > ahead[-1][0]:
            of = ahead.pop()[1]
        operands = tuple([place[each] for each in node.inputs])
        fraction = (i + 1) / (len(recorded) + 1)
        assert node.op is not None
        steps.append(
            Step(node.op, operands, node.attributes, node.kind, node.label, node.requires_grad,
                 of, fraction)
        )  # fmt: skip
        place[node] = start + i
    found = [place[node] - start for node in results]
    if min(found, default=-1) < 0:
        return None  # what comes out is what went in
    return Pattern(count, fixed, steps, found)


_END = 2**62


def repeats() -> bool:
    """Whether what is recorded now may come out of memory: nobody watches the recording."""
    here = context.__dict__  # of this thread: one look instead of three
    return here["recording"] is None and not here["mapping"] and here["examples"] is None


class Memory(Generic[Kept]):
    """What is kept of structures that come again; the least recently used goes first.

    The first time a structure is only noted: most of those that never come back cost no more.
    Of those that are kept, who was asked for since the last look gets a second chance.
    """

    def __init__(self, most: int = 128, seen: int = 2048) -> None:
        self._most = most
        self._most_seen = seen
        self._kept: dict[Any, list[Any]] = {}  # what is kept, and whether it was asked for
        self._seen: OrderedDict[int, None] = OrderedDict()  # hashes: keys may be long

    def get(self, key: Any) -> Kept | None:
        """What is kept of a structure."""
        found = self._kept.get(key)
        if found is None:
            return None
        found[1] = True
        return found[0]

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
        with in_turn:
            while len(self._kept) >= self._most:
                oldest = next(iter(self._kept))
                was, asked_for = self._kept.pop(oldest)
                if asked_for:
                    self._kept[oldest] = [was, False]
            self._kept[key] = [made, False]

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._seen.clear()


class Use:
    """A pattern between nodes.

    Args:
        inputs: the nodes in the places that the pattern reads.
        derived: what its derivatives are of: nodes, and uses.
        location, scope: the user's line and layer, for steps that are part of no derivative.
        uses: the uses whose steps it reads.

    Attributes:
        spent: a backward pass went through.
    """

    __slots__ = (
        "_derived", "_nodes", "_results", "inputs", "location", "number", "pattern", "scope",
        "spent", "uses",
    )  # fmt: skip

    def __init__(
        self,
        pattern: Pattern,
        inputs: tuple[Node, ...],
        derived: Sequence[Node | Use],
        location: Location | None,
        scope: Scope | None,
        uses: Sequence[Use] = (),
    ) -> None:
        self.pattern = pattern
        self.inputs = inputs
        self.uses = uses
        self.location = location
        self.scope = scope
        self.number = next(numbers)
        context.pruned += len(pattern.steps)  # as many nodes wait
        self.spent = False
        self._derived = derived
        self._nodes: list[Node] = []  # of all steps, once it is expanded
        self._results: list[weakref.ref[Promised]] = []

    def give(self, places: Sequence[int]) -> list[Promised]:
        """The nodes of steps, for users to have: to be called once, with all of them."""
        made: list[Promised] = []
        results, pending = self._results, context.pending
        for place in places:
            node = Promised(self, place)
            made.append(node)
            ref = weakref.ref(node)
            results.append(ref)
            pending.append(ref)  # type: ignore[arg-type]
        prune(made)
        return made

    def results(self) -> list[Promised]:
        """The nodes that it has given out and that are still there."""
        return [node for ref in self._results if (node := ref()) is not None]

    def expand(self) -> list[Node]:
        """Give all results their op and inputs; return the node of each step: the whole graph."""
        with in_turn:
            if not self._nodes:
                self._nodes = self._expanded()
        return self._nodes

    def _expanded(self) -> list[Node]:
        pattern = self.pattern
        there: Any = dict(zip(pattern.reads, self.inputs, strict=True))
        for place, (which, within) in pattern.inner.items():
            there[place] = self.uses[which].expand()[within]
        made = [there.get(place) for place in range(pattern.inputs)] + [*pattern.fixed]
        start = len(made)
        results: dict[int, Node] = {each.place: each for each in self.results()}
        for place, step in enumerate(pattern.steps):
            node = results.get(place)
            if node is None or node.use is not None:
                inputs = tuple([made[each] for each in step.operands])
                if node is None:
                    node = Node(step.op, inputs, step.attributes, step.kind)
                    node.number = self.number + step.fraction
                    node.label, node.requires_grad = step.label, step.requires_grad
                else:
                    node.op, node.inputs, node.attributes = step.op, inputs, step.attributes
                    node.use = None
                node.spent = self.spent
                self._describe(node, step.of)
            made.append(node)
        return made[start:]

    def _describe(self, node: Node, of: int) -> None:
        """What messages say of a node, which is part of the derivative of the input at `of`."""
        which, inner = self.pattern.derived.get(of, (-1, -1))
        if which < 0:
            node.location, node.scope = self.location, self.scope
            return
        differentiated = self._derived[which]
        node.location, node.scope = differentiated.location, differentiated.scope
        if isinstance(differentiated, Use):
            step = differentiated.pattern.steps[inner]
            node.gradient_of = step.label or step.op.name
        else:
            node.gradient_of = differentiated.name


class Promised(Node):
    """The result of a pattern: its op, inputs and attributes are found when somebody asks.

    Attributes:
        place, step: which step of the pattern it is.
    """

    value: np.ndarray | None = None
    use: Use | None
    shape = property(operator.attrgetter("kind.shape"))
    size = property(operator.attrgetter("kind.size"))
    dtype = property(operator.attrgetter("kind.dtype"))

    def __init__(self, use: Use, place: int) -> None:
        self.step = step = use.pattern.steps[place]
        self.number = use.number + step.fraction
        self.kind = step.kind
        self.use = use
        self.place = place
        self.location = use.location
        self.scope = use.scope
        if step.requires_grad:
            self.requires_grad = True
        if step.label is not None:
            self.label = step.label

    def __getattr__(self, name: str) -> Any:
        if name in ("op", "attributes"):
            return getattr(self.step, name)
        use = self.use
        if name == "inputs" and use is not None:
            use.expand()
        if name not in self.__dict__:  # or another thread has expanded it
            raise AttributeError(name)
        return self.__dict__[name]

    def finish(self) -> None:
        self.use = self.scope = None
        self.inputs = ()


# --- functions whose graphs are kept ---

P = ParamSpec("P")
R = TypeVar("R", bound="Tensor | tuple[Tensor, ...]")


def repeating(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function of tensors and settings that always records the same for its kinds.

    It looks at no values, draws no random numbers, and gives back a new tensor or a tuple of some.
    """
    patterns: Memory[Pattern] = Memory()

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        here = context.__dict__
        if not repeats() or here["differentiating"] is not None:
            return function(*args, **kwargs)
        nodes: dict[Node, int] = {}
        key: list[Any] = [here["grad_enabled"], here["autocast"], *kwargs]
        for value in (*args, *kwargs.values()) if kwargs else args:
            if isinstance(value, Handle):
                node = value._node
                leaf = node.owner is not None
                place = nodes.setdefault(node, len(nodes))
                key += (node.kind.type, node.requires_grad, leaf, place)
            elif type(value) is float:
                key.append(value.hex())
            elif value is None or type(value) in _PLAIN or _is_shape(value):
                key += (type(value), value)
            else:
                return function(*args, **kwargs)
        structure = tuple(key)
        known = patterns.get(structure)
        if known is None:
            return _first(patterns, structure, nodes, function, args, kwargs)
        use = known.between([*nodes], here["location"] or user_location(), here["scope"])
        if known.alone:
            return wrap(use.give(known.results)[0])  # type: ignore[return-value]
        places = [*dict.fromkeys(known.results)]
        made = dict(zip(places, map(wrap, use.give(places)), strict=True))
        return tuple([made[place] for place in known.results])  # type: ignore[return-value]

    return call


_PLAIN = frozenset((bool, int, str))


def _is_shape(value: Any) -> bool:
    return type(value) is tuple and {*map(type, value)} == {int}


def _first(
    patterns: Memory[Pattern],
    key: Any,
    places: dict[Node, int],
    function: Any,
    args: Any,
    kwargs: Any,
) -> Any:
    """Call the function, and keep what it records if it has been called like this before."""
    if not places or not patterns.comes_again(key):
        return function(*args, **kwargs)
    first = next_number()
    with learning():
        result = function(*args, **kwargs)
    alone = isinstance(result, Handle)
    ends = [each._node for each in ([result] if alone else result)]
    pattern = pattern_of(places, ends, first)
    if pattern is not None:
        pattern.alone = alone
    pure = pattern is not None and all(step.kind.pure for step in pattern.steps)
    patterns.keep(key, pattern if pure else None)
    return result
