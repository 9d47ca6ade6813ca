from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import schuss
from schuss.compiler.cpu import host as module
from schuss.compiler.cpu.host import get_num_threads, host, set_num_threads
from schuss.errors import ArgumentError


@pytest.fixture
def fresh(monkeypatch):
    """`host()` and the number of threads as in a new process."""
    host.cache_clear()
    monkeypatch.setattr(module, "_threads", None)
    yield
    host.cache_clear()


def test_this_machine():
    there = host()
    assert there is host()
    assert there.name
    assert there.triple
    assert there.layout
    assert there.vector_bits in (128, 256, 512)
    assert 1 <= there.cores <= os.cpu_count()


def test_lanes():
    there = host()
    nbytes = there.vector_bits // 8
    assert there.lanes(schuss.float32) == nbytes // 4
    assert there.lanes(schuss.float64) == nbytes // 8
    assert there.lanes(schuss.bfloat16) == nbytes // 2
    assert there.lanes(np.dtype(bool)) == nbytes


def test_portable_is_less(fresh, monkeypatch):
    full = host()
    host.cache_clear()
    monkeypatch.setenv("SCHUSS_CPU", "portable")
    there = host()
    assert there.vector_bits == 128
    assert there.lanes(schuss.float32) == 4
    assert not there.has_bf16_dot
    assert (there.triple, there.cores) == (full.triple, full.cores)
    assert there.name != full.name


@pytest.mark.parametrize(("name", "bits"), [("avx2", 256), ("avx512", 512)])
def test_lesser_processors(fresh, monkeypatch, name, bits):
    if host().vector_bits < bits:
        pytest.skip(f"this machine has no {name}")
    host.cache_clear()
    monkeypatch.setenv("SCHUSS_CPU", name)
    there = host()
    assert (there.vector_bits, there.has_fma, there.has_bf16_dot) == (bits, True, False)


def test_a_processor_that_is_not_there(fresh, monkeypatch):
    monkeypatch.setenv("SCHUSS_CPU", "pdp11")
    with pytest.raises(ArgumentError, match=r"SCHUSS_CPU: .* asks for 'pdp11'"):
        host()


def test_llvmlite_is_loaded_when_it_is_needed():
    code = (
        "import sys\n"
        "import schuss.compiler.cpu.runtime\n"
        "from schuss.compiler.cpu.host import get_num_threads\n"
        "get_num_threads()\n"
        "sys.exit('llvmlite' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class TestThreads:
    def test_the_default_is_the_usable_processors(self, fresh, monkeypatch):
        monkeypatch.delenv("SCHUSS_NUM_THREADS", raising=False)
        assert get_num_threads() == host().cores

    def test_the_environment_says(self, fresh, monkeypatch):
        monkeypatch.setenv("SCHUSS_NUM_THREADS", "5")
        assert get_num_threads() == 5

    def test_setting_wins(self, fresh, monkeypatch):
        monkeypatch.setenv("SCHUSS_NUM_THREADS", "5")
        set_num_threads(3)
        assert get_num_threads() == 3

    @pytest.mark.parametrize("wrong", ["0", "many", "-1", "2.5"])
    def test_wrong_environment(self, fresh, monkeypatch, wrong):
        monkeypatch.setenv("SCHUSS_NUM_THREADS", wrong)
        with pytest.raises(ArgumentError, match=r"SCHUSS_NUM_THREADS: .* whole number, got"):
            get_num_threads()

    @pytest.mark.parametrize("wrong", [0, -1, 2.0, True, None])
    def test_wrong_number(self, wrong):
        with pytest.raises(ArgumentError, match="set_num_threads: n must be a positive"):
            set_num_threads(wrong)


class TestQuota:
    """Control groups, in a folder that looks like theirs."""

    def quota(self, tmp_path, membership, **limits):
        for path, value in limits.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(value)
        (tmp_path / "membership").write_text(membership)
        return module._quota(tmp_path, tmp_path / "membership")

    def test_version_2(self, tmp_path):
        limits = {"a/b/cpu.max": "250000 100000\n"}
        assert self.quota(tmp_path, "0::/a/b\n", **limits) == 3

    def test_the_tightest_group_above_counts(self, tmp_path):
        limits = {"a/cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000\n"}
        assert self.quota(tmp_path, "0::/a/b\n", **limits) == 2

    def test_a_container_sees_its_own_group_at_the_top(self, tmp_path):
        limits = {"cpu.max": "400000 100000\n"}
        assert self.quota(tmp_path, "0::/docker/1234\n", **limits) == 4

    def test_version_1(self, tmp_path):
        limits = {"cpu/a/cpu.cfs_quota_us": "50000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}
        assert self.quota(tmp_path, "3:cpuset:/x\n1:cpu,cpuacct:/a\n0::/\n", **limits) == 1

    def test_no_limit(self, tmp_path):
        limits = {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}
        assert self.quota(tmp_path, "1:cpu:/\n", **limits) is None
        assert self.quota(tmp_path, "0::/\n") is None

    def test_nonsense_and_nothing_are_no_limit(self, tmp_path):
        assert self.quota(tmp_path, "0::/a\n", **{"a/cpu.max": "soon\n"}) is None
        assert self.quota(tmp_path, "a line without colons\n") is None
        assert module._quota(tmp_path, tmp_path / "missing") is None
