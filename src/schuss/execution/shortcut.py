"""From targets that wait to a program in one walk, for graphs whose structure is known.

The walk goes around the patterns in a graph (`schuss.patterns`): these are inputs and results here,
not ops. What it finds has a key. The first time, the graph is captured in full, with patterns
expanded, and the program is found by the key of that; then the program is remembered for the
shorter key, with the way in which its inputs are found among what the walk met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schuss.execution import tiers
from schuss.execution.capture import Capture, leaf_kind
from schuss.graph import OUTPUT, Node, ancestors
from schuss.patterns import Memory, Use

if TYPE_CHECKING:
    from schuss.compiler.program import Program

_WANTED, _AGAIN, _PATTERN = -1_000_000, -1_000_001, 10**12  # apart from places and kinds
_WORTH_A_LOOK = 2**26  # bytes; smaller results are not looked at one by one before they are made


@dataclass(slots=True)
class Survey:
    """What a walk met.

    Attributes:
        key: equal for evaluations of one structure.
        order: the nodes to compute, inputs first; but no inner nodes of patterns.
        leaves: the nodes whose values go in.
        outputs: the nodes whose values are wanted, in their order.
    """

    key: tuple[int, ...]
    order: list[Node]
    leaves: list[Node]
    outputs: list[Node]


@dataclass(slots=True)
class Shortcut:
    """What is remembered for the key of a survey.

    Attributes:
        key: of the structure in full.
        inputs: the places among the leaves of what goes into the program.
        large: the outputs for which there may not be enough memory.
    """

    key: tuple[int, ...]
    inputs: list[int]
    large: list[int]


_shortcuts: Memory[Shortcut] = Memory(256)


def survey(targets: Sequence[Node]) -> Survey:
    """What the targets need that has no value yet, with patterns as they are."""
    order = _needed(targets)
    kept = values_to_keep(order, targets)
    key: list[int] = []
    leaves: list[Node] = []
    outputs: list[Node] = []
    place: dict[Node | Use, int] = {}
    for node in order:
        use = node.use
        if use is None:
            key.append(node.kind.number)
            inputs: Sequence[Node] = node.inputs
        elif use in place:
            key += (_AGAIN, place[use], node.place)  # type: ignore[attr-defined]
            inputs = ()
        else:
            place[use] = len(place)
            key += (_PATTERN + use.pattern.number, node.place)  # type: ignore[attr-defined]
            inputs = use.reads
        for each in inputs:
            at = place.get(each)
            if at is None:  # a leaf, met for the first time
                at = place[each] = -1 - len(leaves)
                leaves.append(each)
                key.append(leaf_kind(each))
            key.append(at)
        place[node] = len(place)
        if node in kept:
            outputs.append(node)
            key.append(_WANTED)
    return Survey(tuple(key), order, leaves, outputs)


def _needed(targets: Sequence[Node]) -> list[Node]:
    found: set[Node] = set()
    stack = [*targets]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            use = node.use
            for each in node.inputs if use is None else use.reads:
                if each.value is None and each not in found:
                    stack.append(each)
    return sorted(found, key=_number_of)


def _number_of(node: Node) -> float:
    return node.number


def values_to_keep(order: Sequence[Node], targets: Sequence[Node]) -> set[Node]:
    """The nodes whose values outlive the evaluation."""
    kept = {node for node in order if node.handles > 0}
    kept.update(targets)
    # A backward pass can start at these. (A second one through spent nodes computes them again.)
    on_tape = {node for node in kept if node.requires_grad and not node.spent}
    if not on_tape:
        return kept
    for node in reversed(order):
        if node not in on_tape or node.owner is not None:
            continue
        for index in node.op.saves:  # type: ignore[union-attr]
            if index < len(node.inputs):
                kept.add(node if index == OUTPUT else node.inputs[index])
        on_tape.update(each for each in node.inputs if each.requires_grad)
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
        large = [i for i, node in enumerate(found.outputs) if node.nbytes > _WORTH_A_LOOK]
        _shortcuts.keep(found.key, Shortcut(work.key, inputs, large))
