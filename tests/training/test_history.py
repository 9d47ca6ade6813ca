"""Records of a run, in memory and as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schuss.errors import ArgumentError, StateDictError, StorageError
from schuss.training.history import History, append_json_line, write_json_lines


def example() -> History:
    history = History()
    history.append({"epoch": 1, "step": 4, "loss": 0.1 + 0.2}, {"seconds": 1.5})
    history.append({"epoch": 2, "step": 8, "loss": 0.25, "accuracy": 0.5}, {"seconds": 1.25})
    return history


def test_it_is_a_sequence_of_records() -> None:
    history = example()
    assert len(history) == 2
    assert [record["epoch"] for record in history] == [1, 2]
    assert history[-1]["loss"] == 0.25
    assert history[:1] == [history[0]]
    assert history.series("accuracy") == [None, 0.5]
    assert "2 epochs" in repr(history)


def test_a_missing_series_lists_the_known() -> None:
    with pytest.raises(
        ArgumentError, match=r"no record has an entry 'loos'[^$]*'epoch', 'step', 'loss'"
    ):
        example().series("loos")
    with pytest.raises(ArgumentError, match=r"known: \[\]"):
        History().series("loss")


def test_the_state_is_exact_through_json() -> None:
    history = History()
    history.load_state_dict(json.loads(json.dumps(example().state_dict())))
    assert history.records == example().records
    assert history.times == example().times


@pytest.mark.parametrize("state", [{}, {"records": [{}], "times": []}, {"records": [1]}])
def test_a_wrong_state(state: dict[str, Any]) -> None:
    with pytest.raises(StateDictError, match="records and times, equally many"):
        History().load_state_dict(state)


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = example()
    write_json_lines(path, history)
    record = {"epoch": 3, "loss": float("nan"), "matrix": [[1, float("inf")]]}
    append_json_line(path, record, {"seconds": 1.0})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == history[0] | {"times": {"seconds": 1.5}}
    assert lines[2] == {
        "epoch": 3,
        "loss": None,
        "matrix": [[1, None]],
        "times": {"seconds": 1.0},
    }
    write_json_lines(path, history)  # cuts the third line off
    assert len(path.read_text().splitlines()) == 2


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"No such file or directory: .*history.jsonl"):
        append_json_line(tmp_path / "absent" / "history.jsonl", {}, {})
