"""The convolutions of known networks, in all three directions, beside PyTorch's (oneDNN).

    pip install -e '.[benchmarks]'
    python benchmarks/convolution.py                       # everything, and CONVOLUTION.md
    python benchmarks/convolution.py --dtype bfloat16      # the same, and CONVOLUTION_BFLOAT16.md
    python benchmarks/convolution.py --only ResNet-18 --keep measured.json   # piece by piece

Both sides have their images with channels last, weights as users have them, and take turns in
processes of their own that are halted while the other runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from common import machine, report
from common.convolution_sides import DIRECTIONS, LAYERS, Layer
from common.processes import Cache, Worker

RESULTS = {
    "float32": Path(__file__).with_name("CONVOLUTION.md"),
    "bfloat16": Path(__file__).with_name("CONVOLUTION_BFLOAT16.md"),
}
ERRORS = {"float32": 1e-4, "bfloat16": 1e-2}  # by which both sides may differ, of the largest
SIDES = ("schuss", "PyTorch")
BURST = 0.03  # seconds of a turn
NETWORKS = list(dict.fromkeys(layer.network for layer in LAYERS))
Times = dict[str, list[float]]  # by side, microseconds


def measure(
    layer: Layer, direction: str, dtype: str, workers: dict[str, Worker], rounds: int
) -> Times:
    """Both sides on one layer. Raises AssertionError where their results differ."""
    results, repeats = {}, {}
    for side, worker in workers.items():
        results[side] = worker.ask("build", layer, direction, dtype)
        once = min(worker.ask("time", 1) for _ in range(2))
        repeats[side] = int(np.clip(BURST * 1e6 / once, 1, 1000))
    ours, theirs = (results[side] for side in SIDES)
    scale = np.abs(theirs).max()
    assert ours.shape == theirs.shape, layer.name
    assert np.abs(ours - theirs).max() <= ERRORS[dtype] * scale, layer.name
    times: Times = {side: [] for side in workers}
    for _ in range(rounds):
        for side, worker in workers.items():
            times[side].append(worker.ask("time", repeats[side]))
    return times


def cells(layer: Layer, times: Times) -> list[str]:
    """Gigaflops of both sides, and PyTorch's time by ours."""
    rates = [2e-3 * layer.multiply_adds / float(np.median(times[side])) for side in SIDES]
    ours, theirs = (times[side] for side in SIDES)
    return [f"{rate:.0f}" for rate in rates] + [f"{report.ratio([theirs], ours):.2f}"]


def lines_of(
    found: dict[str, Times], limits: machine.Limits, options: argparse.Namespace
) -> list[str]:
    lines = [
        "# Convolutions",
        "",
        f"Written by `python benchmarks/convolution.py --dtype {options.dtype}`: billions of "
        "multiplications and additions a second (those with the zeros of the border counted, which "
        f"may be left out), {options.dtype}, from medians of {options.rounds} rounds in turns; and "
        "how many times as fast as PyTorch schuss is, the median of the rounds' ratios.",
        "",
        report.setting(["schuss", "numpy", "torch", "llvmlite"], options.threads),
        "",
        f"The machine: {limits}.",
    ]
    head = ["layer"]
    for direction in DIRECTIONS:
        head += [direction, "PyTorch", "ratio"]
    for network in NETWORKS:
        rows, sums = [], {(side, d): 0.0 for side in SIDES for d in DIRECTIONS}
        for layer in LAYERS:
            if layer.network != network or f"{layer.network} {layer.name} forward" not in found:
                continue
            row = [layer.name]
            for direction in DIRECTIONS:
                times = found[f"{layer.network} {layer.name} {direction}"]
                row += cells(layer, times)
                for side in SIDES:
                    sums[side, direction] += float(np.median(times[side]))
            rows.append(row)
        if rows:
            total = ["all of them"]
            for d in DIRECTIONS:
                ours, theirs = (sums[side, d] for side in SIDES)
                total += [f"{ours / 1e3:.1f} ms", f"{theirs / 1e3:.1f} ms", f"{theirs / ours:.2f}"]
            lines += ["", f"## {network}", "", *report.table(head, [*rows, total])]
    return lines


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Convolutions of Schuss and PyTorch, in turns.")
    add = parser.add_argument
    add("--only", nargs="+", metavar="WORD", help=f"of {', '.join(NETWORKS)}, or of a layer's name")
    add("--dtype", choices=RESULTS, default="float32", help="of images and weights (float32)")
    add("--rounds", type=int, default=9, help="turns of each side (9)")
    add("--threads", type=int, default=min(2, report.available()), help="of each side (2)")
    add("--keep", type=Path, help="a file of layers measured earlier, which the new ones join")
    add("--output", type=Path, help="where to write; the page above, if everything was measured")
    options = parser.parse_args()
    if options.rounds < 1 or options.threads < 1:
        parser.error("at least one round and one thread")
    if options.output is None and not (options.only or options.keep):
        options.output = RESULTS[options.dtype]
    return options


def main() -> None:
    options = arguments()
    limits = machine.measure(options.threads)
    found: dict[str, Times] = {}
    if options.keep and options.keep.exists():
        found = json.loads(options.keep.read_text("utf-8"))
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        workers = {
            side: stack.enter_context(
                Worker(
                    "common.convolution_sides:ConvolutionSide",
                    side,
                    threads=options.threads,
                    environment=Cache(folder).environment,
                )
            )
            for side in SIDES
        }
        for layer in LAYERS:
            label = f"{layer.network} {layer.name}"
            if options.only and not any(word in label for word in options.only):
                continue
            if f"{label} {DIRECTIONS[-1]}" in found:
                continue
            shown = [label]
            for direction in DIRECTIONS:
                times = measure(layer, direction, options.dtype, workers, options.rounds)
                found[f"{label} {direction}"] = times
                shown += cells(layer, times)
            print(" | ".join(shown), flush=True)
            if options.keep:
                options.keep.write_text(json.dumps(found), "utf-8")
    lines = lines_of(found, limits, options)
    if options.output is None:
        print("\n" + "\n".join(lines))
    else:
        report.write(options.output, lines)


if __name__ == "__main__":
    main()
