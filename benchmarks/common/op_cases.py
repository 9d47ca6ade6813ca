"""The single ops: their inputs, and what is computed, written once against `op_sides.Side`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        name: for the table and `--only`; its first word is the group.
        shapes: of the inputs, which are normal numbers; an (n, shape) pair makes integers below n.
        run: `run(side, *inputs) -> result`.
        multiply_adds: of contractions.
        dtype: of the normal numbers; integers are from -100 to 99.
    """

    name: str
    shapes: tuple[Any, ...]
    run: Callable[..., Any]
    multiply_adds: int = 0
    dtype: str = "float32"

    @property
    def group(self) -> str:
        return self.name.split(",")[0]

    def inputs(self) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        made = []
        for each in self.shapes:
            if len(each) == 2 and isinstance(each[1], tuple):
                made.append(rng.integers(0, each[0], each[1]))
            elif "int" in self.dtype:
                made.append(rng.integers(-100, 100, each).astype(self.dtype))
            else:
                made.append(rng.standard_normal(each, np.float32).astype(self.dtype))
        return made


def _matmuls() -> list[Case]:
    sizes = [(n, n, n) for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)]
    sizes += [  # skinny ones: (rows, inner, columns)
        (1, 1024, 1024),
        (1024, 1024, 1),
        (1, 65536, 1),
        (2, 1024, 1024),
        (8, 4096, 1024),
        (1024, 8, 1024),
        (16, 65536, 16),
        (256, 784, 256),
        (256, 256, 10),
        (2048, 256, 65),
        (100, 100, 100),
        (1000, 1000, 1000),
        (2047, 33, 129),
    ]
    cases = [
        Case(f"matmul, {m} x {k} x {n}", ((m, k), (k, n)), lambda s, a, b: a @ b, m * k * n)
        for m, k, n in sizes
    ]
    n = 1024
    return [
        *cases,
        Case("matmul, 1024, left transposed", ((n, n), (n, n)), lambda s, a, b: a.T @ b, n**3),
        Case("matmul, 1024, right transposed", ((n, n), (n, n)), lambda s, a, b: a @ b.T, n**3),
        Case(
            "matmul, 128 of 128 x 32 x 128",
            ((128, 128, 32), (128, 32, 128)),
            lambda s, a, b: a @ b,
            128 * 128 * 32 * 128,
        ),
        Case(
            "matmul, 4096 of 8 x 8 x 8",
            ((4096, 8, 8), (4096, 8, 8)),
            lambda s, a, b: a @ b,
            4096 * 8**3,
        ),
    ]


def _elementwise() -> list[Case]:
    cases = []
    for n in (1, 10, 1000, 100_000, 10_000_000):
        cases += [
            Case(f"elementwise, x + y, {n:,}", ((n,), (n,)), lambda s, x, y: x + y),
            Case(
                f"elementwise, chain of eight, {n:,}",
                ((n,), (n,)),
                lambda s, x, y: ((x * y + 1.0) * 0.5 - y) * x + (x - y) * 2.0,
            ),
        ]
    n, shape = 1_000_000, (1_000_000,)
    for name in ("exp", "tanh", "sigmoid", "gelu", "relu"):
        run = lambda s, x, name=name: getattr(s, name)(x)
        cases.append(Case(f"elementwise, {name}, {n:,}", (shape,), run))
    square = (1024, 1024)
    return [
        *cases,
        Case("elementwise, x + row, 1024 x 1024", (square, (1024,)), lambda s, x, y: x + y),
        Case("elementwise, x + column, 1024 x 1024", (square, (1024, 1)), lambda s, x, y: x + y),
        Case("elementwise, row + column, 1024 x 1024", ((1024,), (1024, 1)), lambda s, x, y: x + y),
        Case("elementwise, where, 1024 x 1024", (square, square), lambda s, x, y: s.where(x, y)),
    ]


