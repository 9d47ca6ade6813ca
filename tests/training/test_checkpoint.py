"""Checkpoints of plain objects: whole or not at all, checked before anything changes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    FileFormatError,
    SchussError,
    StateDictError,
    StorageError,
)
from schuss.philox import Generator
from schuss.training.checkpoint import Checkpoints, load_checkpoint, save_checkpoint
from schuss.training.history import History


class Thing:
    """An object with a state, as simple as can be."""

    def __init__(self, **state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "refuse" in self.state and "refuse" not in state:
            raise KeyError("momentum")
        self.state = dict(state)


def make_model(scale: float = 1.0) -> Thing:
    return Thing(weight=np.arange(6.0).reshape(2, 3) * scale, bias=np.float32([scale, 2]))


def make_optimizer(scale: float = 1.0) -> Thing:
    slots = {"weight": {"momentum": np.full((2, 3), scale)}, "bias": {"step": np.array(4)}}
    return Thing(state=slots, groups=[{"lr": 0.1 * scale, "betas": (0.9, 0.999)}])


def save_example(folder: Path) -> None:
    generator = Generator(3)
    generator.bits(10)
    history = History()
    history.append({"epoch": 1, "loss": 0.1}, {"seconds": 1.0})
    save_checkpoint(
        folder,
        model=make_model(),
        optimizer=make_optimizer(),
        schedule=Thing(count=3, best=float("inf")),
        loader=Thing(position=5),
        generators={"default": generator},
        history=history,
        extra={"best": {"weight": np.ones(2)}, "names": ("a", "b"), "count": np.int64(3)},
        step=120,
        epoch=2,
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_example(tmp_path / "step-00000120")
    return tmp_path / "step-00000120"


def test_everything_comes_back(saved: Path) -> None:
    model, optimizer = make_model(0), make_optimizer(0)
    schedule, loader, history, generator = Thing(), Thing(), History(), Generator(0)
    loaded = load_checkpoint(
        saved,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        loader=loader,
        generators={"default": generator},
        history=history,
    )
    np.testing.assert_array_equal(model.state["weight"], make_model().state["weight"])
    assert model.state["bias"].dtype == np.float32
    assert optimizer.state["groups"] == [{"lr": 0.1, "betas": [0.9, 0.999]}]
    assert optimizer.state["state"]["weight"]["momentum"].tolist() == [[1.0] * 3] * 2
    assert optimizer.state["state"]["bias"]["step"].shape == ()
    assert schedule.state == {"count": 3, "best": float("inf")}
    assert loader.state == {"position": 5}
    assert generator.state_dict() == {"seed": 3, "stream": 0, "position": 3}
    assert history.records == [{"epoch": 1, "loss": 0.1}]
    assert (loaded.step, loaded.epoch) == (120, 2)
    assert loaded.extra["best"]["weight"].tolist() == [1, 1]
    assert loaded.extra["names"] == ["a", "b"]
    assert loaded.extra["count"] == 3


def test_the_model_alone(saved: Path) -> None:
    model = make_model(0)
    assert load_checkpoint(saved, model=model).step == 120
    assert model.state["weight"][1, 2] == 5


def test_others_can_read_it(saved: Path) -> None:
    weights = safetensors.numpy.load_file(saved / "model.safetensors")
    assert sorted(weights) == ["bias", "weight"]
    slots = safetensors.numpy.load_file(saved / "optimizer.safetensors")
    assert sorted(slots) == ["momentum/weight", "step/bias"]
    for line in (saved / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((saved / name).read_bytes()).hexdigest() == digest


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_example(tmp_path / name)
    names = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert len(names) == 5
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# Damage.

FILES = ["model.safetensors", "optimizer.safetensors", "arrays.safetensors", "state.json"]


def refused(folder: Path, kind: type[SchussError], text: str, **objects: Any) -> None:
    """Loading fails, and leaves the objects as they were."""
    objects = {"model": make_model(7), "optimizer": make_optimizer(7)} | objects
    before = {name: str(each.state_dict()) for name, each in objects.items()}
    with pytest.raises(kind, match=text):
        load_checkpoint(folder, **objects)
    assert {name: str(each.state_dict()) for name, each in objects.items()} == before


@pytest.mark.parametrize("name", FILES)
def test_a_cut_part(saved: Path, name: str) -> None:
    (saved / name).write_bytes((saved / name).read_bytes()[:-1])
    refused(saved, FileFormatError, rf"step-00000120/{name} is damaged")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit(saved: Path, name: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[-5] ^= 1
    (saved / name).write_bytes(content)
    refused(saved, FileFormatError, rf"step-00000120/{name} is damaged")


@pytest.mark.parametrize("name", [*FILES, "SHA256SUMS"])
def test_a_missing_part(saved: Path, name: str) -> None:
    (saved / name).unlink()
    refused(saved, FileFormatError, rf"step-00000120/{name} is missing")


@pytest.mark.parametrize(
    ("line", "text"),
    [("nonsense", "SHA256SUMS is damaged"), (f"{'0' * 64}  ../model.x", "SHA256SUMS is damaged")],
)
def test_damaged_sums(saved: Path, line: str, text: str) -> None:
    (saved / "SHA256SUMS").write_text(line + "\n")
    refused(saved, FileFormatError, text)


def test_sums_without_the_model(saved: Path) -> None:
    lines = (saved / "SHA256SUMS").read_text().splitlines(keepends=True)
    (saved / "SHA256SUMS").write_text("".join(x for x in lines if "model" not in x))
    refused(saved, FileFormatError, "does not list model.safetensors")


def test_sums_without_the_optimizer(saved: Path) -> None:
    lines = (saved / "SHA256SUMS").read_text().splitlines(keepends=True)
    (saved / "SHA256SUMS").write_text("".join(x for x in lines if "optimizer" not in x))
    refused(saved, FileFormatError, "optimizer.safetensors is missing")


def test_slots_of_other_names(saved: Path) -> None:
    safetensors.numpy.save_file({"momentum": np.zeros(2)}, saved / "optimizer.safetensors")
    correct_sum(saved, "optimizer.safetensors")
    refused(saved, FileFormatError, "'momentum' is no name of the form slot/parameter")


def test_a_part_that_cannot_be_read(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    (saved / "model.safetensors").mkdir()
    refused(saved, StorageError, r"Is a directory: .*step-00000120/model.safetensors")


def test_no_checkpoint(tmp_path: Path) -> None:
    refused(tmp_path / "absent", StorageError, "there is no checkpoint .*absent")


def rewrite_state(saved: Path, content: bytes) -> None:
    (saved / "state.json").write_bytes(content)
    correct_sum(saved, "state.json")


def correct_sum(saved: Path, name: str) -> None:
    """Make SHA256SUMS agree with a file that was replaced."""
    lines = (saved / "SHA256SUMS").read_text().splitlines()
    lines = [line for line in lines if not line.endswith(name)]
    lines.append(f"{hashlib.sha256((saved / name).read_bytes()).hexdigest()}  {name}")
    (saved / "SHA256SUMS").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{", "state.json is no JSON"),
        (b"[]", "has the format None, this version reads 1"),
        (b'{"format": 2}', "has the format 2, this version reads 1"),
        (b'{"format": 1, "step": 3}', "state.json has no epoch, optimizer"),
    ],
)
def test_another_state(saved: Path, content: bytes, text: str) -> None:
    rewrite_state(saved, content)
    refused(saved, FileFormatError, text)


def test_a_state_that_speaks_of_absent_arrays(saved: Path) -> None:
    state = json.loads((saved / "state.json").read_bytes())
    state["extra"] = {"$array": "absent"}
    rewrite_state(saved, json.dumps(state).encode())
    refused(saved, StateDictError, "the array 'absent' is not there")


# Objects that do not fit.


def test_other_names_and_shapes(saved: Path) -> None:
    other = Thing(weight=np.zeros((3, 2)), bias=np.zeros(2), scale=np.zeros(1))
    with pytest.raises(StateDictError) as caught:
        load_checkpoint(saved, model=other)
    text = str(caught.value)
    assert "step-00000120/model.safetensors" in text
    assert "missing: ['scale']" in text
    assert "weight: saved (2, 3) float64, here (3, 2) float64" in text
    assert "bias: saved (2,) float32, here (2,) float64" in text
    with pytest.raises(StateDictError, match=r"unexpected: \['bias', 'weight'\]"):
        load_checkpoint(saved, model=Thing())


def test_long_lists_of_names_are_cut(saved: Path) -> None:
    other = Thing(**{f"layer{index}": np.zeros(1) for index in range(20)})
    with pytest.raises(StateDictError, match="'layer7', 'and 12 more'"):
        load_checkpoint(saved, model=other)


def test_an_object_that_refuses_its_state(saved: Path) -> None:
    text = r"the saved state does not fit the schedule: KeyError\('momentum'\)[^$]*state.json"
    refused(saved, StateDictError, text, schedule=Thing(refuse=True, other=np.ones(2)))


def test_what_was_not_saved(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a", model=make_model())
    refused(tmp_path / "a", StateDictError, "the checkpoint holds no optimizer")
    for part in ("schedule", "loader", "history", "extra"):
        with pytest.raises(StateDictError, match=f"the checkpoint holds no {part}"):
            load_checkpoint(tmp_path / "a", **{part: Thing()})
    with pytest.raises(StateDictError, match="holds no generator 'default'"):
        load_checkpoint(tmp_path / "a", generators={"default": Generator()})


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"a": [object()]}, "extra/a/0 is a object, which a checkpoint cannot hold"),
        ({"a": {3: 4}}, "a key in extra/a is no text"),
        ({"a": {1, 2}}, "extra/a is a set"),
    ],
)
def test_states_of_other_kinds(tmp_path: Path, extra: Any, text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=text):
        save_checkpoint(tmp_path / "a", model=make_model(), extra=extra)
    assert list(tmp_path.iterdir()) == []


# Several of them.


def test_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run", keep=2)
    assert checkpoints.latest() is None
    for step in (3, 20, 100):
        path = checkpoints.save(step, model=make_model(step))
        assert checkpoints.latest() == path
    assert [path.name for path in checkpoints.all()] == ["step-00000020", "step-00000100"]
    assert len(list((tmp_path / "run").iterdir())) == 2
    model = make_model()
    assert load_checkpoint(path, model=model).step == 100
    assert model.state["bias"][0] == 100


def test_all_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=None)
    for step in (10**8, 5, 99_999_999):
        checkpoints.save(step, model=make_model())
    names = [path.name for path in checkpoints.all()]
    assert names == ["step-00000005", "step-99999999", "step-100000000"]


def test_leftovers_go_and_do_not_count(tmp_path: Path) -> None:
    leftover = tmp_path / ".step-00000009.17-abcd.tmp"
    leftover.mkdir()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    checkpoints.save(1, model=make_model())
    assert not leftover.exists()


def test_a_full_disk_leaves_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, model=make_model())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(StorageError, match=r"No space left on device: .*step-00000002"):
            checkpoints.save(2, model=make_model())
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_keep_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="keep must be at least 1, or None"):
        Checkpoints(tmp_path, keep=0)


def test_nothing_but_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match=r"other things than a checkpoint(.|\n)*thesis"):
        save_checkpoint(tmp_path, model=make_model())
    with pytest.raises(StorageError, match=r"thesis.tex is there, and is no folder"):
        save_checkpoint(tmp_path / "thesis.tex", model=make_model())
    with pytest.raises(ArgumentError, match=r"'.' is no name for a checkpoint"):
        save_checkpoint(".", model=make_model())
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.tex"]
    save_example(tmp_path / "latest")
    save_example(tmp_path / "latest")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("generators", [1], "is not of the form of a checkpoint: generators are no dict"),
        ("extra", {"$array": [1]}, "is not of the form of a checkpoint"),
        ("step", -1, "has no count of each step"),
        ("epoch", "two", "has no count of each epoch"),
    ],
)
def test_hostile_states(saved: Path, key: str, value: Any, text: str) -> None:
    state = json.loads((saved / "state.json").read_text())
    state[key] = value
    rewrite_state(saved, json.dumps(state).encode())
    refused(saved, FileFormatError, text)
