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
from schuss.execution.capture import Capture, Key, leaf_kind
from schuss.graph import OUTPUT, Node, number_of
from schuss.patterns import Memory, Use, in_turn

if TYPE_CHECKING:
    from schuss.compiler.program import Program

_STEPS = 2**20  # more than a pattern has
_OUTPUTS = 10**12  # beyond the numbers of kinds
WORTH_TAKING_OVER = 4096  # bytes; smaller memory is not worth a look at its references
_WORTH_A_LOOK = 2**26  # bytes; smaller results are not looked at one by one before they are made


@dataclass(slots=True)
class Survey:
    """What a walk met.

    Attributes:
        key: equal for evaluations of one structure.
        order: the nodes to compute and the uses of patterns, inputs first.
        leaves: the nodes whose values go in; those that are fixed in patterns come last.
        outputs: the nodes whose values are wanted, in their order.
    """

    key: tuple[int, ...]
    order: list[Node | Use]
    leaves: list[Node]
    outputs: list[Node]


@dataclass(slots=True)
class Shortcut:
    """What is remembered for the key of a survey.

    Attributes:
        key: of the structure in full.
        inputs: the places among the leaves of what goes into the program.
        references: see `references_to`.
        large: the outputs for which there may not be enough memory.
    """

    key: Key
    inputs: list[int]
    references: list[int]
    large: list[int]


_shortcuts: Memory[Shortcut] = Memory(256)


def survey(targets: Sequence[Node]) -> Survey:
    """What the targets need that has no value yet, with patterns as they are."""
    with in_turn:
        return _survey({*targets})


def _survey(wanted: set[Node]) -> Survey:
    order = _needed(wanted)
    found = _structure(order, wanted)
    if not _on_tape(found.outputs, wanted):
        return found
    for each in order:  # what a backward pass will look at lies within patterns, too
        if isinstance(each, Use) and any(
            node.requires_grad and node.owner is None for node in each.results()
        ):
            each.expand()
    order = _needed(wanted)
    nodes = [each for each in order if isinstance(each, Node)]
    saved = {node for node in saved_values(nodes, wanted) if node.value is None}
    return _structure(order, wanted | saved)


def _structure(order: list[Node | Use], wanted: set[Node]) -> Survey:
    """What `order` says. To `wanted` is added what is read on the way and tensors point at."""
    key: list[int] = []
    leaves: list[Node] = []
    places: dict[Node | Use, int] = {}
    fixed: dict[Node, None] = {}
    for each in order:
        if type(each) is Use:
            key.append(each.pattern.number)
            fixed |= each.pattern.fixed
            for use in each.uses:
                key.append(places[use])
        else:
            key.append(each.kind.number)  # type: ignore[union-attr]
        for node in each.inputs:
            if node.value is None:
                key.append(places[node.use or node] + node.place)
                if node.handles:
                    wanted.add(node)
            elif node in places:
                key.append(places[node])
            else:  # a leaf, met for the first time
                places[node] = place = -1 - len(leaves)
                leaves.append(node)
                key += (leaf_kind(node), place)
        places[each] = _STEPS * len(places)
    outputs = sorted(wanted, key=number_of)
    key.append(_OUTPUTS)
    if not fixed.keys().isdisjoint(leaves):  # a number that stands in a pattern and outside
        key += [places.get(leaf, 0) for leaf in fixed]
    leaves += fixed
    key += [places[node.use or node] + node.place for node in outputs]
    return Survey(tuple(key), order, leaves, outputs)


def _needed(targets: Iterable[Node]) -> list[Node | Use]:
    """The targets and what they are computed from, apart from what has a value."""
    order: list[Node | Use] = [*{node.use or node for node in targets}]
    found = {*order}
    for each in order:  # which grows
        for node in each.inputs:
            if node.value is None:
                source = node.use or node
                if source not in found:
                    found.add(source)
                    order.append(source)
        for use in each.uses:
            if use not in found:
                found.add(use)
                order.append(use)
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
        references = references_to(into, [each.inputs for each in found.order])
        large = [i for i, node in enumerate(found.outputs) if node.nbytes > _WORTH_A_LOOK]
        _shortcuts.keep(found.key, Shortcut(work.key, inputs, references, large))


def references_to(leaves: Sequence[Node], held: Iterable[tuple[Node, ...]]) -> list[int]:
    """How often nodes hold each leaf; -1 for those with little memory to take over."""
    counts = Counter(each for inputs in held for each in inputs)
    return [counts[leaf] if leaf.nbytes >= WORTH_TAKING_OVER else -1 for leaf in leaves]
