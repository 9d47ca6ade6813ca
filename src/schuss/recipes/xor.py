"""Exclusive or: what one layer cannot do and two can."""

from __future__ import annotations

import schuss
from schuss import nn, optim
from schuss.recipes.recipe import Target, recipe


@recipe(Target("share of the four cases that are right", 1.0))
def xor(hidden: int = 8, steps: int = 500, lr: float = 0.05, seed: int = 0) -> float:
    """A hidden layer learns exclusive or, beside a linear model that cannot.

    Args:
        hidden: units of the hidden layer.
        steps: of the optimizer.
        lr: the learning rate.
        seed: of the initial weights.
    """
    schuss.manual_seed(seed)
    x = schuss.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = schuss.tensor([[0.0], [1.0], [1.0], [0.0]])
    models = {
        "linear": nn.Linear(2, 1),
        "hidden layer": nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 1)),
    }
    right = 0.0
    for name, model in models.items():
        optimizer = optim.Adam(model.parameters(), lr=lr)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
            loss.backward()
            optimizer.step()
        answers = (model(x) > 0).astype(schuss.float32)
        right = float((answers == y).astype(schuss.float32).mean())
        print(f"{name}: loss {loss.item():.4f}, answers {answers.flatten().tolist()}")
    return right
