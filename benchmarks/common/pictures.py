"""The networks of the inference benchmark, and weights and images for them in NumPy."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Arrays = dict[str, np.ndarray]
SIZE = 224
BATCHES = (1, 128)


@dataclass(frozen=True)
class Picture:
    """A network at a batch size.

    Attributes:
        network: its name in `schuss.models`.
        title: for the table.
        batch: images at once.
        multiply_adds: for an image, without those of normalisations.
    """

    network: str
    title: str
    batch: int
    multiply_adds: int

    @property
    def name(self) -> str:
        """For `--only`."""
        return f"{self.network}-{self.batch}"

    def images(self) -> np.ndarray:
        """float32 (batch, 3, 224, 224)."""
        rng = np.random.default_rng(0)
        return rng.standard_normal((self.batch, 3, SIZE, SIZE), np.float32)


_NETWORKS = (
    ("alexnet", "AlexNet", 714_188_480),
    ("googlenet", "GoogLeNet", 1_498_376_192),
    ("resnet50", "ResNet-50", 4_089_184_256),
)
PICTURES: dict[str, Picture] = {
    each.name: each
    for network, title, multiply_adds in _NETWORKS
    for batch in BATCHES
    for each in [Picture(network, title, batch, multiply_adds)]
}


def weights(shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """Random weights of these names and shapes: the same for a name, whoever asks.

    Variances are kept from layer to layer, and running statistics are not those that networks begin
    with, so that leaving one out shows in the result.
    """
    return {name: _weight(name, shape) for name, shape in shapes.items()}


def _weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if not shape:  # batches counted by a normalisation
        return np.ones((), np.int64)
    if len(shape) > 1:
        deviation = (2 / np.prod(shape[1:])) ** 0.5
        return (deviation * rng.standard_normal(shape, np.float32)).astype(np.float32)
    low, high = (0.7, 1.3) if name.endswith(("running_var", "weight")) else (-0.2, 0.2)
    return rng.uniform(low, high, shape).astype(np.float32)
