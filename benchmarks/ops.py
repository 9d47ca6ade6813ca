"""Single ops beside NumPy, PyTorch, JAX and the machine's own limits, so that a cliff shows.

    pip install -e '.[benchmarks]'
    python benchmarks/ops.py                         # everything, and benchmarks/OPS.md
    python benchmarks/ops.py --only matmul softmax
    python benchmarks/ops.py --only sort --keep measured.json   # piece by piece; the last piece
    python benchmarks/ops.py --only small --keep measured.json --output benchmarks/OPS.md

The sides take turns, in processes of their own that are halted while others run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from common import machine, report
from common.op_cases import CASES, Case
from common.processes import Cache, Failure, Worker

RESULTS = Path(__file__).with_name("OPS.md")
OURS = ("schuss", "schuss.jit")
PACKAGES = {**dict.fromkeys(OURS, "schuss"), "NumPy": "numpy", "PyTorch": "torch", "JAX": "jax"}
GROUPS = list(dict.fromkeys(case.group for case in CASES.values()))
BURST = 0.02  # seconds of a turn
CACHED = 64 * 2**20  # bytes: less may come from a cache, where memory sets no limit
UNSTEADY = 1.5  # between the quartiles
CLIFF = 0.5  # of the best peer's speed


@dataclass
class Measured:
    """A case: microseconds by side, the bytes that go in and out, and what went wrong."""

    times: dict[str, list[float]] = field(default_factory=dict)
    nbytes: int = 0
    problems: dict[str, str] = field(default_factory=dict)


def measure(case: Case, workers: dict[str, Worker], rounds: int) -> Measured:
    """All sides on one case. NumPy's result, or else PyTorch's, is what others must agree with."""
    found = Measured()
    results: dict[str, np.ndarray] = {}
    repeats: dict[str, int] = {}
    for side, worker in workers.items():
        try:
            answer = worker.ask("build", case.name)
            if answer is None:
                continue
            results[side], found.nbytes = answer
            once = min(worker.ask("time", 1) for _ in range(3))
            repeats[side] = int(np.clip(BURST * 1e6 / once, 1, 5000))
        except Failure as problem:
            found.problems[side] = str(problem)
    judge = next((results[side] for side in ("NumPy", "PyTorch", "JAX") if side in results), None)
    for side in list(repeats):
        if judge is not None and not agrees(results[side], judge):
            found.problems[side] = "another result than its peers"
            del repeats[side]
    found.times = {side: [] for side in repeats}
    for _ in range(rounds):
        for side in repeats:
            found.times[side].append(workers[side].ask("time", repeats[side]))
    return found


def agrees(result: np.ndarray, expected: np.ndarray) -> bool:
    """Within a thousandth of the largest value: float32 sums in any order."""
    if result.shape != expected.shape:
        return False
    scale = np.abs(expected).max(initial=1e-30)
    return bool(np.allclose(result, expected, rtol=1e-3, atol=1e-3 * scale))


def limit(multiply_adds: int, nbytes: int, limits: machine.Limits) -> float:
    """Microseconds below which the machine cannot do it; 0 where nothing says so."""
    memory = nbytes / limits.bandwidth if nbytes > CACHED else 0.0
    return max(multiply_adds / limits.multiply_adds, memory) * 1e6


def line(case: Case, found: Measured, sides: list[str], limits: machine.Limits) -> list[str]:
    """The table's line: limit, medians in microseconds, and ratios, bold where it is a cliff."""
    bound = limit(case.multiply_adds, found.nbytes, limits)
    peers = [found.times[side] for side in sides if side not in OURS and side in found.times]
    cells = [cell(found.times.get(side)) for side in sides]
    ratios = [compared(peers, found.times.get(side)) for side in sides if side in OURS]
    return [case.name, report.figure(bound) if bound >= 0.1 else report.NOTHING, *cells, *ratios]


def compared(peers: list[list[float]], ours: list[float] | None) -> str:
    if not peers or ours is None:
        return report.NOTHING
    ratio = report.ratio(peers, ours)
    return f"**{ratio:.2f}**" if ratio < CLIFF else f"{ratio:.2f}"


def cell(times: list[float] | None) -> str:
    """The median; "~" says that it varied."""
    if times is None:
        return report.NOTHING
    low, median, high = np.percentile(times, [25, 50, 75])
    return ("~" if high > UNSTEADY * low else "") + report.figure(median)