def _reductions() -> list[Case]:
    table = (4096, 1024)
    images = (32, 64, 32, 32)
    return [
        *[
            Case(f"reduction, sum of {n:,}", ((n,),), lambda s, x: s.sum(x, None))
            for n in (10, 10_000, 1_000_000, 20_000_000)
        ],
        Case("reduction, sum of columns, 4096 x 1024", (table,), lambda s, x: s.sum(x, 0)),
        Case("reduction, sum of rows, 4096 x 1024", (table,), lambda s, x: s.sum(x, 1)),
        Case("reduction, sum of tiny rows, 1048576 x 4", ((2**20, 4),), lambda s, x: s.sum(x, 1)),
        Case("reduction, largest of rows, 4096 x 1024", (table,), lambda s, x: s.max(x, 1)),
        Case("reduction, argmax of rows, 4096 x 1024", (table,), lambda s, x: s.argmax(x, 1)),
        Case("reduction, variance of rows, 4096 x 1024", (table,), lambda s, x: s.var(x, 1)),
        Case(
            "reduction, mean of channels, 32 x 64 x 32 x 32",
            (images,),
            lambda s, x: s.channel_means(x),
        ),
        Case(
            "reduction, sum of the middle of 64 x 512 x 64",
            ((64, 512, 64),),
            lambda s, x: s.sum(x, 1),
        ),
        Case("reduction, sum of tall columns, 262144 x 8", ((2**18, 8),), lambda s, x: s.sum(x, 0)),
        Case("reduction, largest of columns, 4096 x 1024", (table,), lambda s, x: s.max(x, 0)),
        Case("reduction, argmax of columns, 4096 x 1024", (table,), lambda s, x: s.argmax(x, 0)),
        Case("reduction, argmax of 1,000,000", ((1_000_000,),), lambda s, x: s.argmax(x, 0)),
        Case(
            "reduction, sum of the transpose's rows, 1024 x 4096",
            (table,),
            lambda s, x: s.sum(x.T, 1),
        ),
        Case("cumulative, sum of 1,000,000", ((1_000_000,),), lambda s, x: s.cumsum(x, 0)),
        Case("cumulative, sum along rows, 4096 x 1024", (table,), lambda s, x: s.cumsum(x, 1)),
        Case("cumulative, sum along columns, 4096 x 1024", (table,), lambda s, x: s.cumsum(x, 0)),
        Case("cumulative, product of 1,000,000", ((1_000_000,),), lambda s, x: s.cumprod(x, 0)),
        *[
            Case(f"softmax, {m} x {n}", ((m, n),), lambda s, x: s.softmax(x))
            for m, n in ((1, 10), (256, 10), (2048, 65), (16384, 128), (256, 1000), (4, 262144))
        ],
        *[
            Case(f"layer norm, {m} x {n}", ((m, n), (n,), (n,)), lambda s, *a: s.layer_norm(*a))
            for m, n in ((1, 256), (2048, 256), (256, 4096))
        ],
        Case(
            "layer norm, 2048 x 256, with gradient",
            ((2048, 256), (256,), (256,), (2048, 256)),
            lambda s, x, w, b, g: s.gradient(lambda each: s.layer_norm(each, w, b), x, g),
        ),
        Case(
            "softmax, 2048 x 65, with gradient",
            ((2048, 65), (2048, 65)),
            lambda s, x, g: s.gradient(s.softmax, x, g),
        ),
    ]


def _attention(batch: int, heads: int, time: int, size: int) -> list[Case]:
    shape = (batch, heads, time, size)
    name = f"attention, causal, {batch} x {heads} x {time} x {size}"
    work = batch * heads * time * (time + 1) * size  # two products over half of the pairs
    return [
        Case(name, (shape,) * 3, lambda s, q, k, v: s.attention(q, k, v), work),
        Case(
            f"{name}, with gradient",
            (shape,) * 4,
            lambda s, q, k, v, g: s.gradient(lambda each: s.attention(each, k, v), q, g),
            3 * work,  # forward, and the two products that lead to q
        ),
    ]


def _ctc(steps: int, samples: int, classes: int, labels: int) -> Case:
    x = (steps, samples, classes)
    return Case(
        f"CTC loss, {steps} x {samples} x {classes}, {labels} labels, with gradient",
        (x, (classes - 1, (samples, labels)), (samples,)),
        lambda s, x, y, g: s.gradient(lambda each: s.ctc_loss(each, y + 1), x, g),
    )


def _moves() -> list[Case]:
    square = (1024, 1024)
    words, table = (2048,), (65, 256)
    return [
        Case("transpose, added to 1024 x 1024", (square, square), lambda s, x, y: x.T + y),
        Case("transpose, added to 4096 x 4096", ((4096,) * 2,) * 2, lambda s, x, y: x.T + y),
        Case(
            "transpose, heads before time, added to 16 x 8 x 128 x 32",
            ((16, 128, 8, 32), (16, 8, 128, 32)),
            lambda s, x, y: s.permute(x, (0, 2, 1, 3)) + y,
        ),
        Case(
            "transpose, channels last, added to 32 x 56 x 56 x 64",
            ((32, 64, 56, 56), (32, 56, 56, 64)),
            lambda s, x, y: s.permute(x, (0, 2, 3, 1)) + y,
        ),
        Case("transpose, added to 1000 x 1000", ((1000,) * 2,) * 2, lambda s, x, y: x.T + y),
        Case(
            "transpose, axes turned round, added to 128 x 96 x 64",
            ((64, 96, 128), (128, 96, 64)),
            lambda s, x, y: s.permute(x, (2, 1, 0)) + y,
        ),
        Case(
            "transpose, reversed, added to 1,000,000",
            ((1_000_000,), (1_000_000,)),
            lambda s, x, y: s.flip(x) + y,
        ),
        Case(
            "transpose, every other of 2,000,000, added",
            ((2_000_000,), (1_000_000,)),
            lambda s, x, y: x[::2] + y,
        ),
        Case("concat, two of 1024 x 512", ((1024, 512),) * 2, lambda s, x, y: s.concat(x, y)),
        Case("embedding, 2048 of 65 x 256", (table, (65, words)), lambda s, t, i: s.rows(t, i)),
        Case(
            "embedding, 2048 of 50000 x 256",
            ((50_000, 256), (50_000, words)),
            lambda s, t, i: s.rows(t, i),
        ),
        *[
            Case(
                f"embedding, 2048 of {n} x 256, with gradient",
                ((n, 256), (n, words), (2048, 256)),
                lambda s, t, i, g: s.gradient(lambda each: s.rows(each, i), t, g),
            )
            for n in (65, 50_000)
        ],
        Case("sort, 1,000,000", ((1_000_000,),), lambda s, x: s.sort(x, 0)),
        Case("sort, rows of 10000 x 100", ((10_000, 100),), lambda s, x: s.sort(x, 1)),
        Case("sort, columns of 100 x 10000", ((100, 10_000),), lambda s, x: s.sort(x, 0)),
        Case("sort, positions of 1,000,000", ((1_000_000,),), lambda s, x: s.argsort(x, 0)),
    ]


