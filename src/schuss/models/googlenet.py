"""GoogLeNet, with batch normalisation and without the auxiliary classifiers.

C. Szegedy et al., "Going deeper with convolutions" (2015); S. Ioffe and C. Szegedy, "Batch
normalization" (2015). As in torchvision, the third branch has 3x3 convolutions in place of 5x5.
"""

from __future__ import annotations

from typing import Any

from schuss import nn
from schuss.functions.manipulation import concat
from schuss.tensor import Tensor


class ConvNorm(nn.Module):
    """A convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, **settings: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, bias=False, **settings)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


class Inception(nn.Module):
    """Four branches side by side on the axis of channels: (N, inputs, H, W) -> (N, sum, H, W).

    Args:
        inputs: channels before.
        one: channels of the 1x1 branch.
        three: channels before and after its 3x3 convolution.
        five: the same for the branch that has 5x5 convolutions in the paper.
        pooled: channels of the branch that pools first.
    """

    def __init__(
        self, inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pooled: int
    ) -> None:
        super().__init__()
        self.branch1 = ConvNorm(inputs, one, 1)
        self.branch2 = nn.Sequential(
            ConvNorm(inputs, three[0], 1), ConvNorm(three[0], three[1], 3, padding=1)
        )
        self.branch3 = nn.Sequential(
            ConvNorm(inputs, five[0], 1), ConvNorm(five[0], five[1], 3, padding=1)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), ConvNorm(inputs, pooled, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return concat([branch(x) for branch in branches], axis=1)


class GoogLeNet(nn.Module):
    """Images (N, 3, H, W), usually 224 x 224, to logits (N, num_classes).

    Args:
        num_classes: how many there are.
        dropout: the probability with which features are left out in training.
    """

    def __init__(self, num_classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, 64, 7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = ConvNorm(64, 64, 1)
        self.conv3 = ConvNorm(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = Inception(192, 64, (96, 128), (16, 32), 32)
        self.inception3b = Inception(256, 128, (128, 192), (32, 96), 64)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = Inception(480, 192, (96, 208), (16, 48), 64)
        self.inception4b = Inception(512, 160, (112, 224), (24, 64), 64)
        self.inception4c = Inception(512, 128, (128, 256), (24, 64), 64)
        self.inception4d = Inception(512, 112, (144, 288), (32, 64), 64)
        self.inception4e = Inception(528, 256, (160, 320), (32, 128), 128)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = Inception(832, 256, (160, 320), (32, 128), 128)
        self.inception5b = Inception(832, 384, (192, 384), (48, 128), 128)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = self.inception4c(self.inception4b(self.inception4a(x)))
        x = self.maxpool4(self.inception4e(self.inception4d(x)))
        x = self.inception5b(self.inception5a(x))
        return self.fc(self.dropout(self.avgpool(x).flatten(1)))


def googlenet(num_classes: int = 1000) -> GoogLeNet:
    """GoogLeNet: 6,624,904 parameters for 1,000 classes."""
    return GoogLeNet(num_classes)
