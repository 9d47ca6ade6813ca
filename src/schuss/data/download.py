"""The files of published data sets: found on this machine, or fetched from their home."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO

from schuss.data.idx import unpacked
from schuss.errors import DataNotFoundError, FileFormatError, StorageError, fail
from schuss.files import atomic_write, make_folder

TIMEOUT = 30.0  # seconds in which a server has to say something
_CHUNK = 1 << 18


def find_files(folders: Sequence[Path], names: Sequence[str]) -> list[Path] | None:
    """The first folder's files that has all of `names`, as they are or with `.gz` at the end."""
    for folder in folders:
        found = [_find_file(folder, name) for name in names]
        files = [path for path in found if path is not None]
        if len(files) == len(names):
            return files
    return None


def _find_file(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def download(url: str, target: Path, sha256: str) -> None:
    """Fetch `url` into the file `target`, which appears when complete and right.

    Args:
        sha256: of the content after unpacking, in hexadecimal.

    Raises DataNotFoundError if the server cannot be reached, refuses, or stops half-way, or if the
    file cannot be written; FileFormatError if the content is not the expected one. Neither leaves
    anything behind.
    """
    try:
        make_folder(target.parent)
        with atomic_write(target) as file:
            _receive(url, file)
            file.flush()
            _check(Path(file.name), url, sha256)
    except OSError as problem:
        told = problem.__cause__ if isinstance(problem, StorageError) else problem
        reason = f"the download failed: {told}"
        raise fail(DataNotFoundError, "download", reason, url=url, file=str(target)) from problem


def _receive(url: str, file: BinaryIO) -> None:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=TIMEOUT) as response:
            expected = response.length  # None if the server does not say
            received = _copy(response, file, url, expected)
    except HTTPError as problem:
        problem.close()
        raise OSError(f"the server answered {problem.code} {problem.reason}") from None
    except HTTPException as problem:
        raise OSError(str(problem) or type(problem).__name__) from problem
    if expected is not None and received != expected:
        raise OSError(f"the connection ended after {received} of {expected} bytes")


def _copy(response: BufferedIOBase, file: BinaryIO, url: str, expected: int | None) -> int:
    """Copy until the end; the number of bytes. A terminal sees how far it is, a log one line."""
    size = f"{expected / 1e6:.1f} MB" if expected is not None else "size unknown"
    title = f"downloading {url} ({size})"
    live = sys.stderr.isatty()
    print(title, end="" if live else "\n", file=sys.stderr, flush=True)
    received = 0
    while chunk := response.read(_CHUNK):
        file.write(chunk)
        received += len(chunk)
        if live:
            print(f"\r{title}: {received / 1e6:.1f} MB", end="", file=sys.stderr, flush=True)
    if live:
        print(file=sys.stderr)
    return received


def _check(path: Path, url: str, sha256: str) -> None:
    import hashlib

    found = hashlib.sha256()
    try:
        with unpacked(path) as content:
            while chunk := content.read(_CHUNK):
                found.update(chunk)
    except FileFormatError as problem:
        reason = "the server sent damaged data"
        raise fail(FileFormatError, "download", reason, url=url) from problem
    if found.hexdigest() != sha256:
        raise fail(
            FileFormatError,
            "download",
            "the server sent other data than the published ones",
            url=url,
            expected_sha256=sha256,
            found_sha256=found.hexdigest(),
        )
