"""Printing what is done with the vectors of a matrix product, the hole of its template."""

from __future__ import annotations

from schuss.compiler.cpu.elementwise import TABLE, number
from schuss.compiler.cpu.host import host
from schuss.compiler.cpu.printer import Printer
from schuss.compiler.cpu.text import memory_type, register_type, together, vector
from schuss.compiler.index import Affine
from schuss.compiler.kernel import Kernel, Line, Store
from schuss.dtypes import DType

LINE = 64  # bytes of a line of the caches
SUMS = "%block_sums"  # the type of what an epilogue sums up over blocks of rows


def is_partial(kernel: Kernel, store: Store) -> bool:
    """Whether a store is that of a number of a block of rows."""
    return kernel.lines[store.line].op.startswith("partial.")


class Epilogue(Printer):
    """What is done with the vectors of a matrix product: runs of batch, row and column loops.

    `in_lines`: each vector begins a whole number of vectors behind the beginning of its row.

    Where something is summed up over blocks of rows (partial_sums.py), the function has two more
    arguments: whether this is the first row of a block, and where the sums for these columns are,
    to which it is added. Between some rows of a block and others they are in memory:

        define internal void @NAME_load(ptr %args, i64 %n, i64 %count, i64 %block, ptr %sums,
                                        i1 %first) alwaysinline
        define internal void @NAME_store(ptr %args, i64 %n, i64 %count, i64 %block, ptr %sums)
            alwaysinline
    """

    def __init__(
        self, kernel: Kernel, name: str, lanes: int, words: int, accumulator: DType, in_lines: bool
    ) -> None:
        super().__init__(kernel, name, lanes)
        self.words = words
        self.accumulator = accumulator
        self.in_lines = in_lines
        ordered = sorted(kernel.stores, key=lambda store: store.line)
        self.partial = [each for each in ordered if is_partial(kernel, each)]
        self.whole = [each for each in kernel.stores if not is_partial(kernel, each)]

    def print(self) -> str:
        t, kernel = self.t, self.kernel
        self.load_words(first=self.words)
        self.decode("%batch", range(kernel.outer))
        self.decode("%m", range(kernel.outer, kernel.outer + kernel.reduced))
        self.at[self.vector_axis] = "%n"
        for i, line in enumerate(kernel.lines):
            if line.op == "given":
                self.set(i, self.lanes, self._given(line))
        with self.masked(t.mask("%count", self.lanes)):
            for i, store in enumerate(self.partial):
                self._add_up(i, store)
            self.store_all(self.whole, self.lanes)
        t.put("ret void")
        element = register_type(self.accumulator)
        more = ", i1 %first, ptr %sums" if self.partial else ""
        text = t.function(
            f"define internal void @{self.name}(ptr %args, i64 %batch, i64 %m, i64 %n, "
            f"<{self.lanes} x {element}> %value, i64 %count{more}) alwaysinline"
        )
        if not self.partial:
            return text
        kinds = ", ".join(self.kind_of(store) for store in self.partial)
        moves = [Sums(self, loads).print() for loads in (True, False)]
        return together([f"{SUMS} = type {{{kinds}}}", text, *moves])

    def lanes_of(self, store: Store) -> int:
        return self.lanes if self.along_vector(store.line) else 1

    def kind_of(self, store: Store) -> str:
        return vector(register_type(store.dtype), self.lanes_of(store))

    def _add_up(self, i: int, store: Store) -> None:
        """Add a row to one of the sums of a block, or remember what stands in its first one."""
        t, line, lanes = self.t, self.kernel.lines[store.line], self.lanes_of(store)
        value = self.line(line.inputs[0], lanes)
        place = t.new(f"getelementptr {SUMS}, ptr %sums, i32 0, i32 {i}")
        before = t.new(f"load {self.kind_of(store)}, ptr {place}")
        if line.op == "partial.first":
            kind = self.kind_of(store)
            value = t.new(f"select i1 %first, {kind} {value}, {kind} {before}")
        else:
            value = TABLE["add"](t, [before, value], [line.dtype] * 2, line.dtype, lanes)
        t.put(f"store {self.kind_of(store)} {value}, ptr {place}")
        self.set(store.line, lanes, value)

    def store(self, word: int, affine: Affine, value: str, dtype: DType, lanes: int) -> None:
        """A masked store of narrow numbers is a slow one: most vectors are whole."""
        if dtype.itemsize >= 4:
            super().store(word, affine, value, dtype, lanes)
            return
        whole = self.t.new(f"icmp eq i64 %count, {lanes}")
        with self.t.when(whole), self.masked(None):
            super().store(word, affine, value, dtype, lanes)
        with self.t.when(self.t.new(f"xor i1 {whole}, true")):
            super().store(word, affine, value, dtype, lanes)

    def is_streamed(self, word: int, affine: Affine, lanes: int) -> bool:
        """Past the caches go vectors that fill a line each.

        A thread that ends its part makes such stores seen by all: it changes a word with a locked
        instruction.
        """
        memory = self.kernel.buffers[word]
        is_line = self.in_lines and lanes * memory.dtype.itemsize == LINE and host().is_x86
        steps = [*affine[: self.vector_axis], affine[-1]]
        return memory.is_streamed and is_line and all(step % lanes == 0 for step in steps)

    def _given(self, line: Line) -> str:
        """The sum in the dtype of the product: small integers are added up in wider ones."""
        if register_type(line.dtype) == register_type(self.accumulator):
            return self.as_stored(line, "%value", self.lanes)
        row = TABLE["astype"]
        return row(self.t, ["%value"], [self.accumulator], line.dtype, self.lanes)


