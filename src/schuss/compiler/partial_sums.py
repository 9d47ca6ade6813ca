"""Sums over the rows of a convolution, made by its template: the statistics of a normalisation.

A batch normalisation asks for the mean and the variance of each channel, its gradient for the sums
of g and g * (x - mean). Each is a pass over memory that a convolution has just written. Its
epilogue sees every number once: it adds up what belongs to a block of its rows, and what is left is
to add up the blocks. Which rows are a block is the template's business.

    partial_sum(e, y)    (blocks, channels): the sum of e over the rows of each block of y; of a
                         number, (blocks, 1), how many rows these are, that many times
    partial_first(e, y)  (blocks, channels): e in one row of each block
    of_block(k)          the same as rows: for each its block's row of k

Sums of squares about some centre c are put together from those about a number of the block, k,
which is near its mean:

    sum (y - c)^2 = sum over blocks: s2 - s1^2 / n + n (k - c + s1 / n)^2
    where s1 = sum (y - k), s2 = sum (y - k)^2 over the n rows of a block

(Chan, Golub and LeVeque, Algorithms for computing the sample variance, 1983). No term cancels more
than n-fold, whatever the numbers are: where k is far from the mean, (y - k)^2 of its own row is as
large. An infinite y makes its sum NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from schuss import dtypes
from schuss.compiler.emit import is_map
from schuss.compiler.simplify import Builder, rewritten
from schuss.compiler.values import VIEWS, Graph, Shape, Value, made_of

_FEWEST = 1 << 15  # elements of a result: others are in the nearest cache when they are read again
_MOST_VALUES = 24  # of an expression


@dataclass(eq=False)
class _Sum:
    """A sum over the rows of a template.

    Attributes:
        value: whose rows are added up.
        template: whose result it is computed from, the last one.
        about: for a sum of squares of differences: what is squared, and from which centre it is
            taken, the same for all rows.
    """

    value: Value
    template: Value
    about: tuple[Value, Value] | None = None


def partial_sums(
    graph: Graph, blocks: Callable[[Value], int], excluded: Collection[int] = ()
) -> Graph:
    """The graph with sums over rows taken from epilogues.

    `blocks` tells into how many blocks a template cuts its rows to add them up, 0 if it does not.
    Templates of these numbers are left alone.
    """
    templates = {
        value: count
        for value in graph.values
        if value.op == "convolution" and value.size >= _FEWEST and value.number not in excluded
        if (count := blocks(value))
    }
    if not templates:
        return graph
    behind = _behind(graph, templates)
    order = {value: i for i, value in enumerate(templates)}
    found = {value: made for value in graph.values if (made := _sum(value, order, behind))}
    if not found:
        return graph
    squared = {(each.about[0], each.template) for each in found.values() if each.about}
    parts: dict[Value, _Parts] = {}

    def replacement(b: Builder, value: Value, renamed: dict[Value, Value]) -> Value | None:
        made = found.get(value)
        if made is None:
            return None
        template = made.template
        if template not in parts:
            named = {"template": template.number}
            parts[template] = _Parts(b, renamed[template], named, templates[template])
        if made.about is not None:
            total = parts[template].squares(*[renamed[each] for each in made.about])
        elif (made.value, template) in squared:
            total = parts[template].sum_about(renamed[made.value])
        else:
            total = parts[template].sum(renamed[made.value])
        return b.reshape(total, value.shape)

    return rewritten(graph, replacement)


def _behind(graph: Graph, templates: Collection[Value]) -> dict[Value, int]:
    """For each value the templates that must have ended before it can be computed anywhere, as a
    set of bits in their order.
    """
    below = made_of(graph.values, templates)
    behind: dict[Value, int] = {}
    for value in graph.values:
        flows = is_map(value) or value.op in VIEWS
        behind[value] = 0
        for each in value.inputs:
            behind[value] |= behind[each] if flows else below[each]
    return behind


def _sum(value: Value, templates: dict[Value, int], behind: dict[Value, int]) -> _Sum | None:
    """What a value is the sum of, if that is computed from the result of a template."""
    summed = _summed(value)
    if summed is None or summed.dtype not in (dtypes.float32, dtypes.float64):
        return None
    template = _template(summed, templates)
    if template is None:
        return None

    def flows(x: Value) -> bool:
        """Whether x can be computed in the epilogue."""
        return not behind[x] >> templates[template] & 1

    if summed.op == "multiply" and summed.inputs[0] is summed.inputs[1]:
        difference = summed.inputs[0]
        if difference.op == "subtract" and difference.inputs[0].shape == summed.shape:
            x, centre = difference.inputs
            fixed = centre.size == centre.shape[-1] if centre.shape else True
            if fixed and _template(x, templates) is template and flows(x):
                return _Sum(summed, template, (_in_rows(x), centre))
    return _Sum(_in_rows(summed), template) if flows(summed) else None


def _summed(value: Value) -> Value | None:
    """What `value` is the sum of over all axes but the last, perhaps in two steps."""
    if value.op != "sum" or len(value.shape) != 1:
        return None
    (x,) = value.inputs
    axes, rank = tuple(value.attributes["axes"]), len(x.shape)
    if rank < 2 or axes != tuple(range(rank - 1)):
        return None
    if x.op == "sum" and x.inputs[0].op == "reshape":
        whole, finer = x.inputs[0].inputs[0], x.inputs[0]
        inner, depth = tuple(x.attributes["axes"]), len(finer.shape)
        if inner == tuple(range(depth - len(inner) - 1, depth - 1)):
            x = whole if whole.shape[-1:] == value.shape else x
    return x


def _in_rows(value: Value) -> Value:
    """The same in the shape in which it was made: what is the same is added up once."""
    while value.op == "reshape" and value.inputs[0].shape[-1:] == value.shape[-1:]:
        value = value.inputs[0]
    return value


def _template(value: Value, templates: Collection[Value]) -> Value | None:
    """The last template from whose result `value` is computed row by row."""
    found: list[Value] = []
    stack, seen = [value], {value}
    while stack and len(seen) <= _MOST_VALUES:
        each = stack.pop()
        if each in templates:
            found.append(each)
        elif is_map(each) or each.op == "reshape":
            more = [x for x in each.inputs if x.size == value.size and x not in seen]
            seen.update(more)
            stack += more
    if stack or not found:
        return None
    last = max(found, key=lambda each: each.number)
    same = last.size == value.size and last.shape[-1] == value.shape[-1]
    return last if same else None


@dataclass(eq=False)
class _Parts:
    """What a template adds up over its blocks."""

    b: Builder
    template: Value
    named: dict[str, int]
    blocks: int

    def sum(self, x: Value) -> Value:
        return self._total(self._part("partial_sum", x))

    def sum_about(self, x: Value) -> Value:
        """The sum of x, from what is needed for that of squares too."""
        b = self.b
        first, sums, _ = self._moments(x)
        return self._total(b.map("add", sums, b.map("multiply", self._rows(x), first)))

    def squares(self, x: Value, centre: Value) -> Value:
        """The sum of (x - centre)^2."""
        b = self.b
        first, sums, squares = self._moments(x)
        rows = self._rows(x)
        shift = b.map("divide", sums, rows)
        inside = b.map("subtract", squares, b.map("multiply", sums, shift))
        inside = b.map("maximum", inside, b.constant(0, x.dtype))  # by rounding it may be less
        if centre.shape:
            centre = b.reshape(centre, centre.shape[-1:])
        away = b.map("add", b.map("subtract", first, centre), shift)
        away = b.map("multiply", rows, b.map("multiply", away, away))
        return self._total(b.map("add", inside, away))

    def _moments(self, x: Value) -> tuple[Value, Value, Value]:
        """For each block a number k of it, and the sums of x - k and of its square."""
        b = self.b
        first = self._part("partial_first", x)
        away = b.map("subtract", x, b.add("of_block", (first,), {}, x.shape, x.dtype))
        sums = self._part("partial_sum", away)
        return first, sums, self._part("partial_sum", b.map("multiply", away, away))

    def _rows(self, x: Value) -> Value:
        """How many rows each block has."""
        return self._part("partial_sum", self.b.constant(1, x.dtype))

    def _part(self, op: str, x: Value) -> Value:
        shape: Shape = (self.blocks, x.shape[-1] if x.shape else 1)
        return self.b.add(op, (x, self.template), self.named, shape, x.dtype)

    def _total(self, x: Value) -> Value:
        return self.b.add("sum", (x,), {"axes": (0,)}, x.shape[1:], x.dtype)


__all__ = ["partial_sums"]
