"""Bodies: a piece of a graph as a value of its own, which the ops of loops and branches hold.

A body is what was recorded between its inputs and its outputs: ops, attributes and wiring. It is
equal to every other of the same structure, so a loop that is recorded anew in each training step is
the same loop. It knows neither shapes nor dtypes, which follow from its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from schuss.context import context
from schuss.dtypes import DType
from schuss.graph import Node, Op, Shape, ancestors, apply, data, scalar, unknown, wrap

if TYPE_CHECKING:
    from schuss.tensor import Tensor


@dataclass(frozen=True)
class Type:
    """A shape and a dtype: as much of a node as shape rules look at."""

    shape: Shape
    dtype: DType

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


class Literal(NamedTuple):
    """A small array that belongs to a body; `constant` where it belongs to the structure too."""

    content: bytes
    shape: Shape
    dtype: DType
    constant: int | float | None

    def array(self) -> np.ndarray:
        return np.frombuffer(self.content, self.dtype).reshape(self.shape)


class Step(NamedTuple):
    """One op of a body on earlier values, by their numbers."""

    op: Op
    places: tuple[int, ...]
    attributes: tuple[tuple[str, Any], ...]


@dataclass(eq=False, frozen=True, slots=True)
class Body:
    """Steps from inputs to outputs.

    Values are numbered: first the inputs, then the literals, then the results of the steps.
    Bodies are made by `body_of` only, which gives one object for one structure.

    Attributes:
        inputs: how many there are.
        literals: the data in it.
        steps: ops on values with smaller numbers.
        outputs: the numbers of what it returns.
    """

    inputs: int
    literals: tuple[Literal, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for these inputs, op by op: the meaning of a body."""
        values = [*arrays, *[each.array() for each in self.literals]]
        for step in self.steps:
            made = step.op.reference(*[values[i] for i in step.places], **dict(step.attributes))
            values.append(np.asarray(made))
        return [values[i] for i in self.outputs]

    def record(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """All its values, recorded on these inputs."""
        values = list(inputs)
        assert len(values) == self.inputs
        for each in self.literals:
            known = each.constant is not None
            values.append(
                scalar(each.constant, each.dtype) if known else wrap(data(each.array()))  # type: ignore[arg-type]
            )
        for step in self.steps:
            values.append(
                apply(step.op, *[values[i] for i in step.places], **dict(step.attributes))
            )
        return values

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Its outputs, recorded on these inputs."""
        values = self.record(inputs)
        return [values[i] for i in self.outputs]

    def types(self, inputs: Sequence[Type]) -> list[Type]:
        """The types of all its values, for inputs of these types."""
        found = [*inputs, *[Type(each.shape, each.dtype) for each in self.literals]]
        for step in self.steps:
            made = step.op.infer(*[found[i] for i in step.places], **dict(step.attributes))
            found.append(Type(*made))
        return found

    def __repr__(self) -> str:
        return f"<body of {len(self.steps)} ops>"

    def __str__(self) -> str:
        lines = []
        for number, step in enumerate(self.steps, self.inputs + len(self.literals)):
            shown = [f"%{i}" for i in step.places]
            shown += [f"{name}={value}" for name, value in step.attributes]
            lines.append(f"%{number} = {step.op.name}({', '.join(shown)})")
        return "\n".join([*lines, "return " + ", ".join(f"%{i}" for i in self.outputs)])


_bodies: dict[Any, Body] = {}


def body_of(outputs: Sequence[Node], inputs: Sequence[Node]) -> Body:
    """What was recorded between these nodes. Whatever else it uses is data, and becomes part of it.

    Nodes beyond inputs are not looked at, even where an input was computed from another one.
    """
    entering = set(inputs)
    order = ancestors(outputs, lambda node: node not in entering)
    number = {node: i for i, node in enumerate(inputs)}
    literals: list[Literal] = []
    for node in order:
        if node.op is None:
            number[node] = len(inputs) + len(literals)
            value = np.ascontiguousarray(node.value)
            literals.append(Literal(value.tobytes(), node.shape, node.dtype, node.constant))
    steps: list[Step] = []
    for node in order:
        if node.op is not None:
            number[node] = len(inputs) + len(literals) + len(steps)
            places = tuple(number[each] for each in node.inputs)
            steps.append(Step(node.op, places, tuple(node.attributes.items())))
    key = (len(inputs), tuple(literals), tuple(steps), tuple(number[node] for node in outputs))
    found = _bodies.get(key)
    if found is None:
        found = _bodies[key] = Body(*key)
    return found


_stand_in = unknown(
    "stand_in",
    "an input of a body",
    "this value is another one in each step of the loop, or belongs to a branch that may not "
    "be taken: it is not known while the function runs",
    "choose with schuss.where or schuss.cond instead of if; return what is needed outside",
)


def stand_in(like: Type, requires_grad: bool = False, op: Op = _stand_in) -> Tensor:
    """A tensor without a value, for recording a body."""
    made = apply(op, shape=like.shape, dtype=like.dtype)
    made._node.requires_grad = requires_grad
    return made


@contextmanager
def aside() -> Iterator[None]:
    """While bodies are derived from bodies: what is recorded is no part of the user's graph."""
    saved = context.grad_enabled, context.recording, context.examples, context.differentiating
    pending = context.pending
    context.recording = context.examples = context.differentiating = None
    context.pending = []
    try:
        yield
    finally:
        context.grad_enabled, context.recording, context.examples, context.differentiating = saved
        context.pending = pending


_derived: dict[Any, Any] = {}


def derive_once(make: Callable[..., Any]) -> Callable[..., Any]:
    """`make` of hashable arguments, aside and once for each of them."""

    def derived(*key: Any) -> Any:
        whole = (make, *key)
        found = _derived.get(whole)
        if found is None:
            with aside():
                found = _derived[whole] = make(*key)
        return found

    return derived


def types_of(xs: Sequence[Any]) -> tuple[Type, ...]:
    """The types of tensors or arrays."""
    return tuple([Type(tuple(x.shape), x.dtype) for x in xs])