class Sums(Printer):
    """Moves the sums of a block: from memory to where an epilogue finds them, or back."""

    def __init__(self, of: Epilogue, loads: bool) -> None:
        super().__init__(of.kernel, f"{of.name}_{'load' if loads else 'store'}", of.lanes)
        self.of, self.loads = of, loads

    def print(self) -> str:
        t, of = self.t, self.of
        self.load_words(first=of.words)
        self.at = dict.fromkeys(range(self.vector_axis), "0") | {self.vector_axis: "%n"}
        for i, store in enumerate(of.partial):
            self.pointers[store.word] = t.address(
                self.pointers[store.word],
                t.times("%block", self.kernel.buffers[store.word].shape[-1]),
                memory_type(store.dtype),
            )
            here = t.new(f"getelementptr {SUMS}, ptr %sums, i32 0, i32 {i}")
            lanes = of.lanes_of(store)
            if lanes > 1:
                with self.masked(t.mask("%count", lanes)):
                    self._move(store, here, lanes)
                continue
            with t.when(t.new("icmp eq i64 %n, 0")):  # the same for all columns: one vector has it
                self._move(store, here, 1)
        t.put("ret void")
        more = ", i1 %first" if self.loads else ""
        return t.function(
            f"define internal void @{self.name}(ptr %args, i64 %n, i64 %count, i64 %block, "
            f"ptr %sums{more}) alwaysinline"
        )

    def _move(self, store: Store, here: str, lanes: int) -> None:
        t, kind = self.t, self.of.kind_of(store)
        if not self.loads:
            value = t.new(f"load {kind}, ptr {here}")
            self.store(store.word, store.affine, value, store.dtype, lanes)
            return
        value = self.load(store.word, store.affine, store.dtype, lanes)
        zero = number(0, store.dtype, lanes)
        value = t.new(f"select i1 %first, {kind} {zero}, {kind} {value}")
        t.put(f"store {kind} {value}, ptr {here}")


class Prologue(Printer):
    """A vector of an operand that is computed as it is read: the text of

    define internal <L x T> @NAME(ptr %args, i64 %m, i64 %n) alwaysinline

    for row m from column n on. T is what a register holds; all columns are there.
    """

    def __init__(self, kernel: Kernel, name: str, lanes: int, words: int) -> None:
        super().__init__(kernel, name, lanes)
        self.words = words

    def print(self) -> str:
        kernel = self.kernel
        self.load_words(first=self.words)
        self.decode("%m", range(kernel.outer, kernel.outer + kernel.reduced))
        self.at[self.vector_axis] = "%n"
        (store,) = kernel.stores
        value, kind = self.line(store.line, self.lanes), register_type(store.dtype)
        self.t.put(f"ret {vector(kind, self.lanes)} {value}")
        return self.t.function(
            f"define internal {vector(kind, self.lanes)} @{self.name}(ptr %args, i64 %m, i64 %n) "
            "alwaysinline"
        )


class Ahead(Printer):
    """What an epilogue is going to read, asked for while the sums are still being formed.

    With `writes` also what it is going to write: lines of a cache come before they are written to.
    """

    def __init__(
        self, kernel: Kernel, name: str, lanes: int, words: int, writes: bool = False
    ) -> None:
        super().__init__(kernel, name, lanes)
        self.words = words
        self.writes = writes

    def print(self) -> str:
        """The text of a function; '' where all that it would ask for is shared by rows."""
        kernel = self.kernel
        places: list[tuple[str, int, Affine, DType]] = [
            ("0", *line.detail, line.dtype)  # type: ignore[misc]
            for line in kernel.lines
            if line.op == "load"
        ]
        if self.writes:
            places += [("1", each.word, each.affine, each.dtype) for each in kernel.stores]
        places = [each for each in places if self._differs_by_row(each[2])]
        if not places:
            return ""
        self.load_words(first=self.words)
        self.decode("%batch", range(kernel.outer))
        self.decode("%m", range(kernel.outer, kernel.outer + kernel.reduced))
        self.at[self.vector_axis] = "%n"
        second_level, data = ("i32", "2"), ("i32", "1")
        for writes, word, affine, dtype in places:
            pointer = self.t.address(self.pointers[word], self.offset(affine), memory_type(dtype))
            intent = "i32", writes
            self.t.call("void", "llvm.prefetch.p0", ("ptr", pointer), intent, second_level, data)
        self.t.put("ret void")
        return self.t.function(
            f"define internal void @{self.name}(ptr %args, i64 %batch, i64 %m, i64 %n) alwaysinline"
        )

    def _differs_by_row(self, affine: Affine) -> bool:
        """Whether an access goes along rows, through memory that is another one in each."""
        along = affine[self.vector_axis] if len(affine) > 1 else 0
        return along == 1 and any(affine[: self.vector_axis])
