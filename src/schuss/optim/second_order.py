"""Fits that use curvature: Newton's method, Gauss-Newton (natural gradient), conjugate gradients.

They work on functions and trees: `newton(loss, parameters).x` are the parameters at the minimum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from schuss import trees
from schuss.autodiff.jacobians import gauss_newton_at, hessian, hessian_at
from schuss.autodiff.transforms import value_and_grad
from schuss.context import no_grad
from schuss.errors import ArgumentError, NumericsError, fail
from schuss.execution.evaluate import evaluate
from schuss.functions.creation import eye
from schuss.functions.linalg import solve
from schuss.functions.manipulation import concat
from schuss.functions.types import finfo
from schuss.tensor import Tensor

Product = Callable[[Any], Any]

_DENSE_UP_TO = 500  # unknowns: a Hessian of these is computed as a whole


class Fit(NamedTuple):
    """What a fit found.

    Attributes:
        x: the parameters, a tree like those at the start.
        losses: the loss at the start and after each step.
        converged: whether the gradient became as small as asked for.
    """

    x: Any
    losses: list[float]
    converged: bool

    @property
    def steps(self) -> int:
        return len(self.losses) - 1


def conjugate_gradient(
    product: Product,
    b: Any,
    *,
    x: Any = None,
    tolerance: float = 1e-5,
    max_steps: int | None = None,
    precondition: Product | None = None,
) -> Any:
    """The x with `product(x) = b` for a symmetric positive definite matrix, from products with it.

    Hestenes and Stiefel, 1952. Along a direction of negative curvature, where there is no minimum,
    it stops and returns what it has, which is a descent direction for Newton's method (Steihaug,
    1983).

    Args:
        product: the matrix times a tree like b; `schuss.hessian_at(f, x)`, say.
        b: a tensor or a tree of them.
        x: where to start; by default at 0.
        tolerance: stop where the residual is this much smaller than b.
        max_steps: by default twice the number of unknowns.
        precondition: an approximate inverse of the matrix, times a tree.
    """
    at = trees.map(lambda t: 0 * t, b) if x is None else x
    rest = b if x is None else _combine(b, -1.0, product(x))
    enough = tolerance * math.sqrt(_inner(b, b))
    step = ahead = precondition(rest) if precondition else rest
    size = _inner(rest, ahead)
    for _ in range(max_steps or 2 * sum(t.size for t in trees.leaves(b))):
        if math.sqrt(_inner(rest, rest)) <= enough:
            break
        curved = product(step)
        curvature = _inner(step, curved)
        if not curvature > 0:
            return at if _inner(at, at) > 0 else step
        length = size / curvature
        at, rest = _combine(at, length, step), _combine(rest, -length, curved)
        ahead = precondition(rest) if precondition else rest
        size, before = _inner(rest, ahead), size
        step = _combine(ahead, size / before, step)
        _compute(at, rest, step)
    return at


def newton(
    f: Callable[[Any], Tensor],
    x: Any,
    *,
    steps: int = 50,
    tolerance: float = 1e-6,
    damping: float = 0.0,
    solver: str = "auto",
) -> Fit:
    """A minimum of a scalar function by Newton's method, with steps halved until the loss falls.

    Near a minimum with a positive definite Hessian, each step doubles the number of right digits.

    Args:
        f: a smooth function of one tree of tensors: a loss over all data.
        x: where to start.
        steps: the most steps to take.
        tolerance: it has converged where no element of the gradient is larger.
        damping: is added to the diagonal of the Hessian.
        solver: "dense" computes the Hessian, "cg" only products with it (Newton-CG); "auto" takes
            the first for up to 500 unknowns.

    Raises NumericsError for a dense Hessian that is singular: damping helps.
    """
    if solver not in ("auto", "dense", "cg"):
        raise fail(ArgumentError, "newton", "solver is 'auto', 'dense' or 'cg'", solver=solver)
    count = sum(t.size for t in trees.leaves(x))
    dense = solver == "dense" or (solver == "auto" and count <= _DENSE_UP_TO)

    def direction(x: Any, gradient: Any) -> Any:
        if dense:
            return _dense_direction(f, x, gradient, damping)
        product = hessian_at(f, x)
        # Exact near the minimum, cheap far from it (Dembo, Eisenstat and Steihaug, 1982).
        size = math.sqrt(_inner(gradient, gradient))
        return conjugate_gradient(
            _damped(product, damping), _negative(gradient), tolerance=min(0.01, math.sqrt(size))
        )

    return _descend("newton", f, x, direction, steps, tolerance)


def gauss_newton(
    model: Callable[[Any], Any],
    loss: Callable[[Any], Tensor],
    x: Any,
    *,
    steps: int = 50,
    tolerance: float = 1e-6,
    damping: float = 1e-3,
    cg_steps: int = 50,
) -> Fit:
    """A minimum of `loss(model(x))` with the Gauss-Newton matrix in place of the Hessian.

    That matrix has no negative curvature. For squared errors and cross-entropies it is the Fisher
    information, and this is natural gradient descent (Amari, 1998; Martens, 2014). The damping is
    adapted as by Levenberg and Marquardt: less after a step that did what the matrix promised, more
    after one that did not.

    Args:
        model: a function of one tree of tensors.
        loss: a convex scalar function of what the model returns.
        x: where to start.
        steps: the most steps to take.
        tolerance: it has converged where no element of the gradient is larger.
        damping: is added to the diagonal of the matrix at first.
        cg_steps: the most steps of the linear solver in each step.
    """
    both = value_and_grad(lambda x: loss(model(x)))
    with no_grad():
        value, gradient = both(x)
        losses = [float(value.item())]
        for _ in range(steps):
            if _largest(gradient) <= tolerance:
                break
            product = gauss_newton_at(model, loss, x)
            step = conjugate_gradient(
                _damped(product, damping), _negative(gradient), tolerance=1e-3, max_steps=cg_steps
            )
            promised = _inner(gradient, step) + 0.5 * _inner(step, product(step))
            there = _combine(x, 1.0, step)
            value, ahead = both(there)
            _compute(value, ahead, there)
            won = float(value.item()) - losses[-1]
            if won < 0:
                x, gradient = there, ahead
                losses.append(float(value.item()))
                damping *= 2 / 3 if won < 0.75 * promised else 1.0
            if not won < 0.25 * promised:  # NaN too
                damping *= 4.0
            if damping > _NO_MORE:
                break
    return Fit(x, losses, _largest(gradient) <= tolerance)


_NO_MORE = 1e12  # damping: no step is short enough


def _descend(
    where: str,
    f: Callable[[Any], Tensor],
    x: Any,
    direction: Callable[[Any, Any], Any],
    steps: int,
    tolerance: float,
) -> Fit:
    """Steps along directions, each halved until the loss falls enough (Armijo, 1966)."""
    both = value_and_grad(f)
    with no_grad():
        value, gradient = both(x)
        losses, rounding = [float(value.item())], float(finfo(value.dtype).eps)
        if not math.isfinite(losses[0]):
            raise fail(NumericsError, where, "the loss at the start is not finite", loss=losses[0])
        while len(losses) <= steps and _largest(gradient) > tolerance:
            step = direction(x, gradient)
            slope = _inner(gradient, step)
            if not slope < 0:  # no descent direction, or NaN
                step, slope = _negative(gradient), -_inner(gradient, gradient)
            length = 1.0
            while length > _SHORTEST:
                there = _combine(x, length, step)
                value, ahead = both(there)
                _compute(value, ahead, there)
                if value.item() <= losses[-1] + 1e-4 * length * slope + rounding * abs(losses[-1]):
                    break
                length /= 2
            else:
                break  # rounding: the loss cannot fall any more
            x, gradient = there, ahead
            losses.append(float(value.item()))
    return Fit(x, losses, _largest(gradient) <= tolerance)


_SHORTEST = 1e-10


def _dense_direction(f: Callable[[Any], Tensor], x: Any, gradient: Any, damping: float) -> Any:
    """-(H + damping I)^-1 g, with H computed as a whole."""
    leaves, structure = trees.flatten(x)

    def of_vector(vector: Tensor) -> Tensor:
        return f(structure.unflatten(_split(vector, leaves)))

    vector, right = _vector(leaves), -_vector(trees.leaves(gradient))
    matrix = hessian(of_vector)(vector)
    if damping:
        matrix = matrix + damping * eye(vector.size, dtype=vector.dtype)
    return structure.unflatten(_split(solve(matrix, right), leaves))


def _vector(leaves: list[Tensor]) -> Tensor:
    return concat([t.reshape((t.size,)) for t in leaves])


def _split(vector: Tensor, likes: list[Tensor]) -> list[Tensor]:
    made, start = [], 0
    for like in likes:
        made.append(vector[start : start + like.size].reshape(like.shape))
        start += like.size
    return made


# --- trees as vectors ---


def _inner(a: Any, b: Any) -> float:
    parts = [(s * t).sum() for s, t in zip(trees.leaves(a), trees.leaves(b), strict=True)]
    evaluate([part._node for part in parts])
    return sum(float(part.item()) for part in parts)


def _combine(a: Any, factor: float, b: Any) -> Any:
    return trees.map(lambda s, t: s + factor * t, a, b)


def _negative(a: Any) -> Any:
    return trees.map(lambda t: -t, a)


def _largest(a: Any) -> float:
    return max((float(abs(t).max().item()) for t in trees.leaves(a) if t.size), default=0.0)


def _damped(product: Product, damping: float) -> Product:
    return lambda v: _combine(product(v), damping, v)


def _compute(*given: Any) -> None:
    """Compute the values of trees now, so that graphs do not grow from step to step."""
    evaluate([t._node for tree in given for t in trees.leaves(tree)])


__all__ = ["Fit", "conjugate_gradient", "gauss_newton", "newton"]
