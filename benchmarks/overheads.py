"""What Schuss itself costs beside the arithmetic: recording, evaluating, jit calls, importing.

    python benchmarks/overheads.py                   # and benchmarks/OVERHEADS.md

On tensors of four numbers, so that arithmetic takes next to nothing. Alone in its process, one
thread; other programs on the machine make every figure larger, so the lowest of the quartiles is
the one to compare.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from common import report
from common.processes import Cache, thread_settings

RESULTS = Path(__file__).with_name("OVERHEADS.md")
CALLS = 2000  # of a function that takes microseconds
CHAIN = 500  # ops of a recorded chain
KNOWN = 20  # evaluations after which a graph is known
IMPORTS = (
    "import numpy",
    "import schuss",
    "import schuss; from schuss import nn, optim",
    "import llvmlite.binding",
)

Rows = Iterator[tuple[str, list[float]]]


def timed(call: Callable[[], object], repeats: int) -> float:
    """Microseconds for a call."""
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats * 1e6


def recording(rounds: int) -> Rows:
    """Recording an op: checks, a node, a tensor. Nothing is computed."""
    import schuss
    from schuss import nn

    x, y = schuss.ones(4), schuss.ones(4)
    matrix, weight = schuss.ones((2, 2)), schuss.ones((2, 2)).requires_grad_()
    layer = nn.Linear(4, 4)
    cases: dict[str, Callable[[], object]] = {
        "x + y": lambda: x + y,
        "x * 2.0": lambda: x * 2.0,
        "matrix @ matrix": lambda: matrix @ matrix,
        "matrix @ weight, which requires a gradient": lambda: matrix @ weight,
        "x.reshape(2, 2)": lambda: x.reshape(2, 2),
        "x.sum()": lambda: x.sum(),
        "nn.Linear(4, 4)(x), three ops": lambda: layer(x),
    }
    for name, call in cases.items():
        yield name, [timed(call, CALLS) for _ in range(rounds)]

    def backward() -> float:
        loss = weight
        for _ in range(CHAIN):
            loss = loss * weight
        loss = loss.sum()
        started = time.perf_counter()
        loss.backward()
        seconds = time.perf_counter() - started
        weight.grad = None
        return seconds / CHAIN * 1e6

    yield "backward(), for each product of a chain", [backward() for _ in range(rounds)]


def evaluating(rounds: int) -> Rows:
    """Evaluating graphs that were evaluated before with other values."""
    import schuss

    x, y = schuss.ones(4), schuss.ones(4)
    matrix = schuss.eye(2)

    def chain(
        step: Callable[[schuss.Tensor], schuss.Tensor], start: schuss.Tensor, n: int
    ) -> float:
        for _ in range(n):
            start = step(start)
        started = time.perf_counter()
        schuss.evaluate(start)
        return (time.perf_counter() - started) * 1e6

    kinds = {
        "elementwise op": (lambda each: each + y, x),
        "2 x 2 matrix product": (lambda each: each @ matrix, matrix),
    }
    for name, (step, start) in kinds.items():
        for n in (1, CHAIN):
            for _ in range(KNOWN):
                chain(step, start, n)
            times = [min(chain(step, start, n) for _ in range(10)) for _ in range(rounds)]
            tier = schuss.last_run().tier
            if n == 1:
                single = times
                yield f"a graph of one {name} ({tier})", times
            else:
                slope = [(a - b) / (n - 1) for a, b in zip(times, single, strict=True)]
                yield f"each further {name} of a graph of {n} ({tier})", slope


def looking(rounds: int) -> Rows:
    """Values in and out."""
    import schuss

    x = schuss.ones(4)
    value = schuss.tensor(1.0)
    cases: dict[str, Callable[[], object]] = {
        "item() of a known value": lambda: value.item(),
        "numpy() of a known value": lambda: x.numpy(),
        "schuss.tensor([1.0, 2.0, 3.0, 4.0])": lambda: schuss.tensor([1.0, 2.0, 3.0, 4.0]),
    }
    for label, call in cases.items():
        yield label, [timed(call, CALLS) for _ in range(rounds)]


def stepping(rounds: int) -> Rows:
    """The parts of a training step of a line through ten points."""
    import schuss
    from schuss import nn, optim

    model, loss_function = nn.Linear(2, 1), nn.MSELoss()
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    x, y = schuss.ones((10, 2)), schuss.ones((10, 1))
    marks: dict[str, list[float]] = {"forward": [], "backward()": [], "optimizer.step()": []}
    repeats = 200
    for _ in range(rounds):
        sums = dict.fromkeys(marks, 0.0)
        for _ in range(repeats):
            moments = [time.perf_counter()]
            optimizer.zero_grad()
            loss = loss_function(model(x), y)
            moments.append(time.perf_counter())
            loss.backward()
            moments.append(time.perf_counter())
            optimizer.step()  # records the update and evaluates all of it
            moments.append(time.perf_counter())
            for name, before, after in zip(sums, moments[:-1], moments[1:], strict=True):
                sums[name] += after - before
        for name, seconds in sums.items():
            marks[name].append(seconds / repeats * 1e6)
    yield from marks.items()


def jit_calls(rounds: int) -> Rows:
    """Calling a function that `schuss.jit` has recorded."""
    import schuss

    x, y = schuss.ones(4), schuss.ones(4)
    functions: dict[str, Callable[..., schuss.Tensor]] = {
        "schuss.jit(lambda x, y: x + y)": schuss.jit(lambda x, y: x + y),
        "the same, of ten additions": schuss.jit(lambda x, y: sum([y] * 10, x)),
    }
    for name, function in functions.items():
        for _ in range(KNOWN):
            schuss.evaluate(function(x, y))
        call = lambda function=function: schuss.evaluate(function(x, y))
        yield name, [timed(call, CALLS) for _ in range(rounds)]


def importing(rounds: int) -> Rows:
    """Fresh processes, wall time less that of an empty one; in milliseconds."""

    def run(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return (time.perf_counter() - started) * 1e3

    for statement in IMPORTS:
        run(statement)  # reads the files from the disk
        yield f"`{statement}`", [run(statement) - run("pass") for _ in range(rounds)]


SECTIONS = {
    "recording": recording,
    "evaluating": evaluating,
    "looking": looking,
    "stepping": stepping,
    "jit": jit_calls,
    "importing": importing,
}


def lines_of(rows: dict[str, list[list[str]]], rounds: int, notes: list[str]) -> list[str]:
    """The whole report."""
    lines = [
        "# Overheads",
        "",
        "Written by `python benchmarks/overheads.py`. On tensors of four numbers, one thread; "
        f"medians of {rounds} rounds with their quartiles. A graph is known after "
        f"{KNOWN} evaluations; what computes it by then stands in brackets.",
        "",
        report.setting(["schuss", "numpy", "llvmlite"], 1),
    ]
    for section, body in rows.items():
        unit = "ms" if section == "importing" else "µs"
        lines += ["", SECTIONS[section].__doc__ or "", ""]
        lines += report.table([section, unit], body)
    return lines + [line for each in notes for line in ("", each)]


def main() -> None:
    parser = argparse.ArgumentParser(description="The overheads of Schuss.")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="some of the sections")
    parser.add_argument("--rounds", type=int, default=15, help="how often each is measured (15)")
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    parser.add_argument("--output", type=Path, help="where to write; OVERHEADS.md, if everything")
    options = parser.parse_args()
    rounds = min(options.rounds, 3) if options.quick else options.rounds
    sections = options.only or SECTIONS
    rows: dict[str, list[list[str]]] = {}
    notes = []
    for section in sections:
        try:
            for name, times in SECTIONS[section](rounds):
                rows.setdefault(section, []).append([name, report.spread(times)])
                print(" | ".join(rows[section][-1]), flush=True)
        except Exception as problem:  # the other sections still tell something
            traceback.print_exc()
            notes.append(f"{section}: ended by {type(problem).__name__}: {problem}")
        else:
            if section not in rows:
                notes.append(f"{section}: not there yet, skipped.")
    lines = lines_of(rows, rounds, notes)
    output = options.output or (None if options.only or options.quick else RESULTS)
    if output is not None:
        report.write(output, lines)


if __name__ == "__main__":
    os.environ.update(thread_settings(1))
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(Cache(folder).environment)
        main()
