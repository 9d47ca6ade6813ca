"""A run that is killed and resumed gives the same bits as one that was never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("killed_run.py")


def run(folder: Path, method: str, moment: str) -> int:
    """Run the program until it ends or kills itself; returns its exit status."""
    command = [sys.executable, "-W", "error", str(PROGRAM), str(folder), method, moment]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def without_times(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: without_times(v) for k, v in tree.items() if k not in ("times", "seconds")}
    return [without_times(entry) for entry in tree] if isinstance(tree, list) else tree


def results(folder: Path) -> dict[str, Any]:
    """All that two runs must agree in."""
    lines = (folder / "history.jsonl").read_text().splitlines()
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    last = folder / "checkpoints" / names[-1]
    files = [folder / "final.safetensors", *sorted(last.glob("*.safetensors"))]
    return {
        "history": [without_times(json.loads(line)) for line in lines],
        "names": names,
        "state": without_times(json.loads((last / "state.json").read_text())),
        **{file.name: file.read_bytes() for file in files},
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What runs that were not stopped gave, by optimizer."""
    found = {}
    for method in ("adam", "momentum"):
        folder = tmp_path_factory.mktemp(method)
        assert run(folder, method, "never") == 0
        found[method] = results(folder)
    return found


# Five steps an epoch, checkpoints after every third step and every epoch. A checkpoint takes 13 or
# so calls to the system; the first lies before any other, the last in the run's last checkpoint.
@pytest.mark.parametrize(
    ("method", "moments"),
    [
        ("adam", ["step:1"]),  # before the first checkpoint
        ("adam", ["step:8"]),  # in the middle of an epoch
        ("adam", ["step:10"]),  # at the last batch of an epoch
        ("momentum", ["step:13"]),
        ("adam", ["validation:3"]),
        ("adam", ["write:9"]),  # the first checkpoint, half-written
        ("adam", ["write:30"]),
        ("momentum", ["write:61"]),
        ("adam", ["step:2", "write:40", "step:11", "validation:1", "step:17", "write:31"]),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_the_same_bits(
    tmp_path: Path, expected: dict[str, dict[str, Any]], method: str, moments: list[str]
) -> None:
    for moment in moments:
        assert run(tmp_path, method, moment) == -signal.SIGKILL
    assert run(tmp_path, method, "never") == 0
    found = results(tmp_path)
    for name, value in expected[method].items():
        assert found[name] == value, name


def test_a_finished_run_changes_nothing(
    tmp_path: Path, expected: dict[str, dict[str, Any]]
) -> None:
    for _ in range(2):
        assert run(tmp_path, "adam", "never") == 0
        assert results(tmp_path) == expected["adam"]
