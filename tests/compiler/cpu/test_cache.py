from __future__ import annotations

import errno
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from schuss import settings
from schuss.compiler.cpu import cache

KEY = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
posix = pytest.mark.skipif(os.name != "posix", reason="owners and permissions of files")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SCHUSS_CACHE", raising=False)
    monkeypatch.setenv("SCHUSS_CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def entry(folder: Path, key: str = KEY) -> Path:
    return folder / f"{key}.kernel"


def test_what_was_stored_is_loaded():
    assert cache.load(KEY) is None
    cache.store(KEY, b"machine code")
    assert cache.load(KEY) == b"machine code"
    assert cache.load(OTHER) is None
    cache.store(KEY, b"newer code")
    assert cache.load(KEY) == b"newer code"
    cache.store(OTHER, b"")
    assert cache.load(OTHER) == b""


def test_nothing_but_the_entry_is_left(folder):
    cache.store(KEY, b"machine code")
    assert list(folder.iterdir()) == [entry(folder)]


def test_the_default_folder_is_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("SCHUSS_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.statistics().folder == tmp_path / "xdg" / "schuss" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    cache.store(KEY, b"machine code")
    assert entry(tmp_path / ".cache" / "schuss" / "kernels").exists()


class TestDamage:
    @pytest.mark.parametrize("length", [0, 1, 7, 8, 39, 40, 41, 51])
    def test_cut_short(self, folder, length):
        cache.store(KEY, b"machine code")
        content = entry(folder).read_bytes()
        assert len(content) == 52
        entry(folder).write_bytes(content[:length])
        assert cache.load(KEY) is None

    @pytest.mark.parametrize("position", [0, 7, 8, 39, 40, 51])
    def test_one_bit(self, folder, position):
        cache.store(KEY, b"machine code")
        content = bytearray(entry(folder).read_bytes())
        content[position] ^= 1
        entry(folder).write_bytes(content)
        assert cache.load(KEY) is None
        cache.store(KEY, b"machine code")
        assert cache.load(KEY) == b"machine code"

    def test_more_at_the_end(self, folder):
        cache.store(KEY, b"machine code")
        with open(entry(folder), "ab") as file:
            file.write(b"!")
        assert cache.load(KEY) is None

    def test_an_entry_of_another_key(self, folder):
        cache.store(KEY, b"machine code")
        entry(folder).rename(entry(folder, OTHER))
        assert cache.load(OTHER) is None

    def test_a_folder_in_its_place(self, folder):
        entry(folder).mkdir(parents=True)
        assert cache.load(KEY) is None
        cache.store(KEY, b"machine code")
        assert cache.load(KEY) is None
        assert list(folder.iterdir()) == [entry(folder)]


@posix
class TestTrust:
    """Who could write an entry could run code as this user."""

    def test_new_files_are_private(self, folder):
        before = os.umask(0)
        try:
            cache.store(KEY, b"machine code")
        finally:
            os.umask(before)
        assert entry(folder).stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize("mode", [0o620, 0o602])
    def test_an_entry_that_others_can_write(self, folder, mode):
        cache.store(KEY, b"machine code")
        entry(folder).chmod(mode)
        assert cache.load(KEY) is None
        cache.store(KEY, b"machine code")
        assert cache.load(KEY) == b"machine code"

    @pytest.mark.parametrize("mode", [0o770, 0o707])
    def test_a_folder_that_others_can_write(self, folder, mode):
        cache.store(KEY, b"machine code")
        folder.chmod(mode)
        assert cache.load(KEY) is None
        cache.store(OTHER, b"machine code")
        assert not entry(folder, OTHER).exists()

    def test_an_entry_of_another_user(self, folder, monkeypatch):
        cache.store(KEY, b"machine code")
        assert cache.load(KEY) is not None
        me = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
        assert cache.load(KEY) is None

    def test_a_link(self, folder, tmp_path):
        cache.store(KEY, b"machine code")
        entry(folder).rename(tmp_path / "elsewhere")
        entry(folder).symlink_to(tmp_path / "elsewhere")
        assert cache.load(KEY) is None


class TestNoCache:
    """Where nothing can be kept, nothing is, and nobody hears of it."""

    def check(self):
        cache.store(KEY, b"machine code")
        assert cache.load(KEY) is None
        cache.sweep(0)
        assert (cache.statistics().entries, cache.clear()) == (0, 0)

    def test_switched_off(self, monkeypatch, folder):
        monkeypatch.setenv("SCHUSS_CACHE", "0")
        self.check()
        assert not folder.exists()
        assert cache.statistics().folder is None

    def test_no_home(self, monkeypatch):
        def expanduser(path):
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("SCHUSS_CACHE_DIR")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(settings.Path, "expanduser", expanduser)
        self.check()

    def test_no_folder_can_be_made(self, monkeypatch, tmp_path):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("SCHUSS_CACHE_DIR", str(tmp_path / "file" / "kernels"))
        self.check()

    @pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
    def test_nothing_can_be_written(self, monkeypatch, folder, reason):
        def replace(source, target):
            raise OSError(reason, os.strerror(reason))

        monkeypatch.setattr(os, "replace", replace)
        self.check()
        assert list(folder.iterdir()) == []


class TestSize:
    def make(self, folder, count, size=100):
        """Entries, the first used least recently."""
        keys = [sha256(bytes([i])).hexdigest() for i in range(count)]
        for i, key in enumerate(keys):
            cache.store(key, bytes(size))
            os.utime(entry(folder, key), (i, i))
        return keys

    def test_what_was_used_least_recently_goes(self, folder):
        keys = self.make(folder, 10)
        assert cache.statistics() == cache.Statistics(folder, 10, 1400)
        cache.load(keys[0])
        cache.sweep(1399)
        # Three quarters of the limit are left. The first was used last.
        assert [key for key in keys if cache.load(key) is not None] == [keys[0], *keys[4:]]

    def test_below_the_limit_all_stays(self, folder):
        self.make(folder, 10)
        cache.sweep(1400)
        assert cache.statistics().entries == 10

    def test_storing_sweeps_now_and_then(self, folder, monkeypatch):
        monkeypatch.setattr(cache, "LIMIT", 1000)
        self.make(folder, 10)
        cache.store("a" * 61 + "001", bytes(100))
        assert cache.statistics().entries == 11
        cache.store("a" * 61 + "200", bytes(100))
        assert cache.statistics().nbytes <= 750

    def test_what_processes_that_died_left_goes_after_an_hour(self, folder):
        cache.store(KEY, b"machine code")
        old, new = folder / f".{KEY}.kernel.1-2.tmp", folder / f".{KEY}.kernel.3-4.tmp"
        for each in (old, new):
            each.write_bytes(b"half")
        os.utime(old, (0, 0))
        mine = folder / "notes.txt"
        mine.write_text("not ours")
        os.utime(mine, (0, 0))
        cache.sweep(1000)
        assert sorted(folder.iterdir()) == sorted([new, entry(folder), mine])
        assert cache.clear() == 1
        assert list(folder.iterdir()) == [mine]


HAMMER = """
import random, sys
from hashlib import sha256
from schuss.compiler.cpu import cache

rng = random.Random(int(sys.argv[1]))
loaded = 0
for _ in range(400):
    number = rng.randrange(30)
    key = sha256(bytes([number])).hexdigest()
    payload = bytes([number]) * (500 + 50 * number)
    found = cache.load(key)
    assert found in (None, payload), "a wrong object"
    loaded += found is not None
    cache.store(key, payload)
    if rng.random() < 0.05:
        cache.sweep(20_000)
    if rng.random() < 0.005:
        cache.clear()
print(loaded)
"""


def test_many_processes_in_one_folder(folder):
    processes = [
        subprocess.Popen([sys.executable, "-c", HAMMER, str(seed)], stdout=subprocess.PIPE)
        for seed in range(6)
    ]
    loaded = [int(each.communicate()[0]) for each in processes]
    assert [each.returncode for each in processes] == [0] * 6
    assert min(loaded) > 50  # it was a test of something
    assert not [path for path in folder.iterdir() if path.suffix != ".kernel"]
