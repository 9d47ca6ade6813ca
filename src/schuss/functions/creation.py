"""Making tensors: from data, filled, ranges, grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dlpack, dtypes
from schuss.context import context
from schuss.devices import as_device
from schuss.dtypes import Number
from schuss.errors import ArgumentError, fail
from schuss.functions.arguments import (
    ArrayLike,
    adopt,
    as_shape,
    as_tensor,
    cast,
    check_fits,
    host_array,
    operands,
)
from schuss.functions.elementwise import where
from schuss.graph import Handle, apply, data, scalar, wrap
from schuss.ops.broadcast import broadcast_to
from schuss.ops.elementwise import alias

if TYPE_CHECKING:
    from schuss.tensor import Tensor

__all__ = [
    "arange", "asarray", "empty", "empty_like", "eye", "from_dlpack", "full", "full_like",
    "linspace", "meshgrid", "ones", "ones_like", "tensor", "tril", "triu", "zeros", "zeros_like",
]  # fmt: skip


def asarray(
    obj: ArrayLike, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None
) -> Tensor:
    """`obj` as a tensor.

    Python floats become float32 and ints int64; NumPy arrays keep their dtype. Values are copied,
    so that writing to the array afterwards changes nothing here; a tensor is returned as it is.

    Raises:
        ArgumentError: `copy=False` for an object that has to be copied.
    """
    as_device(device)
    wanted = None if dtype is None else dtypes.as_dtype(dtype)
    if isinstance(obj, Handle):
        x: Tensor = obj  # type: ignore[assignment]
        if wanted is not None and wanted != x.dtype:
            if copy is False:
                raise fail(
                    ArgumentError, "asarray", "another dtype needs a copy", x=x, dtype=wanted
                )
            return cast(x, wanted)
        return apply(alias, x) if copy else x
    if copy is False:
        raise fail(ArgumentError, "asarray", f"a {type(obj).__name__} can only be copied")
    return adopt(host_array(obj, wanted, "asarray"))


def tensor(
    data: ArrayLike, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A new tensor from numbers, nested sequences, arrays or another tensor.

    Args:
        dtype: by default that of the data; Python floats become float32, ints int64.
        requires_grad: collect a gradient in `.grad` when `backward()` is called.
    """
    x = asarray(data, dtype=dtype, device=device, copy=True if isinstance(data, Handle) else None)
    if isinstance(data, Handle):
        x = x.detach()
    if requires_grad:
        x.requires_grad = True
    return x


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor from any object with `__dlpack__` (PyTorch, JAX, CuPy, NumPy).

    Memory that its owner may still write to is copied. `copy=False` shares it: do not write then.
    """
    as_device(device)
    if context.recording is not None:
        context.recording.took(x)
    return adopt(dlpack.take(x, copy))


Size = int | Sequence[int]


def full(shape: Size, fill_value: ArrayLike, *, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor of the given shape in which every element is `fill_value`."""
    as_device(device)
    value = asarray(fill_value, dtype=dtype)
    return apply(broadcast_to, value, shape=as_shape("full", shape))


def _filled(value: int, where: str, shape: Any, more: tuple[int, ...], dtype: Any) -> Tensor:
    kind = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype)
    return apply(broadcast_to, scalar(value, kind), shape=as_shape(where, shape, more))


def zeros(shape: Size, *more: int, dtype: Any = None, device: Any = None) -> Tensor:
    """Zeros; the shape as a tuple or as several integers. float32 by default."""
    as_device(device)
    return _filled(0, "zeros", shape, more, dtype)


def ones(shape: Size, *more: int, dtype: Any = None, device: Any = None) -> Tensor:
    """Ones; the shape as a tuple or as several integers. float32 by default."""
    as_device(device)
    return _filled(1, "ones", shape, more, dtype)


def empty(shape: Size, *more: int, dtype: Any = None, device: Any = None) -> Tensor:
    """The same as `zeros`: memory without a defined content is not handed out."""
    as_device(device)
    return _filled(0, "empty", shape, more, dtype)


def _like(x: ArrayLike, value: Number, dtype: Any, device: Any) -> Tensor:
    x = as_tensor(x)
    return full(x.shape, value, dtype=x.dtype if dtype is None else dtype, device=device)


def full_like(
    x: ArrayLike, /, fill_value: Number, *, dtype: Any = None, device: Any = None
) -> Tensor:
    """As `full`, with the shape and dtype of x."""
    return _like(x, fill_value, dtype, device)


