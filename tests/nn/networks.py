"""Networks that the tests of modules look at."""

from __future__ import annotations

import numpy as np

import schuss
from schuss import nn, optim


class Net(nn.Module):
    """Parts in attributes, lists, tuples and dicts, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(np.ones(2, np.float32))
        self.first = nn.Linear(2, 3)
        self.blocks = [nn.Linear(3, 3), (nn.BatchNorm1d(3), nn.Linear(3, 3, bias=False))]
        self.heads = {"a": nn.Linear(3, 1), "b": [{"c": nn.Parameter(np.zeros(3, np.float32))}]}
        self.again = self.first
        self.offset = nn.Buffer(np.zeros(2, np.float32))
        self.cache = nn.Buffer(np.zeros(1, np.float32), persistent=False)
        self.plain = schuss.ones(2)
        self.nothing = None

    def forward(self, x: schuss.Tensor) -> schuss.Tensor:
        x = self.first(x * self.scale + self.offset)
        x = self.blocks[0](x).tanh()
        for layer in self.blocks[1]:
            x = layer(x)
        return self.heads["a"](x + self.heads["b"][0]["c"])


PARAMETERS = [
    "scale", "heads.b.0.c", "first.weight", "first.bias", "blocks.0.weight", "blocks.0.bias",
    "blocks.1.0.weight", "blocks.1.0.bias", "blocks.1.1.weight", "heads.a.weight", "heads.a.bias",
]  # fmt: skip
STATISTICS = ["blocks.1.0.running_mean", "blocks.1.0.running_var", "blocks.1.0.num_batches_tracked"]


def values(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: each.numpy().copy() for name, each in module.state_dict().items()}


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert list(first) == list(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def train_a_little(module: nn.Module, steps: int = 2) -> None:
    optimizer = optim.SGD(module.parameters(), lr=0.1)
    kind = module.parameters()[0].dtype
    for _ in range(steps):
        optimizer.zero_grad()
        (module(schuss.tensor([[1.0, 2], [3, -1], [0, 1]], dtype=kind)) ** 2).sum().backward()
        optimizer.step()
