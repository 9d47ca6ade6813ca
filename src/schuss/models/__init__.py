"""Networks that are known by their names, with random initial weights.

Definitions and the names of parameters of the networks for images are torchvision's, so that state
dicts of either fit the other.
"""

from schuss.models.alexnet import AlexNet, alexnet
from schuss.models.googlenet import GoogLeNet, googlenet
from schuss.models.gpt import GPT
from schuss.models.mobilenet import MobileNetV2, mobilenet_v2
from schuss.models.resnet import (
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)

__all__ = [
    "GPT",
    "AlexNet",
    "GoogLeNet",
    "MobileNetV2",
    "ResNet",
    "alexnet",
    "googlenet",
    "mobilenet_v2",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
]
