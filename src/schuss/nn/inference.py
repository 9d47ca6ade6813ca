"""Models that only predict: compiled with their weights as constants."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import trees
from schuss.compiler.values import Graph, Value
from schuss.context import context, grad_mode
from schuss.errors import (
    ArgumentTypeError,
    BadValueError,
    CheckFailedError,
    GradientError,
    TransformError,
    fail,
)
from schuss.execution import tiers
from schuss.execution.evaluate import evaluate, one_at_a_time, set_last_run
from schuss.execution.report import Run
from schuss.graph import Node, ancestors, data, record, unknown, wrap
from schuss.tensor import Tensor

if TYPE_CHECKING:
    from schuss.compiler.program import Program
    from schuss.nn.module import Module

_MOST_PROGRAMS = 16  # of one model; the least recently used go first


class InferenceModel:
    """A model compiled for prediction; `Module.compile_for_inference` makes it.

    Called as the model is, it gives what the model gave in evaluation mode when this was made, up
    to rounding: later changes of the model, training included, are not seen. For each combination
    of shapes and dtypes a program is made, when it is first met, in which

    - what depends on the weights alone is computed, and weights are brought into the order in which
      they are read, once;
    - batch normalisations behind convolutions and linear layers become part of their weights.

    Each program has such weights of its own; the sixteen used last are kept. Results require no
    gradients. Threads may share it; they take turns. Inside `schuss.jit` and `vmap`, and in the
    reference tier, it is the model of that time, in evaluation mode.

    Raises, when called: TransformError where the model looks at values that depend on its inputs,
    draws random numbers or changes its own state; GradientError for an input that requires a
    gradient, outside of `no_grad`.
    """

    def __init__(self, model: Module) -> None:
        self._name = type(model).__name__
        with one_at_a_time:
            self._model: Module = copy.deepcopy(model).eval()
            evaluate([each._node for each in self._state()])
        self._programs: OrderedDict[Hashable, _Prepared] = OrderedDict()

    def __repr__(self) -> str:
        return f"InferenceModel({self._name}, {len(self._programs)} programs)"

    def train(self, mode: bool = True) -> InferenceModel:
        """Raises ArgumentTypeError: train the model that this was made of, and make it anew."""
        if mode:
            hint = "train the model itself, and call its compile_for_inference() again"
            problem = "a model that is compiled for inference cannot be trained"
            raise fail(ArgumentTypeError, self._name, problem, hint=hint)
        return self

    def eval(self) -> InferenceModel:
        """Itself: it always evaluates."""
        return self

    def prepare(self, *args: Any, **kwargs: Any) -> InferenceModel:
        """Make the program for arguments like these, unless it is there. Returns itself."""
        with one_at_a_time:
            self._prepared(*self._taken_apart(args, kwargs))
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        key: Hashable
        leaves: Sequence[Tensor]
        if len(args) == 1 and not kwargs and type(args[0]) is Tensor:  # as below, but quickly
            key, leaves = args[0]._node.kind.type, args
        else:
            key, leaves, _ = self._taken_apart(args, kwargs)
        if context.grad_enabled and any(each._node.requires_grad for each in leaves):
            problem = "a model that is compiled for inference has no gradients"
            raise fail(GradientError, self._name, problem,
                       hint="call the model itself; or pass x.detach()")  # fmt: skip
        if context.recording is not None or context.mapping or tiers.reference_only():
            return self._as_ever(args, kwargs)
        with one_at_a_time:
            prepared = self._programs.get(key)
            if prepared is None:
                prepared = self._prepared(*self._taken_apart(args, kwargs))
            else:
                self._programs.move_to_end(key)
            try:
                return prepared.run(leaves)
            except (CheckFailedError, BadValueError):
                result = self._as_ever(args, kwargs)  # finds out what to tell the user
                evaluate([each._node for each in trees.leaves(result)])
                return result

    def _as_ever(self, args: Any, kwargs: Any) -> Any:
        """What the model gives without any of this."""
        with grad_mode(False):
            return self._model(*args, **kwargs)

    def _state(self) -> list[Tensor]:
        return [*self._model.parameters(), *self._model.buffers()]

    def _taken_apart(
        self, args: Any, kwargs: Any
    ) -> tuple[Hashable, list[Tensor], trees.Structure]:
        """A key for the arguments, the tensors in them, and what is around these."""
        leaves, structure = trees.flatten((args, kwargs))
        types = tuple(each._node.kind.type for each in leaves)
        if len(args) == 1 and not kwargs and leaves and leaves[0] is args[0]:
            return types[0], leaves, structure
        key = types, structure, tuple(_others(structure))
        try:
            hash(key)
        except TypeError:
            kinds = [type(x).__name__ for x in (*args, *kwargs.values())]
            problem = "arguments are tensors, and values that can be keys of a dict"
            raise fail(ArgumentTypeError, self._name, problem, arguments=kinds,
                       hint="schuss.tensor(array)") from None  # fmt: skip
        return key, leaves, structure

    def _prepared(
        self, key: Hashable, leaves: Sequence[Tensor], structure: trees.Structure
    ) -> _Prepared:
        """The program for arguments of these types, a new one if need be."""
        known = self._programs.get(key)
        if known is not None:
            return known
        before = [(each, each._node) for each in self._state()]
        inputs = [wrap(record(_input, (), {"shape": x.shape, "dtype": x.dtype})) for x in leaves]
        args, kwargs = structure.unflatten(inputs)
        first = inputs[0]._node.number if inputs else 0
        results, around = trees.flatten(self._as_ever(args, kwargs))
        targets = [each._node for each in results]
        if any(each._node is not node for each, node in before):
            for each, node in before:
                each._point_at(node)
            raise self._refused("changes its state", "a forward pass must not assign to buffers")
        order = ancestors(targets, lambda node: node.value is None)
        if any(n.number > first and (n.op and n.op.name.startswith("random")) for n in order):
            raise self._refused("draws random numbers", "pass them as arguments")
        made = _Prepared(order, [each._node for each in inputs], targets, around)
        self._programs[key] = made
        if len(self._programs) > _MOST_PROGRAMS:
            self._programs.popitem(last=False)
        return made

    def _refused(self, what: str, hint: str) -> Exception:
        problem = f"cannot be compiled for inference: its forward pass {what}"
        return fail(TransformError, self._name, problem, hint=hint)


def _others(structure: trees.Structure) -> list[Any]:
    """What in a tree is neither a tensor nor a container, with its type: 1 is not True."""
    if structure.kind is None:
        return [type(structure.rest), structure.rest]
    return [each for part in structure.parts for each in _others(part)]


_input = unknown(
    "argument",
    "an argument of a model while it is compiled for inference",
    "this value depends on the inputs, so it is not known while a model is compiled for inference",
    "choose with schuss.where instead of if and while",
)


@dataclass
class _Result:
    """A result: output number `place` of the program, or always the same `node`."""

    place: int
    node: Node | None = None


class _Prepared:
    """A program with constant weights, and how its results hang together.

    Args:
        order: the nodes to compute, inputs first.
        inputs: those that come with each call.
        targets: the results, put together by `structure`.
    """

    def __init__(
        self, order: list[Node], inputs: list[Node], targets: list[Node], structure: trees.Structure
    ) -> None:
        from schuss.compiler.absorb import absorb
        from schuss.compiler.program import Program, compile_graph

        depends = set(inputs)
        for node in order:
            if any(each in depends for each in node.inputs):
                depends.add(node)
        moving = [node for node in order if node in depends]
        used = {each for node in moving for each in node.inputs}
        evaluate([node for node in {*used, *targets} if node not in depends])
        outputs = list(dict.fromkeys(node for node in targets if node in depends))
        self._program: Program = Program(compile_graph(absorb(_graph(moving, inputs, outputs))))
        places = {node: place for place, node in enumerate(outputs)}
        self._results = [
            _Result(places[node]) if node in places else _Result(-1, data(_value(node)))
            for node in targets
        ]
        self._structure = structure
        self._report = Run(tier="compiled", why="compiled for inference")
        self._report.take_from(self._program)

    def run(self, leaves: Sequence[Tensor]) -> Any:
        """The results for these arguments."""
        arrays = [_dense(each._node) for each in leaves]
        made = self._program.run(arrays)
        set_last_run(self._report)
        found = [
            wrap(data(made[each.place]) if each.node is None else each.node)
            for each in self._results
        ]
        return self._structure.unflatten(found)


def _dense(node: Node) -> np.ndarray:
    if node.value is None:
        evaluate([node])
    value = _value(node)
    return value if value.flags.c_contiguous else np.ascontiguousarray(value)


def _value(node: Node) -> np.ndarray:
    assert node.value is not None
    return node.value


def _graph(order: list[Node], inputs: list[Node], outputs: list[Node]) -> Graph:
    """The nodes in `order` as the compiler sees them; all that they need besides is constant:
    numbers, or inputs that never change.
    """
    from schuss.compiler.constants import constant

    made: dict[Node, Value] = {}
    values: list[Value] = []
    outside: list[Value] = []

    def add(node: Node, value: Value) -> Value:
        value.number = len(values)
        values.append(value)
        made[node] = value
        return value

    for node in inputs:
        outside.append(add(node, Value("input", (), {}, node.shape, node.dtype)))
    for node in order:
        if node in made:
            continue
        for each in node.inputs:
            if each in made:
                continue
            number = _number(each)
            if number is None:
                outside.append(add(each, constant(_value(each))))
                continue
            value = add(each, Value("constant", (), {"value": number}, (), each.dtype))
            if each.shape:
                shape = {"shape": each.shape}
                add(each, Value("broadcast_to", (value,), shape, each.shape, each.dtype))
        operands = tuple([made[each] for each in node.inputs])
        op: Any = node.op
        value = Value(op.name, operands, node.attributes, node.shape, node.dtype)
        add(node, value).definition = op
    return Graph(values, outside, [made[node] for node in outputs])


def _number(node: Node) -> Any:
    """The number that a node is known to have everywhere; None for any other one."""
    if node.constant is not None:
        return node.constant
    array = _value(node)
    if array.size == 0 or any(array.strides):
        return None
    number = array[(0,) * array.ndim].item()
    return None if number == 0 or number != number else number  # a zero may be -0
