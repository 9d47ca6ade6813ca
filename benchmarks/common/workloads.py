"""The training workloads: their weights and data in NumPy, the same for every framework.

Weights have PyTorch's names and layouts; a side that wants others converts them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

Arrays = dict[str, np.ndarray]

SYMBOLS = 65
WIDTH, HEADS, DEPTH, CONTEXT = 256, 8, 4, 128  # of the GPT
EMBEDDING, HIDDEN = 64, 256  # of the LSTM


@dataclass(frozen=True)
class Layer:
    """What a workload says of a layer.

    Attributes:
        name: its path in the network.
        shape: of its weight; an LSTM's is (4 * hidden, inputs + hidden).
        uses: in how many multiply-adds of a forward pass each element takes part.
        kind: "affine", "no bias", "norm", "embedding" or "lstm".
    """

    name: str
    shape: tuple[int, ...]
    uses: int
    kind: str = "affine"

    def weights(self, rng: np.random.Generator) -> Arrays:
        """Uniform within 1 / sqrt(inputs of a unit), as PyTorch's layers begin."""
        bound = float(np.prod(self.shape[1:])) ** -0.5

        def uniform(*shape: int) -> np.ndarray:
            return rng.uniform(-bound, bound, shape).astype(np.float32)

        if self.kind == "norm":
            made = {"weight": np.ones(self.shape, np.float32)}
            made["bias"] = np.zeros(self.shape, np.float32)
        elif self.kind == "embedding":
            made = {"weight": 0.1 * rng.standard_normal(self.shape, np.float32)}
        elif self.kind == "lstm":
            gates, width = self.shape
            hidden = gates // 4
            made = {"weight_ih_l0": uniform(gates, width - hidden)}
            made["weight_hh_l0"] = uniform(gates, hidden)
            made |= {"bias_ih_l0": uniform(gates), "bias_hh_l0": uniform(gates)}
        else:
            made = {"weight": uniform(*self.shape)}
            if self.kind == "affine":
                made["bias"] = uniform(self.shape[0])
        return {f"{self.name}.{key}": each for key, each in made.items()}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One row of the table.

    Attributes:
        name: for `--only`.
        title: for the table.
        layers: those with weights.
        other_multiply_adds: those of a forward pass that involve no weight.
        inputs: the shape of the batch.
        symbols: inputs are integers below this; 0: they are normal numbers.
        labels: the shape of the labels, and how many classes there are; None for regression.
        optimizer, settings: name in `optim` and keyword arguments, by PyTorch's names.
        images: the network is convolutional, so that layouts matter.
        precision: "float32", or what `autocast` computes products in.
        tolerance: how far losses may differ between sides, as a share of the way that they go.
    """

    name: str
    title: str
    layers: list[Layer]
    other_multiply_adds: int = 0
    inputs: tuple[int, ...]
    symbols: int = 0
    labels: tuple[int, ...] | None
    classes: int = 0
    optimizer: str
    settings: dict[str, float]
    images: bool = False
    precision: str = "float32"
    tolerance: float = 1e-3

    @property
    def network(self) -> str:
        """The name of its network."""
        return self.name.removesuffix(f"-{self.precision}")

    @property
    def multiply_adds(self) -> int:
        """Those of one training step: the forward pass, and as many again for either gradient."""
        forward = sum(math.prod(each.shape) * each.uses for each in self.layers)
        return 3 * (forward + self.other_multiply_adds)

    def weights(self) -> Arrays:
        """Initial weights by name."""
        rng = np.random.default_rng(1)
        made: Arrays = {}
        for layer in self.layers:
            made |= layer.weights(rng)
        return made

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels; integers are int64. Labels can be learnt, so that losses move."""
        rng = np.random.default_rng(0)
        if self.symbols:
            x = rng.integers(0, self.symbols, self.inputs)
        else:
            x = rng.standard_normal(self.inputs).astype(np.float32)
        if self.labels is None:
            return x, x[:, :1] * 2 - 1
        if self.symbols:
            return x, (3 * x + 1) % self.classes
        return x, rng.integers(0, self.classes, self.labels)


def _perceptron(sizes: tuple[int, ...], batch: int) -> list[Layer]:
    pairs = pairwise(sizes)
    return [Layer(f"{2 * i}", (there, here), batch) for i, (here, there) in enumerate(pairs)]


def _lenet(batch: int) -> list[Layer]:
    return [
        Layer("0", (6, 1, 5, 5), batch * 28 * 28),
        Layer("3", (16, 6, 5, 5), batch * 10 * 10),
        Layer("7", (120, 400), batch),
        Layer("9", (84, 120), batch),
        Layer("11", (10, 84), batch),
    ]


