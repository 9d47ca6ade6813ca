"""What follows from the kind of an op: how tangents go through it, and how it takes a batch.

Tangent rules: `rule(op, ts, y, *xs, **attributes)`, see `Op.tangent`. Not all of `ts` are None.
Batching rules: `rule(node, size, xs, batched)`, see `Op.batch`. At least one input is batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from schuss.dtypes import is_differentiable
from schuss.graph import Node, Op, Shape, apply, scalar

if TYPE_CHECKING:
    from schuss.tensor import Tensor

Tangents = Sequence["Tensor | None"]

# --- tangents ---


def diagonal(op: Op, ts: Tangents, y: Tensor, *xs: Tensor, **attributes: Any) -> Tensor:
    """Element by element: the gradient rule is a product with the derivative, for tangents too."""
    total: Tensor | None = None
    for rule, t in zip(op.gradient or (), ts, strict=False):
        if t is not None and rule is not None:
            part = rule(t.broadcast_to(y.shape), y, *xs, **attributes)
            total = part if total is None else total + part
    assert total is not None
    return total


def linear(op: Op, ts: Tangents, y: Tensor, *xs: Tensor, **attributes: Any) -> Tensor:
    """Linear in all floating inputs together: the op of the tangents."""
    moved = [
        t if t is not None else (zeros_like(x) if is_differentiable(x.dtype) else x)
        for t, x in zip(ts, xs, strict=True)
    ]
    return apply(op, *moved, **attributes)


def multilinear(op: Op, ts: Tangents, y: Tensor, *xs: Tensor, **attributes: Any) -> Tensor:
    """Linear in each input alone, a product: the product rule."""
    total: Tensor | None = None
    for index, t in enumerate(ts):
        if t is not None:
            part = apply(op, *xs[:index], t, *xs[index + 1 :], **attributes)
            total = part if total is None else total + part
    assert total is not None
    return total


def zeros_like(x: Tensor) -> Tensor:
    return scalar(0, x.dtype).broadcast_to(x.shape)


# --- batches ---


def aligned(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    """For ops whose inputs broadcast, element by element or as stacks of matrices."""
    return apply(node.op, *align(node, xs, batched), **node.attributes)  # type: ignore[arg-type]


def align(node: Node, xs: Sequence[Tensor], batched: Sequence[bool]) -> list[Tensor]:
    """The inputs with axes of size 1 behind the batch axis, so that they broadcast."""
    longest = max(each.ndim for each in node.inputs)
    return [
        x.reshape((x.shape[0], *(1,) * (longest - each.ndim), *each.shape))
        if is_batched and each.ndim < longest
        else x
        for x, each, is_batched in zip(xs, node.inputs, batched, strict=True)
    ]


def leading(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    """For ops of one input that work on the last axes, whatever there is before those."""
    return apply(node.op, *xs, **node.attributes)  # type: ignore[arg-type]


def later_axis(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    """For ops with an attribute `axis` that counts from the front."""
    attributes = {**node.attributes, "axis": node.attributes["axis"] + 1}
    return apply(node.op, *all_batched(size, xs, batched), **attributes)  # type: ignore[arg-type]


def later_axes(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    """For ops with an attribute `axes`."""
    axes = tuple(axis + 1 for axis in node.attributes["axes"])
    return apply(node.op, *xs, **{**node.attributes, "axes": axes})  # type: ignore[arg-type]


def all_batched(size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> list[Tensor]:
    """The inputs, every one with a batch axis."""
    return [
        x if is_batched else repeated(x, size) for x, is_batched in zip(xs, batched, strict=True)
    ]


def repeated(x: Tensor, size: int) -> Tensor:
    """The same for each example, along a new first axis. It takes no memory."""
    return x.broadcast_to((size, *x.shape))


def batch_last(x: Tensor, axis: int) -> Tensor:
    """The batch axis moved from the front to just before what is `axis` of one example."""
    return x.permute_dims((*range(1, axis + 1), 0, *range(axis + 1, x.ndim)))


def batch_first(x: Tensor, axis: int) -> Tensor:
    """The way back of `batch_last`."""
    return x.permute_dims((axis, *range(axis), *range(axis + 1, x.ndim)))


def merged(shape: Shape, axis: int) -> Shape:
    """A shape in which `axis` and the one behind it are one."""
    return (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
