"""The strong Wolfe conditions hold where the search ends."""

from __future__ import annotations

import math

import pytest

from schuss.optim.line_search import Point, strong_wolfe

FUNCTIONS = {
    "quadratic": (lambda t: (t - 3) ** 2, lambda t: 2 * (t - 3)),
    "steep": (lambda t: 1e4 * (t - 0.01) ** 2, lambda t: 2e4 * (t - 0.01)),
    "far": (lambda t: (t - 500) ** 2, lambda t: 2 * (t - 500)),
    "waves": (lambda t: math.sin(5 * t) + 0.1 * (t - 2) ** 2 - t,
              lambda t: 5 * math.cos(5 * t) + 0.2 * (t - 2) - 1),
    "quartic": (lambda t: (t - 1) ** 4 - t, lambda t: 4 * (t - 1) ** 3 - 1),
    "a wall": (lambda t: -t if t < 2 else math.nan, lambda t: -1.0 + 0.9 * max(0, t - 1)),
}  # fmt: skip


@pytest.mark.parametrize("first", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("name", ["quadratic", "steep", "far", "quartic"])
def test_conditions(name: str, first: float) -> None:
    f, slope = FUNCTIONS[name]
    start = Point(0.0, f(0.0), slope(0.0))
    found = strong_wolfe(lambda t: Point(t, f(t), slope(t), t), start, first)
    assert found.step > 0
    assert found.value <= start.value + 1e-4 * found.step * start.slope
    assert abs(found.slope) <= 0.9 * abs(start.slope)
    assert found.found == found.step


def test_not_a_number_is_too_far() -> None:
    f, slope = FUNCTIONS["a wall"]
    start = Point(0.0, f(0.0), slope(0.0))
    found = strong_wolfe(lambda t: Point(t, f(t), slope(t)), start, 10.0)
    assert 0 < found.step < 2
    assert found.value < start.value


def test_the_number_of_evaluations_is_limited() -> None:
    calls = []

    def along(t: float) -> Point:
        calls.append(t)
        return Point(t, -t, -1.0)  # falls for ever

    found = strong_wolfe(along, Point(0.0, 0.0, -1.0), 1.0, max_evaluations=7)
    assert len(calls) == 7
    assert found.step == max(calls)


def test_nowhere_lower() -> None:
    start = Point(0.0, 0.0, -1.0)  # a slope that is not true
    found = strong_wolfe(lambda t: Point(t, t, 1.0), start, 1.0)
    assert found is start