def lines_of(
    found: dict[str, Measured],
    sides: list[str],
    limits: machine.Limits,
    options: argparse.Namespace,
) -> list[str]:
    """The whole report."""
    lines = [
        "# Single ops",
        "",
        "Written by `python benchmarks/ops.py`. Microseconds for a call, in float32 unless the "
        "name says otherwise, medians of "
        f"{options.rounds} rounds in which all sides take turns, and of their ratios; JAX's "
        "functions are jitted. "
        "The limit is what the machine needs for the multiply-adds, or for reading and writing "
        f"the arrays where they are larger than {CACHED >> 20} MiB together. Ratios below "
        f"{CLIFF} are bold; figures after ~ differ by more than half between their quartiles.",
        "",
        report.setting([*dict.fromkeys(PACKAGES.values()), "llvmlite"], options.threads),
        "",
        f"The machine: {limits}.",
    ]
    heads = [f"best peer / {side}" for side in sides if side in OURS]
    for group in GROUPS:
        names = [name for name in found if CASES[name].group == group]
        if names:
            body = [line(CASES[name], found[name], sides, limits) for name in names]
            lines += ["", *report.table([group, "limit", *sides, *heads], body)]
    notes = [
        f"- {name}, {side}: {problem}"
        for name, each in found.items()
        for side, problem in each.problems.items()
    ]
    return lines + (["", "What does not count or is not there:", "", *notes] if notes else [])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Single ops of Schuss, NumPy, PyTorch and JAX, in turns."
    )
    add = parser.add_argument
    add("--only", nargs="+", metavar="WORD", help=f"cases with these words, as {', '.join(GROUPS)}")
    add("--sides", nargs="+", choices=PACKAGES, help="some of the frameworks")
    add("--rounds", type=int, default=7, help="turns of each side (7)")
    add("--threads", type=int, default=min(2, report.available()), help="of each side (2)")
    add("--quick", action="store_true", help="2 rounds")
    add("--keep", type=Path, help="a file of cases measured earlier, which the new ones join")
    add("--output", type=Path, help="where to write; OPS.md, if everything was measured")
    options = parser.parse_args()
    if options.quick:
        options.rounds = min(options.rounds, 2)
    if options.rounds < 1 or options.threads < 1:
        parser.error("at least one round and one thread")
    some = options.only or options.sides or options.quick or options.keep
    if options.output is None and not some:
        options.output = RESULTS
    return options


def worker(side: str, options: argparse.Namespace, folder: str) -> Worker:
    return Worker(
        "common.op_sides:OpSide",
        side,
        threads=options.threads,
        # One process meets more sizes of an op than programs do: `tiers` would compile a few.
        environment={**Cache(folder).environment, "SCHUSS_EXECUTION": "compiled"},
    )


def joined(
    path: Path, found: dict[str, Measured], limits: machine.Limits
) -> tuple[dict[str, Measured], machine.Limits]:
    """What the file holds with the new cases in it, in the order of the report; and keeps it."""
    if path.exists():
        kept = json.loads(path.read_text("utf-8"))
        found = {name: Measured(**each) for name, each in kept["cases"].items()} | found
        limits = limits.better(machine.Limits(**kept["limits"]))
    found = {name: found[name] for name in CASES if name in found}
    cases = {name: asdict(each) for name, each in found.items()}
    path.write_text(json.dumps({"limits": asdict(limits), "cases": cases}), "utf-8")
    return found, limits


def main() -> None:
    options = arguments()
    sides = [
        side
        for side in options.sides or PACKAGES
        if importlib.util.find_spec(PACKAGES[side]) is not None
    ]
    names = [
        name for name in CASES if not options.only or any(word in name for word in options.only)
    ]
    limits = machine.measure(options.threads)
    print(limits)
    found: dict[str, Measured] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        workers = {side: stack.enter_context(worker(side, options, folder)) for side in sides}
        for name in names:
            found[name] = measure(CASES[name], workers, options.rounds)
            print(" | ".join(line(CASES[name], found[name], sides, limits)), flush=True)
    limits = limits.better(machine.measure(options.threads))
    if options.keep:
        found, limits = joined(options.keep, found, limits)
    lines = lines_of(found, sides, limits, options)
    if options.output is None:
        print("\n" + "\n".join(lines))
    else:
        report.write(options.output, lines)


if __name__ == "__main__":
    main()
