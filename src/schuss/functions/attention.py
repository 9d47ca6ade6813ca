"""Attention: averages of values, weighted by how well queries and keys match."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from schuss import dtypes
from schuss.errors import ArgumentError, DTypeError, ShapeError, fail
from schuss.functions.arguments import ArrayLike, as_tensor, cast, floating, operands
from schuss.functions.elementwise import where
from schuss.functions.manipulation import broadcast_to, expand_dims, reshape
from schuss.functions.neural import dropout
from schuss.functions.precision import for_products
from schuss.graph import apply, labelled
from schuss.ops.attention import attention, compose_weights
from schuss.ops.infer import broadcast_shapes
from schuss.philox import Generator

if TYPE_CHECKING:
    from schuss.tensor import Tensor

_NAME = "scaled_dot_product_attention"


def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """softmax(scale query key^T + mask) value (Vaswani et al., 2017).

    Args:
        query: (..., Tq, D). Axes before the last two broadcast.
        key: (..., Tk, D).
        value: (..., Tk, Dv).
        attn_mask: broadcasts to (..., Tq, Tk). Booleans tell which keys count for a query;
            numbers are added before the softmax.
        dropout_p: the probability with which a weight is left out. Unlike in a layer it always
            holds: pass 0 when not training.
        is_causal: query i sees the keys 0 to i only, counted from the start of both, whatever
            their lengths. It can be combined with a mask. Values of later keys are skipped or
            multiplied by 0, so that infinite ones may or may not make NaN.
        scale: 1 / sqrt(D) by default. It is part of the recorded structure: a number that changes
            from step to step belongs into the query.
        enable_gqa: the axis before the last two counts heads, of which key and value may have
            fewer: each serves as many query heads in a row (Ainslie et al., "GQA: training
            generalized multi-query transformer models", 2023). Nothing is repeated in memory.
        generator: where dropout's random numbers come from; the default generator otherwise.

    Returns:
        (..., Tq, Dv). A query that no key counts for gets zeros, not NaN, as in PyTorch.

    Raises:
        ShapeError: where sizes do not fit together.
        DTypeError: for a mask of integers.
    """
    if not 0 <= dropout_p <= 1:
        raise fail(ArgumentError, _NAME, "dropout_p is a probability", dropout_p=dropout_p)
    given = [floating(each, _NAME) for each in (query, key, value)]
    q, k, v = operands(_NAME, *for_products(*given))
    if min(q.ndim, k.ndim, v.ndim) < 2:
        problem = "query, key and value need two axes at least: (..., T, D)"
        raise fail(ShapeError, _NAME, problem, query=q, key=k, value=v)
    mask = None if attn_mask is None else additive_mask(attn_mask, q.dtype)
    heads = q.shape[-3:-2]
    if enable_gqa:
        q, k, v, mask = _in_groups(q, k, v, mask)
    batch = broadcast_shapes(_NAME, q.shape[:-2], k.shape[:-2], v.shape[:-2])
    q, k, v = (_spread(each, batch) for each in (q, k, v))
    factor = default_scale(q.shape[-1]) if scale is None else float(scale)
    if dropout_p > 0:
        weights = attention_weights(q, k, mask, is_causal, factor)
        y = dropout(weights, dropout_p, generator=generator) @ v
    else:
        masks = () if mask is None else (mask,)
        y = labelled(apply(attention, q, k, v, *masks, causal=is_causal, scale=factor), _NAME)
    return reshape(y, (*y.shape[:-4], *heads, *y.shape[-2:])) if enable_gqa else y


def default_scale(features: int) -> float:
    """1 / sqrt(features), which keeps the variance of dot products."""
    return 1 / math.sqrt(max(1, features))


def additive_mask(mask: ArrayLike, dtype: dtypes.DType) -> Tensor:
    """A mask as numbers to add: booleans become 0 where true and -infinity elsewhere."""
    mask = as_tensor(mask, _NAME)
    if mask.dtype == dtypes.bool_:
        return cast(where(mask, 0.0, -math.inf), dtype)
    if not dtypes.is_floating(mask.dtype):
        problem = "a mask is boolean or floating"
        raise fail(DTypeError, _NAME, problem, attn_mask=mask, hint="attn_mask.astype(bool)")
    return cast(mask, dtype)


def attention_weights(
    query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool, scale: float
) -> Tensor:
    """What `value` is multiplied with, (..., Tq, Tk): rows that add up to 1, or to 0 if masked."""
    wide = dtypes.accumulator(query.dtype)
    added = None if mask is None else cast(mask, wide)
    weights = compose_weights(cast(query, wide), cast(key, wide), added, is_causal, scale)
    return cast(weights, query.dtype)


def _in_groups(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The heads of q as (heads of k, heads that share one), and an axis for the latter in all."""
    heads, shared = q.shape[-3:-2], k.shape[-3:-2]
    if not heads or not shared or shared != v.shape[-3:-2] or not shared[0]:
        problem = (
            "query, key and value need a head axis, as long in key as in value: (..., H, T, D)"
        )
        raise fail(ShapeError, _NAME, problem, query=q, key=k, value=v)
    if heads[0] % shared[0]:
        problem = "the heads of key and value must divide those of query"
        raise fail(ShapeError, _NAME, problem, query=q, key=k, value=v)
    split = (shared[0], heads[0] // shared[0])
    if mask is not None and mask.ndim > 2:
        groups = split if mask.shape[-3] == heads[0] else (mask.shape[-3], 1)
        mask = reshape(mask, (*mask.shape[:-3], *groups, *mask.shape[-2:]))
    q = reshape(q, (*q.shape[:-3], *split, *q.shape[-2:]))
    return q, expand_dims(k, -3), expand_dims(v, -3), mask


def _spread(x: Tensor, batch: tuple[int, ...]) -> Tensor:
    return x if x.shape[:-2] == batch else broadcast_to(x, (*batch, *x.shape[-2:]))


__all__ = ["scaled_dot_product_attention"]
