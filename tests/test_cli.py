from __future__ import annotations

import subprocess
import sys

import pytest

from schuss import __version__


def run(*words, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "schuss.cli", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
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
    assert "epochs" in shown
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
        (["linear", "epochs"], "linear: settings are written key=value, got 'epochs'"),
        (["fashion", "model=vgg"], "fashion: model is one of lenet, resnet, got 'vgg'"),
        (["digits", "plain=maybe"], "digits: plain is of type bool, got 'maybe'"),
    ],
)
def test_mistakes_are_a_message_and_status_2(words, text):
    done = run("train", *words)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr
