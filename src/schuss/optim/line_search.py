"""How far to go along a direction: the strong Wolfe conditions.

J. Nocedal and S. Wright, "Numerical Optimization" (2006), algorithms 3.5 and 3.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """What is known of the line at one step length.

    Attributes:
        step: how far along the direction.
        value: of the function.
        slope: its derivative along the direction.
        found: what else the caller wants back, the gradient say.
    """

    step: float
    value: float
    slope: float
    found: Any = None


def strong_wolfe(
    along: Callable[[float], Point],
    start: Point,
    first: float,
    *,
    c1: float = 1e-4,
    c2: float = 0.9,
    max_evaluations: int = 25,
) -> Point:
    """A point with a sufficient decrease and a slope at most c2 times that at the start.

    Args:
        along: the function along the direction.
        start: the point of step 0, whose slope is negative.
        first: the first step to try.
        c1, c2: see the conditions: value <= start.value + c1 * step * start.slope, and
            |slope| <= c2 * |start.slope|.
        max_evaluations: after so many, the best point so far is returned, which may be `start`.
    """
    search = _Search(along, start, c1, c2, max_evaluations)
    before, step = start, first
    while search.left:
        here = search.look(step)
        if search.too_high(here) or (before is not start and here.value >= before.value):
            return search.between(before, here)
        if search.is_flat(here):
            return here
        if here.slope >= 0:
            return search.between(here, before)
        low = here.step + 0.01 * (here.step - before.step)
        step = _cubic_minimum(before, here, low, 10 * here.step)
        before = here
    return search.best


class _Search:
    def __init__(
        self, along: Callable[[float], Point], start: Point, c1: float, c2: float, left: int
    ) -> None:
        self.along, self.start, self.c1, self.c2, self.left = along, start, c1, c2, left
        self.best = start

    def look(self, step: float) -> Point:
        self.left -= 1
        point = self.along(step)
        if point.value < self.best.value:
            self.best = point
        return point

    def too_high(self, point: Point) -> bool:
        """True for NaN as well."""
        allowed = self.start.value + self.c1 * point.step * self.start.slope
        return not (point.value <= allowed and math.isfinite(point.slope))

    def is_flat(self, point: Point) -> bool:
        return abs(point.slope) <= -self.c2 * self.start.slope

    def between(self, low: Point, high: Point) -> Point:
        """Narrow an interval that contains good points; `low` is the end with the lower value."""
        while self.left and abs(high.step - low.step) * abs(low.slope) > 1e-16:
            a, b = sorted((low.step, high.step))
            margin = 0.1 * (b - a)
            here = self.look(_cubic_minimum(low, high, a + margin, b - margin))
            if self.too_high(here) or here.value >= low.value:
                high = here
            else:
                if self.is_flat(here):
                    return here
                if here.slope * (high.step - low.step) >= 0:
                    high = low
                low = here
        return self.best


def _cubic_minimum(p: Point, q: Point, low: float, high: float) -> float:
    """Where the cubic through two points with their slopes is least, within bounds."""
    middle = (low + high) / 2
    if p.step == q.step or not math.isfinite(p.value + q.value + p.slope + q.slope):
        return middle
    d1 = p.slope + q.slope - 3 * (p.value - q.value) / (p.step - q.step)
    square = d1 * d1 - p.slope * q.slope
    if square < 0:
        return middle
    d2 = math.copysign(math.sqrt(square), q.step - p.step)
    below = q.slope - p.slope + 2 * d2
    if below == 0:
        return middle
    at = q.step - (q.step - p.step) * (q.slope + d2 - d1) / below
    return min(max(at, low), high)
