"""Convolutional network on the embedded handwritten digits."""

from __future__ import annotations

from pathlib import Path

import schuss
from schuss import nn, optim
from schuss.data import DataLoader, Digits
from schuss.recipes import loops
from schuss.recipes.recipe import Target, recipe, records, run_folder
from schuss.training import Accuracy, Trainer


def network() -> nn.Module:
    """(N, 1, 8, 8) images to (N, 10) logits."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * 4 * 4, 10),
    )  # fmt: skip


@recipe(Target("accuracy on held-out digits", 0.98))
def digits(
    epochs: int = 15,
    batch_size: int = 32,
    lr: float = 2e-3,
    seed: int = 0,
    out: Path = Path("runs/digits"),
    resume: bool = False,
    plain: bool = False,
) -> float:
    """Convolutional network on the 1,797 handwritten digits that come with the package.

    Args:
        epochs: how often to go through the training digits.
        batch_size: digits in a step.
        lr: the learning rate at the start.
        seed: of the initial weights, the order and the dropout.
        out: the folder for checkpoints, history and learning curves.
        resume: go on with the newest run in that folder.
        plain: train with the plain loop instead of the Trainer, without files.
    """
    schuss.manual_seed(seed)
    training = DataLoader(Digits("train"), batch_size, shuffle=True)
    held_out = DataLoader(Digits("test"), batch_size=256)
    model = network()
    optimizer = optim.AdamW(model.parameters(), lr=lr)
    loss = nn.CrossEntropyLoss()
    if plain:
        loops.train(model, loss, optimizer, training, epochs)
        return loops.accuracy(model, held_out)
    out = run_folder(out, resume)
    trainer = Trainer(
        model,
        loss,
        optimizer,
        metrics={"accuracy": Accuracy()},
        schedule=optim.CosineAnnealingLR(optimizer, T_max=epochs),
        callbacks=records(out),
    )
    trainer.fit(
        training, epochs=epochs, validation=held_out, checkpoints=out / "checkpoints", resume=resume
    )
    return trainer.evaluate(held_out)["accuracy"]
