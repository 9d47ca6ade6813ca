"""Reductions, sorting, statistics."""

from __future__ import annotations

from typing import Any

import schuss as s
from opinfo_tables.base import TABLE, entry, no, plain
from schuss import linalg, masked
from schuss.graph import Handle

for theirs, f in {
    "sum": s.sum,
    "prod": s.prod,
    "mean": s.mean,
    "amax": s.max,
    "amin": s.min,
    "argmax": s.argmax,
    "argmin": s.argmin,
    "any": s.any,
    "all": s.all,
    "logsumexp": s.logsumexp,
    "nansum": s.nansum,
    "nanmean": s.nanmean,
    "count_nonzero": s.count_nonzero,
    "cumsum": s.cumulative_sum,
    "cumprod": s.cumulative_prod,
    "cummax": s.cumulative_max,
    "cummin": s.cumulative_min,
    "logcumsumexp": s.logcumsumexp,
    "argsort": s.argsort,
    "diff": s.diff,
}.items():

    def reduction(x: Any, *args: Any, f: Any = f, **kwargs: Any) -> Any:
        dtype = kwargs.pop("dtype", None)
        if kwargs.get("dim") == () or kwargs.get("dim") == []:
            kwargs["dim"] = None
        if "stable" in kwargs:
            kwargs["stable"] = True
        x = x if dtype is None else x.astype(dtype)
        if f is s.count_nonzero and args:
            return f(x, axis=args[0])
        if f is s.argsort and len(args) == 2:
            return f(x, args[0], descending=args[1])
        if (
            f
            in (
                s.cumulative_sum,
                s.cumulative_prod,
                s.cumulative_max,
                s.cumulative_min,
                s.logcumsumexp,
            )
            and x.ndim == 0
        ):
            no("running sums of a scalar")
        return plain(f)(x, *args, **kwargs)

    TABLE[theirs] = reduction


