"""Values that convolutions compute as they read them, instead of from memory.

What is made of a convolution's result element by element is mostly an operand of the next one. If
it needs nothing else it belongs to the epilogue; but a normalisation has to wait for the sums over
the whole result, and so has its gradient. Minimal filtering transforms its operands anyway: it can
work them out on the way, and nobody writes them to memory or reads them there. Others that look at
such a value compute it again too, from the same few values.
"""

from __future__ import annotations

from collections.abc import Iterable

from schuss import dtypes
from schuss.compiler.emit import PARTIAL, is_map
from schuss.compiler.values import REDUCTIONS, TEMPLATES, VIEWS, Graph, Value, made_of

_FEWEST = 1 << 18  # elements: others are in the nearest cache when they are read again
_MOST_COST = 12
_MOST_LOADS = 8


class Prologues:
    """The values that need not be in memory, if they turn out to be short expressions.

    Attributes:
        candidates: these values.
    """

    def __init__(self, graph: Graph, users: dict[Value, list[Value]]) -> None:
        self.users = users
        wanted = {*graph.outputs, *graph.checks, *graph.kept}
        self.candidates = {
            value
            for value in graph.values
            if value.size >= _FEWEST and is_map(value) and dtypes.is_floating(value.dtype)
            if value not in wanted and value.strides is None
            if any(value in _operands(user) for user in users[value])
            if all(_can_compute(user, value) for user in _behind_views(users, value))
        }
        templates = [value for value in graph.values if value.op in TEMPLATES]
        self._below = made_of(graph.values, templates) if self.candidates else {}

    def pays(self, value: Value, cost: int, loads: Iterable[Value]) -> bool:
        """Whether it is worth while to compute a candidate again for all its users.

        They need not read more than one value in its place, or all of them are templates.
        """
        found = list(loads)
        whole = [each for each in found if each.size >= value.size]
        simple = cost <= _MOST_COST and len(found) <= _MOST_LOADS
        if not simple or not whole or not self._waits(whole, found):
            return False
        return len(whole) == 1 or all(value in _operands(user) for user in self.users[value])

    def _waits(self, whole: list[Value], loads: list[Value]) -> bool:
        """Whether the last template that it is made of must have ended before."""
        last = max(self._below[each].bit_length() for each in whole)
        others = [self._below[each] for each in loads if each not in whole]
        return last > 0 and any(each >> (last - 1) & 1 for each in others)


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


__all__ = ["Prologues"]
