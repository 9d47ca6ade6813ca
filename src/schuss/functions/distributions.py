"""Random tensors of more distributions. Parameters may be numbers or tensors that broadcast.

`shape` is the shape of the result, by default the one that the parameters broadcast to. What is
drawn by turning uniform numbers around (all but gamma, beta, Dirichlet and Poisson) is
differentiable in its parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes
from schuss.errors import ArgumentError, DTypeError, ShapeError, fail
from schuss.functions.arguments import ArrayLike, as_shape, as_tensor, cast, floating
from schuss.functions.elementwise import clip, less, log, log1p, sign, tan
from schuss.functions.indexing import take, topk
from schuss.functions.manipulation import broadcast_to, moveaxis
from schuss.functions.random import draw, randint, uniform
from schuss.functions.random import permutation as permutation_of_range
from schuss.functions.reduction import argmax, sum
from schuss.functions.special import ndtr, ndtri
from schuss.graph import apply
from schuss.ops.infer import broadcast_shapes, normalize_axis
from schuss.ops.random_rejection import random_gamma, random_poisson
from schuss.philox import Generator

if TYPE_CHECKING:
    from schuss.tensor import Tensor

Size = int | Sequence[int] | None


def _prepared(
    name: str, shape: Size, dtype: Any, *parameters: ArrayLike
) -> tuple[tuple[int, ...], dtypes.DType, list[Tensor]]:
    """The shape and dtype of the result, and the parameters in that dtype."""
    tensors = [as_tensor(each, name) for each in parameters]
    own = [each.dtype for each in tensors if dtypes.is_floating(each.dtype) and each.ndim]
    default = dtypes.promote(*own) if own else dtypes.default_float
    kind = default if dtype is None else dtypes.as_dtype(dtype)
    if not dtypes.is_floating(kind):
        raise fail(DTypeError, name, "needs a floating dtype", dtype=kind)
    common = broadcast_shapes(name, *[each.shape for each in tensors]) if tensors else ()
    sizes = common if shape is None else as_shape(name, shape)
    if broadcast_shapes(name, common, sizes) != sizes:
        raise fail(ShapeError, name, f"the parameters do not broadcast to {sizes}", shapes=common)
    return sizes, kind, [cast(each, kind) for each in tensors]


def _open_uniform(sizes: tuple[int, ...], kind: dtypes.DType, generator: Any) -> Tensor:
    """Numbers in (0, 1]: their logarithm is finite."""
    wide = dtypes.float64 if kind == dtypes.float64 else dtypes.float32
    return 1 - uniform(sizes, dtype=wide, generator=generator)


def exponential(
    shape: Size = None, *, rate: ArrayLike = 1.0, dtype: Any = None,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Waiting times between events that happen `rate` times in a unit of time."""
    sizes, kind, (rate,) = _prepared("exponential", shape, dtype, rate)
    return cast(-log(_open_uniform(sizes, kind, generator)), kind) / rate


