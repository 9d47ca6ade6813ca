"""What `schuss.compiler.show` prints, and the page that walks through it."""

from __future__ import annotations

import pytest
from tests.compiler.graphs import filled

from schuss import compiler
from schuss.compiler.stages import STAGES


def test_all_stages_are_shown() -> None:
    text = compiler.show(lambda x: (x @ x.mT).relu().sum(axis=1), filled(4, 3))
    assert [text.index(f"--- {stage} ---") for stage in STAGES] == sorted(
        text.index(f"--- {stage} ---") for stage in STAGES
    )
    assert "product 4 x 4 x 3" in text
    assert "define void @loops_" in text


@pytest.mark.parametrize("stage", STAGES)
def test_one_stage_at_a_time(stage: str) -> None:
    text = compiler.show(lambda x: x * 2.5, filled(3), stages=(stage,))
    assert text.startswith(f"--- {stage} ---\n")
    assert text.count("--- ") == 1


def test_functions_of_several_results() -> None:
    text = compiler.show(lambda x: {"a": x + 1.5, "b": [x * 2.5]}, filled(3), stages=("units",))
    assert "add" in text
    assert "multiply" in text
