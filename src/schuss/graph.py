"""The recorded graph: what an op is, what a node is, and how applying the one makes the other.

Nothing is computed here. `apply(op, x, y, axis=0)` checks shapes and dtypes, adds one node and
hands back a tensor that points at it; `execution` computes values, `autodiff` walks nodes to record
derivatives.
"""

from __future__ import annotations

import itertools
import math
import operator
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss.context import Scope, context
from schuss.dtypes import DType, canonical, is_differentiable
from schuss.errors import (
    BadValueError,
    Location,
    ShapeError,
    TransformError,
    fail,
    user_location,
)

if TYPE_CHECKING:
    from schuss.patterns import Use
    from schuss.tensor import Tensor

Shape = tuple[int, ...]
Rule = Callable[..., "Tensor"]

OUTPUT = -1  # in `Op.saves`: the op's own result


@dataclass
class Sample:
    """Inputs on which the generic tests try an op."""

    inputs: list[np.ndarray]
    attributes: dict[str, Any] = field(default_factory=dict)
    differentiate: bool = True  # False where the sample sits on a kink or overflows on purpose


@dataclass(eq=False, frozen=True, slots=True, kw_only=True)
class Op:
    """A primitive: all that is true of it, in one record.

    Attributes:
        name: its name in messages and listings.
        doc: one line, which the public function shows.
        infer: `infer(*nodes, **attributes) -> (shape, dtype)`; raises for what does not fit.
        reference: `reference(*arrays, **attributes) -> array`, the meaning in NumPy. Never writes
            to its inputs, may return a view of them.
        gradient: one rule for each input, `rule(g, y, *xs, **attributes) -> gx`, where `g` is the
            gradient of the result `y`, all of them tensors, so that rules can be differentiated
            again. None in place of a rule: that input (an index, say) has no gradient. None in
            place of the tuple: not differentiable, by declaration (steps, comparisons, integers).
            A `variadic` op has one rule, which returns the gradients of all its inputs.
            For complex numbers a rule multiplies by the derivative as it stands; the walk begins
            and ends with a conjugate, so that gradients descend.
        tangent: `rule(op, ts, y, *xs, **attributes) -> t`, the tangent of the result, given those
            of the inputs: None in `ts` where one does not move. `ops/structure.py` has the rules
            that follow from an op's kind. Without one, the gradient rules are transposed.
        batch: `rule(node, size, xs, batched) -> y`, the op for `size` examples at once, where
            `node` is that of one example: those of the inputs `xs` that are `batched` hold the
            examples along a new first axis, and so does y. Without one, the op is applied to one
            example after the other.
        saves: the inputs (by position) and `OUTPUT` whose values the rules look at. Evaluation
            keeps those. Positions beyond the inputs count for nothing, so an op of any number of
            inputs can name them all.
        samples: `samples(rng) -> [Sample]` for the generic tests.
        broadcasts: inputs broadcast against each other; the engine sums gradients back to their
            shapes.
        view: the reference returns a view and takes no memory.
    """

    name: str
    doc: str
    infer: Callable[..., tuple[Shape, DType]]
    reference: Callable[..., np.ndarray]
    gradient: tuple[Rule | None, ...] | None
    samples: Callable[[np.random.Generator], list[Sample]]
    saves: tuple[int, ...] = ()
    broadcasts: bool = False
    view: bool = False
    variadic: bool = False
    tangent: Rule | None = None
    batch: Rule | None = None

    def __repr__(self) -> str:
        return f"Op({self.name!r})"


REGISTRY: dict[str, Op] = {}


def define(name: str, doc: str, **record: Any) -> Op:
    """Make an op and enter it in the registry, from which the tests are derived."""
    assert name not in REGISTRY, name
    op = Op(name=name, doc=doc, **record)
    REGISTRY[name] = op
    return op


