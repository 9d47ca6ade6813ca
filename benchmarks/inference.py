"""Images classified each second, beside PyTorch and ONNX Runtime.

    pip install -e '.[benchmarks]'
    python benchmarks/inference.py                    # everything, and benchmarks/INFERENCE.md
    python benchmarks/inference.py --only resnet50-1 --rounds 5

AlexNet, GoogLeNet and ResNet-50 with the same random weights on the same images of 224 x 224. Every
side has a process of its own that is halted while others run, and takes its turn in every round.
Its logits must be PyTorch's, or its time does not count.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from common import machine, report
from common.pictures import PICTURES, Picture
from common.processes import Failure, Worker
from common.turns import Absent, Outcome, Row, cell, take_turns

RESULTS = Path(__file__).with_name("INFERENCE.md")
BURST = 0.5  # seconds of a turn, at least one batch
TOLERANCE = 1e-4  # of the largest logit

# The peer that the others' logits are compared with comes first.
PEERS = {
    "PyTorch": ("pytorch", "eager"),
    "channels-last": ("pytorch", "channels-last"),
    "torch.compile": ("pytorch", "compile"),
    "ONNX Runtime": ("pytorch", "onnx"),
}
OURS = {"schuss": ("schuss", "plain"), "compiled": ("schuss", "compiled")}
SIDES = {**OURS, **PEERS}
NEEDS = {
    **{side: ["schuss"] for side in OURS},
    **{side: ["torch"] for side in PEERS},
    "ONNX Runtime": ["torch", "onnx", "onnxscript", "onnxruntime"],
}


def measure(picture: Picture, sides: Sequence[str], rounds: int, threads: int) -> Row:
    """All sides on one workload."""
    row: Row = {side: Outcome() for side in sides}
    logits: dict[str, np.ndarray] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        repeats: dict[str, int] = {}
        for side, outcome in row.items():
            try:
                worker = Worker(
                    "common.inference_side:InferenceSide", *SIDES[side], threads=threads
                )
                workers[side] = stack.enter_context(worker)
                missing = worker.ask("prepare", picture.name)
                if missing is not None:
                    raise Absent(missing)
                logits[side] = worker.ask("build")
                repeats[side] = int(np.clip(BURST * 1e3 / worker.ask("time", 1), 1, 1000))
            except Failure as problem:
                outcome.problem, outcome.absent = str(problem), isinstance(problem, Absent)
        compare(row, logits)
        take_turns(row, workers, repeats, rounds)
        for side, worker in workers.items():
            if row[side].counts:
                row[side].memory = worker.ask("peak_memory")
                row[side].description = worker.ask("describe")
    return row


def compare(row: Row, logits: dict[str, np.ndarray]) -> None:
    """Note the sides whose logits are not those of the first peer there is."""
    judges = [side for side in (*PEERS, *OURS) if side in logits]
    for side in judges[1:]:
        expected = logits[judges[0]]
        most = float(np.abs(logits[side] - expected).max() / np.abs(expected).max())
        if not most <= TOLERANCE:  # NaN is not
            problem = f"logits differ by {most:.2g} of the largest ({judges[0]}): does not count"
            row[side].problem = problem


# --- the report ---


def line_of(picture: Picture, row: Row, sides: Sequence[str], rate: float) -> list[str]:
    """The table's line for one workload: what the arithmetic allows, sides, ratios."""
    peers = [row[side].steps for side in PEERS if side in row and row[side].counts]
    ratios = [
        f"{report.ratio(peers, row[side].steps):.2f}{' compiled' if side == 'compiled' else ''}"
        for side in OURS
        if peers and side in row and row[side].counts
    ]
    return [
        picture.title,
        str(picture.batch),
        report.figure(rate / picture.multiply_adds),
        *[cell(row.get(side), picture.batch) for side in sides],
        ", ".join(ratios) or report.NOTHING,
    ]


