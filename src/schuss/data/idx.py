"""The IDX format of the MNIST files (LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/).

Two zero bytes, a code of the element type, the number of axes, each axis as a 32-bit integer, then
the elements; all of it big-endian.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np

from schuss.dtypes import DType
from schuss.errors import FileFormatError, SchussError, fail

_ELEMENTS = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_LIMIT = 1032  # bytes that one byte of deflate can stand for at most
_MAX_AXES = 64  # of a NumPy array


def is_packed(path: Path) -> bool:
    """Whether a file holds gzip data, whatever its name."""
    with open(path, "rb") as file:
        return file.read(2) == _GZIP_MAGIC


@contextmanager
def unpacked(path: Path) -> Iterator[BufferedIOBase]:
    """The content of a file that may be packed with gzip. Raises FileFormatError if damaged."""
    if not is_packed(path):
        with open(path, "rb") as file:
            yield file
        return
    with gzip.open(path, "rb") as packed:
        try:
            yield packed
        except (EOFError, OSError, zlib.error) as problem:
            raise _damaged(path, f"the gzip data are damaged: {problem}") from problem


def read_idx(path: str | Path) -> np.ndarray:
    """Read an IDX file, raw or packed with gzip: its shape and element type, native byte order.

    Raises FileFormatError if the file is not IDX, is shorter or longer than its header says, or is
    a damaged gzip. Memory is taken only after the header was found to fit the size of the file.
    """
    path = Path(path)
    size = os.path.getsize(path)
    most = size * _GZIP_LIMIT if is_packed(path) else size
    with unpacked(path) as file:
        shape, dtype = _read_header(file, path)
        expected = math.prod(shape) * dtype.itemsize
        if expected > most:
            problem = "the header speaks of more data than the file can hold"
            raise _damaged(path, problem, expected_bytes=expected, file_bytes=size)
        content = np.empty(expected, np.uint8)
        found = file.readinto(content.data)
        if found < expected:
            problem = "the file is cut short"
            raise _damaged(path, problem, expected_bytes=expected, found_bytes=found)
        rest = file.read(1)  # at the end of gzip data this checks their checksum
        if rest:
            problem = "there are data after the end"
            raise _damaged(path, problem, expected_bytes=expected, found_bytes="more")
    array = content.view(dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_header(file: BufferedIOBase, path: Path) -> tuple[tuple[int, ...], DType]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _ELEMENTS:
        raise _damaged(path, "this is not an IDX file", first_bytes=magic)
    axes = magic[3]
    if not 1 <= axes <= _MAX_AXES:
        raise _damaged(path, f"an IDX file has 1 to {_MAX_AXES} axes", axes=axes)
    header = file.read(4 * axes)
    if len(header) < 4 * axes:
        problem = "the header is cut short"
        raise _damaged(path, problem, expected_bytes=4 * axes, found_bytes=len(header))
    shape = tuple(int(length) for length in np.frombuffer(header, ">u4"))
    if 0 in shape:
        raise _damaged(path, "the header speaks of no data", shape=shape)
    return shape, np.dtype(">" + _ELEMENTS[magic[2]])


def _damaged(path: Path, problem: str, **found: Any) -> SchussError:
    return fail(FileFormatError, "read_idx", problem, file=str(path), **found)
