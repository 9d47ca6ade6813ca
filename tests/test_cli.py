from __future__ import annotations

import os
import subprocess
import sys

import pytest

from schuss import __version__


def run(*words, cwd=None, env=None):
    return subprocess.run(
        [sys.executable, "-m", "schuss", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=None if env is None else {**os.environ, **env},
        check=False,
    )


def test_version():
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"schuss {__version__}\n")


def test_help_everywhere():
    assert "train" in run("--help").stdout
    assert "KEY=VALUE" in run("train", "--help").stdout
    assert "List the recipes" in run("recipes", "--help").stdout
    shown = run("train", "digits", "--help").stdout
    assert "Target of a full run: accuracy on held-out digits >= 0.98" in shown
    assert "epochs      how often to go through the training digits. (int, default 15)" in shown
    assert run().returncode == 2
    assert run("train").returncode == 2


def test_recipes_are_listed_with_targets():
    shown = run("recipes").stdout
    for name in ("approximate", "digits", "fashion", "linear", "softmax", "xor"):
        assert f"\n{name}\n" in f"\n{shown}"
    assert "target: accuracy on held-out digits >= 0.98" in shown


def test_a_full_run_reports_and_succeeds(tmp_path):
    done = run("train", "linear", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "target: largest difference of the two solutions <= 0.01 (reached)" in done.stdout


def test_a_full_run_that_misses_exits_with_1(tmp_path):
    done = run("train", "linear", "lr=0.00001", cwd=tmp_path)
    assert done.returncode == 1
    assert "(MISSED)" in done.stdout


def test_a_short_run_is_not_judged(tmp_path):
    done = run("train", "linear", "lr=0.00001", "epochs=1", cwd=tmp_path)
    assert done.returncode == 0
    assert "(not judged: a shortened run)" in done.stdout


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nothing"], "ArgumentError: recipes: there is no recipe 'nothing'"),
        (["linear", "speed=3"], "linear: has no setting 'speed'"),
        (["linear", "epochs=many"], "linear: epochs is of type int, got 'many'"),
        (["linear", "epochs=0"], "linear: epochs must be positive, got 0"),
        (["linear", "epochs"], "linear: settings are written key=value, got 'epochs'"),
        (["digits", "plain=maybe"], "digits: plain is of type bool, got 'maybe'"),
    ],
)
def test_mistakes_are_a_message_and_status_2(words, text):
    done = run("train", *words)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupted_run_says_how_to_go_on(tmp_path):
    code = (
        "import os, signal, sys, threading\n"
        "from schuss import cli\n"
        "from schuss.training import Trainer\n"
        "step = Trainer.train_step\n"
        "def interrupted(self, batch):\n"
        "    if self.step == 3:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return step(self, batch)\n"
        "Trainer.train_step = interrupted\n"
        "sys.argv = ['schuss', 'train', 'digits']\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 130, done.stderr
    assert "interrupted; to go on: schuss train digits ... resume=true" in done.stderr
    resumed = run("train", "digits", "epochs=1", "resume=true", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming the run in runs" in resumed.stdout


def test_the_cache_of_kernels_is_shown_and_cleared(tmp_path):
    folder = tmp_path / "kernels"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.kernel").write_bytes(bytes(3 << 19))
    env = {"SCHUSS_CACHE": "1", "SCHUSS_CACHE_DIR": str(folder)}
    shown = run("cache", env=env)
    assert (shown.returncode, shown.stdout) == (0, f"{folder}: 2 kernels, 3.0 MiB\n")
    assert run("cache", "--clear", env=env).stdout.endswith("3.0 MiB\nremoved 2\n")
    assert run("cache", env=env).stdout == f"{folder}: 0 kernels, 0.0 MiB\n"


def test_there_may_be_no_cache(tmp_path):
    shown = run("cache", "--clear", env={"SCHUSS_CACHE": "0"})
    assert (shown.returncode, shown.stdout) == (0, "compiled kernels are not kept\n")
