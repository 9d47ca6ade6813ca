"""What training in half precision costs in accuracy; writes PRECISION.md.

    python benchmarks/precision.py            # some minutes
    python benchmarks/precision.py --quick    # one seed, few steps; prints only

The recipe `digits` is trained with `Trainer(precision=...)` from several seeds, and two networks of
the training benchmark go some way on one batch, from the same weights, with and without `autocast`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import schuss
from common import report
from common.training_schuss import make
from common.workloads import WORKLOADS
from schuss import nn, optim
from schuss.data import DataLoader, Digits
from schuss.recipes.digits import network
from schuss.training import Accuracy, Trainer

RESULTS = Path(__file__).with_name("PRECISION.md")
PRECISIONS = ("float32", "bfloat16", "float16")
EPOCHS = 15
STEPS = {"mlp-1024": 200, "gpt": 60}
SHOWN = 5  # losses of a curve


def digits(precision: str, seed: int, epochs: int) -> tuple[float, float]:
    """Held-out accuracy, and the loss of the last epoch."""
    schuss.manual_seed(seed)
    training = DataLoader(Digits("train"), 32, shuffle=True)
    model = network()
    optimizer = optim.AdamW(model.parameters(), lr=2e-3)
    trainer = Trainer(
        model,
        nn.CrossEntropyLoss(),
        optimizer,
        metrics=[Accuracy()],
        schedule=optim.CosineAnnealingLR(optimizer, T_max=epochs),
        precision=precision,  # type: ignore[arg-type]
    )
    history = trainer.fit(training, epochs=epochs, progress=False)
    held_out = DataLoader(Digits("test"), batch_size=256)
    return trainer.evaluate(held_out)["accuracy"], history[-1]["loss"]


def curve(name: str, steps: int) -> list[float]:
    """Losses of the first steps of a workload."""
    workload = WORKLOADS[name]
    step = make(workload, "plain", workload.weights(), workload.batch())
    return [step().item() for _ in range(steps)]


def spread(values: list[float], show: str) -> str:
    return f"{np.mean(values):{show}} ({min(values):{show}} to {max(values):{show}})"


def lines_of(
    runs: dict[str, list[tuple[float, float]]], curves: dict[str, tuple[list[float], list[float]]]
) -> list[str]:
    """The report, from the runs by precision and the curves in float32 and bfloat16 by name."""
    seeds = len(next(iter(runs.values())))
    body = [
        [precision, *(spread(list(each), ".4f") for each in zip(*pairs, strict=True))]
        for precision, pairs in runs.items()
    ]
    lines = [
        "# Accuracy of training in half precision",
        "",
        "Written by `python benchmarks/precision.py`. Parameters and optimizers are in float32; "
        "products are in the precision that is named.",
        "",
        report.setting(["schuss", "numpy", "llvmlite"], schuss.get_num_threads()),
        "",
        f"The recipe `digits`, {EPOCHS} epochs: mean of {seeds} seeds, with the least and the "
        "largest.",
        "",
        *report.table(["precision", "held-out accuracy", "last training loss"], body),
    ]
    for name, (plain, mixed) in curves.items():
        places = np.linspace(0, len(plain) - 1, SHOWN).astype(int)
        rows = [
            [kind, *(f"{losses[i]:.5f}" for i in places)]
            for kind, losses in (("float32", plain), ("bfloat16", mixed))
        ]
        apart = np.abs(np.subtract(plain, mixed)).max()
        lines += [
            "",
            f"{WORKLOADS[name].title}, one batch: losses that are {apart:.2g} apart at most, "
            f"{apart / np.ptp(plain):.2%} of the way that they go.",
            "",
            *report.table(["step", *(str(i + 1) for i in places)], rows),
        ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="of the recipe (3)")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps; prints only")
    options = parser.parse_args()
    seeds, epochs = (1, 1) if options.quick else (options.seeds, EPOCHS)
    runs = {
        precision: [digits(precision, seed, epochs) for seed in range(seeds)]
        for precision in PRECISIONS
    }
    curves = {}
    for name, steps in STEPS.items():
        count = 5 if options.quick else steps
        curves[name] = curve(name, count), curve(f"{name}-bfloat16", count)
    lines = lines_of(runs, curves)
    print("\n".join(lines))
    if not options.quick:
        report.write(RESULTS, lines)


if __name__ == "__main__":
    main()
