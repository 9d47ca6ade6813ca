"""A hidden layer fits a curve, and the picture of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import schuss
from schuss import nn, optim
from schuss.errors import require
from schuss.files import atomic_write, make_folder
from schuss.recipes.recipe import Target, recipe


def curve(x: Any) -> Any:
    """What is to be learned, on [-1, 1]."""
    return schuss.sin(3 * math.pi * x) * (1 - x) / 2 + 0.3 * x


@recipe(Target("root mean squared error", 0.02, at_least=False))
def approximate(
    hidden: int = 64,
    steps: int = 2000,
    lr: float = 0.01,
    seed: int = 0,
    out: Path = Path("runs/approximate"),
) -> float:
    """One hidden layer fits a curve (universal approximation); draws both as curve.png.

    Args:
        hidden: units of the hidden layer.
        steps: of the optimizer.
        lr: the learning rate at the start.
        seed: of the initial weights.
        out: the folder for the picture.
    """
    matplotlib = require("matplotlib.figure", "plot", "approximate")
    make_folder(out)
    schuss.manual_seed(seed)
    x = schuss.linspace(-1, 1, 200).reshape(200, 1)
    y = curve(x)
    first = nn.Linear(1, hidden)
    for each in first.parameters():
        nn.init.uniform_(each, -10, 10)  # steep and shifted units, spread over the interval
    model = nn.Sequential(first, nn.Tanh(), nn.Linear(hidden, 1))
    optimizer = optim.Adam(model.parameters(), lr=lr)
    schedule = optim.CosineAnnealingLR(optimizer, T_max=steps)
    for step in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % (steps // 4 or 1) == 0:
            print(f"step {step + 1}: loss {loss.item():.2e}")
    fitted = model(x).detach()
    figure = matplotlib.Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(x.numpy(), y.numpy(), label="curve")
    axes.plot(x.numpy(), fitted.numpy(), "--", label=f"network, {hidden} hidden units")
    axes.set(xlabel="x", ylabel="y", title="Universal approximation")
    axes.legend()
    with atomic_write(out / "curve.png") as file:
        figure.savefig(file, dpi=120)
    print(f"drawn: {out / 'curve.png'}")
    return math.sqrt(nn.functional.mse_loss(fitted, y).item())
