"""Training steps beside PyTorch and JAX: how long, how soon, and in how much memory.

    pip install -e '.[benchmarks]'
    python benchmarks/training.py                    # everything, and benchmarks/RESULTS.md
    python benchmarks/training.py --only mlp-256 gpt --rounds 5

Every side starts from the same weights and data, has a process of its own that is halted while
others run, and takes its turn in every round. Its losses must follow PyTorch's, or its time does
not count.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from common import machine, report
from common.processes import Cache, Failure, Worker
from common.turns import Absent, Outcome, Row, cell, take_turns
from common.workloads import WORKLOADS, Workload

RESULTS = Path(__file__).with_name("RESULTS.md")
CURVE = 20  # steps whose losses are compared
BURST = 0.25  # seconds of a turn, at least one step
FIRST_STEPS = 3  # how often a first step is measured, unless it takes long
PATIENCE = 20.0  # seconds after which it is not measured again

# The peer that the others' losses are compared with comes first.
PEERS = {
    "PyTorch": ("pytorch", "eager"),
    "torch.compile": ("pytorch", "compile"),
    "channels-last": ("pytorch", "channels-last"),
    "JAX": ("jax", "jit"),
}
OURS = {"schuss": ("schuss", "plain"), "schuss.jit": ("schuss", "jit")}
SIDES = {**OURS, **PEERS}
NEEDS = {"schuss": ["schuss"], "pytorch": ["torch"], "jax": ["jax", "flax", "optax"]}


def first_step(
    side: str, workload: Workload, threads: int, cache: Cache
) -> tuple[Worker, float, float]:
    """A fresh process that has done one step; seconds from its start, and the loss."""
    worker = Worker(
        "common.training_side:TrainingSide",
        *SIDES[side],
        threads=threads,
        environment=cache.environment,
    )
    try:
        missing = worker.ask("prepare", workload.name)  # weights and data: everybody's, not timed
        if missing is not None:
            raise Absent(missing)
        started = time.perf_counter()
        loss = worker.ask("build")
        return worker, worker.seconds + time.perf_counter() - started, loss
    except BaseException:
        worker.stop()
        raise


def measure(workload: Workload, sides: Sequence[str], options: argparse.Namespace) -> Row:
    """All sides on one workload."""
    row: Row = {side: Outcome() for side in sides}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        caches = {side: Cache(folder) for side in sides}
        workers: dict[str, Worker] = {}
        repeats: dict[str, int] = {}
        for side, outcome in row.items():
            try:
                worker, seconds, loss = first_step(side, workload, options.threads, caches[side])
                workers[side] = stack.enter_context(worker)
                outcome.cold = [seconds]
                outcome.curve = [loss, *worker.ask("losses", CURVE - 1)]
                once = worker.ask("time", 1)
                repeats[side] = int(np.clip(BURST * 1e3 / once, 1, 5000))
            except Failure as problem:
                outcome.problem, outcome.absent = str(problem), isinstance(problem, Absent)
        compare(row, workload.tolerance)
        take_turns(row, workers, repeats, options.rounds)
        for side, worker in workers.items():
            if row[side].counts:
                row[side].memory = worker.ask("peak_memory")
                row[side].description = worker.ask("describe")
            worker.stop()
        for side, outcome in row.items():
            if outcome.counts and not options.quick:
                try:
                    more_first_steps(side, workload, options.threads, outcome, caches[side], folder)
                except Failure as problem:
                    outcome.problem = str(problem)
    return row


def compare(row: Row, tolerance: float = 1e-3) -> None:
    """Note the sides whose losses do not follow those of the first peer there is."""
    judges = [side for side in (*PEERS, *OURS) if side in row and row[side].curve]
    for side in judges[1:]:
        difference = report.disagreement(row[side].curve, row[judges[0]].curve, tolerance)
        if difference is not None:
            row[side].problem = f"{difference} ({judges[0]}): does not count"


def more_first_steps(
    side: str, workload: Workload, threads: int, outcome: Outcome, used: Cache, folder: str
) -> None:
    """Time first steps with the cache that the side has filled by now, and with empty ones."""

    def again(cache: Cache) -> float:
        worker, seconds, _ = first_step(side, workload, threads, cache)
        worker.stop()
        return seconds

    while len(outcome.warm) < FIRST_STEPS and sum(outcome.warm) < PATIENCE:
        outcome.warm.append(again(used))
    while len(outcome.cold) < FIRST_STEPS and sum(outcome.cold) < PATIENCE:
        outcome.cold.append(again(Cache(folder)))


# --- the report ---


def step_cells(workload: Workload, row: Row, sides: Sequence[str], rate: float) -> list[str]:
    """The table's line for one workload: floor, sides, ratios."""
    peers = [row[side].steps for side in PEERS if side in row and row[side].counts]
    ratios = [
        f"{report.ratio(peers, row[side].steps):.2f}{' with jit' if side != 'schuss' else ''}"
        for side in OURS
        if peers and side in row and row[side].counts
    ]
    floor = workload.multiply_adds / rate * 1e3
    has_floor = floor > 1e-3 and workload.precision == "float32"
    return [
        workload.title,
        report.figure(floor) if has_floor else report.NOTHING,
        *[cell(row.get(side)) for side in sides],
        ", ".join(ratios) or report.NOTHING,
    ]


