"""Samples into a batch, and a batch of arrays into tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from schuss import dtypes
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    DTypeError,
    SchussError,
    ShapeError,
    fail,
)
from schuss.functions.arguments import adopt

Collate = Callable[[Sequence[Any]], Any]
_PYTHON = (bool, int, float, complex)


def collate(samples: Sequence[Any]) -> Any:
    """Stack samples along a new first axis, NumPy arrays as the result.

    Arrays and tensors must agree in shape and dtype. Python bools become bool, ints int64, floats
    float32 and complex numbers complex64. Tuples, lists and dicts are stacked entry by entry; texts
    stay a list.

    Raises ShapeError, DTypeError or ArgumentError where samples do not fit together,
    ArgumentTypeError for any other kind of value.
    """
    first = samples[0]
    if isinstance(first, (str, bytes)):
        return list(samples)
    if isinstance(first, dict):
        return _collate_dicts(samples)
    if isinstance(first, (tuple, list)):
        parts = [collate(column) for column in _columns(samples)]
        named = hasattr(first, "_fields")  # a namedtuple takes its entries one by one
        return type(first)(*parts) if named else type(first)(parts)
    if all(type(sample) in _PYTHON for sample in samples):
        kinds = {dtypes.as_dtype(type(sample)) for sample in samples}
        return np.array(samples, dtypes.promote(*kinds))
    return _stack([_as_array(sample) for sample in samples])


def _collate_dicts(samples: Sequence[dict[Any, Any]]) -> dict[Any, Any]:
    names = samples[0].keys()
    for number, sample in enumerate(samples):
        if not isinstance(sample, dict) or sample.keys() != names:
            raise _differ("their names", number, list(names), _names(sample))
    return {name: collate([sample[name] for sample in samples]) for name in names}


def _columns(samples: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    kind, count = type(samples[0]), len(samples[0])
    for number, sample in enumerate(samples):
        if type(sample) is not kind or len(sample) != count:
            found = f"{len(sample)} entries" if type(sample) is kind else type(sample).__name__
            raise _differ("their entries", number, f"{count} entries", found)
    return list(zip(*samples, strict=True))


def _names(sample: Any) -> Any:
    return list(sample) if isinstance(sample, dict) else type(sample).__name__


def _differ(what: str, number: int, first: Any, other: Any) -> SchussError:
    return fail(
        ArgumentError,
        "collate",
        f"samples of one batch must agree in {what}",
        **{"sample 0": first, f"sample {number}": other},
    )


def _as_array(value: Any) -> np.ndarray:
    if hasattr(value, "numpy"):
        value = value.numpy()
    elif type(value) in _PYTHON:  # next to arrays: the kind that it has alone
        value = np.array(value, dtypes.as_dtype(type(value)))
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    raise fail(
        ArgumentTypeError,
        "collate",
        "a sample consists of arrays, tensors, numbers, texts, and tuples, lists or dicts of these",
        found=type(value).__name__,
        hint="give DataLoader a collate of your own",
    )


def _stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    first = arrays[0]
    for number, array in enumerate(arrays):
        shown: dict[str, Any] = {"sample 0": first, f"sample {number}": array}
        if array.shape != first.shape:
            raise fail(
                ShapeError,
                "collate",
                "samples of one batch must have the same shape",
                hint="crop or pad them in the transform, or give DataLoader a collate of your own",
                **shown,
            )
        if array.dtype != first.dtype:
            problem = "samples of one batch must have the same dtype"
            raise fail(DTypeError, "collate", problem, **shown)
    return np.stack(arrays)


def to_tensors(batch: Any) -> Any:
    """Every array in a batch as a tensor; tuples, lists and dicts are kept, as is anything else.

    The tensors take the arrays over, so the arrays must be new ones. A view is copied: its memory
    is somebody else's.
    """
    if isinstance(batch, (np.ndarray, np.generic)):
        return _to_tensor(np.asarray(batch))
    if isinstance(batch, dict):
        return {name: to_tensors(part) for name, part in batch.items()}
    if isinstance(batch, (tuple, list)):
        parts = [to_tensors(part) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def _to_tensor(array: np.ndarray) -> Any:
    try:
        dtype = dtypes.as_dtype(array.dtype)
    except ArgumentTypeError:
        problem = "a batch holds an array of a dtype that tensors do not have"
        raise fail(DTypeError, "DataLoader", problem, array=array) from None
    return adopt(array.astype(dtype, order="C", copy=array.base is not None))
