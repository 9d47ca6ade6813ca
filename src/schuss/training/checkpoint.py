"""Checkpoints: folders that hold all that a run needs to go on as if it had never stopped.

    step-00000120/
        model.safetensors       parameters and buffers
        optimizer.safetensors   slots, named `slot/parameter`
        arrays.safetensors      arrays in other states; only where there are some
        state.json              step, epoch, positions, generators, history, hyper-parameters
        SHA256SUMS              of the files above; `sha256sum -c SHA256SUMS` checks them

A folder of this name is complete: it is filled under a hidden name, forced to disk, and renamed.
Nothing in it can be executed. Loading checks everything before it changes anything.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from schuss import safetensors
from schuss.errors import (
    ArgumentError,
    FileFormatError,
    SchussError,
    StateDictError,
    StorageError,
    fail,
)
from schuss.files import (
    atomic_folder,
    atomic_write,
    remove_folder,
    remove_leftovers,
    storage_error,
)
from schuss.training.state import Stateful, as_array, pack, unpack

FORMAT = 1  # of state.json; counts up when old readers would misread it

_MODEL = "model.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_ARRAYS = "arrays.safetensors"
_STATE = "state.json"
_SUMS = "SHA256SUMS"
_LISTED = 8  # names that an error shows of each kind


@dataclass(frozen=True)
class Loaded:
    """What `load_checkpoint` read beside what it put into the objects given."""

    step: int
    epoch: int
    extra: Any


def save_checkpoint(
    folder: str | os.PathLike[str],
    *,
    model: Stateful,
    optimizer: Stateful | None = None,
    schedule: Stateful | None = None,
    loader: Stateful | None = None,
    generators: Mapping[str, Stateful] | None = None,
    history: Stateful | None = None,
    extra: Any = None,
    step: int = 0,
    epoch: int = 0,
) -> None:
    """Write one checkpoint, which appears whole or not at all.

    Args:
        folder: its name; an existing checkpoint of that name is replaced.
        model, optimizer, schedule, loader, history: what to save the state of; None leaves it out.
        generators: random generators by name.
        extra: anything else: a tree of dicts, lists, numbers, texts, tensors and arrays, or an
            object with such a state.
        step, epoch: how many of each are done.

    Raises StorageError where the system cannot write, ArgumentTypeError for a state that is made of
    other things.
    """
    parts = {"schedule": schedule, "loader": loader, "history": history}
    arrays: dict[str, np.ndarray] = {}
    state: dict[str, Any] = {
        name: pack(None if part is None else part.state_dict(), name, arrays)
        for name, part in parts.items()
    }
    states = {name: each.state_dict() for name, each in (generators or {}).items()}
    state["generators"] = pack(states, "generators", arrays)
    more = extra.state_dict() if isinstance(extra, Stateful) else extra
    state["extra"] = pack(more, "extra", arrays)
    state |= {"format": FORMAT, "step": int(step), "epoch": int(epoch), "optimizer": None}
    files = {_MODEL: {name: as_array(value) for name, value in model.state_dict().items()}}
    if optimizer is not None:
        saved = optimizer.state_dict()
        state["optimizer"] = pack(saved["groups"], "optimizer", arrays)
        files[_OPTIMIZER] = {
            f"{slot}/{parameter}": as_array(value)
            for parameter, slots in saved["state"].items()
            for slot, value in slots.items()
        }
    if arrays:
        files[_ARRAYS] = arrays
    _check_replaceable(Path(folder))
    text = json.dumps(state, indent=1)
    with atomic_folder(folder) as temporary:
        for name, content in files.items():
            safetensors.save_file(temporary / name, content)
        _write_text(temporary / _STATE, text + "\n")
        names = sorted([*files, _STATE])
        sums = [f"{_digest((temporary / name).read_bytes())}  {name}\n" for name in names]
        _write_text(temporary / _SUMS, "".join(sums))


def _check_replaceable(folder: Path) -> None:
    """Only a checkpoint, or an empty folder, may be replaced by a new checkpoint."""
    if not folder.name:
        raise fail(ArgumentError, "save_checkpoint", f"{str(folder)!r} is no name for a checkpoint")
    if not folder.exists() and not folder.is_symlink():
        return
    known = {_MODEL, _OPTIMIZER, _ARRAYS, _STATE, _SUMS}
    if folder.is_symlink() or not folder.is_dir():
        raise fail(StorageError, "save_checkpoint", f"{folder} is there, and is no folder")
    others = sorted(each.name for each in folder.iterdir() if each.name not in known)
    if others:
        raise fail(
            StorageError,
            "save_checkpoint",
            f"{folder} holds other things than a checkpoint",
            found=others[:_LISTED],
            hint="name a folder for this checkpoint alone, such as runs/step-100",
        )


def load_checkpoint(
    folder: str | os.PathLike[str],
    *,
    model: Stateful | None = None,
    optimizer: Stateful | None = None,
    schedule: Stateful | None = None,
    loader: Stateful | None = None,
    generators: Mapping[str, Stateful] | None = None,
    history: Stateful | None = None,
    extra: Stateful | None = None,
) -> Loaded:
    """Read a checkpoint into the objects given: all of them or, after an error, none.

    Returns the step, the epoch and `extra`, with arrays in it as read-only NumPy arrays.

    Raises FileFormatError for a part that is damaged or cut short, StateDictError for names, shapes
    or dtypes that are not those of the objects, StorageError for a part that cannot be read. Each
    names the file.
    """
    path = Path(folder)
    try:
        content = _read(path)
        if not isinstance(content.state["generators"], dict):
            raise TypeError("generators are no dict")
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as problem:
        if isinstance(problem, SchussError):
            raise
        text = f"{path / _STATE} is not of the form of a checkpoint: {problem}"
        raise fail(FileFormatError, "load_checkpoint", text) from problem
    state, files = content.state, content.files
    targets: list[_Target] = []
    if model is not None:
        own = {name: as_array(value) for name, value in model.state_dict().items()}
        _check_names(path / _MODEL, files[_MODEL], own)
        targets.append(_Target("model", path / _MODEL, model, files[_MODEL]))
    if optimizer is not None:
        _check_present(path, "optimizer", state["optimizer"])
        if _OPTIMIZER not in files:
            raise _missing(path / _OPTIMIZER)
        saved = {
            "state": _slots(path / _OPTIMIZER, files[_OPTIMIZER]),
            "groups": state["optimizer"],
        }
        targets.append(_Target("optimizer", path / _OPTIMIZER, optimizer, saved))
    parts = {"schedule": schedule, "loader": loader, "history": history, "extra": extra}
    for name, part in parts.items():
        if part is not None:
            _check_present(path, name, state[name])
            targets.append(_Target(name, path / _STATE, part, state[name]))
    for name, generator in (generators or {}).items():
        saved = state["generators"].get(name)
        _check_present(path, f"generator {name!r}", saved)
        targets.append(_Target(f"generator {name!r}", path / _STATE, generator, saved))
    _load_all(targets)
    return Loaded(state["step"], state["epoch"], state["extra"])


@dataclass
class _Content:
    state: dict[str, Any]
    files: dict[str, dict[str, np.ndarray]]


def _read(path: Path) -> _Content:
    """All files of a checkpoint, their content checked."""
    if not path.is_dir():
        raise fail(StorageError, "load_checkpoint", f"there is no checkpoint {path}")
    raw = _read_checked(path)
    state = _parse_state(raw.pop(_STATE), path / _STATE)
    files = {name: safetensors.parse(data, path / name)[0] for name, data in raw.items()}
    return _Content(unpack(state, files.get(_ARRAYS, {})), files)


def _read_checked(path: Path) -> dict[str, bytes]:
    sums: dict[str, str] = {}
    for line in _read_bytes(path / _SUMS).decode("utf-8", "replace").splitlines():
        match = re.fullmatch(r"([0-9a-f]{64})  ([a-z]+\.[a-z]+)", line)
        if match is None:
            raise fail(FileFormatError, "load_checkpoint", f"{path / _SUMS} is damaged", line=line)
        sums[match[2]] = match[1]
    for name in (_MODEL, _STATE):
        if name not in sums:
            raise fail(FileFormatError, "load_checkpoint", f"{path / _SUMS} does not list {name}")
    files = {}
    for name, digest in sums.items():
        files[name] = _read_bytes(path / name)
        if _digest(files[name]) != digest:
            raise fail(
                FileFormatError,
                "load_checkpoint",
                f"{path / name} is damaged: it does not hold what was written",
                hint="remove this checkpoint to go on from the one before it",
            )
    return files


def _parse_state(data: bytes, path: Path) -> dict[str, Any]:
    try:
        state = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise fail(FileFormatError, "load_checkpoint", f"{path} is no JSON: {problem}") from problem
    version = state.get("format") if isinstance(state, dict) else None
    if version != FORMAT:
        wrong = f"{path} has the format {version!r}, this version reads {FORMAT}"
        raise fail(FileFormatError, "load_checkpoint", wrong)
    keys = ("step", "epoch", "optimizer", "schedule", "loader", "generators", "history", "extra")
    missing = [key for key in keys if key not in state]
    if missing:
        raise fail(FileFormatError, "load_checkpoint", f"{path} has no " + ", ".join(missing))
    for key in ("step", "epoch"):
        if not isinstance(state.get(key), int) or isinstance(state[key], bool) or state[key] < 0:
            wrong = f"{path} has no count of each {key}"
            raise fail(FileFormatError, "load_checkpoint", wrong, found=state.get(key))
    return state


def _check_present(path: Path, name: str, saved: Any) -> None:
    if saved is None:
        problem = f"the checkpoint holds no {name}"
        raise fail(StateDictError, "load_checkpoint", problem, file=str(path / _STATE))


def _check_names(
    file: Path, saved: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]
) -> None:
    """Names, shapes and dtypes must be those of the model, all of them."""
    different = [
        f"{name}: saved {_describe(saved[name])}, here {_describe(own[name])}"
        for name in own
        if name in saved and _describe(saved[name]) != _describe(own[name])
    ]
    findings = {
        "missing": [name for name in own if name not in saved],
        "unexpected": [name for name in saved if name not in own],
        "different": different,
    }
    found: dict[str, Any] = {kind: _shorten(names) for kind, names in findings.items() if names}
    if found:
        problem = "the saved names or shapes are not those of the model"
        raise fail(StateDictError, "load_checkpoint", problem, file=str(file), **found)


def _describe(array: np.ndarray) -> str:
    return f"{array.shape} {array.dtype}"


def _shorten(names: list[str]) -> list[str]:
    rest = len(names) - _LISTED
    return names if rest <= 0 else [*names[:_LISTED], f"and {rest} more"]


def _slots(file: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """`slot/parameter` names as the optimizer's {parameter: {slot: array}}."""
    state: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        slot, slash, parameter = name.partition("/")
        if not slash:
            problem = f"{name!r} is no name of the form slot/parameter"
            raise fail(FileFormatError, "load_checkpoint", problem, file=str(file))
        state.setdefault(parameter, {})[slot] = array
    return state


