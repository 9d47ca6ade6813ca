"""Multi-head attention."""

from __future__ import annotations

from typing import Any

from schuss import dtypes
from schuss.errors import ArgumentError, DTypeError, ShapeError, fail
from schuss.functions import attention, neural
from schuss.functions.arguments import cast
from schuss.functions.creation import ones, tril, zeros
from schuss.functions.elementwise import logical_not
from schuss.functions.manipulation import broadcast_to, concat, split
from schuss.functions.reduction import mean
from schuss.nn import init
from schuss.nn.arguments import floating_argument, positive, tensor_argument
from schuss.nn.layers import Linear
from schuss.nn.module import Module, Parameter
from schuss.philox import Generator
from schuss.tensor import Tensor


class MultiheadAttention(Module):
    """Attention by several heads, each on its share of the features (Vaswani et al., 2017).

        heads: softmax(q k^T / sqrt(head_dim)) v   with q, k, v = projections of the inputs
        y = the heads side by side, times out_proj

    Args:
        embed_dim: features of queries and results; each head has embed_dim / num_heads of them.
        num_heads: how many heads; must divide embed_dim.
        dropout: the probability with which a weight is left out in training.
        bias: whether the projections add a bias.
        add_bias_kv: append a learned key and value.
        add_zero_attn: append a key and value of zeros.
        kdim, vdim: features of keys and values; embed_dim by default.
        batch_first: whether inputs are (N, T, features) instead of (T, N, features).
        generator: where the random numbers of initial values and dropout come from.

    Parameters are PyTorch's: in_proj_weight (3 embed_dim, embed_dim), or q_proj_weight,
    k_proj_weight and v_proj_weight where kdim or vdim differ; in_proj_bias; out_proj; bias_k,
    bias_v. Raises ArgumentError unless num_heads divides embed_dim.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        dtype: Any = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        positive("MultiheadAttention", embed_dim=embed_dim, num_heads=num_heads)
        if embed_dim % num_heads:
            raise fail(ArgumentError, "MultiheadAttention", "num_heads must divide embed_dim",
                       embed_dim=embed_dim, num_heads=num_heads)  # fmt: skip
        if not 0 <= dropout <= 1:
            raise fail(ArgumentError, "MultiheadAttention", "dropout is a probability",
                       dropout=dropout)  # fmt: skip
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        self.batch_first, self.add_zero_attn = batch_first, add_zero_attn
        self.generator = generator
        kind = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype)

        def weight(rows: int, columns: int) -> Parameter:
            parameter = Parameter(zeros((rows, columns), dtype=kind))
            init.xavier_uniform_(parameter, generator=generator)
            return parameter

        together = self.kdim == self.vdim == embed_dim
        self.in_proj_weight = weight(3 * embed_dim, embed_dim) if together else None
        self.q_proj_weight = None if together else weight(embed_dim, embed_dim)
        self.k_proj_weight = None if together else weight(embed_dim, self.kdim)
        self.v_proj_weight = None if together else weight(embed_dim, self.vdim)
        self.in_proj_bias = Parameter(zeros((3 * embed_dim,), dtype=kind)) if bias else None
        self.bias_k = self.bias_v = None
        if add_bias_kv:
            self.bias_k, self.bias_v = (
                Parameter(zeros((1, 1, embed_dim), dtype=kind)) for _ in range(2)
            )
            init.xavier_normal_(self.bias_k, generator=generator)
            init.xavier_normal_(self.bias_v, generator=generator)
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype=dtype, generator=generator)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The attended values and, if wanted, the weights.

        Args:
            query: (L, N, embed_dim), or (N, L, embed_dim) with batch_first, or (L, embed_dim).
            key, value: the same with S for L, and kdim and vdim features.
            key_padding_mask: (N, S), or (S,) without a batch. True leaves a key out; numbers are
                added to its scores.
            need_weights: whether to return the weights. They are computed only where somebody
                looks at them.
            attn_mask: (L, S) or (N * num_heads, L, S). True leaves a key out for a query (the
                other way round than in `scaled_dot_product_attention`); numbers are added.
            average_attn_weights: return the mean over the heads instead of all of them.
            is_causal: query i sees keys 0 to i. Unlike in PyTorch it needs no attn_mask.

        Returns:
            y, shaped like query; and weights (N, L, S), (N, num_heads, L, S) or None, without N
            where there is no batch.
        """
        inputs = self._checked(query, key, value)
        unbatched = query.ndim == 2
        if unbatched:
            inputs = [x.expand_dims(0) for x in inputs]
        elif not self.batch_first:
            inputs = [x.permute_dims((1, 0, 2)) for x in inputs]
        if query is key and key is value:
            inputs = [inputs[0]] * 3
        (n, length), source = inputs[0].shape[:2], inputs[1].shape[1]
        if unbatched and key_padding_mask is not None and key_padding_mask.ndim == 1:
            key_padding_mask = key_padding_mask.expand_dims(0)
        mask = self._mask(attn_mask, key_padding_mask, n, length, source)
        q, k, v = (self._split_heads(x) for x in self._projected(inputs))
        mask, is_causal = _with_appended(mask, is_causal, length, source, k.shape[2], q.dtype)
        y, weights = self._attend(q, k, v, mask, is_causal, need_weights)
        y = self.out_proj(y.permute_dims((0, 2, 1, 3)).reshape((n, length, self.embed_dim)))
        if weights is not None and average_attn_weights:
            weights = mean(weights, axis=1)
        if unbatched:
            return y[0], None if weights is None else weights[0]
        return y if self.batch_first else y.permute_dims((1, 0, 2)), weights

    def _checked(self, *inputs: Tensor) -> list[Tensor]:
        tensors = [floating_argument("MultiheadAttention", x) for x in inputs]
        query, key, value = tensors
        ranks = {x.ndim for x in tensors}
        if ranks not in ({2}, {3}):
            problem = "query, key and value have two axes each, or three with a batch"
        elif [x.shape[-1] for x in tensors] != [self.embed_dim, self.kdim, self.vdim]:
            expected = (self.embed_dim, self.kdim, self.vdim)
            problem = f"query, key and value must have {expected} features"
        elif key.shape[:-1] != value.shape[:-1]:
            problem = "key and value must agree in all axes but the last"
        elif query.ndim == 3 and len({x.shape[0 if self.batch_first else 1] for x in tensors}) > 1:
            axis = 0 if self.batch_first else 1
            problem = f"the batches (axis {axis}) differ in size"
        else:
            return tensors
        raise fail(ShapeError, "MultiheadAttention", problem, query=query, key=key, value=value,
                   hint="batch_first=True takes (N, T, features)")  # fmt: skip

    def _projected(self, inputs: list[Tensor]) -> list[Tensor]:
        """Queries, keys and values (N, T, embed_dim), with what the settings append."""
        biases: Any = (None,) * 3
        if self.in_proj_bias is not None:
            biases = split(self.in_proj_bias, self.embed_dim)
        if self.in_proj_weight is not None and inputs[0] is inputs[1] is inputs[2]:
            whole = neural.linear(inputs[0], self.in_proj_weight, self.in_proj_bias)
            parts = list(split(whole, self.embed_dim, axis=-1))
        else:
            weights: Any = (
                (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
                if self.in_proj_weight is None
                else split(self.in_proj_weight, self.embed_dim)
            )
            parts = [
                neural.linear(x, weight, bias)
                for x, weight, bias in zip(inputs, weights, biases, strict=True)
            ]
        n = inputs[0].shape[0]
        if self.bias_k is not None:
            for place, more in ((1, self.bias_k), (2, self.bias_v)):
                row = broadcast_to(more, (n, 1, self.embed_dim))
                parts[place] = concat([parts[place], row], axis=1)
        if self.add_zero_attn:
            row = zeros((n, 1, self.embed_dim), dtype=parts[1].dtype)
            parts[1:] = [concat([x, row], axis=1) for x in parts[1:]]
        return parts

    def _split_heads(self, x: Tensor) -> Tensor:
        """(N, T, embed_dim) as (N, num_heads, T, head_dim)."""
        n, length, features = x.shape
        heads = (n, length, self.num_heads, features // self.num_heads)
        return x.reshape(heads).permute_dims((0, 2, 1, 3))

    def _mask(
        self,
        attn_mask: Tensor | None,
        key_padding_mask: Tensor | None,
        n: int,
        length: int,
        source: int,
    ) -> Tensor | None:
        """Both masks as one to add, which broadcasts to (N, num_heads, L, S)."""
        total = None
        for name, mask, shapes in (
            ("attn_mask", attn_mask, [(length, source), (n * self.num_heads, length, source)]),
            ("key_padding_mask", key_padding_mask, [(n, source)]),
        ):
            if mask is None:
                continue
            mask = tensor_argument("MultiheadAttention", mask)
            if mask.shape not in shapes:
                expected = " or ".join(str(shape) for shape in shapes)
                problem = f"{name} must have the shape {expected}"
                raise fail(ShapeError, "MultiheadAttention", problem, mask=mask)
            if name == "key_padding_mask":
                mask = mask.reshape((n, 1, 1, source))
            elif mask.ndim == 3:
                mask = mask.reshape((n, self.num_heads, length, source))
            added = _to_add(mask, self.out_proj.weight.dtype)
            total = added if total is None else total + added
        return total

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, weigh: bool
    ) -> tuple[Tensor, Tensor | None]:
        scale = attention.default_scale(q.shape[-1])
        dropout = self.dropout if self.training else 0.0
        if not (weigh and dropout):  # weights on their own cost nothing unless they are looked at
            weights = attention.attention_weights(q, k, mask, causal, scale) if weigh else None
            y = attention.scaled_dot_product_attention(
                q, k, v, mask, dropout, causal, generator=self.generator
            )
            return y, weights
        weights = attention.attention_weights(q, k, mask, causal, scale)
        weights = neural.dropout(weights, dropout, generator=self.generator)
        return weights @ v, weights

    def describe(self) -> str:
        parts = [f"{self.embed_dim}", f"num_heads={self.num_heads}"]
        parts += [f"dropout={self.dropout}"] if self.dropout else []
        parts += [] if self.in_proj_bias is not None else ["bias=False"]
        parts += ["batch_first=True"] if self.batch_first else []
        return ", ".join(parts)


def _with_appended(
    mask: Tensor | None, causal: bool, length: int, source: int, keys: int, dtype: dtypes.DType
) -> tuple[Tensor | None, bool]:
    """Mask and causal flag for `keys` keys: those behind the first `source` count for everybody."""
    if keys == source:
        return mask, causal
    if causal:
        above = logical_not(tril(ones((length, source), dtype=dtypes.bool_)))
        added = _to_add(above, dtype)
        mask = added if mask is None else mask + added
    if mask is not None:
        more = zeros((*mask.shape[:-1], keys - source), dtype=mask.dtype)
        mask = concat([mask, more], axis=-1)
    return mask, False


def _to_add(mask: Tensor, dtype: dtypes.DType) -> Tensor:
    """A mask of this layer, where True means left out, as numbers to add."""
    if mask.dtype == dtypes.bool_:
        return attention.additive_mask(logical_not(mask), dtype)
    if not dtypes.is_floating(mask.dtype):
        problem = "masks are boolean or floating"
        raise fail(DTypeError, "MultiheadAttention", problem, mask=mask, hint="mask.astype(bool)")
    return cast(mask, dtype)
