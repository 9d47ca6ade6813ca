"""Finding files, and fetching them whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import socket
from pathlib import Path
from typing import Any

import pytest

from schuss.data.download import download, find_files
from schuss.errors import DataNotFoundError, FileFormatError

CONTENT = b"some content " * 100_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "a.gz"


def nothing_left(target: Path) -> bool:
    return not any(target.parent.iterdir())


def test_files_come_from_one_folder(tmp_path: Path) -> None:
    half, whole = tmp_path / "half", tmp_path / "whole"
    for path in (half / "a", whole / "a", whole / "b.gz"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    folders = [tmp_path / "absent", half, whole]
    assert find_files(folders, ["a", "b"]) == [whole / "a", whole / "b.gz"]
    assert find_files(folders, ["a", "c"]) is None


@pytest.mark.parametrize("content", [CONTENT, gzip.compress(CONTENT)], ids=["raw", "packed"])
def test_a_download(server: Any, target: Path, content: bytes, capsys: Any) -> None:
    server.files["a.gz"] = content
    download(server.url + "a.gz", target, SHA256)
    assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"downloading {server.url}a.gz ({len(content) / 1e6:.1f} MB)" in printed.err


def test_a_terminal_sees_how_far_it_is(
    server: Any, target: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    server.files["a.gz"] = CONTENT
    download(server.url + "a.gz", target, SHA256)
    assert capsys.readouterr().err.endswith("(1.3 MB): 1.3 MB\n")


def test_other_content_is_refused(server: Any, target: Path) -> None:
    server.files["a.gz"] = gzip.compress(b"something else")
    with pytest.raises(FileFormatError, match=rf"other data(.|\n)*expected_sha256: '{SHA256}'"):
        download(server.url + "a.gz", target, SHA256)
    assert nothing_left(target)


def test_damaged_content_is_refused(server: Any, target: Path) -> None:
    server.files["a.gz"] = gzip.compress(CONTENT)[:-20]
    with pytest.raises(FileFormatError, match=r"server sent damaged data\n  url: "):
        download(server.url + "a.gz", target, SHA256)
    assert nothing_left(target)


def test_a_connection_that_ends_early(server: Any, target: Path) -> None:
    server.files["a.gz"] = CONTENT
    server.cut["a.gz"] = 1000
    pattern = rf"connection ended after 1000 of {len(CONTENT)} bytes\n  url: "
    with pytest.raises(DataNotFoundError, match=pattern):
        download(server.url + "a.gz", target, SHA256)
    assert nothing_left(target)


def test_a_file_that_the_server_does_not_have(server: Any, target: Path) -> None:
    with pytest.raises(DataNotFoundError, match="the server answered 404 Not Found"):
        download(server.url + "a.gz", target, SHA256)
    assert nothing_left(target)


def test_no_server(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.gz"
        with pytest.raises(DataNotFoundError, match=r"the download failed(.|\n)*file: .*a\.gz"):
            download(url, target, SHA256)
    assert nothing_left(target)


def test_a_server_that_speaks_no_http(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def strange(*args: Any, **kwargs: Any) -> Any:
        from http.client import BadStatusLine

        raise BadStatusLine("hello")

    monkeypatch.setattr("urllib.request.urlopen", strange)
    with pytest.raises(DataNotFoundError, match="the download failed: hello"):
        download("http://127.0.0.1/a.gz", target, SHA256)
    assert nothing_left(target)


def test_a_cache_that_cannot_be_written(server: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataNotFoundError, match=r"the download failed: (.|\n)*file"):
        download(server.url + "a.gz", tmp_path / "file" / "a.gz", SHA256)
    assert server.asked == []
