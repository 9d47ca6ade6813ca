"""IDX files: whole, packed, and damaged."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from schuss.data import read_idx
from schuss.errors import FileFormatError

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
WHOLE = b"\0\0\x08\x03" + struct.pack(">3I", 2, 3, 4) + VALUES.tobytes()


def write(folder: Path, content: bytes) -> Path:
    path = folder / "some-idx"
    path.write_bytes(content)
    return path


def packed(data: bytes) -> bytes:
    """Compressed without a date, so that tests have the same names at any time."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize("content", [WHOLE, packed(WHOLE)], ids=["raw", "packed"])
def test_a_whole_file(tmp_path: Path, content: bytes) -> None:
    array = read_idx(write(tmp_path, content))
    assert array.dtype == np.uint8
    assert np.array_equal(array, VALUES)
    assert array.flags.writeable


@pytest.mark.parametrize(
    ("code", "dtype"), [(9, "i1"), (0xB, "i2"), (0xC, "i4"), (0xD, "f4"), (0xE, "f8")]
)
def test_element_types(tmp_path: Path, code: int, dtype: str) -> None:
    values = np.array([1, -2, 3], dtype)
    content = bytes([0, 0, code, 1]) + struct.pack(">I", 3) + values.astype(f">{dtype}").tobytes()
    array = read_idx(str(write(tmp_path, content)))
    assert array.dtype == np.dtype(f"={dtype}")
    assert array.tolist() == [1, -2, 3]


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"", r"not an IDX file(.|\n)*first_bytes: b''"),
        (b"\0\0\x07\x03" + WHOLE[4:], "not an IDX file"),
        (b"PK\x03\x04", "not an IDX file"),
        (b"\0\0\x08\x00", "1 to 64 axes"),
        (b"\0\0\x08\xff", "1 to 64 axes"),
        (WHOLE[:10], r"header is cut short(.|\n)*expected_bytes: 12\n  found_bytes: 6"),
        (b"\0\0\x08\x01" + bytes(4), r"speaks of no data(.|\n)*shape: \(0,\)"),
        (WHOLE[:-5], r"cut short(.|\n)*expected_bytes: 24\n  found_bytes: 19"),
        (packed(WHOLE[:-5]), r"cut short(.|\n)*expected_bytes: 24\n  found_bytes: 19"),
        (WHOLE + b"x", r"data after the end(.|\n)*expected_bytes: 24"),
        (packed(WHOLE + b"x"), r"data after the end(.|\n)*expected_bytes: 24"),
        (packed(WHOLE) + b"x", "gzip data are damaged"),
        (packed(WHOLE)[:-1], "gzip data are damaged"),
        (packed(WHOLE)[:30], "gzip data are damaged"),
        (packed(WHOLE)[:-8] + bytes(8), "gzip data are damaged"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, pattern: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(FileFormatError, match=rf"{pattern}") as caught:
        read_idx(path)
    assert f"file: '{path}'" in str(caught.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "packed"])
def test_an_absurd_header_takes_no_memory(tmp_path: Path, pack: type[bytes]) -> None:
    content = b"\0\0\x0e\x03" + struct.pack(">3I", *[2**32 - 1] * 3) + bytes(100)
    with pytest.raises(FileFormatError, match=r"more data than the file can hold"):
        read_idx(write(tmp_path, pack(content)))
