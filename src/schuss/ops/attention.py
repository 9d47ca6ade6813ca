"""Scaled dot-product attention and its gradient.

Vaswani et al., "Attention is all you need" (2017). Both are primitives so that a target can compute
them block by block without ever holding the Tq x Tk matrix of weights (Dao et al., "FlashAttention:
fast and memory-efficient exact attention", 2022). In letters:

    S = scale q k^T + mask      (..., Tq, Tk), -inf above the diagonal where causal
    P = softmax(S) over keys    a row without any allowed key is 0, not NaN
    y = P v                     (..., Tq, Dv)

    dP = g v^T,  dS = P * (dP - rowsum(g * y))
    dq = scale dS k,  dk = scale dS^T q,  dv = P^T g,  dmask = dS

The gradient is one op that hands back dq, dk and dv behind each other in one flat array, because
they share all of the work. Rules for the mask and for second derivatives are composed of ordinary
ops and do hold the matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType, accumulator
from schuss.errors import ShapeError, fail
from schuss.graph import OUTPUT, Node, Op, Sample, Shape, apply, data, define, wrap
from schuss.ops.broadcast import spread, sum_, sum_to
from schuss.ops.elementwise import exp, select
from schuss.ops.infer import Rng, broadcast_shapes, numbers, require_dtype, strided
from schuss.ops.movement import concat
from schuss.ops.reduction import max_
from schuss.ops.structure import all_batched

if TYPE_CHECKING:
    from schuss.tensor import Tensor

# --- shapes ---


def _check(where: str, q: Node, k: Node, v: Node, mask: Node | None) -> None:
    named: dict[str, Any] = {"q": q, "k": k, "v": v} | ({} if mask is None else {"mask": mask})
    require_dtype(where, dtypes.FLOATING, "floating", **named)
    if not (q.ndim == k.ndim == v.ndim and q.ndim >= 2 and
            q.shape[:-2] == k.shape[:-2] == v.shape[:-2]):  # fmt: skip
        problem = "q, k and v must have the same axes before their last two"
        raise fail(ShapeError, where, problem, **named)
    if q.shape[-1] != k.shape[-1]:
        problem = "queries and keys must have the same number of features (the last axis)"
        raise fail(ShapeError, where, problem, **named)
    if k.shape[-2] != v.shape[-2]:
        problem = "there must be as many keys as values (the second-last axis)"
        raise fail(ShapeError, where, problem, **named)
    scores = (*q.shape[:-1], k.shape[-2])
    if mask is not None and broadcast_shapes(where, scores, mask.shape) != scores:
        raise fail(ShapeError, where, f"the mask must broadcast to the scores {scores}", **named)


def _attention_infer(
    q: Node, k: Node, v: Node, mask: Node | None = None, *, causal: bool, scale: float
) -> tuple[Shape, DType]:
    _check("attention", q, k, v, mask)
    return (*q.shape[:-1], v.shape[-1]), q.dtype


def _gradient_infer(
    g: Node, q: Node, k: Node, v: Node, y: Node, mask: Node | None = None, *,
    causal: bool, scale: float,
) -> tuple[Shape, DType]:  # fmt: skip
    _check("attention_gradient", q, k, v, mask)
    expected = (*q.shape[:-1], v.shape[-1])
    if not g.shape == y.shape == expected:
        problem = f"g and y must have the shape of the result, {expected}"
        raise fail(ShapeError, "attention_gradient", problem, g=g, y=y)
    return (q.size + k.size + v.size,), q.dtype


# --- the meaning in NumPy ---


def _allowed(queries: int, keys: int) -> np.ndarray:
    """Where query i may look at key j: j <= i, counted from the first of both."""
    return np.tri(queries, keys, dtype=np.bool_)


def _weights(
    q: np.ndarray, k: np.ndarray, mask: np.ndarray | None, causal: bool, scale: float
) -> np.ndarray:
    """P in the dtype of q, which is at least float32."""
    scores = np.matmul(q, k.swapaxes(-1, -2)) * q.dtype.type(scale)
    if mask is not None:
        scores = scores + mask
    if causal:
        scores = np.where(_allowed(*scores.shape[-2:]), scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    powers = np.exp(scores - np.where(np.isneginf(top), 0, top))
    total = powers.sum(axis=-1, keepdims=True)
    return powers / np.where(total == 0, 1, total)


def _wide(x: np.ndarray | None) -> Any:
    return None if x is None else x.astype(accumulator(x.dtype), copy=False)


def _attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None = None, *,
    causal: bool, scale: float,
) -> np.ndarray:  # fmt: skip
    weights = _weights(_wide(q), _wide(k), _wide(mask), causal, scale)
    return np.matmul(weights, _wide(v)).astype(q.dtype, copy=False)


def _attention_gradient(
    g: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, y: np.ndarray,
    mask: np.ndarray | None = None, *, causal: bool, scale: float,
) -> np.ndarray:  # fmt: skip
    dtype = q.dtype
    g, q, k, v, y = (_wide(each) for each in (g, q, k, v, y))
    weights = _weights(q, k, _wide(mask), causal, scale)
    towards = np.matmul(g, v.swapaxes(-1, -2)) - (g * y).sum(axis=-1, keepdims=True)
    slopes = weights * towards * q.dtype.type(scale)
    parts = (
        np.matmul(slopes, k),
        np.matmul(slopes.swapaxes(-1, -2), q),
        np.matmul(weights.swapaxes(-1, -2), g),
    )
    return np.concatenate([part.ravel() for part in parts]).astype(dtype, copy=False)


# --- the same, composed of ordinary ops ---


def compose_weights(
    q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """P (..., Tq, Tk), recorded op by op."""
    scores = (q @ k.mT) * scale
    if mask is not None:
        scores = scores + mask
    if causal:
        scores = select(wrap(data(_allowed(*scores.shape[-2:]))), scores, -math.inf)
    if scores.shape[-1] == 0:
        return scores
    axes = (scores.ndim - 1,)
    top = apply(max_, scores, axes=axes).detach()
    powers = apply(exp, scores - spread(select(top == -math.inf, 0, top), scores, axes))
    total = apply(sum_, powers, axes=axes)
    return powers / spread(select(total == 0, 1, total), scores, axes)


def _dot_rows(x: Tensor, y: Tensor) -> Tensor:
    """The dot products of the rows of x and y: (..., Tq, D) -> (..., Tq, 1)."""
    products = apply(sum_, x * y, axes=(x.ndim - 1,))
    return products.reshape((*products.shape, 1))


# --- derivatives ---


def unpack(flat: Tensor, *shapes: Shape) -> list[Tensor]:
    """Cut a flat tensor into tensors of these shapes, which lie in it one behind the other."""
    parts, start = [], 0
    for shape in shapes:
        stop = start + math.prod(shape)
        parts.append(flat[start:stop].reshape(shape))
        start = stop
    return parts


def _wide_tensors(*tensors: Tensor | None) -> list[Any]:
    return [None if x is None else x.astype(accumulator(x.dtype)) for x in tensors]


def _attention_rule(
    g: Tensor, y: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *,
    causal: bool, scale: float,
) -> list[Tensor]:  # fmt: skip
    more = () if mask is None else (mask,)
    flat = apply(attention_gradient, g, q, k, v, y, *more, causal=causal, scale=scale)
    parts = unpack(flat, q.shape, k.shape, v.shape)
    if mask is not None and mask.requires_grad:
        gw, qw, kw, vw, yw, mw = _wide_tensors(g, q, k, v, y, mask)
        weights = compose_weights(qw, kw, mw, causal, scale)
        slopes = weights * (gw @ vw.mT - _dot_rows(gw, yw))
        parts.append(sum_to(slopes, mask.shape).astype(mask.dtype))
    return parts


def _second_rule(
    h: Tensor, flat: Tensor, g: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor,
    mask: Tensor | None = None, *, causal: bool, scale: float,
) -> list[Tensor]:  # fmt: skip
    """What the gradients of dq, dk and dv (a, b and c below) say about all that they came from.

    It is the formulas on top of this page, walked backwards. `E` is the gradient of dS.
    """
    shapes = [x.shape for x in (g, q, k, v, y, *(() if mask is None else (mask,)))]
    dtype = q.dtype
    h, g, q, k, v, y, mask = _wide_tensors(h, g, q, k, v, y, mask)
    a, b, c = unpack(h, q.shape, k.shape, v.shape)
    P = compose_weights(q, k, mask, causal, scale)
    towards = g @ v.mT - _dot_rows(g, y)
    slopes = P * towards
    E = (a @ k.mT + q @ b.mT) * scale
    from_towards = E * P
    from_dots = -_dot_rows(E, P)
    from_weights = g @ c.mT + E * towards
    from_scores = P * (from_weights - _dot_rows(P, from_weights))
    parts = [
        P @ c + from_towards @ v + from_dots * y,
        (slopes @ b + from_scores @ k) * scale,
        (slopes.mT @ a + from_scores.mT @ q) * scale,
        from_towards.mT @ g,
        from_dots * g,
        from_scores,
    ]
    return [sum_to(x, shape).astype(dtype) for x, shape in zip(parts, shapes, strict=False)]


# --- the records ---

Case = tuple[Shape, Shape, Shape, Shape | None, bool, float]
Inputs = tuple[list[np.ndarray], list[np.ndarray], dict[str, Any]]

CASES: tuple[Case, ...] = (  # q, k, v, mask, causal, scale
    ((3, 4), (5, 4), (5, 2), None, False, 0.5),
    ((1, 1), (1, 1), (1, 1), None, True, 1.0),
    ((2, 5, 3), (2, 5, 3), (2, 5, 4), None, True, 0.6),
    ((2, 4, 3), (2, 2, 3), (2, 2, 3), None, True, 0.6),
    ((2, 2, 3, 2), (2, 2, 4, 2), (2, 2, 4, 3), (2, 1, 1, 4), False, 0.7),
    ((2, 4, 3), (2, 4, 3), (2, 4, 3), (4, 4), True, 0.6),
    ((0, 3, 2), (0, 4, 2), (0, 4, 2), None, False, 1.0),
    ((3, 2), (0, 2), (0, 4), None, False, 1.0),
    ((0, 2), (3, 2), (3, 4), None, True, 1.0),
)  # fmt: skip


def _inputs(rng: Rng) -> Iterator[Inputs]:
    """q, k and v; the mask, if any; the attributes."""
    for *shapes, mask, causal, scale in CASES:
        masks = [] if mask is None else [numbers(rng, mask)]
        yield [numbers(rng, shape) for shape in shapes], masks, {"causal": causal, "scale": scale}
    for seen in ((1, 0, 0, 1), (0, 0, 0, 0)):  # a query that sees two keys, and one that sees none
        bias = np.where(seen, numbers(rng, (1, 4)), -np.inf)
        tensors = [numbers(rng, shape) for shape in ((1, 1), (4, 1), (4, 2))]
        yield tensors, [bias], {"causal": False, "scale": 1.0}


def _attention_samples(rng: Rng) -> list[Sample]:
    made = [Sample([*tensors, *masks], named) for tensors, masks, named in _inputs(rng)]
    apart = [strided(numbers(rng, (2, 5, 3))) for _ in range(3)]
    return [*made, Sample(apart, {"causal": True, "scale": 0.6})]


def _gradient_samples(rng: Rng) -> list[Sample]:
    made = []
    for tensors, masks, named in _inputs(rng):
        shape = (*tensors[0].shape[:-1], tensors[2].shape[-1])
        g, y = numbers(rng, shape), numbers(rng, shape)
        made.append(Sample([g, *tensors, y, *masks], named))
    return made


def _attention_batch(
    node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]
) -> Tensor:
    return apply(attention, *_all_batched(node, 3, size, xs, batched), **node.attributes)


def _gradient_batch(node: Node, size: int, xs: Sequence[Tensor], batched: Sequence[bool]) -> Tensor:
    inputs = _all_batched(node, 5, size, xs, batched)
    flat = apply(attention_gradient, *inputs, **node.attributes)
    parts = unpack(flat, *[x.shape for x in inputs[1:4]])
    rows = [part.reshape((size, math.prod(part.shape[1:]))) for part in parts]
    return apply(concat, *rows, axis=1)


def _all_batched(
    node: Node, count: int, size: int, xs: Sequence[Tensor], batched: Sequence[bool]
) -> list[Tensor]:
    """The first inputs with a batch axis, and behind these the mask, which broadcasts."""
    made = all_batched(size, xs[:count], batched[:count])
    for mask, each, flag in zip(xs[count:], node.inputs[count:], batched[count:], strict=True):
        ones = (1,) * (node.inputs[1].ndim - each.ndim)
        made.append(mask.reshape((size, *ones, *each.shape)) if flag else mask)
    return made


attention: Op = define(
    "attention",
    "softmax(scale q k^T + mask) v over the last two axes; causal: key j counts for queries i >= j",
    infer=_attention_infer,
    reference=_attention,
    gradient=(_attention_rule,),
    saves=(0, 1, 2, 3, OUTPUT),
    samples=_attention_samples,
    variadic=True,
    batch=_attention_batch,
)
attention_gradient: Op = define(
    "attention_gradient",
    "the gradients of `attention` for q, k and v, flat and one behind the other",
    infer=_gradient_infer,
    reference=_attention_gradient,
    gradient=(_second_rule,),
    saves=(0, 1, 2, 3, 4, 5),
    samples=_gradient_samples,
    variadic=True,
    batch=_gradient_batch,
)
