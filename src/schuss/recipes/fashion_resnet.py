"""A small residual network on Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import schuss
from schuss import nn, optim
from schuss.models.resnet import BasicBlock
from schuss.random import Generator
from schuss.recipes import loops
from schuss.recipes.recipe import Target, recipe, records, run_folder
from schuss.training import Accuracy, Trainer


def resnet() -> nn.Module:  # He et al., 2016: three blocks, (N, 1, 28, 28) to (N, 10)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        BasicBlock(16, 16), BasicBlock(16, 32, stride=2), BasicBlock(32, 64, stride=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def varied(sample: tuple[Any, Any], generator: Generator) -> tuple[Any, Any]:
    """An image (1, H, W) mirrored by chance and moved by up to two pixels: clothes stay clothes."""
    image, label = sample
    turned, down, right = generator.bits(3).tolist()
    _, height, width = image.shape
    down, right = down % 5, right % 5
    framed = np.pad(image[..., ::-1] if turned & 1 else image, ((0, 0), (2, 2), (2, 2)))
    return framed[:, down : down + height, right : right + width], label


@recipe(Target("accuracy on the test images", 0.93))
def fashion_resnet(
    epochs: int = 20,
    batch_size: int = 128,
    lr: float = 4e-3,
    weight_decay: float = 0.05,
    label_smoothing: float = 0.05,
    limit: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    out: Path = Path("runs/fashion-resnet"),
    resume: bool = False,
) -> float:
    """A small residual network on Fashion-MNIST, on images that are mirrored and moved by chance.

    Args:
        epochs: how often to go through the training images.
        batch_size: images in a step.
        lr: the learning rate at the start; it falls to zero along a cosine.
        weight_decay: of AdamW.
        label_smoothing: the share of a label that is spread over all classes.
        limit: how many training images to use; none for all 60,000.
        seed: of the initial weights, the order, and how images are varied.
        root: a folder with the data files; without it they are looked for and downloaded (31 MB).
        out: the folder for checkpoints and history.
        resume: go on with the newest run in that folder.
    """
    schuss.manual_seed(seed)
    network, loss = resnet(), nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    training, held_out = loops.fashion_loaders(batch_size, limit, root, varied)
    optimizer = optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
    out = run_folder(out, resume)
    trainer = Trainer(
        network,
        loss,
        optimizer,
        metrics={"accuracy": Accuracy()},
        schedule=optim.CosineAnnealingLR(optimizer, T_max=epochs),
        callbacks=records(out),
    )
    folder = out / "checkpoints"
    trainer.fit(training, epochs=epochs, validation=held_out, checkpoints=folder, resume=resume)
    return trainer.evaluate(held_out)["accuracy"]
