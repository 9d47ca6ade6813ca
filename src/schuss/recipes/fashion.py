"""LeNet and (`model=resnet epochs=15 lr=4e-3 mirror=true`) a residual network on Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import schuss
from schuss import nn, optim
from schuss.recipes import loops
from schuss.recipes.recipe import Target, recipe, run_folder
from schuss.training import Accuracy, JSONLines, Trainer


def lenet() -> nn.Module:
    """LeCun et al., 1998, with ReLU and max pooling: (N, 1, 28, 28) to (N, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 6, kernel_size=5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, kernel_size=5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)
        same = stride == 1 and channels_in == channels
        self.shortcut = (
            nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride, bias=False)
        )

    def forward(self, x: schuss.Tensor) -> schuss.Tensor:
        y = self.first_norm(self.first(x)).relu()
        return (self.second_norm(self.second(y)) + self.shortcut(x)).relu()


def resnet() -> nn.Module:  # He et al., 2016: three blocks, (N, 1, 28, 28) to (N, 10)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        Block(16, 16), Block(16, 32, stride=2), Block(32, 64, stride=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


@recipe(Target("accuracy on the test images", 0.90))
def fashion(
    model: Literal["lenet", "resnet"] = "lenet",
    epochs: int = 12,
    batch_size: int = 128,
    lr: float = 2e-3,
    mirror: bool = False,
    limit: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    out: Path = Path("runs/fashion"),
    resume: bool = False,
    plain: bool = False,
) -> float:
    """LeNet or a small residual network on Fashion-MNIST; `limit` takes the first images only.

    Args:
        model: which network.
        epochs: how often to go through the training images.
        batch_size: images in a step.
        lr: the learning rate at the start.
        mirror: show half of the training images mirrored.
        limit: how many training images to use; none for all 60,000.
        seed: of the initial weights and the order.
        root: a folder with the data files; without it they are looked for and downloaded (31 MB).
        out: the folder for checkpoints and history.
        resume: go on with the newest run in that folder.
        plain: train with the plain loop instead of the Trainer, without files.
    """
    schuss.manual_seed(seed)
    training, held_out = loops.fashion_loaders(batch_size, limit, root, mirror)
    network = lenet() if model == "lenet" else resnet()
    optimizer = optim.AdamW(network.parameters(), lr=lr)
    if plain:
        loops.train(network, nn.CrossEntropyLoss(), optimizer, training, epochs)
        return loops.accuracy(network, held_out)
    out = run_folder(out, resume)
    trainer = Trainer(
        network,
        nn.CrossEntropyLoss(),
        optimizer,
        metrics={"accuracy": Accuracy()},
        schedule=optim.CosineAnnealingLR(optimizer, T_max=epochs),
        callbacks=[JSONLines(out / "history.jsonl")],
    )
    folder = out / "checkpoints"
    trainer.fit(training, epochs=epochs, validation=held_out, checkpoints=folder, resume=resume)
    return trainer.evaluate(held_out)["accuracy"]
