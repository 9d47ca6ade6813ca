"""What `__array_namespace_info__()` of the array API standard answers."""

from __future__ import annotations

from typing import Any

from schuss import dtypes
from schuss.devices import Device, as_device, cpu
from schuss.dtypes import DType
from schuss.functions.types import isdtype

_STANDARD = tuple(each for each in dtypes.ALL if each not in dtypes.HALF)


class ArrayNamespaceInfo:
    """Capabilities, devices and dtypes of this namespace."""

    def capabilities(self) -> dict[str, Any]:
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> Device:
        return cpu

    def devices(self) -> list[Device]:
        return [cpu]

    def default_dtypes(self, *, device: Any = None) -> dict[str, DType]:
        as_device(device)
        return {
            "real floating": dtypes.default_float,
            "complex floating": dtypes.complex64,
            "integral": dtypes.default_int,
            "indexing": dtypes.default_int,
        }

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, DType]:
        as_device(device)
        return {str(each): each for each in _STANDARD if kind is None or isdtype(each, kind)}


def __array_namespace_info__() -> ArrayNamespaceInfo:  # noqa: N807  # the standard's name
    """The namespace's description of itself."""
    return ArrayNamespaceInfo()
