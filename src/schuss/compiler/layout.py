"""The layout of values that only live inside: the order of axes in memory that readers want.

Attention computes (batch, heads, time, features), and the model goes on with (batch, time, heads *
features). Written in that order at once, the result needs no copy. The gradient of a convolution's
weights has rows (taps, channels), and its update goes through (outputs, channels, taps): with the
taps of a channel side by side one transposition of two axes leads there, in tiles that are full.

Rows a multiple of a page apart share a few lines of the first-level cache, and matrix products
would have to copy them before they can read them. Such rows are written a little further apart.

A large result of a product has left the nearest caches before anybody reads it. Written past them,
it is not fetched before it is written, and what the product itself reads again stays there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from schuss import dtypes
from schuss.compiler.constants import made_of_constants
from schuss.compiler.emit import PARTIAL, is_map
from schuss.compiler.values import REDUCTIONS, VIEWS, Graph, Value, memory_of, strides_of, users_of

_PAGE = 4096  # bytes
_LINE = 64  # bytes that rows are moved apart
_FEWEST_ROWS = 128
_LARGE = 2**21  # bytes: written past the caches


def layout(graph: Graph) -> Graph:
    """The graph with strides set for values that need not be dense: none that outlives the run."""
    users = users_of(graph.values)
    seen = {memory_of(value) for value in (*graph.outputs, *graph.checks)}
    for value in graph.values:
        axes = None
        if value.op == "attention" and value not in seen:
            axes = _common_order(users[value])
        elif value.op == "copy" and value not in seen and _is_gradient_of_weights(value.inputs[0]):
            axes = (0, 2, 1, 3)  # (groups, taps, channels, outputs)
        if axes is not None:
            value.strides = permuted_strides(value, axes)
    seen |= made_of_constants(graph)  # which has a memory of its own, too
    for value in _operands(graph):
        if value.strides is None and _crowds(value) and _is_inside(value, users, seen):
            value.strides = _apart(value)
    for value in graph.values:
        if value.nbytes >= _LARGE and value.dtype == dtypes.float32:
            value.is_streamed = _is_inside(value, users, seen)
    return graph


def _operands(graph: Graph) -> Iterator[Value]:
    """The memories behind the operands of products, and what is kept for the way back."""
    for product in graph.values:
        for value in product.inputs if product.op == "matmul" else ():
            while value.op in ("reshape", "permute"):
                value = value.inputs[0]
            yield value
    yield from graph.kept


def _crowds(value: Value) -> bool:
    """Whether many rows lie in the same lines of a cache."""
    width = math.prod(value.shape[-1:]) * value.dtype.itemsize
    return value.nbytes >= _FEWEST_ROWS * width > 0 and width % _PAGE == 0


def _is_inside(value: Value, users: dict[Value, list[Value]], seen: set[Value]) -> bool:
    """Whether a value is made and used by loops and products alone, and not `seen` from outside.

    Windows look at it several times, and find it in a cache if it is left there.
    """
    if value in seen or not (is_map(value) or value.op == "matmul"):
        return False
    stack = [value]
    while stack:
        for user in users[stack.pop()]:
            if user.op in VIEWS and user.op != "windows":
                stack.append(user)
            elif not (is_map(user) or user.op in ("matmul", *REDUCTIONS, *PARTIAL)):
                return False
    return True


def _apart(value: Value) -> tuple[int, ...]:
    """Strides for rows a line further apart."""
    pitch = value.shape[-1] + _LINE // value.dtype.itemsize
    return (*[n * pitch for n in strides_of(value.shape[:-1])], 1)


def _is_gradient_of_weights(value: Value) -> bool:
    return value.op == "reshape" and value.inputs[0].op == "convolution_weight"


def _common_order(users: list[Value]) -> tuple[int, ...] | None:
    """The order into which all permuting users bring the axes, the last one staying last."""
    orders = {tuple(user.attributes["axes"]) for user in users if user.op == "permute"}
    others = {user.op for user in users} - {"permute", "attention_gradient"}
    if len(orders) != 1 or others:
        return None
    (axes,) = orders
    return axes if axes[-1] == len(axes) - 1 else None


def permuted_strides(value: Value, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Strides for `value` such that its axes in the order `axes` are dense."""
    dense = strides_of([value.shape[axis] for axis in axes])
    strides = [0] * len(axes)
    for place, axis in enumerate(axes):
        strides[axis] = dense[place]
    return tuple(strides)
