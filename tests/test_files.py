"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from schuss import files
from schuss.errors import StorageError
from schuss.files import Claim, atomic_folder, atomic_write, remove_leftovers


def full_disk(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.write("a text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    with (
        pytest.raises(StorageError, match=r"No space left on device: .*weights") as caught,
        atomic_write(tmp_path / "weights") as file,
    ):
        file.write(b"new")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with (
        pytest.raises(StorageError, match=r"Not a directory: .*a/b"),
        atomic_write(tmp_path / "a" / "b"),
    ):
        pass


def test_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    with atomic_folder(path) as temporary:
        (temporary / "a").write_bytes(b"1")
        assert not path.exists()
    assert (path / "a").read_bytes() == b"1"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_replaced(tmp_path: Path) -> None:
    for content in ("1", "2"):
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / content).write_text(content)
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["2"]
    assert len(list(tmp_path.iterdir())) == 1


def test_no_half_of_a_folder_stays(tmp_path: Path) -> None:
    with pytest.raises(TypeError), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "a").write_bytes("a text")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_renaming_is_what_makes_a_folder_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        assert (source / "a").read_bytes() == b"1"
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "rename", refuse)
    with (
        pytest.raises(StorageError, match=r"Read-only file system: .*folder"),
        atomic_folder(tmp_path / "folder") as temporary,
    ):
        (temporary / "a").write_bytes(b"1")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    path = tmp_path / "folder"
    with (
        pytest.raises(StorageError, match=r"atomic_folder: No space left on device: .*folder"),
        atomic_folder(path) as temporary,
        atomic_write(temporary / "a") as file,  # the inner error names a hidden file
    ):
        file.write(b"1")
    assert list(tmp_path.iterdir()) == []


def test_a_former_folder_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rename = tmp_path / "folder", os.rename
    path.mkdir()
    (path / "old").touch()

    def refuse_new_ones(source: Path, target: Path) -> None:
        if (Path(source) / "new").exists():
            full_disk(0)
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_new_ones)
    with pytest.raises(StorageError), atomic_folder(path) as temporary:
        (temporary / "new").touch()
    assert list(tmp_path.rglob("*")) == [path, path / "old"]


def test_leftovers_are_removed(tmp_path: Path) -> None:
    leftover = files.hidden_name(tmp_path / "step-1")
    leftover.mkdir()
    (leftover / "a").write_bytes(b"1")
    (tmp_path / "step-2").mkdir()
    (tmp_path / ".other.tmp").mkdir()
    remove_leftovers(tmp_path, "step-")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.tmp", "step-2"]


def test_one_run_a_folder(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "new", "here")
    with pytest.raises(StorageError, match=r"there: another run writes to .*new: process \d+ on "):
        Claim(tmp_path / "new", "there")
    Claim(tmp_path / "other", "here").release()
    claim.release()
    claim.release()
    assert list((tmp_path / "new").iterdir()) == []
    Claim(tmp_path / "new", "there").release()


def test_a_process_that_is_gone_claims_nothing(tmp_path: Path) -> None:
    program = "import sys, os; from pathlib import Path; from schuss.files import Claim\n"
    program += "Claim(Path(sys.argv[1]), 'there'); os._exit(3)"
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == 3
    assert (tmp_path / ".claim").read_text().startswith("process ")
    Claim(tmp_path, "here").release()


def test_a_folder_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    first, second = Claim(tmp_path, "here"), Claim(tmp_path, "there")
    first.release()
    second.release()
