"""Which values are computed together: the graph becomes units of work.

First some values are made *anchors*: results of reductions and products, whatever is used more than
once and not cheap, and what has to exist in memory. All other values are part of the expressions
between anchors and are computed wherever they are used.

Then anchors are gathered in groups that one kernel computes: elementwise chains with the reductions
that they feed (softmax, layer norm), elementwise anchors in the epilogue of a matrix product. No
group may need, by way of others, what it computes itself.

Last, each group is written down as a kernel, the last group first, so that an anchor which nobody
outside its group asks for is never stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

from schuss import dtypes
from schuss.compiler.channels import channels_last
from schuss.compiler.constants import made_of_constants
from schuss.compiler.emit import COST, Emitter, NotInStepError, canonical, is_map, position
from schuss.compiler.index import (
    Affine,
    Index,
    NotAffineError,
    broadcast,
    dense_memory,
    identity,
    position_in_rows,
    scaled_sum,
    through,
)
from schuss.compiler.kernel import Kernel, collapse, moved, position_of
from schuss.compiler.lookup import is_lookup
from schuss.compiler.repeat import CannotRepeatError, repeat
from schuss.compiler.simplify import simplify
from schuss.compiler.units import (
    Assemble,
    Attention,
    Convolution,
    Host,
    Loops,
    Panels,
    Product,
    ScatterAdd,
    Unit,
)
from schuss.compiler.values import REDUCTIONS, VIEWS, Graph, Shape, Value, strides_of, users_of

RUNNING = {"cumsum": "sum", "cumprod": "prod"}
_CONTRACTIONS = ("matmul", "convolution", "convolution_weight")
_MOST_COST = 48  # of one expression between anchors
_MOST_LOADS = 10
_MOST_GROUP_COST = 400
_RECOMPUTED_COST = 24  # up to which an anchor is computed again instead of stored
_REPEATED_COST = 3  # up to which it is computed again for each of many rows
_MANY_ROWS = 64


def fuse(graph: Graph) -> list[Unit]:
    """The units that compute the graph's outputs, each after those that it needs."""
    forced: set[Value] = set()
    while True:
        fusion = _Fusion(graph, forced)
        try:
            units = fusion.units()
        except NotAffineError as problem:  # a reshape that has to move memory
            fusion.unseen.add(problem.value)
        if not fusion.unseen:
            return units
        assert not fusion.unseen & forced, fusion.unseen & forced
        forced |= fusion.unseen


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


def bounds_of(shape: Sequence[int]) -> frozenset[int]:
    """The products of sizes from the left."""
    found, product = set(), 1
    for n in shape:
        product *= n
        found.add(product)
    return frozenset(found | {1})


