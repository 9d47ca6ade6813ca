"""Compiled kernels on disk: a bounded folder of objects, each named by what it was made from.

    load(key) -> bytes | None      the object of a key (64 hexadecimal digits), or None
    store(key, object)             keep it; where that fails, nothing happens
    statistics() -> Statistics     folder, number of entries, bytes
    clear() -> int                 remove all entries; how many there were

A cache never makes a program fail: without a home folder, on a read-only or full disk there simply
is none. It holds machine code, so a file counts only if this user owns it and nobody else could
have written it, and if its checksum is right; anything else is compiled anew and replaced. Any
number of processes may use one folder: an entry appears under its name only when it is complete.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from schuss import settings
from schuss.files import TEMPORARY, hidden_name

LIMIT = 512 << 20  # bytes; what was used least recently goes first
_KEEP = 0.75  # of the limit is left when something has to go
_MAGIC = b"schuss1\n"
_HEADER = len(_MAGIC) + 32  # the checksum of the key and the object
_SUFFIX = ".kernel"
_HOUR = 3600.0


@dataclass(frozen=True)
class Statistics:
    folder: Path | None
    entries: int
    nbytes: int


def load(key: str) -> bytes | None:
    """The object of a key, or None where there is none that can be trusted."""
    folder = settings.kernel_folder()
    if folder is None:
        return None
    path = folder / (key + _SUFFIX)
    try:
        if not _is_private(folder.stat()):
            return None
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | _BINARY)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not _is_private(status):
                return None
            content = file.read()
        payload = content[_HEADER:]
        if content[:_HEADER] != _header(key, payload):
            return None
        if time.time() - status.st_mtime > _HOUR:  # the time of last use, to the hour
            with suppress(OSError):
                os.utime(path)
        return payload
    except OSError:
        return None


def store(key: str, payload: bytes) -> None:
    """Keep an object. Does nothing where it cannot."""
    folder = settings.kernel_folder()
    if folder is None:
        return
    path = folder / (key + _SUFFIX)
    temporary = hidden_name(path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(folder.stat()):
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY
        try:
            # Not forced to disk: what a power failure leaves of it, the checksum refuses.
            with open(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(_header(key, payload) + payload)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            return
    except OSError:
        return
    if int(key[-3:], 16) % 512 == 0:  # about every 512th new entry, whichever process makes it
        sweep(LIMIT)


def sweep(limit: int) -> None:
    """Bring the folder below `limit` bytes, and remove what processes that died left behind."""
    folder = settings.kernel_folder()
    if folder is None:
        return
    entries = []
    now = time.time()
    for path, status in _files(folder):
        if path.name.endswith(_SUFFIX):
            entries.append((status.st_mtime, status.st_size, path))
        elif now - status.st_mtime > _HOUR:
            _remove(path)
    total = sum(size for _, size, _ in entries)
    if total <= limit:
        return
    for _, size, path in sorted(entries):
        if total <= _KEEP * limit:
            return
        _remove(path)
        total -= size


def statistics() -> Statistics:
    """What is there."""
    folder = settings.kernel_folder()
    files = [] if folder is None else _files(folder)
    sizes = [status.st_size for path, status in files if path.name.endswith(_SUFFIX)]
    return Statistics(folder, len(sizes), sum(sizes))


def clear() -> int:
    """Remove all entries, and say how many there were."""
    folder = settings.kernel_folder()
    found = 0
    for path, _ in [] if folder is None else _files(folder):
        if _remove(path) and path.name.endswith(_SUFFIX):
            found += 1
    return found


_BINARY = getattr(os, "O_BINARY", 0)  # Windows


def _header(key: str, payload: bytes) -> bytes:
    # The key is part of the sum, so that an entry under another one's name does not count.
    return _MAGIC + sha256(key.encode() + payload).digest()


def _is_private(status: os.stat_result) -> bool:
    """Whether only this user can have written it."""
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        return False
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Our files in the folder: entries and what was to become one."""
    found = []
    with suppress(OSError), os.scandir(folder) as listing:
        for each in listing:
            half = each.name.endswith(TEMPORARY) and _SUFFIX in each.name
            if half or each.name.endswith(_SUFFIX):
                with suppress(OSError):  # another process may just have removed it
                    if each.is_file(follow_symlinks=False):
                        found.append((Path(each.path), each.stat(follow_symlinks=False)))
    return found


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