@entry("diff")
def diff(x: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    return s.diff(x, axis=dim, n=n, prepend=prepend, append=append)


def spread(f: Any) -> Any:
    """var and std: correction 1 by default there."""

    def call(
        x: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, correction: Any = None
    ) -> Any:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        c = correction if correction is not None else (1 if unbiased is None else int(unbiased))
        if s.isdtype(x.dtype, "complex floating"):
            no("the variance of complex numbers")
        axis = None if dim in ((), []) else dim
        return f(x, axis=axis, keepdims=keepdim, correction=c)

    return call


TABLE |= {
    "var": spread(s.var),
    "std": spread(s.std),
    "var_mean": lambda x, dim=None, *a, **k: (
        spread(s.var)(x, dim, *a, **k),
        s.mean(
            x,
            None if isinstance(dim, bool) or dim in ((), []) else dim,
            keepdims=k.get("keepdim", False),
        ),
    ),
    "std_mean": lambda x, dim=None, *a, **k: (
        spread(s.std)(x, dim, *a, **k),
        s.mean(
            x,
            None if isinstance(dim, bool) or dim in ((), []) else dim,
            keepdims=k.get("keepdim", False),
        ),
    ),
    "aminmax": lambda x, dim=None, keepdim=False: (s.min(x, dim, keepdim), s.max(x, dim, keepdim)),
}


def extreme(f: Any, where_: Any, pairwise: Any) -> Any:
    def call(x: Any, dim: Any = None, keepdim: bool = False, other: Any = None) -> Any:
        if isinstance(dim, Handle) or other is not None:
            return pairwise(x, dim if other is None else other)
        if dim is None:
            return f(x)
        if x.ndim == 0:
            no("an axis of a scalar")
        place = where_(x, dim, keepdims=True)
        taken = s.take_along_axis(x, place, axis=dim)
        return (taken, place) if keepdim else (taken.squeeze(dim), place.squeeze(dim))

    return call


TABLE["max"] = extreme(s.max, s.argmax, s.maximum)
TABLE["min"] = extreme(s.min, s.argmin, s.minimum)


@entry("sort")
def sort(x: Any, dim: Any = -1, descending: bool = False, stable: Any = None) -> Any:
    if isinstance(dim, bool):
        no("arguments in another order")
    if x.ndim == 0:
        no("an axis of a scalar")
    order = s.argsort(x, axis=dim, descending=descending)
    return s.take_along_axis(x, order, axis=dim), order


@entry("msort")
def msort(x: Any) -> Any:
    return s.sort(x, axis=0) if x.ndim else no("an axis of a scalar")


@entry("topk")
def topk(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    if x.ndim == 0:
        no("an axis of a scalar")
    if largest:
        return s.topk(x, k, axis=dim)
    values, order = s.topk(-x, k, axis=dim)
    return -values, order


@entry("kthvalue")
def kthvalue(x: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    if x.ndim == 0:
        no("an axis of a scalar")
    values, order = sort(x, dim)
    place = s.tensor([k - 1])
    pair = s.take(values, place, axis=dim), s.take(order, place, axis=dim)
    return pair if keepdim else tuple(each.squeeze(dim) for each in pair)


@entry("quantile")
def quantile(
    x: Any, q: Any, dim: Any = None, keepdim: bool = False, interpolation: str = "linear"
) -> Any:
    return s.quantile(x, q, axis=dim, keepdims=keepdim, method=interpolation)


@entry("median")
def median(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if dim is not None:
        no("the median with its position")
    return s.quantile(x, 0.5, method="lower")


@entry("norm", "linalg.vector_norm")
def vector_norm(
    x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, p: Any = None
) -> Any:
    ord = ord if p is None else p
    if isinstance(ord, str) or ord is None:
        no("a norm of matrices through norm")
    axis = None if dim in ((), []) else dim
    return linalg.vector_norm(
        x if dtype is None else x.astype(dtype), ord=ord, axis=axis, keepdims=keepdim
    )


TABLE |= {
    "cov": lambda x, correction=1, fweights=None, aweights=None: (
        s.cov(x, correction=correction)
        if fweights is None and aweights is None
        else no("weights of observations")
    ),
    "corrcoef": lambda x: s.corrcoef(x),
    "trapezoid": lambda y, x=None, dim=-1, dx=1.0: s.trapezoid(y, x, dx=dx, axis=dim),
    "trapz": lambda y, x=None, dim=-1, dx=1.0: s.trapezoid(y, x, dx=dx, axis=dim),
    "cumulative_trapezoid": lambda y, x=None, dim=-1, dx=1.0: s.cumulative_trapezoid(
        y, x, dx=dx, axis=dim
    ),
    "bincount": lambda x, weights=None, minlength=0: s.bincount(x, weights, minlength),
    "histc": lambda x, bins=100, min=0, max=0: s.histogram(
        x, bins, range=None if min == max == 0 else (min, max)
    ).counts.astype(x.dtype),
    "dist": lambda a, b, p=2: linalg.vector_norm(a - b, ord=p),
    "nonzero": lambda x, as_tuple=False: (
        (s.nonzero(x) if as_tuple else s.stack(s.nonzero(x), axis=-1))
        if x.ndim
        else no("positions of a scalar")
    ),
    "argwhere": lambda x: s.stack(s.nonzero(x), axis=-1) if x.ndim else no("positions of a scalar"),
    "equal": lambda a, b: bool(a.shape == b.shape and s.all(a == b)),
}


@entry("searchsorted")
def searchsorted(
    x: Any,
    values: Any,
    out_int32: bool = False,
    right: bool = False,
    side: Any = None,
    sorter: Any = None,
) -> Any:
    if x.ndim != 1:
        no("searching along rows")
    found = s.searchsorted(x, values, side=side or ("right" if right else "left"), sorter=sorter)
    return found.astype(s.int32) if out_int32 else found


@entry("bucketize")
def bucketize(values: Any, edges: Any, out_int32: bool = False, right: bool = False) -> Any:
    return searchsorted(edges, values, out_int32, right)


def with_mask(f: Any, average: bool = False) -> Any:
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        mask, dtype = kwargs.pop("mask", None), kwargs.pop("dtype", None)
        unbiased, correction = kwargs.pop("unbiased", None), kwargs.pop("correction", None)
        if kwargs.get("dim") in ((), []):
            kwargs["dim"] = None
        if x.ndim == 0 or x.size == 0 or dtype is not None or args:
            no("masks over scalars and over nothing, another dtype")
        if average:
            kwargs["correction"] = int(True if unbiased is None else unbiased)
            if correction is not None:
                kwargs["correction"] = correction
        mask = s.ones(x.shape, dtype=s.bool) if mask is None else mask
        if not bool(s.all(s.any(s.broadcast_to(mask, x.shape), axis=kwargs.get("dim")))):
            no("rows of which nothing counts")
        return plain(f)(x, mask, **kwargs)

    return call


def along(f: Any) -> Any:
    def call(x: Any, dim: Any = None, **kwargs: Any) -> Any:
        return with_mask(f)(x, dim=dim, **kwargs)

    return call


for theirs, ours in {"sum": "sum", "prod": "prod", "amax": "max", "amin": "min", "mean": "mean",
                     "argmax": "argmax", "argmin": "argmin"}.items():  # fmt: skip
    TABLE[f"masked.{theirs}"] = with_mask(getattr(masked, ours))
for theirs in ("var", "std"):
    TABLE[f"masked.{theirs}"] = with_mask(getattr(masked, theirs), average=True)
for theirs in ("softmax", "log_softmax", "logsumexp"):
    TABLE[f"masked.{theirs}"] = along(getattr(masked, theirs))
