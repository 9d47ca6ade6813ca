"""Rows looked up in a small table: what is done with the rows is done with the table instead.

An embedding of 65 symbols makes 2,048 rows out of 65. Their product with a weight is the product of
the table, looked up; and rows that are added up by symbol are multiplied by the weight after that:

    table[i] @ w                    (table @ w)[i]
    table[i] + b                    (table + b)[i]
    table[i].T @ g                  table.T @ (rows of g added up by i)
    (g @ w) added up by i           (g added up by i) @ w
    sum of all rows of g            sum of (g added up by i), where that is there

Whether it is done depends on shapes alone. Sums are formed in another order than as written.
"""

from __future__ import annotations

from typing import Any

from schuss import dtypes
from schuss.compiler.values import VIEWS, Value

_SHRINKS = 2  # the table has so many times fewer rows than are looked up, at least
_EXACT = (dtypes.float32, dtypes.float64)


def is_lookup(value: Value) -> bool:
    """Whether a value is rows of a matrix, chosen by one index."""
    return (
        value.op == "gather"
        and len(value.inputs) == 2
        and len(value.inputs[0].shape) == 2
        and tuple(value.attributes["axes"]) == (0,)
    )


def _shrinks(table: Value, index: Value) -> bool:
    return table.shape[0] * _SHRINKS <= index.size


def _looked_up(b: Any, table: Value, index: Value, attributes: Any) -> Value:
    """The rows of another table at the same places, which have been checked already."""
    shape = (*index.shape, table.shape[1])
    return b.enter("gather", (table, index), attributes, shape, table.dtype)


def reordered(b: Any, x: Value, axes: tuple[int, ...]) -> Value | None:
    """The rows in another order: the index in that order."""
    last = len(axes) - 1
    if not is_lookup(x) or axes[-1] != last or len(axes) < 3:
        return None
    table, index = x.inputs
    shape = tuple(index.shape[axis] for axis in axes[:-1])
    turned = b.add("permute", (index,), {"axes": axes[:-1]}, shape, index.dtype)
    return _looked_up(b, table, turned, x.attributes)


def reshaped(b: Any, x: Value, shape: tuple[int, ...]) -> Value | None:
    """The rows in another shape: the index in that shape."""
    if not is_lookup(x) or not shape or shape[-1] != x.shape[-1]:
        return None
    table, index = x.inputs
    return _looked_up(b, table, b.reshape(index, shape[:-1]), x.attributes)


def added(b: Any, op: str, inputs: tuple[Value, ...], shape: Any, dtype: Any) -> Value | None:
    """A number for each column, added to or multiplied with rows."""
    for place in (0, 1):
        x, other = inputs[place], inputs[1 - place]
        if not is_lookup(x) or x.shape != shape or not _shrinks(*x.inputs):
            continue
        if other.size == 1 or other.size == (other.shape or (0,))[-1] == shape[-1]:
            table, index = x.inputs
            flat = b.reshape(other, (other.size,))
            pair = (table, flat) if place == 0 else (flat, table)
            made = b.map(op, *pair, dtype=dtype)
            return _looked_up(b, made, index, x.attributes)
    return None


def product(b: Any, x: Value, y: Value, shape: Any, dtype: Any) -> Value | None:
    """A product in which one operand is rows of a table."""
    if dtype not in _EXACT or len(y.shape) != 2:
        return None
    if is_lookup(x) and _shrinks(*x.inputs):
        table, index = x.inputs
        small = b.add("matmul", (table, y), {}, (table.shape[0], y.shape[1]), dtype)
        return _looked_up(b, small, index, x.attributes)
    if x.op == "permute" and len(x.shape) == 2:
        left, right = x.inputs[0], y
        if is_lookup(left) and _shrinks(*left.inputs):
            return _of_sums(b, left, right, shape, dtype, turned=False)
        if is_lookup(right) and _shrinks(*right.inputs):
            return _of_sums(b, right, left, shape, dtype, turned=True)
    return None


def _of_sums(b: Any, rows: Value, other: Value, shape: Any, dtype: Any, turned: bool) -> Value:
    """rows.T @ other, or other.T @ rows: each row of the table meets a sum."""
    table, index = rows.inputs
    sums = _added_up(b, (table.shape[0], other.shape[1]), other, index, rows.attributes)
    first, second = (sums, table) if turned else (table, sums)
    flipped = b.add("permute", (first,), {"axes": (1, 0)}, first.shape[::-1], dtype)
    return b.add("matmul", (flipped, second), {}, shape, dtype)