def lines_of(
    rows: dict[str, Row], sides: Sequence[str], limits: machine.Limits, options: argparse.Namespace
) -> list[str]:
    """The whole report."""
    packages = ["schuss", "numpy", "llvmlite", "torch", "jax", "flax", "optax"]
    steps = [
        step_cells(WORKLOADS[name], row, sides, limits.multiply_adds) for name, row in rows.items()
    ]

    def others(title: str, show) -> list[str]:  # type: ignore[no-untyped-def]
        body = [
            [
                WORKLOADS[name].title,
                *[
                    show(row[side]) if side in row and row[side].counts else report.NOTHING
                    for side in sides
                ],
            ]
            for name, row in rows.items()
        ]
        return ["", *report.table([title, *sides], body)]

    notes = [
        f"- {WORKLOADS[name].title}, {side}: {outcome.problem}"
        for name, row in rows.items()
        for side, outcome in row.items()
        if outcome.problem is not None
    ]
    tiers = [
        f"- {WORKLOADS[name].title}, {side}: {row[side].description}"
        for name, row in rows.items()
        for side in OURS
        if side in row and row[side].counts
    ]
    return [
        "# Training steps",
        "",
        "Written by `python benchmarks/training.py`. Forward pass, backward pass and update in "
        "float32, or with products in bfloat16 where the row says so (`autocast` in PyTorch too), "
        "from the same weights and data. All sides take turns, in processes of their own "
        f"that are halted while others run: medians of {options.rounds} rounds, with their "
        "quartiles, and of the ratios of rounds. The losses of the first "
        f"{CURVE} steps follow PyTorch's within a thousandth of the way they go, a hundredth in "
        "bfloat16, or the side does not count.",
        "",
        report.setting(packages, options.threads),
        "",
        f"The machine: {limits}. The floor is the arithmetic alone at that rate.",
        "",
        *report.table(["step, ms", "floor", *sides, "best peer / schuss"], steps),
        *others("first step, s, empty cache / filled", first_cell),
        "",
        "From the start of a fresh process, imports included, to the end of the first step.",
        *others("peak resident memory, MiB", lambda each: f"{each.memory / 2**20:.0f}"),
        *(["", "What computed our steps, by `schuss.last_run()`:", "", *tiers] if tiers else []),
        *(["", "What does not count or is not there:", "", *notes] if notes else []),
    ]


def first_cell(outcome: Outcome) -> str:
    cold = report.figure(float(np.median(outcome.cold)))
    if not outcome.warm:
        return cold
    return f"{cold} / {report.figure(float(np.median(outcome.warm)))}"


# --- the program ---


def arguments() -> argparse.Namespace:
    names = ", ".join(WORKLOADS)
    parser = argparse.ArgumentParser(
        description="Training steps of Schuss, PyTorch and JAX, in turns."
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=WORKLOADS, metavar="NAME", help=f"some of {names}")
    add("--sides", nargs="+", choices=SIDES, metavar="SIDE", help=f"some of {', '.join(SIDES)}")
    add("--rounds", type=int, default=15, help="turns of each side (15)")
    add("--threads", type=int, default=min(2, report.available()), help="of each side (2)")
    add("--skip-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    add("--quick", action="store_true", help="3 rounds, and one first step only")
    add("--output", type=Path, help="where to write; RESULTS.md, if everything was measured")
    options = parser.parse_args()
    if options.quick:
        options.rounds = min(options.rounds, 3)
    if options.rounds < 1 or options.threads < 1:
        parser.error("at least one round and one thread")
    everything = not (options.only or options.sides or options.skip_compile or options.quick)
    if options.output is None and everything:
        options.output = RESULTS
    return options


def sides_of(workload: Workload, sides: Sequence[str]) -> list[str]:
    """The sides that make sense there."""
    return [side for side in sides if workload.images or side != "channels-last"]


def main() -> None:
    options = arguments()
    sides = list(options.sides or SIDES)
    if options.skip_compile:
        sides = [side for side in sides if side != "torch.compile"]
    for side in list(sides):
        lacking = [each for each in NEEDS[SIDES[side][0]] if importlib.util.find_spec(each) is None]
        if lacking:
            print(f"{side}: left out, since {', '.join(lacking)} is not installed")
            sides.remove(side)
    limits = machine.measure(options.threads)
    print(limits)
    for framework, variant in {SIDES[side][0]: SIDES[side] for side in sides}.values():
        # Once, so that no first step pays for reading the framework's files from the disk.
        Worker(
            "common.training_side:TrainingSide", framework, variant, threads=options.threads
        ).stop()
    rows: dict[str, Row] = {}
    for name in options.only or WORKLOADS:
        workload = WORKLOADS[name]
        rows[name] = measure(workload, sides_of(workload, sides), options)
        print(f"\n{workload.title}")
        for side, outcome in rows[name].items():
            print(f"  {side:14} {outcome.problem or shown(outcome)}", flush=True)
    limits = limits.better(machine.measure(options.threads))
    lines = lines_of(rows, sides, limits, options)
    print("\n" + "\n".join(lines))
    if options.output is not None:
        report.write(options.output, lines)


def shown(outcome: Outcome) -> str:
    return (
        f"{report.spread(outcome.steps)} ms, first {first_cell(outcome)} s, "
        f"{outcome.memory / 2**20:.0f} MiB, {outcome.description}"
    )


if __name__ == "__main__":
    main()
