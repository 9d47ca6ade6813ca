"""Learning curves, read back from what was drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from schuss.errors import ArgumentError, MissingDependencyError
from schuss.training import Accuracy, ConfusionMatrix, History, LearningCurve, draw_learning_curve

from .small_run import make_loader, make_trainer


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are made."""
    import matplotlib.figure

    made: list[Any] = []

    class Recorded(matplotlib.figure.Figure):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(matplotlib.figure, "Figure", Recorded)
    return made


def lines(panel: Any) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in panel.lines}


def test_loss_and_metrics(tmp_path: Path, figures: list[Any]) -> None:
    path = tmp_path / "pictures" / "curve.png"
    pyplot_before = "matplotlib.pyplot" in sys.modules
    metrics = [Accuracy(), ConfusionMatrix(3)]
    trainer = make_trainer(metrics=metrics, callbacks=[LearningCurve(path)])
    history = trainer.fit(make_loader(), epochs=2, validation=make_loader(10), progress=False)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in path.parent.iterdir()] == ["curve.png"]
    panels = figures[-1].axes
    assert [panel.get_ylabel() for panel in panels] == ["loss", "accuracy"]
    assert [panel.get_xlabel() for panel in panels] == ["epoch", "epoch"]
    for panel, name in zip(panels, ("loss", "accuracy"), strict=True):
        assert lines(panel) == {
            "training": list(zip([1, 2], history.series(name), strict=True)),
            "validation": list(zip([1, 2], history.series(f"validation_{name}"), strict=True)),
        }
        assert panel.get_legend() is not None
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_before  # it would look for a screen


def test_values_that_are_not_finite_are_left_out(tmp_path: Path, figures: list[Any]) -> None:
    history = History()
    for epoch, loss in enumerate([float("nan"), 2.0, float("inf")], 1):
        history.append({"epoch": epoch, "loss": loss}, {})
    draw_learning_curve(history, tmp_path / "curve.png")
    assert lines(figures[0].axes[0]) == {"training": [(2, 2.0)]}


def test_how_often(tmp_path: Path, figures: list[Any]) -> None:
    trainer = make_trainer(callbacks=[LearningCurve(tmp_path / "curve.png", every=2)])
    trainer.fit(make_loader(8), epochs=5, progress=False)
    assert len(figures) == 3  # after epochs 2, 4 and 5
    with pytest.raises(ArgumentError, match="every must be at least 1"):
        LearningCurve("curve.png", every=0)


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="the history has no records to draw"):
        draw_learning_curve(History(), tmp_path / "curve.png")


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    trainer = make_trainer(callbacks=[LearningCurve(tmp_path / "curve.png")])
    text = r"LearningCurve: needs the package matplotlib[^$]*pip install 'schuss\[plot\]'"
    with pytest.raises(MissingDependencyError, match=text):
        trainer.fit(make_loader(), epochs=1, progress=False)
    assert trainer.step == 0
