"""Training steps and import times, beside PyTorch where it is installed.

    pip install -e '.[bench]'
    python benchmarks/steps.py

Both frameworks start from the same weights and data, take turns, and their losses must agree, or
the row does not count. Writes benchmarks/RESULTS.md: medians with the range between the quartiles.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
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
    """The plain loop's body. PyTorch's is the same, letter by letter, with its own modules."""
    return training_step(nn, optim, model, schuss.tensor(x), schuss.tensor(y), classes)


def torch_step(model, x, y, classes) -> Step:  # type: ignore[no-untyped-def]
    import torch

    return training_step(torch.nn, torch.optim, model, torch.tensor(x), torch.tensor(y), classes)


def training_step(layers, optimizers, model, x, y, classes) -> Step:  # type: ignore[no-untyped-def]
    loss_function = layers.CrossEntropyLoss() if classes else layers.MSELoss()
    optimizer = optimizers.SGD(model.parameters(), lr=0.05)

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def serve(connection, peer: bool) -> None:  # type: ignore[no-untyped-def]
    """A framework in a process of its own: answers "weights", "steps" and "time" for workloads.

    One process for both would let their thread pools wait actively for each other's cores.
    """
    if peer:
        import torch

        library = torch.nn
    else:
        library = nn
    made = {name: (model, shape, classes) for name, model, shape, classes in networks(library)}
    steps: dict[str, Step] = {}
    while True:
        order, name, argument = connection.recv()
        if order == "stop":
            return
        model, shape, classes = made[name]
        if order == "weights" and not peer:
            connection.send([each.numpy() for each in model.parameters()])
        elif order == "weights":
            with torch.no_grad():
                for mine, theirs in zip(model.parameters(), argument, strict=True):
                    mine.copy_(torch.tensor(theirs))
            connection.send(None)
        elif order == "steps":
            make = torch_step if peer else our_step
            steps[name] = make(model, *batch(shape, classes), classes)
            connection.send([steps[name]() for _ in range(argument)])
        elif order == "time":
            started = time.perf_counter()
            for _ in range(argument):
                steps[name]()
            connection.send((time.perf_counter() - started) / argument * 1e3)


class Worker:
    """The other end of `serve`."""

    def __init__(self, peer: bool) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(theirs, peer), daemon=True)
        self.process.start()

    def ask(self, order: str, name: str = "", argument=None):  # type: ignore[no-untyped-def]
        self.connection.send((order, name, argument))
        return None if order == "stop" else self.connection.recv()


def shown(times: Sequence[float]) -> str:
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
    workers = [Worker(False), *([Worker(True)] if peer else [])]
    rows = []
    for name, _, _, classes in networks(nn):
        if peer:
            workers[1].ask("weights", name, workers[0].ask("weights", name))
        curves = [worker.ask("steps", name, 20) for worker in workers]
        np.testing.assert_allclose(curves[-1], curves[0], rtol=1e-4, err_msg=name)
        repeats = 50 if classes is None else 5
        times = np.array([[w.ask("time", name, repeats) for w in workers] for _ in range(ROUNDS)]).T
        ratio = f"{np.median(times[1]) / np.median(times[0]):.2f}" if peer else "–"
        theirs = shown(times[1]) if peer else "–"
        rows.append(f"| {name} | {shown(times[0])} | {theirs} | {ratio} |")
        print(rows[-1], flush=True)
    for worker in workers:
        worker.ask("stop")
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
