"""L-BFGS, in PyTorch's form: the optimizer calls a closure that computes the loss anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from schuss import dtypes
from schuss.context import enable_grad, no_grad
from schuss.errors import ArgumentError, ArgumentTypeError, GradientError, fail
from schuss.execution.evaluate import evaluate_pending
from schuss.functions.arguments import cast
from schuss.functions.creation import zeros_like
from schuss.functions.manipulation import concat
from schuss.graph import Node
from schuss.optim.line_search import Point, strong_wolfe
from schuss.optim.optimizer import Optimizer
from schuss.tensor import Tensor

_LEAST_CURVATURE = 1e-10


class LBFGS(Optimizer):
    """Limited-memory BFGS (Liu and Nocedal, 1989): steps that learn the curvature on their way.

    For problems that are computed as a whole, not in random batches:

        def closure():
            optimizer.zero_grad()
            loss = compute_loss()
            loss.backward()
            return loss

        loss = optimizer.step(closure)

    Args:
        params: parameters, in one group.
        lr: the learning rate: the first step length that is tried.
        max_iter: iterations in a call of `step`.
        max_eval: the most evaluations of the closure in a call; by default 1.25 * max_iter.
        tolerance_grad: where no element of the gradient is larger, it is the minimum.
        tolerance_change: a call ends where parameters or loss change by less.
        history_size: how many steps the curvature is learned from.
        line_search_fn: "strong_wolfe", or None to go `lr` without looking.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        super().__init__(params, {
            "lr": lr, "max_iter": max_iter, "max_eval": max_eval or max_iter * 5 // 4,
            "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change,
            "history_size": history_size, "line_search_fn": line_search_fn,
        })  # fmt: skip
        if len(self.param_groups) != 1:
            raise fail(ArgumentError, "LBFGS", "all parameters belong to one group")

    def check(self, settings: Mapping[str, Any]) -> None:
        super().check(settings)
        if settings["line_search_fn"] not in (None, "strong_wolfe"):
            problem = "line_search_fn is 'strong_wolfe' or None"
            raise fail(ArgumentError, "LBFGS", problem, line_search_fn=settings["line_search_fn"])
        for name in ("max_iter", "max_eval", "history_size"):
            if settings[name] < 1:
                raise fail(ArgumentError, "LBFGS", f"{name} must be positive",
                           **{name: settings[name]})  # fmt: skip

    @property
    def _params(self) -> list[Tensor]:
        return self.param_groups[0]["params"]

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:  # type: ignore[override]
        """Move the parameters towards the minimum; returns the loss before.

        Args:
            closure: forgets the gradients, computes the loss, calls `backward()` and returns it.

        Where that fails, parameters and state are as before.
        """
        if closure is None:
            raise fail(
                ArgumentTypeError,
                "LBFGS.step",
                "needs a closure, which computes the loss and calls backward()",
                hint="optimizer.step(closure)",
            )
        before = [(p, p._node) for p in self._params]
        state = {name: dict(slots) for name, slots in self.state.items()}
        try:
            return _Call(self, closure).run()
        except BaseException:
            _restore(before)
            self.state = state
            raise

    # --- parameters and state as flat vectors ---

    def _evaluate(self, closure: Callable[[], Tensor]) -> tuple[Tensor, float, Tensor]:
        """The loss as a tensor and a number, and the gradient as a vector."""
        with enable_grad():
            loss = closure()
        if not isinstance(loss, Tensor):
            problem = f"the closure must return the loss, not {type(loss).__name__}"
            raise fail(ArgumentTypeError, "LBFGS.step", problem)
        if all(p.grad is None for p in self._params):
            raise fail(GradientError, "LBFGS.step", "the closure left no gradient",
                       hint="call loss.backward() in it")  # fmt: skip
        grads = [zeros_like(p) if p.grad is None else p.grad.detach() for p in self._params]
        gradient = self._flat(grads)
        evaluate_pending([loss._node, gradient._node])
        return loss.detach(), float(loss.item()), gradient

    def _flat(self, parts: Iterable[Tensor]) -> Tensor:
        dtype = dtypes.promote(*[p.dtype for p in self._params])
        return concat([cast(part, dtype).reshape((part.size,)) for part in parts])

    def _split(self, vector: Tensor) -> list[Tensor]:
        made, start = [], 0
        for p in self._params:
            made.append(cast(vector[start : start + p.size].reshape(p.shape), p.dtype))
            start += p.size
        return made

    def _remember(self, vectors: dict[str, Tensor], counts: dict[str, int]) -> None:
        """Keep vectors as slots of the parameters, which is how they are saved."""
        split = {slot: self._split(vector) for slot, vector in vectors.items()}
        evaluate_pending([part._node for parts in split.values() for part in parts])
        for i, name in enumerate(self.param_groups[0]["names"]):
            self.state[name] = {slot: parts[i] for slot, parts in split.items()} | counts

    def _recall(self, slot: str) -> Tensor:
        return self._flat([self.state[name][slot] for name in self.param_groups[0]["names"]])


