"""Joining, repeating and laying out: NumPy's names for common uses of concat, flip and reshape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from schuss.errors import ArgumentError, ShapeError, fail
from schuss.functions.arguments import ArrayLike, array_api_names, as_tensor, operands
from schuss.functions.creation import meshgrid
from schuss.functions.manipulation import (
    concat,
    expand_dims,
    flip,
    moveaxis,
    pad,
    permute_dims,
    reshape,
    stack,
)
from schuss.graph import apply
from schuss.ops.infer import normalize_axis
from schuss.ops.movement import windows

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def swapaxes(x: ArrayLike, axis1: int, axis2: int, /) -> Tensor:
    """x with two axes exchanged."""
    x = as_tensor(x, "swapaxes")
    order = list(range(x.ndim))
    i, j = normalize_axis("swapaxes", axis1, x.ndim), normalize_axis("swapaxes", axis2, x.ndim)
    order[i], order[j] = j, i
    return permute_dims(x, tuple(order))


def atleast_nd(x: ArrayLike, /, ndim: int) -> Tensor:
    """x with axes of size 1 in front, so that it has at least `ndim` axes."""
    x = as_tensor(x, "atleast_nd")
    return reshape(x, (1,) * (ndim - x.ndim) + x.shape)


def hstack(arrays: Sequence[ArrayLike], /) -> Tensor:
    """Tensors side by side: joined along axis 1, vectors along axis 0."""
    tensors = [atleast_nd(each, 1) for each in arrays]
    return concat(tensors, axis=0 if tensors and tensors[0].ndim == 1 else 1)


def vstack(arrays: Sequence[ArrayLike], /) -> Tensor:
    """Tensors below each other; vectors become rows."""
    return concat([atleast_nd(each, 2) for each in arrays], axis=0)


def column_stack(arrays: Sequence[ArrayLike], /) -> Tensor:
    """Vectors as the columns of a matrix; matrices side by side."""
    tensors = [as_tensor(each, "column_stack") for each in arrays]
    return concat([t if t.ndim > 1 else reshape(t, (t.size, 1)) for t in tensors], axis=1)


@array_api_names
def rot90(x: ArrayLike, /, k: int = 1, axes: tuple[int, int] = (0, 1)) -> Tensor:
    """x turned k times by 90 degrees in the plane of two axes, from the first to the second."""
    x = as_tensor(x, "rot90")
    first, second = (normalize_axis("rot90", axis, x.ndim) for axis in axes)
    if first == second:
        raise fail(ArgumentError, "rot90", "needs two different axes", axes=axes)
    if k % 4 == 2:
        return flip(x, (first, second))
    if k % 4 == 1:
        return swapaxes(flip(x, second), first, second)
    return flip(swapaxes(x, first, second), second) if k % 4 else flip(x, ())


def block_diag(*arrays: ArrayLike) -> Tensor:
    """Matrices along the diagonal of a larger one, zeros elsewhere. Vectors are rows."""
    blocks = operands("block_diag", *[atleast_nd(each, 2) for each in arrays])
    if any(each.ndim != 2 for each in blocks):
        raise fail(ShapeError, "block_diag", "needs matrices", shapes=[b.shape for b in blocks])
    width = sum(block.shape[1] for block in blocks)
    rows, left = [], 0
    for block in blocks:
        n = block.shape[1]
        rows.append(pad(block, [(left, width - left - n)]))
        left += n
    return concat(rows, axis=0)


def kron(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """Kronecker's product: every element of x1 times all of x2, as blocks."""
    a, b = operands("kron", as_tensor(x1, "kron"), as_tensor(x2, "kron"))
    ndim = max(a.ndim, b.ndim)
    a, b = atleast_nd(a, ndim), atleast_nd(b, ndim)
    wide = reshape(a, tuple(n for size in a.shape for n in (size, 1)))
    product = wide * reshape(b, tuple(n for size in b.shape for n in (1, size)))
    return reshape(product, tuple(m * n for m, n in zip(a.shape, b.shape, strict=True)))


def cartesian_prod(*arrays: ArrayLike) -> Tensor:
    """All combinations of the elements of vectors: rows of a matrix, the last vector fastest."""
    grids = meshgrid(*arrays, indexing="ij")
    return stack([reshape(grid, (grid.size,)) for grid in grids], axis=-1)


@array_api_names
def unfold(x: ArrayLike, /, size: int, step: int = 1, axis: int = -1) -> Tensor:
    """All windows of `size` elements along `axis`, `step` apart, along a new last axis.

    Shape (..., n, ...) becomes (..., (n - size) // step + 1, ..., size).
    """
    x = as_tensor(x, "unfold")
    place = normalize_axis("unfold", axis, x.ndim)
    if step < 1 or size < 1:
        raise fail(ArgumentError, "unfold", "size and step are positive", size=size, step=step)
    moved = moveaxis(x, place, -1)
    view = apply(windows, moved, kernel=(size,), stride=(step,), dilation=(1,))
    return moveaxis(view, -2, place)


def unflatten(x: ArrayLike, /, axis: int, sizes: Sequence[int]) -> Tensor:
    """One axis as several of the given sizes, of which one may be -1."""
    x = as_tensor(x, "unflatten")
    place = normalize_axis("unflatten", axis, x.ndim)
    part = reshape(expand_dims(x, axis=0)[0] if x.ndim == 0 else x, x.shape)
    known = [int(n) for n in sizes]
    if -1 in known:
        rest = 1
        for n in known:
            rest *= n if n != -1 else 1
        known[known.index(-1)] = x.shape[place] // rest if rest else 0
    return reshape(part, (*x.shape[:place], *known, *x.shape[place + 1 :]))


__all__ = [
    "atleast_nd", "block_diag", "cartesian_prod", "column_stack", "hstack", "kron", "rot90",
    "swapaxes", "unflatten", "unfold", "vstack",
]  # fmt: skip
