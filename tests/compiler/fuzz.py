"""A differential fuzzer: random programs on both tiers, and what is wrong in few lines.

    python -m tests.compiler.fuzz --graphs 100000 --seed 0 --jobs 2 --record benchmarks/FUZZ.md

`fuzzing.make` writes graphs, `fuzzing.loops` training loops, `fuzzing.networks` networks of layers
and `fuzzing.jits` functions under `schuss.jit`; `fuzzing.check` runs them, `fuzzing.compare` says
what counts as equal, `fuzzing.shrink` cuts failures down. Programs run in processes of their own,
so that one that crashes or hangs is a finding like any other.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

_CHUNK = 200  # programs for one process: memory and code of the compiler go with it
_THOROUGH = 4  # every so many-th process optimises and uses threads as users have it
_MEMORY = 8 << 30  # bytes: lines that ask for more fail, and are not taken
_SILENCE = 1800.0  # seconds without a sign of life: on a busy machine much is slow

FOLDER = Path(__file__).parents[2]


def program_of(seed: int):  # type: ignore[no-untyped-def]
    """The program that belongs to a seed."""
    from .fuzzing.jits import jit_loop
    from .fuzzing.loops import loop
    from .fuzzing.make import Maker
    from .fuzzing.networks import network

    kind = seed % 10
    if seed % 40 == 5:  # ten times the work of others
        return network(seed)
    if kind == 9:
        return jit_loop(seed)
    return loop(seed) if kind == 4 else Maker(seed).grow()


def worker(first: int, count: int) -> None:
    """Check programs and print a JSON line for each start, failure and the end."""
    from .fuzzing.check import Suspicions, check

    if not is_thorough(first):
        without_optimisation()
        with_large_filters()
        with_small_convolutions_fused()
    seen: Counter[str] = Counter()
    for seed in range(first, first + count):
        say({"start": seed})
        program = program_of(seed)
        failure = check(program)
        if failure is None:
            continue
        kind = failure.kind.split("|")[0]
        seen[kind] += 1
        if seen[kind] <= (4 if kind == "value" else 1):
            program, failure = shrunk(program, failure)
        say({"failed": seed, "kind": failure.kind, "text": failure.text,
             "program": asdict(program)})  # fmt: skip
    say({"done": count, "suspects": Suspicions.count})


def is_thorough(first: int) -> bool:
    """Whether the process of the programs from `first` on works as it does for users."""
    return first // _CHUNK % _THOROUGH == 0


def without_optimisation() -> None:
    """Let LLVM only translate, which takes a third of the time: most of a program's goes there."""
    from schuss.compiler.cpu import translate

    translate._LEVEL, translate._ORDER = 0, ("always_inliner", "sroa")


def with_large_filters() -> None:
    """Let all convolutions of halves go by the larger filter that could go by one."""
    from schuss.compiler.cpu import winograd
    from schuss.dtypes import HALF

    choose = winograd.choose

    def chosen(dtype, *rest):  # type: ignore[no-untyped-def]
        found = choose(dtype, *rest[:4])
        return winograd.F4 if found and dtype in HALF else found

    winograd.choose = chosen


def with_small_convolutions_fused() -> None:
    """Let convolutions sum up and compute on the way what would be left alone for its size."""
    from schuss.compiler import partial_sums, prologues

    partial_sums._FEWEST = prologues._FEWEST = 1


def shrunk(program, failure):  # type: ignore[no-untyped-def]
    """A smaller program that fails in the same way, and how it does."""
    from .fuzzing.check import check
    from .fuzzing.shrink import shrink

    smaller = shrink(program, lambda each: failure.same(check(each)))
    return smaller, check(smaller) or failure


def say(message: dict) -> None:
    print(json.dumps(message), flush=True)


@dataclass
class Result:
    """What a long run found.

    Attributes:
        failures: (seed, kind, text, program) of each.
        suspects: programs whose tiers differed by more than a few ulps, which rounding explained.
    """

    graphs: int = 0
    seconds: float = 0.0
    suspects: int = 0
    failures: list[tuple[int, str, str, dict]] = field(default_factory=list)