def lines_of(
    rows: dict[str, Row], sides: Sequence[str], limits: machine.Limits, options: argparse.Namespace
) -> list[str]:
    """The whole report."""
    packages = ["schuss", "numpy", "llvmlite", "torch", "onnxruntime"]
    body = [line_of(PICTURES[name], row, sides, limits.multiply_adds) for name, row in rows.items()]
    memory = [
        [
            PICTURES[name].title,
            str(PICTURES[name].batch),
            *[
                f"{row[side].memory / 2**20:.0f}"
                if side in row and row[side].counts
                else report.NOTHING
                for side in sides
            ],
        ]
        for name, row in rows.items()
    ]
    notes = [
        f"- {PICTURES[name].title}, batch {PICTURES[name].batch}, {side}: {outcome.problem}"
        for name, row in rows.items()
        for side, outcome in row.items()
        if outcome.problem is not None
    ]
    return [
        "# Inference",
        "",
        "Written by `python benchmarks/inference.py`. Images of 224 x 224 classified each second, "
        "in float32, with the same random weights. `schuss` is the model in evaluation mode, "
        "`compiled` what `model.compile_for_inference` makes of it. All sides take turns, in "
        f"processes of their own that are halted while others run: medians of {options.rounds} "
        "rounds, with their quartiles, and of the ratios of rounds. Logits agree with PyTorch's to "
        "a ten-thousandth of the largest, or the side does not count.",
        "",
        report.setting(packages, options.threads),
        "",
        f"The machine: {limits}. The ceiling is the arithmetic alone at that rate, counted as sums "
        "of products; minimal filtering, for convolutions of 3 x 3, does with less.",
        "",
        *report.table(["images a second", "batch", "ceiling", *sides, "schuss / best peer"], body),
        "",
        *report.table(["peak resident memory, MiB", "batch", *sides], memory),
        *(["", "What does not count or is not there:", "", *notes] if notes else []),
    ]


# --- the program ---


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Images classified each second, in turns.")
    add = parser.add_argument
    names = ", ".join(PICTURES)
    add("--only", nargs="+", choices=PICTURES, metavar="NAME", help=f"some of {names}")
    add("--sides", nargs="+", choices=SIDES, metavar="SIDE", help=f"some of {', '.join(SIDES)}")
    add("--rounds", type=int, default=7, help="turns of each side (7)")
    add("--threads", type=int, default=min(2, report.available()), help="of each side (2)")
    add("--skip-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    add("--output", type=Path, help="where to write; INFERENCE.md, if everything was measured")
    options = parser.parse_args()
    if options.rounds < 1 or options.threads < 1:
        parser.error("at least one round and one thread")
    if options.output is None and not (options.only or options.sides or options.skip_compile):
        options.output = RESULTS
    return options


def main() -> None:
    options = arguments()
    sides = list(options.sides or SIDES)
    if options.skip_compile:
        sides = [side for side in sides if side != "torch.compile"]
    for side in list(sides):
        lacking = [each for each in NEEDS[side] if importlib.util.find_spec(each) is None]
        if lacking:
            print(f"{side}: left out, since {', '.join(lacking)} is not installed")
            sides.remove(side)
    limits = machine.measure(options.threads)
    print(limits)
    rows: dict[str, Row] = {}
    for name in options.only or PICTURES:
        rows[name] = measure(PICTURES[name], sides, options.rounds, options.threads)
        print(f"\n{PICTURES[name].title}, batch {PICTURES[name].batch}")
        for side, outcome in rows[name].items():
            shown = outcome.problem or f"{cell(outcome, PICTURES[name].batch)} images/s"
            print(f"  {side:14} {shown}", flush=True)
    limits = limits.better(machine.measure(options.threads))
    lines = lines_of(rows, sides, limits, options)
    print("\n" + "\n".join(lines))
    if options.output is not None:
        report.write(options.output, lines)


if __name__ == "__main__":
    main()
