"""Makes a failing program smaller, as long as it fails in the same way."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import schuss
from schuss import dtypes
from schuss.execution import tiers
from schuss.functions.arguments import adopt

from .program import NAMES, Program, made_by, names_in

Fails = Callable[[Program], bool]
_MOST_TRIES = 400
_MOST_SECONDS = 120.0  # networks are slow, and what is found later waits for this


def shrink(program: Program, fails: Fails) -> Program:
    """The smallest program found that still fails."""
    tries, end = 0, time.monotonic() + _MOST_SECONDS
    again = True
    while again and tries < _MOST_TRIES:
        again = False
        for candidate in candidates(program):
            tries += 1
            if tries >= _MOST_TRIES or time.monotonic() > end:
                return program
            if fails(candidate):
                program, again = candidate, True
                break
    return program


def candidates(program: Program) -> Iterator[Program]:
    """Programs with a little less, the largest steps first."""
    yield from _fewer_outputs(program)
    yield from _fewer_lines(program)
    yield from _plainer(program)
    yield from _smaller(program)


def _fewer_outputs(program: Program) -> Iterator[Program]:
    if len(program.outputs) == 1:
        return
    for name in program.outputs:
        yield tidy(program.with_(outputs=(name,)))
    for name in program.outputs:
        yield tidy(program.with_(outputs=tuple(n for n in program.outputs if n != name)))


def tidy(program: Program) -> Program:
    """Without inputs that nothing mentions."""
    text = "\n".join([*program.lines, *program.outputs])
    used = names_in(text)
    return program.with_(inputs={n: t for n, t in program.inputs.items() if n in used})


def _fewer_lines(program: Program) -> Iterator[Program]:
    known: dict[str, Any] | None = None
    for i in reversed(range(len(program.lines))):
        line = program.lines[i]
        rest = (*program.lines[:i], *program.lines[i + 1 :])
        later = "\n".join([*program.lines[i + 1 :], *program.outputs])
        needed = [name for name in made_by(line) if name in names_in(later)]
        if not needed:
            yield tidy(program.with_(lines=rest))
            continue
        if len(needed) > 1:
            continue
        known = known if known is not None else _types(program)
        if needed[0] not in known:
            continue
        yield from _replaced(program, i, needed[0], known)


def _replaced(program: Program, i: int, name: str, known: dict[str, Any]) -> Iterator[Program]:
    """The value of a line taken from elsewhere: what it was made of, or an input of its own."""
    rest = (*program.lines[:i], *program.lines[i + 1 :])
    earlier = {n for line in program.lines[:i] for n in made_by(line)} | set(program.inputs)
    for other in names_in(program.lines[i]) & earlier:
        if known.get(other) == known[name]:
            yield _renamed(program.with_(lines=rest), name, other, i)
    shape, dtype = known[name]
    if name in program.outputs:
        return
    fresh = f"x{1 + max([int(n[1:]) for n in program.inputs], default=-1)}"
    text = plain_input(int(fresh[1:]), shape, dtype)
    made = _renamed(program.with_(lines=rest), name, fresh, i)
    yield tidy(made.with_(inputs={**made.inputs, fresh: text}))


def _renamed(program: Program, old: str, new: str, start: int) -> Program:
    lines = list(program.lines)
    for i in range(start, len(lines)):
        lines[i] = re.sub(rf"\b{old}\b", new, lines[i])
        if old in made_by(program.lines[i]):
            lines[i] = program.lines[i]
    outputs = tuple(dict.fromkeys(new if name == old else name for name in program.outputs))
    return tidy(program.with_(lines=tuple(lines), outputs=outputs))


def plain_input(number: int, shape: tuple[int, ...], dtype: Any) -> str:
    """An expression for a dense input of random numbers."""
    if dtypes.is_floating(dtype):
        return f"rng({number}).standard_normal({shape}).astype(schuss.{dtype})"
    if dtypes.is_complex(dtype):
        return f"(rng({number}).standard_normal({shape}) * (1 + 1j)).astype(schuss.{dtype})"
    high = 2 if dtype == dtypes.bool_ else 5
    return f"rng({number}).integers(0, {high}, {shape}).astype(schuss.{dtype})"


def _types(program: Program) -> dict[str, Any]:
    """Shape and dtype of each variable."""
    env: dict[str, Any] = {name: adopt(each) for name, each in program.arrays(0).items()}
    found = {}
    with tiers.using("reference"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for line in program.lines:
                space = {**NAMES, **env}
                exec(line, space)
                env.update({name: space[name] for name in made_by(line)})
        except Exception:
            pass
    for name, value in env.items():
        if isinstance(value, schuss.Tensor):
            found[name] = (value.shape, value.dtype)
    return found


def _plainer(program: Program) -> Iterator[Program]:
    if program.guarded:
        yield program.with_(guarded=False)
    if not program.together:
        yield program.with_(together=True)
    if program.tier != "compiled":
        yield program.with_(tier="compiled")
    for name, text in program.inputs.items():
        array = np.asarray(program.arrays(0)[name])
        plain = plain_input(int(name[1:]), array.shape, array.dtype)
        if plain != text and len(plain) < len(text):
            yield program.with_(inputs={**program.inputs, name: plain})


def _smaller(program: Program) -> Iterator[Program]:
    """Every size made smaller, wherever its number stands."""
    shapes = [np.asarray(each).shape for each in program.arrays(0).values()]
    sizes = sorted({n for shape in shapes for n in shape if n > 1}, reverse=True)
    for n in sizes:
        number = re.compile(rf"(?<![\w.(]){n}(?![\w.])|(?<=\(){n}(?=,)")
        for less in dict.fromkeys((1, 2, 3, n // 2, n - 1)):
            if less >= n:
                continue
            inputs = {name: _in_shape(text, n, less) for name, text in program.inputs.items()}
            yield program.with_(inputs=inputs)
            lines = tuple(number.sub(str(less), line) for line in program.lines)
            yield program.with_(inputs=inputs, lines=lines)


def _in_shape(text: str, n: int, less: int) -> str:
    """The expression of an input with one size replaced, in the tuples of its shape."""

    def replaced(found: re.Match[str]) -> str:
        return re.sub(rf"\b{n}\b", str(less), found[0])

    return re.sub(r"\((?:\d+,? ?)*\)", lambda m: m[0] if "," not in m[0] else replaced(m), text)
