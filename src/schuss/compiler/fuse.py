"""Which values are computed together: the graph becomes units of work.

First some values are made *anchors* (`anchors.py`), then anchors are gathered in *groups* that one
kernel computes (`groups.py`). Last, here, each group is written down as a kernel, the last group
first, so that an anchor which nobody outside its group asks for is never stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

from schuss.compiler.anchors import (
    LARGER,
    RUNNING,
    Anchors,
    chain_of,
    dense_start,
    locate,
    scatters_rows,
)
from schuss.compiler.channels import channels_last
from schuss.compiler.emit import Emitter, canonical, lowered, position
from schuss.compiler.groups import Group, Groups, column_sizes
from schuss.compiler.index import (
    Affine,
    Index,
    NotAffineError,
    broadcast,
    identity,
    scaled_sum,
    sizes_between,
)
from schuss.compiler.kernel import Kernel, collapse, epilogue, position_of
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
from schuss.compiler.values import REDUCTIONS, Graph, Shape, Value, strides_of

Cut = Sequence[tuple[int, int, int]]  # (first, count, step) along each axis


def fuse(graph: Graph) -> list[Unit]:
    """The units that compute the graph's outputs, each after those that it needs."""
    forced: set[Value] = set()
    while True:
        unseen: set[Value] = set()  # reshapes that turned out to move memory
        try:
            writer = _Writer(Groups(Anchors(graph, forced)))
            units, unseen = writer.units(), writer.unseen
        except NotAffineError as problem:
            unseen.add(problem.value)
        if not unseen:
            return units
        assert not unseen & forced, unseen & forced
        forced |= unseen


class _Writer:
    """Writes groups down as units.

    Attributes:
        unseen: reshapes met on the way that have to move memory: they must be anchors too.
    """

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.anchors = groups.anchors
        self.forced = groups.anchors.forced
        self.unseen: set[Value] = set()
        self._repeats: dict[Value, Unit | None] = {}

    def units(self) -> list[Unit]:
        """One unit a group, from the last one back, for what is asked of it."""
        asked = set(self.anchors.in_memory)
        units: list[Unit] = []
        for group in self.groups.in_order()[::-1]:
            stored = [anchor for anchor in group.anchors if anchor in asked]
            try:
                unit = self._unit(group, stored)
            except NotAffineError as problem:
                self.unseen.add(problem.value)
                asked.update(*[self.anchors.reads(each) for each in group.anchors])
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
        sizes = column_sizes(group.anchors[0]) if group.kind == "column" else None
        if sizes is None:
            sizes = sizes_between(group.bounds) if group.size else (0,)
        assert sizes is not None
        emitter = self.groups.emitter(group, sizes, group.row, set(group.anchors))
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
                reads = self.anchors.reads(anchor)
                stack += [each for each in reads if self.groups.of.get(each) is group]
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
        emitter = self.groups.emitter(group, sizes, None, set(group.anchors))
        self._emit(group, emitter, stored)
        kernel = epilogue(emitter.kernel, product.shape)
        if product.op != "matmul":
            x, other = [self._image(each) for each in product.inputs]
            first, second = [self._prologue(each) for each in product.inputs]
            return Convolution(product, kernel, (x, other), (first, second))
        return Product(product, kernel, self._operand(product, 0), self._operand(product, 1))

    def _image(self, operand: Value) -> tuple[Value, Affine]:
        """The memory of an operand of a convolution, and its position over the axes."""
        place = identity(operand.shape)
        if operand in self.anchors.on_the_way:
            return operand, position(operand, place, len(operand.shape))
        return locate(operand, place, operand.shape, self.forced)

    def _prologue(self, operand: Value) -> Kernel | None:
        """What computes an operand that is not in memory."""
        if operand not in self.anchors.on_the_way:
            return None
        *rows, columns = operand.shape
        kernel = self._copy(operand, operand, _whole(operand.shape), merge=False)
        made = epilogue(kernel, (math.prod(rows), columns))
        touched = [position_of(line) for line in made.lines]
        if made.inner > 1 or any(each and each[-2] not in (0, 1) for each in touched):
            raise NotAffineError(operand)
        return made

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
        if anchor.op in LARGER and lowered(anchor):
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
        if anchor not in self._repeats:
            with suppress(CannotRepeatError):
                self._repeats[anchor] = self._new_repeat(anchor)
        return self._repeats.setdefault(anchor)

    def _new_repeat(self, anchor: Value) -> Unit:
        checks = [each for each in self.anchors.users[anchor] if each.op == "loop_check"]

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
        emitter = Emitter(kernel, set(), self.anchors.inlined, None, None)
        inputs = [emitter.value(anchor.inputs[0], place)]
        inputs += [emitter.value(each, (*place[:axis], *place[axis + 1 :]))
                   for each in anchor.inputs[1:]]  # fmt: skip
        name = f"running.{RUNNING[anchor.op]}"
        line = kernel.add(name, tuple(inputs), anchor.dtype)
        kernel.store(anchor, position(anchor, place, len(anchor.shape)), line, anchor.dtype)
        return Loops(collapse(kernel))

    def _copy(self, target: Value, source: Value, cut: Cut, merge: bool = True) -> Kernel:
        """A kernel that writes `source` into a part of the memory of `target`."""
        sizes = self._fine_sizes(source)
        place = identity(sizes) if sizes == source.shape else canonical(source.shape, sizes)
        assert place is not None
        kernel = Kernel(sizes, len(sizes))
        emitter = Emitter(kernel, set(), self.anchors.inlined, None, None)
        line = emitter.value(source, place)
        index: Index = tuple(
            (*[c * step for c in affine[:-1]], start)
            for affine, (start, _, step) in zip(place, cut, strict=True)
        )
        affine = scaled_sum(index, strides_of(target.shape), len(sizes))
        kernel.store(target, affine, line, target.dtype)
        return collapse(kernel) if merge else kernel

    def _fine_sizes(self, source: Value) -> Shape:
        """Loops over `source` that are cut where the reshapes in its expression need cuts."""
        bounds = self.anchors.fine_bounds(source)
        found = sizes_between(bounds) if 0 not in source.shape else None
        return found if found is not None and 1 not in source.shape else source.shape

    def _assemble(self, anchor: Value) -> Assemble:
        kernels = []
        if anchor.op == "slice_update":
            x, part = anchor.inputs
            cut = anchor.attributes["cut"]
            kernels = [[self._copy(anchor, part, cut)]]
            around = _around(cut, x.shape)
            if around is None:
                kernels.insert(0, [self._copy(anchor, x, _whole(x.shape))])
            else:
                kernels[0] += [self._copy(anchor, _seen(x, box), box) for box in around]
        elif anchor.op == "pieces":
            cuts = anchor.attributes["cuts"]
            parts = [
                self._copy(anchor, each, cut) for each, cut in zip(anchor.inputs, cuts, strict=True)
            ]
            kernels = [parts]
            around = _around(cuts[0], anchor.shape) if len(cuts) == 1 else None
            if around is not None:
                parts += [_zeros(anchor, box) for box in around]
            elif sum(each.size for each in anchor.inputs) < anchor.size:
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