def sizes_between(bounds: frozenset[int]) -> tuple[int, ...] | None:
    """The loop sizes that these places cut into; None where they do not nest."""
    ordered = sorted(bounds)
    sizes = []
    for low, high in pairwise(ordered):
        if high % low:
            return None
        sizes.append(high // low)
    return tuple(sizes)


class _Fusion:
    def __init__(self, graph: Graph, forced: set[Value]) -> None:
        self.graph = graph
        self.forced = forced
        self.wanted = {_memory(value, forced) for value in [*graph.outputs, *graph.checks]}
        self.users = users_of(graph.values)
        self.settled = made_of_constants(graph)
        self.in_memory = set(self.wanted)  # what is stored in any case
        self.anchors: list[Value] = []
        self.is_anchor: set[Value] = set()
        self.cost: dict[Value, int] = {}
        self.own_cost: dict[Value, int] = {}
        self.loads: dict[Value, frozenset[Value]] = {}
        self.group_of: dict[Value, Group] = {}
        self.loops: dict[Value, Unit | None] = {}
        self.groups: list[Group] = []
        self.unseen: set[Value] = set()  # reshapes that turned out to move memory

    def units(self) -> list[Unit]:
        self._choose_anchors()
        for anchor in self.anchors:
            self._place(anchor)
        return self._write()

    # --- anchors ---

    def _choose_anchors(self) -> None:
        for value in self.graph.values:
            for operand in _memory_operands(value):
                self.in_memory.add(_memory(operand, self.forced))
        for value in self.forced:
            if not _nest(value):
                self.in_memory.add(_memory(value.inputs[0], self.forced))
        for value in self.graph.values:
            if value.op in ("input", "constant"):
                self.cost[value] = 0
                self.loads[value] = frozenset((value,) if value.op == "input" else ())
                continue
            if value.op in VIEWS and value not in self.forced:
                self.cost[value] = self.cost[value.inputs[0]]
                self.loads[value] = self.loads[value.inputs[0]]
                continue
            cost = COST.get(value.op, 1) + sum(self.cost[each] for each in value.inputs)
            loads = frozenset().union(*[self.loads[each] for each in value.inputs])
            self.cost[value], self.loads[value] = cost, loads
            if self._is_anchor(value, cost, loads):
                self.anchors.append(value)
                self.is_anchor.add(value)
                self.own_cost[value] = cost
                self.cost[value], self.loads[value] = 0, frozenset((value,))

    def _is_anchor(self, value: Value, cost: int, loads: frozenset[Value]) -> bool:
        if not is_map(value) or value in self.in_memory or value in self.forced:
            return True
        if value in self.graph.kept:
            return True
        if cost > _MOST_COST or len(loads) > _MOST_LOADS:
            return True
        users = self._distinct_users(value)
        if cost >= _REPEATED_COST and any(_repeats(value, user) for user in users):
            return True
        if len(users) < 2:
            return False
        return cost > _RECOMPUTED_COST or sum(each.size >= value.size for each in loads) >= 2

    def _distinct_users(self, value: Value) -> set[Value]:
        found, stack = set(), [value]
        while stack:
            for user in self.users[stack.pop()]:
                if user.op in VIEWS:
                    stack.append(user)
                else:
                    found.add(user)
        return found

    # --- groups ---

    def _needs(self, anchor: Value) -> set[Group]:
        """The groups whose anchors the definition of `anchor` looks at."""
        found = frozenset().union(*[self.loads[each] for each in anchor.inputs])
        return {self.group_of[each] for each in found if each.op != "input"}

    def _place(self, anchor: Value) -> None:
        needs = self._needs(anchor)
        for group in self._candidates(anchor, needs):
            if (anchor in self.settled) != (group.anchors[0] in self.settled):
                continue  # what is made of constants alone runs once
            others = [each for each in needs if each is not group]
            if any(each.before & group.bit for each in others):
                continue  # what it needs besides needs the group
            joined = self._joined(group, anchor)
            if joined is not None:
                group.bounds, group.row = joined
                self._join(group, anchor, others)
                return
        group = Group(_kind(anchor), 1 << len(self.groups))
        group.size = anchor.inputs[0].size if anchor.op in REDUCTIONS else anchor.size
        if group.kind == "loops":
            shape = anchor.inputs[0].shape if anchor.op in REDUCTIONS else anchor.shape
            group.bounds = bounds_of(shape) if 0 not in shape else frozenset({1})
            if 0 not in shape and anchor.op not in REDUCTIONS:
                group.bounds = self._fine_bounds(anchor)
            if anchor.op in REDUCTIONS:
                group.row = group.size // max(1, anchor.size)
        elif group.kind == "product":
            group.bounds = bounds_of(anchor.shape) if anchor.size else frozenset({1})
        self.groups.append(group)
        self._join(group, anchor, list(needs))

    def _candidates(self, anchor: Value, needs: set[Group]) -> list[Group]:
        """Groups that it might join: those first with which it has most memory in common."""
        if 0 in anchor.shape or any(0 in each.shape for each in anchor.inputs):
            return []
        read = {v for each in anchor.inputs for v in self.loads[each] if v.size > 1}
        found = dict.fromkeys(needs, 0)
        if is_map(anchor) or anchor.op in REDUCTIONS:
            for group in self.groups[-64:]:
                if group.kind in ("loops", "column"):
                    shared = read & group.reads
                    if shared and group not in needs:
                        found[group] = 0
                    if group in found:
                        found[group] += sum(each.size for each in shared)
        for each in read:
            if each.op != "input":
                found[self.group_of[each]] += each.size
        ranked = sorted(found, key=lambda group: (-found[group], -group.bit))
        cost = self.own_cost[anchor]
        return [g for g in ranked if g.kind != "single" and g.cost + cost <= _MOST_GROUP_COST]

    def _joined(self, group: Group, anchor: Value) -> tuple[frozenset[int], int | None] | None:
        """The cuts and the row of the group with `anchor` in it; None where it does not fit."""
        if group.kind == "column":
            return self._joined_column(group, anchor)
        if anchor.op in REDUCTIONS:
            if group.kind != "loops" or _kind(anchor) != "loops":
                return None
            row: int | None = anchor.inputs[0].size // anchor.size
            shape = anchor.inputs[0].shape
            if group.row not in (None, row) or math.prod(shape) != group.size:
                return None
            if row == group.size and group.row is None and len(group.anchors) > 1:
                return None
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
                _kind(anchor) == "column"
                and anchor.inputs[0].shape == first.inputs[0].shape
                and anchor.attributes["axes"] == first.attributes["axes"]
            )
        else:
            alike = is_map(anchor) and [n for n in anchor.shape if n > 1] == [
                n for n in first.shape if n > 1
            ]
        if not alike or not self._fits(group, anchor, _column_sizes(first), None):
            return None
        return group.bounds, None

    def _fits(self, group: Group, anchor: Value, sizes: tuple[int, ...], row: int | None) -> bool:
        """Whether the anchor can be written down in the group: a rehearsal."""
        trial = self._emitter(group, sizes, row, {*group.anchors, anchor}, anchor)
        try:
            trial.anchor(anchor)
        except NotInStepError:
            return False
        except NotAffineError as problem:
            if problem.value in self.is_anchor:
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
        group.cost += self.own_cost[anchor]
        self.group_of[anchor] = group
        for each in anchor.inputs:
            group.reads |= self.loads[each]
        new = 0
        for other in needs:
            new |= other.bit | other.before
        if new & ~group.before:
            group.before |= new
            for other in self.groups:
                if other.before & group.bit:
                    other.before |= group.before

    # --- writing down ---

    def _emitter(
        self, group: Group, sizes: tuple[int, ...], row: int | None, members: set[Value],
        rehearsed: Value | None = None,
    ) -> Emitter:  # fmt: skip
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
        return Emitter(kernel, members, self._inlined, given, column, rehearsed)

    def _inlined(self, value: Value) -> bool:
        """Whether a value is part of expressions, computed wherever it is used."""
        return value not in self.is_anchor

    def _write(self) -> list[Unit]:
        """One unit a group, from the last one back, for what is asked of it."""
        asked = set(self.in_memory)
        units: list[Unit] = []
        for group in _in_order(self.groups)[::-1]:
            stored = [anchor for anchor in group.anchors if anchor in asked]
            try:
                unit = self._unit(group, stored)
            except NotAffineError as problem:
                self.unseen.add(problem.value)
                asked.update(*[self.loads[i] for a in group.anchors for i in a.inputs])
                continue
            if unit is not None:
                asked.update(unit.reads())
                units.append(unit)
        units.reverse()
        return units

    def _unit(self, group: Group, stored: list[Value]) -> Unit | None:
        if group.kind == "product":
            return self._product(group, stored)
        if group.kind in ("loops", "column"):
            return self._loops(group, stored) if stored else None
        return self._single(group.anchors[0])

    def _loops(self, group: Group, stored: list[Value]) -> Loops:
        sizes = _column_sizes(group.anchors[0]) if group.kind == "column" else None
        if sizes is None:
            sizes = sizes_between(group.bounds) if group.size else (0,)
        assert sizes is not None
        emitter = self._emitter(group, sizes, group.row, set(group.anchors))
        if group.size == 0 and group.kind == "loops" and group.anchors[0].op not in REDUCTIONS:
            return Loops(Kernel((0,), 1, buffers=list(stored)))
        self._emit(group, emitter, stored)
        return Loops(collapse(emitter.kernel))

    def _emit(self, group: Group, emitter: Emitter, stored: list[Value]) -> None:
        """Write the anchors that the stored ones need, in order, so that no walk goes deep."""
        needed: set[Value] = set()
        stack = list(stored)
        while stack:
            anchor = stack.pop()
            if anchor not in needed:
                needed.add(anchor)
                reads = frozenset().union(*[self.loads[each] for each in anchor.inputs])
                stack += [each for each in reads if self.group_of.get(each) is group]
        for anchor in sorted(needed, key=lambda each: each.number):
            emitter.anchor(anchor)
        for anchor in stored:
            emitter.store(anchor)

    def _product(self, group: Group, stored: list[Value]) -> Unit | None:
        product = group.anchors[0]
        if not stored:
            return None
        sizes = sizes_between(group.bounds) if product.size else tuple(product.shape)
        assert sizes is not None
        emitter = self._emitter(group, sizes, None, set(group.anchors))
        self._emit(group, emitter, stored)
        kernel = collapse(_runs(emitter.kernel, product.shape), keep_last=True)
        if product.op != "matmul":
            x, other = [
                locate(each, identity(each.shape), each.shape, self.forced)
                for each in product.inputs
            ]
            return Convolution(product, kernel, (x, other))
        return Product(product, kernel, self._operand(product, 0), self._operand(product, 1))

    def _operand(self, product: Value, place: int) -> tuple[Value, Affine]:
        """The memory of an operand, and its position over (batch ..., m, n, k)."""
        lead = len(product.shape) - 2
        sizes = (*product.shape, product.inputs[0].shape[-1])
        loops = identity(sizes)
        rows = (loops[lead], loops[lead + 2]) if place == 0 else (loops[lead + 2], loops[lead + 1])
        value = product.inputs[place]
        own = loops[lead - (len(value.shape) - 2) : lead] if lead else ()
        batch = tuple(
            affine if n > 1 else (0,) * (len(sizes) + 1)
            for n, affine in zip(value.shape[:-2], own, strict=True)
        )
        return locate(value, (*batch, *rows), sizes, self.forced)

    def _single(self, anchor: Value) -> Unit | None:
        if anchor.op == "loop_check":  # the loop writes it; on the host it raises by itself
            return None if self._repeat(anchor.inputs[0]) else Loops(_zeros(anchor))
        if anchor.op == "scan" and (loop := self._repeat(anchor)):
            return loop
        if anchor.op in ("concat", "slice_update", "pieces") and lowered(anchor):
            return self._assemble(anchor)
        if anchor.op == "scatter_add" and scatters_rows(anchor):
            return self._scatter(anchor)
        if anchor.op in RUNNING and lowered(anchor):
            return self._running(anchor)
        if anchor.op in ("attention", "attention_gradient"):
            return self._attention(anchor)
        if anchor.op == "panels":
            (w,) = anchor.inputs
            return Panels(anchor, locate(w, identity(w.shape), w.shape, self.forced))
        return Host(anchor, [chain_of(each, self.forced) for each in anchor.inputs])

    def _repeat(self, anchor: Value) -> Unit | None:
        """The unit of a loop; None where its steps need the host."""
        if anchor not in self.loops:
            with suppress(CannotRepeatError):
                self.loops[anchor] = self._new_repeat(anchor)
        return self.loops.setdefault(anchor)

    def _new_repeat(self, anchor: Value) -> Unit:
        checks = [each for each in self.users[anchor] if each.op == "loop_check"]

        def found(value: Value, index: Index, sizes: Sequence[int]) -> tuple[Value, Affine]:
            return locate(value, index, sizes, self.forced)

        return repeat(anchor, checks, found, _simplify_steps, _fuse_steps)

    def _attention(self, anchor: Value) -> Attention:
        """Operands over the axes of the queries' batch and their own last two."""
        batch = anchor.inputs[1].shape[:-2]
        masked = len(anchor.inputs) == (6 if anchor.op == "attention_gradient" else 4)
        operands = []
        for i, each in enumerate(anchor.inputs):
            shape = each.shape
            if masked and i == len(anchor.inputs) - 1:
                first = 1 if anchor.op == "attention_gradient" else 0
                q, k = anchor.inputs[first : first + 2]
                shape = (*batch, q.shape[-2], k.shape[-2])
            index = broadcast(each.shape, identity(shape), len(shape))
            operands.append(locate(each, index, shape, self.forced))
        return Attention(anchor, operands)

    def _running(self, anchor: Value) -> Loops:
        """Its own axis in the middle of the loops: it is the one along which things add up."""
        axis, place = anchor.attributes["axis"], identity(anchor.shape)
        kernel = Kernel(anchor.shape, axis, 1)
        emitter = Emitter(kernel, set(), self._inlined, None, None)
        inputs = [emitter.value(anchor.inputs[0], place)]
        inputs += [emitter.value(each, (*place[:axis], *place[axis + 1 :]))
                   for each in anchor.inputs[1:]]  # fmt: skip
        name = f"running.{RUNNING[anchor.op]}"
        line = kernel.add(name, tuple(inputs), anchor.dtype)
        kernel.store(anchor, position(anchor, place, len(anchor.shape)), line, anchor.dtype)
        return Loops(collapse(kernel))

    def _copy(self, target: Value, source: Value, cut: Sequence[tuple[int, int, int]]) -> Kernel:
        """A kernel that writes `source` into a part of the memory of `target`."""
        sizes = self._fine_sizes(source)
        place = identity(sizes) if sizes == source.shape else canonical(source.shape, sizes)
        assert place is not None
        kernel = Kernel(sizes, len(sizes))
        emitter = Emitter(kernel, set(), self._inlined, None, None)
        line = emitter.value(source, place)
        index: Index = tuple(
            (*[c * step for c in affine[:-1]], start)
            for affine, (start, _, step) in zip(place, cut, strict=True)
        )
        affine = scaled_sum(index, strides_of(target.shape), len(sizes))
        kernel.store(target, affine, line, target.dtype)
        return collapse(kernel)

    def _fine_sizes(self, source: Value) -> Shape:
        """Loops over `source` that are cut where the reshapes in its expression need cuts."""
        bounds = self._fine_bounds(source)
        found = sizes_between(bounds) if 0 not in source.shape else None
        return found if found is not None and 1 not in source.shape else source.shape

    def _fine_bounds(self, source: Value) -> frozenset[int]:
        bounds, stack, seen = bounds_of(source.shape), [source], set()
        while stack:
            value = stack.pop()
            for each in value.inputs if value is source or value not in self.is_anchor else ():
                if each.size == source.size and each not in seen:
                    seen.add(each)
                    stack.append(each)
            if value.op == "reshape" and value.size == source.size:
                finer = bounds | bounds_of(value.inputs[0].shape)
                if sizes_between(finer) is not None:
                    bounds = finer
        return bounds

    def _assemble(self, anchor: Value) -> Assemble:
        kernels = []
        if anchor.op == "slice_update":
            x, part = anchor.inputs
            whole = [(0, n, 1) for n in x.shape]
            kernels = [[self._copy(anchor, x, whole)],
                       [self._copy(anchor, part, anchor.attributes["cut"])]]  # fmt: skip
        elif anchor.op == "pieces":
            cuts = anchor.attributes["cuts"]
            parts = [
                self._copy(anchor, each, cut) for each, cut in zip(anchor.inputs, cuts, strict=True)
            ]
            kernels = [parts]
            if sum(each.size for each in anchor.inputs) < anchor.size:
                kernels.insert(0, [_zeros(anchor)])
        else:
            axis, start = anchor.attributes["axis"], 0
            side_by_side = []
            for each in anchor.inputs:
                cut = [(start if i == axis else 0, n, 1) for i, n in enumerate(each.shape)]
                side_by_side.append(self._copy(anchor, each, cut))
                start += each.shape[axis]
            kernels = [side_by_side]
        return Assemble(anchor, kernels)

    def _scatter(self, anchor: Value) -> ScatterAdd:
        x, part, index = anchor.inputs
        fill = self._copy(anchor, x, [(0, n, 1) for n in x.shape])
        rows, places = (self._dense(each) for each in (part, index))
        return ScatterAdd(anchor, fill, rows, places)

    def _dense(self, value: Value) -> tuple[Value, int]:
        """Where the elements of a value lie in row-major order: a memory, and the first of them."""
        found = dense_start(value, self.forced)
        if found is None:
            raise NotAffineError(value)
        return found


