"""What an evaluation tells of itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Run:
    """What an evaluation did.

    Attributes:
        tier: which tier computed it: "reference" is NumPy, op by op, "compiled" machine code.
        why: why it was not compiled, or what compiling did.
        ops: how often each op ran; in the compiled tier, how many launches of each kind.
        seconds: wall time, compiling included.
        compile_seconds: what compiling took of it.
        peak_bytes: the most bytes of values that this evaluation held at once, beside what it
            found.
    """

    tier: str = "reference"
    why: str = ""
    ops: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    compile_seconds: float = 0.0
    peak_bytes: int = 0

    @property
    def nodes(self) -> int:
        return self.ops.total()

    def take_from(self, program: Any) -> None:
        """The figures of a compiled program."""
        self.ops = program.kinds
        self.peak_bytes = program.peak_bytes

    def __str__(self) -> str:
        most = ", ".join(f"{name} {count}" for name, count in self.ops.most_common(8))
        what = "ops" if self.tier == "reference" else "launches and host steps"
        lines = [
            f"{self.tier}: {self.nodes} {what} in {self.seconds * 1e3:.2f} ms, "
            f"at most {self.peak_bytes / 2**20:.1f} MiB; {most}"
        ]
        if self.compile_seconds:
            lines.append(f"compiled in {self.compile_seconds * 1e3:.0f} ms")
        if self.why:
            lines.append(self.why)
        return "\n".join(lines)
