"""Constant factors and terms behind convolutions and products, put into their weights.

Of `(x @ w - m) * s + b` with constant w, m, s and b remains `x @ (w * s) + (b - m * s)`: a batch
normalisation in evaluation costs nothing (Jacob et al., "Quantization and training of neural
networks for efficient integer-arithmetic-only inference", 2018, section 3.2). Results differ by the
rounding of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from schuss import dtypes
from schuss.compiler.constants import constant
from schuss.compiler.values import Graph, Value, users_of


def absorb(graph: Graph) -> Graph:
    """The graph with fewer factors and terms, and with those constants only that it still uses."""
    users = users_of(graph.values)
    wanted = {*graph.outputs, *graph.checks}
    copy = _Copy([value for value in graph.inputs if value.array is None])
    for value in graph.values:
        if value in copy.of or value.array is not None:
            continue  # a part of a chain; or a constant, which comes when it is used
        chain = _chain_from(value, users, wanted) if _has_weights(value) else None
        if chain is None:
            copy.add(value, [copy.get(each) for each in value.inputs])
        else:
            copy.add_chain(chain)
    outputs, checks = ([copy.get(each) for each in some] for some in (graph.outputs, graph.checks))
    return Graph(copy.values, copy.inputs, outputs, checks)


class _Copy:
    """A graph in the making, and what became of each value of the old one."""

    def __init__(self, inputs: list[Value]) -> None:
        self.values: list[Value] = []
        self.inputs = inputs
        self.of: dict[Value, Value] = {each: self._append(each) for each in inputs}

    def _append(self, value: Value) -> Value:
        value.number = len(self.values)
        self.values.append(value)
        return value

    def get(self, value: Value) -> Value:
        if value.array is not None and value not in self.of:
            self.inputs.append(value)
            self.of[value] = self._append(value)
        return self.of[value]

    def add(self, value: Value, inputs: Sequence[Value]) -> Value:
        self.of[value] = self._append(replace(value, inputs=tuple(inputs)))
        return self.of[value]

    def add_chain(self, chain: _Chain) -> None:
        y = self.add(chain.start, [self.get(chain.start.inputs[0]), self.get(chain.weights())])
        if chain.term.any():
            term = self.get(constant(chain.along_outputs(chain.term).astype(y.dtype)))
            y = self._append(Value("add", (y, term), {}, y.shape, y.dtype))
        self.of.update(dict.fromkeys(chain.members, y))


@dataclass
class _Chain:
    """A convolution or product and what follows it: start * factor + term.

    Attributes:
        members: the values, of which only the last one has other users.
        factor, term: for each output (a channel, a column): float64 (outputs,).
    """

    members: list[Value]
    factor: np.ndarray
    term: np.ndarray

    @property
    def start(self) -> Value:
        return self.members[0]

    def weights(self) -> Value:
        """The weights with the factor in them."""
        array = self.start.inputs[1].array
        assert array is not None
        last = (-1,) if self.start.op == "matmul" else (-1,) + (1,) * (array.ndim - 1)
        return constant((array * self.factor.reshape(last)).astype(array.dtype))

    def along_outputs(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers for the outputs, with axes of size 1 for those that come behind them."""
        behind = len(self.start.shape) - 2 if self.start.op == "convolve" else 0
        return numbers.reshape((-1,) + (1,) * behind)

    def takes(self, user: Value) -> bool:
        """Whether a user of the last member is a factor or a term for each output. If so, it
        becomes the last member.
        """
        last = self.members[-1]
        if user.op not in ("multiply", "divide", "add", "subtract") or user.dtype != last.dtype:
            return False
        x, y = user.inputs
        if user.op in ("multiply", "add") and y is last:
            x, y = y, x
        numbers = self._for_outputs(y) if x is last and user.shape == last.shape else None
        if numbers is None:
            return False
        with np.errstate(all="ignore"):
            if user.op in ("multiply", "divide"):
                scale = numbers if user.op == "multiply" else 1 / numbers
                factor, term = self.factor * scale, self.term * scale
            else:
                term = self.term + numbers if user.op == "add" else self.term - numbers
                factor = self.factor
        if not (np.isfinite(factor).all() and np.isfinite(term).all()):
            return False
        self.factor, self.term = factor, term
        self.members.append(user)
        return True

    def _for_outputs(self, value: Value) -> np.ndarray | None:
        """A constant as float64 (outputs,); None where it varies along other axes."""
        outputs = len(self.factor)
        if value.op == "constant":
            return np.full(outputs, value.attributes["value"], np.float64)
        if value.array is None:
            return None
        shape = self.along_outputs(self.factor).shape
        own = (1,) * (len(shape) - len(value.shape)) + value.shape
        if any(n != 1 for n in own[: len(own) - len(shape)]):
            return None
        if any(n not in (1, m) for n, m in zip(own[len(own) - len(shape) :], shape, strict=True)):
            return None
        return np.broadcast_to(value.array.reshape(-1), (outputs,)).astype(np.float64)


def _chain_from(start: Value, users: dict[Value, list[Value]], wanted: set[Value]) -> _Chain | None:
    """The longest chain from here; None where it has no factor, so that nothing is gained."""
    outputs = start.shape[1 if start.op == "convolve" else -1]
    chain = _Chain([start], np.ones(outputs), np.zeros(outputs))
    while chain.members[-1] not in wanted:
        followers = users[chain.members[-1]]
        if len(followers) != 1 or not chain.takes(followers[0]):
            break
    factors = any(each.op in ("multiply", "divide") for each in chain.members)
    return chain if factors else None


def _has_weights(value: Value) -> bool:
    exact = value.dtype in (dtypes.float32, dtypes.float64)
    if value.op not in ("convolve", "matmul") or not exact or not value.size:
        return False
    return value.inputs[0].array is None and value.inputs[1].array is not None