def _zeros(target: Value) -> Kernel:
    """A kernel that fills the memory of a value with zeros."""
    kernel, rank = Kernel(target.shape, len(target.shape)), len(target.shape)
    line = kernel.add("constant", (), target.dtype, 0)
    affine = scaled_sum(identity(target.shape), strides_of(target.shape), rank)
    kernel.store(target, affine, line, target.dtype)
    return collapse(kernel)


def _simplify_steps(steps: Graph) -> Graph:
    return channels_last(simplify(steps))


def _fuse_steps(steps: Graph) -> list[Unit]:
    from schuss.compiler.merge import merge

    return merge(fuse(steps), {*steps.outputs, *steps.checks})


def _repeats(value: Value, user: Value) -> bool:
    """Whether loops over `user` would compute `value` again for each of many rows."""
    shape = user.inputs[0].shape if user.op in REDUCTIONS else user.shape
    wide = [n for n in value.shape if n > 1]
    along = bool(shape) and bool(wide) and wide[-1] == shape[-1]
    whole = along and (len(wide) == 1 or value.shape[-1] > 1)
    return whole and math.prod(shape) >= _MANY_ROWS * value.size


def _in_order(groups: list[Group]) -> list[Group]:
    """Groups after those that they need."""
    return sorted(groups, key=lambda group: (group.before.bit_count(), group.bit))


