"""Early stopping, JSON lines and checkpoints as callbacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schuss.data import CharTokenizer
from schuss.errors import ArgumentError, StorageError
from schuss.safetensors import load_file
from schuss.training import (
    Accuracy,
    Checkpoint,
    ConfusionMatrix,
    EarlyStopping,
    JSONLines,
    KeepState,
    Trainer,
)

from .small_run import At, assert_same, make_loader, make_trainer, weights


class Scripted(Trainer):
    """Gives the losses of a script instead of evaluating."""

    script: tuple[float, ...] = ()

    def evaluate(self, loader: Any) -> dict[str, Any]:
        return {"loss": self.script[self.epoch], "accuracy": -self.script[self.epoch]}


def run_script(losses: tuple[float, ...], stopping: EarlyStopping, **options: Any) -> Trainer:
    trainer = make_trainer(Scripted, metrics=[Accuracy()], callbacks=[stopping])
    trainer.script = losses
    options = {"epochs": len(losses), "validation": [], "progress": False} | options
    trainer.fit(make_loader(8), **options)
    return trainer


@pytest.mark.parametrize(
    ("losses", "options", "stopped", "best"),
    [
        ((3, 2, 1, 0.5), {}, 4, 4),
        ((3, 1, 2, 2, 2, 0), {"patience": 2}, 4, 2),
        ((3, 1, 2, 0.5, 2, 2, 0), {"patience": 2}, 6, 4),
        ((3, 2.9, 2.8, 0), {"patience": 2, "min_delta": 0.5}, 3, 1),
        ((float("nan"), 3, float("nan"), 4, 0), {"patience": 2}, 4, 2),
        ((float("nan"), float("nan"), 0), {"patience": 2}, 2, 0),
        ((3, 1, 2, 2, 0), {"patience": 2, "monitor": "validation_accuracy"}, 4, 2),
        ((1, 2, 3, 2, 2, 0), {"patience": 2, "mode": "max"}, 5, 3),
    ],
)
def test_early_stopping(
    losses: tuple[float, ...], options: dict[str, Any], stopped: int, best: int
) -> None:
    stopping = EarlyStopping(**options)
    trainer = run_script(losses, stopping)
    assert trainer.epoch == stopped
    assert stopping.best_epoch == best


@pytest.mark.usefixtures("one_tier")
@pytest.mark.parametrize("restore", [True, False])
def test_the_best_weights_come_back(restore: bool) -> None:
    stopping = EarlyStopping(patience=2, restore_best=restore)
    found = run_script((3, 1, 2, 2, 0), stopping)
    expected = run_script((3, 1) if restore else (3, 1, 2, 2), EarlyStopping(restore_best=restore))
    assert_same(weights(found.model), weights(expected.model))


def test_a_new_run_begins_without_memory() -> None:
    stopping = EarlyStopping(patience=2)
    run_script((1, 2, 3), stopping)
    assert run_script((5, 4, 3), stopping).epoch == 3


def test_early_stopping_goes_on_where_it_was(tmp_path: Path) -> None:
    losses = (3.0, 1.0, 2.0, 2.0, 0.0)
    run_script(losses, EarlyStopping(patience=2), epochs=3, checkpoints=tmp_path)
    stopping = EarlyStopping(patience=2)
    found = run_script(losses, stopping, checkpoints=tmp_path, resume=True)
    assert (found.epoch, stopping.best, stopping.best_epoch) == (4, 1.0, 2)
    expected = run_script(losses, EarlyStopping(patience=2))
    assert_same(weights(found.model), weights(expected.model))
    again = run_script(losses, EarlyStopping(patience=2), checkpoints=tmp_path, resume=True)
    assert again.epoch == 4  # stopped is stopped
    assert_same(weights(again.model), weights(expected.model))


def test_wrong_early_stopping() -> None:
    with pytest.raises(ArgumentError, match="patience must be at least 1"):
        EarlyStopping(patience=0)
    with pytest.raises(ArgumentError, match="mode must be 'auto', 'min' or 'max'"):
        EarlyStopping(mode="best")  # type: ignore[arg-type]
    text = (
        r"no number 'validation_loss' to monitor\n  known: \['loss', 'lr'\][^$]*validation=loader"
    )
    with pytest.raises(ArgumentError, match=text):
        make_trainer(callbacks=[EarlyStopping()]).fit(make_loader(), epochs=1, progress=False)
    trainer = make_trainer(callbacks=[EarlyStopping("lr")])
    with pytest.raises(ArgumentError, match=r"direction of 'lr' is better[^$]*mode='min'"):
        trainer.fit(make_loader(), epochs=1, progress=False)


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "history.jsonl"
    trainer = make_trainer(metrics=[ConfusionMatrix(3)], callbacks=[JSONLines(path)])
    for epochs in (3, 2):  # the second run begins the file anew
        trainer.fit(make_loader(), epochs=epochs, progress=False)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line.pop("times").keys() for line in lines] == [
            {"seconds", "samples_per_second"}
        ] * epochs
        assert lines == trainer.history.records


def test_json_lines_are_cut_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"

    def fit(*callbacks: Any) -> None:
        saver = Checkpoint(tmp_path / "run", every_epochs=2)
        trainer = make_trainer(callbacks=[JSONLines(path), saver, *callbacks])
        trainer.fit(make_loader(), epochs=5, resume=True, progress=False)

    def fails(trainer: Trainer) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(At(13, fails))
    assert len(path.read_text().splitlines()) == 3  # one more than the checkpoint holds
    fit()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5]


def test_json_lines_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    trainer = make_trainer(callbacks=[JSONLines(tmp_path / "file" / "history.jsonl")])
    with pytest.raises(StorageError, match=r"File exists: .*file"):
        trainer.fit(make_loader(), epochs=1, progress=False)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"keep": None}, [4, 8, 12]),
        ({"keep": 1}, [12]),
        ({"keep": None, "every_epochs": 2}, [8, 12]),
        ({"keep": None, "every_steps": 3}, [3, 4, 6, 8, 9, 12]),
        ({"keep": None, "every_steps": 2, "every_epochs": 9}, [2, 6, 10, 12]),
    ],
)
def test_checkpoints(tmp_path: Path, options: dict[str, Any], steps: list[int]) -> None:
    trainer = make_trainer(callbacks=[Checkpoint(tmp_path, **options)])
    trainer.fit(make_loader(), epochs=3, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{n:08d}" for n in steps]


def test_checkpoints_see_what_the_other_callbacks_did(tmp_path: Path) -> None:
    def change(trainer: Trainer) -> None:
        trainer.model.load_state_dict(
            {name: np.ones_like(value) for name, value in weights(trainer.model).items()}
        )

    trainer = make_trainer(callbacks=[Checkpoint(tmp_path, every_steps=2), At(2, change)])
    trainer.fit(make_loader(), epochs=1, progress=False)
    saved, _ = load_file(tmp_path / "step-00000002" / "model.safetensors")
    assert all((value == 1).all() for value in saved.values())


def test_wrong_checkpoints() -> None:
    with pytest.raises(ArgumentError, match="every_steps and every_epochs must be at least 1"):
        Checkpoint("folder", every_steps=0)


def test_more_states_in_checkpoints(tmp_path: Path) -> None:
    tokenizer, other = CharTokenizer("abc"), CharTokenizer("x")
    for epochs, each in ((1, tokenizer), (2, other)):
        trainer = make_trainer(callbacks=[KeepState(tokenizer=each)])
        trainer.fit(
            make_loader(8), epochs=epochs, checkpoints=tmp_path, resume=epochs > 1, progress=False
        )
    assert other.characters == "abc"
