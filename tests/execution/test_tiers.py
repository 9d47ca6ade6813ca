"""Which tier serves which evaluation, what `last_run()` says of it, and that results repeat."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import schuss
from schuss.errors import ArgumentError
from schuss.execution import tiers
from schuss.execution.tiers import using

SOURCES = Path(schuss.__file__).parents[1]


@pytest.fixture(autouse=True)
def _fresh(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    monkeypatch.setenv("SCHUSS_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "kernels"))
    tiers.forget()
    with using("auto"):
        yield
    tiers.forget()


def tier_of(rows: int = 4, scale: float = 2.0) -> str:
    """Evaluate one structure and tell which tier it was."""
    x = schuss.tensor(np.arange(rows, dtype=np.float32))
    y = schuss.exp(x * scale).sum()
    y.item()
    return schuss.last_run().tier


# --- the n-th evaluation ---


def test_the_first_evaluation_is_the_references_and_the_next_are_compiled() -> None:
    assert [tier_of() for _ in range(4)] == ["reference", "compiled", "compiled", "compiled"]


def test_numbers_are_no_structure() -> None:
    """A learning rate that changes every step compiles once."""
    tier_of(scale=0.3)
    for scale in (0.4, 0.05, 7.25):
        assert tier_of(scale=scale) == "compiled"
    assert len(tiers._programs) == 1


def test_each_shape_is_a_structure_of_its_own() -> None:
    """The last, smaller batch stays on the reference: no recompilation."""
    tier_of(8)
    assert tier_of(8) == "compiled"
    assert tier_of(5) == "reference"
    assert tier_of(8) == "compiled"
    assert [tier_of(n) for n in range(20, 30)] == ["reference"] * 10
    assert len(tiers._programs) == 1


def test_many_sizes_of_the_same_ops_do_not_make_a_storm_of_programs(monkeypatch) -> None:
    monkeypatch.setattr(tiers, "_SIZES", 3)
    for n in (5, 6, 7, 8, 9):
        tier_of(n)
    assert [tier_of(n) for n in (5, 6, 7, 8, 9)] == ["compiled"] * 3 + ["reference"] * 2
    assert "these ops are compiled for 3 other sizes" in schuss.last_run().why
    assert tier_of(6) == "compiled"
    x = schuss.tensor(np.ones(8, np.float32))
    for _ in range(2):  # other ops: no matter
        schuss.tanh(x * 2.0).sum().item()
    assert schuss.last_run().tier == "compiled"


def test_other_axes_ranks_and_dtypes_are_no_other_sizes(monkeypatch) -> None:
    monkeypatch.setattr(tiers, "_SIZES", 1)

    def tier(shape: tuple[int, ...], axis: int, dtype: type) -> str:
        x = schuss.tensor(np.ones(shape, dtype))
        for _ in range(2):
            schuss.evaluate(schuss.sum(x, axis=axis))
        return schuss.last_run().tier

    assert tier((4, 5), 0, np.float32) == "compiled"
    assert tier((4, 5), 1, np.float32) == "compiled"
    assert tier((4, 5), 0, np.float64) == "compiled"
    assert tier((4, 5, 6), 0, np.float32) == "compiled"
    assert tier((4, 6), 0, np.float32) == "reference"


def test_sizes_that_come_often_are_compiled_when_that_pays(monkeypatch) -> None:
    """What the reference tier has cost on them decides, by an estimate and not by a clock."""
    monkeypatch.setattr(tiers, "_SIZES", 0)
    monkeypatch.setattr(tiers, "_WORTH_SECONDS", 4.5)
    monkeypatch.setattr(tiers, "_WORTH_PER_NODE", 0.0)
    monkeypatch.setattr(tiers, "reference_seconds", lambda order: 1.0)
    assert [tier_of(7) for _ in range(6)] == ["reference"] * 4 + ["compiled"] * 2


def test_a_program_that_had_to_go_must_be_earned_again(monkeypatch) -> None:
    """More sizes than programs are kept, in turns: nothing is compiled over and over."""
    monkeypatch.setattr(tiers, "_SIZES", 2)
    monkeypatch.setattr(tiers, "_PROGRAMS", 2)
    for n in (5, 5, 6, 6):
        tier_of(n)
    for _ in range(4):
        tier_of(7)
    assert [tier_of(n) for n in (5, 6, 7)] == ["compiled", "compiled", "reference"]


def test_ops_attributes_and_wiring_are_structure() -> None:
    x, y = schuss.ones(3, 3) * 1.5, schuss.ones(3, 3) * 2.5
    schuss.evaluate(x, y)
    for f in (
        lambda: x - y,
        lambda: y - x,
        lambda: x - x,
        lambda: x / y,
        lambda: x.sum(axis=0),
        lambda: x.sum(axis=1),
        lambda: (x - y).astype(schuss.float64),
    ):
        f().numpy()
        first = schuss.last_run().tier
        found = f().numpy()
        assert schuss.last_run().tier == "compiled"
        with using("reference"):
            np.testing.assert_array_equal(found, f().numpy())
        assert first == "reference" or len(tiers._programs) < 7
    # y - x has the structure of x - y: two leaves of one type in the order of their first use.
    assert len(tiers._programs) == 6


def test_the_outputs_that_are_wanted_are_structure() -> None:
    def both(keep: bool) -> str:
        x = schuss.tensor(np.ones(3, np.float32))
        y = schuss.exp(x)
        z = y * 3
        if not keep:
            del y
        z.numpy()
        return schuss.last_run().tier

    assert [both(True), both(False), both(True), both(False)] == ["reference"] * 2 + [
        "compiled"
    ] * 2


def test_heavy_work_is_compiled_at_once() -> None:
    x = schuss.tensor(np.ones((2600, 2600), np.float32))
    x = x @ x[:, :1]  # 7 million multiply-adds: not heavy
    x.numpy()
    assert schuss.last_run().tier == "reference"
    # Recorded only: seconds of work for the reference tier.
    big = schuss.ones((2**13, 2**13))
    product = (big @ big)._node
    assert tiers.reference_seconds([product]) > tiers._WORTH_SECONDS + tiers._WORTH_PER_NODE


def test_what_is_heavy_depends_on_the_graph_and_not_on_a_clock(monkeypatch) -> None:
    monkeypatch.setattr(tiers, "reference_seconds", lambda order: 1.0)
    assert tier_of() == "compiled"


def test_light_work_is_not() -> None:
    x = schuss.ones((64, 64))
    assert tiers.reference_seconds([(x @ x)._node, schuss.exp(x)._node]) < tiers._WORTH_SECONDS


@pytest.mark.parametrize("most", [1, 3])
def test_programs_and_what_was_seen_are_bounded(most: int, monkeypatch) -> None:
    monkeypatch.setattr(tiers, "_PROGRAMS", most)
    monkeypatch.setattr(tiers, "_SEEN", 4)
    for n in range(1, 7):
        tier_of(n)
        tier_of(n)
    assert len(tiers._programs) == most
    assert len(tiers._seen) <= 4 + most
    assert tier_of(6) == "compiled"


def test_the_least_recently_used_program_goes_first(monkeypatch) -> None:
    monkeypatch.setattr(tiers, "_PROGRAMS", 2)
    for n in (1, 1, 2, 2, 1, 3, 3):  # 2 has not been used for the longest time
        tier_of(n)
    before = {id(each) for each in tiers._programs.values()}
    tier_of(1)
    tier_of(3)
    assert {id(each) for each in tiers._programs.values()} == before
    assert tier_of(2) == "compiled", "it was seen, so it is compiled again at once"
    assert {id(each) for each in tiers._programs.values()} != before


# --- last_run ---


def test_last_run_of_the_reference() -> None:
    tier_of()
    run = schuss.last_run()
    assert run.tier == "reference"
    assert run.why == "first evaluation of this structure: it is compiled when it comes back"
    assert run.ops == {"multiply": 1, "exp": 1, "sum": 1}
    assert run.compile_seconds == 0
    assert str(run).startswith("reference: 3 ops in ")
    assert str(run).endswith(run.why)


def test_last_run_of_a_compiled_program() -> None:
    tier_of()
    tier_of()
    first = schuss.last_run()
    assert first.tier == "compiled"
    assert first.compile_seconds > 0
    assert "\ncompiled in " in str(first)
    tier_of()
    second = schuss.last_run()
    assert second.compile_seconds == 0
    assert second.ops == {"loops": 1}
    assert str(second).startswith("compiled: 1 launches and host steps in ")
    assert "\n" not in str(second)
    assert second.peak_bytes == 4, "the sum; what comes before it is never stored"


def test_last_run_where_a_check_fails() -> None:
    def pick(i: int) -> None:
        x = schuss.tensor(np.arange(3.0))
        (x[schuss.tensor([i])] + 1).numpy()

    pick(0)
    pick(1)
    assert schuss.last_run().tier == "compiled"
    with pytest.raises(IndexError, match="index 7 is outside axis 0"):
        pick(7)
    pick(2)
    assert schuss.last_run().tier == "compiled", "one bad value does not drop the program"


# --- forcing a tier ---


def test_using_forces_a_tier_and_puts_the_old_one_back() -> None:
    with using("compiled"):
        assert tier_of() == "compiled"
        with using("reference"):
            assert tier_of() == "reference"
        assert tier_of() == "compiled"
    tiers.forget()
    assert tier_of() == "reference"
    with pytest.raises(ZeroDivisionError), using("compiled"):
        raise ZeroDivisionError
    assert tiers.mode() == "auto"


def test_evaluations_with_a_forced_reference_do_not_count() -> None:
    with using("reference"):
        tier_of()
        tier_of()
    assert tier_of() == "reference"


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a few lines in a process of their own."""
    settings = {**os.environ, "PYTHONPATH": str(SOURCES), **environment}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=settings, capture_output=True, text=True, check=False,
    )  # fmt: skip


