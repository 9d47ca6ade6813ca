"""Writing values down as the lines of a kernel."""

from __future__ import annotations

from collections.abc import Callable

from schuss import dtypes
from schuss.compiler.index import (
    Affine,
    Index,
    NotAffineError,
    broadcast,
    dense_memory,
    position_in_rows,
    scaled_sum,
    through,
    zero,
)
from schuss.compiler.kernel import Kernel
from schuss.compiler.values import REDUCTIONS, VIEWS, Shape, Value, strides_of

# The elementwise primitives that kernels know, with what they cost beside an addition.
_CHEAP = """
    copy negative relu abs sign floor ceil trunc round isnan isinf isfinite logical_not
    bitwise_invert
    add subtract multiply masked_product maximum minimum copysign equal not_equal less less_equal
    logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor bitwise_left_shift
    bitwise_right_shift where astype positions gather of_block
"""
_DEAR = """
    exp expm1 log log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf sigmoid
    power atan2
"""
COST = (
    dict.fromkeys(_CHEAP.split(), 1)
    | dict.fromkeys(_DEAR.split(), 8)
    | {"divide": 2, "sqrt": 3, "remainder": 4, "floor_divide": 4, "nextafter": 4, "random_bits": 25}
)
_FLOATING_ONLY = frozenset(_DEAR.split()) | {"sqrt", "divide", "masked_product"}


PARTIAL = {"partial_sum": "partial.sum", "partial_first": "partial.first"}
"""What a template makes of each block of its rows (partial_sums.py), as lines of its epilogue."""

_INTEGER_POWERS = {("power", dtype) for dtype in dtypes.INTEGRAL}


class NotInStepError(Exception):
    """A value of the group is looked at elsewhere than where the loops stand."""


def is_map(value: Value) -> bool:
    """Whether kernels compute the value element by element."""
    if value.op not in COST or any(
        dtypes.is_complex(each.dtype) for each in (value, *value.inputs)
    ):
        return False
    if value.op == "nextafter" and value.dtype in dtypes.HALF:
        return False
    if value.op in _FLOATING_ONLY and (value.op, value.dtype) not in _INTEGER_POWERS:
        return dtypes.is_floating(value.dtype)
    return True


def canonical(shape: Shape, sizes: tuple[int, ...], first: int = 0) -> Index | None:
    """The index at which loops over `sizes` walk through all elements of a shape in order.

    The loops from `first` on are used. None where the axes are not made of whole loops.
    """
    n = len(sizes)
    made: list[Affine] = []
    loop = n
    for size in reversed(shape):
        coefficients, product = [0] * (n + 1), 1
        while product < size:
            loop -= 1
            if loop < first:
                return None
            coefficients[loop] = product
            product *= sizes[loop]
        if product != size:
            return None
        made.append(tuple(coefficients))
    return tuple(reversed(made)) if loop == first else None


def position(value: Value, index: Index, loops: int) -> Affine:
    """The place of an element in the memory of a value."""
    strides = value.strides if value.strides is not None else strides_of(value.shape)
    return scaled_sum(index, strides, loops)


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


