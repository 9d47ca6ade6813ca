"""Functions with derivatives of their own: `custom_gradient` and `custom_jvp`.

What such a function computes is recorded as ever, but without a tape. Its result then goes through
one more op, `override`: the value of its first input, with derivatives for the other inputs, by the
rules that stand in a table beside the graph. The structure of the graph does not depend on them.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schuss import dtypes, trees
from schuss.autodiff.backward import propagate, tape
from schuss.autodiff.batching import batch, example_of
from schuss.autodiff.forward import transposed
from schuss.autodiff.recording import conjugated, require_function, stand_in
from schuss.context import context, grad_mode, one_example
from schuss.dtypes import DType, is_differentiable
from schuss.errors import GradientError, ShapeError, fail
from schuss.functions.arguments import cast
from schuss.functions.manipulation import concat
from schuss.graph import OUTPUT, Node, Op, Shape, apply
from schuss.ops.broadcast import sum_
from schuss.ops.elementwise import detach
from schuss.ops.structure import repeated, zeros_like

if TYPE_CHECKING:
    from schuss.tensor import Tensor

Maybe = Any  # a Tensor or None


@dataclass(frozen=True)
class Rules:
    """How derivatives pass an `override`.

    Attributes:
        gradient: `gradient(g, y, *xs) -> [gx or None]`.
        tangent: `tangent(ts, y, *xs) -> t or None`, with None in `ts` for what does not move;
            without it the gradient is transposed.
    """

    gradient: Callable[..., Sequence[Maybe]]
    tangent: Callable[..., Maybe] | None = None


_rules: weakref.WeakKeyDictionary[Node, Rules] = weakref.WeakKeyDictionary()


def overridden(y: Tensor, xs: Sequence[Tensor], rules: Rules, op: Op | None = None) -> Tensor:
    """The value of y, with derivatives for xs by `rules`; y itself gets none."""
    result = apply(op or override, apply(detach, y), *xs)
    _rules[result._node] = rules
    return result


def copy_rules(node: Node, copy: Node) -> None:
    """Let a copy of a node have its rules."""
    if node in _rules:
        _rules[copy] = _rules[node]


def has_rules(node: Node) -> bool:
    """Whether derivatives pass this node by rules of its own."""
    return node in _rules


def _gradient(g: Tensor, y: Tensor, value: Tensor, *xs: Tensor) -> list[Maybe]:
    parts = _rules[y._node].gradient(conjugated(g), y, *xs)
    assert len(parts) == len(xs)
    return [None, *[None if part is None else conjugated(part) for part in parts]]


def _tangent(op: Op, ts: Sequence[Maybe], y: Tensor, value: Tensor, *xs: Tensor) -> Maybe:
    rules = _rules[y._node]
    if rules.tangent is None:
        return transposed(y._node, ts)
    return rules.tangent(ts[1:], y, *xs)


def _batch(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    y = xs[0] if batched[0] else repeated(xs[0], size)
    return overridden(y, xs[1:], _batched_rules(_rules[node], size, batched[1:]), node.op)


def _batched_rules(rules: Rules, size: int, batched: Sequence[bool]) -> Rules:
    """Rules for all examples, from those for one, which are run on stand-ins as `vmap` does."""
    known = dict(context.examples or {})  # rules may look at what is another for each example

    def for_all(
        rule: Callable[..., Sequence[Maybe]],
        given: Sequence[Maybe],
        each: Sequence[bool],
        y: Tensor,
        xs: Sequence[Tensor],
    ) -> list[Maybe]:
        all_given = [*given, y, *xs]
        flags = [*each, True, *batched]
        inner = [
            example_of(x) if flag and x is not None else x
            for x, flag in zip(all_given, flags, strict=True)
        ]
        pairs = zip(inner, all_given, strict=True)
        examples = {one._node: x for one, x in pairs if one is not x}
        n = len(given)
        with one_example():
            found = rule(inner[:n], inner[n], inner[n + 1 :])
        known_now = batch([x._node for x in found if x is not None], {**known, **examples}, size)
        return [None if x is None else _everything(known_now, x, size) for x in found]

    def gradient(g: Tensor, y: Tensor, *xs: Tensor) -> list[Maybe]:
        rule = lambda given, y, xs: rules.gradient(given[0], y, *xs)
        parts = for_all(rule, [g], [True], y, xs)
        return [
            part if part is None or flag else apply(sum_, part, axes=(0,))
            for part, flag in zip(parts, batched, strict=True)
        ]

    def tangent(ts: Sequence[Maybe], y: Tensor, *xs: Tensor) -> Maybe:
        assert rules.tangent is not None
        rule = lambda given, y, xs: [rules.tangent(given, y, *xs)]
        return for_all(rule, ts, batched, y, xs)[0]

    return Rules(gradient, tangent if rules.tangent is not None else None)


def _everything(found: dict[Node, Tensor], x: Tensor, size: int) -> Tensor:
    y = found.get(x._node)
    return repeated(x, size) if y is None else y


def overriding(name: str, saves: tuple[int, ...]) -> Op:
    """An op of the kind of `override`. Not in the registry: it has no derivative of its own."""
    return Op(
        name=name,
        doc="the first input, with derivatives of its own",
        infer=lambda y, *xs: (y.shape, y.dtype),
        reference=lambda y, *xs: y,
        gradient=(_gradient,),  # type: ignore[arg-type]  # one rule for all inputs
        tangent=_tangent,
        batch=_batch,
        saves=saves,
        samples=lambda rng: [],
        variadic=True,
    )


override = overriding("override", (OUTPUT, *range(1, 33)))


# --- several results in one ---


@dataclass(frozen=True)
class _Like:
    """What is remembered of a floating result: not the tensor, which would keep its value."""

    shape: Shape
    dtype: DType
    size: int


class Packed:
    """The floating tensors of a tree as one tensor: what an `override` is the result of."""

    def __init__(self, tree: Any) -> None:
        leaves, self.structure = trees.flatten(tree)
        floating = [is_differentiable(x.dtype) for x in leaves]
        self._parts: list[Any] = [
            _Like(x.shape, x.dtype, x.size) if flag else x
            for x, flag in zip(leaves, floating, strict=True)
        ]
        self._dtype = dtypes.promote(*[like.dtype for like in self._likes()] or [dtypes.float32])

    def _likes(self) -> list[_Like]:
        return [part for part in self._parts if isinstance(part, _Like)]

    def pack(self, where: str, tree: Any) -> Tensor | None:
        """A tree of this structure (of tangents, say) as one tensor; None if nothing floats."""
        leaves = trees.matching(where, self.structure, tree, "result")
        pairs = [(x, p) for x, p in zip(leaves, self._parts, strict=True) if isinstance(p, _Like)]
        for x, like in pairs:
            _require_shape(where, x, like)
        if len(pairs) == 1:
            return cast(pairs[0][0], pairs[0][1].dtype)
        flat = [cast(x, self._dtype).reshape((x.size,)) for x, _ in pairs]
        return concat(flat) if flat else None

    def unpack(self, packed: Tensor, rest: Callable[[Tensor], Tensor] = lambda x: x) -> Any:
        """The tree that a packed tensor stands for; `rest` makes what is not in it."""
        if len(self._likes()) == 1:
            return self.structure.unflatten(
                [
                    packed.reshape(part.shape) if isinstance(part, _Like) else rest(part)
                    for part in self._parts
                ]
            )
        made, start = [], 0
        for part in self._parts:
            if isinstance(part, _Like):
                piece = packed[start : start + part.size].reshape(part.shape)
                made.append(cast(piece, part.dtype))
                start += part.size
            else:
                made.append(rest(part))
        return self.structure.unflatten(made)


def _require_shape(where: str, derivative: Tensor, x: Any) -> None:
    if derivative.shape != x.shape:
        problem = "the result has another shape than what it belongs to"
        raise fail(ShapeError, where, problem, result=derivative, expected=x)


# --- what users call ---


def custom_gradient(rule: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function with a gradient rule of its own.

        @schuss.custom_gradient(lambda g, y, x: schuss.clip(g, -1, 1))
        def clipped_gradient(x):
            return x

    Args:
        rule: `rule(g, y, *args, **kwargs)`, where g is the gradient of the result y: the gradient
            of the argument, or a tuple of them for several, None where there is none. It has the
            form of the rules in `ops/`, and like these it can be differentiated again.

    Arguments and results may be trees. Tensors that the function uses besides its arguments get no
    gradient. For `jvp` the rule is transposed, for `vmap` it is batched.
    """

    def make(structure: trees.Structure, result: Packed, kwargs: dict[str, Any]) -> Rules:
        def gradient(g: Tensor, y: Tensor, *xs: Tensor) -> list[Maybe]:
            args = structure.unflatten(xs)
            given = rule(result.unpack(g, zeros_like), result.unpack(y), *args, **kwargs)
            return _gradients_of_leaves(given, structure, xs)

        return Rules(gradient)

    return functools.partial(_decorate, make)


