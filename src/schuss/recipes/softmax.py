"""Softmax regression on Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path

import schuss
from schuss import nn, optim
from schuss.data import DataLoader, Dataset, FashionMNIST, Subset
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
    """Softmax regression on Fashion-MNIST: one linear layer and cross-entropy."""
    schuss.manual_seed(seed)
    images: Dataset = FashionMNIST("train", root=root)
    test_images: Dataset = FashionMNIST("test", root=root)
    if limit is not None:
        images, test_images = Subset(images, range(limit)), Subset(test_images, range(limit // 4))
    training = DataLoader(images, batch_size, shuffle=True)
    held_out = DataLoader(test_images, batch_size=1000)
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
