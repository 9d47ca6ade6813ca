"""What happens while a function is recorded: hooks that tensors, optimizers and generators call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from schuss.context import context
from schuss.errors import describe_location, user_location
from schuss.execution.evaluate import evaluate_pending
from schuss.execution.jit_numbers import LiveFloat, LiveInt, Tape, number
from schuss.graph import Node, scalar
from schuss.philox import Generator


class Trace:
    """One run of a function under observation; `context.recording` while it lasts.

    Args:
        defer: whether evaluations that optimizers ask for wait until the function has ended.
        live: whether numbers of optimizers are followed.

    Attributes:
        defer: whether evaluations still wait: not once Python has looked at a value.
        problem: why this run cannot be replayed; empty where it can.
        deferred: whether an evaluation waits.
        tape: how numbers of optimizers were computed.
        reads: for the registers of the tape that were read: the container, the key, and the value.
        outs: for numbers that optimizers put back: container and key, by their register.
        numbers: leaves of the graph that hold a number of the tape, with its register.
        draws: leaves that hold the state of a generator, with the generator and the count.
    """

    def __init__(self, defer: bool, live: bool = False) -> None:
        self.problem = ""
        self.deferred = False
        self.tape = Tape()
        self.reads: dict[int, tuple[Any, Any, Any]] = {}
        self.outs: dict[tuple[int, Any], int] = {}
        self.numbers: dict[Node, int] = {}
        self.draws: dict[Node, tuple[Generator, int]] = {}
        self.defer = defer
        self._live = live and defer
        self._leaves: dict[tuple[int, Any], Node] = {}
        self._tuples: dict[int, tuple[Any, Any]] = {}  # of live numbers, and what they stand for
        self._current: dict[tuple[int, Any], LiveFloat | LiveInt] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """For the time that the function runs."""
        context.recording = self
        try:
            yield
        finally:
            context.recording = None

    def complain(self, problem: str) -> None:
        """Note why this run cannot be replayed: the first reason counts."""
        if not self.problem:
            self.problem = f"{problem} ({describe_location(user_location())})"

    # --- hooks ---

    def looked(self) -> None:
        """Python looks at a value: from here on everything happens as without us."""
        self.complain("it looks at a value in Python")
        if self.defer:
            self.defer = False
            if self.deferred:
                evaluate_pending()

    def defers(self) -> bool:
        """Whether an evaluation that nobody has to see yet waits for the end."""
        self.deferred = self.deferred or self.defer
        return self.defer

    def took(self, value: Any) -> None:
        """Host data becomes a tensor: lists are known by their content, arrays may change."""
        if not _is_list_of_numbers(value):
            self.complain(f"it makes a tensor of a {type(value).__name__}: pass tensors instead")

    def drew(self, leaf: Node, generator: Generator, count: int) -> None:
        """Random numbers were drawn."""
        self.draws[leaf] = (generator, count)

    def number(self, value: Any, dtype: Any) -> Node | None:
        """The leaf of a live number; None for any other."""
        if type(value) is not LiveFloat and type(value) is not LiveInt:
            return None
        key = (value.register, dtype)
        leaf = self._leaves.get(key)
        if leaf is None:
            context.recording = None  # the plain number is recorded as ever
            try:
                leaf = self._leaves[key] = scalar(value.plain, dtype)._node
            finally:
                context.recording = self
            leaf.constant = None  # another number, next time
            self.numbers[leaf] = value.register
        return leaf

    @contextmanager
    def numbers_of(self, optimizer: Any) -> Iterator[None]:
        """Live numbers in place of the settings and counts of an optimizer, while it steps."""
        if not self._live or not type(optimizer).__module__.startswith("schuss."):
            yield
            return
        self._enter(optimizer)
        try:
            yield
        finally:
            self._leave(optimizer)

    def _enter(self, optimizer: Any) -> None:
        for container in _containers(optimizer):
            for key, value in container.items():
                if type(value) is tuple and value and all(type(each) is float for each in value):
                    live = container[key] = tuple([self.tape.read(each) for each in value])
                    self._tuples[id(live)] = (live, value)
                if type(value) is not int and type(value) is not float:
                    continue
                place = (id(container), key)
                known = self._current.get(place)
                if known is None:
                    known = self._current[place] = self.tape.read(value)
                    self.reads[known.register] = (container, key, value)
                if known.plain is value or known.plain == value:
                    container[key] = known

    def _leave(self, optimizer: Any) -> None:
        for container in _containers(optimizer):
            for key, value in container.items():
                if type(value) is tuple and id(value) in self._tuples:
                    container[key] = self._tuples[id(value)][1]
                elif isinstance(value, (LiveFloat, LiveInt)):
                    container[key] = number(value)
                    self._current[(id(container), key)] = value
                    self.outs[(id(container), key)] = value.register


def _containers(optimizer: Any) -> list[dict[Any, Any]]:
    return [*optimizer.param_groups, *optimizer.state.values()]


def _is_list_of_numbers(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_list_of_numbers(each) for each in value)
    return isinstance(value, (bool, int, float, complex)) and not isinstance(value, np.generic)
