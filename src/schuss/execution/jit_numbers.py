"""Numbers of optimizers as expressions of what they were computed from.

Adam divides by `1 - b1**t`: a Python number, another one in every step. While an optimizer of this
package is recorded, its settings and counts are replaced by live numbers, which behave the same and
note how each result is computed. A replay computes them anew from the settings and counts of then.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

_SYMBOLS = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
}  # fmt: skip
_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


class Operand(NamedTuple):
    """A register of the tape, or a plain number."""

    register: int  # -1 for a plain number
    number: int | float


@dataclass(slots=True)
class Line:
    """One operation: what it is applied to, and what came out.

    Attributes:
        name: of the function in `operator`.
        outcome: the answer of a comparison, which steers what is recorded; else None.
        register: where the result is kept; -1 for comparisons.
    """

    name: str
    operands: tuple[Operand, ...]
    outcome: bool | None
    register: int

    def text(self, shown: Callable[[Operand], str]) -> str:
        """The operation in Python."""
        if len(self.operands) == 1:
            inner = shown(self.operands[0])
            return {"neg": f"-{inner}", "abs": f"abs({inner})", "truth": f"bool({inner})"}[
                self.name
            ]
        a, b = self.operands
        return f"{shown(a)} {_SYMBOLS[self.name]} {shown(b)}"


class Tape:
    """The registers of a recording: first what was read at places, then what was computed."""

    def __init__(self) -> None:
        self.values: list[int | float] = []
        self.lines: list[Line] = []
        self._known: dict[Any, LiveFloat | LiveInt] = {}

    def read(self, value: int | float) -> LiveFloat | LiveInt:
        """A register for a number that was read."""
        return self._new(value)

    def apply(self, name: str, *operands: Any) -> Any:
        """The result of an operation: a live number, or the answer of a comparison."""
        plain = [number(each) for each in operands]
        noted = tuple(
            Operand(each.register if isinstance(each, _Live) else -1, value)
            for each, value in zip(operands, plain, strict=True)
        )
        if name == "truth" or name in _COMPARISONS:
            outcome = bool(getattr(operator, name)(*plain))
            self.lines.append(Line(name, noted, outcome, -1))
            return outcome
        key = (name, tuple((r, None if r >= 0 else v, type(v)) for r, v in noted))
        found = self._known.get(key)
        if found is None:
            result = getattr(operator, name)(*plain)
            if type(result) not in (int, float):
                return result
            found = self._known[key] = self._new(result)
            self.lines.append(Line(name, noted, None, found.register))
        return found

    def _new(self, value: int | float) -> LiveFloat | LiveInt:
        made: LiveFloat | LiveInt = (LiveInt if type(value) is int else LiveFloat)(value)
        made.plain, made.register, made.tape = value, len(self.values), self
        self.values.append(value)
        return made

    def replay(self, reads: dict[int, int | float]) -> list[int | float] | None:
        """All registers when those read hold other numbers; None where a comparison turns out
        otherwise, or the numbers cannot be computed."""
        values = list(self.values)
        for register, value in reads.items():
            values[register] = value
        try:
            for line in self.lines:
                plain = [values[r] if r >= 0 else v for r, v in line.operands]
                result = getattr(operator, line.name)(*plain)
                if line.register >= 0:
                    values[line.register] = result
                elif bool(result) != line.outcome:
                    return None
        except ArithmeticError:
            return None
        return values


def number(value: Any) -> Any:
    """The plain number of a live one; anything else as it is."""
    return value.plain if isinstance(value, _Live) else value


class _Live:
    """What both kinds of live numbers do: note operations on the tape."""

    plain: Any
    register: int
    tape: Tape

    def __neg__(self) -> Any:
        return self.tape.apply("neg", self)

    def __abs__(self) -> Any:
        return self.tape.apply("abs", self)

    def __bool__(self) -> bool:
        return self.tape.apply("truth", self)

    def __hash__(self) -> int:
        return hash(self.plain)

    def __repr__(self) -> str:
        return repr(self.plain)


def _add_operators() -> None:
    def forward(name: str) -> Callable[[Any, Any], Any]:
        def method(self: Any, other: Any) -> Any:
            if not isinstance(other, (int, float)):
                return NotImplemented
            return self.tape.apply(name, self, other)

        return method

    def backward(name: str) -> Callable[[Any, Any], Any]:
        def method(self: Any, other: Any) -> Any:
            if not isinstance(other, (int, float)):
                return NotImplemented
            return self.tape.apply(name, other, self)

        return method

    for name in _SYMBOLS:
        setattr(_Live, f"__{name}__", forward(name))
        if name not in _COMPARISONS:
            setattr(_Live, f"__r{name}__", backward(name))


_add_operators()


class LiveFloat(_Live, float):
    """A float that knows how it was computed."""

    __hash__ = _Live.__hash__


class LiveInt(_Live, int):
    """An int that knows how it was computed."""

    __hash__ = _Live.__hash__