def _resnet(batch: int) -> list[Layer]:
    """ResNet-18 for 32x32 images: a 3x3 first convolution, no first pooling."""
    layers: list[Layer] = []

    def convolution(path: str, number: int, outputs: int, inputs: int, kernel: int, uses: int):  # type: ignore[no-untyped-def]
        shape = (outputs, inputs, kernel, kernel)
        layers.append(Layer(f"{path}conv{number}", shape, uses, "no bias"))
        layers.append(Layer(f"{path}norm{number}", (outputs,), 0, "norm"))

    convolution("", 1, 64, 3, 3, batch * 32 * 32)
    before = 64
    for stage, channels in enumerate((64, 128, 256, 512)):
        uses = batch * (32 >> stage) ** 2
        for block in range(2):
            path = f"blocks.{2 * stage + block}."
            convolution(path, 1, channels, before, 3, uses)
            convolution(path, 2, channels, channels, 3, uses)
            if before != channels:
                convolution(path, 3, channels, before, 1, uses)
            before = channels
    return [*layers, Layer("head", (10, 512), batch)]


def _lstm(batch: int, time: int) -> list[Layer]:
    return [
        Layer("embed", (SYMBOLS, EMBEDDING), 0, "embedding"),
        Layer("lstm", (4 * HIDDEN, EMBEDDING + HIDDEN), batch * time, "lstm"),
        Layer("head", (SYMBOLS, HIDDEN), batch * time),
    ]


def _gpt(batch: int) -> list[Layer]:
    uses = batch * CONTEXT
    layers = [
        Layer("symbols", (SYMBOLS, WIDTH), 0, "embedding"),
        Layer("positions", (CONTEXT, WIDTH), 0, "embedding"),
    ]
    for i in range(DEPTH):
        layers += [
            Layer(f"blocks.{i}.norm1", (WIDTH,), 0, "norm"),
            Layer(f"blocks.{i}.qkv", (3 * WIDTH, WIDTH), uses),
            Layer(f"blocks.{i}.project", (WIDTH, WIDTH), uses),
            Layer(f"blocks.{i}.norm2", (WIDTH,), 0, "norm"),
            Layer(f"blocks.{i}.widen", (4 * WIDTH, WIDTH), uses),
            Layer(f"blocks.{i}.narrow", (WIDTH, 4 * WIDTH), uses),
        ]
    return [*layers, Layer("norm", (WIDTH,), 0, "norm"), Layer("head", (SYMBOLS, WIDTH), uses)]


_ALL = [
    Workload(
        name="linear",
        title="linear regression 2-1, batch 10, SGD",
        layers=_perceptron((2, 1), 10),
        inputs=(10, 2),
        labels=None,
        optimizer="SGD",
        settings={"lr": 0.05},
    ),
    Workload(
        name="mlp-256",
        title="MLP 784-256-10, batch 256, SGD",
        layers=_perceptron((784, 256, 10), 256),
        inputs=(256, 784),
        labels=(256,),
        classes=10,
        optimizer="SGD",
        settings={"lr": 0.05},
    ),
    Workload(
        name="mlp-1024",
        title="MLP 784-1024-10, batch 128, Adam",
        layers=_perceptron((784, 1024, 10), 128),
        inputs=(128, 784),
        labels=(128,),
        classes=10,
        optimizer="Adam",
        settings={"lr": 1e-4},
    ),
    Workload(
        name="lenet",
        title="LeNet (sigmoid, average pooling) 28x28, batch 256, SGD",
        layers=_lenet(256),
        inputs=(256, 1, 28, 28),
        labels=(256,),
        classes=10,
        optimizer="SGD",
        settings={"lr": 0.1},
        images=True,
    ),
    Workload(
        name="resnet",
        title="ResNet-18 (CIFAR form) 32x32, batch 32, SGD momentum 0.9",
        layers=_resnet(32),
        inputs=(32, 3, 32, 32),
        labels=(32,),
        classes=10,
        optimizer="SGD",
        settings={"lr": 0.001, "momentum": 0.9},
        images=True,
    ),
    Workload(
        name="lstm",
        title="char LSTM: embedding 64, hidden 256, T 64, batch 32, Adam",
        layers=_lstm(32, 64),
        inputs=(32, 64),
        symbols=SYMBOLS,
        labels=(32, 64),
        classes=SYMBOLS,
        optimizer="Adam",
        settings={"lr": 3e-3},
    ),
    Workload(
        name="gpt",
        title="GPT: 4 layers, width 256, 8 heads, T 128, batch 16, Adam",
        layers=_gpt(16),
        other_multiply_adds=DEPTH * 16 * 2 * CONTEXT * CONTEXT * WIDTH,
        inputs=(16, CONTEXT),
        symbols=SYMBOLS,
        labels=(16, CONTEXT),
        classes=SYMBOLS,
        optimizer="Adam",
        settings={"lr": 3e-4},
    ),
]


def _mixed(workload: Workload) -> Workload:
    """The same with products in bfloat16, whose roundings each side has in other places."""
    title = f"{workload.title}, products in bfloat16"
    name = f"{workload.name}-bfloat16"
    return replace(workload, name=name, title=title, precision="bfloat16", tolerance=0.01)


_ALL += [_mixed(each) for each in _ALL if each.name in ("mlp-1024", "resnet", "lstm", "gpt")]

WORKLOADS: dict[str, Workload] = {each.name: each for each in _ALL}