class Kind:
    """What all nodes of one op, with equal attributes and on inputs of the same types, share.

    Shape and dtype are worked out once for each kind. Data has a kind for each type.

    Attributes:
        number: names the kind in structural keys.
        differentiable: gradients are defined for the dtype of the op's result.
        type: names the shape and dtype of the result.
        pure: the op is in the registry: its rules record the same for nodes of one kind, always.
    """

    __slots__ = ("differentiable", "dtype", "number", "pure", "shape", "size", "type")

    def __init__(self, shape: Shape, dtype: DType, op: Op | None = None) -> None:
        self.pure = op is not None and REGISTRY.get(op.name) is op
        self.shape = shape
        self.dtype = canonical(dtype)
        self.differentiable = op is not None and is_differentiable(self.dtype)
        self.size = math.prod(shape)
        self.number = len(_kinds)
        self.type = _types.setdefault((shape, dtype), len(_types))


_kinds: dict[Any, Kind] = {}
_types: dict[tuple[Shape, DType], int] = {}
numbers = itertools.count()  # of nodes and of uses of patterns, in the order of recording


class Node:
    """One op applied to nodes, or data (`op` is None).

    Attributes:
        number: nodes are numbered as they are recorded, so inputs have smaller numbers than what
            uses them. Those of patterns have fractions.
        value: the array, once computed; None before, and again where nothing needs it any more.
        requires_grad: a gradient can flow through here.
        owner: for a leaf that collects a gradient: the tensor whose `.grad` it is.
        handles: how many tensors of the user point here. Their values are kept.
        spent: a backward pass went through, and no second one was announced.
        label: what messages call it, where that is not the name of its op.
        use, place: the use of a pattern that it is the result of, while its inputs are not known,
            and which step of it.
        uses: a node reads nothing but nodes; see `Use.uses`.
        gradient_of: the name of the node whose rule recorded it, if any.
        rule: which rule that was: "gradient", "tangent", "batch".
        constant: the number that a leaf holds, where it is one of the few that belong to the
            structure of a graph rather than to its data.
        kind: what it has in common with nodes of the same op on inputs of the same types.
        location, scope: the user's line and the layer that was running, for messages.
    """

    # What few nodes have; instances override it.
    constant: int | float | None = None
    requires_grad = False
    owner: weakref.ref[Tensor] | None = None
    handles = 0
    label: str | None = None
    use: Use | None = None
    uses: Sequence[Use] = ()
    place = 0
    gradient_of: str | None = None
    rule = "gradient"
    spent = False
    location: Location | None = None
    scope: Scope | None = None

    def __init__(
        self,
        op: Op | None,
        inputs: tuple[Node, ...],
        attributes: dict[str, Any],
        kind: Kind,
        value: np.ndarray | None = None,
    ) -> None:
        self.number: float = next(numbers)
        self.op = op
        self.inputs = inputs
        self.attributes = attributes
        self.kind = kind
        self.shape = kind.shape
        self.size = kind.size
        self.dtype = kind.dtype
        self.value = value

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def name(self) -> str:
        """What messages call it."""
        if self.gradient_of is not None:
            return f"{self.op.name} in the {self.rule} of {self.gradient_of}"  # type: ignore[union-attr]
        return self.label or ("data" if self.op is None else self.op.name)

    def finish(self) -> None:
        """Let go of what it was computed from: it is data now."""
        self.inputs = ()
        self.scope = None

    def __repr__(self) -> str:
        return f"<Node {self.number} {self.name} {self.shape} {self.dtype}>"


_MOST_BYTES = 2**62