TIERS = """
import schuss
for _ in range(3):
    (schuss.tensor([1.0, 2.0]) * 3).numpy()
    print(schuss.last_run().tier)
"""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("auto", "reference compiled compiled"),
        ("", "reference compiled compiled"),
        ("compiled", "compiled compiled compiled"),
        ("reference", "reference reference reference"),
    ],
)
def test_environment_variable(value: str, expected: str, tmp_path: Path) -> None:
    done = python(TIERS, SCHUSS_EXECUTION=value, SCHUSS_CACHE_DIR=str(tmp_path))
    assert done.stdout.split() == expected.split(), done.stderr


def test_a_wrong_environment_variable_is_told(monkeypatch) -> None:
    monkeypatch.setattr(tiers, "_mode", None)
    monkeypatch.setenv("SCHUSS_EXECUTION", "fast")
    with pytest.raises(
        ArgumentError,
        match="SCHUSS_EXECUTION: the environment variable must be one of auto, reference, "
        "compiled, got 'fast'",
    ):
        tier_of()
    monkeypatch.setenv("SCHUSS_EXECUTION", "auto")
    assert tier_of() == "reference", "the next evaluation asks again"


# --- results repeat ---

RUN = """
import hashlib, sys
import numpy as np
import schuss
from schuss import nn, optim
from schuss.compiler.cpu.runtime import set_num_threads

set_num_threads(int(sys.argv[1]))
rng = np.random.default_rng(0)
model = nn.Sequential(nn.Linear(300, 257), nn.GELU(), nn.LayerNorm(257), nn.Linear(257, 100))
optimizer = optim.Adam(model.parameters(), lr=1e-3)
x = schuss.tensor(rng.standard_normal((130, 300)).astype(np.float32))
labels = schuss.tensor(rng.integers(0, 100, 130))
wide = schuss.tensor(rng.standard_normal(200_001).astype(np.float32))
for _ in range(4):
    loss = nn.functional.cross_entropy(nn.functional.dropout(model(x), 0.1), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
digest = hashlib.sha256()
for p in [*model.parameters(), loss, wide.sum(), (wide * wide).mean(), schuss.softmax(wide)]:
    digest.update(p.numpy().tobytes())
rows = schuss.tensor(rng.standard_normal((3, 70_001)).astype(np.float32))
for _ in range(2):
    for y in (rows.sum(axis=1), rows.max(axis=0), rows @ rows.T):
        digest.update(y.numpy().tobytes())
print(schuss.last_run().tier, digest.hexdigest())
"""


def digest_of(threads: int, folder: Path, script: Path) -> str:
    settings = {**os.environ, "PYTHONPATH": str(SOURCES), "SCHUSS_CACHE_DIR": str(folder)}
    settings["SCHUSS_EXECUTION"] = "auto"
    done = subprocess.run(
        [sys.executable, str(script), str(threads)],
        env=settings, capture_output=True, text=True, check=False,
    )  # fmt: skip
    tier, digest = done.stdout.split() if done.stdout else ("", done.stderr)
    assert tier == "compiled", done.stderr
    return digest


def test_same_bits_for_any_number_of_threads_run_and_cache(tmp_path: Path) -> None:
    """The first run fills the cache, the others find it."""
    script = tmp_path / "run.py"
    script.write_text(RUN)
    cache = tmp_path / "cache"
    first = digest_of(1, cache, script)
    assert any(cache.iterdir())
    assert [digest_of(n, cache, script) for n in (2, 3, 8)] == [first] * 3
    assert digest_of(2, tmp_path / "another", script) == first, "with a cold cache"
