"""Files and folders that appear whole or not at all.

What is written goes to a hidden name in the same folder, is forced to disk, and gets its final name
last. A process that dies on the way leaves what was there, and perhaps a `.name.*.tmp` beside it.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from schuss.errors import StorageError, fail

TEMPORARY = ".tmp"  # how the hidden names end


def storage_error(where: str, path: Path, problem: OSError) -> StorageError:
    """The operating system's error with the path that the user knows. Keeps `errno`."""
    reason = os.strerror(problem.errno) if problem.errno else str(problem)
    error = fail(StorageError, where, f"{reason}: {path}")
    assert isinstance(error, StorageError)
    error.errno = problem.errno
    return error


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file to write to, which takes the place of `path` when the block ends well.

    Raises StorageError, naming `path`, where the system cannot write; `path` then is as before.
    """
    target = Path(path)
    temporary = hidden_name(target)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync(target.parent)
    except OSError as problem:
        raise storage_error("atomic_write", target, problem) from problem
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden folder to fill, which becomes `path` when the block ends well.

    An existing folder `path` is replaced. Folders above it are made where they are missing.
    Raises StorageError, naming `path`, where the system cannot write; no half of it stays behind.
    """
    target = Path(path)
    temporary = hidden_name(target)
    try:
        make_folder(target.parent)
        temporary.mkdir()
        yield temporary
        for each in sorted(temporary.rglob("*")):
            _sync(each)
        _sync(temporary)
        _take_the_place_of(target, temporary)
        _sync(target.parent)
    except OSError as problem:
        raise storage_error("atomic_folder", target, problem) from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_the_place_of(target: Path, folder: Path) -> None:
    """Rename `folder` to `target`. A folder that is not empty has to be out of the way first."""
    former = hidden_name(target)
    if target.exists():
        os.rename(target, former)
    try:
        os.rename(folder, target)
    except OSError:
        if former.exists():
            os.rename(former, target)
        raise
    shutil.rmtree(former, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise storage_error("make_folder", path, problem) from problem


def remove_folder(path: Path) -> None:
    """Remove a folder; whoever looks sees all of it or nothing."""
    hidden = hidden_name(path)
    os.rename(path, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove hidden folders that a process which died left in `folder`, of names in `prefix`."""
    for leftover in folder.glob(f".{prefix}*{TEMPORARY}"):
        shutil.rmtree(leftover, ignore_errors=True)


class Claim:
    """That one run alone writes to a folder, until `release` or the end of the process.

    The folder is made where it is missing. File systems without locks grant every claim.
    Raises StorageError, naming the run that was first.
    """

    def __init__(self, folder: Path, where: str) -> None:
        make_folder(folder)
        self._path = folder / ".claim"
        try:
            self._file = self._locked()
            while not self._holds():  # it was given back, and removed, after it was opened here
                self._file.close()
                self._file = self._locked()
        except BlockingIOError:
            owner = ""
            with suppress(OSError):
                owner = self._path.read_text("utf-8").strip()
            raise fail(
                StorageError, where, f"another run writes to {folder}: {owner or 'a new one'}",
                hint="give each run a folder of its own, or wait for the end of that one",
            ) from None  # fmt: skip
        except OSError as problem:
            raise storage_error(where, folder, problem) from problem
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {platform.node()}, since {since}\n")
        self._file.flush()

    def _locked(self) -> TextIO:
        file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
        try:
            _lock(file)
        except BlockingIOError:
            file.close()
            raise
        return file

    def _holds(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let others claim the folder."""
        if not self._file.closed:
            with suppress(OSError):
                self._path.unlink()
            _unlock(self._file)
            self._file.close()


def _lock(file: TextIO) -> None:
    """Raises BlockingIOError where somebody has locked it who still runs."""
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # there are no locks here
            return


def _unlock(file: TextIO) -> None:
    """Also for processes that were forked meanwhile, which share the lock."""
    if sys.platform != "win32":
        import fcntl

        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def hidden_name(path: Path) -> Path:
    """A new name beside `path` that no listing of complete files shows."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}")


def _sync(path: Path) -> None:
    """Force a file, or the names in a folder, to disk.

    Windows can do neither with a path; what `atomic_write` wrote is on disk there as well.
    """
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