def _convolutions() -> list[Case]:
    cases = []
    sizes = [  # images, channels, height and width, outputs, kernel
        (256, 1, 28, 6, 5),
        (32, 3, 32, 64, 3),
        (32, 64, 32, 64, 3),
        (32, 512, 4, 512, 3),
        (1, 64, 56, 64, 3),
        (32, 64, 32, 128, 1),
    ]
    for n, c, h, o, k in sizes:
        work = n * h * h * o * c * k * k
        shapes = ((n, c, h, h), (o, c, k, k))
        name = f"convolution, {n} x {c} x {h} x {h}, {o} of {k} x {k}"
        cases += [
            Case(name, shapes, lambda s, x, w, p=k // 2: s.convolve(x, w, p), work),
            Case(
                f"{name}, with gradient of the weight",
                (*shapes, (n, o, h, h)),
                lambda s, x, w, g, p=k // 2: s.gradient(lambda each: s.convolve(x, each, p), w, g),
                work,  # nobody asks for the convolution itself
            ),
        ]
    images = (32, 64, 32, 32)
    name = "pooling, largest of 2 x 2, 32 x 64 x 32 x 32"
    return [*cases, Case(name, (images,), lambda s, x: s.max_pool(x))]


def _dtypes() -> list[Case]:
    """The same few shapes in other dtypes."""
    cases, n, table = [], 1_000_000, (1024, 1024)
    for dtype in ("float64", "float16", "int8", "uint8", "int16", "int32", "int64"):

        def add(name: str, shapes: tuple[Any, ...], run: Callable[..., Any], dtype=dtype) -> None:
            cases.append(Case(f"dtypes, {dtype}, {name}", shapes, run, dtype=dtype))

        add(f"x + y, {n:,}", ((n,), (n,)), lambda s, x, y: x + y)
        add(f"x * y, {n:,}", ((n,), (n,)), lambda s, x, y: x * y)
        add(f"x < y, {n:,}", ((n,), (n,)), lambda s, x, y: x < y)
        add(f"largest of rows, {table[0]} x {table[1]}", (table,), lambda s, x: s.max(x, 1))
        add(f"largest of columns, {table[0]} x {table[1]}", (table,), lambda s, x: s.max(x, 0))
        add(f"x.T + y, {table[0]} x {table[1]}", (table,) * 2, lambda s, x, y: x.T + y)
    more = [
        ("floor quotient of float32, 1,000,000", "float32", lambda s, x, y: x // y),
        ("remainder of float32, 1,000,000", "float32", lambda s, x, y: x % y),
        ("int8 to float32, 1,000,000", "int8", lambda s, x, y: s.float32(x)),
        ("float32 to int8, 1,000,000", "float32", lambda s, x, y: s.int8(x)),
    ]
    for name, dtype, run in more:
        cases.append(Case(f"dtypes, {name}", ((n,), (n,)), run, dtype=dtype))
    return cases


def _small() -> list[Case]:
    def chain(s: Any, x: Any, y: Any) -> Any:
        for _ in range(10):
            x = x + y
        return x

    return [
        Case("small, ten additions of 4", ((4,), (4,)), chain),
        Case("small, 4 x 4 @ 4 x 4 + 4", ((4, 4), (4, 4), (4,)), lambda s, a, b, c: a @ b + c),
        Case(
            "small, reshape and add, 2 x 6", ((2, 6), (3, 4)), lambda s, x, y: x.reshape(3, 4) + y
        ),
    ]


_ALL = [
    *_matmuls(),
    *_convolutions(),
    *_attention(16, 8, 128, 32),
    *_attention(1, 8, 1024, 64),
    *_reductions(),
    _ctc(50, 8, 30, 10),
    _ctc(150, 16, 30, 30),
    _ctc(400, 16, 500, 40),
    *_elementwise(),
    *_moves(),
    *_dtypes(),
    *_small(),
]
CASES: dict[str, Case] = {case.name: case for case in _ALL}
