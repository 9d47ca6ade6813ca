"""The Trainer against the plain loop, and what it refuses."""

from __future__ import annotations

import math
import os
import subprocess
import sys
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
    StorageError,
)
from schuss.training import (
    Accuracy,
    Callback,
    Checkpoint,
    ConfusionMatrix,
    Mean,
    Trainer,
)

from .small_run import (
    INPUTS,
    TARGETS,
    At,
    assert_same,
    make_loader,
    make_model,
    make_trainer,
    weights,
)


def test_importing_is_light() -> None:
    program = (
        "import sys, schuss.training\n"
        "heavy = {'rich', 'matplotlib', 'tensorboardX'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# Training.


@pytest.mark.usefixtures("one_tier")
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


@pytest.mark.usefixtures("one_tier")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precision_is_autocast_in_the_plain_loop(precision: str) -> None:
    trainer = make_trainer(clip_norm=0.5, precision=precision)
    history = trainer.fit(make_loader(shuffle=True), epochs=2, progress=False)

    schuss.manual_seed(1)
    model, loader = make_model(), make_loader(shuffle=True)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = optim.GradScaler(enabled=precision == "float16")
    losses = Mean()
    for _ in range(2):
        losses.reset()
        for x, y in loader:
            optimizer.zero_grad()
            with schuss.autocast(precision):
                loss = nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            optim.clip_grad_norm(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
            losses.update(loss.item(), len(x))
    assert history[-1]["loss"] == losses.value()
    assert_same(weights(trainer.model), weights(model))
    assert all(p.dtype == schuss.float32 for p in model.parameters())
    assert trainer.predict(INPUTS).dtype == precision
    with schuss.autocast(precision), schuss.no_grad():
        model.eval()
        loss = nn.functional.cross_entropy(model(schuss.asarray(INPUTS)), schuss.asarray(TARGETS))
    evaluated = trainer.evaluate([(schuss.asarray(INPUTS), schuss.asarray(TARGETS))])
    assert evaluated["loss"] == loss.item()


@pytest.mark.usefixtures("one_tier")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_resumed_run_in_half_precision(tmp_path: Path, precision: str) -> None:
    """The same bits, the scale of the loss included, which an overflow makes smaller."""
    folders = tmp_path / "once", tmp_path / "twice"
    runs = []
    for folder, stops in zip(folders, ([3], [1, 3]), strict=True):
        for epochs in stops:
            trainer = make_trainer(precision=precision)
            trainer.scaler = optim.GradScaler(2.0**30, enabled=precision == "float16")
            trainer.fit(
                make_loader(shuffle=True), epochs=epochs, checkpoints=folder,
                resume=epochs != stops[0], progress=False,
            )  # fmt: skip
        runs.append(trainer)
    once, twice = runs
    assert_same(weights(once.model), weights(twice.model))
    assert once.scaler.state_dict() == twice.scaler.state_dict()
    if precision == "float16":
        assert once.scaler.get_scale() < 2.0**30


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


@pytest.mark.usefixtures("one_tier")
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
    found, expected = [], []
    for results, callbacks in ((found, [look]), (expected, [])):
        trainer = make_trainer(metrics=[Accuracy()], callbacks=callbacks)
        results += trainer.fit(make_loader(), epochs=1, progress=False).records
        results.append({name: value.tolist() for name, value in weights(trainer.model).items()})
    assert found == expected


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
    with pytest.raises(ArgumentError, match="precision must be 'float32', 'bfloat16' or 'float16'"):
        make_trainer(precision="float8")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match=r"must be Callback objects[^$]*not its class"):
        make_trainer(callbacks=[Checkpoint])
    with pytest.raises(ArgumentTypeError, match="callbacks must be Callback objects, not 3"):
        make_trainer(callbacks=[3])
    with pytest.raises(ArgumentTypeError, match="metrics must be Metric objects"):
        make_trainer(metrics=[Mean()])
    with pytest.raises(ArgumentError, match=r"two metrics have the same name[^$]*a dict"):
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
    text = "File exists: .*file"
    fit_fails(StorageError, text, make_trainer(), make_loader(), checkpoints=blocked)
    assert blocked.read_bytes() == b""


# What a resumed run says.


def resumed(folder: Path, lr: float, scheduled: bool = False, **more: Any) -> None:
    model = make_model()
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    schedule = optim.ExponentialLR(optimizer, 0.5) if scheduled else None
    trainer = Trainer(model, nn.CrossEntropyLoss(), optimizer, schedule=schedule)
    trainer.fit(make_loader(), checkpoints=folder, progress=False, **more)


def test_settings_that_the_checkpoint_replaces(tmp_path: Path) -> None:
    resumed(tmp_path, 0.1, epochs=1)
    resumed(tmp_path, 0.1, epochs=2, resume=True)  # says nothing
    text = "resumed with the settings of .*step-00000008, not those given: lr=0.1, not 0.25$"
    with pytest.warns(UserWarning, match=text):
        resumed(tmp_path, 0.25, epochs=3, resume=True)


def test_a_schedule_is_no_other_setting(tmp_path: Path) -> None:
    resumed(tmp_path, 0.1, True, epochs=2)
    resumed(tmp_path, 0.1, True, epochs=3, resume=True)
    with pytest.warns(UserWarning, match="lr=0.1, not 0.2$"):
        resumed(tmp_path, 0.2, True, epochs=4, resume=True)


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    def second(first: Trainer) -> None:
        text = rf"another run writes to {tmp_path}: process {os.getpid()} on .*, since \d{{4}}-"
        fit_fails(StorageError, text, make_trainer(), make_loader(), checkpoints=tmp_path)

    trainer = make_trainer(callbacks=[At(1, second)])
    trainer.fit(make_loader(), epochs=1, checkpoints=tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]
    fit_fails(ArgumentError, "checkpoints of another", make_trainer(), make_loader(),
              checkpoints=tmp_path)  # fmt: skip
    make_trainer().fit(make_loader(), epochs=2, checkpoints=tmp_path, resume=True, progress=False)
