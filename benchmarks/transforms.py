"""What transforms cost beside a gradient: per-example gradients, products with curvature matrices.

    python benchmarks/transforms.py                  # and benchmarks/TRANSFORMS.md

A network of 784, 256 and 10 units and a batch of 128, as one call: under `schuss.jit`, and plain,
which also records everything anew. Rounds alternate, so that what else the machine does falls on
all rows alike.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import schuss
from common import report
from common.processes import Cache
from schuss import nn

RESULTS = Path(__file__).with_name("TRANSFORMS.md")
SIZES = (784, 256, 10)
BATCH = 128
KNOWN = 5  # calls after which everything is compiled

Tree = dict[str, Any]
Calls = dict[str, Callable[..., Any]]


def network(sizes: tuple[int, ...], batch: int) -> tuple[Tree, Any, Any]:
    """Weights, inputs and labels."""
    rng = np.random.default_rng(0)
    weights = {}
    for i, (n, m) in enumerate(pairwise(sizes)):
        weight = rng.standard_normal((m, n)) / np.sqrt(n)
        weights[f"weight{i}"] = schuss.tensor(weight.astype(np.float32))
        weights[f"bias{i}"] = schuss.tensor(np.zeros(m, np.float32))
    x = schuss.tensor(rng.standard_normal((batch, sizes[0])).astype(np.float32))
    return weights, x, schuss.tensor(rng.integers(0, sizes[-1], batch))


def loss(weights: Tree, x: Any, y: Any) -> Any:
    """The cross-entropy of one example, or the mean of a batch."""
    layers = len(weights) // 2
    for i in range(layers):
        x = x @ weights[f"weight{i}"].mT + weights[f"bias{i}"]
        x = schuss.relu(x) if i + 1 < layers else x
    return nn.functional.cross_entropy(x, y)


def functions(batch: int) -> Calls:
    """What is measured, by name; the first one is what the others are compared with."""
    gradient = schuss.grad(loss)
    each = schuss.vmap(gradient, in_axes=(None, 0, 0))
    along = lambda weights: schuss.trees.map(schuss.sign, weights)

    def norms(gradients: Tree) -> Any:
        squares = [(g * g).reshape(batch, -1).sum(axis=1) for g in gradients.values()]
        return schuss.sqrt(sum(squares))

    def clipped(*args: Any) -> Tree:
        gradients = each(*args)
        factors = schuss.clip(1.0 / norms(gradients), max=1.0) / batch
        scaled = lambda g: g * factors.reshape(batch, *(1,) * (g.ndim - 1))
        return {name: scaled(g).sum(axis=0) for name, g in gradients.items()}

    def as_many(weights: Tree, x: Any, y: Any) -> Tree:
        shift = lambda w: x[:, 0].reshape(batch, *(1,) * w.ndim)
        return {name: w + shift(w) for name, w in weights.items()}

    def product(weights: Tree, x: Any, y: Any) -> Tree:
        return schuss.hvp(lambda w: loss(w, x, y), weights, along(weights))

    def gauss_newton(weights: Tree, x: Any, y: Any) -> Tree:
        def outputs(w: Tree) -> Any:
            return schuss.relu(x @ w["weight0"].mT + w["bias0"]) @ w["weight1"].mT + w["bias1"]

        cost = lambda z: nn.functional.cross_entropy(z, y)
        return schuss.gnvp(outputs, cost, weights, along(weights))

    return {
        "the gradient of the batch": gradient,
        "norms of per-example gradients": lambda *args: norms(each(*args)),
        "mean of per-example gradients": lambda *args: {
            name: g.mean(axis=0) for name, g in each(*args).items()
        },
        "mean of clipped per-example gradients": clipped,
        "all per-example gradients, in memory": each,
        "(as many numbers, made by one addition)": as_many,
        "Hessian times a vector": product,
        "Gauss-Newton matrix times a vector": gauss_newton,
    }


def measured(calls: Calls, args: Any, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call, in every round."""

    def once(call: Callable[..., Any]) -> float:
        started = time.perf_counter()
        schuss.evaluate(*schuss.trees.leaves(call(*args)))
        return (time.perf_counter() - started) * 1e3

    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(KNOWN):
            once(call)
    for _ in range(rounds):
        for name, call in calls.items():
            once(call)  # what the one before left in the caches is not its own
            times[name].append(once(call))
    return times


def rows_of(times: dict[str, list[float]]) -> list[list[str]]:
    """Name, milliseconds, and how many gradients of the batch that is."""
    first = float(np.median(next(iter(times.values()))))
    return [
        [name, report.spread(each), f"{np.median(each) / first:.2f}"]
        for name, each in times.items()
    ]


def lines_of(tables: dict[str, list[list[str]]], rounds: int, threads: int) -> list[str]:
    """The whole report."""
    lines = [
        "# Transforms",
        "",
        f"Written by `python benchmarks/transforms.py`. A network of {SIZES} units, a batch of "
        f"{BATCH}, float32; medians of {rounds} rounds with their quartiles, and how many "
        "gradients of the batch that is. Outer products that are only summed are never made "
        "(`compiler/einsum.py`); where all per-example gradients are wanted, memory decides.",
        "",
        report.setting(["schuss", "numpy", "llvmlite"], threads),
    ]
    for mode, rows in tables.items():
        lines += ["", *report.table([mode, "ms", "gradients"], rows)]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="What transforms cost.")
    parser.add_argument("--rounds", type=int, default=40, help="how often each is measured (40)")
    parser.add_argument("--threads", type=int, default=report.available())
    parser.add_argument("--quick", action="store_true", help="3 rounds, nothing is written")
    options = parser.parse_args()
    schuss.set_num_threads(options.threads)
    rounds = 3 if options.quick else options.rounds
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(Cache(folder).environment)
        args, calls = network(SIZES, BATCH), functions(BATCH)
        jitted = {name: schuss.jit(call) for name, call in calls.items()}
        tables = {}
        for mode, each in {"jit": jitted, "plain": calls}.items():
            tables[mode] = rows_of(measured(each, args, rounds))
            print("\n".join(" | ".join(row) for row in tables[mode]), flush=True)
    if not options.quick:
        report.write(RESULTS, lines_of(tables, rounds, options.threads))


if __name__ == "__main__":
    main()
