"""Discrete Fourier transforms, under the names of the array API standard.

`norm` says which way is scaled: "backward" divides the inverse by n, "forward" the transform,
"ortho" both by the root of n. Integers become float32; half precisions have to be cast first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes
from schuss.devices import as_device
from schuss.errors import ArgumentError, DTypeError, ShapeError, fail
from schuss.functions.arguments import ArrayLike, as_tensor, cast, floating
from schuss.functions.elementwise import conj
from schuss.functions.manipulation import pad, roll
from schuss.graph import apply, data, wrap
from schuss.ops import fft as ops
from schuss.ops.infer import normalize_axes, normalize_axis

if TYPE_CHECKING:
    from schuss.tensor import Tensor

_NORMS = ("backward", "ortho", "forward")


def _prepared(name: str, x: ArrayLike, complex_: bool) -> Tensor:
    x = floating(x, name)
    if x.ndim == 0:
        raise fail(ShapeError, name, "a scalar has no axis to transform", x=x)
    if x.dtype in dtypes.HALF:
        raise fail(DTypeError, name, "half precisions have no transform", x=x,
                   hint="cast with astype(schuss.float32)")  # fmt: skip
    if complex_ and not dtypes.is_complex(x.dtype):
        return cast(x, dtypes.promote_with_numbers([x.dtype], [1j]))
    if not complex_ and dtypes.is_complex(x.dtype):
        raise fail(DTypeError, name, "needs real numbers", x=x, hint="fft takes complex ones")
    return x


def _resized(name: str, x: Tensor, n: int, axis: int) -> Tensor:
    """The first n elements along the axis, zeros where there are fewer."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise fail(ArgumentError, name, "a length must be a positive integer", n=n)
    have = x.shape[axis]
    if n < have:
        return x[(*[slice(None)] * axis, slice(0, n))]
    widths = [(0, n - have)] + [(0, 0)] * (x.ndim - axis - 1)
    return pad(x, widths) if n > have else x


def _scaled(name: str, y: Tensor, n: int, norm: str, inverse: bool) -> Tensor:
    if norm not in _NORMS:
        raise fail(ArgumentError, name, f"norm is one of {', '.join(_NORMS)}", norm=norm)
    if norm == "ortho":
        return y * (1 / math.sqrt(n))
    return y * (1 / n) if inverse == (norm == "backward") else y


def _complex(name: str, x: ArrayLike, n: Any, axis: int, norm: str, inverse: bool) -> Tensor:
    x = _prepared(name, x, True)
    place = normalize_axis(name, axis, x.ndim)
    x = _resized(name, x, x.shape[place] if n is None else n, place)
    y = apply(ops.fft, x, axis=place, inverse=inverse)
    return _scaled(name, y, x.shape[place], norm, inverse)


