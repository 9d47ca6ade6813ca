"""AlexNet, in the form with one column.

A. Krizhevsky, I. Sutskever and G. Hinton, "ImageNet classification with deep convolutional neural
networks" (2012); A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks"
(2014).
"""

from __future__ import annotations

from schuss import nn
from schuss.tensor import Tensor


class AlexNet(nn.Module):
    """Images (N, 3, H, W), made for H = W = 224, to logits (N, num_classes).

    Args:
        num_classes: how many there are.
        dropout: the probability with which features are left out in training.
    """

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, kernel_size=3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(),
            nn.Dropout(dropout), nn.Linear(4096, 4096), nn.ReLU(),
            nn.Linear(4096, num_classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def alexnet(num_classes: int = 1000) -> AlexNet:
    """AlexNet: 61,100,840 parameters for 1,000 classes."""
    return AlexNet(num_classes)
