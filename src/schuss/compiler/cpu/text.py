"""Printing LLVM IR: fresh names, types of dtypes, constants, loads and stores of vectors."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType

_MEMORY = {
    dtypes.bool_: "i8",
    dtypes.float16: "half",
    dtypes.bfloat16: "i16",  # its bits: not all processors round to it, and some flush subnormals
    dtypes.float32: "float",
    dtypes.float64: "double",
}


def memory_type(dtype: DType) -> str:
    """The LLVM type of one element in memory."""
    return _MEMORY.get(dtype) or f"i{8 * dtype.itemsize}"


def register_type(dtype: DType) -> str:
    """The LLVM type of one element while it is computed with: halves are floats, bools bits."""
    if dtype == dtypes.bool_:
        return "i1"
    return "float" if dtype in dtypes.HALF else memory_type(dtype)


def vector(element: str, lanes: int) -> str:
    return element if lanes == 1 else f"<{lanes} x {element}>"


def suffix(element: str, lanes: int) -> str:
    """How intrinsics name a type: v16f32."""
    short = {"float": "f32", "double": "f64", "half": "f16", "bfloat": "bf16"}.get(element, element)
    return short if lanes == 1 else f"v{lanes}{short}"


def constant(value: Any, dtype: DType) -> str:
    """A number as LLVM writes it, exactly."""
    if dtype == dtypes.bool_:
        return "true" if value else "false"
    if dtypes.is_integral(dtype):
        return str(int(value))
    if dtype != dtypes.float64:
        with np.errstate(all="ignore"):
            value = float(np.asarray(value, dtype).astype(np.float32))
    return f"0x{struct.unpack('<Q', struct.pack('<d', float(value)))[0]:016X}"


_INLINED = 6  # a vector function that is called more often than this stays one function


class Text:
    """A function being printed, and what it needs declared and defined beside it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.entry: list[str] = []  # allocas, which belong to the top
        self.declared: set[str] = set()
        self.defined: dict[str, str] = {}
        self.count = 0

    def name(self, hint: str = "v") -> str:
        self.count += 1
        return f"%{hint}{self.count}"

    def put(self, line: str) -> None:
        self.lines.append("  " + line)

    def new(self, instruction: str, hint: str = "v") -> str:
        """Print an instruction and name its result."""
        name = self.name(hint)
        self.lines.append(f"  {name} = {instruction}")
        return name

    def call(self, result: str, function: str, *arguments: tuple[str, str], note: str = "") -> str:
        """Call a function, declaring it where it is LLVM's own. Arguments are (type, name)."""
        if function.startswith("llvm."):
            types = ", ".join(kind for kind, _ in arguments)
            self.declared.add(f"declare {result} @{function}({types})")
        shown = ", ".join(f"{kind} {name}" for kind, name in arguments)
        if result == "void":
            self.put(f"call void @{function}({shown}){note}")
            return ""
        return self.new(f"call {result} @{function}({shown})")

    def alloca(self, kind: str, hint: str = "a") -> str:
        name = self.name(hint)
        self.entry.append(f"  {name} = alloca {kind}, align 64")
        return name

    def label(self, name: str) -> None:
        """Start a block, falling into it from the one before."""
        self.lines.append(f"  br label %{name}\n{name}:")

    @contextmanager
    def loop(self, start: str, stop: str, step: int = 1) -> Iterator[str]:
        """A loop whose counter goes from `start` up to, but not to, `stop`. It may run no times."""
        self.count += 1
        tag = f"l{self.count}"
        counter = self.alloca("i64", "c")
        self.put(f"store i64 {start}, ptr {counter}")
        self.label(f"{tag}_head")
        i = self.new(f"load i64, ptr {counter}", "i")
        more = self.new(f"icmp slt i64 {i}, {stop}")
        self.put(f"br i1 {more}, label %{tag}_body, label %{tag}_end")
        self.lines.append(f"{tag}_body:")
        yield i
        after = self.new(f"add nsw i64 {i}, {step}")
        self.put(f"store i64 {after}, ptr {counter}")
        self.put(f"br label %{tag}_head")
        self.lines.append(f"{tag}_end:")

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """A block that runs where the condition holds."""
        self.count += 1
        tag = f"w{self.count}"
        self.put(f"br i1 {condition}, label %{tag}_then, label %{tag}_end")
        self.lines.append(f"{tag}_then:")
        yield
        self.label(f"{tag}_end")

    def repeat(self, block: Callable[[], str]) -> None:
        """A block that runs once, and again as long as the condition that it returns holds."""
        self.count += 1
        tag = f"r{self.count}"
        self.label(f"{tag}_body")
        more = block()
        self.put(f"br i1 {more}, label %{tag}_body, label %{tag}_end")
        self.lines.append(f"{tag}_end:")

    # --- integers ---

    def times(self, a: str, factor: int) -> str:
        if factor == 1 or a == "0":
            return a
        return self.new(f"mul nsw i64 {a}, {factor}")

    def plus(self, a: str, b: str) -> str:
        if a == "0" or b == "0":
            return b if a == "0" else a
        return self.new(f"add nsw i64 {a}, {b}")

    def smaller(self, a: str, b: str) -> str:
        return self.call("i64", "llvm.smin.i64", ("i64", a), ("i64", b))

    # --- vectors ---

    def splat(self, scalar: str, element: str, lanes: int) -> str:
        if lanes == 1:
            return scalar
        if not scalar.startswith("%"):
            return f"splat ({element} {scalar})"
        kind = vector(element, lanes)
        first = self.new(f"insertelement {kind} poison, {element} {scalar}, i64 0")
        zeros = f"<{lanes} x i32> zeroinitializer"
        return self.new(f"shufflevector {kind} {first}, {kind} poison, {zeros}")

    def lanes_from(self, start: str, step: int, lanes: int) -> str:
        """start, start + step, ... as a vector of i64."""
        if lanes == 1:
            return start
        offsets = ", ".join(f"i64 {step * i}" for i in range(lanes))
        base = self.splat(start, "i64", lanes)
        if start == "0":
            return f"<{offsets}>"
        return self.new(f"add nsw <{lanes} x i64> {base}, <{offsets}>")

    def mask(self, count: str, lanes: int) -> str:
        """The first `count` lanes, an i64 that may exceed them."""
        numbers = ", ".join(f"i64 {i}" for i in range(lanes))
        limit = self.splat(count, "i64", lanes)
        return self.new(f"icmp slt <{lanes} x i64> <{numbers}>, {limit}")

    def address(self, base: str, index: str, element: str) -> str:
        if index == "0":
            return base
        return self.new(f"getelementptr inbounds {element}, ptr {base}, i64 {index}", "p")

    def load(self, pointer: str, dtype: DType, lanes: int, mask: str | None) -> str:
        """Consecutive elements, brought into the type that is computed with."""
        element = memory_type(dtype)
        kind, size = vector(element, lanes), dtype.itemsize
        if mask is None or lanes == 1:
            raw = self.new(f"load {kind}, ptr {pointer}, align {size}")
        else:
            raw = self.call(
                kind, f"llvm.masked.load.{suffix(element, lanes)}.p0", ("ptr", pointer),
                ("i32", str(size)), (f"<{lanes} x i1>", mask), (kind, "zeroinitializer"),
            )  # fmt: skip
        return self.widened(raw, dtype, lanes)

    def load_every(self, base: str, start: str, step: int, dtype: DType, lanes: int) -> str:
        """Every `step`-th element, also backwards."""
        first = self.plus(start, str(step * (lanes - 1))) if step < 0 else start
        places = [abs(step) * (lanes - 1 - i if step < 0 else i) for i in range(lanes)]
        return self.load_places(base, first, places, dtype, lanes)

    def load_places(
        self, base: str, start: str, places: list[int], dtype: DType, lanes: int
    ) -> str:
        """Elements some places behind `start`: whole vectors, of which lanes are picked.

        Nothing before the first place and behind the last is read. Lanes without a place, at the
        end, get what the one before them gets.
        """
        element, size = memory_type(dtype), dtype.itemsize
        kind, bits = vector(element, lanes), f"<{lanes} x i1>"
        wanted = places + places[-1:] * (lanes - len(places))
        low, high = min(places), max(places) + 1
        found = "poison"
        for piece in range(low, high, lanes):
            begin = max(low, min(piece, high - lanes))
            pointer = self.address(base, self.plus(start, str(begin)), element)
            if high - begin < lanes:
                mask = ", ".join(f"i1 {str(i < high - begin).lower()}" for i in range(lanes))
                part = self.call(
                    kind, f"llvm.masked.load.{suffix(element, lanes)}.p0", ("ptr", pointer),
                    ("i32", str(size)), (bits, f"<{mask}>"), (kind, "zeroinitializer"),
                )  # fmt: skip
            else:
                part = self.new(f"load {kind}, ptr {pointer}, align {size}")
            picked = [
                f"i32 {lanes + at - begin if piece <= at < piece + lanes else i}"
                for i, at in enumerate(wanted)
            ]
            found = self.new(
                f"shufflevector {kind} {found}, {kind} {part}, "
                f"<{lanes} x i32> <{', '.join(picked)}>"
            )
        if kind == "<64 x i8>":
            # LLVM 22 never ends where two vectors that repeat 2 or 4 bytes are compared with zero
            # and the results are joined; so it is not to see that they repeat anything.
            found = self.new(f'call {kind} asm "", "=v,0"({kind} {found})')
        return self.widened(found, dtype, lanes)

    def load_backwards(
        self, base: str, start: str, dtype: DType, lanes: int, mask: str | None
    ) -> str:
        """The element at `start` and those before it."""
        turned = f"<{lanes} x i32> <{', '.join(f'i32 {lanes - 1 - i}' for i in range(lanes))}>"
        if mask is not None:
            bits = vector("i1", lanes)
            mask = self.new(f"shufflevector {bits} {mask}, {bits} poison, {turned}")
        first = self.plus(start, str(1 - lanes))
        found = self.load(self.address(base, first, memory_type(dtype)), dtype, lanes, mask)
        kind = vector(register_type(dtype), lanes)
        return self.new(f"shufflevector {kind} {found}, {kind} poison, {turned}")

    def load_at(self, base: str, indices: str, dtype: DType, lanes: int, mask: str | None) -> str:
        """Elements at a vector of i64 positions."""
        element = memory_type(dtype)
        kind = vector(element, lanes)
        places = self.new(
            f"getelementptr inbounds {element}, ptr {base}, <{lanes} x i64> {indices}"
        )
        raw = self.call(
            kind, f"llvm.masked.gather.{suffix(element, lanes)}.v{lanes}p0",
            (f"<{lanes} x ptr>", places), ("i32", str(dtype.itemsize)),
            (f"<{lanes} x i1>", mask or "splat (i1 true)"), (kind, "zeroinitializer"),
        )  # fmt: skip
        return self.widened(raw, dtype, lanes)

    def store(
        self, pointer: str, value: str, dtype: DType, lanes: int, mask: str | None,
        is_streamed: bool = False,
    ) -> None:  # fmt: skip
        """A vector to memory; with `is_streamed` past the caches, of which it fills a line."""
        element = memory_type(dtype)
        kind, size = vector(element, lanes), dtype.itemsize * (lanes if is_streamed else 1)
        note = ", !nontemporal !{i32 1}" if is_streamed else ""
        raw = self.narrowed(value, dtype, lanes)
        if mask is None or lanes == 1:
            self.put(f"store {kind} {raw}, ptr {pointer}, align {size}{note}")
        else:
            if dtype not in (dtypes.float32, dtypes.float64):
                mask = self.hidden(mask, lanes)
            self.call(
                "void", f"llvm.masked.store.{suffix(element, lanes)}.p0", (kind, raw),
                ("ptr", pointer), ("i32", str(size)), (f"<{lanes} x i1>", mask), note=note,
            )  # fmt: skip

    def store_at(
        self, base: str, indices: str, value: str, dtype: DType, lanes: int, mask: str | None
    ) -> None:
        element = memory_type(dtype)
        kind = vector(element, lanes)
        places = self.new(
            f"getelementptr inbounds {element}, ptr {base}, <{lanes} x i64> {indices}"
        )
        raw = self.narrowed(value, dtype, lanes)
        self.call(
            "void", f"llvm.masked.scatter.{suffix(element, lanes)}.v{lanes}p0", (kind, raw),
            (f"<{lanes} x ptr>", places), ("i32", str(dtype.itemsize)),
            (f"<{lanes} x i1>", mask or "splat (i1 true)"),
        )  # fmt: skip

    def widened(self, raw: str, dtype: DType, lanes: int) -> str:
        """From the type in memory to the one in registers."""
        if dtype == dtypes.bool_:
            return self.new(f"icmp ne {vector('i8', lanes)} {raw}, {self.zero('i8', lanes)}")
        if dtype == dtypes.bfloat16:
            wide = self.new(f"zext {vector('i16', lanes)} {raw} to {vector('i32', lanes)}")
            upper = self.new(f"shl {vector('i32', lanes)} {wide}, {self.integer(16, lanes)}")
            return self.new(f"bitcast {vector('i32', lanes)} {upper} to {vector('float', lanes)}")
        if dtype == dtypes.float16:
            kind = vector(memory_type(dtype), lanes)
            return self.new(f"fpext {kind} {raw} to {vector('float', lanes)}")
        return raw

    def integer(self, number: int, lanes: int) -> str:
        """An i32 in all lanes."""
        return str(number) if lanes == 1 else f"splat (i32 {number})"

    def bfloat_bits(self, value: str, lanes: int) -> str:
        """The float rounded to bfloat16, as the upper half of an i32: nearest, ties to even."""
        kind = vector("i32", lanes)
        bits = self.new(f"bitcast {vector('float', lanes)} {value} to {kind}")
        last = self.new(f"lshr {kind} {bits}, {self.integer(16, lanes)}")
        odd = self.new(f"and {kind} {last}, {self.integer(1, lanes)}")
        up = self.new(f"add {kind} {odd}, {self.integer(0x7FFF, lanes)}")
        near = self.new(f"add {kind} {bits}, {up}")
        nan = self.new(f"fcmp uno {vector('float', lanes)} {value}, {value}")
        quiet = self.new(f"or {kind} {bits}, {self.integer(0x400000, lanes)}")
        found = self.new(f"select {vector('i1', lanes)} {nan}, {kind} {quiet}, {kind} {near}")
        return self.new(f"and {kind} {found}, {self.integer(-65536, lanes)}")

    def narrowed(self, value: str, dtype: DType, lanes: int) -> str:
        """From the type in registers, in which halves are rounded already, to the one in memory."""
        if dtype == dtypes.bool_:
            return self.new(f"zext {vector('i1', lanes)} {value} to {vector('i8', lanes)}")
        if dtype == dtypes.bfloat16:
            kind = vector("i32", lanes)
            bits = self.new(f"bitcast {vector('float', lanes)} {value} to {kind}")
            low = self.new(f"lshr {kind} {bits}, {self.integer(16, lanes)}")
            return self.new(f"trunc {kind} {low} to {vector('i16', lanes)}")
        if dtype == dtypes.float16:
            kind = vector(memory_type(dtype), lanes)
            return self.new(f"fptrunc {vector('float', lanes)} {value} to {kind}")
        return value

    def hidden(self, mask: str, lanes: int) -> str:
        """The mask, of which LLVM cannot see that it is constant.

        LLVM 22 turns a narrowing masked store of one known lane into a store of the wide element,
        which writes behind the end.
        """
        bits = self.new(f"bitcast <{lanes} x i1> {mask} to i{lanes}")
        wide = bits if lanes == 64 else self.new(f"zext i{lanes} {bits} to i64")
        same = self.new(f'call i64 asm "", "=r,0"(i64 {wide})')
        narrow = same if lanes == 64 else self.new(f"trunc i64 {same} to i{lanes}")
        return self.new(f"bitcast i{lanes} {narrow} to <{lanes} x i1>")

    def zero(self, element: str, lanes: int) -> str:
        if lanes > 1:
            return "zeroinitializer"
        return "0.0" if element in ("float", "double") else "0"

    def definition(self, signature: str) -> str:
        """The finished function, without what it needs beside it."""
        return "\n".join([f"{signature} {{\nentry:", *self.entry, *self.lines, "}", ""])

    def function(self, signature: str) -> str:
        """The finished function, with what it needs beside it."""
        body = "\n".join(self.lines)
        parts = [*sorted(self.declared)]
        for symbol, text in self.defined.items():
            often = body.count(f"{symbol}(") > _INLINED
            parts.append(text.replace(" alwaysinline", " noinline", 1) if often else text)
        return "\n".join([*parts, self.definition(signature)])


def together(texts: Iterable[str]) -> str:
    """Texts as one, in which what several of them declare, or define beside their functions, is
    there once.
    """
    kept: list[str] = []
    seen: set[str] = set()
    skips = False
    for line in "\n".join(texts).splitlines():
        if line.startswith(("declare ", "define ")):
            symbol = line[line.index("@") : line.index("(", line.index("@"))]
            skips = symbol in seen
            seen.add(symbol)
        if not skips:
            kept.append(line)
        if line == "}" or line.startswith("declare "):
            skips = False
    return "\n".join([*kept, ""])
