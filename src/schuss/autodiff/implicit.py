"""Derivatives of what is defined by an equation: `fixed_point` and `implicit_root`.

The solver's steps are not differentiated. Where F(x, p) = 0, the implicit function theorem says

    dx = -(dF/dx)^-1 (dF/dp) dp

so one more evaluation of F at the solution, and one linear solve, give the derivative. What F uses
besides its arguments (the parameters of a layer, say) gets its gradient too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss.autodiff.batching import batch, example_of
from schuss.autodiff.custom import Packed, Rules, overridden
from schuss.autodiff.forward import linearize
from schuss.autodiff.jacobians import jacobian
from schuss.autodiff.recording import (
    conjugated,
    differentiable_leaves,
    require_function,
    stand_in,
)
from schuss.autodiff.segment import Segment
from schuss.autodiff.transforms import vjp
from schuss.context import context, grad_mode
from schuss.errors import BadValueError, NumericsError, fail
from schuss.execution import tiers
from schuss.functions.linalg import norm, solve
from schuss.functions.reduction import max as largest
from schuss.functions.types import finfo
from schuss.graph import Node, Op, apply, data, scalar, wrap
from schuss.ops.structure import repeated, zeros_like

if TYPE_CHECKING:
    from schuss.tensor import Tensor

Product = Callable[["Tensor"], "Tensor"]
LinearSolver = Callable[[Product, "Tensor"], "Tensor"]

_LOOK_EVERY = 4  # steps: looking at the change takes longer than a small step


def fixed_point(
    f: Callable[..., Any],
    x: Any,
    *args: Any,
    tolerance: float = 1e-6,
    max_steps: int = 1000,
) -> Any:
    """The x with `f(x, *args) = x`, found by applying f again and again; differentiable.

    Args:
        f: a contraction: takes x and returns a tree of the same structure and shapes.
        x: where to start, a tensor or a tree of them. No gradient flows into it.
        args: what else f takes; gradients flow into these, and into what f uses besides.
        tolerance: the steps end when no element changes by more than this, relative to 1 and to
            the largest element.
        max_steps: the most steps to take.

    Gradients solve w = g + (df/dx)' w by the same kind of iteration, which keeps nothing of the
    steps (Bai, Kolter and Koltun, "Deep equilibrium models", 2019). They nest like all others.

    Raises NumericsError where the steps do not converge.
    """
    require_function("fixed_point", f)
    vector = _Vector("fixed_point", x)

    def step(y: Tensor) -> Tensor:
        return vector.of(f(vector.tree(y), *args))

    start = vector.of(x).detach()
    if context.mapping:  # inside vmap nobody can look whether the steps converge: an op does
        segment = _recorded(step, start)
        found = _converged(segment, start, tolerance, max_steps)
    else:
        with grad_mode(False), _told("fixed_point"):
            found = _iterate(step, start, tolerance, max_steps)
        segment = _recorded(step, found)
    again = segment.again

    def gradient(g: Tensor, y: Tensor, *xs: Tensor) -> Sequence[Tensor]:
        pull_back = vjp(again, y, *xs)[1]
        adjoint = lambda w: g + pull_back(w)[0]
        w = fixed_point(adjoint, g, tolerance=tolerance, max_steps=max_steps)
        return pull_back(w)[1:]

    def tangent(ts: Sequence[Any], y: Tensor, *xs: Tensor) -> Tensor:
        along, moved = linearize(again, y, *xs)[1], _or_zeros(ts, xs)
        forward = lambda t: along(t, *moved)
        return fixed_point(forward, zeros_like(y), tolerance=tolerance, max_steps=max_steps)

    return vector.tree(_with_derivatives(found, segment, Rules(gradient, tangent)))


def _recorded(f: Callable[[Tensor], Tensor], x: Tensor) -> Segment:
    """What f records at x, as a function of x and of the tensors that f uses besides."""
    first = scalar(0, x.dtype)._node.number  # what f records has larger ones
    start = stand_in(x)
    return Segment(f(start)._node, [start._node], first)


def _with_derivatives(found: Tensor, segment: Segment, rules: Rules) -> Tensor:
    used = [wrap(node) for node in segment.used]
    return overridden(found, used, rules) if used and context.grad_enabled else found


def _or_zeros(ts: Sequence[Any], xs: Sequence[Tensor]) -> list[Tensor]:
    return [zeros_like(x) if t is None else t for t, x in zip(ts, xs, strict=True)]


class _Vector:
    """The unknowns of an equation as one vector (N,)."""

    def __init__(self, where: str, x: Any) -> None:
        differentiable_leaves(where, x)  # or an error
        self._where = where
        self._packed = Packed(x)

    def of(self, tree: Any) -> Tensor:
        packed = self._packed.pack(self._where, tree)
        assert packed is not None
        return packed.reshape((packed.size,))

    def tree(self, vector: Tensor) -> Any:
        return self._packed.unpack(vector)


def _iterate(
    step: Callable[[Tensor], Tensor], x: Tensor, tolerance: float, max_steps: int
) -> Tensor:
    change = 0.0
    for count in range(1, max_steps + 1):
        before, x = x, step(x)
        if count % _LOOK_EVERY == 0 or count == max_steps:
            change = _largest(x - before)
            if change <= tolerance * max(1.0, _largest(x)):
                return x
            if not math.isfinite(change):
                break
    raise BadValueError(
        NumericsError,
        f"{count} steps did not converge to a tolerance of {tolerance}: the last changes {change}",
        "f must bring any two points closer together: damp it, or allow more steps",
    )


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Errors of a solver as errors of the user's line."""
    try:
        yield
    except BadValueError as problem:
        raise fail(problem.kind, where, problem.problem, hint=problem.hint) from None


