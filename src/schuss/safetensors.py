"""The safetensors file format, read and written with NumPy.

A file is eight bytes of header length (little-endian), a JSON header, and the numbers:

    {"__metadata__": {"key": "value"},
     "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}

The header says where each array lies; the arrays follow one another without holes. Nothing in such
a file can be executed, and every claim of the header is checked against the size of the file before
an array is made of it. `save_file` writes the same bytes as the package of the format's authors.
Format: https://github.com/huggingface/safetensors.

One extension: the format has no complex128. Such an array is stored as F64 with a last axis of
length 2 (real and imaginary part), and its name is listed in the metadata `schuss.complex128`.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from schuss import dtypes
from schuss.errors import ArgumentError, ArgumentTypeError, FileFormatError, fail
from schuss.files import atomic_write, storage_error
from schuss.functions.arguments import ArrayLike, adopt, as_tensor
from schuss.tensor import Tensor

# In the order of the format's own list: arrays are stored by dtype, the last of these first.
_DTYPES = {
    "BOOL": dtypes.bool_,
    "U8": dtypes.uint8,
    "I8": dtypes.int8,
    "I16": dtypes.int16,
    "U16": dtypes.uint16,
    "F16": dtypes.float16,
    "BF16": dtypes.bfloat16,
    "I32": dtypes.int32,
    "U32": dtypes.uint32,
    "F32": dtypes.float32,
    "C64": dtypes.complex64,
    "F64": dtypes.float64,
    "I64": dtypes.int64,
    "U64": dtypes.uint64,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_RANK = {name: rank for rank, name in enumerate(_DTYPES)}

_METADATA = "__metadata__"
_COMPLEX128 = "schuss.complex128"
_LENGTH_BYTES = 8
_MAX_HEADER = 100_000_000  # bytes, the limit of the format
_MAX_AXES = 64  # NumPy's limit


def save(tensors: Mapping[str, ArrayLike], path: str | os.PathLike[str]) -> None:
    """Write named tensors, such as `model.state_dict()`, to a safetensors file, atomically.

    Raises ArgumentTypeError for names that are no texts, StorageError where the file cannot be
    written.
    """
    save_file(path, {name: as_tensor(each, "save").numpy() for name, each in tensors.items()})


def load(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The named tensors of a safetensors file. Never runs code.

    Raises FileFormatError for a damaged file, StorageError where it cannot be opened.
    """
    arrays, _ = load_file(path, mapped=False)
    return {name: adopt(array) for name, array in arrays.items()}


