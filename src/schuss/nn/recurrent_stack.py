"""What recurrent cells and layers compute: a step, and layers on top of each other over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, reduce
from typing import Any, NamedTuple

from schuss import dtypes
from schuss.autodiff.loop_split import run_loop
from schuss.dtypes import DType
from schuss.functions.arguments import cast
from schuss.functions.creation import zeros
from schuss.functions.elementwise import sigmoid, tanh, where
from schuss.functions.manipulation import concat, expand_dims, split, stack
from schuss.functions.neural import dropout
from schuss.ops.body import Body, Type, body_of, derive_once, stand_in, types_of
from schuss.patterns import repeating
from schuss.tensor import Tensor

State = tuple[Tensor, ...]


# --- what a step computes ---
#
# Each takes the input's share of the gates, (B, gates * H), which is computed for all steps at
# once, and what makes the state's share; it returns the new state, whose first part is the output.


@cache
def rnn(activation: Callable[[Tensor], Tensor]) -> Any:
    def step(x: Tensor, share: Callable[[Tensor], Tensor], bias: Any, state: State) -> State:
        gates = x + share(state[0])
        return (activation(gates if bias is None else gates + bias),)

    return step


def lstm(x: Tensor, share: Callable[[Tensor], Tensor], bias: Any, state: State) -> State:
    """i, f, g, o = W x + U h;  c' = f c + i g;  h' = o tanh(c'). Hochreiter and Schmidhuber (1997),
    with the forget gate of Gers et al. (2000).
    """
    h, c = state
    gates = x + share(h)
    i, f, g, o = split(gates if bias is None else gates + bias, c.shape[-1], axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def gru(x: Tensor, share: Callable[[Tensor], Tensor], bias: Any, state: State) -> State:
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


WEIGHTS = ("weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh")
_body_of_step = derive_once(_record_step)


class Stack(NamedTuple):
    """What layers on top of each other compute, their weights and states apart.

    Attributes:
        step: what a step computes.
        names: of the weights of each layer and direction, in order.
        layers, ways: how many layers and directions.
        widths: of the parts of the state.
        batch_first: x and output are (N, T, size).
        adds_biases: both biases are added to the same sum.
        dropped: the share of a layer's outputs that the next one does not see.
    """

    step: Any
    names: tuple[str, ...]
    layers: int
    ways: int
    widths: tuple[int, ...]
    batch_first: bool
    adds_biases: bool
    dropped: float

    def run(self, x: Tensor, mask: Tensor | None, *given: Tensor | None) -> State:
        """The output and the last state, in the layout of x; `given` are a state and all weights.

        A state of None is zeros. States have the dtype in which x, state and weights meet.
        """
        single = x.ndim == 2
        if single:
            x = expand_dims(x, 1)
        elif self.batch_first:
            x = x.permute_dims((1, 0, 2))
        there = [each.dtype for each in (x, *given) if each is not None]
        dtype = reduce(dtypes.meet, there)  # type: ignore[arg-type]
        states = self._first_states(x, given[: len(self.widths)], single, dtype)
        weights = iter(given[len(self.widths) :])
        ends: list[State] = []
        for layer in range(self.layers):
            if layer and self.dropped:
                x = dropout(x, self.dropped, training=True)
            outputs = []
            for way in range(self.ways):
                start = tuple(each[len(ends)] for each in states)
                own: Any = {name: next(weights) for name in self.names}
                y, end = self._direction(own, x, start, mask, reverse=way == 1)
                outputs.append(y)
                ends.append(end)
            x = outputs[0] if len(outputs) == 1 else concat(outputs, axis=-1)
        last = tuple(stack(list(each)) for each in zip(*ends, strict=True))
        if single:
            return x[:, 0], *[each[:, 0] for each in last]
        return x.permute_dims((1, 0, 2)) if self.batch_first else x, *last

    def _first_states(
        self, x: Tensor, given: Sequence[Tensor | None], single: bool, dtype: DType
    ) -> list[Tensor]:
        made = []
        for each, size in zip(given, self.widths, strict=True):
            if each is None:
                made.append(zeros((self.layers * self.ways, x.shape[1], size), dtype=dtype))
            else:
                made.append(cast(expand_dims(each, 1) if single else each, dtype))
        return made

    def _direction(
        self, weights: dict[str, Tensor], x: Tensor, start: State, mask: Tensor | None,
        reverse: bool,
    ) -> tuple[Tensor, State]:  # fmt: skip
        """One layer in one direction: (T, N, in) -> (T, N, out), and the state at the end."""
        if "bias_hh" in weights and self.adds_biases:
            weights["bias_ih"] = weights["bias_ih"] + weights.pop("bias_hh")
        used = [each.mT if each.ndim == 2 else each for each in weights.values()]
        rows = [x] if mask is None else [x, mask]
        if not x.shape[0]:
            return zeros((0, x.shape[1], self.widths[0]), dtype=start[0].dtype), start
        steps = tuple(Type(each.shape[1:], each.dtype) for each in rows)
        types = (*types_of(used), *steps, *types_of(start))
        body = _body_of_step(self.step, tuple(weights), mask is not None, types)
        wanted = [True] * len(self.widths)
        end, (y,) = run_loop(body, used, rows, start, x.shape[0], reverse, wanted)
        return y, tuple(end)  # type: ignore[arg-type]  # all of them are wanted


@cache
def repeated(stack: Stack) -> Callable[..., State]:
    """What it computes, out of memory where the same is recorded again."""

    def run(*given: Tensor | None) -> State:
        return stack.run(*given)  # type: ignore[arg-type]

    return repeating(run)
