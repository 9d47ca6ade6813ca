"""The progress bar on a terminal, and the lines elsewhere."""

from __future__ import annotations

import io
import re

import pytest

from schuss.training import Accuracy, ConfusionMatrix, ProgressBar
from schuss.training.progress import epoch_line

from .small_run import At, make_loader, make_trainer


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(metrics=[Accuracy(), ConfusionMatrix(3)])
    history = trainer.fit(make_loader(), epochs=2, validation=make_loader(10))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    loss = history[1]["validation_loss"]
    pattern = rf"epoch 2/2  step 8  loss .*  accuracy .*  validation_loss {loss:.4g} .*  lr 0.1 .*"
    assert re.fullmatch(pattern + r" \d+ samples/s  \d+\.\d s", lines[1])


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer().fit(make_loader(), epochs=1, progress=False)
    assert capsys.readouterr().out == ""


def test_a_line() -> None:
    record = {"epoch": 3, "step": 12, "loss": 1 / 3, "matrix": [[1]], "lr": 1e-05}
    line = epoch_line(record, {"seconds": 2.04, "samples_per_second": 99.6}, epochs=10)
    assert line == "epoch 3/10  step 12  loss 0.3333  lr 1e-05  100 samples/s  2.0 s"


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("schuss.training.progress._INTERVAL", -1.0)  # draw each step
    screen = Terminal()
    trainer = make_trainer(metrics=[Accuracy()], callbacks=[ProgressBar(screen)])
    trainer.fit(make_loader(), epochs=2)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert "3/4" in text
    assert re.search(r"epoch 2/2 .* 4/4 .*loss \S+  lr 0.1  \d+ samples/s", text)
    assert re.search(r"epoch 1/2  step 4  loss \S+  accuracy \S+", text)  # stays in the end
    assert screen.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_the_terminal_is_given_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")  # others may not be able to hide a cursor

    def fails(trainer: object) -> None:
        raise ZeroDivisionError

    screen = Terminal()
    trainer = make_trainer(callbacks=[ProgressBar(screen), At(2, fails)])
    with pytest.raises(ZeroDivisionError):
        trainer.fit(make_loader(), epochs=1)
    assert "\x1b[?25h" in screen.getvalue()