def _added_up(b: Any, shape: Any, part: Value, index: Value, attributes: Any) -> Value:
    """Zeros, with rows added at the places of an index that has been checked."""
    zero = b.constant(0, part.dtype)
    zeros = b.add("broadcast_to", (zero,), {"shape": shape}, shape, part.dtype)
    return b.enter("scatter_add", (zeros, part, index), attributes, shape, part.dtype)


def sums(
    b: Any, inputs: tuple[Value, ...], attributes: Any, shape: Any, dtype: Any
) -> Value | None:
    """Rows added up by an index: as a matrix with one index for each row, and before products."""
    x, part, index = inputs
    if tuple(attributes["axes"]) != (0,) or len(x.shape) != 2:
        return None
    plain = part
    while True:
        if part.op == "permute" and part.attributes["axes"][-1] == len(part.shape) - 1:
            axes = part.attributes["axes"][:-1]
            back = tuple(axes.index(axis) for axis in range(len(axes)))
            turned = tuple(index.shape[axis] for axis in back)
            index = b.add("permute", (index,), {"axes": back}, turned, index.dtype)
        elif part.op == "reshape" and part.inputs[0].shape[-1:] == part.shape[-1:]:
            index = b.reshape(index, part.inputs[0].shape[:-1])
        else:
            break
        part = part.inputs[0]
    if len(part.shape) != 2:
        part = b.reshape(part, (index.size, x.shape[1]))
        index = b.reshape(index, (index.size,))
    if part.op == "matmul" and len(part.inputs[1].shape) == 2 and dtype in _EXACT:
        a, w = part.inputs
        if _is_zero(x) and _shrinks(x, index) and len(a.shape) == 2:
            small = _added_up(b, (x.shape[0], w.shape[0]), a, index, attributes)
            return b.add("matmul", (small, w), {}, shape, dtype)
    if part is plain:
        return None
    return b.enter("scatter_add", (x, part, index), attributes, shape, dtype)


def added_up_rows(values: list[Value]) -> dict[tuple[Value, int], Value]:
    """Where rows are added up by an index, from zeros: by the memory of the rows, and their length.

    The sum of all rows is then the sum of few.
    """
    found = {}
    for value in values:
        if value.op == "scatter_add" and len(value.inputs) == 3 and len(value.shape) == 2:
            x, part, index = value.inputs
            if _is_zero(x) and _shrinks(x, index) and tuple(value.attributes["axes"]) == (0,):
                found[_rows(part), part.shape[-1]] = value
    return found


def column_sum(
    b: Any, value: Value, known: dict[tuple[Value, int], Value], renamed: dict[Value, Value]
) -> Value | None:
    """The sum of all rows, where these are also added up by an index: of what that gives."""
    if value.op != "sum" or len(value.shape) != 1 or value.dtype not in _EXACT:
        return None
    (x,) = value.inputs
    sums = known.get((_rows(x), value.shape[0]))
    last = len(x.shape) - 1
    if sums is None or last in value.attributes["axes"] or len(value.attributes["axes"]) != last:
        return None
    part, index = (_brought_forward(b, each, renamed) for each in sums.inputs[1:])
    if part is None or index is None:
        return None
    small = _added_up(b, sums.shape, part, index, sums.attributes)
    return b.add("sum", (small,), {"axes": (0,)}, value.shape, value.dtype)


def _brought_forward(b: Any, value: Value, renamed: dict[Value, Value]) -> Value | None:
    """A value that may come later, where only views lie between it and what is known."""
    chain = [value]
    while chain[-1] not in renamed:
        if chain[-1].op not in VIEWS:
            return None
        chain.append(chain[-1].inputs[0])
    found = renamed[chain.pop()]
    for view in reversed(chain):
        found = b.again(view, (found,))
    return found


def _rows(value: Value) -> Value:
    while value.op == "reshape":
        value = value.inputs[0]
    return value


def _is_zero(value: Value) -> bool:
    while value.op in ("broadcast_to", "reshape"):
        value = value.inputs[0]
    return value.op == "constant" and value.attributes["value"] == 0


__all__ = [
    "added",
    "added_up_rows",
    "column_sum",
    "is_lookup",
    "product",
    "reordered",
    "reshaped",
    "sums",
]
