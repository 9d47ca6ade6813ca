"""`checkpoint`: keep what goes in, and compute what is inside once more for the backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from schuss import dtypes, trees
from schuss.autodiff.backward import propagate, tape
from schuss.autodiff.custom import Packed, Rules, overridden, overriding
from schuss.autodiff.forward import push_forward
from schuss.autodiff.recording import require_function, stand_in
from schuss.autodiff.segment import Segment
from schuss.context import context
from schuss.graph import Node, Op, apply, scalar, wrap
from schuss.ops.elementwise import alias
from schuss.ops.structure import repeated

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def checkpoint(f: Callable[..., Any]) -> Callable[..., Any]:
    """A function that gives the same as `f`, for less memory and more time.

    Of what f computes, nothing is kept for the backward pass but its arguments. The backward pass
    computes it once more, from the recorded graph: f does not run again, random draws stay the
    same, and layers change their state once. Chen et al., "Training deep nets with sublinear memory
    cost" (2016).

    f may be a layer, or use tensors besides its arguments: gradients flow into them.
    """
    require_function("checkpoint", f)

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not context.grad_enabled:
            return f(*args, **kwargs)
        leaves, structure = trees.flatten(args)
        first = scalar(0, dtypes.bool_)._node.number  # what f records has larger ones
        own = [apply(alias, x) for x in leaves]
        value = f(*structure.unflatten(own), **kwargs)
        result = Packed(value)
        packed = result.pack("checkpoint", value)
        if packed is None or not packed.requires_grad:
            return value
        segment = Segment(packed._node, [x._node for x in own], first)
        entering = [*leaves, *[wrap(node) for node in segment.used]]
        return result.unpack(overridden(packed, entering, _rules(segment), _checkpoint))

    return call


_checkpoint = overriding("checkpoint", saves=tuple(range(1, 33)))


def _wait_batch(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    return apply(_wait, xs[0] if batched[0] else repeated(xs[0], size), xs[1])


# Without it an optimizer of graphs could find that the second computation is the same as the first.
_wait = Op(
    name="wait",
    doc="the first input, not before the second is known",
    infer=lambda x, after: (x.shape, x.dtype),
    reference=lambda x, after: x,
    gradient=(lambda g, y, x, after: g, None),
    tangent=lambda op, ts, y, x, after: ts[0],
    batch=_wait_batch,
    samples=lambda rng: [],
)


def _rules(segment: Segment) -> Rules:
    def gradient(g: Tensor, y: Tensor, *xs: Tensor) -> list[Any]:
        fresh = []
        for x, start in zip(xs, segment.starts, strict=False):
            again = apply(_wait, x, g)
            fresh.append(stand_in(again) if start.requires_grad else again)
        end = segment.again(*fresh)
        targets = [x._node for x in fresh]
        found = propagate(tape(end._node), {end._node: g}, frozenset(targets))
        return [found.get(node) for node in targets]

    def tangent(ts: Sequence[Any], y: Tensor, *xs: Tensor) -> Any:
        walked = [node for node in segment.inside if node.requires_grad]
        pairs = zip(segment.starts, ts, strict=False)
        start = {node: t for node, t in pairs if t is not None}
        return push_forward(walked, start).get(segment.end)

    return Rules(gradient, tangent)


__all__ = ["checkpoint"]
