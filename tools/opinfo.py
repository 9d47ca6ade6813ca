"""Compare values and gradients with PyTorch, on PyTorch's own sample inputs.

    python tools/opinfo.py [--only NAME ...] [--write]

PyTorch describes each of its operators for its own tests (`op_db`): sample inputs in awkward shapes
and modes, and inputs that have to be refused. `tools/opinfo_tables/` says what each is called
here. For every operator in the table, every sample is computed by both libraries in float64 (and in
complex128 where both take it, in int64 or bool where they take no floats), gradients of a random
projection by both. `--write` puts the result into benchmarks/OPINFO.md.

Needs torch and expecttest.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from opinfo_tables import EXPLAINED, FORMULAS, INVARIANT, TABLE, Unsupported
from torch.testing._internal.common_methods_invocations import op_db

import schuss
from schuss.graph import Handle

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "OPINFO.md"
_MOST_SAMPLES = 60
_MOST_ELEMENTS = 20_000


@dataclass
class Report:
    """What became of the samples of one operator."""

    name: str
    compared: int = 0
    gradients: int = 0
    failures: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    accepted: list[str] = field(default_factory=list)


# --- between the two libraries ---


def to_ours(value: Any, leaves: dict[int, Any]) -> Any:
    """Tensors and dtypes of PyTorch, in any nesting, as ours; those with a gradient are noted."""
    if isinstance(value, torch.Tensor):
        made = schuss.tensor(value.detach().resolve_conj().resolve_neg().numpy().copy())
        if value.requires_grad:
            made.requires_grad = True
            leaves[id(value)] = (value, made)
        return made
    if isinstance(value, torch.dtype):
        return schuss.dtypes.as_dtype(str(value).removeprefix("torch."))
    if isinstance(value, torch.Size):
        return tuple(value)
    if isinstance(value, (list, tuple)):
        return type(value)(to_ours(each, leaves) for each in value)
    if isinstance(value, dict):
        return {name: to_ours(each, leaves) for name, each in value.items()}
    return value


def flat(value: Any) -> list[Any]:
    """The tensors of a result, in order."""
    if isinstance(value, (torch.Tensor, Handle)):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for each in value for tensor in flat(each)]
    if isinstance(value, (bool, int, float, complex)):
        return [torch.tensor(value)]
    return []


def array(x: Any) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        x = x.detach().resolve_conj().resolve_neg()
        return (x.float() if x.dtype == torch.bfloat16 else x).numpy(force=True)
    found = x.numpy()
    return found.astype(np.float32) if x.dtype == schuss.bfloat16 else found


def difference(ours: np.ndarray, theirs: np.ndarray) -> str | None:
    """What is wrong, or None."""
    if ours.shape != theirs.shape:
        return f"shape {ours.shape} against {theirs.shape}"
    single = any(str(x.dtype) in ("float32", "complex64", "float16") for x in (ours, theirs))
    rtol, atol = (2e-3, 1e-3) if str(theirs.dtype) == "float16" else (1e-4, 1e-5) if single else (
        1e-6, 1e-7)  # fmt: skip
    if not np.allclose(ours, theirs, rtol=rtol, atol=atol, equal_nan=True):
        with np.errstate(all="ignore"):
            worst = np.nanmax(np.abs(ours.astype(complex) - theirs.astype(complex)))
        return f"values differ by {worst:.3g}"
    return None


# --- one sample ---


def compare(report: Report, op: Any, sample: Any, differentiate: bool) -> None:
    leaves: dict[int, Any] = {}
    ours_in, args, kwargs = to_ours((sample.input, sample.args, sample.kwargs), leaves)
    try:
        theirs = op(sample.input, *sample.args, **sample.kwargs)
    except RuntimeError:
        report.left_out["PyTorch refuses its own sample"] += 1
        return
    shown = f"{sample.summary()}"[:160].replace("\n", " ")
    try:
        ours = TABLE[op.name](ours_in, *args, **kwargs)
        found = flat(ours)
        [array(each) for each in found]
    except Unsupported as why:
        report.left_out[str(why) or "not offered here"] += 1
        return
    except Exception as problem:
        if "there are 0 axes" in str(problem):
            report.left_out["an axis of a scalar, which has none here"] += 1
            return
        report.failures.append(
            f"{type(problem).__name__}: {str(problem).splitlines()[0]} | {shown}"
        )
        return
    if op.name in INVARIANT:
        ours, theirs = INVARIANT[op.name](ours), INVARIANT[op.name](theirs)
        found = flat(ours)
    expected = flat(theirs)
    if len(found) != len(expected):
        report.failures.append(f"{len(found)} results against {len(expected)} | {shown}")
        return
    for mine, other in zip(found, expected, strict=True):
        wrong = difference(array(mine), array(other))
        if wrong:
            report.failures.append(f"{wrong} | {shown}")
            return
    report.compared += 1
    if differentiate and leaves:
        wrong = compare_gradients(found, expected, list(leaves.values()))
        if wrong is None:
            report.gradients += 1
        elif wrong:
            report.failures.append(f"gradient: {wrong} | {shown}")


def compare_gradients(ours: list[Any], theirs: list[Any], leaves: list[Any]) -> str | None:
    """The gradients of one random projection. "" where there are none to compare."""
    rng = np.random.default_rng(0)
    mine, other = None, None
    for a, b in zip(ours, theirs, strict=True):
        if not b.requires_grad:
            continue
        weights = rng.standard_normal(tuple(b.shape))
        if b.is_complex():
            weights = weights + 1j * rng.standard_normal(tuple(b.shape))
        term = (torch.tensor(weights).to(b.dtype).conj() * b).sum().real
        other = term if other is None else other + term
        if not a.requires_grad:  # a step: PyTorch's gradient has to be 0
            continue
        product = (schuss.conj(schuss.tensor(weights).astype(a.dtype)) * a).sum()
        product = schuss.real(product)
        mine = product if mine is None else mine + product
    if other is None:
        return ""
    expected = torch.autograd.grad(other, [leaf for leaf, _ in leaves], allow_unused=True)
    try:
        if mine is not None:
            mine.backward()
    except Exception as problem:
        return f"{type(problem).__name__}: {str(problem).splitlines()[0]}"
    for (_, leaf), slope in zip(leaves, expected, strict=True):
        zero = np.zeros(leaf.shape)
        try:
            found = zero if leaf.grad is None else array(leaf.grad)
        except Exception as problem:
            return f"{type(problem).__name__}: {str(problem).splitlines()[0]}"
        wrong = difference(found, zero if slope is None else array(slope))
        if wrong:
            return wrong
    return None


# --- one operator ---


def dtypes_of(op: Any) -> list[torch.dtype]:
    able = op.supported_dtypes("cpu")
    chosen = [each for each in (torch.float64, torch.complex128) if each in able]
    if torch.float64 not in able:
        chosen += [each for each in (torch.int64, torch.bool) if each in able][:1]
    return chosen


def examine(op: Any, report: Report) -> None:
    explained = EXPLAINED.get(op.name, {})
    for dtype in dtypes_of(op):
        if dtype.is_complex and "complex" in explained:
            report.left_out[explained["complex"]] += 1
            continue
        differentiate = op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
        torch.manual_seed(0)
        np.random.seed(0)
        samples = op.sample_inputs("cpu", dtype, requires_grad=differentiate)
        for count, sample in enumerate(samples):
            if count == _MOST_SAMPLES:
                break
            sizes = [t.numel() for t in flat([sample.input, sample.args])]
            if max(sizes, default=0) > _MOST_ELEMENTS:
                report.left_out["a large sample"] += 1
                continue
            compare(report, op, sample, differentiate)
    if op.error_inputs_func is not None and op.name not in FORMULAS:
        examine_errors(op, report)


def examine_errors(op: Any, report: Report) -> None:
    """What PyTorch refuses has to be refused here too, when recorded or when computed."""
    try:
        cases = list(op.error_inputs("cpu"))
    except Exception:
        return
    for case in cases:
        sample = case.sample_input
        try:
            ours_in, args, kwargs = to_ours((sample.input, sample.args, sample.kwargs), {})
        except Exception:
            continue  # what cannot even be a tensor here
        try:
            for each in flat(TABLE[op.name](ours_in, *args, **kwargs)):
                array(each)
        except Unsupported:
            continue
        except Exception:
            report.refused += 1
        else:
            report.accepted.append(str(case.error_regex)[:90] or "a number in place of a tensor")


def run(only: list[str]) -> list[Report]:
    reports: dict[str, Report] = {}
    for op in op_db:
        if op.name not in TABLE or (only and op.name not in only):
            continue
        report = reports.setdefault(op.name, Report(op.name))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            examine(op, report)
    return sorted(reports.values(), key=lambda report: report.name)


# --- the page ---


def page(reports: list[Report]) -> str:
    compared = [r for r in reports if r.compared]
    passed = [r for r in compared if not r.failures]
    failing = [r for r in reports if r.failures]
    names = {op.name for op in op_db}
    refused, accepted = sum(r.refused for r in reports), sum(len(r.accepted) for r in reports)
    lines = [
        "# Compared with PyTorch, on PyTorch's own samples",
        "",
        f"Written by `python tools/opinfo.py --write`, with torch {torch.__version__}.",
        "",
        "| | |",
        "|---|---:|",
        f"| operators that PyTorch describes | {len(names)} |",
        f"| of them compared | {len(compared)} |",
        f"| without a difference | {len(passed)} |",
        f"| samples compared | {sum(r.compared for r in reports)} |",
        f"| of them with gradients | {sum(r.gradients for r in reports)} |",
        f"| wrong inputs that PyTorch refuses, refused here | {refused} of {refused + accepted} |",
        "",
    ]
    if failing:
        lines += ["## Differences", ""]
        for r in failing:
            why = EXPLAINED.get(r.name, {}).get("why", "unexplained")
            lines.append(f"- `{r.name}`: {len(r.failures)} of {r.compared + len(r.failures)} "
                         f"samples; {why}")  # fmt: skip
        lines.append("")
    lines += ["## Accepted here, refused there", ""]
    for r in reports:
        for text, count in Counter(r.accepted).items():
            times = f" ({count} times)" if count > 1 else ""
            lines.append(f"- `{r.name}`: {text.replace('|', '/')}{times}")
    lines += ["", "## Samples left out", ""]
    reasons: dict[str, list[str]] = {}
    for r in reports:
        for reason in r.left_out:
            reasons.setdefault(reason, []).append(r.name)
    for reason, who in sorted(reasons.items()):
        lines.append(f"- {reason}: {', '.join(f'`{name}`' for name in who)}")
    lines += ["", "## Compared", "", ", ".join(f"`{r.name}`" for r in compared), ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    reports = run(options.only)
    unexplained = 0
    for r in reports:
        if r.failures:
            why = EXPLAINED.get(r.name, {}).get("why")
            unexplained += why is None
            print(f"{r.name}: {len(r.failures)} of {r.compared + len(r.failures)}; {why or ''}")
            for text in r.failures[: 3 if options.only else 1]:
                print("   ", text)
    text = page(reports)
    if options.write:
        RESULTS.write_text(text, encoding="utf-8")
    print("\n".join(text.splitlines()[4:13]))
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