def _kind(anchor: Value) -> str:
    if anchor.op in REDUCTIONS and lowered(anchor):
        axes, rank = anchor.attributes["axes"], len(anchor.inputs[0].shape)
        last = tuple(axes) == tuple(range(rank - len(axes), rank))
        return "loops" if last and not pools(anchor) else "column"
    if anchor.op in _CONTRACTIONS and lowered(anchor):
        return "product"
    if anchor.op == "reshape":
        return "loops" if _nest(anchor) else "single"
    return "loops" if is_map(anchor) or anchor.op in VIEWS else "single"


def _nest(reshape: Value) -> bool:
    """Whether loops can be cut so that they walk through both shapes."""
    shapes = reshape.shape, reshape.inputs[0].shape
    return sizes_between(bounds_of(shapes[0]) | bounds_of(shapes[1])) is not None


def lowered(value: Value) -> bool:
    """Whether kernels know the dtypes of a value and of what it is made from."""
    return not any(dtypes.is_complex(v.dtype) for v in (value, *value.inputs))


def pools(reduction: Value) -> bool:
    """Whether it goes over windows: short rows, of which many lie side by side."""
    return reduction.inputs[0].op == "windows" and len(reduction.shape) > 0


def column_order(
    reduction: Value,
) -> tuple[list[int], list[int], list[int]]:
    """The axes of the input in the order of the loops: outer, reduced, inner."""
    axes, rank = reduction.attributes["axes"], len(reduction.inputs[0].shape)
    inner = []
    for axis in reversed(range(rank)):
        if axis in axes:
            break
        inner.append(axis)
    inner.reverse()
    if not inner and pools(reduction):
        inner = [max(axis for axis in range(rank) if axis not in axes)]
    outer = [axis for axis in range(rank) if axis not in axes and axis not in inner]
    return outer, list(axes), inner


