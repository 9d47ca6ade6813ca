"""Reverse-mode differentiation: one walk over the recorded graph records the gradient's graph.

The rules are made of the same ops as everything else, so what comes out can be differentiated
again. The walk is a loop over nodes in the reverse order of recording; nothing recurses.

The gradient of a real loss L for a complex z = x + iy is dL/dx + i dL/dy, so that `z - rate * grad`
descends (W. Wirtinger, 1927; PyTorch's convention). On the way, nodes carry its conjugate: so a
rule is a multiplication by f'(z), the same as for real numbers, where f is holomorphic.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from schuss.context import context, learning, numbers_apart, rules
from schuss.dtypes import is_complex
from schuss.errors import GradientError, ShapeError, describe_location, fail, user_location
from schuss.graph import Node, apply, next_number, number_of, scalar, wrap
from schuss.ops.broadcast import broadcast_to, sum_to
from schuss.ops.elementwise import add, conj
from schuss.patterns import Memory, Pattern, Use, in_turn, pattern_of, repeats

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def backward(root: Tensor, gradient: Tensor | None, retain_graph: bool, create_graph: bool) -> None:
    """Add the gradient of `root` to the `.grad` of every leaf that it was computed from."""
    if not root.requires_grad:
        raise fail(
            GradientError,
            "backward",
            "this tensor was not computed from any that requires a gradient",
            tensor=root,
            hint="set requires_grad=True on the inputs, "
            "and do not compute under no_grad() or after detach()",
        )
    outer, context.grad_enabled = context.grad_enabled, create_graph
    try:
        if gradient is None and not create_graph and repeats():
            walked, found = _found_again(root)
        else:
            walked, found = _found(root, gradient)
        for node, grad in found.items():
            owner = node.owner() if node.owner is not None else None
            if owner is not None:
                owner.grad = grad if owner.grad is None else owner.grad + grad
    finally:
        context.grad_enabled = outer
    if not retain_graph and not create_graph:
        for node in walked:
            if node.owner is None:
                node.spent = True
                use = node.use
                if use is not None:
                    use.spent = True
                context.spent.append(weakref.ref(node))


Found = tuple[list[Node], dict[Node, "Tensor"]]  # the tape, and the gradients of its leaves


def _found(root: Tensor, gradient: Tensor | None) -> Found:
    walked = tape(root._node)
    _require_whole(walked)
    return walked, propagate(walked, {root._node: _seed(root, gradient)})


# --- gradients out of memory ---


class _Derivative(NamedTuple):
    """A gradient that was recorded before.

    Attributes:
        reads: the places in the structure of the nodes that the pattern reads.
        uses: the places on the tape of results of the uses whose steps it reads.
        derived: the places on the tape of what it is the derivative of, and whether that is a use.
        leaves: the places on the tape of those that it has results for, in their order.
    """

    pattern: Pattern
    reads: list[int]
    uses: list[int]
    derived: list[tuple[int, bool]]
    leaves: list[int]


_derivatives: Memory[_Derivative] = Memory()


def _found_again(root: Tensor) -> Found:
    """As `_found`, out of memory where this has been recorded before."""
    with in_turn:
        walked = tape(root._node, short=True)
        structure = _structure(walked)
        uses = [node.use for node in walked]
    if structure is None:
        return _found(root, None)
    key, places = structure
    known = _derivatives.get(key)
    if known is None:
        with numbers_apart():  # what a rule calls 2 is not what the user multiplied by this time
            if _derivatives.comes_again(key):
                with learning():
                    return _learn(root, walked, key, places)
            return _found(root, None)
    nodes = [*places]
    use = Use(
        known.pattern,
        tuple([nodes[at] for at in known.reads]),
        [uses[at] if is_use else walked[at] for at, is_use in known.derived],  # type: ignore[misc]
        user_location(),
        context.scope,
        [uses[at] for at in known.uses],  # type: ignore[misc]
    )
    results = known.pattern.results
    steps = [*dict.fromkeys(results)]
    made = dict(zip(steps, use.give(steps), strict=True))
    pairs = zip(known.leaves, results, strict=True)
    return walked, {walked[leaf]: wrap(made[step]) for leaf, step in pairs}


def _learn(root: Tensor, walked: list[Node], key: Any, places: dict[Node, int]) -> Found:
    """As `_found`, and keep the derivative."""
    first_of = {node.use: i for i, node in reversed([*enumerate(walked)]) if node.use is not None}
    known: list[Any] = [*range(len(places))]
    everything = {**places}
    for use, i in first_of.items():
        for step, node in enumerate(use.expand()):
            if node not in everything:
                everything[node] = len(known)
                known.append((i, step))
    whole = tape(root._node)
    first = next_number()
    marks: list[tuple[int, Node]] = []
    found = propagate(whole, {root._node: _seed(root, None)}, marks=marks)
    pattern = pattern_of(everything, [grad._node for grad in found.values()], first, marks)
    if pattern is None:
        _derivatives.keep(key, None)
    else:
        leaves = [i for i, node in enumerate(walked) if node in found][::-1]
        _derivatives.keep(key, _between(pattern, known, leaves))
    return whole, found


def _between(
    pattern: Pattern, known: list[int | tuple[int, int]], leaves: list[int]
) -> _Derivative:
    """Sort what goes into a pattern: nodes of the structure, and steps of uses on the tape."""
    uses: dict[int, int] = {}
    derived: dict[tuple[int, bool], int] = {}
    reads: list[int] = []
    for place in pattern.reads:
        at = known[place]
        if isinstance(at, tuple):
            pattern.inner[place] = uses.setdefault(at[0], len(uses)), at[1]
        else:
            reads.append(at)
    for place in pattern.derived:
        at = known[place]
        within, step = at if isinstance(at, tuple) else (at, -1)
        which = derived.setdefault((within, step >= 0), len(derived))
        pattern.derived[place] = which, step
    pattern.reads = [place for place in pattern.reads if place not in pattern.inner]
    return _Derivative(pattern, reads, [*uses], [*derived], leaves)


def _structure(walked: Sequence[Node]) -> tuple[Any, dict[Node, int]] | None:
    """What the derivative of a tape depends on, and the places of its nodes and their inputs.

    None where the rules may record something else the next time, or cannot go on.
    """
    places = dict(zip(walked, range(len(walked)), strict=True))
    uses: dict[Use, int] = {}
    fixed: dict[Node, None] = {}
    key: list[int] = []
    for node in walked:
        use, kind = node.use, node.kind
        if node.owner is not None or (use is None and node.op is None):
            key += (_LEAF, kind.type)
            continue
        if use is None:
            inputs = node.inputs
            if not kind.pure or not inputs:
                return None
            key.append(kind.number)
        elif use in uses:
            key += (_AGAIN, uses[use], node.place)
            continue
        else:
            inputs = use.inputs
            uses[use] = len(uses)
            fixed |= use.pattern.fixed
            key += (use.pattern.number, node.place)
        for each in inputs:
            key.append(places.setdefault(each, len(places)))
    if not fixed.keys().isdisjoint(places):  # a number that stands in a pattern and outside
        key += [places.get(leaf, -1) for leaf in fixed]
    return tuple(key), places


_LEAF, _AGAIN = 10**12, 10**12 + 1  # beyond the numbers of kinds


def _require_whole(walked: Sequence[Node]) -> None:
    for node in walked:
        if not node.inputs and not is_leaf(node):
            raise fail(
                GradientError,
                "backward",
                "a backward pass went through this graph already, "
                "and a step has let go of it since",
                op=node.name,
                recorded=describe_location(node.location),
                hint="backward(retain_graph=True) the first time keeps it; detach() what is reused",
            )


def _seed(root: Tensor, gradient: Tensor | None) -> Tensor:
    """What flows into the root: 1 for a scalar, else what the user gives."""
    if gradient is None:
        if root.size != 1:
            raise fail(
                GradientError,
                "backward",
                "only a scalar can do without a gradient argument",
                tensor=root,
                hint="reduce it first, say loss.mean(), "
                "or pass backward(gradient) of the same shape",
            )
        if is_complex(root.dtype):
            raise fail(
                GradientError,
                "backward",
                "a complex number has no gradient: only a real one can descend",
                tensor=root,
                hint="take abs(), real() or imag() of it first, or pass backward(gradient)",
            )
        return apply(broadcast_to, scalar(1, root.dtype), shape=root.shape)
    if gradient.shape != root.shape:
        raise fail(
            ShapeError,
            "backward",
            "the gradient must have the shape of the tensor",
            tensor=root,
            gradient=gradient,
        )
    return gradient.astype(root.dtype)


def tape(*roots: Node, short: bool = False) -> list[Node]:
    """All nodes through which a gradient flows from the roots, in the order of recording.

    It ends at leaves: what a leaf was assigned from is none of its gradient's concern. A `short`
    one leaves uses of patterns as they are.
    """
    order: list[Node] = []
    found = {root for root in roots if root.requires_grad}
    stack = [*found]
    while stack:
        node = stack.pop()
        order.append(node)
        if node.owner is None:
            for each in node.use.inputs if short and node.use is not None else node.inputs:
                if each.requires_grad and each not in found:
                    found.add(each)
                    stack.append(each)
    order.sort(key=number_of)
    return order


def is_leaf(node: Node) -> bool:
    """Whether gradients end here (parameters, and tensors with `requires_grad=True`)."""
    return node.owner is not None or node.op is None


def propagate(
    walked: Sequence[Node],
    seeds: dict[Node, Tensor],
    targets: frozenset[Node] | None = None,
    marks: list[tuple[int, Node]] | None = None,
) -> dict[Node, Tensor]:
    """Gradients of the targets (by default of all leaves), given those of the roots in `seeds`.

    `walked` is the tape of the roots. With targets, only ways that lead to one of them are gone.
    In `marks` is noted where the rule of each node begins: the number of what comes before.
    """
    leads = None if targets is None else _leading_to(walked, targets)
    gradients = {node: _conjugate(seed) for node, seed in seeds.items()}
    found: dict[Node, Tensor] = {}
    with rules("gradient"):
        for node in reversed(walked):
            g = gradients.pop(node, None)
            if g is None:
                continue
            if marks is not None:
                marks.append((next_number(), node))
            if node in targets if targets is not None else is_leaf(node):
                found[node] = _conjugate(g)
            if not is_leaf(node):
                context.differentiating = node
                _pass_on(node, g, gradients, leads)
    return found


def _conjugate(g: Tensor) -> Tensor:
    return apply(conj, g) if is_complex(g.dtype) else g


def _pass_on(node: Node, g: Tensor, gradients: dict[Node, Tensor], leads: set[Node] | None) -> None:
    """Add what the gradient `g` of a node says about its inputs to `gradients`."""
    wanted = [each.requires_grad and (leads is None or each in leads) for each in node.inputs]
    for each, part in zip(node.inputs, input_gradients(node, g, wanted), strict=True):
        if part is not None:
            held = gradients.get(each)
            gradients[each] = part if held is None else apply(add, held, part)


def input_gradients(node: Node, g: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
    """What the gradient `g` of a node says about its inputs, as far as they are wanted."""
    op = node.op
    assert op is not None
    inputs = [wrap(each) for each in node.inputs]
    y = wrap(node)
    if op.variadic:  # one rule gives the gradients of all inputs at once
        parts = op.gradient[0](g, y, *inputs, **node.attributes)  # type: ignore[index, misc]
        # A rule may leave out the last inputs where they require no gradient.
        parts = [*parts, *[None] * (len(wanted) - len(parts))]
        return [part if want else None for part, want in zip(parts, wanted, strict=True)]
    return [
        _apply_rule(node, index, g, y, inputs) if want else None
        for index, want in enumerate(wanted)
    ]


def _apply_rule(
    node: Node, index: int, g: Tensor, y: Tensor, inputs: list[Tensor]
) -> Tensor | None:
    op = node.op
    assert op is not None
    rule = op.gradient[index] if op.gradient is not None else None
    if rule is None:
        return None
    part = rule(g, y, *inputs, **node.attributes)
    if op.broadcasts:
        part = sum_to(part, inputs[index].shape)
    assert part.shape == inputs[index].shape, (op, index, part.shape, inputs[index].shape)
    return part


def _leading_to(walked: Sequence[Node], targets: frozenset[Node]) -> set[Node]:
    leads: set[Node] = set()
    for node in walked:
        if node in targets or any(each in leads for each in node.inputs):
            leads.add(node)
    return leads
