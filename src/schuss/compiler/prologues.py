"""Values that convolutions compute as they read them, instead of from memory.

What is made of a convolution's result element by element, as its normalisation and activation, or
the gradient of these, is mostly an operand of the next one. Minimal filtering transforms its
operands anyway: it can work them out on the way, and nobody writes them to memory or reads them
there. Others that look at such a value compute it again too, from the same few values.
"""

from __future__ import annotations

from collections.abc import Iterable

from schuss import dtypes
from schuss.compiler.emit import PARTIAL, is_map
from schuss.compiler.values import REDUCTIONS, TEMPLATES, VIEWS, Graph, Value

_FEWEST = 1 << 18  # elements: others are in the nearest cache when they are read again
_MOST_COST = 12
_MOST_LOADS = 8


def candidates(graph: Graph, users: dict[Value, list[Value]]) -> set[Value]:
    """The values that need not be in memory if they are short expressions."""
    wanted = {*graph.outputs, *graph.checks, *graph.kept}
    return {
        value
        for value in graph.values
        if value.size >= _FEWEST and is_map(value) and dtypes.is_floating(value.dtype)
        if value not in wanted and value.strides is None
        if any(value in _operands(user) for user in users[value])
        if all(_can_compute(user, value) for user in _behind_views(users, value))
    }


def is_short(value: Value, cost: int, loads: Iterable[Value], users: Iterable[Value]) -> bool:
    """Whether it is worth while to compute a candidate again, from `loads`, for all its users.

    Templates need not read more than one value in its place, or all users are templates.
    """
    found = list(loads)
    whole = sum(each.size >= value.size for each in found)
    simple = cost <= _MOST_COST and len(found) <= _MOST_LOADS
    return simple and (whole == 1 or all(value in _operands(user) for user in users))


def _operands(template: Value) -> tuple[Value, ...]:
    """The operands that a template can compute as it reads them."""
    if "minimal" not in template.attributes:
        return ()
    operands = {"convolution": template.inputs[:1], "convolution_weight": template.inputs}
    return operands.get(template.op, ())


def _can_compute(user: Value, value: Value) -> bool:
    if user.op in TEMPLATES:
        return value in _operands(user)
    return is_map(user) or user.op in (*REDUCTIONS, *PARTIAL)


def _behind_views(users: dict[Value, list[Value]], value: Value) -> list[Value]:
    """What looks at a value, perhaps through views."""
    found: list[Value] = []
    stack = [value]
    while stack:
        for user in users[stack.pop()]:
            is_simple = user.op in VIEWS and user.op != "windows"  # which look at it many times
            (stack if is_simple else found).append(user)
    return found


__all__ = ["candidates", "is_short"]
