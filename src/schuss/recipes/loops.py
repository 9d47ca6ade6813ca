"""The plain loop: what `Trainer.fit` comes down to. Recipes use it with `plain=true`."""

from __future__ import annotations

import schuss


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
