"""Micro-kernels of the matrix product for operands whose rows and columns are contiguous along k.

Where few rows of A meet B^T as it is stored, packing B would cost more than the product. These
kernels load vectors along k of both operands, hold up to `lanes` vectors of sums in registers, and
in the end add up each of them across its lanes, all together.
"""

from __future__ import annotations

from dataclasses import dataclass

from schuss.compiler.cpu.matmul_elements import (
    converted,
    declare_masked_load,
    load,
    mask_below,
    masked_load,
    size,
)
from schuss.compiler.cpu.matmul_micro import declare_fma, fma, plus
from schuss.compiler.cpu.matmul_pack import shuffle
from schuss.compiler.cpu.matmul_pairs import add_products, declare_add_products, paired
from schuss.compiler.cpu.matmul_text import Function

SIGNATURE = "(ptr, i64, i64, ptr, i64, i64, i64, ptr, i64)"


@dataclass(frozen=True)
class Dot:
    """A kernel for tiles of `rows` x `lanes`; `rows` divides `lanes`.

    `element` is the type of the sums. Where operands have another one, `source`, they are converted
    as they are read or, with `pairs`, multiplied two at a time.
    """

    element: str
    lanes: int
    rows: int
    source: str = ""
    pairs: bool = False

    @property
    def name(self) -> str:
        source = f"{self.source}_{'pairs_' if self.pairs else ''}" if self.source else ""
        return f"schuss_matmul_dot_{source}{self.element}{self.lanes}_{self.rows}"

    @property
    def read(self) -> str:
        """The type of the elements of A and B."""
        return self.source or self.element

    @property
    def length(self) -> int:
        """How many elements along k are worked on at a time."""
        return 2 * self.lanes if self.pairs else self.lanes

    @property
    def columns(self) -> int:
        """How many columns are computed at a time. More than four streams from memory that are
        a multiple of a page apart would push each other out of the cache.
        """
        return min(4, self.lanes // self.rows)

    @property
    def vector(self) -> str:
        return f"<{self.lanes} x {self.element}>"


def best_rows(lanes: int, m: int) -> int:
    """Rows of the tiles for a product with m rows: as many as columns at a time, if m has them."""
    return min(1 << (lanes.bit_length() - 1) // 2, 1 << (m - 1).bit_length())


def declaration(dot: Dot) -> str:
    """The line with which a module refers to the kernel."""
    return f"declare void @{dot.name}{SIGNATURE}"


def definition(dot: Dot) -> str:
    """The module of a kernel.

        void name(a, a_row, rows, b, b_column, columns, k, tile, more)

    computes tile[r, j] = sum over k of a[r * a_row + k] * b[j * b_column + k], added to what the
    tile holds already if `more` is not 0. 1 <= rows <= dot.rows and 1 <= columns <= lanes; other
    elements of the tile, which is dense with rows of `lanes`, become anything.
    """
    f = Function(
        f"define void @{dot.name}(ptr noalias readonly %a, i64 %a_row, i64 %rows, "
        "ptr noalias readonly %b, i64 %b_column, i64 %columns, i64 %k, ptr noalias %tile, "
        "i64 %more)"
    )
    adds = f.let("icmp ne i64 %more, 0")
    last_row, last_column = f.sub("%rows", 1), f.sub("%columns", 1)
    a = [f.at(dot.read, "%a", f.mul(f.smaller(r, last_row), "%a_row")) for r in range(dot.rows)]
    full = f.let(f"and i64 %k, {-dot.length}")
    has_rest = f.let(f"icmp ne i64 {full}, %k")
    mask = mask_below(f, dot.length, f.sub("%k", full))
    with f.loop(0, "%columns", dot.columns) as column:
        columns = [f.smaller(f.add(column, q), last_column) for q in range(dot.columns)]
        b = [f.at(dot.read, "%b", f.mul(q, "%b_column")) for q in columns]
        sums = _reduce(f, dot, _dots(f, dot, a, b, full, has_rest, mask))
        for r in range(dot.rows):
            target = f.at(dot.element, "%tile", f.add(column, r * dot.lanes))
            _store_row(f, dot, sums, r, target, adds)
    f.line("ret void")
    return f"{f}\n{_declare_product(dot)}{declare_masked_load(dot.read, dot.length)}"


def _declare_product(dot: Dot) -> str:
    if dot.pairs:
        return declare_add_products(paired(dot.source), dot.lanes)
    return declare_fma(dot.element, dot.lanes)


def _dots(
    f: Function, dot: Dot, a: list[str], b: list[str], full: str, has_rest: str, mask: str
) -> list[str]:
    """Vectors whose elements add up to the product of each of a with each of b."""
    before, name = f.block, f.fresh("k")
    f.line(f"br i1 {has_rest}, label %{name}.rest, label %{name}.head")
    f.label(f"{name}.rest")
    rows, columns = (
        [
            _operand(f, dot, masked_load(f, dot.read, dot.length, f.at(dot.read, x, full), mask))
            for x in each
        ]
        for each in (a, b)
    )
    rest = [f.let(_product(f, dot, x, y, "zeroinitializer")) for x in rows for y in columns]
    f.line(f"br label %{name}.head")
    f.label(f"{name}.head")
    f.line(f"%{name} = phi i64 [0, %{before}], [0, %{name}.rest], [%{name}.next, %{name}.body]")
    sums = [f"%{name}.sum{i}" for i in range(len(rest))]
    for value, first in zip(sums, rest, strict=True):
        f.line(
            f"{value} = phi {dot.vector} [zeroinitializer, %{before}], [{first}, %{name}.rest], "
            f"[{value}.next, %{name}.body]"
        )
    f.line(f"%{name}.more = icmp slt i64 %{name}, {full}")
    f.line(f"br i1 %{name}.more, label %{name}.body, label %{name}.end")
    f.label(f"{name}.body")
    rows, columns = (
        [
            _operand(f, dot, load(f, dot.read, dot.length, f.at(dot.read, x, f"%{name}")))
            for x in each
        ]
        for each in (a, b)
    )
    pairs = [(x, y) for x in rows for y in columns]
    for value, (x, y) in zip(sums, pairs, strict=True):
        f.line(f"{value}.next = {_product(f, dot, x, y, value)}")
    f.line(f"%{name}.next = add i64 %{name}, {dot.length}")
    f.line(f"br label %{name}.head")
    f.label(f"{name}.end")
    return sums


def _operand(f: Function, dot: Dot, value: str) -> str:
    """A vector as loaded, as the product takes it."""
    if dot.source == "bfloat" and dot.pairs:
        return f.let(f"bitcast <{dot.length} x i16> {value} to <{dot.length} x bfloat>")
    element = paired(dot.source) if dot.pairs else dot.element
    return converted(f, dot.read, element, dot.length, value, dot.lanes > 4)


def _product(f: Function, dot: Dot, x: str, y: str, z: str) -> str:
    if dot.pairs:
        return add_products(f, paired(dot.source), dot.lanes, x, y, z)
    return fma(f, dot.element, dot.lanes, x, y, z)


def _reduce(f: Function, dot: Dot, values: list[str]) -> str:
    """A vector that starts with the sums over the elements of each of some vectors.

    A round halves the vectors: both halves of two vectors are added, and interleaved. The round in
    which a vector comes second adds a bit to the place of its sum, the first round the highest.
    When one vector is left, its halves are added until there is one element for each sum.
    """
    lanes, half, places = dot.lanes, dot.lanes // 2, len(values)
    low, high = (
        [x for i in range(start, start + half) for x in (i, lanes + i)] for start in (0, half)
    )

    def add_shuffled(x: str, y: str, *orders: list[int]) -> str:
        one, other = (shuffle(f, dot.element, (x, y), lanes, order) for order in orders)
        return f.let(f"{plus(dot.element)} {dot.vector} {one}, {other}")

    while len(values) > 1:
        pairs = zip(values[: len(values) // 2], values[len(values) // 2 :], strict=True)
        values = [add_shuffled(x, y, low, high) for x, y in pairs]
    total = values[0]
    while half >= places:
        folded = [(i + half) % lanes for i in range(lanes)]
        total = add_shuffled(total, total, list(range(lanes)), folded)
        half //= 2
    return total


def _store_row(f: Function, dot: Dot, sums: str, r: int, target: str, adds: str) -> None:
    """Store the sums of a row, or add them to what is there."""
    kind = f"<{dot.columns} x {dot.element}>"
    places = range(r * dot.columns, (r + 1) * dot.columns)
    value = shuffle(f, dot.element, (sums, "poison"), dot.lanes, places)
    old = f.let(f"load {kind}, ptr {target}, align {size(dot.element)}")
    old = f.choose(adds, kind, old, "zeroinitializer")
    value = f.let(f"{plus(dot.element)} {kind} {old}, {value}")
    f.line(f"store {kind} {value}, ptr {target}, align {size(dot.element)}")
