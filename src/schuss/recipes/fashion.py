"""LeNet on Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path

import schuss
from schuss import nn, optim
from schuss.recipes import loops
from schuss.recipes.recipe import Target, recipe, records, run_folder
from schuss.training import Accuracy, Trainer


def lenet() -> nn.Module:
    """LeCun et al., 1998, with ReLU and max pooling: (N, 1, 28, 28) to (N, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 6, kernel_size=5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, kernel_size=5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


@recipe(Target("accuracy on the test images", 0.90))
def fashion(
    epochs: int = 12,
    batch_size: int = 128,
    lr: float = 2e-3,
    limit: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    out: Path = Path("runs/fashion"),
    resume: bool = False,
    plain: bool = False,
) -> float:
    """LeNet on Fashion-MNIST.

    Args:
        epochs: how often to go through the training images.
        batch_size: images in a step.
        lr: the learning rate at the start.
        limit: how many training images to use; none for all 60,000.
        seed: of the initial weights and the order.
        root: a folder with the data files; without it they are looked for and downloaded (31 MB).
        out: the folder for checkpoints and history.
        resume: go on with the newest run in that folder.
        plain: train with the plain loop instead of the Trainer, without files.
    """
    schuss.manual_seed(seed)
    network, loss = lenet(), nn.CrossEntropyLoss()
    training, held_out = loops.fashion_loaders(batch_size, limit, root)
    optimizer = optim.AdamW(network.parameters(), lr=lr)
    if plain:
        loops.train(network, loss, optimizer, training, epochs)
        return loops.accuracy(network, held_out)
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
