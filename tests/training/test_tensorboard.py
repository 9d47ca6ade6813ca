"""Event files, read back with the reader of tensorboardX's own records."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from schuss.errors import ArgumentError, MissingDependencyError
from schuss.training import Accuracy, TensorBoard

from .small_run import At, interrupt, make_loader, make_trainer

Scalars = list[tuple[str, int, float]]


def read(folder: Path) -> tuple[list[Scalars], list[int]]:
    """The scalars of each event file, and the steps from which former ones are hidden."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    files, purges = [], []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        scalars: Scalars = []
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            scalars += [
                (value.tag, event.step, value.simple_value) for value in event.summary.value
            ]
            if event.session_log.status == SessionLog.START:
                purges.append(event.step)
        files.append(scalars)
    return files, purges


def test_scalars(tmp_path: Path) -> None:
    trainer = make_trainer(metrics=[Accuracy()], callbacks=[TensorBoard(tmp_path, every_steps=2)])
    history = trainer.fit(make_loader(), epochs=2, validation=make_loader(10), progress=False)
    [scalars], purges = read(tmp_path)
    assert purges == [0]
    assert [(tag, step) for tag, step, _ in scalars] == [
        *[("step/loss", 2), ("step/lr", 2), ("step/loss", 4), ("step/lr", 4)],
        *[("loss/training", 4), ("accuracy/training", 4)],
        *[("loss/validation", 4), ("accuracy/validation", 4), ("lr", 4)],
        *[("step/loss", 6), ("step/lr", 6), ("step/loss", 8), ("step/lr", 8)],
        *[("loss/training", 8), ("accuracy/training", 8)],
        *[("loss/validation", 8), ("accuracy/validation", 8), ("lr", 8)],
    ]
    assert scalars[-5][2] == pytest.approx(history[1]["loss"])


def test_a_resumed_run_hides_what_lies_beyond_its_checkpoint(tmp_path: Path) -> None:
    board, folder = tmp_path / "board", tmp_path / "run"
    trainer = make_trainer(callbacks=[TensorBoard(board), At(6, interrupt)])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(make_loader(), epochs=2, checkpoints=folder, progress=False)
    trainer = make_trainer(callbacks=[TensorBoard(board, every_steps=None)])
    trainer.fit(make_loader(), epochs=2, checkpoints=folder, resume=True, progress=False)
    files, purges = read(board)
    assert sorted(purges) == [0, 7]
    assert sorted(len(scalars) for scalars in files) == [2, 14]


def test_wrong_arguments() -> None:
    with pytest.raises(ArgumentError, match="every_steps must be at least 1, or None"):
        TensorBoard("folder", every_steps=0)


def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    trainer = make_trainer(callbacks=[TensorBoard(tmp_path)])
    text = r"needs the package tensorboardX[^$]*pip install 'schuss\[tensorboard\]'"
    with pytest.raises(MissingDependencyError, match=text):
        trainer.fit(make_loader(), epochs=1, progress=False)
