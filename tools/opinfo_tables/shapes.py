"""Shapes, positions, making tensors."""

from __future__ import annotations

import builtins
import itertools
from typing import Any

import numpy as np

import schuss as s
from opinfo_tables.base import TABLE, entry, needs_axes, no, plain
from schuss import linalg
from schuss.graph import Handle

TABLE |= {
    "reshape": lambda x, shape: s.reshape(x, shape),
    "view": lambda x, *a: (
        s.reshape(x, *a)
        if not isinstance(a[0], np.dtype)
        else no("another dtype over the same memory")
    ),
    "view_as": lambda x, y: s.reshape(x, y.shape),
    "reshape_as": lambda x, y: s.reshape(x, y.shape),
    "ravel": lambda x: s.reshape(x, (-1,)) if x.size else s.reshape(x, (0,)),
    "flatten": lambda x, start_dim=0, end_dim=-1: s.flatten(x, start_dim, end_dim),
    "unflatten": lambda x, dim, sizes: s.unflatten(x, dim, sizes),
    "unsqueeze": lambda x, dim: s.expand_dims(x, axis=dim),
    "unsqueeze_copy": lambda x, dim: s.expand_dims(x, axis=dim),
    "permute": lambda x, *dims: s.permute_dims(x, *dims),
    "permute_copy": lambda x, *dims: s.permute_dims(x, *dims),
    "movedim": lambda x, a, b: s.moveaxis(x, a, b),
    "t": lambda x: x.T if x.ndim == 2 else x,
    "t_copy": lambda x: x.T if x.ndim == 2 else x,
    "T": lambda x: x.T if x.ndim == 2 else no(".T of no matrix"),
    "mT": lambda x: x.mT,
    "H": lambda x: s.conj(x.T) if x.ndim == 2 else no(".H of no matrix"),
    "mH": lambda x: s.conj(x.mT),
    "broadcast_to": lambda x, shape: s.broadcast_to(x, shape),
    "broadcast_tensors": lambda *x: s.broadcast_arrays(*x),
    "flip": lambda x, dims: s.flip(x, axis=dims) if dims != () else x,
    "fliplr": lambda x: s.flip(x, axis=1),
    "flipud": lambda x: s.flip(x, axis=0),
    "rot90": lambda x, k=1, dims=(0, 1): s.rot90(x, k, tuple(dims)),
    "roll": lambda x, shifts, dims=None: s.roll(x, shifts, axis=None if dims == () else dims),
    "tile": lambda x, dims: s.tile(x, dims),
    "stack": plain(s.stack),
    "hstack": s.hstack,
    "vstack": s.vstack,
    "column_stack": s.column_stack,
    "cat": lambda xs, dim=0: (
        s.concat(list(xs), axis=dim)
        if len({t.ndim for t in xs}) == 1
        else no("empty vectors among matrices")
    ),
    "unbind": lambda x, dim=0: s.unstack(x, axis=dim),
    "unbind_copy": lambda x, dim=0: s.unstack(x, axis=dim),
    "split": lambda x, size, dim=0: s.split(
        x, size if isinstance(size, int) else list(size), axis=dim
    ),
    "split_with_sizes": lambda x, sizes, dim=0: s.split(x, list(sizes), axis=dim),
    "split_with_sizes_copy": lambda x, sizes, dim=0: s.split(x, list(sizes), axis=dim),
    "unsafe_split": lambda x, size, dim=0: s.split(
        x, size if isinstance(size, int) else list(size), axis=dim
    ),
    "chunk": lambda x, chunks, dim=0: s.split(x, -(-x.shape[dim] // chunks) or 1, axis=dim),
    "unsafe_chunk": lambda x, chunks, dim=0: s.split(x, -(-x.shape[dim] // chunks) or 1, axis=dim),
    "narrow": lambda x, dim, start, length: x[
        (
            *[slice(None)] * (dim % x.ndim),
            slice(
                int(start) % x.shape[dim] if x.shape[dim] and int(start) < 0 else int(start),
                (int(start) % x.shape[dim] if x.shape[dim] and int(start) < 0 else int(start))
                + length,
            ),
        )
    ],
    "select": lambda x, dim, index: s.take(x, s.tensor(index), axis=dim),
    "meshgrid": lambda first, *more, indexing="ij": s.meshgrid(
        *(first if isinstance(first, (list, tuple)) else (first,)), *more, indexing=indexing
    ),
    "block_diag": s.block_diag,
    "cartesian_prod": lambda *x: s.cartesian_prod(*x) if len(x) > 1 else x[0],
    "kron": s.kron,
    "clone": plain(lambda x: s.asarray(x, copy=True)),
    "contiguous": plain(lambda x: x),
    "alias_copy": lambda x: s.asarray(x, copy=True),
    "tril": lambda x, k=0: s.tril(x, k=k),
    "triu": lambda x, k=0: s.triu(x, k=k),
    "unfold": lambda x, dim, size, step: s.unfold(x, size, step, axis=dim),
    "unfold_copy": lambda x, dim, size, step: s.unfold(x, size, step, axis=dim),
    "expand_as": lambda x, y: s.broadcast_to(x, y.shape),
    "atleast_1d": lambda *x: tuple(
        s.atleast_nd(t, 1) for t in (x[0] if isinstance(x[0], (list, tuple)) else x)
    ),
    "atleast_2d": lambda *x: tuple(
        s.atleast_nd(t, 2) for t in (x[0] if isinstance(x[0], (list, tuple)) else x)
    ),
    "trace": linalg.trace,
    "outer": s.outer,
    "linalg.diagonal": lambda x, offset=0, dim1=-2, dim2=-1: linalg.diagonal(
        s.moveaxis(x, (dim1, dim2), (-2, -1)), offset=offset
    ),
    "diagonal": lambda x, offset=0, dim1=0, dim2=1: linalg.diagonal(
        s.moveaxis(x, (dim1, dim2), (-2, -1)), offset=offset
    ),
    "repeat": lambda x, *reps: s.tile(x, reps[0] if len(reps) == 1 else reps),
    "resolve_conj": s.positive,
    "gradient": None,
}
del TABLE["gradient"]
for name in ("diagonal_copy",):
    TABLE[name] = TABLE["diagonal"]


@entry("squeeze", "squeeze_copy")
def squeeze(x: Any, dim: Any = None) -> Any:
    if dim is None:
        return s.squeeze(x)
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    if x.ndim == 0:
        no("an axis of a scalar")
    return s.squeeze(x, tuple({d % x.ndim for d in dims if x.shape[d] == 1}))


@entry("transpose", "transpose_copy")
def transpose(x: Any, a: int, b: int) -> Any:
    return s.swapaxes(x, a, b) if x.ndim else no("an axis of a scalar")


@entry("expand", "expand_copy")
def expand(x: Any, *sizes: Any) -> Any:
    sizes = tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    lead = len(sizes) - x.ndim
    return s.broadcast_to(
        x, tuple(x.shape[i - lead] if n == -1 else n for i, n in enumerate(sizes))
    )


@entry("tensor_split")
def tensor_split(x: Any, where_: Any, dim: int = 0) -> Any:
    n = x.shape[dim]
    where_ = where_.tolist() if isinstance(where_, Handle) else where_
    if isinstance(where_, int):
        sizes = [n // where_ + (i < n % where_) for i in range(where_)]
        return s.split(x, sizes, axis=dim)
    ends = [0, *(builtins.min(builtins.max(i + n if i < 0 else i, 0), n) for i in where_), n]
    lead = (slice(None),) * (dim % x.ndim)
    return [x[(*lead, slice(a, b))] for a, b in itertools.pairwise(ends)]


TABLE["hsplit"] = lambda x, where_: tensor_split(x, where_, 0 if x.ndim == 1 else 1)
TABLE["vsplit"] = lambda x, where_: tensor_split(x, where_, 0)
TABLE["dsplit"] = lambda x, where_: tensor_split(x, where_, 2)


@entry("repeat_interleave")
def repeat_interleave(x: Any, repeats: Any, dim: Any = None, output_size: Any = None) -> Any:
    if x.ndim == 0:
        no("an axis of a scalar")
    return s.repeat(x, repeats, axis=dim)


@entry("diag_embed")
def diag_embed(x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    n = x.shape[-1] + builtins.abs(offset)
    place = np.arange(x.shape[-1])
    full = s.zeros((*x.shape[:-1], n, n), dtype=x.dtype)
    full[..., place + builtins.max(-offset, 0), place + builtins.max(offset, 0)] = x
    return s.moveaxis(full, (-2, -1), (dim1, dim2))


@entry("diag")
def diag(x: Any, k: int = 0) -> Any:
    return diag_embed(x, k) if x.ndim == 1 else linalg.diagonal(x, offset=k)


TABLE["diagflat"] = lambda x, offset=0: diag_embed(s.reshape(x, (x.size,)), offset)


@entry("gather")
def gather(x: Any, dim: int, index: Any, sparse_grad: bool = False) -> Any:
    needs_axes(x)
    if index.ndim != x.ndim:
        no("an index of other axes")
    corner = tuple(
        slice(None) if i == dim % x.ndim else slice(0, n) for i, n in enumerate(index.shape)
    )
    return s.take_along_axis(x[corner], index, axis=dim)


@entry("take_along_dim")
def take_along_dim(x: Any, index: Any, dim: Any = None) -> Any:
    if dim is None:
        x, index, dim = s.reshape(x, (-1,)), s.reshape(index, (-1,)), 0
    return s.take_along_axis(x, index, axis=dim)


@entry("index_select")
def index_select(x: Any, dim: int, index: Any) -> Any:
    needs_axes(x)
    return s.take(x, s.reshape(index, (-1,)), axis=dim)


TABLE["take"] = lambda x, index: s.reshape(x, (-1,))[index]
TABLE["__getitem__"] = lambda x, key: x[
    tuple(key) if isinstance(key, list) and not all(isinstance(each, int) for each in key) else key
]
TABLE["masked_fill"] = lambda x, mask, value: s.where(mask, value, x)
TABLE["masked_select"] = lambda x, mask: s.broadcast_arrays(x, mask)[0][
    s.broadcast_arrays(x, mask)[1]
]


@entry("index_put")
def index_put(x: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    if accumulate:
        no("indices that add up")
    x = s.asarray(x, copy=True)
    x[tuple(indices)] = values
    return x


@entry("index_copy")
def index_copy(x: Any, dim: int, index: Any, source: Any) -> Any:
    needs_axes(x)
    y = s.asarray(x, copy=True)
    y[(*[slice(None)] * (dim % x.ndim), index)] = source
    return y


@entry("index_fill")
def index_fill(x: Any, dim: int, index: Any, value: Any) -> Any:
    needs_axes(x)
    y = s.asarray(x, copy=True)
    y[(*[slice(None)] * (dim % x.ndim), s.reshape(index, (-1,)))] = value
    return y


@entry("index_add")
def index_add(x: Any, dim: int, index: Any, source: Any, alpha: Any = 1) -> Any:
    needs_axes(x)
    rows = s.moveaxis(source, dim, 0) if source.ndim else s.reshape(source, (1,))
    added = s.segment_sum(rows, s.reshape(index, (-1,)), x.shape[dim])
    return x + alpha * s.moveaxis(added, 0, dim)


def scattered(x: Any, dim: int, index: Any, source: Any) -> Any:
    """A tensor like x with what `source` puts at `index`, elsewhere what stood there."""
    grids = list(np.indices(index.shape, sparse=True))
    grids[dim] = index
    y = s.asarray(x, copy=True)
    y[tuple(grids)] = source
    return y


@entry("scatter")
def scatter(
    x: Any, dim: int, index: Any, src: Any = None, reduce: Any = None, value: Any = None
) -> Any:
    needs_axes(x)
    if reduce is not None or index.ndim == 0:
        no("scatter with a reduction")
    src = value if src is None else src
    if isinstance(src, Handle):
        src = src[tuple(slice(0, n) for n in index.shape)]
    return scattered(x, dim % x.ndim, index, src)


@entry("slice_scatter")
def slice_scatter(
    x: Any, src: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    y = s.asarray(x, copy=True)
    y[(*[slice(None)] * (dim % x.ndim), slice(start, end, step))] = src
    return y


@entry("select_scatter")
def select_scatter(x: Any, src: Any, dim: int, index: int) -> Any:
    y = s.asarray(x, copy=True)
    y[(*[slice(None)] * (dim % x.ndim), index)] = src
    return y


def made(f: Any) -> Any:
    def call(x: Any, shape: Any, *args: Any, dtype: Any = None, **kwargs: Any) -> Any:
        return f(tuple(shape), *args, dtype=x.dtype if dtype is None else dtype)

    return call


TABLE |= {
    "full_like": plain(s.full_like),
    "ones_like": plain(s.ones_like),
    "zeros_like": plain(s.zeros_like),
    "new_full": made(s.full),
    "new_ones": made(s.ones),
    "new_zeros": made(s.zeros),
    "full": plain(s.full),
    "ones": plain(s.ones),
    "zeros": plain(s.zeros),
    "fill": lambda x, value: (
        s.full_like(x, value) if not isinstance(value, Handle) else s.broadcast_to(value, x.shape)
    ),
    "to": None,
    "scalar_tensor": plain(
        lambda x, dtype=None, device=None, requires_grad=False: s.asarray(x, dtype=dtype)
    ),
    "eye": plain(
        lambda n, m=None, dtype=None, device=None, requires_grad=False: s.eye(n, m, dtype=dtype)
    ),
    "arange": plain(
        lambda a, end=None, step=1, dtype=None, device=None, requires_grad=False: s.arange(
            a, end, step, dtype=dtype
        )
    ),
    "linspace": plain(
        lambda a, b, steps, dtype=None, device=None: s.linspace(
            *(t.item() if isinstance(t, Handle) else t for t in (a, b)), steps, dtype=dtype
        )
    ),
}
del TABLE["to"]
for theirs, kind in {
    "bfloat16": s.bfloat16,
    "bool": s.bool,
    "byte": s.uint8,
    "char": s.int8,
    "double": s.float64,
    "float": s.float32,
    "half": s.float16,
    "int": s.int32,
    "long": s.int64,
    "short": s.int16,
    "cfloat": s.complex64,
    "cdouble": s.complex128,
}.items():
    TABLE[theirs] = plain(lambda x, kind=kind: x.astype(kind))
