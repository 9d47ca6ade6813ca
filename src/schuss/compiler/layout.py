"""The layout of what templates write: the order of axes in memory that its readers want.

Attention computes (batch, heads, time, features), and the model goes on with (batch, time, heads *
features). Written in that order at once, the result needs no copy. The gradient of a convolution's
weights has rows (taps, channels), and its update goes through (outputs, channels, taps): with the
taps of a channel side by side one transposition of two axes leads there, in tiles that are full.
"""

from __future__ import annotations

from schuss.compiler.values import Graph, Value, memory_of, strides_of, users_of


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
    return graph


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
