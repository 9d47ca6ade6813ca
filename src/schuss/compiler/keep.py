"""Derivatives that are kept from the way there, so that the way back only multiplies with them.

Behind a product h, as in y = gelu(h), the gradient g of y is recorded as a sum of products, all of
which have g as a factor: g a + g b + ... The rest, d = a + b + ..., depends on h alone, and is all
that the way back asks of h. So g d is computed instead, and d is written by the product that makes
h, in the place of h: it takes no more memory, and exp, erf, tanh and the like are not computed a
second time, in the middle of another product.

This is the choice between keeping and computing again of Griewank and Walther, "Evaluating
Derivatives" (2008), chapter 12, where both take the same memory.
"""

from __future__ import annotations

from heapq import heappop, heappush

from schuss import dtypes
from schuss.compiler.emit import COST, is_map
from schuss.compiler.simplify import Builder, without_dead
from schuss.compiler.values import VIEWS, Graph, Value, users_of

_DEAR = 8  # what computing d again has to cost, beside an addition
_MOST_STEPS = 64  # of a sum of products,
_MOST_FACTORS = 256  # and so many factors in all

Term = tuple[Value, ...]  # factors


def keep(graph: Graph) -> Graph:
    """The graph with such gradients written as products, and what to keep in `Graph.kept`."""
    search = _Search(graph)
    found: dict[Value, tuple[Value, list[Term]]] = {}
    for value in graph.values:
        if value.op == "add" and dtypes.is_floating(value.dtype):
            split = search.split(value)
            if split is not None:
                found[value] = split
    if not found:
        return graph
    builder, renamed, kept = Builder(), dict[Value, Value](), set[Value]()
    for value in graph.values:
        inputs = tuple([renamed[each] for each in value.inputs])
        if value in found:
            g, terms = found[value]
            slope = _sum_of_products(builder, [[renamed[x] for x in term] for term in terms])
            kept.add(slope)
            renamed[value] = builder.map("multiply", renamed[g], slope)
        elif value.op in ("input", "constant"):
            renamed[value] = builder.keep(value)
        else:
            renamed[value] = builder.again(value, inputs)
    outputs = [renamed[each] for each in graph.outputs]
    checks = [renamed[each] for each in graph.checks]
    made = without_dead(Graph(builder.values, graph.inputs, outputs, checks))
    made.kept = kept
    return made


def _sum_of_products(builder: Builder, terms: list[list[Value]]) -> Value:
    """What all elements share is multiplied first: it is computed once."""
    sums = None
    for term in terms:
        product = None
        for factor in sorted(term, key=lambda each: each.size):
            product = factor if product is None else builder.map("multiply", product, factor)
        assert product is not None
        sums = product if sums is None else builder.map("add", sums, product)
    assert sums is not None
    return sums


class _Search:
    """Looks for sums of products with a common factor that is only known on the way back.

    The *level* of a value counts the steps to it that are no maps: what is of the same level as a
    product h can be computed where h is.
    """

    def __init__(self, graph: Graph) -> None:
        self.users = users_of(graph.values)
        self.wanted = {*graph.outputs, *graph.checks}
        self.level: dict[Value, int] = {}
        for value in graph.values:
            below = max((self.level[each] for each in value.inputs), default=0)
            step = bool(value.inputs) and not is_map(value) and value.op not in VIEWS
            self.level[value] = below + step

    def split(self, root: Value) -> tuple[Value, list[Term]] | None:
        """(g, terms) where root is g times the sum of the terms, and keeping that sum pays."""
        if self._is_inner(root):
            return None
        tree = self._tree(root)
        if len(tree) > _MOST_STEPS or _factors(root, tree) > _MOST_FACTORS:
            return None
        terms = _terms(root, tree)
        common = set(terms[0]).intersection(*terms[1:])
        if not common:
            return None
        g = max(common, key=lambda each: (self.level[each], each.number))
        rest = [_without(term, g) for term in terms]
        if not all(rest):
            return None
        return (g, rest) if self._pays(root, g, rest, tree) else None

    def _is_inner(self, value: Value) -> bool:
        """Whether a sum is nothing but a term of another one."""
        users = self.users[value]
        return len(users) == 1 and users[0].op == "add" and value not in self.wanted

    def _tree(self, root: Value) -> set[Value]:
        """The additions and products that only this sum needs, and that it is made of."""
        tree, seen, heap = {root}, {root}, [(-root.number, root)]
        while heap and len(tree) <= _MOST_STEPS:
            value = heappop(heap)[1]
            users = self.users[value]
            joins = value.op == "multiply" or (
                value.op == "add" and all(user.op == "add" for user in users)
            )
            if value is not root:
                if not joins or value in self.wanted or any(user not in tree for user in users):
                    continue
                tree.add(value)
            for each in value.inputs:
                if each not in seen:
                    seen.add(each)
                    heappush(heap, (-each.number, each))
        return tree

    def _pays(self, root: Value, g: Value, terms: list[Term], tree: set[Value]) -> bool:
        """Whether the sum of the terms takes the place of a product's result, and is dear."""
        level = max(self.level[x] for term in terms for x in term)
        if self.level[g] <= level:
            return False
        maps, leaves = self._made_of(terms)
        full = [leaf for leaf in leaves if leaf.size == root.size]
        if len(full) != 1 or any(self.level[leaf] for leaf in leaves if leaf is not full[0]):
            return False
        (made,) = full
        if made.op not in ("matmul", "convolution") or made.dtype != root.dtype:
            return False
        dear = sum(COST[each.op] for each in maps) >= _DEAR
        return dear and not self._is_needed_late(made, tree)

    def _made_of(self, terms: list[Term]) -> tuple[set[Value], set[Value]]:
        """The maps that factors are computed by, and what these begin with."""
        maps, leaves = set[Value](), set[Value]()
        stack = [x for term in terms for x in term]
        while stack:
            value = stack.pop()
            if value in maps or value in leaves or value.op == "constant":
                continue
            if is_map(value):
                maps.add(value)
                stack += value.inputs
            elif value.op in ("reshape", "broadcast_to"):
                stack += value.inputs
            else:
                leaves.add(value)
        return maps, leaves

    def _is_needed_late(self, made: Value, tree: set[Value]) -> bool:
        """Whether a product's result has to be stored anyway: looked at as it is, or later."""
        views, stack, seen = {made}, [made], {made}
        while stack:
            value = stack.pop()
            if value in views and value in self.wanted:
                return True
            for user in self.users[value]:
                if user in tree or user in seen:
                    continue
                is_view = user.op in VIEWS
                if not is_view and not is_map(user):
                    if value in views:
                        return True
                    continue
                if self.level[user] > self.level[made]:
                    return True
                if is_view and value in views:
                    views.add(user)
                seen.add(user)
                stack.append(user)
        return False


def _factors(root: Value, tree: set[Value]) -> int:
    """How many factors there are once the sum is written out: squares of squares have many."""
    count: dict[Value, int] = {}
    for value in sorted(tree, key=lambda each: each.number):
        count[value] = sum(count.get(each, 1) for each in value.inputs)
    return count[root]


def _terms(value: Value, tree: set[Value]) -> list[Term]:
    """A sum written out: the factors of each product in it."""
    if value not in tree:
        return [(value,)]
    parts = [_terms(each, tree) for each in value.inputs]
    if value.op == "add":
        return [*parts[0], *parts[1]]
    return [(*one, *other) for one in parts[0] for other in parts[1]]


def _without(term: Term, factor: Value) -> Term:
    place = term.index(factor)
    return (*term[:place], *term[place + 1 :])
