"""Recurrent layers: cells of one step, and layers that run them over time, as `schuss.scan` does.

Names, argument order, parameters and the order of gates are PyTorch's, so that state dicts fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar

from schuss import dtypes
from schuss.autodiff.loop_split import run_loop
from schuss.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError, fail
from schuss.functions.arguments import as_tensor
from schuss.functions.creation import arange, zeros
from schuss.functions.elementwise import relu, sigmoid, tanh, where
from schuss.functions.manipulation import concat, expand_dims, split, stack
from schuss.functions.neural import dropout, linear
from schuss.nn import init
from schuss.nn.arguments import floating_argument, positive
from schuss.nn.module import Module, Parameter
from schuss.ops.body import Body, Type, body_of, derive_once, stand_in, types_of
from schuss.philox import Generator
from schuss.tensor import Tensor

State = tuple[Tensor, ...]


# --- what a step computes ---
#
# Each takes the input's share of the gates, (B, gates * H), which is computed for all steps at
# once, and what makes the state's share; it returns the new state, whose first part is the output.


@cache
def _rnn(activation: Callable[[Tensor], Tensor]) -> Any:
    def step(x: Tensor, share: Callable[[Tensor], Tensor], bias: Any, state: State) -> State:
        gates = x + share(state[0])
        return (activation(gates if bias is None else gates + bias),)

    return step


def _lstm(x: Tensor, share: Callable[[Tensor], Tensor], bias: Any, state: State) -> State:
    """i, f, g, o = W x + U h;  c' = f c + i g;  h' = o tanh(c'). Hochreiter and Schmidhuber (1997),
    with the forget gate of Gers et al. (2000).
    """
    h, c = state
    gates = x + share(h)
    i, f, g, o = split(gates if bias is None else gates + bias, c.shape[-1], axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def _gru(x: Tensor, share: Callable[[Tensor], Tensor], bias: Any, state: State) -> State:
    """r, z = W x + U h;  n = tanh(W x + r (U h + b));  h' = (1 - z) n + z h. Cho et al. (2014), in
    the form of PyTorch and cuDNN: r acts behind the product.
    """
    (h,) = state
    mine = share(h) if bias is None else share(h) + bias
    size = h.shape[-1]
    r, z, n = split(x, size, axis=-1)
    hr, hz, hn = split(mine, size, axis=-1)
    r, z = sigmoid(r + hr), sigmoid(z + hz)
    n = tanh(n + r * hn)
    return (n + z * (h - n),)


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
        return _rnn(_ACTIVATIONS[self.nonlinearity])

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
        return _lstm

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
        return _gru

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._run(x, None if hx is None else [hx])[0]


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": tanh, "relu": relu}


def _nonlinearity(layer: str, name: str) -> str:
    if name not in _ACTIVATIONS:
        raise fail(ArgumentError, layer, 'nonlinearity must be "tanh" or "relu"', got=name)
    return name


# --- layers ---


def _record_step(step: Any, names: tuple[str, ...], masked: bool, types: tuple[Type, ...]) -> Body:
    """A step of a layer as a body: of the weights (turned), a row of x, its mask, and the state."""
    xs = [stand_in(each) for each in types]
    weights = dict(zip(names, xs, strict=False))
    row, *rest = xs[len(names) :]
    valid, state = (rest[0], tuple(rest[1:])) if masked else (None, tuple(rest))
    mine = row @ weights["weight_ih"]
    if "bias_ih" in weights:
        mine = mine + weights["bias_ih"]
    new = step(mine, lambda h: h @ weights["weight_hh"], weights.get("bias_hh"), state)
    if "weight_hr" in weights:
        new = (new[0] @ weights["weight_hr"], *new[1:])
    y = new[0]
    if valid is not None:  # behind the end of a sequence the state stays as it is
        y = where(valid, y, zeros((), dtype=y.dtype))
        new = tuple(where(valid, a, b) for a, b in zip(new, state, strict=True))
    return body_of([each._node for each in (*new, y)], [x._node for x in xs])


_WEIGHTS = ("weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh")
_body_of_step = derive_once(_record_step)


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
        single = x.ndim == 2
        if single:
            x = expand_dims(x, 1)
        elif self.batch_first:
            x = x.permute_dims((1, 0, 2))
        states = self._first_states(x, state, single)
        mask = None if lengths is None else self._mask(lengths, x, single)
        ends: list[State] = []
        for layer in range(self.num_layers):
            if layer and self.dropout and self.training:
                x = dropout(x, self.dropout, training=True)
            outputs = []
            for way, suffix in enumerate(self._suffixes(layer)):
                start = tuple(each[len(ends)] for each in states)
                y, end = self._direction(suffix, x, start, mask, reverse=way == 1)
                outputs.append(y)
                ends.append(end)
            x = outputs[0] if len(outputs) == 1 else concat(outputs, axis=-1)
        last = tuple(stack(list(each)) for each in zip(*ends, strict=True))
        if single:
            return x[:, 0], tuple(each[:, 0] for each in last)
        return (x.permute_dims((1, 0, 2)) if self.batch_first else x), last

    def _direction(
        self, suffix: str, x: Tensor, start: State, mask: Tensor | None, reverse: bool
    ) -> tuple[Tensor, State]:
        """One layer in one direction: (T, N, in) -> (T, N, out), and the state at the end."""
        found = {key: getattr(self, f"{key}_{suffix}", None) for key in _WEIGHTS}
        weights: dict[str, Tensor] = {key: each for key, each in found.items() if each is not None}
        if self.bias and self._adds_biases:
            weights["bias_ih"] = weights["bias_ih"] + weights.pop("bias_hh")
        used = [each.mT if each.ndim == 2 else each for each in weights.values()]
        rows = [x] if mask is None else [x, mask]
        width = self._widths[0]
        if not x.shape[0]:
            return zeros((0, x.shape[1], width), dtype=x.dtype), start
        steps = tuple(Type(each.shape[1:], each.dtype) for each in rows)
        types = (*types_of(used), *steps, *types_of(start))
        body = _body_of_step(self._step(), tuple(weights), mask is not None, types)
        wanted = [True] * self.states
        end, (y,) = run_loop(body, used, rows, start, x.shape[0], reverse, wanted)
        return y, tuple(end)  # type: ignore[arg-type]  # all of them are wanted

    _adds_biases = True  # whether both biases are added to the same sum

    def _checked(self, x: Tensor) -> Tensor:
        name = type(self).__name__
        x = floating_argument(name, x)
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            batched = "(N, T, {})" if self.batch_first else "(T, N, {})"
            shapes = f"{batched} or (T, {{}})".format(self.input_size, self.input_size)
            raise fail(ShapeError, name, f"x must have the shape {shapes}", x=x)
        return x

    def _first_states(
        self, x: Tensor, state: Sequence[Tensor] | None, single: bool
    ) -> list[Tensor]:
        count = self.num_layers * (2 if self.bidirectional else 1)
        shapes = [(count, x.shape[1], size) for size in self._widths]
        if state is None:
            return [zeros(shape, dtype=x.dtype) for shape in shapes]
        made = []
        for each, shape in zip(state, shapes, strict=True):
            expected = (shape[0], shape[2]) if single else shape
            if each.shape != expected:
                problem = f"the state must have the shape {expected}"
                raise fail(ShapeError, type(self).__name__, problem, state=each)
            made.append(expand_dims(each, 1) if single else each)
        return made

    def _mask(self, lengths: Any, x: Tensor, single: bool) -> Tensor:
        """Which steps of which sequence are there: (T, N, 1)."""
        name = type(self).__name__
        if single:
            raise fail(ArgumentError, name, "lengths need a batch of sequences", x=x)
        lengths = as_tensor(lengths, name)
        if not dtypes.is_integral(lengths.dtype):
            raise fail(DTypeError, name, "lengths must be integers", lengths=lengths)
        if lengths.shape != (x.shape[1],):
            problem = f"there must be a length for each of the {x.shape[1]} sequences"
            raise fail(ShapeError, name, problem, lengths=lengths, x=x)
        steps = arange(x.shape[0], dtype=lengths.dtype)
        return expand_dims(expand_dims(steps, 1) < lengths, 2)

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
        return _rnn(_ACTIVATIONS[self.nonlinearity])

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
        return _lstm

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
        return _gru

    def forward(
        self, x: Tensor, hx: Tensor | None = None, *, lengths: Any = None
    ) -> tuple[Tensor, Tensor]:
        output, (h,) = self._run(x, None if hx is None else [hx], lengths)
        return output, h
