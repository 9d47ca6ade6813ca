"""What `import schuss` loads, in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

import schuss

HEAVY = ["llvmlite", "matplotlib", "rich", "typer", "tensorboardX", "torch", "scipy", "pandas"]
LAZY = ["nn", "optim", "data", "training", "cli", "recipes"]


def run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    ).stdout


def test_import_is_light() -> None:
    loaded = run("import sys, schuss; print(*sys.modules)").split()
    assert not [name for name in loaded if name.partition(".")[0] in HEAVY]
    assert not [
        name for name in loaded if name.startswith("schuss.") and name.split(".")[1] in LAZY
    ]


def test_parts_load_when_they_are_first_named() -> None:
    assert run("import schuss; print(schuss.nn.__name__, schuss.optim.__name__)").split() == [
        "schuss.nn", "schuss.optim"
    ]  # fmt: skip


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="schuss has no attribute 'no_such_thing'"):
        _ = schuss.no_such_thing


def test_the_namespace_is_the_array_api() -> None:
    assert schuss.ones(1).__array_namespace__() is schuss
    assert schuss.newaxis is None
    assert schuss.bool == schuss.tensor([True]).dtype
    assert schuss.pi == pytest.approx(3.14159265)


def test_imports_point_downwards() -> None:
    """Each part can be imported on its own, without the parts above it."""
    for part in ("graph", "ops", "functions.neural", "autodiff", "execution"):
        loaded = run(f"import sys; import schuss.{part}; print(*sys.modules)").split()
        assert "schuss.nn" not in loaded