def _seen(x: Value, cut: Cut) -> Value:
    shape = tuple(count for _, count, _ in cut)
    return Value("slice", (x,), {"cut": tuple(cut)}, shape, x.dtype)


def _whole(shape: Shape) -> Cut:
    return [(0, n, 1) for n in shape]


def _around(cut: Cut, shape: Shape) -> list[Cut] | None:
    """Boxes that fill a shape up where a cut leaves off; None where that has steps."""
    if any(step != 1 for *_, step in cut):
        return None
    found: list[Cut] = []
    for axis, (start, count, _) in enumerate(cut):
        behind = _whole(shape[axis + 1 :])
        for first, last in ((0, start), (start + count, shape[axis])):
            if last > first:
                found.append([*cut[:axis], (first, last - first, 1), *behind])
    return found


def _zeros(target: Value, box: Cut | None = None) -> Kernel:
    """A kernel that fills the memory of a value, or a box there, with zeros."""
    box = _whole(target.shape) if box is None else box
    sizes = tuple(count for _, count, _ in box)
    kernel, rank = Kernel(sizes, len(sizes)), len(sizes)
    line = kernel.add("constant", (), target.dtype, 0)
    starts = zip(identity(sizes), box, strict=True)
    index: Index = tuple((*affine[:-1], start) for affine, (start, _, _) in starts)
    kernel.store(target, scaled_sum(index, strides_of(target.shape), rank), line, target.dtype)
    return collapse(kernel)


def _simplify_steps(steps: Graph) -> Graph:
    return channels_last(simplify(steps))


def _fuse_steps(steps: Graph) -> list[Unit]:
    from schuss.compiler.merge import merge

    return merge(fuse(steps), {*steps.outputs, *steps.checks})
