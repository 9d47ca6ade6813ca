"""The Trainer against the plain loop, and what it refuses."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn, optim
from schuss.data import ArrayDataset, DataLoader
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    NumericsError,
    ShapeError,
    StateDictError,
)
from schuss.philox import Generator
from schuss.training import (
    Accuracy,
    Callback,
    Checkpoint,
    ConfusionMatrix,
    History,
    Mean,
    StorageError,
    Trainer,
)

RANDOM = np.random.default_rng(5)
INPUTS = RANDOM.normal(size=(26, 4)).astype(np.float32)
TARGETS = RANDOM.integers(0, 3, 26)
Weights = dict[str, np.ndarray]


def make_loader(count: int = 26, shuffle: bool = False) -> DataLoader:
    dataset = ArrayDataset(INPUTS[:count], TARGETS[:count])
    return DataLoader(dataset, batch_size=8, shuffle=shuffle, generator=Generator(2))


def make_model() -> nn.Sequential:
    schuss.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 3))


def make_trainer(kind: type[Trainer] = Trainer, **options: Any) -> Trainer:
    model = make_model()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return kind(model, nn.CrossEntropyLoss(), optimizer, **options)


def weights(model: nn.Module) -> Weights:
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def assert_same(first: Weights, second: Weights) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.tobytes() == second[name].tobytes(), name


class At(Callback):
    """Calls a function after a step."""

    def __init__(self, step: int, action: Any) -> None:
        self.step = step
        self.action = action

    def on_batch_end(self, trainer: Trainer) -> None:
        if trainer.step == self.step:
            self.action(trainer)


def interrupt(trainer: Trainer) -> None:
    raise KeyboardInterrupt


# Training.


def test_it_is_the_plain_loop() -> None:
    trainer = make_trainer(clip_norm=0.5)
    history = trainer.fit(make_loader(shuffle=True), epochs=2, progress=False)

    model = make_model()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    loader = make_loader(shuffle=True)
    means = []
    for _ in range(2):
        total = 0.0
        for x, t in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), t)
            loss.backward()
            optim.clip_grad_norm(model.parameters(), 0.5)
            optimizer.step()
            total += loss.item() * len(t)
        means.append(total / 26)
    assert_same(weights(trainer.model), weights(model))
    assert history.series("loss") == means


def test_the_records() -> None:
    metrics = [Accuracy(), ConfusionMatrix(3)]
    trainer = make_trainer(metrics=metrics)
    history = trainer.fit(make_loader(), epochs=2, validation=make_loader(10), progress=False)
    names = "epoch step loss accuracy confusion_matrix validation_loss validation_accuracy"
    assert list(history[0]) == [*names.split(), "validation_confusion_matrix", "lr"]
    assert history.series("epoch") == [1, 2]
    assert history.series("step") == [4, 8]
    assert history[1]["lr"] == 0.1
    assert sum(map(sum, history[1]["confusion_matrix"])) == 26
    assert history.times[0]["samples_per_second"] > 0
    after = trainer.evaluate(make_loader(10))
    assert history[-1]["validation_loss"] == after["loss"]
    assert history[-1]["validation_accuracy"] == after["accuracy"]


@pytest.mark.parametrize(
    ("every", "last", "then"), [("epoch", [0.1, 0.05], 0.025), ("step", [0.1 / 8, 0.1 / 128], 0)]
)
def test_schedules(every: Any, last: list[float], then: float) -> None:
    trainer = make_trainer(schedule_every=every)
    trainer.schedule = optim.ExponentialLR(trainer.optimizer, 0.5)
    history = trainer.fit(make_loader(), epochs=2, progress=False)
    assert history.series("lr") == pytest.approx(last)  # of the last step of each epoch
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(then or 0.1 / 256)


def test_a_second_fit_starts_counting_anew() -> None:
    trainer = make_trainer()
    first = trainer.fit(make_loader(), epochs=2, progress=False)
    second = trainer.fit(make_loader(), epochs=1, progress=False)
    assert (len(first), len(second), trainer.step) == (2, 1, 4)
    assert trainer.fit(make_loader(), epochs=0, progress=False).records == []


def test_stop_ends_after_the_epoch() -> None:
    trainer = make_trainer(callbacks=[At(2, lambda trainer: setattr(trainer, "stop", True))])
    assert trainer.fit(make_loader(), epochs=5, progress=False).series("step") == [4]


def test_hooks_are_called_in_order() -> None:
    calls = []

    class Log(Callback):
        def on_fit_begin(self, trainer: Trainer) -> None:
            calls.append("fit")

        def on_epoch_begin(self, trainer: Trainer) -> None:
            calls.append(f"epoch {trainer.epoch}")

        def on_batch_end(self, trainer: Trainer) -> None:
            calls.append(f"step {trainer.step} of {trainer.batches}")

        def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
            assert record is trainer.history[-1]
            calls.append(f"end {trainer.epoch}")

        def on_fit_end(self, trainer: Trainer) -> None:
            calls.append("fit end")

        def close(self) -> None:
            calls.append("close")

    trainer = make_trainer(callbacks=[Log()])
    trainer.fit(make_loader(16), epochs=1, progress=False)
    steps = ["step 1 of 2", "step 2 of 2"]
    assert calls == ["fit", "epoch 0", *steps, "end 1", "fit end", "close"]


def test_hooks_are_closed_after_an_error() -> None:
    closed = []

    class Fails(Callback):
        def on_fit_begin(self, trainer: Trainer) -> None:
            raise ZeroDivisionError

        def close(self) -> None:
            closed.append(True)

    with pytest.raises(ZeroDivisionError):
        make_trainer(callbacks=[Fails()]).fit(make_loader(), epochs=1, progress=False)
    assert closed == [True]


class DictTrainer(Trainer):
    def unpack(self, batch: Any) -> tuple[tuple[Any, ...], Any]:
        return (batch["x"],), batch["t"]


def test_batches_of_another_form() -> None:
    dataset = [{"x": x, "t": t} for x, t in zip(INPUTS, TARGETS, strict=True)]
    trainer = make_trainer(DictTrainer, metrics=[Accuracy()])
    loader = DataLoader(dataset, batch_size=8)
    found = trainer.fit(loader, epochs=1, validation=loader, progress=False)
    plain = make_trainer(metrics=[Accuracy()])
    expected = plain.fit(make_loader(), epochs=1, validation=make_loader(), progress=False)
    assert found.records == expected.records
    assert trainer.predict(loader).shape == (26, 3)


# Evaluation and prediction.


def test_evaluate_leaves_everything_as_it_was() -> None:
    trainer = make_trainer(metrics=[Accuracy()])
    trainer.model.train()
    frozen = trainer.model.modules()[2]
    frozen.eval()
    modes = [module.training for module in trainer.model.modules()]
    before = weights(trainer.model)
    first = trainer.evaluate(make_loader())
    assert trainer.evaluate(make_loader()) == first  # no dropout
    assert [module.training for module in trainer.model.modules()] == modes
    assert_same(weights(trainer.model), before)
    with pytest.raises(ArgumentTypeError):
        trainer.evaluate([3])
    assert [module.training for module in trainer.model.modules()] == modes


def test_evaluate_within_an_epoch_does_not_disturb_it() -> None:
    look = At(2, lambda trainer: trainer.evaluate(make_loader(8)))
    found = make_trainer(metrics=[Accuracy()], callbacks=[look])
    expected = make_trainer(metrics=[Accuracy()])
    histories = [each.fit(make_loader(), epochs=1, progress=False) for each in (found, expected)]
    assert histories[0].records == histories[1].records
    assert_same(weights(found.model), weights(expected.model))


def test_fit_restores_the_mode() -> None:
    trainer = make_trainer()
    trainer.model.eval()
    trainer.fit(make_loader(), epochs=1, progress=False)
    assert not any(module.training for module in trainer.model.modules())


def test_predict() -> None:
    trainer = make_trainer()
    trainer.model.eval()
    expected = trainer.model(schuss.tensor(INPUTS)).numpy()
    found = trainer.predict(INPUTS)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, expected)
    inputs_only = DataLoader(ArrayDataset(INPUTS), batch_size=7)
    for data in (schuss.tensor(INPUTS), make_loader(), inputs_only, [schuss.tensor(INPUTS)]):
        found = trainer.predict(data)
        assert isinstance(found, schuss.Tensor)
        assert not found.requires_grad
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    pieces = trainer.predict(INPUTS, batch_size=10)
    np.testing.assert_allclose(pieces, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ArgumentError, match="no batches to predict for"):
        trainer.predict([])
    with pytest.raises(ArgumentError, match="batch_size must be at least 1"):
        trainer.predict(INPUTS, batch_size=0)


# Stopping and going on.


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


def test_checkpoints_do_not_change_a_run(tmp_path: Path) -> None:
    expected, history = full_run()
    trainer = run_in(tmp_path)
    assert_same(weights(trainer.model), expected)
    assert trainer.history.records == history.records


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


class InterruptedValidation(Trainer):
    def evaluation_step(self, batch: Any) -> Any:
        schuss.random.default_generator.bits(4)  # a validation that draws
        if self.step == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return super().evaluation_step(batch)


def test_ctrl_c_in_validation(tmp_path: Path) -> None:
    trainer = make_trainer(InterruptedValidation)
    loader, validation = make_loader(shuffle=True), make_loader(10, shuffle=True)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(loader, epochs=3, validation=validation, checkpoints=tmp_path, progress=False)
    assert trainer.history.series("epoch") == [1]
    resumed = make_trainer()
    loader, validation = make_loader(shuffle=True), make_loader(10, shuffle=True)
    state = resumed.fit(
        loader, epochs=2, validation=validation, checkpoints=tmp_path, resume=True, progress=False
    )
    assert state.series("step") == [4, 8]
    assert loader.state_dict()["epoch"] == 2
    assert validation.state_dict()["epoch"] == 2


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


# What is refused.


def fit_fails(kind: type[Exception], text: str, trainer: Trainer, loader: Any, **more: Any) -> None:
    with pytest.raises(kind, match=text):
        trainer.fit(loader, **({"epochs": 2, "progress": False} | more))


def test_wrong_loaders() -> None:
    trainer = make_trainer()
    fit_fails(ArgumentError, "gives no batches in epoch 1", trainer, [])
    batches = iter(list(make_loader()))
    fit_fails(ArgumentError, "gives no batches in epoch 2[^$]*once only", trainer, batches)
    fit_fails(ArgumentTypeError, r"must be \(\*inputs, target\), not a dict", trainer, [{"x": 1}])
    fit_fails(ArgumentTypeError, "not a tuple[^$]*override Trainer.unpack", trainer, [(1,)])
    no_axis = [(schuss.tensor(INPUTS), schuss.tensor(0.0))]
    trainer.loss = lambda prediction, target: (prediction * target).sum()
    fit_fails(ShapeError, "a target must have an axis of samples", trainer, no_axis)
    with pytest.raises(ArgumentError, match=r"Trainer.evaluate: the loader gives no batches"):
        trainer.evaluate([])


def test_a_loss_that_is_no_scalar() -> None:
    trainer = make_trainer()
    trainer.loss = nn.CrossEntropyLoss(reduction="none")
    fit_fails(ShapeError, r"the loss must be a scalar\n  loss: \(8,\)", trainer, make_loader())


def test_a_loss_that_is_not_finite() -> None:
    def broken(prediction: Any, target: Any) -> Any:
        return prediction.sum() * (math.nan if trainer.step == 5 else 1.0)

    trainer = make_trainer()
    trainer.loss = broken
    text = "the loss is nan at step 6, batch 2 of epoch 2[^$]*check_numerics"
    fit_fails(NumericsError, text, trainer, make_loader())
    trainer.check_finite = False
    assert math.isnan(trainer.fit(make_loader(), epochs=2, progress=False)[1]["loss"])


def test_wrong_arguments() -> None:
    with pytest.raises(ArgumentError, match="schedule_every must be 'epoch' or 'step'"):
        make_trainer(schedule_every="batch")
    with pytest.raises(ArgumentError, match="clip_norm must be positive"):
        make_trainer(clip_norm=0.0)
    with pytest.raises(ArgumentTypeError, match="must be Callback objects[^$]*not its class"):
        make_trainer(callbacks=[Checkpoint])
    with pytest.raises(ArgumentTypeError, match="callbacks must be Callback objects, not 3"):
        make_trainer(callbacks=[3])
    with pytest.raises(ArgumentTypeError, match="metrics must be Metric objects"):
        make_trainer(metrics=[Mean()])
    with pytest.raises(ArgumentError, match="two metrics have the same name[^$]*a dict"):
        make_trainer(metrics=[Accuracy(), Accuracy(top_k=2)])
    for name in ("loss", "validation_accuracy"):
        with pytest.raises(ArgumentError, match=f"a metric cannot be called '{name}'"):
            make_trainer(metrics={name: Accuracy()})
    trainer = make_trainer()
    fit_fails(ArgumentError, "epochs must not be negative", trainer, [], epochs=-1)


def test_wrong_checkpoints(tmp_path: Path) -> None:
    trainer, loader = make_trainer(), make_loader()
    fit_fails(ArgumentError, "resume=True needs a folder", trainer, loader, resume=True)
    fit_fails(ArgumentError, "checkpoint_every needs a folder", trainer, loader, checkpoint_every=2)
    batches = (batch for batch in loader)
    text = "a loader that knows its position, not a generator"
    fit_fails(ArgumentTypeError, text, trainer, batches, checkpoints=tmp_path)
    twice = make_trainer(callbacks=[Checkpoint(tmp_path)])
    fit_fails(ArgumentError, "one Checkpoint only", twice, loader, checkpoints=tmp_path)
    trainer.fit(loader, epochs=1, checkpoints=tmp_path, progress=False)
    before = sorted(tmp_path.iterdir())
    text = "there are checkpoints of another run in [^$]*resume=True"
    fit_fails(ArgumentError, text, trainer, loader, checkpoints=tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    text = r"File exists: .*file/step-00000004"
    fit_fails(StorageError, text, make_trainer(), make_loader(), checkpoints=blocked)
    assert blocked.read_bytes() == b""