def _largest(x: Tensor) -> float:
    return largest(abs(x)).item() if x.size else 0.0


# --- inside vmap ---


def _converged(segment: Segment, x: Tensor, tolerance: float, max_steps: int) -> Tensor:
    """The fixed point as the result of an op, which takes the steps when it runs."""
    outside = [wrap(node) for node in segment.starts[1:]]
    steps = _Steps(segment.again, tolerance, max_steps)
    with grad_mode(False):
        return apply(_converge, x, steps.as_data(), *outside)


class _Steps:
    """The steps of a solver: `step(x, *outside)` until nothing changes."""

    def __init__(self, step: Callable[..., Tensor], tolerance: float, max_steps: int) -> None:
        self.step = step
        self.tolerance = tolerance
        self.max_steps = max_steps

    def as_data(self) -> Tensor:
        """An input of the op, so that the structure of the graph does not depend on it."""
        held = np.empty((), object)
        held[()] = self
        return wrap(data(held))

    def run(self, x: np.ndarray, *outside: np.ndarray) -> np.ndarray:
        held = [wrap(data(each)) for each in outside]
        step = lambda y: self.step(y, *held).detach()
        # An evaluation within an evaluation: programs share their memory, the reference does not.
        with grad_mode(False), tiers.using("reference"):
            return _iterate(step, wrap(data(x)), self.tolerance, self.max_steps).numpy()

    def batched(self, size: int, flags: Sequence[bool]) -> _Steps:
        """The steps for all examples together: until nothing changes in any."""

        def step(*xs: Tensor) -> Tensor:
            inner = [
                example_of(x) if flag else x for x, flag in zip(xs, (True, *flags), strict=True)
            ]
            examples = {one._node: x for one, x in zip(inner, xs, strict=True) if one is not x}
            one = self.step(*inner)._node
            return batch([one], examples, size)[one]

        return _Steps(step, self.tolerance, self.max_steps)


