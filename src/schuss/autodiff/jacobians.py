"""Jacobians, Hessians and products with them, composed of the other transforms."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import trees
from schuss.autodiff.batching import vmap
from schuss.autodiff.forward import Linear, linearize
from schuss.autodiff.recording import (
    Recording,
    conjugated,
    require_function,
    require_tensors,
)
from schuss.autodiff.transforms import PullBack, grad, positions
from schuss.errors import ArgumentError, fail
from schuss.graph import data, wrap
from schuss.ops.structure import zeros_like

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def jacobian(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, *, mode: str = "auto"
) -> Callable[..., Any]:
    """A function that returns all partial derivatives of `f`.

    Args:
        f: a function of tensors, or of trees of them, that returns a tree.
        argnums: which positional arguments to differentiate for; several give a tuple.
        mode: "forward" costs about one `f` for each number that goes in, "reverse" for each that
            comes out; "auto" takes the smaller count. All are computed at once, with `vmap`.

    The result has the structure of what f returns, with the structure of the argument in place of
    each tensor: for y of shape (M, N) and x of shape (K,), a tensor of shape (M, N, K).
    """
    require_function("jacobian", f)
    if mode not in ("auto", "forward", "reverse"):
        problem = "mode is 'auto', 'forward' or 'reverse'"
        raise fail(ArgumentError, "jacobian", problem, mode=mode)

    @functools.wraps(f)
    def derivatives(*args: Any, **kwargs: Any) -> Any:
        chosen = positions("jacobian", argnums, len(args))
        recording = Recording("jacobian", f, args, kwargs, chosen, False)
        require_tensors("jacobian", recording.structure)
        entering = sum(x.size for x in recording.inputs)
        leaving = sum(y.size for y in recording.result)
        forward = mode == "forward" or (mode == "auto" and entering <= leaving)
        blocks = (_by_columns if forward else _by_rows)(recording)  # [result][argument]
        made = [recording.by_argument(row) for row in blocks]
        if isinstance(argnums, int):
            return recording.structure.unflatten([row[0] for row in made])
        return recording.structure.unflatten(made)

    return derivatives


def jacfwd(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """`jacobian(f, argnums, mode="forward")`."""
    return jacobian(f, argnums, mode="forward")


def jacrev(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """`jacobian(f, argnums, mode="reverse")`."""
    return jacobian(f, argnums, mode="reverse")


def _by_rows(recording: Recording) -> list[list[Tensor]]:
    """A row for each number that comes out."""
    pull_back = PullBack(recording)
    blocks = []
    for k, y in enumerate(recording.result):

        def row(g: Tensor, k: int = k) -> list[Tensor]:
            found = trees.leaves(pull_back.of(_one_of(recording.result, k, g)))
            return [conjugated(x) for x in found]

        rows = vmap(row)(_units(y))
        blocks.append(
            [r.reshape(y.shape + x.shape) for r, x in zip(rows, recording.inputs, strict=True)]
        )
    return blocks


def _by_columns(recording: Recording) -> list[list[Tensor]]:
    """A column for each number that goes in."""
    linear = Linear(recording)
    blocks: list[list[Tensor]] = [[] for _ in recording.result]
    for k, x in enumerate(recording.inputs):

        def column(t: Tensor, k: int = k) -> list[Tensor]:
            return linear.of(_one_of(recording.inputs, k, t))

        columns = vmap(column, out_axes=-1)(_units(x))
        for block, y, c in zip(blocks, recording.result, columns, strict=True):
            block.append(c.reshape(y.shape + x.shape))
    return blocks


def _units(x: Tensor) -> Tensor:
    """All tensors like x with a single 1: (x.size, *x.shape)."""
    return wrap(data(np.eye(x.size, dtype=x.dtype).reshape((x.size, *x.shape))))


def _one_of(likes: Sequence[Tensor], k: int, given: Tensor) -> list[Tensor]:
    return [given if i == k else zeros_like(like) for i, like in enumerate(likes)]


def hessian(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function that returns all second derivatives of a scalar function.

    For x of shape (K,), a tensor of shape (K, K); for trees, a tree of trees. It is the Jacobian of
    the gradient, forward over reverse.
    """
    require_function("hessian", f)
    return jacobian(grad(f, argnums), argnums, mode="forward")


def hvp(f: Callable[[Any], Any], x: Any, v: Any) -> Any:
    """The Hessian of a scalar function `f` at x, times v, both trees of one structure.

    The Hessian itself is not computed: this costs a few times the gradient (Pearlmutter, 1994).
    """
    return hessian_at(f, x)(v)


def hessian_at(f: Callable[[Any], Any], x: Any) -> Callable[[Any], Any]:
    """`product` with `product(v) = hvp(f, x, v)`: what does not depend on v is computed once."""
    require_function("hvp", f)
    return linearize(grad(f), x)[1]


def gnvp(model: Callable[[Any], Any], loss: Callable[[Any], Any], x: Any, v: Any) -> Any:
    """The Gauss-Newton matrix of `loss(model(x))` at x, times v: J^T H J v.

    J is the Jacobian of the model and H the Hessian of the loss for what the model returns. Where
    the loss is convex it has no negative eigenvalues, as the Hessian may (Schraudolph, 2002).
    """
    return gauss_newton_at(model, loss, x)(v)


def gauss_newton_at(
    model: Callable[[Any], Any], loss: Callable[[Any], Any], x: Any
) -> Callable[[Any], Any]:
    """`product` with `product(v) = gnvp(model, loss, x, v)`."""
    recording = Recording("gnvp", model, (x,), {}, (0,), False)
    require_tensors("gnvp", recording.structure)
    along, pull_back = Linear(recording), PullBack(recording)
    curved = hessian_at(loss, recording.shown())

    def product(v: Any) -> Any:
        return pull_back(curved(along(v)))[0]

    return product


__all__ = [
    "gauss_newton_at",
    "gnvp",
    "hessian",
    "hessian_at",
    "hvp",
    "jacfwd",
    "jacobian",
    "jacrev",
]