def fft(x: ArrayLike, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Tensor:
    """The Fourier transform along `axis`, of its first n elements (zeros where it is shorter)."""
    return _complex("fft", x, n, axis, norm, False)


def ifft(
    x: ArrayLike, /, *, n: int | None = None, axis: int = -1, norm: str = "backward"
) -> Tensor:
    """The inverse of `fft`."""
    return _complex("ifft", x, n, axis, norm, True)


def rfft(
    x: ArrayLike, /, *, n: int | None = None, axis: int = -1, norm: str = "backward"
) -> Tensor:
    """The first n // 2 + 1 elements of the transform of real numbers; the others mirror them."""
    x = _prepared("rfft", x, False)
    place = normalize_axis("rfft", axis, x.ndim)
    x = _resized("rfft", x, x.shape[place] if n is None else n, place)
    return _scaled("rfft", apply(ops.rfft, x, axis=place), x.shape[place], norm, False)


def irfft(
    x: ArrayLike, /, *, n: int | None = None, axis: int = -1, norm: str = "backward"
) -> Tensor:
    """The inverse of `rfft`: n real numbers, by default 2 (m - 1) from m complex ones."""
    x = _prepared("irfft", x, True)
    place = normalize_axis("irfft", axis, x.ndim)
    n = 2 * (x.shape[place] - 1) if n is None else n
    if n < 1:
        raise fail(ArgumentError, "irfft", "a length must be a positive integer", n=n)
    half = _resized("irfft", x, n // 2 + 1, place)
    return _scaled("irfft", apply(ops.irfft, half, axis=place, n=n), n, norm, True)


_OTHER_WAY = {"backward": "forward", "forward": "backward", "ortho": "ortho"}


def hfft(
    x: ArrayLike, /, *, n: int | None = None, axis: int = -1, norm: str = "backward"
) -> Tensor:
    """The real transform of a signal with Hermitian symmetry, of which x is the first half."""
    return irfft(conj(_prepared("hfft", x, True)), n=n, axis=axis, norm=_OTHER_WAY.get(norm, norm))


def ihfft(
    x: ArrayLike, /, *, n: int | None = None, axis: int = -1, norm: str = "backward"
) -> Tensor:
    """The inverse of `hfft`."""
    return conj(rfft(x, n=n, axis=axis, norm=_OTHER_WAY.get(norm, norm)))


def _lengths(
    name: str, x: Tensor, s: Sequence[int] | None, axes: Sequence[int] | None
) -> tuple[list[int], list[int | None]]:
    """The axes to transform, and the length of each."""
    if axes is None:
        if s is not None:
            raise fail(ArgumentError, name, "s needs axes, to say which lengths they are", s=s)
        return list(range(x.ndim)), [None] * x.ndim
    places = [normalize_axis(name, axis, x.ndim) for axis in axes]
    if len(set(places)) != len(places):
        raise fail(ArgumentError, name, "axes names an axis twice", axes=axes)
    lengths: list[int | None] = [None] * len(places) if s is None else list(s)
    if len(lengths) != len(places):
        raise fail(ArgumentError, name, "s needs a length for each of the axes", s=s, axes=axes)
    return places, lengths


def fftn(
    x: ArrayLike,
    /,
    *,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    norm: str = "backward",
) -> Tensor:
    """The Fourier transform along several axes, by default all; `s` are their lengths."""
    x = _prepared("fftn", x, True)
    for axis, n in zip(*_lengths("fftn", x, s, axes), strict=True):
        x = fft(x, n=n, axis=axis, norm=norm)
    return x


def ifftn(
    x: ArrayLike,
    /,
    *,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    norm: str = "backward",
) -> Tensor:
    """The inverse of `fftn`."""
    x = _prepared("ifftn", x, True)
    for axis, n in zip(*_lengths("ifftn", x, s, axes), strict=True):
        x = ifft(x, n=n, axis=axis, norm=norm)
    return x


def rfftn(
    x: ArrayLike,
    /,
    *,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    norm: str = "backward",
) -> Tensor:
    """The transform of real numbers along several axes: `rfft` along the last of them."""
    x = _prepared("rfftn", x, False)
    places, lengths = _lengths("rfftn", x, s, axes)
    y = rfft(x, n=lengths[-1], axis=places[-1], norm=norm)
    for axis, n in zip(places[:-1], lengths[:-1], strict=True):
        y = fft(y, n=n, axis=axis, norm=norm)
    return y


def irfftn(
    x: ArrayLike,
    /,
    *,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    norm: str = "backward",
) -> Tensor:
    """The inverse of `rfftn`."""
    x = _prepared("irfftn", x, True)
    places, lengths = _lengths("irfftn", x, s, axes)
    for axis, n in zip(places[:-1], lengths[:-1], strict=True):
        x = ifft(x, n=n, axis=axis, norm=norm)
    return irfft(x, n=lengths[-1], axis=places[-1], norm=norm)


def _frequencies(
    name: str, n: int, d: float, dtype: Any, device: Any, positions: np.ndarray
) -> Tensor:
    as_device(device)
    kind = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype)
    if not dtypes.is_floating(kind):
        raise fail(DTypeError, name, "needs a floating dtype", dtype=kind)
    return wrap(data((positions / (n * d)).astype(kind)))


def _require_count(name: str, n: int) -> None:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise fail(ArgumentError, name, "n must be a positive integer", n=n)


def fftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Tensor:
    """The frequencies of `fft` for samples d apart: 0, 1, ..., -2, -1, divided by n d."""
    _require_count("fftfreq", n)
    positions = (np.arange(n) + n // 2) % n - n // 2
    return _frequencies("fftfreq", n, d, dtype, device, positions)


def rfftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Tensor:
    """The frequencies of `rfft` for samples d apart: 0, 1, ..., n // 2, divided by n d."""
    _require_count("rfftfreq", n)
    return _frequencies("rfftfreq", n, d, dtype, device, np.arange(n // 2 + 1))


def _shifted(name: str, x: ArrayLike, axes: Any, back: bool) -> Tensor:
    x = as_tensor(x, name)
    places = normalize_axes(name, axes, x.ndim)
    shifts = tuple(-(x.shape[i] // 2) if back else x.shape[i] // 2 for i in places)
    return roll(x, shifts, axis=places) if places else x


def fftshift(x: ArrayLike, /, *, axes: int | Sequence[int] | None = None) -> Tensor:
    """The frequency 0 moved to the middle of `axes`, by default of all."""
    return _shifted("fftshift", x, axes, False)


def ifftshift(x: ArrayLike, /, *, axes: int | Sequence[int] | None = None) -> Tensor:
    """The inverse of `fftshift`."""
    return _shifted("ifftshift", x, axes, True)


__all__ = [
    "fft", "fftfreq", "fftn", "fftshift", "hfft", "ifft", "ifftn", "ifftshift", "ihfft", "irfft",
    "irfftn", "rfft", "rfftfreq", "rfftn",
]  # fmt: skip