def record(op: Op, inputs: tuple[Node, ...], attributes: dict[str, Any]) -> Node:
    """Add `op` applied to `inputs` to the graph."""
    if len(inputs) == 2:  # the common case, spelled out: this is on the way of every operation
        types: tuple[int, ...] = (inputs[0].kind.type, inputs[1].kind.type)
    else:
        types = tuple([each.kind.type for each in inputs])
    key = (op, types, tuple(attributes.items())) if attributes else (op, types)
    kind = _kinds.get(key)
    if kind is None:
        kind = _new_kind(key, op, inputs, attributes)
    node = Node(op, inputs, attributes, kind)
    here = context.__dict__  # of this thread: one look instead of many
    differentiated = here["differentiating"]
    if differentiated is None:
        node.location = here["location"] or user_location(2)
        node.scope = here["scope"]
    else:  # part of a derivative: messages name the line and the layer of the forward pass
        node.location, node.scope = differentiated.location, differentiated.scope
        node.gradient_of = differentiated.name
        if here["rule"] != "gradient":
            node.rule = here["rule"]
    if here["grad_enabled"] and op.gradient is not None:
        for each in inputs:
            if each.requires_grad:
                node.requires_grad = kind.differentiable
                break
    pending = here["pending"]
    pending.append(weakref.ref(node))
    if len(pending) % _PRUNE_AT == 0:
        prune((node,))
    return node


def next_number() -> int:
    """A number above those of all nodes so far, and below those that come."""
    return next(numbers)


def _new_kind(key: Any, op: Op, inputs: tuple[Node, ...], attributes: dict[str, Any]) -> Kind:
    shape, dtype = op.infer(*inputs, **attributes)
    kind = Kind(shape, dtype, op)
    if kind.size * dtype.itemsize > _MOST_BYTES:
        node = Node(op, inputs, attributes, kind)
        raise fail(ShapeError, op.name, "the result is too large for any machine", result=node)
    _kinds[key] = kind
    return kind


def data(value: np.ndarray) -> Node:
    """A node that holds an array. The array must not be written to afterwards."""
    key = (value.shape, value.dtype)
    kind = _kinds.get(key)
    if kind is None:
        kind = _kinds[key] = Kind(value.shape, value.dtype)
    return Node(None, (), {}, kind, value)


_PRUNE_AT = 4096
_BACKLOG = 20_000  # nodes recorded since the last full evaluation


def unknown(name: str, doc: str, problem: str, hint: str) -> Op:
    """An op for values that nobody knows yet, because a function is recorded for later. It is not
    in the registry: to compute it raises a TransformError with `problem` and `hint`.
    """

    def reference(shape: Shape, dtype: DType) -> np.ndarray:
        raise BadValueError(TransformError, problem, hint)

    return Op(
        name=name,
        doc=doc,
        infer=lambda shape, dtype: (shape, dtype),
        reference=reference,
        gradient=None,
        samples=lambda rng: [],
    )


_relieve: Callable[[], None] = lambda: None


def relieves(evaluate: Callable[[], None]) -> None:
    """Tell what computes a backlog of nodes: `execution` says how."""
    global _relieve
    _relieve = evaluate


def prune(new: Sequence[Node]) -> None:
    """Drop what nobody waits for from `context.pending`, now and then; `new` was just added.

    The new nodes have no handle yet. To drop them would bring the list to where it was, and each
    node after them back here.
    """
    pending = context.pending
    if len(pending) % _PRUNE_AT >= len(new):
        return
    context.pending = [ref for ref in pending if is_wanted(each := ref()) or each in new]
    context.pruned += len(pending) - len(context.pending)
    if len(context.pending) + context.pruned > _BACKLOG:
        _relieve()


def is_wanted(node: Node | None) -> bool:
    """Whether a live tensor of the user points at this node and its value is not known yet."""
    return node is not None and node.handles > 0 and node.value is None


class Handle:
    """Something that points at a node. `Tensor` is the one subclass that users meet.

    Ops and gradient rules work on handles, and need Tensor only through its operators (`g * y`), so
    they stand below `tensor.py` and the methods of Tensor can be written on top of them.
    """

    __slots__ = ("__weakref__", "_node")

    def __init__(self, node: Node) -> None:
        self._node = node
        node.handles += 1

    def _point_at(self, node: Node) -> None:
        node.handles += 1
        self._node.handles -= 1
        self._node = node

    def _settle(self) -> None:
        """Called after an evaluation for what put itself on `context.unsettled`."""

    def __del__(self) -> None:
        try:  # noqa: SIM105  # `suppress` costs more than all the rest
            self._node.handles -= 1
        except AttributeError:  # its making has failed
            pass


