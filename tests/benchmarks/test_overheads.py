from __future__ import annotations

import pytest

import overheads


@pytest.mark.parametrize("section", ["recording", "looking"])
def test_sections_measure(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overheads, "CALLS", 10)
    rows = dict(overheads.SECTIONS[section](2))
    assert all(len(times) == 2 and min(times) > 0 for times in rows.values())
    assert len(rows) >= 3


def test_each_further_op_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overheads, "KNOWN", 2)
    monkeypatch.setattr(overheads, "CHAIN", 50)
    rows = dict(overheads.evaluating(2))
    slopes = [times for name, times in rows.items() if name.startswith("each further")]
    singles = [times for name, times in rows.items() if name.startswith("a graph of one")]
    assert len(slopes) == len(singles) == 2
    assert all(min(a) < max(b) for a, b in zip(slopes, singles, strict=True))


def test_page() -> None:
    rows = {"looking": [["item()", "0.5"]], "importing": [["`import schuss`", "100"]]}
    lines = overheads.lines_of(rows, 3, ["jit: not there yet, skipped."])
    assert "| looking | µs |" in lines
    assert "| importing | ms |" in lines
    assert lines[-1] == "jit: not there yet, skipped."
