"""Runs that are interrupted, and go on as if they had not been."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import schuss
from schuss import nn
from schuss.errors import StateDictError
from schuss.philox import Generator
from schuss.training import Accuracy, History, Trainer

from .small_run import At, Weights, assert_same, interrupt, make_loader, make_trainer, weights


def full_run(**options: Any) -> tuple[Weights, History]:
    trainer = make_trainer(metrics=[Accuracy()], **options)
    history = trainer.fit(make_loader(shuffle=True), epochs=3, progress=False)
    return weights(trainer.model), history


def run_in(folder: Path, loader: Any = None, **options: Any) -> Trainer:
    """Begin or go on with a run of three epochs."""
    trainer = make_trainer(metrics=[Accuracy()], **options)
    loader = make_loader(shuffle=True) if loader is None else loader
    trainer.fit(loader, epochs=3, checkpoints=folder, resume=True, progress=False)
    return trainer


@pytest.mark.usefixtures("one_tier")
def test_checkpoints_do_not_change_a_run(tmp_path: Path) -> None:
    expected, history = full_run()
    trainer = run_in(tmp_path)
    assert_same(weights(trainer.model), expected)
    assert trainer.history.records == history.records


@pytest.mark.usefixtures("one_tier")
@pytest.mark.parametrize("step", [2, 4, 6])
def test_an_interrupted_run_is_saved_and_goes_on(tmp_path: Path, step: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path, callbacks=[At(step, interrupt)])
    assert (tmp_path / f"step-0000000{step}").is_dir()
    trainer = run_in(tmp_path)
    expected, history = full_run()
    assert_same(weights(trainer.model), expected)
    assert trainer.history.records == history.records


class Interrupting(Trainer):
    """Sends the process Ctrl-C within the forward pass of a step, so often."""

    presses = 1
    finished = 0

    def train_step(self, batch: Any) -> Any:
        if self.step == 5:
            for _ in range(self.presses):
                os.kill(os.getpid(), signal.SIGINT)
        result = super().train_step(batch)
        self.finished += 1
        return result


def test_ctrl_c_waits_for_the_end_of_the_step(tmp_path: Path) -> None:
    trainer = make_trainer(Interrupting, metrics=[Accuracy()])
    loader = make_loader(shuffle=True)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(loader, epochs=3, checkpoints=tmp_path, progress=False)
    assert trainer.finished == 6
    assert (tmp_path / "step-00000006").is_dir()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert_same(weights(run_in(tmp_path).model), full_run()[0])


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    trainer = make_trainer(Interrupting)
    trainer.presses = 2  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(make_loader(), epochs=3, checkpoints=tmp_path, progress=False)
    assert trainer.finished == 5  # type: ignore[attr-defined]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_a_handler_of_the_user_is_left_alone() -> None:
    pressed = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        make_trainer(Interrupting).fit(make_loader(), epochs=2, progress=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert pressed == [signal.SIGINT]


class DrawingValidation(Trainer):
    """Its validation draws random numbers, and is interrupted by Ctrl-C in the second epoch."""

    pressed = True

    def evaluation_step(self, batch: Any) -> Any:
        schuss.random.default_generator.bits(4)
        if self.step == 8 and not self.pressed:
            self.pressed = True
            os.kill(os.getpid(), signal.SIGINT)
        return super().evaluation_step(batch)


@pytest.mark.usefixtures("one_tier")
def test_ctrl_c_in_validation(tmp_path: Path) -> None:
    def fit(folder: Path, pressed: bool) -> Trainer:
        trainer = make_trainer(DrawingValidation)
        trainer.pressed = pressed
        validation = make_loader(10, shuffle=True)
        options: dict[str, Any] = {"checkpoints": folder, "resume": True, "progress": False}
        trainer.fit(make_loader(shuffle=True), epochs=3, validation=validation, **options)
        assert validation.state_dict()["epoch"] == 3
        return trainer

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "a", pressed=False)
    assert (tmp_path / "a" / "step-00000008").is_dir()
    found, expected = fit(tmp_path / "a", pressed=True), fit(tmp_path / "b", pressed=True)
    assert_same(weights(found.model), weights(expected.model))
    assert found.history.records == expected.history.records


def test_a_list_of_batches_goes_on_at_its_place(tmp_path: Path) -> None:
    batches = list(make_loader())
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path, batches, callbacks=[At(6, interrupt)])
    found = run_in(tmp_path, batches)
    expected = make_trainer(metrics=[Accuracy()])
    history = expected.fit(batches, epochs=3, progress=False)
    assert_same(weights(found.model), weights(expected.model))
    assert found.history.records == history.records


def test_generators_of_modules_and_of_the_trainer_are_saved(tmp_path: Path) -> None:
    def fit(own: Generator, **options: Any) -> Trainer:
        trainer = make_trainer(generator=own, **options)
        dropout = trainer.model.modules()[3]
        assert isinstance(dropout, nn.Dropout)
        dropout.generator = Generator(9)
        trainer.callbacks.append(At(3, lambda trainer: own.bits(8)))
        trainer.fit(make_loader(), epochs=2, checkpoints=tmp_path, resume=True, progress=False)
        return trainer

    with pytest.raises(KeyboardInterrupt):
        fit(Generator(4), callbacks=[At(5, interrupt)])
    own = Generator(4)
    found = fit(own)
    assert own.position == 2
    expected = make_trainer()
    expected.model.modules()[3].generator = Generator(9)
    expected.fit(make_loader(), epochs=2, progress=False)
    assert_same(weights(found.model), weights(expected.model))


def test_more_epochs_later(tmp_path: Path) -> None:
    first = make_trainer(metrics=[Accuracy()])
    first.fit(make_loader(shuffle=True), epochs=1, checkpoints=tmp_path, progress=False)
    assert_same(weights(run_in(tmp_path).model), full_run()[0])


def test_a_checkpoint_of_another_run_changes_nothing(tmp_path: Path) -> None:
    run_in(tmp_path)
    other = make_trainer()
    before, drawn = weights(other.model), schuss.random.default_generator.state_dict()
    with pytest.raises(StateDictError, match="does not fit the extra: Trainer: the metrics are"):
        other.fit(
            make_loader(shuffle=True), epochs=3, checkpoints=tmp_path, resume=True, progress=False
        )
    assert_same(weights(other.model), before)
    assert schuss.random.default_generator.state_dict() == drawn
    assert other.optimizer.state == {}
