"""Published data sets of small grey images: Digits, MNIST and Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from schuss.data.dataset import ArrayDataset, Transform
from schuss.data.download import download, find_files
from schuss.data.idx import read_idx
from schuss.errors import ArgumentError, DataNotFoundError, FileFormatError, fail
from schuss.settings import data_folder

_FILES = {  # split -> images, labels
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

_MNIST_SHA256 = {  # of the unpacked files
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

_FASHION_SHA256 = {  # of the unpacked files
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


class ImageDataset(ArrayDataset):
    """Grey images in memory. A sample is (image, label): float32 (1, H, W) in [0, 1], and int64.

    Attributes:
        images: uint8 (N, H, W), as they were published.
        labels: uint8 (N,), the number of the class.
        classes: the names of the classes, by number.
    """

    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    white: ClassVar[int] = 255  # the value of the brightest pixel

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, transform: Transform | None = None
    ) -> None:
        super().__init__(images, labels, transform=transform)
        self.images, self.labels = self.arrays

    def _take(self, indices: int | np.ndarray) -> tuple[np.ndarray, ...]:
        # converted here and not once for all: as float32 they would take four times the memory
        images, labels = super()._take(indices)
        scaled = images[..., np.newaxis, :, :].astype(np.float32)
        scaled /= np.float32(self.white)
        return scaled, labels.astype(np.int64)


class Digits(ImageDataset):
    """Handwritten digits of 8x8 pixels, part of this package: 1,442 to train and 355 to test with.

    Args:
        split: "train" or "test". Of the samples of each digit, in the order of the file, every
            fifth is for testing.
        transform: as for `ArrayDataset`.

    `images` are uint8 (N, 8, 8) from 0 to 16. Source: E. Alpaydin and C. Kaynak, "Optical
    Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
    https://doi.org/10.24432/C50P49, CC BY 4.0. The file holds the test part of that set, whose 13
    writers occur in both splits here.
    """

    white = 16

    def __init__(self, split: str = "train", *, transform: Transform | None = None) -> None:
        _check_split("Digits", split)
        with np.load(Path(__file__).parent / "embedded" / "digits.npz") as archive:
            images, labels = archive["images"], archive["labels"]
        chosen = _every_fifth(labels) == (split == "test")
        super().__init__(images[chosen], labels[chosen], transform)


def _every_fifth(labels: np.ndarray) -> np.ndarray:
    """Which samples are the fifth, tenth, ... of their class: bool (N,)."""
    chosen = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[4::5]] = True
    return chosen


class IdxImages(ImageDataset):
    """A data set in four IDX files, as MNIST has them.

    A subclass says where they are to be had. The files of a split are taken from the first of these
    folders that has them, raw or as .gz: `root`, its folder `raw_folder` (as torchvision leaves
    it), `system_folders`, and the cache folder `name` in SCHUSS_DATA. Only what is downloaded is
    checked against the SHA-256.

    Raises DataNotFoundError if the files are in none of them and are not to be, or cannot be,
    downloaded into the cache; FileFormatError if a file is damaged or does not fit the other.
    """

    name: ClassVar[str]
    url: ClassVar[str]  # of the folder that has the files with .gz
    raw_folder: ClassVar[str]
    system_folders: ClassVar[tuple[str, ...]] = ()
    sha256: ClassVar[dict[str, str]]  # of the unpacked files

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | Path | None = None,
        download: bool = True,
        transform: Transform | None = None,
    ) -> None:
        _check_split(type(self).__name__, split)
        files = self._files(split, root, download)
        images, labels = (read_idx(path) for path in files)
        self._check(images, labels, files)
        super().__init__(images, labels, transform)

    @classmethod
    def _files(cls, split: str, root: str | Path | None, may_download: bool) -> list[Path]:
        names = _FILES[split]
        cache = data_folder() / cls.name
        given = [] if root is None else [Path(root), Path(root) / cls.raw_folder]
        folders = [*given, *map(Path, cls.system_folders), cache]
        found = find_files(folders, names)
        if found is None and may_download:
            cls._download(names, cache, folders)
            found = find_files([cache], names)
        if found is None:
            raise cls._not_found("the files are not on this machine", folders)
        return found

    @classmethod
    def _download(cls, names: tuple[str, ...], cache: Path, folders: list[Path]) -> None:
        for name in names:
            if find_files([cache], [name]) is None:
                try:
                    download(f"{cls.url}{name}.gz", cache / f"{name}.gz", cls.sha256[name])
                except DataNotFoundError as problem:
                    reason = "the files are not on this machine and could not be downloaded"
                    raise cls._not_found(reason, folders) from problem

    @classmethod
    def _not_found(cls, problem: str, folders: list[Path]) -> Exception:
        return fail(
            DataNotFoundError,
            cls.__name__,
            problem,
            looked_in=[str(folder) for folder in folders],
            url=cls.url,
            hint=f"download the files elsewhere and pass {cls.__name__}(root=<their folder>)",
        )

    @classmethod
    def _check(cls, images: np.ndarray, labels: np.ndarray, files: list[Path]) -> None:
        fits = (
            images.ndim == 3
            and images.dtype == labels.dtype == np.uint8
            and labels.shape == images.shape[:1]
            and labels.max() < len(cls.classes)
        )
        if not fits:
            raise fail(
                FileFormatError,
                cls.__name__,
                f"images must be uint8 (N, H, W) and labels uint8 (N,) below {len(cls.classes)}",
                images=images,
                labels=labels,
                files=[str(path) for path in files],
            )


class MNIST(IdxImages):
    """Handwritten digits of 28x28 pixels: 60,000 for training, 10,000 for testing.

    Args:
        split: "train" or "test".
        root: a folder that has the files, raw or as .gz, itself or in `MNIST/raw`.
        download: fetch the files (11 MB) into the cache if they are nowhere on this machine.
        transform: as for `ArrayDataset`.

    Source: Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database of handwritten digits",
    1998. Errors as for `IdxImages`.
    """

    name = "mnist"
    url = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    raw_folder = "MNIST/raw"
    sha256 = _MNIST_SHA256


class FashionMNIST(IdxImages):
    """Pictures of clothes of 28x28 pixels, in 10 classes: 60,000 for training, 10,000 for testing.

    Args:
        split: "train" or "test".
        root: a folder that has the files, raw or as .gz, itself or in `FashionMNIST/raw`.
        download: fetch the files (30 MB) into the cache if they are nowhere on this machine.
        transform: as for `ArrayDataset`.

    Debian's package `dataset-fashion-mnist` is found by itself. Source: H. Xiao, K. Rasul and R.
    Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
    2017, MIT licence. Errors as for `IdxImages`.
    """

    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    name = "fashion-mnist"
    url = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    raw_folder = "FashionMNIST/raw"
    system_folders = ("/usr/share/datasets/fashion-mnist",)
    sha256 = _FASHION_SHA256


def _check_split(where: str, split: str) -> None:
    if split not in _FILES:
        raise fail(ArgumentError, where, 'split must be "train" or "test"', split=split)
