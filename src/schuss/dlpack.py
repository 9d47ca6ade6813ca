"""Exchanging memory with other libraries (DLPack 1.0), through NumPy's capsules.

NumPy knows neither bfloat16 nor how to hand out read-only memory to consumers of the old form. Both
are small matters of what a capsule says of the memory, so that is written over here.

https://dmlc.github.io/dlpack/latest/c_api.html
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from schuss import dtypes
from schuss.errors import BufferExchangeError, fail

CPU = (1, 0)  # kDLCPU, device 0
_UINT, _BFLOAT = 1, 4  # DLDataTypeCode


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    ]


class _DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("dl_tensor", _DLTensor),
    ]


_READ_ONLY, _IS_COPIED = 1, 2  # of `flags`

_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype = ctypes.c_void_p
_get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.argtypes = [ctypes.py_object, ctypes.c_char_p]


def _managed(capsule: Any) -> tuple[_DLTensor, _DLManagedTensorVersioned | None]:
    """What a capsule says; the second part only in the new form."""
    if _is_valid(capsule, b"dltensor_versioned"):
        versioned = _DLManagedTensorVersioned.from_address(
            _get_pointer(capsule, b"dltensor_versioned")
        )
        return versioned.dl_tensor, versioned
    return _DLTensor.from_address(_get_pointer(capsule, b"dltensor")), None


class _Memory:
    """The memory of an array for NumPy, as if it could be written to."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # keeps the memory alive
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def give(
    value: np.ndarray,
    max_version: tuple[int, int] | None,
    dl_device: tuple[int, int] | None,
    copy: bool | None,
) -> Any:
    """A capsule of an array.

    It holds a copy, unless `copy=False`: consumers write to what they are given, and those of the
    old form cannot even be asked not to.
    """
    if dl_device is not None and tuple(dl_device) != CPU:
        raise fail(BufferExchangeError, "DLPack", "the values are in the memory of the CPU",
                   dl_device=tuple(dl_device))  # fmt: skip
    copied = copy is not False
    array = np.array(value) if copied else value
    bfloat = array.dtype == dtypes.bfloat16
    plain = array.view(np.uint16) if bfloat else array
    capsule = np.asarray(_Memory(plain)).__dlpack__(max_version=max_version)
    tensor, versioned = _managed(capsule)
    if bfloat:
        tensor.code = _BFLOAT
    if versioned is not None:
        versioned.flags |= _IS_COPIED if copied else _READ_ONLY
    return capsule


class _Producer:
    """Another library's array, whose bfloat16 NumPy takes for 16-bit integers."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.bfloat = False
        self.kept = False  # whether nobody else writes to the memory

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.source.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        try:
            capsule = self.source.__dlpack__(**options)
        except TypeError:  # a producer of the old form
            capsule = self.source.__dlpack__()
        tensor, versioned = _managed(capsule)
        if tensor.code == _BFLOAT and tensor.bits == 16:
            self.bfloat = True
            tensor.code = _UINT
        ours = _READ_ONLY | _IS_COPIED
        self.kept = versioned is not None and bool(versioned.flags & ours)
        return capsule


def take(source: Any, copy: bool | None) -> np.ndarray:
    """The array of an object with `__dlpack__`; a copy unless `copy=False` or nobody writes to it.

    Raises BufferExchangeError where the memory is not the CPU's, or cannot be shared.
    """
    producer = _Producer(source)
    device = tuple(int(part) for part in producer.__dlpack_device__())
    if device[0] != CPU[0]:
        raise fail(
            BufferExchangeError, "from_dlpack", "the memory must be the CPU's", device=device
        )
    try:
        array = np.from_dlpack(producer, copy=False if copy is False else None)
    except (BufferError, ValueError, RuntimeError) as problem:
        raise fail(BufferExchangeError, "from_dlpack", str(problem)) from None
    if producer.bfloat:
        array = array.view(dtypes.bfloat16)
    if copy or (copy is None and not producer.kept):
        array = array.copy()
    return array
