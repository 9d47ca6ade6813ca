"""Products of vectors, matrices and tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from schuss import dtypes
from schuss.context import context
from schuss.errors import ArgumentError, DTypeError, ShapeError, fail
from schuss.functions.arguments import (
    ArrayLike,
    array_api_names,
    as_tensor,
    cast,
    floating,
    operands,
    quick_operands,
)
from schuss.functions.elementwise import (
    abs,
    conj,
    equal,
    not_equal,
    root_of_squares,
    square,
    where,
)
from schuss.functions.manipulation import matrix_transpose, moveaxis, permute_dims, reshape
from schuss.functions.precision import for_products
from schuss.functions.reduction import max, min, sum
from schuss.graph import apply, record, wrap
from schuss.ops import contraction
from schuss.ops.infer import normalize_axis
from schuss.ops.linalg import solve as solve_op

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def matmul(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """The matrix product over the last two axes: (..., M, K) @ (..., K, N) -> (..., M, N).

    Axes before them broadcast, 1-d operands are vectors. Half precisions accumulate in float32.
    Raises ShapeError unless the inner sizes agree.
    """
    met = quick_operands(x1, x2) if context.autocast is None else None
    if met is not None and len(met[0].shape) == len(met[1].shape) == 2:
        return wrap(record(contraction.matmul, met, {}))
    a, b = for_products(as_tensor(x1, "matmul"), as_tensor(x2, "matmul"))
    a, b = operands("matmul", a, b)
    if a.ndim == 0 or b.ndim == 0:
        raise fail(
            ShapeError, "matmul", "scalars cannot be multiplied as matrices", x=a, y=b, hint="use *"
        )
    left = reshape(a, (1, a.size)) if a.ndim == 1 else a
    right = reshape(b, (b.size, 1)) if b.ndim == 1 else b
    if left.ndim > 2 and right.ndim == 2 and left.shape[-1] == right.shape[0]:
        # One tall product, so that the gradient for the matrix is one too, not a batch to add up.
        rows = reshape(left, (math.prod(left.shape[:-1]), left.shape[-1]))
        product = reshape(
            apply(contraction.matmul, rows, right), (*left.shape[:-1], right.shape[-1])
        )
    else:
        product = apply(contraction.matmul, left, right)
    shape = product.shape
    if b.ndim == 1:
        shape = shape[:-1]
    if a.ndim == 1:
        shape = shape[:-2] + shape[-1:] if b.ndim > 1 else shape[:-1]
    return reshape(product, shape)


@array_api_names
def vecdot(x1: ArrayLike, x2: ArrayLike, /, axis: int = -1) -> Tensor:
    """The dot product of vectors along `axis`, x1 conjugated; the other axes broadcast."""
    a, b = operands("vecdot", as_tensor(x1, "vecdot"), as_tensor(x2, "vecdot"))
    a, b = moveaxis(a, axis, -1), moveaxis(b, axis, -1)
    if a.shape[-1] != b.shape[-1]:
        raise fail(ShapeError, "vecdot", "the vectors differ in length", x1=x1, x2=x2)
    if a.dtype == dtypes.bool_:
        raise fail(DTypeError, "vecdot", "is defined for numeric dtypes", x1=x1, x2=x2)
    return sum(conj(a) * b, axis=-1, dtype=a.dtype)


def tensordot(
    x1: ArrayLike, x2: ArrayLike, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2
) -> Tensor:
    """Products added up over pairs of axes.

    Args:
        axes: how many of the last axes of x1 meet the first ones of x2; or the axes of each.

    Raises ShapeError where paired axes differ in size.
    """
    a, b = for_products(as_tensor(x1, "tensordot"), as_tensor(x2, "tensordot"))
    a, b = operands("tensordot", a, b)
    if isinstance(axes, int):
        most = a.ndim if a.ndim < b.ndim else b.ndim
        if not 0 <= axes <= most:
            problem = f"axes must lie between 0 and {most}"
            raise fail(ArgumentError, "tensordot", problem, x1=a, x2=b, axes=axes)
        left, right = tuple(range(a.ndim - axes, a.ndim)), tuple(range(axes))
    else:
        left = tuple(normalize_axis("tensordot", axis, a.ndim) for axis in axes[0])
        right = tuple(normalize_axis("tensordot", axis, b.ndim) for axis in axes[1])
    if len(left) != len(right) or [a.shape[i] for i in left] != [b.shape[i] for i in right]:
        raise fail(
            ShapeError,
            "tensordot",
            "the paired axes differ in size",
            x1=a,
            x2=b,
            axes=(left, right),
        )
    free_a = tuple(i for i in range(a.ndim) if i not in left)
    free_b = tuple(i for i in range(b.ndim) if i not in right)
    inner = math.prod(a.shape[i] for i in left)
    shape_a, shape_b = tuple(a.shape[i] for i in free_a), tuple(b.shape[i] for i in free_b)
    rows = reshape(permute_dims(a, free_a + left), (math.prod(shape_a), inner))
    columns = reshape(permute_dims(b, right + free_b), (inner, math.prod(shape_b)))
    return reshape(apply(contraction.matmul, rows, columns), shape_a + shape_b)


def outer(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """All products of the elements of two vectors: shapes (M,) and (N,) give (M, N)."""
    a, b = as_tensor(x1, "outer"), as_tensor(x2, "outer")
    if a.ndim != 1 or b.ndim != 1:
        raise fail(ShapeError, "outer", "needs two vectors", x1=a, x2=b)
    return reshape(a, (a.size, 1)) * reshape(b, (1, b.size))


def solve(a: ArrayLike, b: ArrayLike, /) -> Tensor:
    """x such that a @ x = b: shapes (..., N, N) and (..., N, K), or (N,) for one right side.

    Raises NumericsError, when the value is computed, for a singular matrix.
    """
    matrix, right = operands("solve", floating(a, "solve"), floating(b, "solve"))
    if right.ndim == 1:
        return apply(solve_op, matrix, reshape(right, (right.size, 1)))[..., 0]
    return apply(solve_op, matrix, right)


@array_api_names
def norm(
    x: ArrayLike, /, axis: int | Sequence[int] | None = None, keepdims: bool = False, ord: float = 2
) -> Tensor:
    """The vector norm (sum of |x|**ord)**(1 / ord) over `axis` (all by default). Gradient 0 at 0.

    Infinity gives the largest element, -infinity the smallest, 0 how many elements are not 0.
    """
    return norm_of("norm", x, axis, keepdims, ord)


def norm_of(
    name: str, x: ArrayLike, axis: int | Sequence[int] | None, keepdims: bool, ord: float
) -> Tensor:
    """`norm`, for the functions that share it."""
    x = floating(x, name)
    if isinstance(ord, bool) or not isinstance(ord, (int, float)):
        raise fail(ArgumentError, name, "ord must be a number", ord=ord)
    if ord == 0:
        return sum(cast(not_equal(x, 0), dtypes.real_of(x.dtype)), axis=axis, keepdims=keepdims)
    if ord == 1:
        return sum(abs(x), axis=axis, keepdims=keepdims)
    if ord in (math.inf, -math.inf):
        return (max if ord > 0 else min)(abs(x), axis=axis, keepdims=keepdims)
    size = abs(cast(x, dtypes.accumulator(x.dtype)))
    if ord == 2:
        root = root_of_squares(sum(square(size), axis=axis, keepdims=keepdims))
    else:
        zero = equal(size, 0)  # where a power below 1 has no slope
        powers = where(zero, 0.0 if ord > 0 else math.inf, where(zero, 1, size) ** ord)
        total = sum(powers, axis=axis, keepdims=keepdims)
        nothing = equal(total, 0)  # where the norm has no slope: 0, as for ord 2
        root = where(nothing, total, where(nothing, 1, total) ** (1 / ord))
    return cast(root, dtypes.real_of(x.dtype))


__all__ = [
    "matmul",
    "matrix_transpose",
    "norm",
    "norm_of",
    "outer",
    "solve",
    "tensordot",
    "vecdot",
]
