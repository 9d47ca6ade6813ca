"""Prediction in PyTorch: eager, compiled, with channels last, and exported to ONNX Runtime.

The networks are torchvision's, written down again so that it need not be installed; names of
parameters are the same.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from common.pictures import Picture, weights

Pair = tuple[int, int]
THREADS = int(os.environ["OMP_NUM_THREADS"])
torch.set_num_threads(THREADS)


def unavailable(variant: str) -> str | None:
    """Why this side cannot be measured, if so."""
    if variant == "compile" and shutil.which(os.environ.get("CXX", "g++")) is None:
        return "no C++ compiler"
    return None


def make(picture: Picture, variant: str, images: np.ndarray) -> Callable[[], np.ndarray]:
    """A function that predicts logits (N, 1000) for the images.

    Args:
        variant: "eager", "compile", "channels-last" or "onnx".
    """
    model = _NETWORKS[picture.network]().eval()
    shapes = {name: tuple(each.shape) for name, each in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(each) for name, each in weights(shapes).items()})
    x = torch.from_numpy(images)
    if variant == "onnx":
        return _on_onnx_runtime(model, x)
    if variant == "channels-last":
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    if variant == "compile":
        model = torch.compile(model)

    def predict() -> np.ndarray:
        with torch.inference_mode():
            return model(x).numpy()

    return predict


def _on_onnx_runtime(model: nn.Module, x: torch.Tensor) -> Callable[[], np.ndarray]:
    import onnxruntime

    program = torch.onnx.export(model, (x[:1],), dynamo=True, verbose=False,
                                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))  # fmt: skip
    file = io.BytesIO()
    program.save(file)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(
        file.getvalue(), settings, providers=["CPUExecutionProvider"]
    )
    given = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, given)[0]


def describe() -> str:
    """What computed."""
    return f"{torch.get_num_threads()} threads"


# --- the networks ---


class AlexNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(True), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(True),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(True),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(True),
            nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(True), nn.Linear(4096, 1000),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).flatten(1))


class ConvNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)).relu()


class Inception(nn.Module):
    def __init__(self, n: int, one: int, three: Pair, five: Pair, pooled: int) -> None:
        super().__init__()
        self.branch1 = ConvNorm(n, one, 1)
        self.branch2 = nn.Sequential(ConvNorm(n, three[0], 1), ConvNorm(*three, 3))
        self.branch3 = nn.Sequential(ConvNorm(n, five[0], 1), ConvNorm(*five, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvNorm(n, pooled, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.children()], 1)


class GoogLeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, 64, 7, 2)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.conv3 = ConvNorm(64, 64, 1), ConvNorm(64, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = Inception(192, 64, (96, 128), (16, 32), 32)
        self.inception3b = Inception(256, 128, (128, 192), (32, 96), 64)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception4a = Inception(480, 192, (96, 208), (16, 48), 64)
        self.inception4b = Inception(512, 160, (112, 224), (24, 64), 64)
        self.inception4c = Inception(512, 128, (128, 256), (24, 64), 64)
        self.inception4d = Inception(512, 112, (144, 288), (32, 64), 64)
        self.inception4e = Inception(528, 256, (160, 320), (32, 128), 128)
        self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.inception5a = Inception(832, 256, (160, 320), (32, 128), 128)
        self.inception5b = Inception(832, 384, (192, 384), (48, 128), 128)
        self.fc = nn.Linear(1024, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in list(self.children())[:-1]:
            x = layer(x)
        return self.fc(x.mean((2, 3)))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = nn.Identity()
        if stride > 1 or inputs != 4 * width:
            convolution = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(4 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn3(self.conv3(self.bn2(self.conv2(y)).relu()))
        return (y + self.downsample(x)).relu()


class ResNet50(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for number, count in enumerate((3, 4, 6, 3), start=1):
            blocks = []
            for place in range(count):
                stride = 2 if number > 1 and place == 0 else 1
                blocks.append(Bottleneck(inputs, 32 << number, stride))
                inputs = 128 << number
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


_NETWORKS = {"alexnet": AlexNet, "googlenet": GoogLeNet, "resnet50": ResNet50}
