"""The networks for PyTorch and for Schuss: one text, since the import is the difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from common.workloads import CONTEXT, DEPTH, EMBEDDING, HEADS, HIDDEN, SYMBOLS, WIDTH


@dataclass(frozen=True)
class Library:
    """What differs.

    Attributes:
        nn: the module of layers.
        relu: makes the layer.
        attention: causal, of q, k and v (batch, heads, time, size).
        arange: integers below a number.
    """

    nn: Any
    relu: Callable[[], Any]
    attention: Callable[[Any, Any, Any], Any]
    arange: Callable[[int], Any]


def network(name: str, library: Library) -> Any:
    """The network of a workload, with the paths that its weights are named by."""
    return _NETWORKS[name](library)


def _linear(library: Library) -> Any:
    return library.nn.Sequential(library.nn.Linear(2, 1))


def _perceptron(library: Library, hidden: int) -> Any:
    nn = library.nn
    return nn.Sequential(nn.Linear(784, hidden), library.relu(), nn.Linear(hidden, 10))


def _lenet(library: Library) -> Any:
    nn = library.nn
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.Sigmoid(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.Sigmoid(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.Sigmoid(),
        nn.Linear(120, 84),
        nn.Sigmoid(),
        nn.Linear(84, 10),
    )


def _resnet(library: Library) -> Any:
    nn = library.nn

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
            self.norm2 = nn.BatchNorm2d(outputs)
            self.conv3 = self.norm3 = None
            if stride > 1:
                self.conv3 = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
                self.norm3 = nn.BatchNorm2d(outputs)
            self.relu = library.relu()

        def forward(self, x: Any) -> Any:
            y = self.relu(self.norm1(self.conv1(x)))
            y = self.norm2(self.conv2(y))
            shortcut = x if self.conv3 is None else self.norm3(self.conv3(x))
            return self.relu(y + shortcut)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(64)
            self.relu = library.relu()
            sizes = (64, 64, 64, 128, 128, 256, 256, 512, 512)
            self.blocks = nn.Sequential(
                *[Block(a, b, 1 if a == b else 2) for a, b in pairwise(sizes)]
            )
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.flatten = nn.Flatten()
            self.head = nn.Linear(512, 10)

        def forward(self, x: Any) -> Any:
            x = self.blocks(self.relu(self.norm1(self.conv1(x))))
            return self.head(self.flatten(self.pool(x)))

    return Network()


def _lstm(library: Library) -> Any:
    nn = library.nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(SYMBOLS, EMBEDDING)
            self.lstm = nn.LSTM(EMBEDDING, HIDDEN, batch_first=True)
            self.head = nn.Linear(HIDDEN, SYMBOLS)

        def forward(self, x: Any) -> Any:
            y, _ = self.lstm(self.embed(x))
            return self.head(y).reshape(-1, SYMBOLS)

    return Network()


def _gpt(library: Library) -> Any:
    nn = library.nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(WIDTH)
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
            self.project = nn.Linear(WIDTH, WIDTH)
            self.norm2 = nn.LayerNorm(WIDTH)
            self.widen = nn.Linear(WIDTH, 4 * WIDTH)
            self.gelu = nn.GELU()
            self.narrow = nn.Linear(4 * WIDTH, WIDTH)

        def attend(self, x: Any) -> Any:
            batch, time, _ = x.shape
            parts = self.qkv(x).split(WIDTH, -1)
            q, k, v = (
                each.reshape(batch, time, HEADS, WIDTH // HEADS).permute(0, 2, 1, 3)
                for each in parts
            )
            y = library.attention(q, k, v).permute(0, 2, 1, 3)
            return self.project(y.reshape(batch, time, WIDTH))

        def forward(self, x: Any) -> Any:
            x = x + self.attend(self.norm1(x))
            return x + self.narrow(self.gelu(self.widen(self.norm2(x))))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.symbols = nn.Embedding(SYMBOLS, WIDTH)
            self.positions = nn.Embedding(CONTEXT, WIDTH)
            self.blocks = nn.Sequential(*[Block() for _ in range(DEPTH)])
            self.norm = nn.LayerNorm(WIDTH)
            self.head = nn.Linear(WIDTH, SYMBOLS)

        def forward(self, x: Any) -> Any:
            x = self.symbols(x) + self.positions(library.arange(CONTEXT))
            return self.head(self.norm(self.blocks(x))).reshape(-1, SYMBOLS)

    return Network()


_NETWORKS: dict[str, Callable[[Library], Any]] = {
    "linear": _linear,
    "mlp-256": lambda library: _perceptron(library, 256),
    "mlp-1024": lambda library: _perceptron(library, 1024),
    "lenet": _lenet,
    "resnet": _resnet,
    "lstm": _lstm,
    "gpt": _gpt,
}