def gumbel(
    shape: Size = None, *, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0, dtype: Any = None,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """The largest of many numbers (E. J. Gumbel, 1935): loc - scale * log(exponential)."""
    sizes, kind, (loc, scale) = _prepared("gumbel", shape, dtype, loc, scale)
    waited = -log(_open_uniform(sizes, kind, generator))
    tiny = float(np.finfo(np.float32).tiny)  # log(1) is 0, whose logarithm is infinite
    return loc - scale * cast(log(clip(waited, tiny, None)), kind)


def laplace(
    shape: Size = None, *, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0, dtype: Any = None,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Exponentially distributed distances from `loc` on both sides."""
    sizes, kind, (loc, scale) = _prepared("laplace", shape, dtype, loc, scale)
    u = _open_uniform(sizes, kind, generator) - 0.5  # (-0.5, 0.5]
    inner = clip(2 * u.abs(), None, 1 - float(np.finfo(np.float32).eps))
    return loc - scale * cast(sign(u) * log1p(-inner), kind)


def logistic(
    shape: Size = None, *, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0, dtype: Any = None,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Numbers whose distribution function is the sigmoid."""
    sizes, kind, (loc, scale) = _prepared("logistic", shape, dtype, loc, scale)
    u = clip(_open_uniform(sizes, kind, generator), None, 1 - float(np.finfo(np.float32).eps))
    return loc + scale * cast(log(u) - log1p(-u), kind)


def cauchy(
    shape: Size = None, *, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0, dtype: Any = None,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Where a ray of random direction meets a line. It has no mean."""
    sizes, kind, (loc, scale) = _prepared("cauchy", shape, dtype, loc, scale)
    u = _open_uniform(sizes, kind, generator) - 0.5
    return loc + scale * cast(tan(u * (math.pi * (1 - 1e-7))), kind)


def truncated_normal(
    shape: Size = None, *, mean: ArrayLike = 0.0, std: ArrayLike = 1.0, low: ArrayLike = -2.0,
    high: ArrayLike = 2.0, dtype: Any = None, generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Normally distributed numbers between `low` and `high`; what lies outside is left out."""
    sizes, kind, (mean, std, low, high) = _prepared(
        "truncated_normal", shape, dtype, mean, std, low, high
    )
    wide = dtypes.float64 if kind == dtypes.float64 else dtypes.float32
    first, last = (ndtr(cast((limit - mean) / std, wide)) for limit in (low, high))
    u = first + (last - first) * _open_uniform(sizes, kind, generator)
    drawn = mean + std * cast(ndtri(clip(u, 1e-7, 1 - 1e-7)), kind)
    return clip(drawn, broadcast_to(low, sizes), broadcast_to(high, sizes))


def gamma(
    concentration: ArrayLike, shape: Size = None, *, rate: ArrayLike = 1.0, dtype: Any = None,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Gamma-distributed numbers: waiting times for `concentration` events.

    NaN where the concentration is negative.
    """
    sizes, _, (alpha, rate) = _prepared("gamma", shape, dtype, concentration, rate)
    return apply(random_gamma, draw(4, generator), broadcast_to(alpha.detach(), sizes)) / rate


def beta(
    a: ArrayLike, b: ArrayLike, shape: Size = None, *, dtype: Any = None,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Numbers between 0 and 1 with density in proportion to x**(a - 1) * (1 - x)**(b - 1)."""
    sizes, kind, (first, second) = _prepared("beta", shape, dtype, a, b)
    x = gamma(first, sizes, dtype=kind, generator=generator)
    y = gamma(second, sizes, dtype=kind, generator=generator)
    return x / (x + y)


def dirichlet(
    concentration: ArrayLike, shape: Size = (), *, dtype: Any = None,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Shares of a whole, along the last axis of `concentration`; `shape` comes first."""
    alpha = floating(concentration, "dirichlet")
    sizes = (*as_shape("dirichlet", () if shape is None else shape), *alpha.shape)
    x = gamma(alpha, sizes, dtype=dtype, generator=generator)
    return x / sum(x, axis=-1, keepdims=True)


def poisson(rate: ArrayLike, shape: Size = None, *, generator: Generator | None = None) -> Tensor:
    """How many events happen in a unit of time: int64."""
    sizes, _, (mean,) = _prepared("poisson", shape, dtypes.float64, rate)
    drawn = apply(random_poisson, draw(4, generator), broadcast_to(mean.detach(), sizes))
    return cast(drawn, dtypes.int64)


def bernoulli(p: ArrayLike, shape: Size = None, *, generator: Generator | None = None) -> Tensor:
    """True with probability p: bool."""
    if isinstance(p, (int, float)) and not 0 <= p <= 1:
        raise fail(ArgumentError, "bernoulli", "p is a probability", p=p)
    sizes, _, (share,) = _prepared("bernoulli", shape, None, p)
    return less(uniform(sizes, dtype=share.dtype, generator=generator), share)


def categorical(
    logits: ArrayLike, shape: Size = (), *, axis: int = -1, generator: Generator | None = None
) -> Tensor:
    """Class numbers with probabilities softmax(logits) along `axis`: int64.

    `shape` comes first in the result, then the other axes of the logits. By the largest of the
    logits plus Gumbel noise (Maddison et al., 2014).
    """
    z = moveaxis(floating(logits, "categorical"), normalize_axis(
        "categorical", axis, as_tensor(logits).ndim), -1)  # fmt: skip
    sizes = (*as_shape("categorical", () if shape is None else shape), *z.shape)
    return argmax(z + gumbel(sizes, dtype=z.dtype, generator=generator), axis=-1)


def permutation(
    x: int | ArrayLike, /, *, axis: int = 0, generator: Generator | None = None
) -> Tensor:
    """A random order of range(x), int64; or of the slices of a tensor along `axis`."""
    if isinstance(x, (int, np.integer)):
        return permutation_of_range(int(x), generator=generator)
    x = as_tensor(x, "permutation")
    count = x.shape[normalize_axis("permutation", axis, x.ndim)]
    return take(x, permutation_of_range(count, generator=generator), axis=axis)


def choice(
    x: int | ArrayLike, shape: int | Sequence[int] = (), *, replace: bool = True,
    p: ArrayLike | None = None, generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Elements of range(x) or slices of x along axis 0, drawn with probabilities p (or evenly).

    With `replace=False` no element is drawn twice.
    """
    whole = isinstance(x, (int, np.integer))
    count = int(x) if isinstance(x, (int, np.integer)) else as_tensor(x, "choice").shape[0]
    sizes = as_shape("choice", shape)
    wanted = math.prod(sizes)
    if count < 1 or (not replace and wanted > count):
        raise fail(ArgumentError, "choice", f"cannot draw {wanted} of {count}", replace=replace)
    if p is None:
        if replace:
            places = randint(0, count, sizes, generator=generator)
        else:
            places = permutation_of_range(count, generator=generator)[:wanted].reshape(sizes)
    else:
        weights = floating(p, "choice")
        if weights.shape != (count,):
            raise fail(ShapeError, "choice", f"needs {count} probabilities", p=weights)
        logits = log(weights)
        if replace:
            places = categorical(logits, sizes, generator=generator)
        else:  # the largest of logits plus Gumbel noise (Vieira, 2014)
            noisy = logits + gumbel((count,), dtype=logits.dtype, generator=generator)
            places = topk(noisy, wanted)[1].reshape(sizes)
    return (
        places
        if whole
        else take(as_tensor(x), places.reshape((-1,)), axis=0).reshape(
            (*sizes, *as_tensor(x).shape[1:])
        )
    )


__all__ = [
    "bernoulli", "beta", "categorical", "cauchy", "choice", "dirichlet", "exponential", "gamma",
    "gumbel", "laplace", "logistic", "permutation", "poisson", "truncated_normal",
]  # fmt: skip