@dataclass
class _Target:
    """An object to load into, and what."""

    name: str
    file: Path
    object: Stateful
    state: Any


def _load_all(targets: list[_Target]) -> None:
    """Load into every object; where one refuses, give all of them their former state back."""
    former = [_snapshot(target.object.state_dict()) for target in targets]
    for count, target in enumerate(targets, 1):
        try:
            target.object.load_state_dict(target.state)
        except Exception as problem:
            for each, state in zip(targets[:count], former[:count], strict=True):
                each.object.load_state_dict(state)
            text = str(problem) if isinstance(problem, SchussError) else repr(problem)
            raise fail(
                StateDictError,
                "load_checkpoint",
                f"the saved state does not fit the {target.name}: {text}",
                file=str(target.file),
            ) from problem


def _snapshot(tree: Any) -> Any:
    """A state that later changes of the object do not reach."""
    if isinstance(tree, Mapping):
        return {key: _snapshot(entry) for key, entry in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_snapshot(entry) for entry in tree)
    return as_array(tree) if hasattr(tree, "numpy") else copy.deepcopy(tree)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def _read_bytes(path: Path) -> bytes:
    if not path.exists():
        raise _missing(path)
    try:
        return path.read_bytes()
    except OSError as problem:
        raise storage_error("load_checkpoint", path, problem) from problem


