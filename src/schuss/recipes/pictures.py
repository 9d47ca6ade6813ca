"""Pictures that recipes draw. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from schuss.errors import require
from schuss.files import atomic_write


def draw_paths(found: dict[str, np.ndarray], steep: float, path: Path) -> None:
    """Paths (N, 2) by name, each in a picture of a valley that is `steep` along the second axis."""
    matplotlib = require("matplotlib.figure", "plot", "optimizers")
    figure = matplotlib.Figure(figsize=(9, 5), layout="constrained")
    a, b = np.meshgrid(np.linspace(-10, 4, 200), np.linspace(-3, 3, 200))
    for axes, (name, points) in zip(figure.subplots(2, 3).flat, found.items(), strict=True):
        axes.contour(a, b, 0.5 * (a**2 + steep * b**2), levels=np.geomspace(0.2, 150, 12),
                     colors="0.8", linewidths=0.7)  # fmt: skip
        axes.plot(points[:, 0], points[:, 1], "o-", ms=2.5, lw=1)
        axes.plot(0, 0, "k*")
        axes.set(title=f"{name}, {len(points) - 1} steps", xlim=(-10, 4), ylim=(-3, 3))
    _save(figure, path)


def draw_curves(losses: dict[str, list[float]], path: Path) -> None:
    """Losses by name, step by step."""
    matplotlib = require("matplotlib.figure", "plot", "optimizers")
    figure = matplotlib.Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in losses.items():
        axes.semilogy(values, label=name)
    axes.set(xlabel="step", ylabel="training loss", title="A hidden layer on the digits")
    axes.legend()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with atomic_write(path) as file:
        figure.savefig(file, dpi=120)
    print(f"drawn: {path}")
