"""From targets that wait to a program in one walk, for graphs whose structure is known.

The walk goes around the patterns in a graph (`schuss.patterns`): these are inputs and results here,
not ops. What it finds has a key. The first time, the graph is captured in full, with patterns
expanded, and the program is found by the key of that; then the program is remembered for the
shorter key, with the way in which its inputs are found among what the walk met.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schuss.execution import tiers
from schuss.execution.capture import Capture, leaf_kind
from schuss.graph import OUTPUT, Node, number_of
from schuss.patterns import Memory, Use

if TYPE_CHECKING:
    from schuss.compiler.program import Program

_WANTED, _AGAIN, _PATTERN = -1_000_000, -1_000_001, 10**12  # apart from places and kinds
WORTH_TAKING_OVER = 4096  # bytes; smaller memory is not worth a look at its references
_WORTH_A_LOOK = 2**26  # bytes; smaller results are not looked at one by one before they are made


@dataclass(slots=True)
class Survey:
    """What a walk met.

    Attributes:
        key: equal for evaluations of one structure.
        order: the nodes to compute, inputs first; but no inner nodes of patterns.
        leaves: the nodes whose values go in.
        outputs: the nodes whose values are wanted, in their order.
        held: what the nodes and patterns hold, one tuple for each.
    """

    key: tuple[int, ...]
    order: list[Node]
    leaves: list[Node]
    outputs: list[Node]
    held: list[tuple[Node, ...]]


@dataclass(slots=True)
class Shortcut:
    """What is remembered for the key of a survey.

    Attributes:
        key: of the structure in full.
        inputs: the places among the leaves of what goes into the program.
        references: see `references_to`.
        large: the outputs for which there may not be enough memory.
    """

    key: tuple[int, ...]
    inputs: list[int]
    references: list[int]
    large: list[int]


_shortcuts: Memory[Shortcut] = Memory(256)


def survey(targets: Sequence[Node]) -> Survey:
    """What the targets need that has no value yet, with patterns as they are."""
    order = _needed(targets)
    wanted = {*targets}
    if _on_tape(order, wanted):  # what a backward pass will look at lies within patterns, too
        promised = [node for node in order if node.use is not None and node.requires_grad]
        for node in promised:
            if node.use is not None and node.owner is None:
                node.use.expand()
        order = _needed(targets) if promised else order
        wanted |= saved_values(order, wanted)
    key: list[int] = []
    leaves: list[Node] = []
    outputs: list[Node] = []
    held: list[tuple[Node, ...]] = []
    places: dict[Node | Use, int] = {}
    for node in order:
        use = node.use
        if use is None:
            key.append(node.kind.number)
            inputs = node.inputs
        elif use in places:
            key += (_AGAIN, places[use], node.place)  # type: ignore[attr-defined]
            inputs = ()
        else:
            places[use] = len(places)
            key += (_PATTERN + use.pattern.number, node.place)  # type: ignore[attr-defined]
            inputs = use.reads
        held.append(inputs)
        for each in inputs:
            place = places.get(each)
            if place is None:  # a leaf, met for the first time
                place = places[each] = -1 - len(leaves)
                leaves.append(each)
                key.append(leaf_kind(each))
            key.append(place)
        places[node] = len(places)
        if node.handles or node in wanted:
            outputs.append(node)
            key.append(_WANTED)
    return Survey(tuple(key), order, leaves, outputs, held)


def _needed(targets: Sequence[Node]) -> list[Node]:
    """The targets and what they are computed from, apart from what has a value."""
    found: set[Node | Use] = set()
    order: list[Node] = []
    stack = [*targets]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            order.append(node)
            use = node.use
            inputs = node.inputs if use is None else () if use in found else use.reads
            if use is not None:
                found.add(use)
            for each in inputs:
                if each.value is None:
                    stack.append(each)
    order.sort(key=number_of)
    return order


def saved_values(order: Sequence[Node], targets: set[Node]) -> set[Node]:
    """The nodes whose values a backward pass will look at.

    It can start at the targets and at all that tensors point at. (A second one through spent nodes
    computes their values again.)
    """
    on_tape = _on_tape(order, targets)
    saved: set[Node] = set()
    for node in reversed(order) if on_tape else ():
        if node in on_tape and node.owner is None:
            for index in node.op.saves:  # type: ignore[union-attr]
                if index < len(node.inputs):
                    saved.add(node if index == OUTPUT else node.inputs[index])
            on_tape.update(each for each in node.inputs if each.requires_grad)
    return saved


def _on_tape(order: Sequence[Node], targets: set[Node]) -> set[Node]:
    """The nodes at which a backward pass can start."""
    return {
        node for node in order
        if node.requires_grad and node.owner is None and not node.spent
        and (node.handles or node in targets)
    }  # fmt: skip


def values_to_keep(order: Sequence[Node], targets: Sequence[Node]) -> set[Node]:
    """The nodes whose values outlive the evaluation."""
    kept = {*targets}
    kept |= saved_values(order, kept)
    kept.update([node for node in order if node.handles])
    return kept


def known(found: Survey) -> tuple[Program, Shortcut] | None:
    """The program for what a walk met, if there is one, and how to use it."""
    shortcut = _shortcuts.get(found.key)
    if shortcut is None:
        return None
    program = tiers.known(shortcut.key)
    return None if program is None else (program, shortcut)


def remember(found: Survey, work: Capture) -> None:
    """Remember the structure in full of what a walk met, where both say the same."""
    if found.outputs != work.outputs:
        return
    places = {leaf: i for i, leaf in enumerate(found.leaves)}
    inputs = [places.get(leaf, -1) for leaf in work.leaves if leaf.constant is None]
    if -1 not in inputs:
        into = [found.leaves[i] for i in inputs]
        references = references_to(into, found.held)
        large = [i for i, node in enumerate(found.outputs) if node.nbytes > _WORTH_A_LOOK]
        _shortcuts.keep(found.key, Shortcut(work.key, inputs, references, large))


def references_to(leaves: Sequence[Node], held: Iterable[tuple[Node, ...]]) -> list[int]:
    """How often nodes hold each leaf; -1 for those with little memory to take over."""
    counts = Counter(each for inputs in held for each in inputs)
    return [counts[leaf] if leaf.nbytes >= WORTH_TAKING_OVER else -1 for leaf in leaves]