def _converge_batch(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    x = xs[0] if batched[0] else repeated(xs[0], size)
    assert node.inputs[1].value is not None
    steps = node.inputs[1].value.item().batched(size, batched[2:])
    return apply(_converge, x, steps.as_data(), *xs[2:])


_converge = Op(
    name="fixed_point",
    doc="steps from the first input on until nothing changes",
    infer=lambda x, steps, *outside: (x.shape, x.dtype),
    reference=lambda x, steps, *outside: steps.item().run(x, *outside),
    gradient=None,
    batch=_converge_batch,
    samples=lambda rng: [],
)


def implicit_root(
    equation: Callable[..., Any],
    x: Any,
    *args: Any,
    solver: Callable[..., Any] | None = None,
    linear_solver: LinearSolver | None = None,
) -> Any:
    """The x with `equation(x, *args) = 0`, found by a solver; differentiable.

    Args:
        equation: returns a tree like x. For the minimum of a function, its gradient.
        x: where to start, a tensor or a tree of them. No gradient flows into it.
        args: what else the equation takes; gradients flow into these, and into what it uses
            besides.
        solver: `solver(x, *args)` returns the root, and may do anything: its steps are not
            differentiated. Without one, Newton's method.
        linear_solver: `linear_solver(product, b)` returns the w with `product(w) = b`, for vectors.
            Without one, the Jacobian of the equation is computed as a whole, which suits up to
            about a thousand unknowns.

    Raises NumericsError where Newton's method does not converge. Inside `vmap` a solver of your own
    cannot look at values.
    """
    require_function("implicit_root", equation)
    vector = _Vector("implicit_root", x)

    def residual(y: Tensor) -> Tensor:
        return vector.of(equation(vector.tree(y), *args))

    start = vector.of(x).detach()
    if solver is None and context.mapping:
        steps = _recorded(lambda y: y - _newton_step(residual, y), start)
        found = _converged(steps, start, _rounding(start), _NEWTON_STEPS)
    else:
        with grad_mode(False), _told("implicit_root"):
            found = _newton(residual, start) if solver is None else vector.of(solver(x, *args))
    segment = _recorded(residual, found)
    again = segment.again

    def gradient(g: Tensor, y: Tensor, *xs: Tensor) -> Sequence[Tensor]:
        pull_back = vjp(again, y, *xs)[1]
        if linear_solver is None:
            w = solve(conjugated(jacobian(again)(y, *xs)).mT, -g)
        else:
            w = _solved_by(linear_solver, lambda w: pull_back(w)[0], -g)
        return pull_back(w)[1:]

    def tangent(ts: Sequence[Any], y: Tensor, *xs: Tensor) -> Tensor:
        along, still = linearize(again, y, *xs)[1], [zeros_like(x) for x in xs]
        right = -along(zeros_like(y), *_or_zeros(ts, xs))
        if linear_solver is None:
            return solve(jacobian(again)(y, *xs), right)
        return _solved_by(linear_solver, lambda t: along(t, *still), right)

    return vector.tree(_with_derivatives(found, segment, Rules(gradient, tangent)))


def _solved_by(linear_solver: LinearSolver, product: Product, b: Tensor) -> Tensor:
    """The w with product(w) = b, itself the root of an equation, so that derivatives nest."""
    return implicit_root(
        lambda w: product(w) - b,
        zeros_like(b),
        solver=lambda w: linear_solver(product, b),
        linear_solver=linear_solver,
    )


_NEWTON_STEPS = 100


def _newton(residual: Product, x: Tensor) -> Tensor:
    """A root by Newton's method, with steps halved until the residual shrinks."""
    rest = residual(x)
    for _ in range(_NEWTON_STEPS):
        size = norm(rest).item()
        step, length = _newton_step(residual, x), 1.0
        if norm(step).item() <= _rounding(x) * max(1.0, norm(x).item()):
            return x - step
        closer = residual(x - step)
        while not norm(closer).item() < size and length > _SHORTEST:
            length /= 2
            closer = residual(x - length * step)
        if length <= _SHORTEST:
            break
        x, rest = x - length * step, closer
    problem = f"Newton's method found no root: what remains is {norm(rest).item()}"
    raise BadValueError(NumericsError, problem, "start nearer to it, or pass solver=")


def _newton_step(residual: Product, x: Tensor) -> Tensor:
    return solve(jacobian(residual)(x), residual(x))


_SHORTEST = 1e-6


def _rounding(x: Tensor) -> float:
    """How far a step must go to be more than rounding, relative to x."""
    return 100 * float(finfo(x.dtype).eps)


__all__ = ["fixed_point", "implicit_root"]
