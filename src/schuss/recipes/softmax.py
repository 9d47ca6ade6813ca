"""Softmax regression on Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path

import schuss
from schuss import nn, optim
from schuss.recipes import loops
from schuss.recipes.recipe import Target, recipe
from schuss.training import Accuracy, Trainer


@recipe(Target("accuracy on the test images", 0.83))
def softmax(
    epochs: int = 10,
    batch_size: int = 256,
    lr: float = 0.3,
    limit: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    plain: bool = False,
) -> float:
    """Softmax regression on Fashion-MNIST: one linear layer and cross-entropy.

    Args:
        epochs: how often to go through the training images.
        batch_size: images in a step.
        lr: the learning rate at the start.
        limit: how many training images to use; none for all 60,000.
        seed: of the initial weights and the order.
        root: a folder with the data files; without it they are looked for and downloaded (31 MB).
        plain: train with the plain loop instead of the Trainer.
    """
    schuss.manual_seed(seed)
    training, held_out = loops.fashion_loaders(batch_size, limit, root)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    optimizer = optim.SGD(model.parameters(), lr=lr)
    loss = nn.CrossEntropyLoss()
    if plain:
        loops.train(model, loss, optimizer, training, epochs)
        return loops.accuracy(model, held_out)
    trainer = Trainer(
        model,
        loss,
        optimizer,
        metrics={"accuracy": Accuracy()},
        schedule=optim.ExponentialLR(optimizer, gamma=0.85),
    )
    trainer.fit(training, epochs=epochs, validation=held_out)
    return trainer.evaluate(held_out)["accuracy"]
