"""What a training run recorded, one record an epoch.

Numbers that a repeated run gives again bit for bit (losses, metrics, learning rates) are kept in
`records`; wall times, which differ from run to run, are kept apart in `times`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard, overload

from schuss.errors import ArgumentError, StateDictError, fail
from schuss.files import atomic_write, storage_error

Record = dict[str, Any]


class History:
    """The records of a run, in order; `history[-1]` is the last one.

    Attributes:
        records: a dict an epoch, with `epoch` (from 1), `step` (steps done), `loss`, `lr`, the
            metrics, and the same with `validation_` in front where there is validation data.
        times: a dict an epoch, with `seconds` and `samples_per_second` of training.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.times: list[Record] = []

    def append(self, record: Record, times: Record) -> None:
        self.records.append(record)
        self.times.append(times)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        return self.records[index]

    def __repr__(self) -> str:
        return f"History({len(self)} epochs, last: {self.records[-1] if self.records else None})"

    def series(self, name: str) -> list[Any]:
        """The values of one entry, epoch by epoch; None in epochs without it.

        Raises ArgumentError, listing the names, where no record has it.
        """
        names = {key: None for record in self.records for key in record}
        if name not in names:
            problem = f"no record has an entry {name!r}"
            raise fail(ArgumentError, "History", problem, known=list(names))
        return [record.get(name) for record in self.records]

    def state_dict(self) -> dict[str, Any]:
        return {"records": list(self.records), "times": list(self.times)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        records, times = state.get("records"), state.get("times")
        if not _are_records(records) or not _are_records(times) or len(records) != len(times):
            problem = "the state must have records and times, equally many"
            raise fail(StateDictError, "History", problem, keys=sorted(state))
        self.records, self.times = list(records), list(times)


def _are_records(value: Any) -> TypeGuard[list[Record]]:
    return isinstance(value, list) and all(isinstance(record, dict) for record in value)


def json_line(record: Record, times: Record) -> str:
    """One record as a line of strict JSON, wall times under `times`; null for NaN and infinity."""
    return json.dumps(_finite({**record, "times": times}), allow_nan=False) + "\n"


def write_json_lines(path: str | os.PathLike[str], history: History) -> None:
    """Make `path` hold the records of `history` and nothing else, one a line."""
    with atomic_write(path) as file:
        for record, times in zip(history.records, history.times, strict=True):
            file.write(json_line(record, times).encode())


def append_json_line(path: str | os.PathLike[str], record: Record, times: Record) -> None:
    """Add one line to the file `path` and hand it to the system, so that a killed run keeps it."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json_line(record, times))
    except OSError as problem:
        raise storage_error("history", Path(path), problem) from problem


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