def _missing(path: Path) -> SchussError:
    return fail(FileFormatError, "load_checkpoint", f"{path} is missing")


class Checkpoints:
    """The checkpoints of one run: a folder of `step-00000120` folders, the newest few of them.

    Args:
        folder: made when the first checkpoint is saved. One process at a time writes to it.
        keep: how many to keep; older ones go once a newer one is complete. None keeps all.
    """

    _PATTERN = re.compile(r"step-(\d{8,})")

    def __init__(self, folder: str | os.PathLike[str], keep: int | None = 2) -> None:
        if keep is not None and keep < 1:
            raise fail(ArgumentError, "Checkpoints", "keep must be at least 1, or None", keep=keep)
        self.folder = Path(folder)
        self.keep = keep

    def save(self, step: int, **parts: Any) -> Path:
        """Save a checkpoint (`parts` as for `save_checkpoint`), then remove what is too old."""
        path = self.folder / f"step-{step:08d}"
        remove_leftovers(self.folder, "step-")
        save_checkpoint(path, step=step, **parts)
        if self.keep is not None:
            for old in self.all()[: -self.keep]:
                remove_folder(old)
        return path

    def all(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if self._PATTERN.fullmatch(path.name)]
        return sorted(found, key=self._step)

    def latest(self) -> Path | None:
        """The newest complete checkpoint; None if there is none."""
        found = self.all()
        return found[-1] if found else None

    def _step(self, path: Path) -> int:
        return int(path.name.removeprefix("step-"))
