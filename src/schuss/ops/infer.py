"""Shape and dtype rules that several ops share, and the sample inputs of their tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    DTypeError,
    OutOfBoundsError,
    ShapeError,
    fail,
)
from schuss.graph import Node, Sample, Shape

Rng: TypeAlias = "np.random.Generator"  # as text: importing numpy.random takes a while


def broadcast_shapes(where: str, *shapes: Shape) -> Shape:
    """The shape that all of these broadcast to."""
    result = shapes[0]
    for shape in shapes[1:]:
        if shape == result:
            continue
        longer = max(len(result), len(shape))
        a = (1,) * (longer - len(result)) + result
        b = (1,) * (longer - len(shape)) + shape
        if any(m != n and m != 1 and n != 1 for m, n in zip(a, b, strict=True)):
            raise fail(
                ShapeError,
                where,
                "the shapes do not broadcast: axis by axis from the right, "
                "sizes must be equal or 1",
                shapes=list(shapes),
            )
        result = tuple(n if m == 1 else m for m, n in zip(a, b, strict=True))
    return result


def elementwise(*nodes: Node) -> tuple[Shape, DType]:
    """Inputs of one dtype that broadcast; the result has their dtype."""
    first = nodes[0]
    if len(nodes) == 1:
        return first.shape, first.dtype
    return broadcast_shapes("broadcasting", *[node.shape for node in nodes]), first.dtype


def predicate(*nodes: Node) -> tuple[Shape, DType]:
    """Inputs that broadcast; the result is bool."""
    return elementwise(*nodes)[0], dtypes.bool_


def normalize_axis(where: str, axis: int, ndim: int) -> int:
    """An axis counted from the front, 0 <= axis < ndim."""
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise fail(ArgumentTypeError, where, f"axis must be an integer, got {axis!r}")
    if not -ndim <= axis < ndim:
        raise fail(OutOfBoundsError, where, f"axis {axis} does not exist: there are {ndim} axes")
    return int(axis) % ndim


def normalize_axes(where: str, axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Axes in ascending order, counted from the front; None stands for all."""
    if axis is None:
        return tuple(range(ndim))
    if type(axis) is int and 0 <= axis < ndim:
        return (axis,)
    given = (axis,) if isinstance(axis, (int, np.integer)) else tuple(axis)
    axes = sorted(normalize_axis(where, each, ndim) for each in given)
    if len(set(axes)) != len(axes):
        raise fail(ArgumentError, where, f"axis {tuple(given)} names an axis twice")
    return tuple(axes)


def require_dtype(where: str, allowed: Sequence[DType], kind: str, **nodes: Node) -> None:
    """Raise DTypeError unless all nodes have one of the allowed dtypes; `kind` names them."""
    if any(node.dtype not in allowed for node in nodes.values()):
        named: dict[str, Any] = dict(nodes)
        raise fail(DTypeError, where, f"needs {kind} input", hint="cast with astype", **named)


# Shapes for elementwise samples: scalar, empty, size 1, odd sizes around vector widths, more axes.
SHAPES: tuple[Shape, ...] = ((), (0, 3), (1,), (17,), (3, 5), (2, 1, 33))


def numbers(rng: Rng, shape: Shape, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return np.asarray(rng.uniform(low, high, shape))


def strided(x: np.ndarray) -> np.ndarray:
    """The same values with gaps between them in memory and the axes in Fortran order."""
    wide = np.empty(tuple(2 * n for n in x.shape), x.dtype, order="F")
    view = wide[tuple(slice(None, None, 2) for _ in x.shape)]
    view[...] = x
    return view


def unary_samples(low: float = -2.0, high: float = 2.0) -> Callable[[Rng], list[Sample]]:
    """Random inputs between `low` and `high` in all the awkward shapes."""

    def samples(rng: Rng) -> list[Sample]:
        made = [Sample([numbers(rng, shape, low, high)]) for shape in SHAPES]
        made.append(Sample([strided(numbers(rng, (4, 9), low, high))]))
        return made

    return samples


def binary_samples(
    low: float = -2.0, high: float = 2.0, second: tuple[float, float] | None = None
) -> Callable[[Rng], list[Sample]]:
    """Random pairs, equal in shape and broadcasting; the second input may have its own range."""
    low2, high2 = second or (low, high)

    def samples(rng: Rng) -> list[Sample]:
        pairs = [(shape, shape) for shape in SHAPES]
        pairs += [
            ((3, 1), (1, 5)),
            ((4,), (2, 3, 4)),
            ((), (3,)),
            ((0, 1), (1, 2)),
            ((2, 1, 3), (1,)),
        ]
        made = [
            Sample([numbers(rng, a, low, high), numbers(rng, b, low2, high2)]) for a, b in pairs
        ]
        made.append(
            Sample(
                [strided(numbers(rng, (4, 9), low, high)), strided(numbers(rng, (9,), low2, high2))]
            )
        )
        return made

    return samples


def integer_samples(count: int, low: int = 0, high: int = 6) -> Callable[[Rng], list[Sample]]:
    """`count` integer inputs of equal and of broadcasting shapes."""

    def samples(rng: Rng) -> list[Sample]:
        shapes = [[shape] * count for shape in SHAPES] + [[(3, 1), (1, 5), (5,)][:count]]
        return [Sample([np.asarray(rng.integers(low, high, s)) for s in each]) for each in shapes]

    return samples


def boolean_samples(count: int) -> Callable[[Rng], list[Sample]]:
    def samples(rng: Rng) -> list[Sample]:
        shapes = [[shape] * count for shape in SHAPES] + [[(3, 1), (1, 5)][:count]]
        return [Sample([np.asarray(rng.random(s) < 0.5) for s in each]) for each in shapes]

    return samples