class _Call:
    """One call of `step`."""

    def __init__(self, optimizer: LBFGS, closure: Callable[[], Tensor]) -> None:
        self.optimizer = optimizer
        self.closure = closure
        self.group = optimizer.param_groups[0]
        self.evaluations = 0
        self.history: list[tuple[Tensor, Tensor]] = []  # steps s, changes of the gradient y
        self.iterations = 0
        saved = optimizer.state.get(self.group["names"][0], {})
        self.previous: Tensor | None = None  # the gradient before the last step
        self.moved: Tensor | None = None  # the last step
        if saved:
            self.iterations = saved["iterations"]
            self.previous, self.moved = (optimizer._recall(slot) for slot in ("gradient", "moved"))
            pairs = range(saved["pairs"])
            self.history = [(optimizer._recall(f"s{i}"), optimizer._recall(f"y{i}")) for i in pairs]

    def look(self) -> tuple[Tensor, float, Tensor]:
        self.evaluations += 1
        return self.optimizer._evaluate(self.closure)

    def run(self) -> Tensor:
        with no_grad():
            first, loss, gradient = self.look()
            group, done = self.group, self.is_minimum(gradient)
            for count in range(1, 0 if done else group["max_iter"] + 1):
                self.iterations += 1
                direction = self.direction(gradient)
                slope = float((gradient * direction).sum().item())
                if slope > -group["tolerance_change"]:
                    break
                self.previous, loss_before = gradient, loss
                step = group["lr"] * self.first_length(gradient)
                last = count == group["max_iter"]
                step, loss, gradient = self.move(direction, step, loss, slope, gradient, last)
                self.moved = step * direction
                if self.evaluations >= group["max_eval"] or self.is_minimum(gradient):
                    break
                change = float(abs(self.moved).max().item())
                if min(change, abs(loss - loss_before)) <= group["tolerance_change"]:
                    break
            self.save()
        return first

    def is_minimum(self, gradient: Tensor) -> bool:
        return bool(abs(gradient).max().item() <= self.group["tolerance_grad"])

    def first_length(self, gradient: Tensor) -> float:
        """Before any curvature is known, no step is longer than 1."""
        if self.iterations > 1:
            return 1.0
        return min(1.0, 1.0 / float(abs(gradient).sum().item()))

    def direction(self, gradient: Tensor) -> Tensor:
        """Minus the inverse of the learned Hessian times the gradient, by the two loops."""
        if self.previous is not None and self.moved is not None:
            y = gradient - self.previous
            if float((y * self.moved).sum().item()) > _LEAST_CURVATURE:
                self.history.append((self.moved, y))
                del self.history[: -self.group["history_size"]]
        q, weights = -gradient, []
        for s, y in reversed(self.history):
            a = (s * q).sum() / (y * s).sum()
            weights.append(a)
            q = q - a * y
        if self.history:
            s, y = self.history[-1]
            q = q * ((y * s).sum() / (y * y).sum())
        for (s, y), a in zip(self.history, reversed(weights), strict=True):
            q = q + s * (a - (y * q).sum() / (y * s).sum())
        return q

    def move(
        self,
        direction: Tensor,
        step: float,
        loss: float,
        slope: float,
        gradient: Tensor,
        last: bool,
    ) -> tuple[float, float, Tensor]:
        """Go along the direction; returns how far, and the loss and gradient there."""
        optimizer = self.optimizer
        start = [p.detach() for p in optimizer._params]
        parts = optimizer._split(direction)

        def go(step: float) -> None:
            for p, at, part in zip(optimizer._params, start, parts, strict=True):
                p.assign(at + step * part)
            evaluate_pending([p._node for p in optimizer._params])

        if self.group["line_search_fn"] is None:
            go(step)
            if not last:  # the next call looks anyway
                _, loss, gradient = self.look()
            return step, loss, gradient

        def along(step: float) -> Point:
            go(step)
            _, value, there = self.look()
            return Point(step, value, float((there * direction).sum().item()), there)

        found = strong_wolfe(along, Point(0.0, loss, slope, gradient), step)
        go(found.step)
        return found.step, found.value, found.found

    def save(self) -> None:
        if self.previous is None or self.moved is None:
            return
        vectors = {"gradient": self.previous, "moved": self.moved}
        for i, (s, y) in enumerate(self.history):
            vectors |= {f"s{i}": s, f"y{i}": y}
        counts = {"iterations": self.iterations, "pairs": len(self.history)}
        self.optimizer._remember(vectors, counts)


def _restore(before: list[tuple[Tensor, Node]]) -> None:
    for p, node in before:
        p._point_at(node)


__all__ = ["LBFGS"]
