"""Optimizers side by side: their paths in a narrow valley, and their curves on the digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import schuss
from schuss import Tensor, nn, optim
from schuss.data import DataLoader, Digits
from schuss.files import make_folder
from schuss.recipes import pictures
from schuss.recipes.recipe import Target, recipe

START, STEEP = (-9.0, 2.0), 25.0
Method = tuple[Any, dict[str, Any], float, float]  # lr in the valley and on the digits
METHODS: dict[str, Method] = {
    "SGD": (optim.SGD, {}, 0.07, 0.5),
    "momentum": (optim.SGD, {"momentum": 0.85}, 0.03, 0.2),
    "Adagrad": (optim.Adagrad, {}, 1.5, 0.05),
    "Adam": (optim.Adam, {}, 0.6, 0.02),
    "L-BFGS": (optim.LBFGS, {"max_iter": 1, "line_search_fn": "strong_wolfe"}, 1.0, 1.0),
}


def valley(x: Tensor) -> Tensor:
    """Badly conditioned: its curvature is 1 along the first axis, and 25 along the second."""
    return 0.5 * (x * x * schuss.tensor([1.0, STEEP])).sum()


def one_step(optimizer: optim.Optimizer, loss: Callable[[], Tensor]) -> float:
    """A step of any optimizer; the loss before."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    if isinstance(optimizer, optim.LBFGS):
        return optimizer.step(closure).item()
    value = closure()
    optimizer.step()
    return value.item()


def path(name: str, steps: int) -> np.ndarray:
    """Where an optimizer goes in the valley: (steps + 1, 2)."""
    method, settings, lr, _ = METHODS[name]
    x = schuss.tensor(START).requires_grad_()
    optimizer, points = method([x], lr=lr, **settings), [START]
    for _ in range(steps):
        one_step(optimizer, lambda: valley(x))
        points.append(tuple(x.tolist()))
    return np.array(points)


def curve(name: str, model: nn.Module, steps: int) -> list[float]:
    """The loss of an optimizer on the digits, all of which it sees in each step."""
    x, y = next(iter(DataLoader(Digits("train"), batch_size=10_000)))
    loss = nn.CrossEntropyLoss()
    if name == "K-FAC":
        kfac = optim.KFAC(model, loss, lr=0.3)
        return [kfac.step(x, y).item() for _ in range(steps)]
    method, settings, _, lr = METHODS[name]
    optimizer = method(model.parameters(), lr=lr, **settings)
    return [one_step(optimizer, lambda: loss(model(x), y)) for _ in range(steps)]


@recipe(Target("best accuracy on the test digits", 0.96))
def optimizers(
    steps: int = 60, hidden: int = 32, seed: int = 0, out: Path = Path("runs/optimizers")
) -> float:
    """First- and second-order optimizers side by side; draws paths.png and curves.png.

    Args:
        steps: of each optimizer, in the valley and on the digits.
        hidden: units of the hidden layer.
        seed: of the initial weights.
        out: the folder for the pictures.
    """
    make_folder(out)
    paths = {name: path(name, steps) for name in METHODS}
    newton = optim.newton(valley, schuss.tensor(START))
    paths["Newton"] = np.array([START, tuple(newton.x.tolist())])
    pictures.draw_paths(paths, STEEP, out / "paths.png")
    curves, accuracies = {}, []
    x, y = next(iter(DataLoader(Digits("test"), batch_size=10_000)))
    for name in (*METHODS, "K-FAC"):
        schuss.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 10))
        curves[name] = curve(name, model, steps)
        accuracies.append(float((model(x).argmax(axis=1) == y).numpy().mean()))
        print(f"{name}: loss {curves[name][-1]:.4f}, test accuracy {accuracies[-1]:.4f}")
    pictures.draw_curves(curves, out / "curves.png")
    return max(accuracies)
