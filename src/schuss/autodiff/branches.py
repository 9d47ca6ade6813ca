"""`cond` and `while_loop`: what is computed is decided while it runs.

Both are ops that hold bodies. Their results of one dtype are packed into one flat tensor. In
compiled programs they are steps of the host, which runs the body that is wanted op by op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes, trees
from schuss.autodiff.backward import propagate, tape
from schuss.autodiff.batching import batch
from schuss.autodiff.forward import push_forward
from schuss.autodiff.recording import conjugated, require_function
from schuss.autodiff.tracing import Traced, trace
from schuss.context import grad_mode
from schuss.dtypes import DType, is_differentiable
from schuss.errors import ArgumentError, ArgumentTypeError, GradientError, ShapeError, fail
from schuss.functions.elementwise import where
from schuss.functions.manipulation import concat
from schuss.functions.reduction import any as any_
from schuss.graph import Handle, Node, Op, Sample, Shape, apply, define, wrap
from schuss.ops.body import Body, Type, aside, body_of, derive_once, stand_in, types_of
from schuss.ops.broadcast import zeros
from schuss.ops.elementwise import add, multiply, tanh
from schuss.ops.infer import Rng, numbers
from schuss.ops.loop import Part, part_of
from schuss.ops.structure import repeated

if TYPE_CHECKING:
    from schuss.tensor import Tensor

Flags = tuple[bool, ...]


# --- results of one dtype, side by side ---


def _parts(body: Body, types: tuple[Type, ...], wanted: Flags) -> tuple[list[Part], DType]:
    found = body.types(types)
    parts, start, kinds = [], 0, set()
    for index, (place, wish) in enumerate(zip(body.outputs, wanted, strict=True)):
        if wish:
            parts.append(Part(index, start, found[place].shape, found[place].dtype))
            start += parts[-1].size
            kinds.add(found[place].dtype)
    assert len(kinds) == 1, "results of several dtypes in one"
    return parts, kinds.pop()


_layout = derive_once(_parts)


def _pack(results: Sequence[np.ndarray], wanted: Flags) -> np.ndarray:
    kept = [x.ravel() for x, wish in zip(results, wanted, strict=True) if wish]
    return kept[0].copy() if len(kept) == 1 else np.concatenate(kept)


def _packed(tensors: Sequence[Tensor], wanted: Flags) -> Tensor:
    kept = [x.reshape((x.size,)) for x, wish in zip(tensors, wanted, strict=True) if wish]
    return kept[0] if len(kept) == 1 else concat(kept)


def _by_dtype(kinds: Sequence[DType]) -> list[Flags]:
    return [tuple(kind == dtype for kind in kinds) for dtype in dict.fromkeys(kinds)]


def _unpacked(op: Op, inputs: Sequence[Tensor], like: Body, kinds: Sequence[DType],
              **attributes: Any) -> list[Tensor]:  # fmt: skip
    """Record an op, once for each dtype of its results: all of them. `like` tells their shapes."""
    found: dict[int, Tensor] = {}
    types = types_of(inputs[: like.inputs])
    for wanted in _by_dtype(kinds):
        y = apply(op, *inputs, **attributes, wanted=wanted)
        for part in _layout(like, types, wanted)[0]:
            found[part.number] = part_of(y, part)
    return [found[i] for i in sorted(found)]


def _kinds(body: Body, types: Sequence[Type]) -> list[DType]:
    found = body.types(types)
    return [found[i].dtype for i in body.outputs]


def _mapped(body: Body, types: tuple[Type, ...], batched: Flags, size: int, every: bool) -> Body:
    """The body for many examples. With `every`, all results are of all examples."""
    ones = [stand_in(each) for each in types]
    many = [stand_in(Type((size, *each.shape), each.dtype)) if flag else x
            for each, x, flag in zip(types, ones, batched, strict=True)]  # fmt: skip
    with grad_mode(False):
        results = body(ones)
        known = {one._node: x for one, x in zip(ones, many, strict=True) if one is not x}
        found = batch([y._node for y in results], known, size) if known else {}
        ends = [found.get(y._node, repeated(y, size) if every else y) for y in results]
    return body_of([y._node for y in ends], [x._node for x in many])


_for_all = derive_once(_mapped)


def _moved(body: Body, types: tuple[Type, ...], moving: Flags) -> Body:
    """The tangents of the results, of the inputs and the tangents of those that move."""
    with grad_mode(True):
        xs = [stand_in(each, flag) for each, flag in zip(types, moving, strict=True)]
        results = body(xs)
    ts = {x._node: stand_in(each) for x, each, flag in zip(xs, types, moving, strict=True) if flag}
    with grad_mode(False):
        found = push_forward(tape(*[y._node for y in results if y.requires_grad]), ts)
        moved = [found.get(y._node, None) for y in results]
        ends = [zeros(y.shape, y.dtype) if t is None else t
                for y, t in zip(results, moved, strict=True)]  # fmt: skip
    return body_of(
        [t._node for t in ends], [*[x._node for x in xs], *[t._node for t in ts.values()]]
    )


_tangents = derive_once(_moved)


def _pulled(body: Body, types: tuple[Type, ...], moving: Flags, wanted: Flags) -> Body:
    """The gradients of the inputs that move, of the inputs and the gradients of some results."""
    with grad_mode(True):
        xs = [stand_in(each, flag) for each, flag in zip(types, moving, strict=True)]
        results = body(xs)
    seeds: list[Tensor] = []
    roots: dict[Node, Tensor] = {}
    with grad_mode(False):
        for y, wish in zip(results, wanted, strict=True):
            if wish:
                g = stand_in(Type(y.shape, y.dtype))
                seeds.append(g)
                if y.requires_grad:
                    held = roots.get(y._node)
                    roots[y._node] = g if held is None else apply(add, held, g)
        targets = frozenset(x._node for x in xs if x.requires_grad)
        inside = {node: conjugated(g) for node, g in roots.items()}  # rules run inside of a walk
        found = propagate(tape(*roots), inside, targets)
        ends = [conjugated(found[x._node]) if x._node in found else zeros(x.shape, x.dtype)
                for x, flag in zip(xs, moving, strict=True) if flag]  # fmt: skip
    return body_of([g._node for g in ends], [x._node for x in (*xs, *seeds)])


_gradients = derive_once(_pulled)


def _differentiable(xs: Sequence[Any], chosen: Sequence[bool]) -> Flags:
    return tuple([is_differentiable(x.dtype) and c for x, c in zip(xs, chosen, strict=True)])


# --- cond ---


def _cond_infer(*inputs: Node, branches: tuple[Body, Body], wanted: Flags) -> tuple[Shape, DType]:
    parts, dtype = _layout(branches[0], types_of(inputs[:-1]), wanted)
    return (sum(part.size for part in parts),), dtype


def _cond_reference(*arrays: np.ndarray, branches: tuple[Body, Body], wanted: Flags) -> np.ndarray:
    *inputs, chosen = arrays
    return _pack(branches[0 if chosen else 1].run(inputs), wanted)


def _record_cond(chosen: Tensor, branches: tuple[Body, Body], inputs: Sequence[Tensor]) -> Any:
    kinds = _kinds(branches[0], types_of(inputs))
    return _unpacked(cond_op, [*inputs, chosen], branches[0], kinds, branches=branches)


def _cond_gradient(
    g: Tensor, y: Tensor, *inputs: Tensor, branches: tuple[Body, Body], wanted: Flags
) -> list[Any]:
    """The gradient of the branch that was taken, which computes what it needs once more."""
    *xs, chosen = inputs
    types = types_of(xs)
    moving = _differentiable(xs, [x.requires_grad or not y.requires_grad for x in xs])
    parts, _ = _layout(branches[0], types, wanted)
    pulled = tuple([_gradients(each, types, moving, wanted) for each in branches])
    seeds = [part_of(g, part) for part in parts]
    found = iter(_record_cond(chosen, pulled, [*xs, *seeds]))
    return [*[next(found) if flag else None for flag in moving], None]


def _cond_tangent(
    op: Op, ts: Sequence[Any], y: Tensor, *inputs: Tensor, branches: tuple[Body, Body],
    wanted: Flags,
) -> Tensor:  # fmt: skip
    *xs, chosen = inputs
    moving = tuple([t is not None for t in ts[:-1]])
    moved = tuple([_tangents(each, types_of(xs), moving) for each in branches])
    given = [t for t in ts[:-1] if t is not None]
    return apply(op, *xs, *given, chosen, branches=moved, wanted=wanted)


def _cond_batch(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    """One choice for all examples stays a choice; else both are computed, and chosen from."""
    assert node.op is not None
    branches, wanted = node.attributes["branches"], node.attributes["wanted"]
    types, flags = types_of(node.inputs[:-1]), tuple(batched[:-1])
    many = tuple([_for_all(each, types, flags, size, True) for each in branches])
    *inputs, chosen = xs

    def rows(results: Sequence[Tensor]) -> Tensor:
        kept = [y.reshape((size, y.size // size))
                for y, wish in zip(results, wanted, strict=True) if wish]  # fmt: skip
        return kept[0] if len(kept) == 1 else concat(kept, axis=1)

    if batched[-1]:
        first, second = (rows(each(inputs)) for each in many)
        return where(chosen.reshape((size, 1)), first, second)
    y = apply(node.op, *xs, branches=many, wanted=wanted)
    parts, _ = _layout(many[0], types_of(inputs), wanted)
    pieces = [part_of(y, part).reshape((size, part.size // size)) for part in parts]
    return pieces[0] if len(pieces) == 1 else concat(pieces, axis=1)


def _cond_samples(rng: Rng) -> list[Sample]:
    with aside():
        w, x = (stand_in(Type(s, np.dtype(np.float64))) for s in ((3,), (2, 3)))
        first = [apply(tanh, apply(multiply, x, w)), apply(add, w, w)]
        second = [apply(multiply, x, x), apply(multiply, w, w)]
        bodies = [body_of([y._node for y in each], [w._node, x._node]) for each in (first, second)]
    arrays = [numbers(rng, (3,)), numbers(rng, (2, 3))]
    return [
        Sample([*arrays, np.array(chosen)], {"branches": tuple(bodies), "wanted": wanted})
        for chosen, wanted in ((True, (True, True)), (False, (True, False)))
    ]


cond_op: Op = define(
    "cond",
    "the results of one body or the other, side by side",
    infer=_cond_infer,
    reference=_cond_reference,
    gradient=(_cond_gradient,),  # one rule for all inputs
    tangent=_cond_tangent,
    batch=_cond_batch,
    saves=tuple(range(64)),
    samples=_cond_samples,
    variadic=True,
)


def cond(
    pred: Any, true_fun: Callable[..., Any], false_fun: Callable[..., Any], *operands: Any
) -> Any:
    """`true_fun(*operands)` if pred, else `false_fun(*operands)`; decided when it runs.

    Args:
        pred: a tensor of one element; or a Python bool, which decides at once.
        true_fun, false_fun: functions that return trees of the same structure, shapes and dtypes.
            Both run once, on stand-ins without values; only the chosen one is computed. They may
            use tensors from outside.
        operands: trees of tensors.

    Gradients are those of the branch taken. With `vmap` over pred both branches are computed.

    Raises:
        ArgumentError, ShapeError: the branches return different trees, or pred is no single truth.
    """
    for f in (true_fun, false_fun):
        require_function("cond", f)
    if isinstance(pred, (bool, np.bool_)):
        return (true_fun if pred else false_fun)(*operands)
    chosen = _truth("cond", pred)
    leaves, structures = _flattened(operands)
    traced = [trace("cond", f, structures, leaves) for f in (true_fun, false_fun)]
    flat = [trees.flatten(each.result) for each in traced]
    if flat[0][1] != flat[1][1]:
        raise fail(ArgumentError, "cond", "both branches must return the same structure",
                   true_fun=flat[0][1], false_fun=flat[1][1])  # fmt: skip
    for a, b in zip(flat[0][0], flat[1][0], strict=True):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            problem = "both branches must return the same shapes and dtypes"
            raise fail(ShapeError, "cond", problem, true_fun=a, false_fun=b)
    if not flat[0][0]:
        return flat[0][1].unflatten([])
    pairs = zip(traced, flat, strict=True)
    used = list(dict.fromkeys(x for each, (ys, _) in pairs for x in each.invariants(ys)))
    order = range(len(leaves))
    bodies = [each.body(ys, used, order) for each, (ys, _) in zip(traced, flat, strict=True)]
    inputs = [*[wrap(node) for node in used], *[x for part in leaves for x in part]]
    found = _record_cond(chosen, (bodies[0], bodies[1]), inputs)
    return flat[0][1].unflatten(found)


def _truth(where: str, pred: Any) -> Tensor:
    if not isinstance(pred, Handle):
        problem = f"pred must be a tensor or a bool, got {type(pred).__name__}"
        raise fail(ArgumentTypeError, where, problem)
    tensor: Any = pred
    if tensor.size != 1:
        raise fail(ShapeError, where, "pred must have one element", pred=tensor,
                   hint="reduce it with all() or any(), or choose with where")  # fmt: skip
    tensor = tensor.reshape(())
    return tensor if tensor.dtype == dtypes.bool_ else tensor != 0


def _flattened(operands: Sequence[Any]) -> tuple[list[list[Tensor]], list[trees.Structure]]:
    pairs = [trees.flatten(each) for each in operands]
    return [leaves for leaves, _ in pairs], [structure for _, structure in pairs]


# --- while_loop ---


def _while_infer(*inputs: Node, test: Body, body: Body, wanted: Flags) -> tuple[Shape, DType]:
    parts, dtype = _layout(body, types_of(inputs), wanted)
    return (sum(part.size for part in parts),), dtype


def _while_reference(*inputs: np.ndarray, test: Body, body: Body, wanted: Flags) -> np.ndarray:
    fixed = list(inputs[: len(inputs) - len(body.outputs)])
    carries = list(inputs[len(fixed) :])
    while test.run([*fixed, *carries])[0]:
        carries = body.run([*fixed, *carries])
    return _pack(carries, wanted)


def _while_gradient(g: Tensor, y: Tensor, *inputs: Tensor, **attributes: Any) -> list[Any]:
    raise fail(
        GradientError, "while_loop",
        "has no gradient backwards: how many steps there will be, and so what to keep of them, is "
        "not known",
        hint="use scan with a mask, fixed_point for what converges, or jvp",
    )  # fmt: skip


def _while_tangent(
    op: Op, ts: Sequence[Any], y: Tensor, *inputs: Tensor, test: Body, body: Body, wanted: Flags
) -> Tensor:
    """A loop of the values and their tangents."""
    count = len(body.outputs)
    n = len(inputs) - count
    moving = [t is not None for t in ts[:n]] + [is_differentiable(x.dtype) for x in inputs[n:]]
    made = _dual(test, body, types_of(inputs), tuple(moving))
    fixed = [*inputs[:n], *[t for t in ts[:n] if t is not None]]
    starts = [zeros(x.shape, x.dtype) if t is None else t
              for x, t, f in zip(inputs[n:], ts[n:], moving[n:], strict=True) if f]  # fmt: skip
    kept = [wish for wish, flag in zip(wanted, moving[n:], strict=True) if flag]
    whole = (*[False] * count, *kept)
    return apply(op, *fixed, *inputs[n:], *starts, test=made[0], body=made[1], wanted=whole)


def _make_dual(test: Body, body: Body, types: tuple[Type, ...], moving: Flags) -> tuple[Body, Body]:
    """Test and body of a loop that carries tangents too."""
    n = len(types) - len(body.outputs)
    xs = [stand_in(each) for each in types]
    ts = [stand_in(each) for each, flag in zip(types, moving, strict=True) if flag]
    first = sum(moving[:n])
    inputs = [x._node for x in (*xs[:n], *ts[:first], *xs[n:], *ts[first:])]
    with grad_mode(False):
        tangents = _tangents(body, types, moving)([*xs, *ts])
        ends = [*body(xs), *[t for t, flag in zip(tangents, moving[n:], strict=True) if flag]]
        return body_of([test(xs)[0]._node], inputs), body_of([y._node for y in ends], inputs)


_dual = derive_once(_make_dual)


def _while_batch(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    """Until the last example has finished; those that have stay as they are."""
    assert node.op is not None
    test, body, wanted = (node.attributes[name] for name in ("test", "body", "wanted"))
    types = types_of(node.inputs)
    n = len(types) - len(body.outputs)
    flags = (*batched[:n], *[True] * len(body.outputs))
    made = _all_of(test, body, types, flags, size)
    inputs = [x if flag or i < n else repeated(x, size)
              for i, (x, flag) in enumerate(zip(xs, batched, strict=True))]  # fmt: skip
    y = apply(node.op, *inputs, test=made[0], body=made[1], wanted=wanted)
    parts, _ = _layout(made[1], types_of(inputs), wanted)
    pieces = [part_of(y, part).reshape((size, part.size // size)) for part in parts]
    return pieces[0] if len(pieces) == 1 else concat(pieces, axis=1)


def _make_all(
    test: Body, body: Body, types: tuple[Type, ...], batched: Flags, size: int
) -> tuple[Body, Body]:
    n = len(types) - len(body.outputs)
    tests = _for_all(test, types, batched, size, True)
    bodies = _for_all(body, types, batched, size, True)
    shapes = [Type((size, *each.shape), each.dtype) if flag else each
              for each, flag in zip(types, batched, strict=True)]  # fmt: skip
    xs = [stand_in(each) for each in shapes]
    with grad_mode(False):
        active = tests(xs)[0]  # (size,)
        ends = [
            where(active.reshape((size, *(1,) * (old.ndim - 1))), new, old)
            for new, old in zip(bodies(xs), xs[n:], strict=True)
        ]
        inputs = [x._node for x in xs]
        return body_of([any_(active)._node], inputs), body_of([y._node for y in ends], inputs)


_all_of = derive_once(_make_all)

_while_op = Op(  # not in the registry, whose tests differentiate backwards
    name="while_loop",
    doc="the carry after the last step of a loop that a test ends",
    infer=_while_infer,
    reference=_while_reference,
    gradient=(_while_gradient,),  # type: ignore[arg-type]  # one rule for all inputs
    tangent=_while_tangent,
    batch=_while_batch,
    saves=tuple(range(64)),
    samples=lambda rng: [],
    variadic=True,
)


def while_loop(cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init: Any) -> Any:
    """`carry = init; while cond_fun(carry): carry = body_fun(carry)`, recorded as one op.

    Args:
        cond_fun: returns a tensor of one element.
        body_fun: returns a carry of the same structure, shapes and dtypes. Both functions run once,
            on stand-ins without values, and may use tensors from outside.
        init: a tree of tensors.

    `jvp` and `vmap` work. There is no gradient backwards, as in JAX: `scan` has one.

    Raises:
        ArgumentError, ShapeError: a carry changes its structure, shape or dtype.
        GradientError: in a backward pass.
    """
    for f in (cond_fun, body_fun):
        require_function("while_loop", f)
    carries, structure = trees.flatten(init)
    if not carries:
        raise fail(ArgumentTypeError, "while_loop", "init must hold at least one tensor",
                   init=init, hint="wrap numbers: schuss.tensor(0.0)")  # fmt: skip
    tested = trace("while_loop", cond_fun, [structure], [carries])
    traced = trace("while_loop", body_fun, [structure], [carries])
    again = _truth("while_loop", tested.result)
    new = trees.matching("while_loop", structure, traced.result, "carry that body_fun returns")
    for old, made in zip(carries, new, strict=True):
        if (old.shape, old.dtype) != (made.shape, made.dtype):
            problem = "a carry must keep its shape and dtype from step to step"
            raise fail(ShapeError, "while_loop", problem, init=old, returned=made)
    return structure.unflatten(_record_while(tested, again, traced, new, carries))


def _record_while(
    tested: Traced, again: Tensor, traced: Traced, new: Sequence[Tensor], carries: Sequence[Tensor]
) -> list[Tensor]:
    used = list(dict.fromkeys([*tested.invariants([again]), *traced.invariants(new)]))
    test, body = tested.body([again], used, (0,)), traced.body(new, used, (0,))
    inputs = [*[wrap(node) for node in used], *carries]
    kinds = [x.dtype for x in carries]
    return _unpacked(_while_op, inputs, body, kinds, test=test, body=body)


__all__ = ["cond", "while_loop"]
