"""`scan`: a loop over time as one op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import trees
from schuss.autodiff import loop_rules
from schuss.autodiff.loop_split import run_loop
from schuss.autodiff.recording import require_function
from schuss.autodiff.tracing import Traced, trace
from schuss.errors import ArgumentError, ArgumentTypeError, ShapeError, fail
from schuss.graph import OUTPUT, Op, Sample, apply, define, wrap
from schuss.ops import loop as loops
from schuss.ops.body import Type, aside, body_of, stand_in
from schuss.ops.broadcast import zeros
from schuss.ops.elementwise import tanh
from schuss.ops.infer import Rng, numbers
from schuss.ops.loop import HISTORY, LAST, NOTHING, Loop

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def _samples(rng: Rng) -> list[Sample]:
    """An RNN with its history and a second y, and a reversed loop that keeps its end only."""
    with aside():
        w, x, h = (stand_in(Type(s, np.dtype(np.float64))) for s in ((3, 3), (2, 3), (2, 3)))
        new = apply(tanh, h @ w + x)
        nodes = [each._node for each in (new, new * x, w, x, h)]
        body = body_of(nodes[:2], nodes[2:])
    made = []
    for wishes, ys, length, reverse in (
        ((HISTORY,), (True,), 4, False),
        ((LAST,), (False,), 3, True),
        ((NOTHING,), (True,), 1, False),
    ):
        loop = Loop(body, 1, 1, wishes, ys, length, reverse)
        shapes = ((3, 3), (length, 2, 3), (2, 3))
        made.append(Sample([numbers(rng, s, -0.7, 0.7) for s in shapes], {"loop": loop}))
    return made


scan_op: Op = define(
    "scan",
    "a loop whose steps hand carries on; its results side by side",
    infer=loops.infer,
    reference=loops.reference,
    gradient=(loop_rules.gradient,),  # one rule for all inputs
    tangent=loop_rules.tangent,
    batch=loop_rules.batch_rule,
    saves=(OUTPUT, *range(64)),
    samples=_samples,
    variadic=True,
)


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any = None,
    length: int | None = None, reverse: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """A loop over the first axis of `xs`, recorded as one op.

        def step(h, x):
            h = schuss.tanh(x + h @ w)
            return h, h

        last, hs = schuss.scan(step, h0, xs)

    does what this does:

        hs, h = [], h0
        for x in xs:
            h, y = step(h, x)
            hs.append(y)
        last, hs = h, schuss.stack(hs)

    Args:
        f: `f(carry, x) -> (carry, y)`. It runs once, on stand-ins without values, whatever the
            length. It may use tensors from outside, which get gradients too. The carry keeps its
            structure, shapes and dtypes.
        init: the carry that goes into the first step: a tree of tensors.
        xs: a tree of tensors of one length along their first axes; None gives x = None.
        length: the number of steps, where xs do not tell.
        reverse: begin with the last x. What belongs to x[t] is still at ys[t].

    Returns the carry after the last step, and the ys of all steps along a new first axis.

    Products that do not depend on the carry are computed for all steps at once, outside of the
    loop, and so are the gradients of weights. Each step draws random numbers of its own.

    Raises:
        ArgumentError: lengths differ, or are not given, or f returns another structure.
        ShapeError: a carry changes its shape or dtype.
        TransformError: f looks at a value.
    """
    require_function("scan", f)
    carries, structure = _carry(init)
    parts, x_structure = trees.flatten(xs)
    count = _length(parts, length)
    steps = [Type(x.shape[1:], x.dtype) for x in parts]
    traced = trace("scan", f, [structure, x_structure], [carries, steps])
    new, ys, y_structure = _returned(traced, structure, carries)
    if not count:
        return init, y_structure.unflatten([zeros((0, *y.shape), y.dtype) for y in ys])
    invariants = traced.invariants([*new, *ys])
    body = traced.body([*new, *ys], invariants, order=(1, 0))
    last, stacks = run_loop(
        body, [wrap(each) for each in invariants], parts, carries, count, bool(reverse),
        [True] * len(carries),
    )  # fmt: skip
    return structure.unflatten(last), y_structure.unflatten(stacks)


def _carry(init: Any) -> tuple[list[Tensor], trees.Structure]:
    leaves, structure = trees.flatten(init)
    if not leaves:
        raise fail(ArgumentTypeError, "scan", "init must hold at least one tensor",
                   init=init, hint="wrap numbers: schuss.tensor(0.0)")  # fmt: skip
    return leaves, structure


def _length(parts: Sequence[Tensor], length: int | None) -> int:
    if length is not None and (isinstance(length, bool) or not isinstance(length, int)):
        raise fail(ArgumentTypeError, "scan", f"length must be an integer, got {length!r}")
    if length is not None and length < 0:
        raise fail(ArgumentError, "scan", f"length must not be negative, got {length}")
    for x in parts:
        if not x.ndim:
            raise fail(ShapeError, "scan", "xs must have a first axis to loop over", x=x)
        if length is None:
            length = x.shape[0]
        if x.shape[0] != length:
            problem = f"all xs must have {length} steps along their first axis"
            raise fail(ArgumentError, "scan", problem, xs=[each.shape for each in parts])
    if length is None:
        raise fail(ArgumentError, "scan", "needs xs or a length to know how many steps there are")
    return length


def _returned(
    traced: Traced, structure: trees.Structure, carries: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor], trees.Structure]:
    returned = traced.result
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise fail(
            ArgumentTypeError, "scan",
            f"f must return a pair (carry, y), not {type(returned).__name__}",
        )  # fmt: skip
    new = trees.matching("scan", structure, returned[0], "carry that f returns")
    for old, made in zip(carries, new, strict=True):
        if (old.shape, old.dtype) != (made.shape, made.dtype):
            raise fail(
                ShapeError, "scan", "a carry must keep its shape and dtype from step to step",
                init=old, returned=made, hint="cast or broadcast init, or what f returns",
            )  # fmt: skip
    ys, y_structure = trees.flatten(returned[1])
    return new, ys, y_structure


__all__ = ["scan"]