def _column_sizes(reduction: Value) -> tuple[int, ...]:
    shape = reduction.inputs[0].shape
    outer, reduced, inner = column_order(reduction)
    return tuple(shape[axis] for axis in (*outer, *reduced, *inner))


def _runs(kernel: Kernel, shape: Shape) -> Kernel:
    """The kernel of an epilogue, with the loops over batch, rows and columns as its three runs."""
    counts = []
    first = len(kernel.sizes)
    for n in shape[-1:-3:-1]:
        product, end = 1, first
        while product < n:
            first -= 1
            product *= kernel.sizes[first]
        assert product == n or 0 in shape, (kernel.sizes, shape)
        counts.append(end - first)
    sizes = kernel.sizes
    lines, stores = kernel.lines, kernel.stores
    if not counts[0]:  # a single column still is an axis
        sizes, counts[0] = (*sizes, 1), 1

        def longer(affine: Affine) -> Affine:
            return (*affine[:-1], 0, affine[-1])

        lines = [
            line if position_of(line) is None else moved(line, longer(position_of(line)))  # type: ignore[arg-type]
            for line in lines
        ]
        stores = [store._replace(affine=longer(store.affine)) for store in stores]
    return Kernel(sizes, first, counts[1], lines, stores, kernel.buffers)


def _columns_stay_whole(kernel: Kernel, shape: Shape) -> bool:
    """Whether the loops over the columns of a product can be one loop."""
    return collapse(_runs(kernel, shape), keep_last=True).inner <= 1


