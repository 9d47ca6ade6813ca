from __future__ import annotations

import math
from pathlib import Path

import pytest

from common import report


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.0093142, "0.00931"),
        (1.4, "1.40"),
        (12.345, "12.3"),
        (297.4, "297"),
        (13579.2, "13579"),
        (math.inf, "inf"),
    ],
)
def test_figures_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert report.figure(value) == text


def test_spread_shows_the_median_and_the_quartiles() -> None:
    assert report.spread([5.0, 1.0, 2.0, 4.0, 3.0]) == "3.00 (2.00 to 4.00)"


def test_ratio_takes_the_best_peer_and_the_median_of_rounds() -> None:
    assert report.ratio([[9.0, 9.0, 9.0], [3.0, 4.0, 99.0]], [2.0, 2.0, 99.0]) == 1.5
    slow = [1.0, 1.0, 2.0, 2.0, 2.0]  # a machine of two speeds: the medians are of either
    assert report.ratio([[4.0, 4.0, 4.0, 8.0, 8.0]], slow) == 4.0


def test_curves_agree_within_a_thousandth_of_their_way() -> None:
    assert report.disagreement([2.0, 1.5, 1.0009], [2.0, 1.5, 1.0]) is None
    assert report.disagreement([2.0, 1.5, 1.0011], [2.0, 1.5, 1.0]) == (
        "loss 1.0011 at step 3, expected 1"
    )


def test_a_curve_that_hardly_moves_is_compared_as_strictly() -> None:
    assert report.disagreement([4.17, 4.16], [4.17, 4.169]) is not None


def test_a_nan_or_a_curve_that_stands_still_never_agrees_with_another() -> None:
    assert report.disagreement([2.0, math.nan], [2.0, 1.0]) is not None
    assert report.disagreement([2.0, 1.0], [2.0, math.nan]) is not None
    assert report.disagreement([2.0, 2.0], [1.0, 1.0]) is not None


def test_table() -> None:
    assert report.table(["op", "ms"], [["a", "1"]]) == ["| op | ms |", "| --- | --- |", "| a | 1 |"]


def test_setting_names_versions_of_what_is_installed() -> None:
    line = report.setting(["numpy", "no_such_package"], 2)
    assert "numpy 2" in line
    assert "no_such_package" not in line


def test_setting_takes_what_only_lies_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lying_there.py").write_text('__version__ = "3.5"')
    monkeypatch.syspath_prepend(tmp_path)
    assert "lying_there 3.5" in report.setting(["lying_there"], 1)


def test_write(tmp_path: Path) -> None:
    report.write(tmp_path / "page.md", ["# µ", "–"])
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == "# µ\n–\n"
