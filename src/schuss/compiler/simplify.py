"""The first pass: the same graph with less in it.

Values that say the same become one, names without a meaning (alias, detach) go, and ops that the
later passes need not know are said with others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from schuss import dtypes
from schuss.compiler import lookup
from schuss.compiler.einsum import contraction
from schuss.compiler.repeat import CannotRepeatError, steps_of
from schuss.compiler.values import REDUCTIONS, VIEWS, Graph, Shape, Value, frozen, users_of
from schuss.dtypes import DType

SPLIT_FROM = 1 << 16  # reductions to few results are cut in two from so many elements on
_PIECE = 1 << 13
_PIECE_OF_COLUMN = 1 << 12


def simplify(graph: Graph) -> Graph:
    """An equivalent graph of fewer and simpler values."""
    builder = Builder()
    for value in graph.inputs:
        builder.keep(value)
    renamed: dict[Value, Value] = {}
    for value in graph.values:
        if value.op in ("input", "constant"):
            renamed[value] = builder.keep(value)
            continue
        inputs = tuple([renamed[each] for each in value.inputs])
        renamed[value] = builder.again(value, inputs)
    outputs = [renamed[each] for each in graph.outputs]
    checks = list(dict.fromkeys(builder.checks))
    return turned(without_dead(Graph(builder.values, graph.inputs, outputs, checks)))


def turned(graph: Graph) -> Graph:
    """Products that are only looked at transposed become products of the transposed operands.

    The gradient of a weight (out, in) is recorded as the transpose of a product (in, out). Sums of
    rows that are also added up by an index become sums of the few that this gives.
    """
    users = users_of(graph.values)
    wanted = {*graph.outputs, *graph.checks}
    sums = lookup.added_up_rows(graph.values)

    def replacement(b: Builder, value: Value, renamed: dict[Value, Value]) -> Value | None:
        fewer = lookup.column_sum(b, value, sums, renamed) if sums else None
        if fewer is not None or value.op != "permute":
            return fewer
        if not _only_turned(value.inputs[0], users, wanted):
            return None
        x, y = renamed[value.inputs[0]].inputs
        operands = (_matrix_transpose(b, y), _matrix_transpose(b, x))
        return b.add("matmul", operands, {}, value.shape, value.dtype)

    return rewritten(graph, replacement)


def rewritten(
    graph: Graph, replacement: Callable[[Builder, Value, dict[Value, Value]], Value | None]
) -> Graph:
    """The graph with a replacement for each value, or, where that is None, the value as it is.

    `replacement` is told what stands in place of the values before.
    """
    builder = Builder()
    renamed: dict[Value, Value] = {}
    for value in graph.values:
        if value.op in ("input", "constant"):
            renamed[value] = builder.keep(value)
            continue
        made = replacement(builder, value, renamed)
        if made is None:
            made = builder.again(value, tuple([renamed[each] for each in value.inputs]))
        renamed[value] = made
    outputs = [renamed[each] for each in graph.outputs]
    checks = [renamed[each] for each in graph.checks]
    return without_dead(Graph(builder.values, graph.inputs, outputs, checks))


def _only_turned(value: Value, users: dict[Value, list[Value]], wanted: set[Value]) -> bool:
    if value.op != "matmul" or value in wanted:
        return False
    rank = len(value.shape)
    last_two_swapped = (*range(rank - 2), rank - 1, rank - 2)
    return all(
        user.op == "permute" and tuple(user.attributes["axes"]) == last_two_swapped
        for user in users[value]
    )


def _matrix_transpose(b: Builder, x: Value) -> Value:
    rank = len(x.shape)
    axes = (*range(rank - 2), rank - 1, rank - 2)
    shape = tuple(x.shape[axis] for axis in axes)
    return b.add("permute", (x,), {"axes": axes}, shape, x.dtype)


def without_dead(graph: Graph) -> Graph:
    """Only what the outputs need, numbered anew."""
    wanted = {*graph.outputs, *graph.checks}
    kept = []
    for value in reversed(graph.values):
        if value in wanted or value.op == "input":
            wanted.update(value.inputs)
            kept.append(value)
    kept.reverse()
    for number, value in enumerate(kept):
        value.number = number
    return Graph(kept, graph.inputs, graph.outputs, graph.checks)


class Builder:
    """Adds values, each said as simply as the rules know."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self.known: dict[Any, Value] = {}
        self.checks: list[Value] = []

    def keep(self, value: Value) -> Value:
        """An input, or a constant: one for all that are equal."""
        if value.op == "constant":
            return self.enter("constant", (), value.attributes, value.shape, value.dtype)
        if value.number < 0 or value not in self.known:
            value.number = len(self.values)
            self.known[value] = value
            self.values.append(value)
        return value

    def add(
        self, op: str, inputs: tuple[Value, ...], attributes: dict[str, Any], shape: Shape,
        dtype: DType,
    ) -> Value:  # fmt: skip
        if 0 in shape and op != "broadcast_to":
            if op in ("gather", "scatter_add", "checked_index"):
                _RULES[op](self, inputs, attributes, shape, dtype)
            nothing = self.constant(0, dtype)
            return self.add("broadcast_to", (nothing,), {"shape": shape}, shape, dtype)
        rule = _RULES.get(op)
        if rule is not None:
            found = rule(self, inputs, attributes, shape, dtype)
            if found is not None:
                return found
        return self.enter(op, inputs, attributes, shape, dtype)

    def enter(
        self, op: str, inputs: tuple[Value, ...], attributes: dict[str, Any], shape: Shape,
        dtype: DType,
    ) -> Value:  # fmt: skip
        """The value as it is, found again where it is known."""
        key = (op, inputs, frozen(attributes), shape, dtype)
        known = self.known.get(key)
        if known is None:
            known = Value(op, inputs, attributes, shape, dtype, len(self.values))
            self.known[key] = known
            self.values.append(known)
        return known

    def again(self, value: Value, inputs: tuple[Value, ...]) -> Value:
        """The value on other inputs."""
        made = self.add(value.op, inputs, value.attributes, value.shape, value.dtype)
        if made.op == value.op:
            made.definition = value.definition
        return made

    def constant(self, value: float, dtype: DType) -> Value:
        return self.add("constant", (), {"value": value}, (), dtype)

    def map(
        self, op: str, *inputs: Value, dtype: DType | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> Value:  # fmt: skip
        shape = np.broadcast_shapes(*[each.shape for each in inputs])
        return self.add(op, inputs, attributes or {}, shape, dtype or inputs[-1].dtype)

    def cut(self, x: Value, cut: Any, shape: Shape) -> Value:
        return self.add("slice", (x,), {"cut": cut}, shape, x.dtype)

    def reshape(self, x: Value, shape: Shape) -> Value:
        return self.add("reshape", (x,), {"shape": shape}, shape, x.dtype)


Rule = Callable[[Builder, tuple[Value, ...], dict[str, Any], Shape, DType], Value | None]
_RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    def enter(function: Rule) -> Rule:
        for op in ops:
            _RULES[op] = function
        return function

    return enter


@rule("alias", "detach")
def _same(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    return inputs[0]


@rule("astype")
def _astype(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    x = inputs[0]
    if x.dtype == dtype:
        return x
    if x.op == "astype" and x.inputs[0].dtype == dtype and _holds(x.dtype, dtype):
        return x.inputs[0]  # there and back
    if x.op == "permute" and dtype.itemsize < x.dtype.itemsize:
        # Axes change places in the narrower dtype: a cast goes through memory in order, all uses of
        # a weight share one, and the gradient of a transpose is a product that can be turned.
        inner = x.inputs[0]
        cast = b.add("astype", (inner,), attributes, inner.shape, dtype)
        return b.add("permute", (cast,), x.attributes, shape, dtype)
    return None


def _holds(wide: DType, narrow: DType) -> bool:
    """Whether a floating dtype has all numbers of another."""
    if not (dtypes.is_floating(wide) and dtypes.is_floating(narrow)):
        return False
    return dtypes.meet(wide, narrow) == wide


@rule("reshape")
def _reshape(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    x = inputs[0]
    if x.shape == shape:
        return x
    if x.op == "reshape":
        return b.reshape(x.inputs[0], shape)
    return lookup.reshaped(b, x, shape)


@rule("broadcast_to")
def _broadcast_to(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    return inputs[0] if inputs[0].shape == shape else None


@rule("permute")
def _permute(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    x, axes = inputs[0], tuple(attributes["axes"])
    if x.op == "permute":
        inner = x.attributes["axes"]
        x, axes = x.inputs[0], tuple(inner[axis] for axis in axes)
    if axes == tuple(range(len(axes))):
        return x
    if x.op == "astype" and x.inputs[0].dtype.itemsize < dtype.itemsize:  # see _astype
        narrow = x.inputs[0]
        turned = b.add("permute", (narrow,), {"axes": axes}, shape, narrow.dtype)
        return b.add("astype", (turned,), x.attributes, shape, dtype)
    rows = lookup.reordered(b, x, axes)
    if rows is not None or x is inputs[0]:
        return rows
    return b.add("permute", (x,), {"axes": axes}, shape, dtype)


@rule("slice")
def _slice(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    x, cut = inputs[0], tuple(attributes["cut"])
    if all(c == (0, n, 1) for c, n in zip(cut, x.shape, strict=True)):
        return x
    if x.op == "slice":
        return b.cut(x.inputs[0], _cut_of_cut(x.attributes["cut"], cut), shape)
    if x.op == "pieces" and cut in x.attributes["cuts"]:
        return x.inputs[x.attributes["cuts"].index(cut)]
    if x.op == "reshape" and len(x.inputs[0].shape) == 1 and _is_front(x.shape, cut):
        beside = math.prod(shape[1:])
        part = b.cut(x.inputs[0], ((cut[0][0] * beside, math.prod(shape), 1),), (math.prod(shape),))
        return b.reshape(part, shape)
    return None


def _cut_of_cut(first: Any, second: Any) -> Any:
    """Two slices, one after the other, as one."""
    pairs = zip(first, second, strict=True)
    return tuple((a + b * s, n, s * t) for (a, _, s), (b, n, t) in pairs)


def _is_front(shape: Shape, cut: Any) -> bool:
    """Whether a slice takes neighbours along the first axis, and all of the others."""
    rest = zip(cut[1:], shape[1:], strict=True)
    return cut[0][2] == 1 and all(c == (0, n, 1) for c, n in rest)


@rule("slice_update")
def _slice_update(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    x, part = inputs
    whole = all(c == (0, n, 1) for c, n in zip(attributes["cut"], x.shape, strict=True))
    if whole:
        return part
    if part.size == 0:
        return x
    if number_of(x) == 0 and not dtypes.is_complex(dtype):
        return b.add("pieces", (part,), {"cuts": (tuple(attributes["cut"]),)}, shape, dtype)
    return None


@rule("add")
def _add(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    """Parts of zeros added up, as the gradients of slices are, are parts side by side."""
    x, y = inputs
    if x.op != "pieces" or y.op != "pieces" or x.shape != y.shape:
        return lookup.added(b, "add", inputs, shape, dtype)
    mine, theirs = x.attributes["cuts"], y.attributes["cuts"]
    if any(not _disjoint(one, other) for one in mine for other in theirs):
        return None
    return b.add("pieces", x.inputs + y.inputs, {"cuts": mine + theirs}, shape, dtype)


def _disjoint(one: Any, other: Any) -> bool:
    """Whether two cuts lie apart along some axis."""
    for (a, n, s), (b, m, t) in zip(one, other, strict=True):
        first, second = sorted((a, a + (n - 1) * s)), sorted((b, b + (m - 1) * t))
        if first[1] < second[0] or second[1] < first[0]:
            return True
    return False


@rule("concat")
def _concat(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    filled = tuple(each for each in inputs if each.size)
    if len(filled) == 1:
        return filled[0]
    return None if len(filled) == len(inputs) or not filled else b.add(
        "concat", filled, attributes, shape, dtype)  # fmt: skip


def number_of(value: Value) -> float | None:
    """The number that a constant, or a view of one, has everywhere."""
    while value.op in VIEWS:
        value = value.inputs[0]
    return value.attributes["value"] if value.op == "constant" else None


@rule("multiply")
def _multiply(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    for one, other in (inputs, inputs[::-1]):
        if other.shape == shape and number_of(one) == 1:
            return other
    return None


@rule("divide")
def _divide(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    return inputs[0] if inputs[0].shape == shape and number_of(inputs[1]) == 1 else None


@rule("subtract")
def _subtract(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    return inputs[0] if inputs[0].shape == shape and number_of(inputs[1]) == 0 else None


@rule("power")
def _power(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    x, exponent = inputs
    known = number_of(exponent)
    if known in (1, 2) and x.shape == shape:
        return x if known == 1 else b.map("multiply", x, x)
    if exponent.dtype in dtypes.SIGNED and (known is None or known < 0) and exponent.size:
        zero = b.constant(0, exponent.dtype)
        _forbid(b, b.map("less", exponent, zero, dtype=dtypes.bool_))
    return None


@rule("gather", "scatter_add")
def _indexed(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    """Kernels read no index astray; whether one points outside is a value of its own."""
    x = inputs[0]
    indices = inputs[-len(attributes["axes"]) :]
    for index, axis in zip(indices, attributes["axes"], strict=True):
        if index.size == 0:
            continue
        _check(b, index, x.shape[axis], attributes["wrap"])
    number = number_of(x)
    if number is not None and len(inputs) == 1 + len(indices):  # gathered from one number
        everywhere = b.constant(number, dtype)
        return b.add("broadcast_to", (everywhere,), {"shape": shape}, shape, dtype)
    if len(inputs) == 3 and len(indices) == 1:
        return lookup.sums(b, inputs, attributes, shape, dtype)
    return None


@rule("checked_index")
def _checked_index(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    if inputs[0].size:
        _check(b, inputs[0], attributes["size"], wrap=False, ignored=attributes["ignored"])
    return inputs[0]


def _check(b: Builder, index: Value, n: int, wrap: bool, ignored: int | None = None) -> None:
    """Ask for whether any index points outside an axis of size n."""
    if index.dtype != dtypes.int64:
        index = b.map("astype", index, dtype=dtypes.int64, attributes={"dtype": dtypes.int64})
    above = b.map("less_equal", b.constant(n, index.dtype), index, dtype=dtypes.bool_)
    lowest = b.constant(-n if wrap else 0, index.dtype)
    below = b.map("less", index, lowest, dtype=dtypes.bool_)
    outside = b.map("logical_or", below, above)
    if ignored is not None:
        other = b.map("not_equal", index, b.constant(ignored, index.dtype), dtype=dtypes.bool_)
        outside = b.map("logical_and", outside, other)
    _forbid(b, outside)


def _forbid(b: Builder, condition: Value) -> None:
    """A check: where it holds anywhere, the reference computes everything, and raises."""
    if condition.size > 1:
        axes = tuple(range(len(condition.shape)))
        condition = b.add("any", (condition,), {"axes": axes}, (), dtypes.bool_)
    b.checks.append(condition)


@rule("matmul")
def _matmul(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    return lookup.product(b, inputs[0], inputs[1], shape, dtype)


@rule("scan")
def _scan(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    """Whether an index in some step points outside is a value of its own, step by step."""
    value = b.enter("scan", inputs, attributes, shape, dtype)
    try:
        steps = simplify(steps_of(attributes["loop"], inputs, [None] * len(inputs)))
    except CannotRepeatError:
        return value
    for i in range(len(steps.checks)):
        length = (attributes["loop"].length,)
        b.checks.append(b.add("loop_check", (value,), {"index": i}, length, dtypes.bool_))
    return value


def _reduce_rule(op: str) -> Rule:
    def apply(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
        x, axes = inputs[0], attributes["axes"]
        if any(x.shape[axis] == 0 for axis in axes):
            nothing = b.constant(int(op in ("prod", "all")), dtype)
            return b.add("broadcast_to", (nothing,), {"shape": shape}, shape, dtype)
        if all(x.shape[axis] == 1 for axis in axes):
            if op in ("any", "all") and x.dtype != dtypes.bool_:
                x = b.map("not_equal", x, b.constant(0, x.dtype), dtype=dtypes.bool_)
            return b.reshape(x, shape)
        less = contraction(b, x, axes) if op == "sum" and x.dtype == dtype else None
        return _in_two(b, op, x, axes, shape, dtype) if less is None else b.reshape(less, shape)

    return apply


def _in_two(b: Builder, op: str, x: Value, axes: Any, shape: Shape, dtype: DType) -> Value | None:
    """A long reduction: first over pieces, side by side, then over their results.

    That shares out the work, and rounding errors do not grow with the length. How it is cut
    depends on the shape alone.
    """
    first, last = axes[0], axes[-1]
    if list(axes) != list(range(first, last + 1)) or dtype in dtypes.HALF:
        return None
    before, after = x.shape[:first], x.shape[last + 1 :]
    count, beside = math.prod(x.shape[first : last + 1]), math.prod(after)
    if beside == 1:
        if count < SPLIT_FROM or math.prod(before) > 16:
            return None
        size = _PIECE
    elif count >= 2 * _PIECE_OF_COLUMN or (
        count * beside >= SPLIT_FROM and beside < 256 and math.prod(before) < 16
    ):
        size = max(64, min(_PIECE_OF_COLUMN, count // 32))
    else:
        return None
    parts = _cut_of_axes(x.shape[first : last + 1], size)
    if parts is not None:
        return _sum_of_sums(b, op, x, (first, last), parts, shape, dtype)
    whole, rest = divmod(count, size)
    if whole < 2:
        return None
    rows = b.reshape(x, (*before, count, *after))
    around = [(0, n, 1) for n in before], [(0, n, 1) for n in after]
    place = len(before)

    def part(start: int, length: int) -> Value:
        cut = (*around[0], (start, length, 1), *around[1])
        made = (*before, length, *after)
        return b.add("slice", (rows,), {"cut": cut}, made, x.dtype)

    pieces = b.reshape(part(0, whole * size), (*before, whole, size, *after))
    partial = b.add(op, (pieces,), {"axes": (place + 1,)}, (*before, whole, *after), dtype)
    total = b.add(op, (partial,), {"axes": (place,)}, (*before, *after), dtype)
    if rest:
        tail = part(whole * size, rest)
        end = b.add(op, (tail,), {"axes": (place,)}, (*before, *after), dtype)
        total = b.map(_COMBINE[op], total, end)
    return b.reshape(total, shape)


def _cut_of_axes(sizes: Shape, size: int) -> tuple[int, int] | None:
    """Where to cut axes so that what is behind has about `size` elements: an axis, and how much of
    it goes with those behind. Whatever stands on the axes need not be brought into another shape.
    """
    behind = 1
    for axis in reversed(range(len(sizes))):
        n = sizes[axis]
        if behind * n > size or axis == 0:
            part = max((d for d in range(1, n + 1) if n % d == 0 and behind * d <= size), default=1)
            return (axis, part) if size <= 8 * behind * part <= 8 * size else None
        behind *= n
    return None


def _sum_of_sums(
    b: Builder, op: str, x: Value, axes: tuple[int, int], cut: tuple[int, int], shape: Shape,
    dtype: DType,
) -> Value:  # fmt: skip
    """The reduction over a run of axes, `cut` in two."""
    first, last = axes
    place, part = first + cut[0], cut[1]
    n = x.shape[place]
    finer = (*x.shape[:place], n // part, part, *x.shape[place + 1 :])
    x = b.reshape(x, finer)
    inner = tuple(range(place + 1, last + 2))
    partial = b.add(op, (x,), {"axes": inner}, finer[: place + 1] + finer[last + 2 :], dtype)
    return b.add(op, (partial,), {"axes": tuple(range(first, place + 1))}, shape, dtype)


_COMBINE = {"sum": "add", "prod": "multiply", "max": "maximum", "min": "minimum",
            "any": "logical_or", "all": "logical_and"}  # fmt: skip
for _op in REDUCTIONS:
    _RULES[_op] = _reduce_rule(_op)


@rule("first_max")
def _first_max(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    """They differ in their gradients only."""
    return b.add("max", inputs, attributes, shape, dtype)


@rule("cumprod")
def _cumprod(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    return inputs[0] if shape[attributes["axis"]] == 1 else None


@rule("cumsum")
def _cumsum(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
    """A few long rows: pieces side by side, each of which starts with the sum of those before."""
    x, axis = inputs[0], attributes["axis"]
    n, before = shape[axis], math.prod(shape[:axis])
    if n == 1:
        return x
    size = math.gcd(n, _PIECE)
    alone = axis == len(shape) - 1 and before <= 16 and len(inputs) == 1
    if not alone or n < SPLIT_FROM or size < _PIECE // 8 or not dtypes.is_floating(dtype):
        return None
    count = n // size
    pieces = b.reshape(x, (before, count, size))
    totals = b.add("sum", (pieces,), {"axes": (2,)}, (before, count), dtype)
    ends = b.add("cumsum", (totals,), {"axis": 1}, (before, count), dtype)
    cut = ((0, before, 1), (0, count - 1, 1))
    ends = b.add("slice", (ends,), {"cut": cut}, (before, count - 1), dtype)
    zero = b.add(
        "broadcast_to", (b.constant(0, dtype),), {"shape": (before, 1)}, (before, 1), dtype
    )
    starts = b.add("concat", (zero, ends), {"axis": 1}, (before, count), dtype)
    running = b.add("cumsum", (pieces, starts), {"axis": 2}, pieces.shape, dtype)
    return b.reshape(running, shape)


def _position_rule(extreme: str) -> Rule:
    def apply(b, inputs, attributes, shape, dtype):  # type: ignore[no-untyped-def]
        """The first place that holds the extreme, or NaN where there is one."""
        x, axis = inputs[0], attributes["axis"]
        n = x.shape[axis]
        kept = tuple(1 if i == axis else m for i, m in enumerate(x.shape))
        best = b.reshape(b.add(extreme, (x,), {"axes": (axis,)}, shape, x.dtype), kept)
        here = b.map("equal", x, best, dtype=dtypes.bool_)
        if dtypes.is_floating(x.dtype):
            nan = b.map("not_equal", x, x, dtype=dtypes.bool_)
            here = b.map("logical_or", here, nan)
        place = b.add("positions", (), {"shape": x.shape, "axis": axis}, x.shape, dtypes.int64)
        beyond = b.constant(n, dtypes.int64)
        candidate = b.add("where", (here, place, beyond), {}, x.shape, dtypes.int64)
        return b.add("min", (candidate,), {"axes": (axis,)}, shape, dtypes.int64)

    return apply


_RULES["argmax"] = _position_rule("max")
_RULES["argmin"] = _position_rule("min")
