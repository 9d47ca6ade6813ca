"""Which values exist: the anchors of a graph.

Anchors are results of reductions and products, whatever is used more than once and not cheap, and
what has to lie in memory. All other values are part of the expressions between anchors and are
computed wherever they are used. Views are neither: they only say where in the memory of an anchor
an element lies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from schuss import dtypes
from schuss.compiler.emit import COST, PARTIAL, is_map, lowered, position
from schuss.compiler.index import (
    Affine,
    Index,
    NotAffineError,
    bounds_of,
    dense_memory,
    position_in_rows,
    sizes_between,
    through,
)
from schuss.compiler.lookup import is_lookup
from schuss.compiler.prologues import Prologues
from schuss.compiler.values import (
    REDUCTIONS,
    TEMPLATES,
    VIEWS,
    Graph,
    Value,
    memory_of,
    users_of,
)

LARGER = ("concat", "slice_update", "pieces")
RUNNING = {"cumsum": "sum", "cumprod": "prod"}
_MOST_COST = 48  # of one expression between anchors
_MOST_LOADS = 10
_RECOMPUTED_COST = 24  # up to which an anchor is computed again instead of stored
_REPEATED_COST = 3  # up to which it is computed again for each of many rows
_MANY_ROWS = 64


class Anchors:
    """The anchors of a graph, chosen.

    Args:
        graph: whose values.
        forced: what has to be in memory, such as reshapes that move it: anchors too.

    Attributes:
        order: the anchors, each after those that it is made of.
        all: the same, as a set.
        in_memory: what is stored in any case.
        users: the values that look at a value.
        own_cost: of the expression whose result an anchor is.
        loads: for each value the anchors and inputs that its expression looks at.
        on_the_way: operands of templates that these compute as they read them.
    """

    def __init__(self, graph: Graph, forced: set[Value]) -> None:
        self.graph = graph
        self.forced = forced
        self.users = users_of(graph.values)
        self.order: list[Value] = []
        self.all: set[Value] = set()
        self.in_memory = {memory_of(each, forced) for each in [*graph.outputs, *graph.checks]}
        self.own_cost: dict[Value, int] = {}
        self.loads: dict[Value, frozenset[Value]] = {}
        self.on_the_way: set[Value] = set()
        self._cost: dict[Value, int] = {}
        self._prologues = Prologues(graph, self.users)
        self._candidates = self._prologues.candidates - forced
        self._choose()

    def inlined(self, value: Value) -> bool:
        """Whether a value is part of expressions, computed wherever it is used."""
        return value not in self.all

    def reads(self, anchor: Value) -> frozenset[Value]:
        """The anchors and inputs that the definition of an anchor looks at."""
        return frozenset().union(*[self.loads[each] for each in anchor.inputs])

    def fine_bounds(self, source: Value) -> frozenset[int]:
        """Where loops over `source` are cut so that they see through reshapes in its expression."""
        bounds, stack, seen = bounds_of(source.shape), [source], set()
        while stack:
            value = stack.pop()
            for each in value.inputs if value is source or value not in self.all else ():
                if each.size == source.size and each not in seen:
                    seen.add(each)
                    stack.append(each)
            if value.op == "reshape" and value.size == source.size:
                finer = bounds | bounds_of(value.inputs[0].shape)
                if sizes_between(finer) is not None:
                    bounds = finer
        return bounds

    def _choose(self) -> None:
        for value in self.graph.values:
            for operand in _memory_operands(value):
                if operand not in self._candidates:
                    self.in_memory.add(memory_of(operand, self.forced))
        for value in self.forced:
            if value.op in VIEWS and not nests(value):
                self.in_memory.add(memory_of(value.inputs[0], self.forced))
        for value in self.graph.values:
            if value.op in ("input", "constant"):
                self._cost[value] = 0
                self.loads[value] = frozenset((value,) if value.op == "input" else ())
                continue
            if value.op in VIEWS and value not in self.forced:
                self._cost[value] = self._cost[value.inputs[0]]
                self.loads[value] = self.loads[value.inputs[0]]
                continue
            cost = COST.get(value.op, 1) + sum(self._cost[each] for each in value.inputs)
            loads = frozenset().union(*[self.loads[each] for each in value.inputs])
            self._cost[value], self.loads[value] = cost, loads
            if self._is_anchor(value, cost, loads):
                self.order.append(value)
                self.all.add(value)
                self.own_cost[value] = cost
                self._cost[value], self.loads[value] = 0, frozenset((value,))

    def _is_anchor(self, value: Value, cost: int, loads: frozenset[Value]) -> bool:
        if not is_map(value) or value in self.in_memory or value in self.forced:
            return True
        if value in self.graph.kept:
            return True
        if value in self._candidates:
            if not self._prologues.pays(value, cost, loads):
                return True
            self.on_the_way.add(value)
            return False
        if value.strides is not None:  # made for the sake of its order in memory
            return True
        if cost > _MOST_COST or len(loads) > _MOST_LOADS:
            return True
        of_template = any(each.op in TEMPLATES and each.size == value.size for each in loads)
        if of_template and self._is_moved(value):
            return True
        users = self._distinct_users(value)
        dear = cost >= _REPEATED_COST or value.op == "divide"
        if dear and any(_repeats(value, user) for user in users):
            return True
        if len(users) < 2:
            return False
        return cost > _RECOMPUTED_COST or sum(each.size >= value.size for each in loads) >= 2

    def _is_moved(self, value: Value) -> bool:
        """Whether a value is put into a larger one, or looked at by windows that overlap: what a
        template wrote is then better brought to its last form by the template itself.
        """
        stack = [value]
        while stack:
            for user in self.users[stack.pop()]:
                if user.op == "windows":
                    named = user.attributes
                    if any(k > s for k, s in zip(named["kernel"], named["stride"], strict=True)):
                        return True
                if user.op in VIEWS:
                    stack.append(user)
                elif user.op in LARGER:
                    return True
        return False

    def _distinct_users(self, value: Value) -> set[Value]:
        found, stack = set(), [value]
        while stack:
            for user in self.users[stack.pop()]:
                if user.op in VIEWS:
                    stack.append(user)
                else:
                    found.add(user)
        return found


def _repeats(value: Value, user: Value) -> bool:
    """Whether loops over `user` would compute `value` again for each of many rows."""
    shape = user.inputs[0].shape if user.op in REDUCTIONS else user.shape
    wide = [n for n in value.shape if n > 1]
    along = bool(shape) and bool(wide) and wide[-1] == shape[-1]
    whole = along and (len(wide) == 1 or value.shape[-1] > 1)
    return whole and math.prod(shape) >= _MANY_ROWS * value.size


def nests(reshape: Value) -> bool:
    """Whether loops can be cut so that they walk through both shapes."""
    shapes = reshape.shape, reshape.inputs[0].shape
    return sizes_between(bounds_of(shapes[0]) | bounds_of(shapes[1])) is not None


def _memory_operands(value: Value) -> Sequence[Value]:
    """The inputs that have to lie in memory, seen through views at most."""
    if value.op == "gather" and lowered(value):
        return value.inputs[:1]
    if value.op == "scatter_add" and scatters_rows(value):
        return value.inputs[1:]
    if value.op == "scan":  # which looks up rows by itself
        return [m for x in value.inputs for m in (x.inputs if is_lookup(x) else (x,))]
    unfused = value.op in (*LARGER, *RUNNING, *PARTIAL)
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
        and all(memory_of(each, set()).strides is None for each in (part, index))
        and all(memory_of(each, set()).op != "constant" for each in (part, index))
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
