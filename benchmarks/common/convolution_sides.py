"""Convolution layers of known networks, and the processes that time them with channels last."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

DIRECTIONS = ("forward", "input", "weight")


class Layer(NamedTuple):
    """A square convolution of a batch of square images."""

    network: str
    channels: int
    outputs: int
    size: int
    kernel: int
    stride: int = 1
    groups: int = 1
    batch: int = 16

    @property
    def name(self) -> str:
        grouped = f", {self.groups} groups" if self.groups > 1 else ""
        step = f"/{self.stride}" if self.stride > 1 else ""
        return (
            f"{self.kernel}x{self.kernel}{step} {self.channels} to {self.outputs} at "
            f"{self.size}{grouped}, batch {self.batch}"
        )

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def count(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def multiply_adds(self) -> int:
        """Those of the border included."""
        taps = self.kernel**2 * self.channels // self.groups
        return self.batch * self.count**2 * self.outputs * taps


def _table(network: str, rows: list[tuple[int, ...]], batch: int = 16) -> list[Layer]:
    return [Layer(network, *row)._replace(batch=batch) for row in rows]


# Each distinct convolution: channels, outputs, size, kernel, stride, groups.
LAYERS = [
    *_table("ResNet-18", [
        (3, 64, 224, 7, 2), (64, 64, 56, 3), (64, 128, 56, 3, 2), (64, 128, 56, 1, 2),
        (128, 128, 28, 3), (128, 256, 28, 3, 2), (128, 256, 28, 1, 2), (256, 256, 14, 3),
        (256, 512, 14, 3, 2), (256, 512, 14, 1, 2), (512, 512, 7, 3),
    ]),
    *_table("ResNet-18, 32 x 32", [
        (3, 64, 32, 3), (64, 64, 32, 3), (64, 128, 32, 3, 2), (128, 128, 16, 3),
        (128, 256, 16, 3, 2), (256, 256, 8, 3), (256, 512, 8, 3, 2), (512, 512, 4, 3),
    ], 32),
    *_table("ResNet-50", [
        (64, 64, 56, 1), (64, 256, 56, 1), (256, 64, 56, 1), (256, 128, 56, 1),
        (128, 128, 56, 3, 2), (128, 512, 28, 1), (256, 512, 56, 1, 2), (512, 128, 28, 1),
        (512, 256, 28, 1), (256, 256, 28, 3, 2), (256, 1024, 14, 1), (512, 1024, 28, 1, 2),
        (1024, 256, 14, 1), (1024, 512, 14, 1), (512, 512, 14, 3, 2), (512, 2048, 7, 1),
        (1024, 2048, 14, 1, 2), (2048, 512, 7, 1),
    ]),
    *_table("GoogLeNet", [
        (64, 192, 56, 3), (192, 96, 28, 1), (96, 128, 28, 3), (192, 16, 28, 1), (16, 32, 28, 3),
        (16, 32, 28, 5), (128, 192, 28, 3), (480, 192, 14, 1), (96, 208, 14, 3), (16, 48, 14, 5),
        (160, 320, 14, 3), (832, 384, 7, 1), (192, 384, 7, 3), (48, 128, 7, 5),
    ]),
    *_table("MobileNetV2", [
        (3, 32, 224, 3, 2), (32, 32, 112, 3, 1, 32), (32, 16, 112, 1), (16, 96, 112, 1),
        (96, 96, 112, 3, 2, 96), (96, 24, 56, 1), (144, 144, 56, 3, 1, 144),
        (144, 144, 56, 3, 2, 144), (192, 192, 28, 3, 1, 192), (64, 384, 14, 1),
        (384, 384, 14, 3, 1, 384), (576, 576, 14, 3, 2, 576), (960, 960, 7, 3, 1, 960),
        (960, 160, 7, 1),
    ]),
    *_table("One image", [
        (3, 64, 224, 7, 2), (64, 64, 56, 3), (128, 128, 28, 3), (256, 256, 14, 3), (512, 512, 7, 3),
    ], 1),
]  # fmt: skip


class ConvolutionSide:
    """One framework: builds a layer and a direction, and times it."""

    def __init__(self, framework: str) -> None:
        self.make = {"schuss": _schuss, "PyTorch": _pytorch}[framework]()
        self.call: Callable[[], Any] = lambda: None

    def build(self, layer: Layer, direction: str, dtype: str) -> np.ndarray:
        """Prepares the calls; returns the result of the first, in float32."""
        rng = np.random.default_rng(0)
        n, k, count = layer.batch, layer.kernel, layer.count
        x = rng.standard_normal((n, layer.channels, layer.size, layer.size), dtype=np.float32)
        w = rng.standard_normal((layer.outputs, layer.channels // layer.groups, k, k), "f4")
        g = rng.standard_normal((n, layer.outputs, count, count), dtype=np.float32)
        self.call, look = self.make(layer, direction, dtype, x, w, g)
        for _ in range(3):
            result = self.call()
        return look(result)

    def time(self, repeats: int) -> float:
        """Microseconds of a call."""
        started = time.perf_counter()
        for _ in range(repeats):
            self.call()
        return (time.perf_counter() - started) * 1e6 / repeats


def _schuss() -> Callable[..., Any]:
    import schuss
    from schuss.nn import functional

    def prepare(
        layer: Layer, direction: str, dtype: str, x: np.ndarray, w: np.ndarray, g: np.ndarray
    ) -> tuple[Callable[[], Any], Callable[[Any], np.ndarray]]:
        stride, padding, groups = layer.stride, layer.padding, layer.groups
        x, g = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in (x, g))
        last, weight, upper = (schuss.tensor(a).astype(dtype) for a in (x, w, g))

        def forward(x: Any, w: Any) -> Any:
            y = functional.conv2d(
                x.permute(0, 3, 1, 2), w, stride=stride, padding=padding, groups=groups
            )
            return y.permute(0, 2, 3, 1)

        def of_x(x: Any, w: Any, g: Any) -> Any:
            return schuss.vjp(lambda x: forward(x, w), x)[1](g)[0]

        def of_w(x: Any, w: Any, g: Any) -> Any:
            return schuss.vjp(lambda w: forward(x, w), w)[1](g)[0]

        if direction == "weight":
            compiled = schuss.jit(of_w)
            return lambda: compiled(last, weight, upper), lambda y: y.astype("float32").numpy()
        if direction == "input":
            compiled = schuss.jit(of_x)
            call = lambda: compiled(last, weight, upper)
        else:
            compiled = schuss.jit(forward)
            call = lambda: compiled(last, weight)
        return call, lambda y: y.astype("float32").numpy().transpose(0, 3, 1, 2)

    return prepare


def _pytorch() -> Callable[..., Any]:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def prepare(
        layer: Layer, direction: str, dtype: str, x: np.ndarray, w: np.ndarray, g: np.ndarray
    ) -> tuple[Callable[[], Any], Callable[[Any], np.ndarray]]:
        last = [
            torch.from_numpy(a)
            .to(getattr(torch, dtype))
            .contiguous(memory_format=torch.channels_last)
            for a in (x, w, g)
        ]
        stride, padding = [layer.stride] * 2, [layer.padding] * 2

        def forward() -> Any:
            with torch.no_grad():
                return torch.conv2d(last[0], last[1], None, stride, padding, 1, layer.groups)

        def backward() -> Any:
            wanted = [direction == "input", direction == "weight", False]
            made = torch.ops.aten.convolution_backward(
                last[2], last[0], last[1], None, stride, padding, [1, 1], False, [0, 0],
                layer.groups, wanted,
            )  # fmt: skip
            return made[0] if direction == "input" else made[1]

        return (forward if direction == "forward" else backward), lambda y: y.float().numpy()

    return prepare
