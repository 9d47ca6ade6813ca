"""The plain loop, what `Trainer.fit` comes down to: recipes use it with `plain=true`. And data."""

from __future__ import annotations

from pathlib import Path

import schuss
from schuss.data import DataLoader, Dataset, FashionMNIST, Subset
from schuss.data.dataset import Transform


def train(model, loss_function, optimizer, loader, epochs):  # type: ignore[no-untyped-def]
    """Ten lines to train a network."""
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = loss_function(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / len(loader):.4f}")


def accuracy(model, loader) -> float:  # type: ignore[no-untyped-def]
    """The share of samples whose largest output is the label."""
    model.eval()
    right = 0
    with schuss.no_grad():
        for x, y in loader:
            right += int((model(x).argmax(axis=1) == y).sum())
    return right / len(loader.dataset)


def fashion_loaders(
    batch_size: int, limit: int | None, root: Path | None, transform: Transform | None = None
) -> tuple[DataLoader, DataLoader]:
    """Training and test batches of Fashion-MNIST; with `limit`, of the first images only.

    `transform` applies to the training images.
    """
    images: Dataset = FashionMNIST("train", root=root, transform=transform)
    test_images: Dataset = FashionMNIST("test", root=root)
    if limit is not None:
        images, test_images = Subset(images, range(limit)), Subset(test_images, range(limit // 4))
    return DataLoader(images, batch_size, shuffle=True), DataLoader(test_images, batch_size=500)