def zeros_like(x: ArrayLike, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """As `zeros`, with the shape and dtype of x."""
    return _like(x, 0, dtype, device)


def ones_like(x: ArrayLike, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """As `ones`, with the shape and dtype of x."""
    return _like(x, 1, dtype, device)


def empty_like(x: ArrayLike, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """As `zeros_like`."""
    return _like(x, 0, dtype, device)


def arange(
    start: float,
    /,
    stop: float | None = None,
    step: float = 1,
    *,
    dtype: Any = None,
    device: Any = None,
) -> Tensor:
    """start, start + step, ... up to but without stop; `arange(stop)` starts at 0.

    int64 where all three are integers, else float32. Raises ArgumentError for step 0.
    """
    as_device(device)
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise fail(ArgumentError, "arange", "step must not be 0", start=start, stop=stop, step=step)
    whole = all(isinstance(each, (int, np.integer)) for each in (start, stop, step))
    default = dtypes.default_int if whole else dtypes.default_float
    kind = default if dtype is None else dtypes.as_dtype(dtype)
    if whole:
        values: np.ndarray = np.arange(int(start), int(stop), int(step), dtype=np.int64)
    else:
        count = max(0, math.ceil((stop - start) / step))
        values = start + np.arange(count, dtype=np.float64) * step
    check_fits(values, kind, "arange")
    return wrap(data(values.astype(kind)))


def linspace(
    start: float,
    stop: float,
    /,
    num: int,
    *,
    dtype: Any = None,
    device: Any = None,
    endpoint: bool = True,
) -> Tensor:
    """`num` evenly spaced numbers from start to stop, which is left out with `endpoint=False`.

    float32 by default, complex64 for complex ends. Raises ArgumentError for a negative `num`.
    """
    as_device(device)
    complex_ = isinstance(start, complex) or isinstance(stop, complex)
    default = dtypes.complex64 if complex_ else dtypes.default_float
    kind = default if dtype is None else dtypes.as_dtype(dtype)
    if num < 0:
        raise fail(ArgumentError, "linspace", "num must not be negative", num=num)
    return wrap(data(np.linspace(start, stop, num, endpoint=endpoint).astype(kind)))


def eye(
    n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None
) -> Tensor:
    """Ones on the k-th diagonal and zeros elsewhere: (n_rows, n_cols), square by default.

    float32 by default; k counts from the main diagonal upwards.
    """
    as_device(device)
    kind = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype)
    rows, cols = as_shape("eye", (n_rows, n_rows if n_cols is None else n_cols))
    return wrap(data(np.eye(rows, cols, k).astype(kind)))


def _triangle(x: ArrayLike, k: int, lower: bool, where_: str) -> Tensor:
    x = as_tensor(x, where_)
    if x.ndim < 2:
        raise fail(ArgumentError, where_, "needs at least 2 axes", x=x)
    rows, columns = x.shape[-2:]
    inside = np.tri(rows, columns, k if lower else k - 1, dtype=bool)
    zero = scalar(0, x.dtype)
    kept = wrap(data(inside))
    return where(kept, x, zero) if lower else where(kept, zero, x)


def tril(x: ArrayLike, /, *, k: int = 0) -> Tensor:
    """x with zeros above the k-th diagonal of the last two axes."""
    return _triangle(x, k, True, "tril")


def triu(x: ArrayLike, /, *, k: int = 0) -> Tensor:
    """x with zeros below the k-th diagonal of the last two axes."""
    return _triangle(x, k, False, "triu")


def meshgrid(*arrays: ArrayLike, indexing: str = "xy") -> list[Tensor]:
    """Coordinate grids from 1-d coordinate tensors.

    With indexing "xy" the first two axes are swapped, as for pictures; "ij" keeps their order.
    """
    if indexing not in ("xy", "ij"):
        raise fail(ArgumentError, "meshgrid", "indexing is 'xy' or 'ij'", indexing=indexing)
    if not arrays:
        return []
    lines = operands("meshgrid", *[as_tensor(each, "meshgrid") for each in arrays])
    swap = indexing == "xy" and len(lines) > 1
    order = [1, 0, *range(2, len(lines))] if swap else list(range(len(lines)))
    shape = tuple(lines[i].size for i in order)
    grids = []
    for i, line in enumerate(lines):
        place = order.index(i)
        sizes = tuple(line.size if axis == place else 1 for axis in range(len(lines)))
        grids.append(apply(broadcast_to, line.reshape(sizes), shape=shape))
    return grids
