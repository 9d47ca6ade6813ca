"""Refusing what does not fit, with a message instead of the system's."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

import schuss
from schuss.errors import AllocationError, ShapeError
from schuss.execution import memory


@pytest.fixture
def tiny_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**28)


def test_too_large_a_result_is_refused(tiny_machine: None) -> None:
    x = schuss.ones((2**14, 1)) + schuss.ones((1, 2**15))  # 2 GiB
    with pytest.raises(
        AllocationError, match=r"add: the result needs 2\.0 GiB, and 256\.0 MiB are left"
    ) as e:
        x.numpy()
    assert "hint: use a smaller batch" in str(e.value)
    assert __file__ in str(e.value)
    assert isinstance(e.value, MemoryError)


def test_views_need_no_memory(tiny_machine: None) -> None:
    x = schuss.ones((2**14, 2**15))
    assert x[0, 0].item() == 1


@pytest.mark.usefixtures("reference_tier")
def test_a_refused_allocation_names_the_largest_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(node):
        if node.name == "exp":
            raise MemoryError
        return run(node)

    module = importlib.import_module("schuss.execution.evaluate")
    run = module.run
    monkeypatch.setattr(module, "run", refuse)
    x = schuss.exp(schuss.tensor(np.ones(100)) + 1)
    with pytest.raises(
        AllocationError, match=r"which the system refused; largest held: add \(100,\) float64"
    ):
        x.numpy()


def test_absurd_sizes_are_refused_when_recorded() -> None:
    with pytest.raises(ShapeError, match="too large for any machine"):
        schuss.ones((2**31, 2**31))


def test_available_bytes_is_plausible() -> None:
    available = memory.available_bytes()
    assert available is None or 2**20 < available < 2**60


def test_cached_files_do_not_count_as_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_meminfo", lambda: None)
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 200\nactive_file 300\ninactive_file 400\n")
    assert memory.available_bytes() == 800
    (tmp_path / "memory.max").write_text("max\n")
    available = memory.available_bytes()
    assert available is None or available > 2**20


def test_meminfo_that_cannot_be_read_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_meminfo", lambda: None)
    monkeypatch.setattr(memory, "_cgroup", lambda: None)
    available = memory.available_bytes()
    assert available is None or available > 2**20
