"""MobileNet, version 2.

M. Sandler, A. Howard, M. Zhu, A. Zhmoginov and L.-C. Chen, "MobileNetV2: inverted residuals and
linear bottlenecks" (2018).
"""

from __future__ import annotations

from schuss import nn
from schuss.tensor import Tensor

# Of each group of blocks: expansion, channels, how many blocks, stride of the first (table 2).
_GROUPS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
    (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def _conv_norm(
    inputs: int, outputs: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution that keeps the size but for the stride, batch normalisation, ReLU6."""
    padding = kernel_size // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """Wider by a 1x1 convolution, a depthwise 3x3 one, narrow again; and a way around where the
    shapes are equal: (N, inputs, H, W) -> (N, outputs, H', W').
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.around = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([_conv_norm(inputs, hidden, 1)] if expansion != 1 else []),
            _conv_norm(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.around else self.conv(x)


class MobileNetV2(nn.Module):
    """Images (N, 3, H, W), usually 224 x 224, to logits (N, num_classes).

    Args:
        num_classes: how many there are.
        dropout: the probability with which features are left out in training.
    """

    def __init__(self, num_classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        self.features = nn.Sequential(_conv_norm(3, 32, 3, stride=2))
        inputs = 32
        for expansion, outputs, count, stride in _GROUPS:
            for place in range(count):
                step = stride if place == 0 else 1
                self.features.append(InvertedResidual(inputs, outputs, step, expansion))
                inputs = outputs
        self.features.append(_conv_norm(inputs, 1280, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def mobilenet_v2(num_classes: int = 1000) -> MobileNetV2:
    """MobileNet version 2: 3,504,872 parameters for 1,000 classes."""
    return MobileNetV2(num_classes)
