"""Which anchors one kernel computes: groups.

Elementwise chains stand with the reductions that they feed (softmax, layer norm), elementwise
anchors in the epilogue of a matrix product. No group may need, by way of others, what it computes
itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from schuss.compiler.anchors import Anchors, nests
from schuss.compiler.constants import made_of_constants
from schuss.compiler.emit import (
    PARTIAL,
    Emitter,
    NotInStepError,
    column_order,
    is_map,
    lowered,
    pools,
    position,
)
from schuss.compiler.index import NotAffineError, bounds_of, sizes_between
from schuss.compiler.kernel import Kernel, epilogue, position_of
from schuss.compiler.values import REDUCTIONS, TEMPLATES, VIEWS, Shape, Value

_MOST_GROUP_COST = 400


class NotInTemplateError(Exception):
    """A partial sum has found no place in the epilogue of its template."""

    def __init__(self, value: Value) -> None:
        super().__init__(value)
        self.value = value


@dataclass(eq=False, slots=True)
class Group:
    """Anchors that one unit computes.

    Attributes:
        kind: "loops", "column" (a reduction whose axes are not the last ones), "product" or
            "single" (anything that fuses with nothing).
        bit: this group in sets of groups.
        before: all groups that it needs, directly or not.
        bounds: the places at which the loops over the elements, in row-major order, are cut:
            products of sizes from the left.
        row: for loops with reductions: how many elements a row has.
        reads: what its anchors look at.
        cost: of all its anchors.
    """

    kind: str
    bit: int
    anchors: list[Value] = field(default_factory=list)
    before: int = 0
    size: int = 0
    bounds: frozenset[int] = frozenset()
    row: int | None = None
    reads: set[Value] = field(default_factory=set)
    cost: int = 0


class Groups:
    """The anchors of a graph, gathered.

    Attributes:
        all: the groups, in the order in which they were begun.
        of: the group of each anchor.
    """

    def __init__(self, anchors: Anchors) -> None:
        self.anchors = anchors
        self.all: list[Group] = []
        self.of: dict[Value, Group] = {}
        self._settled = made_of_constants(anchors.graph)
        for anchor in anchors.order:
            self._place(anchor)

    def in_order(self) -> list[Group]:
        """Each group after those that it needs."""
        return sorted(self.all, key=lambda group: (group.before.bit_count(), group.bit))

    def emitter(
        self, group: Group, sizes: tuple[int, ...], row: int | None, members: set[Value],
        rehearsed: Value | None = None,
    ) -> Emitter:  # fmt: skip
        """What writes members of a group into loops of these sizes."""
        if group.kind == "column":
            first = group.anchors[0]
            outer, reduced, _ = column_order(first)
            kernel = Kernel(sizes, len(outer), len(reduced))
        elif row is not None:
            count, product = 0, 1
            while product < group.size // row:
                product *= sizes[count]
                count += 1
            kernel = Kernel(sizes, count, len(sizes) - count)
        else:
            kernel = Kernel(sizes, len(sizes))
        given = group.anchors[0] if group.kind == "product" else None
        column = group.anchors[0] if group.kind == "column" else None
        return Emitter(kernel, members, self.anchors.inlined, given, column, rehearsed)

    def _needs(self, anchor: Value) -> set[Group]:
        """The groups whose anchors the definition of `anchor` looks at."""
        return {self.of[each] for each in self.anchors.reads(anchor) if each.op != "input"}

    def _place(self, anchor: Value) -> None:
        needs = self._needs(anchor)
        for group in self._candidates(anchor, needs):
            if (anchor in self._settled) != (group.anchors[0] in self._settled):
                continue  # what is made of constants alone runs once
            others = [each for each in needs if each is not group]
            if any(each.before & group.bit for each in others):
                continue  # what it needs besides needs the group
            joined = self._joined(group, anchor)
            if joined is not None:
                group.bounds, group.row = joined
                self._join(group, anchor, others)
                return
        if anchor.op in PARTIAL:
            raise NotInTemplateError(anchor)
        group = Group(kind_of(anchor), 1 << len(self.all))
        group.size = anchor.inputs[0].size if anchor.op in REDUCTIONS else anchor.size
        if group.kind == "loops":
            shape = anchor.inputs[0].shape if anchor.op in REDUCTIONS else anchor.shape
            group.bounds = bounds_of(shape) if 0 not in shape else frozenset({1})
            if 0 not in shape and anchor.op not in REDUCTIONS:
                group.bounds = self.anchors.fine_bounds(anchor)
            if anchor.op in REDUCTIONS:
                group.row = group.size // max(1, anchor.size)
        elif group.kind == "product":
            group.bounds = bounds_of(anchor.shape) if anchor.size else frozenset({1})
        self.all.append(group)
        self._join(group, anchor, list(needs))

    def _candidates(self, anchor: Value, needs: set[Group]) -> list[Group]:
        """Groups that it might join: those first with which it has most memory in common."""
        if 0 in anchor.shape or any(0 in each.shape for each in anchor.inputs):
            return []
        read = {v for each in anchor.inputs for v in self.anchors.loads[each] if v.size > 1}
        found = dict.fromkeys(needs, 0)
        if is_map(anchor) or anchor.op in REDUCTIONS:
            for group in self.all[-64:]:
                if group.kind in ("loops", "column"):
                    shared = read & group.reads
                    if shared and group not in needs:
                        found[group] = 0
                    if group in found:
                        found[group] += sum(each.size for each in shared)
        for each in read:
            if each.op != "input":
                found[self.of[each]] += each.size
        ranked = sorted(found, key=lambda group: (-found[group], -group.bit))
        cost = self.anchors.own_cost[anchor]
        return [g for g in ranked if g.kind != "single" and g.cost + cost <= _MOST_GROUP_COST]

    def _joined(self, group: Group, anchor: Value) -> tuple[frozenset[int], int | None] | None:
        """The cuts and the row of the group with `anchor` in it; None where it does not fit."""
        if group.kind == "column":
            return self._joined_column(group, anchor)
        if anchor.op in REDUCTIONS:
            if group.kind != "loops" or kind_of(anchor) != "loops":
                return None
            row: int | None = anchor.inputs[0].size // anchor.size
            shape = anchor.inputs[0].shape
            if group.row not in (None, row) or math.prod(shape) != group.size:
                return None
            if row == group.size and group.row is None and len(group.anchors) > 1:
                return None
        elif anchor.op in PARTIAL:
            if group.anchors[0] is not anchor.inputs[1]:
                return None
            shape, row = anchor.inputs[0].shape, None
        elif is_map(anchor):
            shape, row = anchor.shape, group.row
            if anchor.size != group.size and not (
                row is not None and anchor.size == group.size // row
            ):
                return None
        else:
            return None
        bounds = group.bounds | bounds_of(shape)
        if row is not None:
            bounds |= {group.size // row}
        sizes = sizes_between(bounds)
        if sizes is None or not self._fits(group, anchor, sizes, row):
            return None
        return bounds, row

    def _joined_column(
        self, group: Group, anchor: Value
    ) -> tuple[frozenset[int], int | None] | None:
        first = group.anchors[0]
        if anchor.op in REDUCTIONS:
            alike = (
                kind_of(anchor) == "column"
                and anchor.inputs[0].shape == first.inputs[0].shape
                and anchor.attributes["axes"] == first.attributes["axes"]
            )
        else:
            alike = is_map(anchor) and [n for n in anchor.shape if n > 1] == [
                n for n in first.shape if n > 1
            ]
        if not alike or not self._fits(group, anchor, column_sizes(first), None):
            return None
        return group.bounds, None

    def _fits(self, group: Group, anchor: Value, sizes: tuple[int, ...], row: int | None) -> bool:
        """Whether the anchor can be written down in the group: a rehearsal."""
        trial = self.emitter(group, sizes, row, {*group.anchors, anchor}, anchor)
        try:
            trial.anchor(anchor)
        except NotInStepError:
            return False
        except NotAffineError as problem:
            if problem.value in self.anchors.all:
                raise
            return False
        if group.kind == "column":  # one way down the columns only
            return max(trial.kernel.passes_before()) <= 1
        if group.kind == "product":
            place = position(anchor, trial.place(anchor), len(sizes))
            trial.kernel.store(anchor, place, 0, anchor.dtype)
            if group.anchors[0].op == "convolution_weight" and not _goes_along_rows(trial.kernel):
                return False
            return _columns_stay_whole(trial.kernel, group.anchors[0].shape)
        return True

    def _join(self, group: Group, anchor: Value, needs: list[Group]) -> None:
        group.anchors.append(anchor)
        group.cost += self.anchors.own_cost[anchor]
        self.of[anchor] = group
        for each in anchor.inputs:
            group.reads |= self.anchors.loads[each]
        new = 0
        for other in needs:
            new |= other.bit | other.before
        if new & ~group.before:
            group.before |= new
            for other in self.all:
                if other.before & group.bit:
                    other.before |= group.before


def kind_of(anchor: Value) -> str:
    """The kind of group that an anchor begins."""
    if anchor.op in REDUCTIONS and lowered(anchor):
        axes, rank = anchor.attributes["axes"], len(anchor.inputs[0].shape)
        last = tuple(axes) == tuple(range(rank - len(axes), rank))
        return "loops" if last and not pools(anchor) else "column"
    if anchor.op in TEMPLATES and lowered(anchor):
        return "product"
    if anchor.op == "reshape":
        return "loops" if nests(anchor) else "single"
    return "loops" if is_map(anchor) or anchor.op in VIEWS else "single"


def column_sizes(reduction: Value) -> tuple[int, ...]:
    """The sizes of the loops of a column, outer, reduced, inner."""
    shape = reduction.inputs[0].shape
    outer, reduced, inner = column_order(reduction)
    return tuple(shape[axis] for axis in (*outer, *reduced, *inner))


def _columns_stay_whole(kernel: Kernel, shape: Shape) -> bool:
    """Whether the loops over the columns of a product can be one loop."""
    return epilogue(kernel, shape).inner <= 1


def _goes_along_rows(kernel: Kernel) -> bool:
    """Whether the innermost loop finds all that it touches side by side."""
    touched = [position_of(line) for line in kernel.lines]
    touched += [store.affine for store in kernel.stores]
    return all(affine is None or affine[-2:-1] in ((), (0,), (1,)) for affine in touched)
