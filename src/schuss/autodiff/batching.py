"""`vmap`: a function of one example becomes one of many.

The function runs once, on stand-ins with the shape of one example and without a value. What it
recorded is then recorded again for all examples at once, each op by its batching rule (`Op.batch`):
what does not depend on an example stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from schuss import trees
from schuss.autodiff.recording import require_function
from schuss.context import context, one_example, rules
from schuss.errors import ArgumentError, ArgumentTypeError, TransformError, fail
from schuss.functions.manipulation import moveaxis, stack
from schuss.graph import Node, ancestors, apply, unknown, wrap
from schuss.ops.broadcast import zeros
from schuss.ops.infer import normalize_axis
from schuss.ops.random import random_bits
from schuss.ops.structure import repeated

if TYPE_CHECKING:
    from schuss.tensor import Tensor

Axes = Any  # an axis, None, or a tree of them


_example = unknown(
    "vmap",
    "what one example of a batch is called while the function of it runs",
    "this value depends on the example, so it is not known while the function runs, "
    "nor after it except in its result",
    "choose with schuss.where instead of if and while; return what is needed outside",
)


def vmap(f: Callable[..., Any], in_axes: Axes = 0, out_axes: Axes = 0) -> Callable[..., Any]:
    """A function that applies `f` to every example of a batch, all at once.

    Args:
        f: a function of tensors, or of trees of them, that returns a tree.
        in_axes: the axis of the positional arguments that counts the examples; None for what is the
            same for all of them. A tuple gives one for each argument, and in place of one, a tree
            gives one for each of its parts. Keyword arguments are the same for all examples.
        out_axes: where the examples are to be counted in the result, of the same form; None for a
            result that is the same for all.

    Each example draws random numbers of its own (`random=` needs no splitting of keys): the same
    draw inside f gives independent numbers from example to example. What is drawn outside is
    shared. A batch draws as many positions from the generator as one example.

    f sees tensors without the batch axis. It cannot look at their values: `if x > 0`, `x.item()`
    and `print(x)` raise TransformError.

    Raises ArgumentError where axes do not fit, or sizes differ.
    """
    require_function("vmap", f)

    @functools.wraps(f)
    def mapped(*args: Any, **kwargs: Any) -> Any:
        leaves, structure = trees.flatten(args)
        prefix = tuple(in_axes) if isinstance(in_axes, list) else in_axes
        axes = trees.broadcast_prefix("vmap", prefix, structure, "in_axes")
        leaves, size = _examples_first(leaves, axes)
        changed = len(context.unsettled)
        inner, batched = _stand_ins(leaves, axes)
        with one_example():
            result, returned = trees.flatten(f(*structure.unflatten(inner), **kwargs))
        _require_state_unchanged(changed, batched)
        found = batch([each._node for each in result], batched, size)
        places = trees.broadcast_prefix("vmap", out_axes, returned, "out_axes")
        return returned.unflatten(
            [_placed(found.get(x._node), x, at, size) for x, at in zip(result, places, strict=True)]
        )

    return mapped


def _examples_first(leaves: Sequence[Tensor], axes: Sequence[Any]) -> tuple[list[Tensor], int]:
    """The arguments with the batch axis in front, and its size."""
    made, sizes = [], {}
    for index, (x, axis) in enumerate(zip(leaves, axes, strict=True)):
        if axis is not None:
            place = normalize_axis("vmap", axis, x.ndim)
            sizes[index] = x.shape[place]
            x = moveaxis(x, place, 0) if place else x
        made.append(x)
    if not sizes:
        raise fail(ArgumentError, "vmap", "no tensor among the arguments has an axis to map over",
                   hint="in_axes=0 maps over the first axis, None takes it as it is")  # fmt: skip
    size = next(iter(sizes.values()))
    for index, n in sizes.items():
        if n != size:
            problem = f"the arguments have {size} and {n} examples"
            raise fail(ArgumentError, "vmap", problem, first=leaves[min(sizes)], here=leaves[index])
    return made, size


def _stand_ins(
    leaves: Sequence[Tensor], axes: Sequence[Any]
) -> tuple[list[Tensor], dict[Node, Tensor]]:
    inner = [x if axis is None else example_of(x) for x, axis in zip(leaves, axes, strict=True)]
    return inner, {one._node: x for one, x in zip(inner, leaves, strict=True) if one is not x}


def example_of(x: Tensor) -> Tensor:
    """The stand-in for one example of those along the first axis of x."""
    one = apply(_example, shape=x.shape[1:], dtype=x.dtype)
    one._node.requires_grad = x.requires_grad and context.grad_enabled
    one._node.location = None  # an error names the line that looks at it
    return one


def batch(results: Sequence[Node], batched: dict[Node, Tensor], size: int) -> dict[Node, Tensor]:
    """What was recorded from stand-ins to results, recorded again for `size` examples.

    Args:
        results: nodes of one example.
        batched: tensors of all examples, by the node of one.

    Returns `batched` with all that depends on the examples.
    """
    first = min(node.number for node in batched)
    found = dict(batched)
    enabled, outer = context.grad_enabled, context.examples
    context.examples = found
    try:
        with rules("batch"):
            for node in ancestors(results, lambda each: each.number >= first):
                if node in found:
                    continue
                flags = [each in found for each in node.inputs]
                if True in flags or (node.op is random_bits and flags):  # each draws its own
                    context.differentiating = node
                    context.grad_enabled = node.requires_grad
                    found[node] = _batched(node, size, found, flags)
    finally:
        context.grad_enabled, context.examples = enabled, outer
    return found


def _batched(node: Node, size: int, found: dict[Node, Tensor], flags: list[bool]) -> Tensor:
    if not size:  # which no rule has to think of
        return zeros((0, *node.shape), node.dtype)
    assert node.op is not None
    pairs = zip(node.inputs, flags, strict=True)
    xs = [found[each] if flag else wrap(each) for each, flag in pairs]
    y = (node.op.batch or one_by_one)(node, size, xs, flags)
    assert y.shape == (size, *node.shape), (node, y.shape)
    assert y.dtype == node.dtype, (node, y.dtype)
    return y


def one_by_one(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    """The batching rule of ops that have none."""
    assert node.op is not None
    return stack(
        [
            apply(
                node.op,
                *[x[i] if flag else x for x, flag in zip(xs, batched, strict=True)],
                **node.attributes,
            )
            for i in range(size)
        ]
    )


def _placed(found: Tensor | None, x: Tensor, axis: Any, size: int) -> Tensor:
    """A result with its batch axis where it is wanted."""
    if axis is None:
        if found is not None:
            problem = "out_axes is None for a result that differs from example to example"
            raise fail(ArgumentError, "vmap", problem, result=x)
        return x
    if isinstance(axis, bool) or not isinstance(axis, int):
        problem = f"out_axes is made of integers and None, got {axis!r}"
        raise fail(ArgumentTypeError, "vmap", problem)
    place = normalize_axis("vmap", axis, x.ndim + 1)
    y = repeated(x, size) if found is None else found
    return moveaxis(y, 0, place) if place else y


def _require_state_unchanged(changed: int, batched: dict[Node, Tensor]) -> None:
    """Raise TransformError where a layer took on a state that differs from example to example."""
    first = min(node.number for node in batched)
    for ref in context.unsettled[changed:]:
        handle = ref()
        if handle is not None:
            behind = ancestors([handle._node], lambda each: each.number >= first)
            if any(node in batched for node in behind):
                handle._settle()
                raise fail(
                    TransformError,
                    "vmap",
                    "a layer would take on a state that depends on the example "
                    "(running statistics, say)",
                    state=handle,
                    hint="call model.eval() first",
                )


__all__ = ["vmap"]
