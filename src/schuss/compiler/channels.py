"""Images with their channels last.

Users write (N, C, sizes). Convolutions are fastest where the channels of a position lie side by
side, (N, sizes, C), and so is most of what stands between them: a pass over the graph gives each
value that comes from a convolution or a pooling a twin with channels last, and what is computed
from twins is a twin again. Only where a value with a twin meets something that has no such form
(an output, a general reshape) is it seen through a permutation, so that conversions are left at
the edges of the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schuss.compiler import convolution
from schuss.compiler.convolution import permuted
from schuss.compiler.emit import is_map
from schuss.compiler.simplify import Builder, without_dead
from schuss.compiler.sums import Sums
from schuss.compiler.values import REDUCTIONS, VIEWS, Graph, Shape, Value, memory_of
from schuss.dtypes import is_complex

_CONVOLUTIONS = ("convolve", "convolve_weight", "convolve_input")


def channels_last(graph: Graph) -> Graph:
    """The graph with convolutions, and all that goes with them, on values with channels last."""
    if not has_images(graph):
        return graph
    twins = _Twins()
    for value in graph.values:
        twins.take(value)
    outputs = [twins.output(each) for each in graph.outputs]
    checks = [twins.plain(each) for each in graph.checks]
    return without_dead(Graph(twins.builder.values, graph.inputs, outputs, checks))


def has_images(graph: Graph) -> bool:
    """Whether images get their channels last: pooling alone is not worth the way there and back."""
    return any(value.op in (*_CONVOLUTIONS, "overlap") for value in graph.values)


def to_last(b: Builder, x: Value) -> Value:
    """(N, C, sizes) -> (N, sizes, C)"""
    rank = len(x.shape)
    return permuted(b, x, (0, *range(2, rank), 1))


def to_first(b: Builder, x: Value) -> Value:
    """(N, sizes, C) -> (N, C, sizes)"""
    rank = len(x.shape)
    return permuted(b, x, (0, rank - 1, *range(1, rank - 1)))


def last_shape(shape: Shape) -> Shape:
    return (shape[0], *shape[2:], shape[1])


class _Twins:
    """Values of the new graph for those of the old one, as they were or with channels last."""

    def __init__(self) -> None:
        self.builder = Builder()
        self._sums = Sums(self.builder)
        self._plain: dict[Value, Value] = {}
        self._last: dict[Value, Value] = {}

    def plain(self, value: Value) -> Value:
        found = self._plain.get(value)
        if found is None:
            found = self._plain[value] = to_first(self.builder, self._last[value])
        return found

    def last(self, value: Value) -> Value:
        found = self._last.get(value)
        return to_last(self.builder, self._plain[value]) if found is None else found

    def output(self, value: Value) -> Value:
        """A value that somebody looks at: in the order of axes in memory that everybody expects."""
        found = self.plain(value)
        memory = memory_of(found)
        seen = found.op in VIEWS and memory.op not in ("input", "constant")
        return self.builder.map("copy", found) if seen and value.op not in VIEWS else found

    def take(self, value: Value) -> None:
        """Enter what a value becomes."""
        if value.op in ("input", "constant"):
            self._plain[value] = self.builder.keep(value)
            return
        if value.op == "convolve_weight" and convolution.applies(value):
            self._plain[value] = self._weight(value)
            return
        twin = self._twin(value)
        if twin is not None:
            if len(twin.shape) < 3:
                self._plain[value] = twin
            else:
                self._last[value] = twin
            return
        inputs = tuple([self.plain(each) for each in value.inputs])
        self._plain[value] = self.builder.again(value, inputs)

    def _twin(self, value: Value) -> Value | None:
        """The value with channels last (that of less than three axes is what it was)."""
        if value.op in ("convolve", "convolve_input"):
            return self._convolution(value)
        if value.op == "windows" and len(value.attributes["kernel"]) == len(value.shape) // 2 - 1:
            made = self.builder.again(value, (self.plain(value.inputs[0]),))
            return to_last(self.builder, made)
        if value.op == "overlap":
            return self._overlap(value)
        if not any(each in self._last for each in value.inputs):
            return None
        if is_map(value) and value.op != "gather":
            return self._map(value)
        rule: Callable[[_Twins, Value], Value | None] | None = _RULES.get(value.op)
        if value.op in REDUCTIONS:
            rule = _Twins._reduction
        return rule(self, value) if rule is not None else None

    def _convolution(self, value: Value) -> Value | None:
        one, other = value.inputs
        if not convolution.applies(value):
            return None
        rule = convolution.forward if value.op == "convolve" else convolution.of_input
        return rule(self.builder, self.last(one), self.plain(other), value.shape, value.attributes)

    def _weight(self, value: Value) -> Value:
        x, g = [self.last(each) for each in value.inputs]
        return convolution.of_weight(self.builder, x, g, value.shape, value.attributes)

    def _map(self, value: Value) -> Value | None:
        rank = len(value.shape)
        whole = [each for each in value.inputs if each in self._last and each.shape == value.shape]
        if not whole:
            return None
        inputs = []
        for each in value.inputs:
            if not each.shape:
                inputs.append(self.plain(each))
            elif len(each.shape) == rank:
                inputs.append(self.last(each))
            else:
                lead = (1,) * (rank - len(each.shape))
                inputs.append(
                    to_last(self.builder, self.builder.reshape(self.plain(each), lead + each.shape))
                )
        made = self.builder.add(
            value.op, tuple(inputs), value.attributes, last_shape(value.shape), value.dtype
        )
        if made.op == value.op:
            made.definition = value.definition
        return made

    def _reduction(self, value: Value) -> Value | None:
        (x,) = value.inputs
        rank, axes = len(x.shape), set(value.attributes["axes"])
        order = (0, *range(2, rank), 1)
        kept = [axis for axis in order if axis not in axes]
        places = tuple(place for place, axis in enumerate(order) if axis in axes)
        shape = tuple(x.shape[axis] for axis in kept)
        twin = len(kept) >= 3 and kept[0] == 0 and kept[-1] == 1
        if not twin and kept != sorted(kept):
            return None
        if value.op == "sum":
            made = self._sums.add(self.last(x), places, shape, value.dtype)
        else:
            made = self.builder.add(value.op, (self.last(x),), {"axes": places}, shape, value.dtype)
        if twin or len(kept) < 3:
            return made
        return to_last(self.builder, made)

    def _broadcast(self, value: Value) -> Value | None:
        (x,) = value.inputs
        if len(x.shape) != len(value.shape):
            return None
        shape = last_shape(value.shape)
        return self.builder.add("broadcast_to", (self.last(x),), {"shape": shape}, shape, x.dtype)

    def _reshape(self, value: Value) -> Value | None:
        """Sizes brought into another shape, N and C staying what they are."""
        (x,) = value.inputs
        same = len(value.shape) >= 3 and len(x.shape) >= 3 and value.shape[:2] == x.shape[:2]
        return self.builder.reshape(self.last(x), last_shape(value.shape)) if same else None

    def _slice(self, value: Value) -> Value | None:
        cut = value.attributes["cut"]
        cut = (cut[0], *cut[2:], cut[1])
        (x,) = value.inputs
        return self.builder.add(
            "slice", (self.last(x),), {"cut": cut}, last_shape(value.shape), x.dtype
        )

    def _pieces(self, value: Value) -> Value | None:
        cuts = tuple((cut[0], *cut[2:], cut[1]) for cut in value.attributes["cuts"])
        inputs = tuple([self.last(each) for each in value.inputs])
        shape = last_shape(value.shape)
        return self.builder.add("pieces", inputs, {"cuts": cuts}, shape, value.dtype)

    def _slice_update(self, value: Value) -> Value | None:
        cut = value.attributes["cut"]
        inputs = tuple([self.last(each) for each in value.inputs])
        named = {"cut": (cut[0], *cut[2:], cut[1])}
        return self.builder.add("slice_update", inputs, named, last_shape(value.shape), value.dtype)

    def _concat(self, value: Value) -> Value | None:
        axis, rank = value.attributes["axis"], len(value.shape)
        place = (0, *range(2, rank), 1).index(axis)
        inputs = tuple([self.last(each) for each in value.inputs])
        shape = last_shape(value.shape)
        return self.builder.add("concat", inputs, {"axis": place}, shape, value.dtype)

    def _overlap(self, value: Value) -> Value | None:
        """Windows (N, C, counts, kernel) put back: those of each channel by themselves."""
        if len(value.attributes["sizes"]) != len(value.shape) - 2 or is_complex(value.dtype):
            return None
        return convolution.put_back(
            self.builder, self.last(value.inputs[0]), last_shape(value.shape), value.attributes
        )


_RULES: dict[str, Any] = {
    "broadcast_to": _Twins._broadcast,
    "reshape": _Twins._reshape,
    "slice": _Twins._slice,
    "pieces": _Twins._pieces,
    "slice_update": _Twins._slice_update,
    "concat": _Twins._concat,
}
