"""Printing LLVM IR: one function at a time, with fresh names and structured loops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Function:
    """The text of one LLVM function, written line by line.

    Values are the operands as they stand in the text: '%t3', '%args', '17'.
    """

    def __init__(self, signature: str) -> None:
        """`signature` is all that stands before the brace: 'define void @f(ptr %a)'."""
        self._lines = [signature + " {", "entry:"]
        self._count = 0
        self._block = "entry"

    def __str__(self) -> str:
        return "\n".join([*self._lines, "}"])

    def fresh(self, stem: str = "t") -> str:
        """A name that no other value or block of the function has."""
        self._count += 1
        return f"{stem}{self._count}"

    def line(self, text: str) -> None:
        """An instruction without a result."""
        self._lines.append("  " + text)

    def let(self, expression: str) -> str:
        """An instruction with a result, whose name is returned."""
        name = "%" + self.fresh()
        self.line(f"{name} = {expression}")
        return name

    def room(self, kind: str) -> str:
        """Memory for one value of a type while the function runs; for registers, where it can."""
        name = "%" + self.fresh("room")
        self._lines.insert(2, f"  {name} = alloca {kind}, align 64")
        return name

    def label(self, name: str) -> None:
        """Start a block; the block before must have ended with a branch."""
        self._lines.append(name + ":")
        self._block = name

    @property
    def block(self) -> str:
        """The block that is being written."""
        return self._block

    def add(self, x: str | int, y: str | int) -> str:
        """x + y for i64; sums with 0 and of constants are folded."""
        if _constant(x) and _constant(y):
            return str(int(x) + int(y))
        if str(x) == "0":
            return str(y)
        if str(y) == "0":
            return str(x)
        return self.let(f"add i64 {x}, {y}")

    def sub(self, x: str | int, y: str | int) -> str:
        """x - y for i64."""
        if _constant(x) and _constant(y):
            return str(int(x) - int(y))
        return str(x) if str(y) == "0" else self.let(f"sub i64 {x}, {y}")

    def mul(self, x: str | int, y: str | int) -> str:
        """x * y for i64; products with 0 and 1 and of constants are folded."""
        if _constant(x) and _constant(y):
            return str(int(x) * int(y))
        for one, other in ((str(x), str(y)), (str(y), str(x))):
            if one == "0":
                return "0"
            if one == "1":
                return other
        return self.let(f"mul i64 {x}, {y}")

    def divide(self, x: str | int, y: int) -> tuple[str, str]:
        """Quotient and remainder of an i64 that is not negative and a constant."""
        if _constant(x):
            quotient, remainder = divmod(int(x), y)
            return str(quotient), str(remainder)
        if y == 1:
            return str(x), "0"
        return self.let(f"udiv i64 {x}, {y}"), self.let(f"urem i64 {x}, {y}")

    def smaller(self, x: str | int, y: str | int) -> str:
        """min(x, y) for signed i64."""
        if _constant(x) and _constant(y):
            return str(min(int(x), int(y)))
        less = self.let(f"icmp slt i64 {x}, {y}")
        return self.choose(less, "i64", x, y)

    def choose(self, condition: str, kind: str, yes: str | int, no: str | int) -> str:
        """`yes` where the i1 `condition` holds, `no` elsewhere; both are of type `kind`."""
        if str(yes) == str(no):
            return str(yes)
        return self.let(f"select i1 {condition}, {kind} {yes}, {kind} {no}")

    def at(self, kind: str, pointer: str, index: str | int) -> str:
        """The address of element `index` of elements of type `kind` from `pointer` on."""
        if str(index) == "0":
            return pointer
        return self.let(f"getelementptr {kind}, ptr {pointer}, i64 {index}")

    def word(self, index: int) -> str:
        """Word `index` of %args, as an address."""
        return self.let(f"load ptr, ptr {self.at('i64', '%args', index)}")

    @contextmanager
    def loop(self, start: str | int, stop: str | int, step: str | int = 1) -> Iterator[str]:
        """for i = start; i < stop; i += step. A loop known to run once leaves no trace."""
        if all(_constant(x) for x in (start, stop, step)) and (
            int(start) < int(stop) <= int(start) + int(step)
        ):
            yield str(start)
            return
        name = self.fresh("loop")
        self.line(f"br label %{name}.head")
        before = self.block
        self.label(f"{name}.head")
        self.line(f"%{name} = phi i64 [{start}, %{before}], [%{name}.next, %{name}.step]")
        self.line(f"%{name}.more = icmp slt i64 %{name}, {stop}")
        self.line(f"br i1 %{name}.more, label %{name}.body, label %{name}.end")
        self.label(f"{name}.body")
        yield f"%{name}"
        self.line(f"br label %{name}.step")
        self.label(f"{name}.step")
        self.line(f"%{name}.next = add nsw i64 %{name}, {step}")
        self.line(f"br label %{name}.head")
        self.label(f"{name}.end")

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """if (condition) { ... }; the i1 may be the text 'true' or 'false'."""
        name = self.fresh("when")
        self.line(f"br i1 {condition}, label %{name}.then, label %{name}.end")
        self.label(f"{name}.then")
        yield
        self.line(f"br label %{name}.end")
        self.label(f"{name}.end")


def _constant(operand: str | int) -> bool:
    return isinstance(operand, int) or operand.lstrip("-").isdigit()
