"""The geometry of a convolution, one axis at a time: which positions meet which taps.

Along an axis, output position `first + every * i` of a phase is the sum over its taps t < `taps` of
kernel element `tap + tap_step * t` times input position `place + place_step * t + move * i`, where
positions outside of the input count as 0. A convolution has one phase; its gradient for the input
has one for each remainder by the stride, since elements of the input with different remainders meet
different taps.
"""

from __future__ import annotations

from typing import NamedTuple


class Phase(NamedTuple):
    """Outputs of one axis that meet the same taps."""

    first: int
    every: int
    outputs: int
    taps: int
    tap: int
    tap_step: int
    place: int
    place_step: int
    move: int

    def inside(self, i: int, size: int) -> range:
        """The taps that output i of the phase finds inside of an input of `size` positions."""
        found = [
            t
            for t in range(self.taps)
            if 0 <= self.place + t * self.place_step + i * self.move < size
        ]
        return range(found[0], found[-1] + 1) if found else range(0)


class Axis(NamedTuple):
    """One axis: the sizes of input, output and kernel, and the phases of the output."""

    size: int
    outputs: int
    kernel: int
    phases: tuple[Phase, ...]

    @property
    def lowest(self) -> int:
        """The lowest input position, before or after 0, that any first output looks at."""
        return min(min(p.place, p.place + p.place_step * (p.taps - 1)) for p in self._real())

    @property
    def highest(self) -> int:
        """The highest such position."""
        return max(max(p.place, p.place + p.place_step * (p.taps - 1)) for p in self._real())

    @property
    def move(self) -> int:
        return self.phases[0].move

    @property
    def most(self) -> int:
        """Outputs of the longest phase."""
        return max(phase.outputs for phase in self.phases)

    def reach(self, outputs: int) -> int:
        """Input positions that so many outputs, one after the other, look at."""
        return (outputs - 1) * self.move + self.highest - self.lowest + 1

    @property
    def meetings(self) -> int:
        """Pairs of an output and a tap that finds a position inside of the input."""
        return sum(len(p.inside(i, self.size)) for p in self.phases for i in range(p.outputs))

    def _real(self) -> list[Phase]:
        return [phase for phase in self.phases if phase.taps] or [self.phases[0]._replace(taps=1)]


UNIT = Axis(1, 1, 1, (Phase(0, 1, 1, 1, 0, 1, 0, 1, 1),))
"""An axis that is not there."""


def forward_axis(
    size: int, kernel: int, stride: int, before: int, dilation: int, outputs: int
) -> Axis:
    """An axis of a convolution, with `before` zeros in front."""
    phase = Phase(0, 1, outputs, kernel, 0, 1, -before, dilation, stride)
    return Axis(size, outputs, kernel, (phase,))


def input_axis(size: int, kernel: int, stride: int, before: int, dilation: int, count: int) -> Axis:
    """An axis of the gradient for an input of the given size, from a gradient of `count`."""
    phases = []
    for first in range(min(stride, size)):
        taps = [k for k in range(kernel) if (first + before - k * dilation) % stride == 0]
        step = taps[1] - taps[0] if len(taps) > 1 else 1
        tap = taps[0] if taps else 0
        place = (first + before - tap * dilation) // stride
        outputs = -(-(size - first) // stride)
        phases.append(
            Phase(
                first, stride, outputs, len(taps), tap, step, place, -step * dilation // stride, 1
            )
        )
    return Axis(count, size, kernel, tuple(phases))
