"""Derivatives of functions, in JAX's names: `grad`, `value_and_grad`, `vjp`.

They nest in any order, with each other and with those of `forward`, `batching` and `jacobians`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from schuss.autodiff.backward import propagate
from schuss.autodiff.recording import (
    Recording,
    connects,
    finished_or_zero,
    matching_leaves,
    require_function,
    require_tensors,
)
from schuss.context import grad_mode
from schuss.dtypes import is_complex
from schuss.errors import ArgumentTypeError, GradientError, fail
from schuss.graph import Handle, Node, apply, scalar
from schuss.ops.broadcast import broadcast_to
from schuss.ops.elementwise import add

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, *, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns `f(*args)` and its gradient.

    Args:
        f: returns a scalar tensor; with `has_aux`, a pair of it and anything else.
        argnums: which positional arguments to differentiate for. Each is a tensor, or a tree of
            tensors: lists, tuples, dicts, dataclasses, layers; the gradient has the same structure.
            Several argnums give a tuple of gradients.

    The result is `(value, gradient)`, or `((value, aux), gradient)`. Parameters of layers that f
    uses besides its arguments are constants here, but stay connected for an outer `backward()`.

    Raises:
        GradientError: f does not return a scalar.
        DTypeError: an argument is not of a floating or complex dtype.
    """
    require_function("grad", f)

    @functools.wraps(f)
    def evaluated(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        chosen = positions("grad", argnums, len(args))
        recording = Recording("grad", f, args, kwargs, chosen, has_aux)
        value = _scalar(recording)
        seed = apply(broadcast_to, scalar(1, value.dtype), shape=value.shape)
        gradients = _pull_back(recording, [seed])
        shown = (recording.shown(), recording.shown_aux()) if has_aux else recording.shown()
        return shown, gradients[0] if isinstance(argnums, int) else gradients

    return evaluated


def grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, *, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns the gradient of `f`, with `has_aux` `(gradient, aux)`.

    Arguments and errors are those of `value_and_grad`.
    """
    both = value_and_grad(f, argnums, has_aux=has_aux)

    @functools.wraps(f)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, found = both(*args, **kwargs)
        return (found, value[1]) if has_aux else found

    return gradient


def vjp(f: Callable[..., Any], *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """The value of `f`, and a function that takes gradients of the value to those of the arguments.

    Args:
        f: any function of tensors, or of trees of them, that returns a tree.
        primals: its arguments, all of floating dtypes.
        has_aux: f returns a pair, of which the second is passed on: `(value, pull_back, aux)`.

    `value, pull_back = vjp(f, x, y)`; then `pull_back(g)`, where g has the structure and shapes of
    the value, is the tuple of the gradients of `(f(x, y) * g).sum()`. It may be called several
    times; f runs once.
    """
    recording = Recording("vjp", f, primals, {}, range(len(primals)), has_aux)
    pull_back = PullBack(recording)
    value = recording.shown()
    return (value, pull_back, recording.shown_aux()) if has_aux else (value, pull_back)


class PullBack:
    """The gradients of a recorded function's arguments: `pull_back(gradient)`."""

    def __init__(self, recording: Recording) -> None:
        require_tensors(recording.where, recording.structure)
        self._recording = recording
        self._held = recording.saved()  # stays computed as long as this lives

    def __call__(self, gradient: Any) -> tuple[Any, ...]:
        recording = self._recording
        return self.of(
            matching_leaves(
                recording.where, "gradient", recording.structure, recording.result, gradient
            )
        )

    def of(self, given: Sequence[Tensor]) -> tuple[Any, ...]:
        """The gradients of the arguments, for those of the results."""
        return _pull_back(self._recording, given)


def _pull_back(recording: Recording, given: Sequence[Tensor]) -> tuple[Any, ...]:
    outer = connects(recording.outer, given)
    targets = [each._node for each in recording.inputs]
    with grad_mode(outer):
        seeds: dict[Node, Tensor] = {}
        for each, g in zip(recording.result, given, strict=True):
            if each.requires_grad:
                held = seeds.get(each._node)
                seeds[each._node] = g if held is None else apply(add, held, g)
        found = propagate(recording.walked, seeds, frozenset(targets))
        gradients = [
            finished_or_zero(found.get(node), like, outer)
            for node, like in zip(targets, recording.inputs, strict=True)
        ]
    return recording.by_argument(gradients)


def positions(where: str, argnums: int | Sequence[int], count: int) -> tuple[int, ...]:
    """The arguments that are meant, counted from the front."""
    chosen = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    for each in chosen:
        if not -count <= each < count:
            problem = f"argnums names argument {each}, there are {count}"
            raise fail(ArgumentTypeError, where, problem)
    return tuple(each % count for each in chosen)


def _scalar(recording: Recording) -> Tensor:
    structure = recording.structure
    if structure.kind is not Handle:
        kind = type(structure.rest) if structure.kind is None else structure.kind
        problem = f"the function must return a tensor, not {kind.__name__}"
        raise fail(GradientError, "grad", problem)
    value = recording.result[0]
    if value.size != 1:
        problem = "the function must return a scalar"
        raise fail(GradientError, "grad", problem, value=value, hint="reduce it first")
    if is_complex(value.dtype):
        problem = "a complex number has no gradient: only a real one can descend"
        hint = "return its abs(), real() or imag()"
        raise fail(GradientError, "grad", problem, value=value, hint=hint)
    return value


__all__ = ["grad", "value_and_grad", "vjp"]
