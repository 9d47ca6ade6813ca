"""Distinct elements, whose number decides shapes, so that they are computed at once; membership."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from schuss import dtypes
from schuss.functions.arguments import ArrayLike, as_tensor, operands
from schuss.functions.elementwise import minimum
from schuss.functions.indexing import searchsorted, sort, take
from schuss.functions.manipulation import reshape
from schuss.functions.reduction import any
from schuss.graph import data, wrap

if TYPE_CHECKING:
    from schuss.tensor import Tensor


class UniqueAll(NamedTuple):
    """Values, where each first occurs, which of them each element is, and how often each occurs."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    """Values, and how often each occurs."""

    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    """Values, and which of them each element is."""

    values: Tensor
    inverse_indices: Tensor


_FEW = 16  # elements with which `isin` compares each one


def _wrapped(array: Any) -> Tensor:
    return wrap(data(np.asarray(array)))


def isin(x1: ArrayLike, x2: ArrayLike, /, *, invert: bool = False) -> Tensor:
    """Whether each element of x1 is among those of x2 (with `invert`: is not): bools like x1.

    NaN is among none, as it equals none.
    """
    x, among = operands("isin", x1, x2)
    among = reshape(among, (among.size,))
    if among.size <= _FEW or among.dtype not in dtypes.REAL:
        found = any(x.expand_dims(-1) == among, axis=-1)
    else:
        line = sort(among)
        place = minimum(searchsorted(line, x), among.size - 1)
        found = take(line, place) == x
    return ~found if invert else found


def unique_all(x: ArrayLike, /) -> UniqueAll:
    """The distinct elements in ascending order, with first positions, inverse and counts.

    Every NaN is distinct.
    """
    array = as_tensor(x, "unique").numpy()
    values, first, inverse, counts = np.unique(
        array, return_index=True, return_inverse=True, return_counts=True, equal_nan=False
    )
    found = (values, first, inverse.reshape(array.shape), counts)
    return UniqueAll(*[_wrapped(each) for each in found])


def unique_counts(x: ArrayLike, /) -> UniqueCounts:
    """The distinct elements in ascending order, and how often each occurs."""
    found = unique_all(x)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: ArrayLike, /) -> UniqueInverse:
    """The distinct elements in ascending order, and which of them each element is."""
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: ArrayLike, /) -> Tensor:
    """The distinct elements in ascending order."""
    return unique_all(x).values
