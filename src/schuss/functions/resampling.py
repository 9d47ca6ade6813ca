"""Images in other sizes: interpolation, and channels as pixels."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from schuss import dtypes
from schuss.errors import ArgumentError, ShapeError, fail
from schuss.functions.arguments import ArrayLike, as_tensor, cast, floating
from schuss.functions.manipulation import concat, moveaxis, permute_dims, repeat, reshape
from schuss.functions.pooling import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d
from schuss.graph import apply, data, wrap
from schuss.ops.indexing import gather

if TYPE_CHECKING:
    from schuss.tensor import Tensor

_RANKS = {
    "nearest": (1, 2, 3), "nearest-exact": (1, 2, 3), "linear": (1,), "bilinear": (2,),
    "trilinear": (3,), "bicubic": (2,), "area": (1, 2, 3),
}  # fmt: skip
_AREA = {1: adaptive_avg_pool1d, 2: adaptive_avg_pool2d, 3: adaptive_avg_pool3d}

_PHASES = 8
"""Up to so many outputs may differ in how they stand to the input. See `_resampled`."""


def interpolate(
    x: ArrayLike,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """x (N, C, L), (N, C, H, W) or (N, C, D, H, W) in other sizes.

    Args:
        size: the new sizes, an integer for all axes or one for each.
        scale_factor: instead of that, how many times as large: sizes are rounded down.
        mode: "nearest" takes the element at floor(i / scale), "nearest-exact" the one whose middle
            is the nearest; "linear" (L), "bilinear" (H, W) and "trilinear" (D, H, W) go in straight
            lines between neighbours; "bicubic" (H, W) is Keys' convolution with a = -0.75; "area"
            takes the means of `adaptive_avg_pool`.
        align_corners: for the linear and cubic modes, whether the middles of the outermost elements
            stay where they are; by default their outer edges do.

    Positions are computed exactly, not in floating point.
    Keys, "Cubic convolution interpolation for digital image processing" (1981).
    Raises ShapeError for other axes, ArgumentError for settings that do not fit together.
    """
    x = as_tensor(x, "interpolate")
    if mode not in _RANKS:
        raise fail(ArgumentError, "interpolate", f"mode is one of {', '.join(_RANKS)}", mode=mode)
    rank = x.ndim - 2
    if rank not in _RANKS[mode]:
        axes = " or ".join(str(n + 2) for n in _RANKS[mode])
        raise fail(ShapeError, "interpolate", f"mode {mode!r} takes x with {axes} axes, batch and "
                   "channels first", x=x)  # fmt: skip
    sizes, ratios = _target(x, size, scale_factor)
    if align_corners is not None and mode in ("nearest", "nearest-exact", "area"):
        problem = "align_corners is for the linear and cubic modes"
        raise fail(ArgumentError, "interpolate", problem, mode=mode, align_corners=align_corners)
    if mode == "area":
        return _AREA[rank](x, sizes)
    y = x
    if not mode.startswith("nearest"):
        x = floating(x, "interpolate")
        y = cast(x, dtypes.accumulator(x.dtype))
    for axis, (count, ratio) in enumerate(zip(sizes, ratios, strict=True), start=2):
        n = y.shape[axis]
        if align_corners:
            ratio = Fraction(n - 1, count - 1) if count > 1 else Fraction(0)
        if count != n or ratio != 1:
            y = _resampled(y, axis, count, ratio, mode, bool(align_corners))
    return cast(y, x.dtype)


def _target(
    x: Tensor, size: int | Sequence[int] | None, scale: float | Sequence[float] | None
) -> tuple[list[int], list[Fraction]]:
    """The new sizes, and how far apart in x neighbours of the result are."""
    given: Any = size if scale is None else scale
    if given is None or (size is not None and scale is not None):
        raise fail(ArgumentError, "interpolate", "needs either size or scale_factor", size=size,
                   scale_factor=scale)  # fmt: skip
    name, rank = ("size" if scale is None else "scale_factor"), x.ndim - 2
    kind = int if scale is None else (int, float)
    each = tuple(given) if isinstance(given, Sequence) else (given,) * rank
    if len(each) != rank or any(
        isinstance(n, bool) or not isinstance(n, kind) or not 0 < n < math.inf for n in each
    ):
        what = "integer" if scale is None else "number"
        problem = f"{name} must be a positive {what}, or {rank} of them"
        raise fail(ArgumentError, "interpolate", problem, **{name: given})
    if scale is None:
        sizes = [int(n) for n in each]
        return sizes, [Fraction(n, m) for n, m in zip(x.shape[2:], sizes, strict=True)]
    factors = [Fraction(n) for n in each]
    sizes = [math.floor(n * factor) for n, factor in zip(x.shape[2:], factors, strict=True)]
    if min(sizes) < 1:
        raise fail(ShapeError, "interpolate", "scale_factor leaves nothing", x=x,
                   scale_factor=scale)  # fmt: skip
    return sizes, [1 / factor for factor in factors]


class _Phase(NamedTuple):
    """What outputs i, i + p, i + 2 p, ... read: weighted elements from `first` on, p q further."""

    first: int
    weights: tuple[float, ...]


@functools.lru_cache(maxsize=256)
def _phases(count: int, ratio: Fraction, mode: str, align: bool) -> tuple[_Phase, ...]:
    """Output i stands at (i + 1/2) ratio - 1/2 (aligned: i ratio), a fraction of some denominator
    p: after p outputs the same fractions come again, and with them the same weights."""
    made = []
    for i in range(min(count, ratio.denominator)):
        if mode == "nearest":
            made.append(_Phase(math.floor(i * ratio), (1.0,)))
        elif mode == "nearest-exact":
            made.append(_Phase(math.floor((i + Fraction(1, 2)) * ratio), (1.0,)))
        else:
            place = i * ratio if align else (i + Fraction(1, 2)) * ratio - Fraction(1, 2)
            first = math.floor(place)
            t = float(place - first)
            if mode == "bicubic":
                made.append(_Phase(first - 1, tuple(_cubic(abs(t - k)) for k in (-1, 0, 1, 2))))
            else:
                made.append(_Phase(first, (1 - t, t) if t else (1.0,)))
    return tuple(made)


def _cubic(t: float, a: float = -0.75) -> float:
    if t <= 1:
        return ((a + 2) * t - (a + 3)) * t * t + 1
    return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a


def _resampled(x: Tensor, axis: int, count: int, ratio: Fraction, mode: str, align: bool) -> Tensor:
    """One axis of x at other positions.

    Where few weights repeat, as at whole scale factors, the result is woven of as many slices of x,
    which costs a few operations an element. Otherwise it is a product with a matrix (in which an
    infinite element spoils its line), or a gather.
    """
    n = x.shape[axis]
    if n == 0:
        raise fail(ShapeError, "interpolate", "an empty axis has nothing to take", x=x)
    if n == 1 or (mode.startswith("nearest") and count == n * ratio.denominator):
        return repeat(x, count // n, axis=axis)
    phases = _phases(count, ratio, mode, align)
    if len(phases) <= _PHASES:
        return _woven(x, axis, count, ratio.numerator, phases)
    period, step = ratio.denominator, ratio.numerator
    turn, which = np.divmod(np.arange(count), period)
    first = np.array([phase.first for phase in phases])[which] + turn * step
    if mode.startswith("nearest"):
        places = wrap(data(np.clip(first, 0, n - 1)))
        return moveaxis(apply(gather, x, places, axes=(axis,), wrap=False), 0, axis)
    matrix = np.zeros((count, n))
    for i in range(count):
        for k, weight in enumerate(phases[which[i]].weights):
            matrix[i, min(max(first[i] + k, 0), n - 1)] += weight
    weights = wrap(data(matrix.astype(x.dtype)))
    if axis == x.ndim - 1:
        return x @ weights.mT
    inner = math.prod(x.shape[axis + 1 :])
    y = weights @ reshape(x, (*x.shape[:axis], n, inner))
    return reshape(y, (*x.shape[:axis], count, *x.shape[axis + 1 :]))


def _woven(x: Tensor, axis: int, count: int, step: int, phases: tuple[_Phase, ...]) -> Tensor:
    """Each phase from slices of x, `step` apart, then phase beside phase."""
    n, turns = x.shape[axis], -(-count // len(phases))
    last = max(each.first + len(each.weights) for each in phases) + (turns - 1) * step
    before = max(0, -min(each.first for each in phases))
    lead = (slice(None),) * axis
    front, end = x[(*lead, slice(0, 1))], x[(*lead, slice(n - 1, n))]
    x = concat([front] * before + [x] + [end] * max(0, last - n), axis=axis)
    rows = []
    for phase in phases:
        total: Tensor | None = None
        for k, weight in enumerate(phase.weights):
            start = before + phase.first + k
            part = x[(*lead, slice(start, start + (turns - 1) * step + 1, max(1, step)))]
            part = part if weight == 1 else part * weight
            total = part if total is None else total + part
        assert total is not None
        rows.append(total.expand_dims(axis + 1))
    woven = rows[0] if len(rows) == 1 else concat(rows, axis=axis + 1)
    shape = (*x.shape[:axis], turns * len(phases), *x.shape[axis + 1 :])
    return reshape(woven, shape)[(*lead, slice(0, count))]


# --- channels as pixels ---


def pixel_shuffle(x: ArrayLike, upscale_factor: int) -> Tensor:
    """Channels as pixels: (..., C r r, H, W) -> (..., C, H r, W r), r the factor.

    Shi et al., "Real-time single image and video super-resolution" (2016).
    Raises ShapeError where r r does not divide the channels.
    """
    x, r = as_tensor(x, "pixel_shuffle"), upscale_factor
    _check_factor("pixel_shuffle", "upscale_factor", r)
    if x.ndim < 3 or x.shape[-3] % (r * r):
        problem = f"x must have the shape (..., C * {r * r}, H, W)"
        raise fail(ShapeError, "pixel_shuffle", problem, x=x, upscale_factor=r)
    *lead, c, h, w = x.shape
    k = len(lead)
    parts = reshape(x, (*lead, c // (r * r), r, r, h, w))
    order = (*range(k), k, k + 3, k + 1, k + 4, k + 2)
    return reshape(permute_dims(parts, order), (*lead, c // (r * r), h * r, w * r))


def pixel_unshuffle(x: ArrayLike, downscale_factor: int) -> Tensor:
    """The way back of `pixel_shuffle`: (..., C, H r, W r) -> (..., C r r, H, W).

    Raises ShapeError where r does not divide the sizes.
    """
    x, r = as_tensor(x, "pixel_unshuffle"), downscale_factor
    _check_factor("pixel_unshuffle", "downscale_factor", r)
    if x.ndim < 3 or x.shape[-2] % r or x.shape[-1] % r:
        problem = f"x must have the shape (..., C, {r} * H, {r} * W)"
        raise fail(ShapeError, "pixel_unshuffle", problem, x=x, downscale_factor=r)
    *lead, c, h, w = x.shape
    k = len(lead)
    parts = reshape(x, (*lead, c, h // r, r, w // r, r))
    order = (*range(k), k, k + 2, k + 4, k + 1, k + 3)
    return reshape(permute_dims(parts, order), (*lead, c * r * r, h // r, w // r))


def channel_shuffle(x: ArrayLike, groups: int) -> Tensor:
    """The channels of x (N, C, ...) dealt out: the first of each group, then the second of each ...

    Zhang et al., "ShuffleNet" (2018).
    Raises ShapeError where the groups do not divide the channels.
    """
    x = as_tensor(x, "channel_shuffle")
    _check_factor("channel_shuffle", "groups", groups)
    if x.ndim < 3 or x.shape[1] % groups:
        problem = f"x must have the shape (N, C * {groups}, ...)"
        raise fail(ShapeError, "channel_shuffle", problem, x=x, groups=groups)
    n, c, *sizes = x.shape
    parts = reshape(x, (n, groups, c // groups, *sizes))
    return reshape(permute_dims(parts, (0, 2, 1, *range(3, 3 + len(sizes)))), x.shape)


def _check_factor(where_: str, name: str, factor: Any) -> None:
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
        raise fail(ArgumentError, where_, f"{name} must be a positive integer", **{name: factor})


__all__ = ["channel_shuffle", "interpolate", "pixel_shuffle", "pixel_unshuffle"]