class Emitter:
    """Writes values into one kernel.

    Args:
        kernel: with its loops, still without lines.
        members: the anchors that this kernel computes.
        inlined: whether another anchor is computed again rather than loaded.
        given: the anchor whose value a template hands in.
        column: for sums over other than the last axes, the first of the reductions.
        rehearsed: write only this anchor, to see whether it fits; other members stand for
            themselves.
    """

    def __init__(
        self,
        kernel: Kernel,
        members: set[Value],
        inlined: Callable[[Value], bool],
        given: Value | None,
        column: Value | None,
        rehearsed: Value | None = None,
    ) -> None:
        self.kernel = kernel
        self.members = members
        self.inlined = inlined
        self.given = given
        self.column = column
        self.rehearsed = rehearsed
        self.loops = len(kernel.sizes)
        self.lines: dict[tuple[Value, Index], int] = {}
        self.places: dict[Value, Index] = {}

    # --- where members stand ---

    def place(self, anchor: Value) -> Index:
        """The index at which the loops meet an anchor of this kernel."""
        found = self.places.get(anchor)
        if found is None:
            made = self._place(anchor)
            if made is None:
                raise NotInStepError(anchor)
            found = self.places[anchor] = made
        return found

    def _place(self, anchor: Value) -> Index | None:
        sizes, outer = self.kernel.sizes, self.kernel.outer
        if anchor.op in PARTIAL:
            return self._place_in_block(anchor.shape[1])
        if self.column is not None:
            kept = [*range(outer), *range(outer + self.kernel.reduced, self.loops)]
            return self._kept_place(anchor.shape, [axis for axis in kept if sizes[axis] > 1])
        full = anchor.op not in REDUCTIONS and canonical(anchor.shape, sizes)
        if full:
            return full
        rows = canonical(anchor.shape, sizes[:outer])
        if rows is None:
            return None
        behind = (0,) * (self.loops - outer)
        return tuple((*affine[:-1], *behind, affine[-1]) for affine in rows)

    def _place_in_block(self, columns: int) -> Index | None:
        """Each block has a row of its own, which the template chooses."""
        first, product = self.loops, 1
        while product < columns:
            first -= 1
            product *= self.kernel.sizes[first]
        place = canonical((columns,), self.kernel.sizes, first)
        return None if place is None else (zero(self.loops), *place)

    def _kept_place(self, shape: Shape, axes: list[int]) -> Index | None:
        made, left = [], list(axes)
        for n in shape:
            affine = list(zero(self.loops))
            if n > 1:
                if not left or self.kernel.sizes[left[0]] != n:
                    return None
                affine[left.pop(0)] = 1
            made.append(tuple(affine))
        return tuple(made)

    def _input_place(self, reduction: Value) -> Index:
        """The index into what a reduction adds up."""
        shape = reduction.inputs[0].shape
        if self.column is None:
            found = canonical(shape, self.kernel.sizes)
            if found is None:
                raise NotInStepError(reduction)
            return found
        outer, reduced, inner = column_order(reduction)
        made: list[Affine] = [()] * len(shape)
        for loop, axis in enumerate((*outer, *reduced, *inner)):
            made[axis] = (*[int(i == loop) for i in range(self.loops)], 0)
        return tuple(made)

    # --- lines ---

    def store(self, anchor: Value) -> None:
        """Compute an anchor and put it into its memory."""
        index = self.place(anchor)
        line = self.anchor(anchor)
        self.kernel.store(anchor, position(anchor, index, self.loops), line, anchor.dtype)

    def anchor(self, anchor: Value) -> int:
        return self._member(anchor, self.place(anchor))

    def value(self, value: Value, index: Index) -> int:
        """The line that holds `value` at `index`."""
        key = (value, index)
        found = self.lines.get(key)
        if found is None:
            found = self.lines[key] = self._value(value, index)
        return found

    def _value(self, value: Value, index: Index) -> int:
        if value in self.members:
            if value.op in PARTIAL:
                raise NotInStepError(value)  # only there when all rows are
            return self._member(value, index)
        if value.op == "constant":
            return self.kernel.add("constant", (), value.dtype, value.attributes["value"])
        if value.op == "input" or not self.inlined(value):
            affine = position(value, index, self.loops)
            detail = (self.kernel.word(value), affine)
            return self.kernel.add("load", (), value.dtype, detail)
        return self._defined(value, index)

    def _member(self, anchor: Value, index: Index) -> int:
        if index != self.place(anchor):
            raise NotInStepError(anchor)
        key = (anchor, index)
        found = self.lines.get(key)
        if found is None:
            if self.rehearsed not in (None, anchor):
                waits = anchor.op in REDUCTIONS or self.column is not None
                name = "reduce.member" if waits else "member"
                found = self.kernel.add(name, (), anchor.dtype, anchor.number)
            elif anchor is self.given:
                found = self.kernel.add("given", (), anchor.dtype, 0)
            elif anchor.op in REDUCTIONS:
                inner = self.value(anchor.inputs[0], self._input_place(anchor))
                found = self.kernel.add(f"reduce.{anchor.op}", (inner,), anchor.dtype)
            elif anchor.op in PARTIAL:
                place = self._input_place(anchor) if anchor.inputs[0].shape else ()
                inner = self.value(anchor.inputs[0], place)
                found = self.kernel.add(PARTIAL[anchor.op], (inner,), anchor.dtype)
            else:
                found = self._defined(anchor, index)
            self.lines[key] = found
        return found

    def _defined(self, value: Value, index: Index) -> int:
        if value.op in VIEWS:
            try:
                inner = through(value, index, self.kernel.sizes)
            except NotAffineError:
                memory = dense_memory(value, self._in_memory)
                if memory is None:
                    raise
                affine = position_in_rows(value, memory, index, self.kernel.sizes)
                return self.kernel.add("load", (), value.dtype, (self.kernel.word(memory), affine))
            return self.value(value.inputs[0], inner)
        if value.op == "positions":
            return self.kernel.add("iota", (), value.dtype, index[value.attributes["axis"]])
        if value.op == "random_bits":
            return self._random(value, index)
        if value.op == "gather":
            return self._gather(value, index)
        if value.op == "of_block":
            (first,) = value.inputs
            return self._member(first, self.place(first))
        inputs = tuple(
            [self.value(each, broadcast(each.shape, index, self.loops)) for each in value.inputs]
        )
        return self.kernel.add(value.op, inputs, value.dtype)

    def _in_memory(self, value: Value) -> bool:
        if value in self.members or value.op == "constant":
            return False
        return value.op == "input" or not self.inlined(value)

    def _random(self, value: Value, index: Index) -> int:
        state = value.inputs[0]
        words = tuple([self.value(state, ((0,) * self.loops + (place,),)) for place in range(3)])
        linear = scaled_sum(index, strides_of(value.shape), self.loops)
        return self.kernel.add("random", words, value.dtype, linear)

    def _gather(self, value: Value, index: Index) -> int:
        """An element at positions that are data: they count as loops of their own for the views."""
        x, *positions = value.inputs
        axes = tuple(value.attributes["axes"])
        count = max(len(each.shape) for each in positions)
        lines = tuple(
            [
                self.value(each, broadcast(each.shape, index[:count], self.loops))
                for each in positions
            ]
        )
        sizes = (*self.kernel.sizes, *[x.shape[axis] for axis in axes])
        wide, rest = [], list(index[count:])
        for axis in range(len(x.shape)):
            extra = [0] * len(axes)
            if axis in axes:
                extra[axes.index(axis)] = 1
                affine = zero(self.loops)
            else:
                affine = rest.pop(0)
            wide.append((*affine[:-1], *extra, affine[-1]))
        inner: Index = tuple(wide)
        while x.op in VIEWS and x not in self.members and self.inlined(x):
            inner = through(x, inner, sizes)
            x = x.inputs[0]
        if x.op == "constant" or x in self.members:
            raise NotInStepError(x)
        whole = position(x, inner, len(sizes))
        affine = (*whole[: self.loops], whole[-1])
        pairs = tuple(zip(whole[self.loops : -1], sizes[self.loops :], strict=True))
        detail = (self.kernel.word(x), affine, pairs)
        return self.kernel.add("gather", lines, value.dtype, detail)


__all__ = ["COST", "Emitter", "NotAffineError", "NotInStepError", "canonical", "is_map", "position"]
