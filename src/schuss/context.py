"""What holds for the code that is running now, in each thread on its own.

Few things only: whether gradients are being recorded, the precision of products, which layer and
which gradient rule is running (for error messages), and the nodes whose values are still to come or
that a backward pass is done with. Everything else is an argument.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from schuss.dtypes import DType
    from schuss.errors import Location
    from schuss.execution.jit_trace import Trace
    from schuss.graph import Handle, Node


class Scope(Protocol):
    """The layer that is running; `path()` is its name, such as `LeNet.features.0 (Conv2d)`."""

    def path(self) -> str: ...


_numbers: dict[Any, Node] = {}


class Context(threading.local):
    def __init__(self) -> None:
        self.grad_enabled: bool = True
        self.autocast: DType | None = None  # in which products are computed, see `autocast`
        self.scope: Scope | None = None
        self.location: Location | None = None  # the user's line, where it is known already
        self.differentiating: Node | None = None  # whose rule is running
        self.rule: str = "gradient"  # which one: "gradient", "tangent", "batch"
        self.mapping: int = 0  # how many `vmap` are running a function
        self.examples: dict[Node, Any] | None = None  # what `vmap` has of all examples so far
        self.pending: list[weakref.ref[Node]] = []  # recorded since the last full evaluation
        self.pruned: int = 0  # nodes left out of `pending`, because nobody waits for them
        self.pending_bytes: int = 0  # host data that entered the graph since then
        self.unsettled: list[weakref.ref[Handle]] = []  # tensors with a state, changed since then
        self.spent: list[weakref.ref[Node]] = []  # what backward passes went through since then
        self.recording: Trace | None = None  # while `schuss.jit` watches a function run
        self.learning: bool = False  # while a pattern is recorded: see `learning`
        self.numbers: dict[Any, Node] = _numbers  # among operands: one node for all their uses


context = Context()


@contextmanager
def grad_mode(enabled: bool) -> Iterator[None]:
    previous = context.grad_enabled
    context.grad_enabled = enabled
    try:
        yield
    finally:
        context.grad_enabled = previous


@contextmanager
def rules(kind: str) -> Iterator[None]:
    """While rules of a kind run, each with `context.differentiating` set: for messages."""
    previous = context.differentiating, context.rule
    context.rule = kind
    try:
        yield
    finally:
        context.differentiating, context.rule = previous


@contextmanager
def numbers_apart() -> Iterator[None]:
    """While what is recorded shares no node of a number with anything recorded outside."""
    previous = context.numbers
    context.numbers = {}
    try:
        yield
    finally:
        context.numbers = previous


@contextmanager
def learning() -> Iterator[None]:
    """While a pattern is recorded: a backlog waits, for what is computed loses its inputs."""
    previous, context.learning = context.learning, True
    try:
        yield
    finally:
        context.learning = previous


@contextmanager
def one_example() -> Iterator[None]:
    """While a function runs for one example of a batch: its values cannot be looked at."""
    context.mapping += 1
    try:
        yield
    finally:
        context.mapping -= 1


def no_grad():  # type: ignore[no-untyped-def]  # usable as `with no_grad():` and as a decorator
    """Record no gradients inside a `with` block or a decorated function.

    Tensors computed inside do not require gradients, and parameters may be rebound, as in
    `w -= lr * w.grad`.
    """
    return grad_mode(False)


def enable_grad():  # type: ignore[no-untyped-def]
    """Record gradients inside, even within `no_grad()`. As `no_grad`, a context and a decorator."""
    return grad_mode(True)
