"""Algorithms of minimal filtering for kernels of 3 taps, and the text of their transforms.

A filter F(m, 3) computes m outputs from m + 2 inputs d and 3 weights g with m + 2 multiplications,

    y = A^T ((G g) * (B^T d)),

F(m x m, 3 x 3) the same along both axes of an image (S. Winograd, Arithmetic Complexity of
Computations, 1980; A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks, 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from schuss.compiler.cpu.math_values import literal
from schuss.compiler.cpu.matmul_text import Function

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Filter:
    """F(m x m, 3 x 3): the side of a tile of outputs, and the matrices, as rows of coefficients."""

    outputs: int
    b_transposed: Matrix
    g: Matrix
    a_transposed: Matrix

    @property
    def inputs(self) -> int:
        """The side of what a tile of outputs sees."""
        return self.outputs + 2

    @property
    def taps(self) -> int:
        """Multiplications for a tile."""
        return self.inputs**2

    @property
    def a(self) -> Matrix:
        return tuple(zip(*self.a_transposed, strict=True))

    @property
    def g_transposed(self) -> Matrix:
        return tuple(zip(*self.g, strict=True))


def _matrix(text: str) -> Matrix:
    return tuple(tuple(float(Fraction(n)) for n in row.split()) for row in text.split(";"))


# Coefficients are 1, -1 and, for weights, 1/2: errors stay within a few units of the last place of
# the largest terms of a sum.
F2 = Filter(
    2,
    b_transposed=_matrix("1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1"),
    g=_matrix("1 0 0; 1/2 1/2 1/2; 1/2 -1/2 1/2; 0 0 1"),
    a_transposed=_matrix("1 1 1 0; 0 1 -1 -1"),
)
# Larger coefficients make errors some ten times as large: far below the last place of operands of
# half precision, which it is for.
F4 = Filter(
    4,
    b_transposed=_matrix(
        "4 0 -5 0 1 0; 0 -4 -4 1 1 0; 0 4 -4 -1 1 0; 0 -2 -1 2 1 0; 0 2 -1 -2 1 0; 0 4 0 -5 0 1"
    ),
    g=_matrix("1/4 0 0; -1/6 -1/6 -1/6; -1/6 1/6 -1/6; 1/24 1/12 1/6; 1/24 -1/12 1/6; 0 0 1"),
    a_transposed=_matrix("1 1 1 1 1 0; 0 1 -1 2 -2 0; 0 1 1 4 4 0; 0 1 -1 8 -8 1"),
)
FILTERS = {each.outputs: each for each in (F2, F4)}


def both_ways(f: Function, kind: str, matrix: Matrix, d: Sequence[str]) -> list[str]:
    """M d M^T of a square matrix of vectors d of type `kind`, row by row."""
    span = len(matrix[0])
    columns = [_times(f, kind, matrix, d[s::span]) for s in range(span)]
    return [
        value
        for r in range(len(matrix))
        for value in _times(f, kind, matrix, [column[r] for column in columns])
    ]


def _times(f: Function, kind: str, matrix: Matrix, d: Sequence[str]) -> list[str]:
    """M d of vectors. What rows that mirror each other share is computed once."""
    if len(matrix) < len(matrix[0]):
        return _times_wide(f, kind, matrix, d)
    made: list[str] = []
    while len(made) < len(matrix):
        row, *following = matrix[len(made) :]
        halves = [_terms(row[parity::2], d[parity::2]) for parity in (0, 1)]
        if all(halves) and following and following[0] == _mirrored(row):
            even, odd = (_sum(f, kind, half) for half in halves)
            made += [f.let(f"{op} {kind} {even}, {odd}") for op in ("fadd", "fsub")]
        else:
            made.append(_sum(f, kind, _terms(row, d)))
    return made


def _times_wide(f: Function, kind: str, matrix: Matrix, d: Sequence[str]) -> list[str]:
    """The same, for columns that mirror each other."""
    columns = list(zip(*matrix, strict=True))
    terms: list[list[tuple[float, str]]] = [[] for _ in matrix]
    at = 0
    while at < len(columns):
        column = columns[at]
        if columns[at + 1 : at + 2] == [_mirrored(column)] and any(column[1::2]):
            both = [f.let(f"{op} {kind} {d[at]}, {d[at + 1]}") for op in ("fadd", "fsub")]
            values = [both[r % 2] for r in range(len(matrix))]
            at += 2
        else:
            values = [d[at]] * len(matrix)
            at += 1
        for row, each, value in zip(terms, column, values, strict=True):
            row += _terms([each], [value])
    return [_sum(f, kind, row) for row in terms]


def _mirrored(row: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(-c if at % 2 else c for at, c in enumerate(row))


def _terms(row: Sequence[float], d: Sequence[str]) -> list[tuple[float, str]]:
    return [(c, x) for c, x in zip(row, d, strict=True) if c]


def _sum(f: Function, kind: str, terms: list[tuple[float, str]]) -> str:
    """The sum of vectors times coefficients; those with the same coefficient are added first."""
    parts = []
    for size in dict.fromkeys(abs(c) for c, _ in terms):
        same = [(c / size, x) for c, x in terms if abs(c) == size]
        if size == 1:
            parts += same
            continue
        sign = same[0][0]
        value = _sum(f, kind, [(sign * c, x) for c, x in same])
        factor = f"splat (float {literal(sign * size, 'float')})"
        parts.append((1, f.let(f"fmul {kind} {value}, {factor}")))
    parts.sort(key=lambda part: -part[0])
    (first, total), *rest = parts
    if first < 0:
        total = f.let(f"fneg {kind} {total}")
    for c, x in rest:
        total = f.let(f"{'fadd' if c > 0 else 'fsub'} {kind} {total}, {x}")
    return total
