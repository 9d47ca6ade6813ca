"""State as trees of dicts, lists, numbers, texts and arrays, and how they go into JSON.

JSON has no arrays: `pack` moves them out into a dict by path and leaves `{"$array": path}`.
Floats go through JSON without losing a bit; NaN and infinities are written as Python's json does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from schuss.errors import ArgumentTypeError, StateDictError, fail

_ARRAY = "$array"


@runtime_checkable
class Stateful(Protocol):
    """What can be put into a checkpoint: loaders, schedules, generators, metrics, callbacks, ..."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


def as_array(value: Any) -> np.ndarray:
    """A tensor's or array's numbers, without a copy where there is a choice."""
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


def pack(tree: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """`tree` as JSON knows it; tensors and arrays in it go into `arrays`, named by their path.

    Raises ArgumentTypeError, naming the place, for keys that are no texts and unknown kinds.
    """
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    if isinstance(tree, np.generic):
        return tree.item()
    if isinstance(tree, Mapping):
        for key in tree:
            if not isinstance(key, str):
                raise fail(ArgumentTypeError, "checkpoint", f"a key in {path} is no text", key=key)
        return {key: pack(tree[key], f"{path}/{key}", arrays) for key in tree}
    if isinstance(tree, (list, tuple)):
        return [pack(entry, f"{path}/{index}", arrays) for index, entry in enumerate(tree)]
    if isinstance(tree, np.ndarray) or hasattr(tree, "numpy"):
        arrays[path] = as_array(tree)
        return {_ARRAY: path}
    raise fail(
        ArgumentTypeError,
        "checkpoint",
        f"{path} is a {type(tree).__name__}, which a checkpoint cannot hold",
        hint="states are made of dicts, lists, numbers, texts, tensors and arrays",
    )


def unpack(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of `pack`; tuples have become lists, tensors arrays."""
    if isinstance(tree, list):
        return [unpack(entry, arrays) for entry in tree]
    if not isinstance(tree, dict):
        return tree
    if tree.keys() == {_ARRAY}:
        name = tree[_ARRAY]
        if name not in arrays:
            raise fail(StateDictError, "checkpoint", f"the array {name!r} is not there")
        return arrays[name]
    return {key: unpack(entry, arrays) for key, entry in tree.items()}