_make_handle: Callable[[Node], Any] = Handle


def hands_out(make: Callable[[Node], Any]) -> None:
    """Tell what `apply` wraps its results in: `tensor.py` says Tensor."""
    global _make_handle
    _make_handle = make


def wrap(node: Node) -> Tensor:
    return _make_handle(node)


def apply(op: Op, *inputs: Tensor, **attributes: Any) -> Tensor:
    """Record `op` on tensors and return the tensor of its result."""
    return _make_handle(record(op, tuple([each._node for each in inputs]), attributes))


def labelled(x: Tensor, label: str) -> Tensor:
    """The same tensor, whose computation messages call by the function that the user knows."""
    x._node.label = label
    return x


_STRUCTURAL = frozenset((0, 1, -1, 2, 0.5, math.inf, -math.inf))
_SMALL = 2.0**15  # fits into every floating dtype


def scalar(value: bool | int | float | complex, dtype: DType) -> Tensor:
    """A Python number as a tensor: an input of the graph, whose value can change every step."""
    if context.recording is not None:
        node = context.recording.number(value, dtype)
        if node is not None:
            return _make_handle(node)
    return _make_handle(_number(value, dtype))


def _number(value: bool | int | float | complex, dtype: DType) -> Node:
    if abs(value) <= _SMALL:
        node = data(np.asarray(value, dtype))
    else:
        with np.errstate(all="ignore"):  # what is too large for a float becomes infinite
            node = data(np.asarray(value, dtype))
    if value in _STRUCTURAL and dtype.kind != "c" and not _is_minus_zero(value):
        node.constant = value.real  # complex ones are left out
    return node


def _is_minus_zero(value: Any) -> bool:
    return value == 0 and isinstance(value, float) and math.copysign(1, value) < 0


def shared_scalar(value: bool | int | float, dtype: DType) -> Node:
    """The node of a Python number among operands: one for all uses, which users never get hold of.

    Optimizers use the same few numbers for every parameter, in every step.
    """
    key = (value, type(value), dtype.num)
    shared = context.numbers
    node = shared.get(key)
    if node is None or _is_minus_zero(value):
        node = _number(value, dtype)
        if len(shared) >= _MOST_SHARED:
            shared.clear()
        if not _is_minus_zero(value):
            shared[key] = node
    return node


_MOST_SHARED = 1024
EXACT = 127  # integers up to here fit into every numeric dtype


def number_node(value: int | float, dtype: DType) -> Node:
    """The node of a number among operands, shared where numbers are."""
    return shared_scalar(value, dtype) if -EXACT <= value <= EXACT else _number(value, dtype)


def is_shared_number(node: Node) -> bool:
    """Whether this is the node of a number that all its uses share."""
    return any(each is node for each in context.numbers.values())


def number_array(value: int | float, dtype: DType) -> np.ndarray:
    """The value of the node of a number."""
    if -_SMALL <= value <= _SMALL:
        return np.asarray(value, dtype)
    with np.errstate(all="ignore"):
        return np.asarray(value, dtype)


def ancestors(targets: Sequence[Node], follow: Callable[[Node], bool]) -> list[Node]:
    """`targets` and all that they are computed from, as far as `follow` holds; inputs first.

    Iterative: graphs are as deep as the user's loop is long.
    """
    found: set[Node] = set()
    stack = [node for node in targets if follow(node)]
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found.add(node)
        for each in node.inputs:
            if each not in found and follow(each):
                stack.append(each)
    return sorted(found, key=number_of)


number_of = operator.attrgetter("number")
