"""Forward-mode differentiation: one walk over the recorded graph records the tangents' graph.

Each op says how a tangent goes through it (`Op.tangent`); for one that does not, its gradient rules
are transposed: they are linear in the gradient g, so the gradient of what they give, for g, is the
tangent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from schuss.autodiff.backward import input_gradients, is_leaf, propagate, tape
from schuss.autodiff.recording import (
    Recording,
    conjugated,
    connects,
    finished_or_zero,
    matching_leaves,
    require_tensors,
    stand_in,
)
from schuss.context import context, grad_mode, rules
from schuss.dtypes import is_complex
from schuss.errors import ArgumentError, ArgumentTypeError, fail
from schuss.graph import Node, apply, wrap
from schuss.ops.broadcast import zeros
from schuss.ops.elementwise import add
from schuss.ops.structure import diagonal

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def push_forward(walked: Sequence[Node], tangents: dict[Node, Tensor]) -> dict[Node, Tensor]:
    """The tangents of all nodes on a tape that move, given those of some in `tangents`."""
    found = dict(tangents)
    with rules("tangent"):
        for node in walked:
            if node in found or is_leaf(node):
                continue
            ts = [found.get(each) for each in node.inputs]
            if any(t is not None for t in ts):
                context.differentiating = node
                t = _tangent(node, ts)
                if t is not None:
                    assert t.shape == node.shape, (node, t.shape)
                    found[node] = t
    return found


def _tangent(node: Node, ts: Sequence[Tensor | None]) -> Tensor | None:
    op = node.op
    assert op is not None
    # Not every derivative of a complex number is a product: think of its size.
    if op.tangent is None or (op.tangent is diagonal and _has_complex(node)):
        return transposed(node, ts)
    return op.tangent(op, ts, wrap(node), *[wrap(each) for each in node.inputs], **node.attributes)


def _has_complex(node: Node) -> bool:
    return is_complex(node.dtype) or any(is_complex(each.dtype) for each in node.inputs)


def transposed(node: Node, ts: Sequence[Tensor | None]) -> Tensor | None:
    """The tangent of a node by its gradient rules alone."""
    with grad_mode(True):
        g = stand_in(zeros(node.shape, node.dtype))
        parts = input_gradients(node, g, [t is not None for t in ts])
    seeds: dict[Node, Tensor] = {}
    for part, t in zip(parts, ts, strict=True):
        if part is not None and t is not None and part.requires_grad:
            held = seeds.get(part._node)
            t = conjugated(t)
            seeds[part._node] = t if held is None else apply(add, held, t)
    found = propagate(tape(*seeds), seeds, frozenset([g._node])).get(g._node)
    return None if found is None else conjugated(found)


def jvp(
    f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], *, has_aux: bool = False
) -> tuple[Any, ...]:
    """The value of `f` and its derivative along a direction: `(f(*primals), tangent)`.

    Args:
        f: any function of tensors, or of trees of them, that returns a tree.
        primals: a tuple of the arguments, all of floating dtypes.
        tangents: a tuple of the same structure and shapes: how the arguments move.
        has_aux: f returns a pair, of which the second is passed on: `(value, tangent, aux)`.

    The tangent has the structure of the value. It costs about twice the function, whatever the
    number of arguments (forward mode).

    Raises ArgumentError where primals and tangents do not match.
    """
    primals, tangents = _as_tuple("jvp", primals, "primals"), _as_tuple("jvp", tangents, "tangents")
    recording = Recording("jvp", f, primals, {}, range(len(primals)), has_aux)
    tangent = Linear(recording)(*tangents)
    value = recording.shown()
    return (value, tangent, recording.shown_aux()) if has_aux else (value, tangent)


def linearize(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """The value of `f`, and its derivative there as a function of the direction.

    `value, along = linearize(f, x)`; then `along(v)` is `jvp(f, (x,), (v,))[1]`. f runs once, and
    its values are computed once, for any number of directions.
    """
    recording = Recording("linearize", f, primals, {}, range(len(primals)), False)
    return recording.shown(), Linear(recording)


class Linear:
    """The derivative of a recorded function along directions: `linear(*tangents)`."""

    def __init__(self, recording: Recording) -> None:
        require_tensors(recording.where, recording.structure)
        self._recording = recording
        self._held = recording.saved()  # stays computed as long as this lives

    def __call__(self, *tangents: Any) -> Any:
        recording = self._recording
        given: list[Tensor] = []
        if len(tangents) != len(recording.arguments):
            problem = f"needs a tangent for each argument: {len(recording.arguments)}"
            raise fail(ArgumentError, recording.where, f"{problem}, got {len(tangents)}")
        for structure, tangent in zip(recording.arguments, tangents, strict=True):
            likes = recording.inputs[len(given) : len(given) + structure.count]
            given += matching_leaves(recording.where, "tangent", structure, likes, tangent)
        return recording.structure.unflatten(self.of(given))

    def of(self, given: Sequence[Tensor]) -> list[Tensor]:
        """The tangents of the results, for those of the stand-ins."""
        recording = self._recording
        outer = connects(recording.outer, given)
        with grad_mode(outer):
            start = dict(zip([each._node for each in recording.inputs], given, strict=True))
            found = push_forward(recording.walked, start)
            return [
                finished_or_zero(found.get(each._node), each, outer) for each in recording.result
            ]


def _as_tuple(where: str, given: Any, what: str) -> tuple[Any, ...]:
    if not isinstance(given, (tuple, list)):
        raise fail(ArgumentTypeError, where, f"{what} is a tuple, one for each argument of f",
                   hint=f"{where}(f, (x,), (v,))")  # fmt: skip
    return tuple(given)


__all__ = ["jvp", "linearize"]
