"""Training steps and import times, beside PyTorch where it is installed.

    pip install -e '.[bench]'
    python benchmarks/steps.py

Both frameworks start from the same weights and data, take turns, and their losses must agree, or
the row does not count. Writes benchmarks/RESULTS.md: medians with the range between the quartiles.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np

import schuss
from schuss import nn, optim

ROUNDS = 30
RESULTS = Path(__file__).with_name("RESULTS.md")
Step = Callable[[], float]


def networks(library):  # type: ignore[no-untyped-def]
    """The workloads: name, network, input shape, classes (None for regression). `library` is nn or
    torch.nn.
    """
    n = library
    sequential = n.Sequential
    yield "linear regression 2-1, batch 10", sequential(n.Linear(2, 1)), (10, 2), None
    mlp = sequential(n.Linear(784, 256), n.ReLU(), n.Linear(256, 10))
    yield "MLP 784-256-10, batch 256", mlp, (256, 784), 10
    lenet = sequential(
        n.Conv2d(1, 6, 5, padding=2),
        n.Sigmoid(),
        n.AvgPool2d(2),
        n.Conv2d(6, 16, 5),
        n.Sigmoid(),
        n.AvgPool2d(2),
        n.Flatten(),
        n.Linear(400, 120),
        n.Sigmoid(),
        n.Linear(120, 84),
        n.Sigmoid(),
        n.Linear(84, 10),
    )
    yield "LeNet (sigmoid, average pooling) 28x28, batch 256", lenet, (256, 1, 28, 28), 10


def batch(shape, classes):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    y = rng.integers(0, classes, shape[0]) if classes else x[:, :1] * 2 - 1
    return x, y


def our_step(model, x, y, classes) -> Step:  # type: ignore[no-untyped-def]
    x, y = schuss.tensor(x), schuss.tensor(y)
    loss_function = nn.CrossEntropyLoss() if classes else nn.MSELoss()
    optimizer = optim.SGD(model.parameters(), lr=0.05)

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def torch_step(model, x, y, classes) -> Step:  # type: ignore[no-untyped-def]
    import torch

    x, y = torch.tensor(x), torch.tensor(y)
    loss_function = torch.nn.CrossEntropyLoss() if classes else torch.nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def milliseconds(steps: list[Step], repeats: int) -> list[list[float]]:
    """For each step function its times, measured in turns."""
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(ROUNDS):
        for taken, step in zip(times, steps, strict=True):
            started = time.perf_counter()
            for _ in range(repeats):
                step()
            taken.append((time.perf_counter() - started) / repeats * 1e3)
    return times


def shown(times: list[float]) -> str:
    low, median, high = np.percentile(times, [25, 50, 75])
    return f"{median:.3g} ({low:.3g} to {high:.3g})"


def import_times(statement: str) -> list[float]:
    """Wall milliseconds of a fresh process that runs `statement`, less those of an empty one."""

    def run(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return (time.perf_counter() - started) * 1e3

    run(statement)
    return [run(statement) - run("pass") for _ in range(15)]


def main() -> None:
    peer = importlib.util.find_spec("torch") is not None
    rows = []
    if peer:
        import torch

        peers = {name: (model, *rest) for name, model, *rest in networks(torch.nn)}
    for name, model, shape, classes in networks(nn):
        x, y = batch(shape, classes)
        steps = [our_step(model, x, y, classes)]
        if peer:
            twin = peers[name][0]
            with torch.no_grad():
                for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
                    theirs.copy_(torch.tensor(mine.numpy()))
            steps.append(torch_step(twin, x, y, classes))
        curves = np.array([[step() for _ in range(20)] for step in steps])
        np.testing.assert_allclose(curves[-1], curves[0], rtol=1e-4, err_msg=name)
        times = milliseconds(steps, 20 if classes is None else 2)
        ratio = f"{np.median(times[1]) / np.median(times[0]):.2f}" if peer else "–"
        theirs = shown(times[1]) if peer else "–"
        rows.append(f"| {name} | {shown(times[0])} | {theirs} | {ratio} |")
        print(rows[-1], flush=True)
    imports = [f"| `{s}` | {shown(import_times(s))} |" for s in ("import numpy", "import schuss")]
    packages = ["numpy", *(["torch"] if peer else [])]
    RESULTS.write_text(
        "\n".join(
            [
                "# Results",
                "",
                "Written by `python benchmarks/steps.py`. Medians with the quartiles; forward, "
                "backward, update and a look at the loss; float32, SGD. "
                "The reference tier: NumPy, op by op.",
                "",
                f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python "
                f"{platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in packages),
                "",
                "| step, ms | schuss | PyTorch | PyTorch / schuss |",
                "|---|---|---|---|",
                *rows,
                "",
                "| fresh process, ms beside an empty one | |",
                "|---|---|",
                *imports,
                "",
            ]
        ),
        encoding="utf-8",
    )
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