def custom_jvp(rule: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function with a tangent rule of its own.

        @schuss.custom_jvp(lambda ts, y, x: ts[0] * y)
        def exp(x):
            return schuss.exp(x)

    Args:
        rule: `rule(ts, y, *args, **kwargs)`, where ts is a tuple of the tangents of the arguments,
            0 for those that do not move: the tangent of the result y, linear in ts.

    Gradients are found by transposing the rule. Otherwise as `custom_gradient`.
    """

    def make(structure: trees.Structure, result: Packed, kwargs: dict[str, Any]) -> Rules:
        def tangent(ts: Sequence[Maybe], y: Tensor, *xs: Tensor) -> Maybe:
            moved = [zeros_like(x) if t is None else t for t, x in zip(ts, xs, strict=True)]
            args = structure.unflatten(xs)
            t = rule(structure.unflatten(moved), result.unpack(y), *args, **kwargs)
            return result.pack("custom_jvp", t)

        return Rules(functools.partial(_transposed_tangent, tangent), tangent)

    return functools.partial(_decorate, make)


def _decorate(make: Callable[..., Rules], f: Callable[..., Any]) -> Callable[..., Any]:
    require_function("custom_gradient", f)

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        leaves, structure = trees.flatten(args)
        with grad_mode(False):
            value = f(*args, **kwargs)
            result = Packed(value)
            packed = result.pack("custom_gradient", value)
        if packed is None:
            return value
        return result.unpack(overridden(packed, leaves, make(structure, result, kwargs)))

    return call


def _gradients_of_leaves(
    given: Any, structure: trees.Structure, xs: Sequence[Tensor]
) -> list[Maybe]:
    """What a user's rule returned, by the leaves of the arguments."""
    count = len(structure.parts)
    each = (given,) if count == 1 else given
    if not isinstance(each, tuple) or len(each) != count:
        problem = f"the rule must return a tuple of {count} gradients, one for each argument"
        raise fail(GradientError, "custom_gradient", problem, got=type(given).__name__)
    made: list[Maybe] = []
    for tree, part in zip(each, structure.parts, strict=True):
        if tree is None:
            made += [None] * part.count
        else:
            made += trees.matching("custom_gradient", part, tree, "gradient")
    for i, (gradient, x) in enumerate(zip(made, xs, strict=True)):
        if not is_differentiable(x.dtype):
            made[i] = None
        elif gradient is not None:
            _require_shape("custom_gradient", gradient, x)
            made[i] = cast(gradient, x.dtype)
    return made


def _transposed_tangent(
    tangent: Callable[..., Maybe], g: Tensor, y: Tensor, *xs: Tensor
) -> list[Maybe]:
    """The gradients that belong to a tangent rule, which is linear in the tangents."""
    with grad_mode(True):
        ts = [stand_in(zeros_like(x)) if is_differentiable(x.dtype) else None for x in xs]
        t = tangent(ts, y, *xs)
    if not t.requires_grad:
        return [None] * len(xs)
    targets = frozenset(each._node for each in ts if each is not None)
    found = propagate(tape(t._node), {t._node: g}, targets)
    return [None if each is None else found.get(each._node) for each in ts]


__all__ = ["custom_gradient", "custom_jvp"]
