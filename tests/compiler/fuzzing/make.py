"""Random graphs: lines are tried as they are made, so whatever shapes allow comes up.

A line that raises is not taken, nor (mostly) one whose values run out of bounds.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import schuss
from schuss import dtypes
from schuss.execution import tiers
from schuss.functions.arguments import adopt

from .program import NAMES, Program, made_by, names_in

Shape = tuple[int, ...]

_SIZES = [1, 1, 2, 2, 3, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 40, 64, 65, 100]
_FLOATS = ["float32"] * 6 + ["float64"] * 2 + ["float16", "bfloat16"]
_INTEGERS = ["int64", "int64", "int32", "int32", "int8", "int16", "uint8", "uint16", "uint32",
             "uint64"]  # fmt: skip
_WIDE = [300, 1000, 4097, 30_011, 70_001, 131_072]
_MOST = 20_000  # elements of a value
_BOUND = 1e4


class TooLargeError(Exception):
    """An input that would not be worth its memory."""


class Maker:
    """Grows one program line by line.

    Attributes:
        env: the variables so far, with their values.
    """

    def __init__(self, seed: int, steps: int | None = None) -> None:
        self.random = random.Random(seed)
        self.env: dict[str, Any] = {}
        self.inputs: dict[str, str] = {}
        self.lines: list[str] = []
        self.leaves: list[str] = []
        self.sizes = [self.random.choice(_SIZES) for _ in range(3)]
        if self.random.random() < 0.04:
            self.sizes[0] = 0
        self.steps = steps or self.random.choice([2, 4, 6, 8, 12, 20, 40])
        self.most = _MOST
        if self.random.random() < 0.06:  # more elements than one part of a kernel takes
            self.sizes = [self.random.choice(_WIDE), *self.random.sample(_SIZES[:10], 2)]
            self.most, self.steps = 20 * _MOST, min(self.steps, 8)
        self.main = self.random.choice(_FLOATS)
        self.learns = self.random.random() < 0.5
        self.wild = self.random.random() < 0.04  # infinities and NaN welcome

    # --- choices ---

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def pick(self, *kinds: str, least: int = 0, dtype: Any = None) -> str:
        """A variable of one of the kinds (NumPy's letters, V for bfloat16); a new input if none."""
        found = [
            name
            for name, value in self.env.items()
            if (_kind(value) in kinds or not kinds)
            and value.ndim >= least
            and (dtype is None or value.dtype == dtype)
        ]
        if not found or self.chance(0.12):
            shape = self.shape(least)
            return self.input(shape, _letter_dtype(self, kinds) if dtype is None else str(dtype))
        return self.random.choice(found[-4:] if self.chance(0.6) else found)

    def shape(self, least: int = 0) -> Shape:
        rank = self.random.choice([r for r in (0, 1, 1, 2, 2, 2, 3, 3, 4) if r >= least])
        while True:
            shape = tuple(self.random.choice([*self.sizes, 1, 2]) for _ in range(rank))
            if math.prod(shape) <= self.most:
                return shape
            self.sizes = [self.random.choice(_SIZES[:12]) for _ in range(3)]

    def like(self, shape: Shape) -> Shape:
        """A shape that broadcasts with another."""
        cut = self.random.choice([0, 0, 0, 1, 2])
        kept = [1 if self.chance(0.25) else n for n in shape[cut:]]
        if self.chance(0.1) and len(shape) < 4:
            kept = [self.random.choice([2, 3]), *kept]
        return tuple(kept)

    def axes(self, name: str) -> tuple[int, ...]:
        rank = self.env[name].ndim
        count = self.random.randint(0 if self.chance(0.1) else min(1, rank), rank)
        return tuple(sorted(self.random.sample(range(rank), count)))

    # --- inputs ---

    def input(self, shape: Shape, dtype: str | None = None) -> str:
        if math.prod(shape) > 4 * self.most:
            raise TooLargeError(shape)
        name = f"x{len(self.inputs)}"
        text = input_text(self.random, len(self.inputs), shape, dtype or self.main, self.wild)
        rng = lambda n: np.random.default_rng((n, 0))
        array = np.asarray(eval(text, {"rng": rng, "np": np, "schuss": schuss}))
        assert array.shape == tuple(shape), (text, array.shape, shape)
        self.inputs[name] = text
        self.env[name] = adopt(array)
        if self.learns and dtypes.is_floating(array.dtype) and self.chance(0.6):
            # Before everything else: earlier lines would not lead to it otherwise.
            self.lines.insert(0, f"{name}.requires_grad = True")
            self.env[name].requires_grad = True
            self.leaves.append(name)
        return name

    def partner(self, name: str) -> str:
        """Something to combine with a variable: itself, another, a number, a new input."""
        value = self.env[name]
        if self.chance(0.1):
            return name
        if self.chance(0.2):
            return self.number(value.dtype)
        shapes = [
            each for each, other in self.env.items()
            if _broadcasts(value.shape, other.shape)
            and (_kind(other) in "fV") == (_kind(value) in "fV")
            and (_kind(other) == "b") == (_kind(value) == "b")
        ]  # fmt: skip
        if shapes and self.chance(0.75):
            return self.random.choice(shapes)
        return self.input(self.like(value.shape), str(value.dtype))

    def number(self, dtype: Any) -> str:
        if _letter(dtype) == "b":
            return self.random.choice(["True", "False"])
        if _letter(dtype) in "iu":
            return str(self.random.choice([0, 1, 2, 3, 5, 7]))
        return self.random.choice(["0", "1", "2", "-1", "0.5", "0.1", "-0.3", "1.5", "3", "10"])

    # --- growing ---

    def try_line(self, text: str) -> bool:
        """Run a line; take it if it works and its values stay in bounds."""
        before = dict(self.env)
        try:
            with tiers.using("reference"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                space = {**NAMES, **self.env}
                exec(text, space)
                made = {name: space[name] for name in {*before, *made_by(text)}}
                touched = [v for n, v in made.items() if v is not before.get(n) or n in text]
                good = all(self.in_bounds(value) for value in touched)
        except Exception:
            return False
        if not good:
            return False
        self.lines.append(text)
        self.env.update(made)
        return True

    def in_bounds(self, value: Any) -> bool:
        if not isinstance(value, schuss.Tensor) or value.size > 4 * self.most:
            return False
        array = value.numpy()
        if not dtypes.is_inexact(value.dtype) or not array.size:
            return True
        wide = np.abs(array.astype(np.complex128))
        if self.wild:
            return True
        bound = 300 if value.dtype in dtypes.HALF else _BOUND
        return bool(np.isfinite(wide).all() and wide.max() < bound)

    def fresh(self) -> str:
        return f"v{sum(1 for name in self.env if name[0] == 'v') + len(self.lines)}"

    def grow(self) -> Program:
        """The program: some inputs, then lines, then what it returns."""
        self.input(self.shape(self.random.choice([0, 1, 2, 2])))
        if self.chance(0.5):
            self.pick("f", "V")
        tries = 0
        made = 0
        while made < self.steps and tries < 12 * self.steps:
            tries += 1
            step = self.random.choices(_STEPS, _WEIGHTS)[0]
            try:
                text = step(self)
            except TooLargeError:
                continue
            if text is not None and self.try_line(text):
                made += 1
        if self.leaves and self.chance(0.6):
            text = differentiate(self)
            if text is not None:
                self.try_line(text)
        return self.finished()

    def used(self, name: str) -> bool:
        """Whether a line has a variable on its right side."""
        return any(name in names_in(line.partition(" = ")[2]) for line in self.lines)

    def finished(self) -> Program:
        variables = [name for name in self.env if name[0] == "v"] or list(self.env)
        count = min(len(variables), self.random.choice([0, 0, 1, 2, 3]))
        outputs = {variables[-1], *self.random.sample(variables, count)}
        if self.chance(0.7):  # whatever no other line needs
            ends = [name for name in variables if not self.used(name)]
            outputs.update(self.random.sample(ends, min(len(ends), 8)))
        return Program(
            dict(self.inputs), tuple(self.lines), tuple(sorted(outputs, key=_by_number)),
            together=self.chance(0.7), guarded=self.chance(0.3),
            tier="auto" if self.chance(0.15) else "compiled",
        )  # fmt: skip


def _by_number(name: str) -> tuple[str, int]:
    return name[0], int(name[1:])


def _letter(dtype: Any) -> str:
    return "f" if dtypes.is_floating(dtype) else dtype.kind


def _kind(value: Any) -> str:
    return _letter(value.dtype)


def _letter_dtype(maker: Maker, kinds: tuple[str, ...]) -> str:
    kind = maker.random.choice(kinds or ("f",))
    if kind == "b":
        return "bool"
    if kind in "iu":
        return maker.random.choice(_INTEGERS)
    return maker.main if maker.chance(0.8) else maker.random.choice(_FLOATS)


def _broadcasts(a: Shape, b: Shape) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(a[::-1], b[::-1], strict=False))


def input_text(
    rng: random.Random, number: int, shape: Shape, dtype: str, wild: bool = False
) -> str:
    """An expression for an array of random numbers, dense or laid out in an odd way."""
    layout, stored = rng.random(), tuple(shape)
    suffix = ""
    if shape and layout < 0.05:
        stored, suffix = (*shape[:-1], 2 * shape[-1]), "[..., ::2]"
    elif shape and layout < 0.10:
        stored, suffix = tuple(reversed(shape)), ".T"
    elif shape and layout < 0.14:
        suffix = "[::-1]"
    elif shape and layout < 0.18:
        stored, suffix = (shape[0] + 1, *shape[1:]), "[1:]"
    elif shape and layout < 0.21:
        stored = (1, *shape[1:])
    if wild and dtype not in ("bool", *_INTEGERS) and rng.random() < 0.5:
        special = "[0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 1e-3, 700.0]"
        made = f"rng({number}).choice({special}, {stored})"
    elif dtype == "bool":
        made = f"rng({number}).random({stored}) < 0.5"
    elif dtype.startswith("complex"):
        made = f"rng({number}).standard_normal({stored}) * (1 + 0.5j)"
    elif "int" in dtype:
        low = 0 if dtype[0] == "u" or rng.random() < 0.3 else -4
        made = f"rng({number}).integers({low}, 7, {stored})"
    else:
        made = rng.choice([
            f"rng({number}).standard_normal({stored})",
            f"rng({number}).standard_normal({stored})",
            f"rng({number}).uniform(0.2, 2.0, {stored})",
            f"rng({number}).uniform(-0.9, 0.9, {stored})",
            f"rng({number}).integers(-2, 3, {stored})",
        ])  # fmt: skip
    text = f"np.asarray({made}).astype(schuss.{dtype}){suffix}"
    if shape and 0.18 <= layout < 0.21:
        return f"np.broadcast_to({text}, {tuple(shape)})"
    return text


from . import compositions, images, movement  # noqa: E402, F401  # each adds to STEPS
from .compositions import differentiate  # noqa: E402
from .steps import STEPS  # noqa: E402

_STEPS: list[Callable[[Maker], str | None]] = [step for step, _ in STEPS]
_WEIGHTS: list[float] = [weight for _, weight in STEPS]
