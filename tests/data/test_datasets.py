"""The published data sets, with small files of our own in place of the large ones."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schuss.data import MNIST, DataLoader, DataNotFoundError, Digits, FashionMNIST
from schuss.data.datasets import IdxImages
from schuss.errors import ArgumentError, FileFormatError

IMAGES = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (7, 3, 2), np.uint8)
LABELS = np.arange(7, dtype=np.uint8)
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


CONTENTS = dict(zip(TEST_FILES, (idx(IMAGES), idx(LABELS)), strict=True))


def write(folder: Path, packed: bool = False, **changed: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"images": IMAGES, "labels": LABELS} | changed
    for name, array in zip(TEST_FILES, arrays.values(), strict=True):
        content = idx(array)
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.fixture
def tiny(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[IdxImages]:
    """A data set whose home is the tests' server; its cache is tmp_path / "cache" / "tiny"."""
    monkeypatch.setenv("SCHUSS_DATA", str(tmp_path / "cache"))
    server.files.update({f"{name}.gz": gzip.compress(c) for name, c in CONTENTS.items()})

    class Tiny(IdxImages):
        name = "tiny"
        url = server.url
        raw_folder = "Tiny/raw"
        system_folders = (str(tmp_path / "system"),)
        sha256 = {name: hashlib.sha256(c).hexdigest() for name, c in CONTENTS.items()}  # noqa: RUF012

    return Tiny


def test_digits() -> None:
    train, test = Digits(), Digits("test")
    assert (len(train), len(test)) == (1442, 355)
    assert train.images.shape == (1442, 8, 8)
    assert np.bincount(test.labels).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    images = np.concatenate([train.images, test.images])
    assert images.max() == 16
    assert len(np.unique(images.reshape(-1, 64), axis=0)) == 1797  # no sample in both
    content = hashlib.sha256(images.tobytes() + train.labels.tobytes() + test.labels.tobytes())
    assert content.hexdigest()[:16] == "fd52f70d83ecd066"


def test_a_sample_of_digits() -> None:
    digits = Digits()
    image, label = digits[3]
    assert image.shape == (1, 8, 8)
    assert image.dtype == np.float32
    assert np.array_equal(image[0], digits.images[3] / np.float32(16))
    assert label.dtype == np.int64
    assert label == digits.labels[3]


def test_batches_of_digits() -> None:
    images, labels = next(iter(DataLoader(Digits("test"), batch_size=5)))
    assert images.shape == (5, 1, 8, 8)
    assert images.numpy().dtype == np.float32
    assert 0.9 < images.numpy().max() <= 1
    assert labels.numpy().dtype == np.int64


def test_digits_with_a_transform() -> None:
    digits = Digits(transform=lambda sample: sample[0].sum())
    assert digits[0] == (digits.images[0] / np.float32(16)).sum()


@pytest.mark.parametrize("dataset", [Digits, MNIST, FashionMNIST])
def test_splits(dataset: Any) -> None:
    with pytest.raises(ArgumentError, match=r'split must be "train" or "test"\n  split: \'valid\''):
        dataset("valid")


def test_names_of_classes() -> None:
    assert MNIST.classes[7] == "7"
    assert FashionMNIST.classes[9] == "Ankle boot"
    assert len(FashionMNIST.classes) == 10
    assert MNIST.sha256.keys() == FashionMNIST.sha256.keys()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("folder", ["", "Tiny/raw"])
def test_root(tiny: Any, server: Any, tmp_path: Path, folder: str, packed: bool) -> None:
    root = tmp_path / "root"
    write(root / folder, packed)
    dataset = tiny("test", root=root)
    assert np.array_equal(dataset.images, IMAGES)
    assert np.array_equal(dataset.labels, LABELS)
    assert server.asked == []


def test_the_folder_of_a_system_package(tiny: Any, server: Any, tmp_path: Path) -> None:
    write(tmp_path / "system", packed=True)
    assert len(tiny("test", root=tmp_path / "absent")) == 7
    assert server.asked == []


def test_a_download_into_the_cache(tiny: Any, server: Any, tmp_path: Path) -> None:
    dataset = tiny("test")
    assert np.array_equal(dataset.images, IMAGES)
    assert server.asked == [f"{name}.gz" for name in TEST_FILES]
    assert sorted(path.name for path in (tmp_path / "cache" / "tiny").iterdir()) == server.asked
    assert len(tiny("test", download=False)) == 7
    assert len(server.asked) == 2


def test_a_download_goes_on_with_what_is_missing(tiny: Any, server: Any) -> None:
    server.cut[f"{TEST_FILES[1]}.gz"] = 10
    with pytest.raises(DataNotFoundError, match="could not be downloaded"):
        tiny("test")
    del server.cut[f"{TEST_FILES[1]}.gz"]
    server.asked.clear()
    assert len(tiny("test")) == 7
    assert server.asked == [f"{TEST_FILES[1]}.gz"]


def test_other_content_is_refused(tiny: Any, server: Any, tmp_path: Path) -> None:
    server.files[f"{TEST_FILES[0]}.gz"] = gzip.compress(idx(IMAGES + 1))
    with pytest.raises(FileFormatError, match="other data than the published ones"):
        tiny("test")
    assert not any((tmp_path / "cache" / "tiny").iterdir())


@pytest.mark.parametrize("download", [False, True])
def test_files_that_are_nowhere(tiny: Any, server: Any, tmp_path: Path, download: bool) -> None:
    server.files.clear()
    with pytest.raises(
        DataNotFoundError, match="Tiny: the files are not on this machine"
    ) as caught:
        tiny("test", root=tmp_path / "mine", download=download)
    text = str(caught.value)
    for folder in ("mine", "mine/Tiny/raw", "system", "cache/tiny"):
        assert f"'{tmp_path / folder}'" in text
    assert f"url: '{server.url}'" in text
    assert "pass Tiny(root=<their folder>)" in text
    assert ("could not be downloaded" in text) == download


@pytest.mark.parametrize(
    "changed",
    [
        {"labels": LABELS[:-1]},
        {"labels": LABELS + 5},
        {"images": IMAGES[:, 0]},
    ],
    ids=["count", "class", "axes"],
)
def test_files_that_do_not_fit(tiny: Any, tmp_path: Path, changed: dict[str, Any]) -> None:
    root = write(tmp_path / "root", **changed)
    with pytest.raises(FileFormatError, match=r"Tiny: images must be(.|\n)*below 10\n  images: "):
        tiny("test", root=root)


def test_a_damaged_file_is_named(tiny: Any, tmp_path: Path) -> None:
    root = write(tmp_path / "root")
    os.truncate(root / TEST_FILES[0], 50)
    with pytest.raises(FileFormatError, match=r"cut short\n  file: '.*t10k-images-idx3-ubyte'"):
        tiny("test", root=root)


def test_importing_is_light() -> None:
    program = (
        "import sys, schuss.data; "
        "print({'urllib.request', 'http.client', 'concurrent.futures.thread'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