class Job:
    """A process that checks one chunk, and what it said last."""

    def __init__(self, first: int, count: int) -> None:
        environment = {
            "SCHUSS_CACHE": "0", "MALLOC_PERTURB_": "173", **os.environ,
            "PYTHONPATH": f"{FOLDER / 'src'}{os.pathsep}{FOLDER}",
        }  # fmt: skip
        if not is_thorough(first):  # several processes that wait for each other's threads are slow
            environment.setdefault("SCHUSS_NUM_THREADS", "1")
        self.first, self.end, self.current = first, first + count, first
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.compiler.fuzz", "--worker", str(first), str(count)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=FOLDER,
        )  # fmt: skip
        self.heard = time.monotonic()
        self.finished = False

    def read(self, result: Result) -> bool:
        """Take in what it said; False once it has ended."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], 0.2)
        if not ready:
            return time.monotonic() - self.heard < _SILENCE or self._hung()
        line = self.process.stdout.readline()
        if not line:
            return False
        self.heard = time.monotonic()
        message = json.loads(line)
        if "start" in message:
            self.current = message["start"]
            result.graphs += 1
        elif "failed" in message:
            result.failures.append(
                (message["failed"], message["kind"], message["text"], message["program"])
            )
        else:
            self.finished = True
            result.suspects += message["suspects"]
        return True

    def _hung(self) -> bool:
        self.process.kill()
        return False

    def rest(self, result: Result) -> range | None:
        """After the end: what is left to check where it crashed."""
        assert self.process.stderr is not None
        said = self.process.stderr.read()
        code = self.process.wait()
        if self.finished:
            return None
        text = f"exit status {code} in program {self.current}\n{said[-3000:]}"
        program = asdict(program_of(self.current))
        result.failures.append((self.current, f"crash {code}", text, program))
        return range(self.current + 1, self.end)


def hunt(first: int, graphs: int, jobs: int, most_seconds: float) -> Iterator[Result]:
    """Check programs in `jobs` processes; the result so far, after each piece of news."""
    result = Result()
    started = time.monotonic()
    todo = [range(i, min(i + _CHUNK, first + graphs)) for i in range(first, first + graphs, _CHUNK)]
    todo.reverse()
    running: list[Job] = []
    try:
        while todo or running:
            late = time.monotonic() - started > most_seconds
            if late:
                todo.clear()
            while todo and len(running) < jobs:
                part = todo.pop()
                running.append(Job(part.start, len(part)))
            for job in list(running):
                if not job.read(result):
                    running.remove(job)
                    rest = job.rest(result)
                    if rest:
                        todo.append(rest)
            result.seconds = time.monotonic() - started
            yield result
    finally:
        for job in running:
            job.process.kill()


def described(seed: int, kind: str, text: str, program: dict) -> str:
    """A failure as a script with a comment."""
    from .fuzzing.program import Program

    made = Program(**{**program, "lines": tuple(program["lines"]),
                      "outputs": tuple(program["outputs"])})  # fmt: skip
    head = "\n".join(f"# {line}" for line in [f"seed {seed}: {kind}", *text.splitlines()])
    return f"{head}\n{made.script()}"


_PAGE = """# Differential fuzzing

Random programs on the compiled tier against the reference
(`python -m tests.compiler.fuzz --record benchmarks/FUZZ.md`). Seeds name programs of the fuzzer as
it was then. What was found and fixed is kept in `tests/compiler/test_regressions.py`. From seed
3,200,000 on LLVM optimises in every fourth process only, and merely translates in the others.
From 10,000,000 on one program in twenty trains a network of layers, and roundings inside loops are
part of what explains a difference. From 23,000,000 on networks are looked at after backward too,
and small ones train for nine steps. From 26,000,000 on sums may cancel to nothing, and from
27,000,000 on what functions make of equal numbers stays equal. From 34,000,000 on convolutions of
halves go by the larger filter in three processes of four. From 36,000,000 on one program in forty
trains a network.

| date | seeds | programs | minutes | explained by rounding | failures |
|---|---|---|---|---|---|
"""


def record(path: Path, result: Result, first: int) -> None:
    """Add a run to the page of results."""
    page = path.read_text("utf-8") if path.exists() else _PAGE
    date = time.strftime("%Y-%m-%d", time.gmtime())
    last = first + result.graphs - 1
    kinds = Counter(kind for _, kind, _, _ in result.failures)
    found = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common()) or "none"
    row = (f"| {date} | {first} to {last} | {result.graphs:,} | {result.seconds / 60:.0f} "
           f"| {result.suspects:,} | {found} |\n")  # fmt: skip
    path.write_text(page + row, "utf-8")


def summary(result: Result) -> str:
    return (
        f"{result.graphs} programs in {result.seconds:.0f} s: {len(result.failures)} failures; "
        f"{result.suspects} differed as far as rounding explains"
    )


def limit_memory() -> None:
    """So that no program, and nobody who writes one, takes the memory of others."""
    with suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--graphs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first program")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--save", type=Path, help="a folder for the scripts of failures")
    parser.add_argument("--record", type=Path, help="a page to add the result to")
    parser.add_argument("--worker", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    limit_memory()
    if given.worker:
        worker(*given.worker)
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):  # also where who started this ignores them
        signal.signal(number, signal.default_int_handler)
    shown, at, result = 0, 0.0, Result()
    try:
        for result in hunt(given.seed, given.graphs, given.jobs, 60 * given.minutes):
            for failure in result.failures[shown:]:
                script = described(*failure)
                print(script, flush=True)
                if given.save:
                    given.save.mkdir(parents=True, exist_ok=True)
                    (given.save / f"seed{failure[0]}.py").write_text(script, "utf-8")
                shown += 1
            if result.seconds > at:
                at = result.seconds + 30
                print(summary(result), file=sys.stderr, flush=True)
    except KeyboardInterrupt:  # what was found until then counts
        pass
    if given.record:
        record(given.record, result, given.seed)
    print(summary(result))
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