def save_file(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write named arrays, atomically. The same arrays and metadata give the same bytes.

    Args:
        path: the file; an existing one is replaced when the new one is complete.
        arrays: any shapes, any dtype of this package.
        metadata: texts to store beside them.

    Raises ArgumentTypeError for names, texts or dtypes that the format cannot hold, StorageError
    where the system cannot write.
    """
    stored, texts = _as_stored(arrays, metadata or {})
    order = sorted(stored, key=lambda name: (-_RANK[_NAMES[stored[name].dtype]], name))
    header: dict[str, Any] = {_METADATA: texts} if texts else {}
    end = 0
    for name in order:
        array = stored[name]
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little"))
        file.write(text)
        for name in order:
            file.write(_little_endian(stored[name]).reshape(-1).view(np.uint8).data)


def _as_stored(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays as the format knows them (complex128 taken apart), the metadata in order."""
    for key, text in metadata.items():
        _check_text("metadata", key)
        _check_text("metadata", text)
    if _COMPLEX128 in metadata:
        raise fail(ArgumentError, "save_file", f"the metadata key {_COMPLEX128} is reserved")
    stored = {}
    pairs = []
    for name, value in arrays.items():
        _check_text("array name", name)
        if name == _METADATA:
            raise fail(
                ArgumentError, "save_file", f"the name {_METADATA} is reserved by the format"
            )
        array = np.asarray(value, order="C")
        dtype = array.dtype.newbyteorder("=")
        if dtype == dtypes.complex128:
            array = array.astype(dtype, copy=False).reshape(*array.shape, 1).view(dtypes.float64)
            pairs.append(name)
        elif dtype not in _NAMES:
            raise fail(
                ArgumentTypeError,
                "save_file",
                "the dtype of an array is none that a safetensors file can hold",
                hint="one of " + ", ".join(str(known) for known in dtypes.ALL),
                name=name,
                array=array,
            )
        stored[name] = array if dtype == dtypes.complex128 else array.astype(dtype, copy=False)
    texts = dict(metadata)
    if pairs:
        texts[_COMPLEX128] = json.dumps(sorted(pairs))
    return stored, {key: texts[key] for key in sorted(texts)}


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise fail(ArgumentTypeError, "save_file", f"{what} must be a text", got=text)
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        raise fail(
            ArgumentError, "save_file", f"{what} is not valid Unicode", got=text
        ) from problem


def _little_endian(array: np.ndarray) -> np.ndarray:
    return array if sys.byteorder == "little" else array.byteswap()


def load_file(
    path: str | os.PathLike[str], *, mapped: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the arrays of a file, by name, and its metadata.

    Args:
        path: a safetensors file.
        mapped: True maps the file into memory without a copy; it must not be cut short while the
            arrays are in use (replacing or deleting it is fine). False reads it.

    The arrays are read-only. Raises FileFormatError for a file that is damaged, cut short or not of
    this format, StorageError where it cannot be opened. Makes no array larger than the file.
    """
    target = Path(path)
    try:
        with open(target, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < _LENGTH_BYTES:
                raise _damaged(
                    target,
                    f"it has {size} bytes, not even the {_LENGTH_BYTES} of the header length",
                )
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if mapped else file.read()
    except OSError as problem:
        raise storage_error("load_file", target, problem) from problem
    return parse(buffer, target)


def parse(buffer: bytes | mmap.mmap, path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and metadata in the bytes of a file; `path` is for the error texts."""
    length = int.from_bytes(buffer[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if length > _MAX_HEADER or start > len(buffer):
        raise _damaged(
            path, f"its header should be {length} bytes long, the file has {len(buffer)}"
        )
    header = _parse_header(buffer[_LENGTH_BYTES:start], path)
    texts = _check_metadata(header.pop(_METADATA, {}), path)
    entries = [_check_entry(name, entry, path) for name, entry in header.items()]
    entries.sort(key=lambda entry: (entry.start, entry.end))
    end = 0
    for entry in entries:
        if entry.start != end:
            raise _damaged(
                path, f"{entry.name!r} begins at {entry.start}, the array before it ends at {end}"
            )
        end = entry.end
    if end != len(buffer) - start:
        raise _damaged(
            path, f"its arrays take {end} bytes, the file holds {len(buffer) - start} of them"
        )
    arrays = {entry.name: entry.read(buffer, start, path) for entry in entries}
    _join_complex(arrays, texts, path)
    return {name: arrays[name] for name in sorted(arrays)}, texts


class _Entry:
    """One array as the header describes it, with offsets in bytes after the header."""

    __slots__ = ("dtype", "end", "name", "shape", "start")

    def __init__(
        self, name: str, dtype: dtypes.DType, shape: tuple[int, ...], start: int, end: int
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.start = start
        self.end = end

    def read(self, buffer: bytes | mmap.mmap, base: int, path: Path) -> np.ndarray:
        count = (self.end - self.start) // self.dtype.itemsize
        kind = dtypes.uint8 if self.dtype == dtypes.bool_ else self.dtype
        array = np.empty(0, kind)
        if count:
            array = np.frombuffer(buffer, kind, count, base + self.start)
        if self.dtype == dtypes.bool_:
            if count and array.max() > 1:
                raise _damaged(path, f"{self.name!r} is BOOL and holds other bytes than 0 and 1")
            array = array.view(np.bool_)
        try:
            array = _little_endian(array).reshape(self.shape)
        except ValueError as problem:  # an empty array with axes that NumPy cannot count
            raise _damaged(
                path, f"{self.name!r} has an impossible shape {list(self.shape)}"
            ) from problem
        array.flags.writeable = False
        return array


def _parse_header(text: bytes, path: Path) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise _damaged(path, "its header does not begin with {")
    try:
        header = json.loads(
            text.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant
        )
        header_text = json.dumps(header, ensure_ascii=False)
        header_text.encode()  # fails for half a surrogate pair, which is no text
    except (ValueError, RecursionError) as problem:
        raise _damaged(path, f"its header is not valid JSON: {problem}") from problem
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _check_metadata(metadata: Any, path: Path) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise _damaged(path, f"{_METADATA} must map texts to texts")
    return metadata


def _check_entry(name: str, entry: Any, path: Path) -> _Entry:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"{name!r} must have a dtype, a shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        known = ", ".join(_DTYPES)
        raise _damaged(
            path, f"{name!r} has the unknown dtype {entry['dtype']!r}", f"known are {known}"
        )
    if not _are_counts(shape) or len(shape) > _MAX_AXES:
        raise _damaged(path, f"{name!r} has an impossible shape {shape!r:.200}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[1] < offsets[0]:
        raise _damaged(path, f"{name!r} has impossible data_offsets {offsets!r:.200}")
    start, end = offsets
    size = math.prod(shape) * dtype.itemsize
    if end - start != size:
        raise _damaged(
            path, f"{name!r} is {size} bytes by its shape and {end - start} by its data_offsets"
        )
    return _Entry(name, dtype, tuple(shape), start, end)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _join_complex(arrays: dict[str, np.ndarray], texts: dict[str, str], path: Path) -> None:
    """Give the arrays that were stored as pairs of F64 their dtype complex128 back."""
    listed = texts.pop(_COMPLEX128, "[]")
    try:
        names = json.loads(listed)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list):
        raise _damaged(path, f"its metadata {_COMPLEX128} is not a list of names")
    for name in names:
        pair = arrays.get(name) if isinstance(name, str) else None
        if pair is None or pair.dtype != dtypes.float64 or pair.shape[-1:] != (2,):
            raise _damaged(
                path, f"{name!r} is listed as complex128, and no F64 array with a last axis of 2"
            )
        arrays[name] = pair.view(dtypes.complex128).reshape(pair.shape[:-1])


def _damaged(path: Path, problem: str, hint: str | None = None) -> Exception:
    return fail(FileFormatError, "load_file", problem, hint=hint, file=str(path))