def _goes_along_rows(kernel: Kernel) -> bool:
    """Whether the innermost loop finds all that it touches side by side."""
    touched = [position_of(line) for line in kernel.lines]
    touched += [store.affine for store in kernel.stores]
    return all(affine is None or affine[-2:-1] in ((), (0,), (1,)) for affine in touched)


def _memory_operands(value: Value) -> Sequence[Value]:
    """The inputs that have to lie in memory, seen through views at most."""
    if value.op == "gather" and lowered(value):
        return value.inputs[:1]
    if value.op == "scatter_add" and scatters_rows(value):
        return value.inputs[1:]
    if value.op == "scan":  # which looks up rows by itself
        return [m for x in value.inputs for m in (x.inputs if is_lookup(x) else (x,))]
    unfused = value.op in ("concat", "slice_update", "pieces", *RUNNING)
    if is_map(value) or (unfused and lowered(value)):
        return ()
    if (value.op in REDUCTIONS and lowered(value)) or value.op in VIEWS:
        return ()
    return value.inputs


def scatters_rows(value: Value) -> bool:
    """Whether a scatter_add adds whole rows, in a dtype that kernels add in."""
    part, index = value.inputs[1:3]
    return (
        len(value.inputs) == 3
        and tuple(value.attributes["axes"]) == (0,)
        and value.dtype in (dtypes.float32, dtypes.float64, dtypes.int32, dtypes.int64)
        and index.dtype == dtypes.int64
        and all(_memory(each, set()).strides is None for each in (part, index))
        and all(_memory(each, set()).op != "constant" for each in (part, index))
    )


