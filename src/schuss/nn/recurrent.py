"""Recurrent layers: cells of one step, and layers that run them over time, as `schuss.scan` does.

Names, argument order, parameters and the order of gates are PyTorch's, so that state dicts fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, ClassVar

from schuss import dtypes
from schuss.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError, fail
from schuss.functions.arguments import as_tensor
from schuss.functions.creation import arange, zeros
from schuss.functions.elementwise import relu, tanh
from schuss.functions.manipulation import expand_dims
from schuss.functions.neural import linear
from schuss.nn import init
from schuss.nn.arguments import floating_argument, positive
from schuss.nn.module import Module, Parameter
from schuss.nn.recurrent_stack import WEIGHTS, Stack, State, gru, lstm, repeated, rnn
from schuss.philox import Generator
from schuss.tensor import Tensor


class _Recurrent(Module):
    """What cells and layers share: sizes, weights of a kind of step, and the step."""

    gates: ClassVar[int]
    states: ClassVar[int] = 1
    input_size: int
    hidden_size: int

    def _step(self) -> Any:
        raise NotImplementedError

    def _sizes(self, input_size: int, hidden_size: int, dtype: Any) -> Any:
        positive(type(self).__name__, input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.hidden_size = input_size, hidden_size
        return dtypes.default_float if dtype is None else dtypes.as_dtype(dtype)

    def _fresh(self, shape: Sequence[int], dtype: Any, generator: Generator | None) -> Parameter:
        """Even within +-1 / sqrt(hidden_size), as in PyTorch."""
        parameter = Parameter(zeros(tuple(shape), dtype=dtype))
        bound = 1 / math.sqrt(self.hidden_size)
        init.uniform_(parameter, -bound, bound, generator)
        return parameter


# --- cells ---


class _Cell(_Recurrent):
    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None,
        generator: Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        kind = self._sizes(input_size, hidden_size, dtype)
        rows = self.gates * hidden_size
        self.weight_ih = self._fresh((rows, input_size), kind, generator)
        self.weight_hh = self._fresh((rows, hidden_size), kind, generator)
        self.bias_ih = self._fresh((rows,), kind, generator) if bias else None
        self.bias_hh = self._fresh((rows,), kind, generator) if bias else None

    def _run(self, x: Tensor, state: Sequence[Tensor] | None) -> State:
        name = type(self).__name__
        x = floating_argument(name, x)
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            problem = f"x must have the shape (N, {self.input_size}) or ({self.input_size},)"
            raise fail(ShapeError, name, problem, x=x, weight_ih=self.weight_ih)
        shape = (*x.shape[:-1], self.hidden_size)
        if state is None:
            state = [zeros(shape, dtype=x.dtype)] * self.states
        for each in state:
            if each.shape != shape:
                problem = f"the state must have the shape {shape}"
                raise fail(ShapeError, name, problem, state=each, x=x)
        weight = self.weight_hh.mT
        mine = linear(x, self.weight_ih, self.bias_ih)
        return self._step()(mine, lambda h: h @ weight, self.bias_hh, tuple(state))

    def describe(self) -> str:
        bias = "" if self.bias_ih is not None else ", bias=False"
        return f"{self.input_size}, {self.hidden_size}{bias}"


class RNNCell(_Cell):
    """h' = tanh(W x + b + U h + c).

    Args:
        input_size, hidden_size: sizes of x and of h.
        bias: whether to add b and c.
        nonlinearity: "tanh" or "relu".

    Shapes: x (N, input_size), h (N, hidden_size) -> (N, hidden_size), or all without N. Without h
        it is zeros. weight_ih (hidden_size, input_size), weight_hh (hidden_size, hidden_size).
    """

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True,
                 nonlinearity: str = "tanh", *, dtype: Any = None,
                 generator: Generator | None = None) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, dtype=dtype, generator=generator)
        self.nonlinearity = _nonlinearity("RNNCell", nonlinearity)

    def _step(self) -> Any:
        return rnn(_ACTIVATIONS[self.nonlinearity])

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._run(x, None if hx is None else [hx])[0]


class LSTMCell(_Cell):
    """One step of a long short-term memory; see LSTM.

    Args:
        input_size, hidden_size: sizes of x and of h and c.
        bias: whether to add biases.

    Shapes: x (N, input_size), (h, c) each (N, hidden_size) -> the new (h, c), or all without N.
        Without (h, c) they are zeros. The gates in weight_ih (4 * hidden_size, input_size) are
        input, forget, cell, output.
    """

    gates, states = 4, 2

    def _step(self) -> Any:
        return lstm

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        h, c = self._run(x, hx)
        return h, c


class GRUCell(_Cell):
    """One step of a gated recurrent unit; see GRU.

    Args and shapes as for RNNCell; the gates in weight_ih (3 * hidden_size, input_size) are reset,
    update, new.
    """

    gates = 3

    def _step(self) -> Any:
        return gru

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._run(x, None if hx is None else [hx])[0]


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": tanh, "relu": relu}


def _nonlinearity(layer: str, name: str) -> str:
    if name not in _ACTIVATIONS:
        raise fail(ArgumentError, layer, 'nonlinearity must be "tanh" or "relu"', got=name)
    return name


# --- layers ---


class _Layer(_Recurrent):
    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
        proj_size: int = 0, *, dtype: Any = None, generator: Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        name = type(self).__name__
        kind = self._sizes(input_size, hidden_size, dtype)
        positive(name, num_layers=num_layers)
        if not 0 <= dropout <= 1:
            raise fail(ArgumentError, name, "dropout must be between 0 and 1", dropout=dropout)
        if not 0 <= proj_size < hidden_size:
            problem = "proj_size must be smaller than hidden_size, or 0 for none"
            raise fail(ArgumentError, name, problem, proj_size=proj_size, hidden_size=hidden_size)
        self.num_layers, self.bias, self.batch_first = num_layers, bias, batch_first
        self.dropout, self.bidirectional, self.proj_size = dropout, bidirectional, proj_size
        out, rows = proj_size or hidden_size, self.gates * hidden_size
        ways = 2 if bidirectional else 1
        for layer in range(num_layers):
            width = input_size if layer == 0 else out * ways
            for suffix in self._suffixes(layer):
                shapes: dict[str, tuple[int, ...]] = {
                    "weight_ih": (rows, width),
                    "weight_hh": (rows, out),
                }
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                for key, shape in shapes.items():
                    setattr(self, f"{key}_{suffix}", self._fresh(shape, kind, generator))

    def _suffixes(self, layer: int) -> list[str]:
        names = [f"l{layer}"]
        return [*names, f"l{layer}_reverse"] if self.bidirectional else names

    @property
    def _widths(self) -> list[int]:
        """Sizes of the parts of the state; the first is that of the output."""
        return [self.proj_size or self.hidden_size, self.hidden_size][: self.states]

    def _run(self, x: Tensor, state: Sequence[Tensor] | None, lengths: Any) -> tuple[Tensor, State]:
        """Output (T, N, ways * out) and state (layers * ways, N, size), in the layout of x."""
        x = self._checked(x)
        single, dropped = x.ndim == 2, 0.0
        batch = 1 if single else x.shape[0 if self.batch_first else 1]
        steps = x.shape[1 if self.batch_first and not single else 0]
        self._check_state(state, batch, single)
        mask = None if lengths is None else self._mask(lengths, steps, batch, single)
        suffixes = [each for layer in range(self.num_layers) for each in self._suffixes(layer)]
        there = [getattr(self, f"{key}_{suffixes[0]}", None) is not None for key in WEIGHTS]
        names = tuple(compress(WEIGHTS, there))
        weights = [getattr(self, f"{key}_{suffix}") for suffix in suffixes for key in names]
        if self.training and self.num_layers > 1:
            dropped = self.dropout
        stack = Stack(
            self._step(), names, self.num_layers, 2 if self.bidirectional else 1,
            tuple(self._widths), self.batch_first, self._adds_biases, dropped,
        )  # fmt: skip
        run = stack.run if dropped or not steps else repeated(stack)
        y, *last = run(x, mask, *([None] * self.states if state is None else state), *weights)
        return y, tuple(last)

    _adds_biases = True  # whether both biases are added to the same sum

    def _checked(self, x: Tensor) -> Tensor:
        name = type(self).__name__
        x = floating_argument(name, x)
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            batched = "(N, T, {})" if self.batch_first else "(T, N, {})"
            shapes = f"{batched} or (T, {{}})".format(self.input_size, self.input_size)
            raise fail(ShapeError, name, f"x must have the shape {shapes}", x=x)
        return x

    def _check_state(self, state: Sequence[Tensor] | None, batch: int, single: bool) -> None:
        count = self.num_layers * (2 if self.bidirectional else 1)
        for each, size in zip(state or (), self._widths, strict=state is not None):
            expected = (count, size) if single else (count, batch, size)
            if each.shape != expected:
                problem = f"the state must have the shape {expected}"
                raise fail(ShapeError, type(self).__name__, problem, state=each)

    def _mask(self, lengths: Any, steps: int, batch: int, single: bool) -> Tensor:
        """Which steps of which sequence are there: (T, N, 1)."""
        name = type(self).__name__
        if single:
            raise fail(ArgumentError, name, "lengths need a batch of sequences", lengths=lengths)
        lengths = as_tensor(lengths, name)
        if not dtypes.is_integral(lengths.dtype):
            raise fail(DTypeError, name, "lengths must be integers", lengths=lengths)
        if lengths.shape != (batch,):
            problem = f"there must be a length for each of the {batch} sequences"
            raise fail(ShapeError, name, problem, lengths=lengths)
        clock = arange(steps, dtype=lengths.dtype)
        return expand_dims(expand_dims(clock, 1) < lengths, 2)

    def describe(self) -> str:
        shown = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0,
                    "bidirectional": False, "proj_size": 0}  # fmt: skip
        shown += [f"{key}={getattr(self, key)}" for key, usual in defaults.items()
                  if getattr(self, key) != usual]  # fmt: skip
        return ", ".join(shown)


class RNN(_Layer):
    """h[t] = tanh(W x[t] + b + U h[t - 1] + c), over time. J. Elman (1990).

    Args:
        input_size, hidden_size: sizes of x[t] and of h[t].
        num_layers: so many on top of each other, each reading the outputs of the one below.
        nonlinearity: "tanh" or "relu".
        bias: whether to add b and c.
        batch_first: x and output are (N, T, size) instead of (T, N, size).
        dropout: the share of each layer's outputs that the next one does not see in training.
        bidirectional: a second RNN reads from the end; outputs stand side by side.

    Call: `output, h_n = rnn(x, h_0=None, lengths=None)`, with x (T, N, input_size) or (T,
    input_size); output (T, N, ways * hidden_size), ways = 2 if bidirectional; h_0 and h_n
    (num_layers * ways, N, hidden_size) in any case. `lengths` (N,) says how many steps of each
    sequence count: outputs behind are zeros, h_n is the state at the end of each, and the second
    direction begins there.
    """

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1,
                 nonlinearity: str = "tanh", bias: bool = True, batch_first: bool = False,
                 dropout: float = 0.0, bidirectional: bool = False, *, dtype: Any = None,
                 generator: Generator | None = None) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout,
                         bidirectional, dtype=dtype, generator=generator)  # fmt: skip
        self.nonlinearity = _nonlinearity("RNN", nonlinearity)

    def _step(self) -> Any:
        return rnn(_ACTIVATIONS[self.nonlinearity])

    def forward(
        self, x: Tensor, hx: Tensor | None = None, *, lengths: Any = None
    ) -> tuple[Tensor, Tensor]:
        output, (h,) = self._run(x, None if hx is None else [hx], lengths)
        return output, h


class LSTM(_Layer):
    """Long short-term memory over time. Hochreiter and Schmidhuber (1997).

        i, f, g, o = W x[t] + b + U h[t - 1] + c        (input, forget, cell, output)
        c[t] = sigmoid(f) c[t - 1] + sigmoid(i) tanh(g)
        h[t] = sigmoid(o) tanh(c[t])

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional: see RNN.
        proj_size: if not 0, h[t] is multiplied by a matrix (proj_size, hidden_size). Sak et al.
            (2014).

    Call: `output, (h_n, c_n) = lstm(x, (h_0, c_0)=None, lengths=None)`, shapes as for RNN.
    """

    gates, states = 4, 2

    def _step(self) -> Any:
        return lstm

    def forward(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None, *, lengths: Any = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if hx is not None and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
            problem = f"the state is a pair (h_0, c_0), got {type(hx).__name__}"
            raise fail(ArgumentTypeError, "LSTM", problem)
        output, (h, c) = self._run(x, hx, lengths)
        return output, (h, c)


class GRU(_Layer):
    """Gated recurrent units over time. Cho et al. (2014).

        r, z = W x[t] + b + U h[t - 1] + c              (reset, update)
        n = tanh(W x[t] + b + r (U h[t - 1] + c))       (new)
        h[t] = (1 - z) n + z h[t - 1]

    Args and call as for RNN, without nonlinearity.
    """

    gates = 3
    _adds_biases = False

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *,
                 dtype: Any = None, generator: Generator | None = None) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout,
                         bidirectional, dtype=dtype, generator=generator)  # fmt: skip

    def _step(self) -> Any:
        return gru

    def forward(
        self, x: Tensor, hx: Tensor | None = None, *, lengths: Any = None
    ) -> tuple[Tensor, Tensor]:
        output, (h,) = self._run(x, None if hx is None else [hx], lengths)
        return output, h