def dense_start(value: Value, forced: set[Value]) -> tuple[Value, int] | None:
    """The memory that has the elements of a value next to each other, and where they begin."""
    start = 0
    while value.op in VIEWS and value not in forced:
        if value.op == "slice" and value.shape and 0 not in value.shape:
            (first, _, step), *rest = value.attributes["cut"]
            whole = zip(rest, value.inputs[0].shape[1:], strict=True)
            if step != 1 or any(cut != (0, n, 1) for cut, n in whole):
                return None
            start += first * math.prod(value.shape[1:])
        elif value.op != "reshape":
            return None
        value = value.inputs[0]
    return None if value.strides is not None else (value, start)


def _memory(value: Value, forced: set[Value]) -> Value:
    """The value whose memory a view looks at."""
    while value.op in VIEWS and value not in forced:
        value = value.inputs[0]
    return value


def chain_of(value: Value, forced: set[Value]) -> list[Value]:
    """The memory of a value and the views that lead from there to it."""
    chain = [value]
    while chain[-1].op in VIEWS and chain[-1] not in forced:
        chain.append(chain[-1].inputs[0])
    return chain[::-1]


def locate(
    value: Value, index: Index, sizes: Sequence[int], forced: set[Value]
) -> tuple[Value, Affine]:
    """The memory behind a value, and the position there that `index` means."""

    def in_memory(each: Value) -> bool:
        return each.op not in VIEWS or each in forced

    while not in_memory(value):
        try:
            index = through(value, index, sizes)
        except NotAffineError:
            memory = dense_memory(value, in_memory)
            if memory is None or memory.op == "constant":
                raise
            return memory, position_in_rows(value, memory, index, sizes)
        value = value.inputs[0]
    return value, position(value, index, len(sizes))
