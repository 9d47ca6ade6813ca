"""A small GPT: Radford et al., "Language models are unsupervised multitask learners" (2019)."""

from __future__ import annotations

from typing import Any

import numpy as np

from schuss.context import no_grad
from schuss.errors import ArgumentError, ShapeError, fail
from schuss.functions.creation import arange, asarray
from schuss.functions.manipulation import split
from schuss.nn import functional as F  # noqa: N812  # its name everywhere
from schuss.nn import init
from schuss.nn.arguments import positive
from schuss.nn.layers import Dropout, Embedding, Linear
from schuss.nn.module import Module
from schuss.nn.normalization import LayerNorm
from schuss.philox import Generator, default_generator
from schuss.tensor import Tensor


class CausalSelfAttention(Module):
    """Every place attends to itself and those before it: (N, T, width) -> the same."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        if width % heads:
            problem = "heads must divide width"
            raise fail(ArgumentError, "CausalSelfAttention", problem, width=width, heads=heads)
        self.heads, self.dropout = heads, dropout
        self.qkv = Linear(width, 3 * width, bias)
        self.project = Linear(width, width, bias)
        self.residual_dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        q, k, v = (
            part.reshape((n, t, self.heads, width // self.heads)).permute_dims((0, 2, 1, 3))
            for part in split(self.qkv(x), width, axis=-1)
        )
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        y = y.permute_dims((0, 2, 1, 3)).reshape((n, t, width))
        return self.residual_dropout(self.project(y))


class Block(Module):
    """Attention and a perceptron of four times the width, each normed before and added after."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, bias=bias)
        self.attention = CausalSelfAttention(width, heads, dropout, bias)
        self.norm2 = LayerNorm(width, bias=bias)
        self.widen = Linear(width, 4 * width, bias)
        self.narrow = Linear(4 * width, width, bias)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.dropout(self.narrow(F.gelu(self.widen(self.norm2(x)))))


class GPT(Module):
    """A Transformer that predicts the next token: (N, T) integers -> logits (N, T, vocabulary).

    Args:
        vocabulary: how many tokens there are.
        block_size: the longest context T.
        layers, heads, width: depth, heads of attention in each layer, features of a token.
        dropout: after embeddings, attention and perceptrons, and of the attention weights.
        bias: whether linear layers and norms add one.
        tied: the embedding of the tokens is also the matrix of the logits (Press and Wolf, 2017).
        generator: where the initial weights come from.

    Initial weights as in GPT-2: normal with deviation 0.02, and 0.02 / sqrt(2 layers) for what is
    added to the residual stream. Raises ShapeError for more than block_size tokens.
    """

    def __init__(
        self,
        vocabulary: int,
        block_size: int,
        layers: int = 4,
        heads: int = 4,
        width: int = 128,
        dropout: float = 0.0,
        bias: bool = False,
        tied: bool = True,
        *,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        positive("GPT", vocabulary=vocabulary, block_size=block_size, layers=layers, heads=heads)
        self.block_size = block_size
        self.tokens = Embedding(vocabulary, width)
        self.positions = Embedding(block_size, width)
        self.dropout = Dropout(dropout)
        self.blocks = [Block(width, heads, dropout, bias) for _ in range(layers)]
        self.norm = LayerNorm(width, bias=bias)
        self.head = None if tied else Linear(width, vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                added = name.endswith(("project.weight", "narrow.weight"))
                deviation = 0.02 / (2 * layers) ** 0.5 if added else 0.02
                init.normal_(parameter, std=deviation, generator=generator)
            elif "norm" not in name:
                init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.ndim != 2 or tokens.shape[1] > self.block_size:
            problem = f"tokens must be (N, T) with T up to {self.block_size}"
            raise fail(ShapeError, "GPT", problem, tokens=tokens)
        x = self.tokens(tokens) + self.positions(arange(tokens.shape[1]))
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return F.linear(x, self.tokens.weight) if self.head is None else self.head(x)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: matrices and embeddings decay, what norms and biases add not."""
        named = self.named_parameters()
        groups = []
        for decays in (True, False):
            chosen = {name: each for name, each in named if (each.ndim >= 2) == decays}
            decay = weight_decay if decays else 0.0
            groups.append(
                {"params": list(chosen.values()), "names": list(chosen), "weight_decay": decay}
            )
        return groups

    def generate(
        self,
        prompt: Any,
        count: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: Generator | None = None,
    ) -> np.ndarray:
        """`count` tokens that follow a prompt, drawn one by one: int64 (count,).

        Args:
            prompt: a list, array or tensor (T,) of at least one token; the last block_size count.
            temperature: logits are divided by it; towards 0 the likeliest token always wins.
            top_k: draw among the likeliest so many only.
            generator: where the draws come from; the default generator otherwise.

        In evaluation mode; the model's mode is restored. Raises ArgumentError for an empty prompt,
        a temperature that is not positive, or a top_k below 1.
        """
        text = [int(token) for token in prompt]
        if not text or count < 0:
            problem = "the prompt needs a token, and count must not be negative"
            raise fail(ArgumentError, "GPT.generate", problem, tokens=len(text), count=count)
        if not temperature > 0 or (top_k is not None and top_k < 1):
            problem = "temperature must be positive, and top_k at least 1"
            raise fail(ArgumentError, "GPT.generate", problem, temperature=temperature, top_k=top_k)
        start = len(text)
        source = default_generator if generator is None else generator
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            for _ in range(count):
                logits = self._next_logits(text[-self.block_size :])
                text.append(_drawn(logits / temperature, top_k, source))
        finally:
            for module, mode in modes:
                module.training = mode
        return np.array(text[start:], np.int64)

    def _next_logits(self, context: list[int]) -> np.ndarray:
        """Of the token behind the context. Padded to one length, so that one program serves all."""
        window = np.zeros((1, self.block_size), np.int64)
        window[0, : len(context)] = context
        with no_grad():
            logits = self(asarray(window)).numpy()
        return logits[0, len(context) - 1].astype(np.float64)


def _drawn(logits: np.ndarray, top_k: int | None, generator: Generator) -> int:
    """A token, with the probabilities softmax(logits) among the likeliest `top_k`."""
    if top_k is not None and top_k < len(logits):
        least = np.partition(logits, -top_k)[-top_k]
        logits = np.where(logits < least, -np.inf, logits)
    cumulative = np.cumsum(np.exp(logits - logits.max()))
    unit = int(generator.bits(2).view(np.uint64)[0] >> np.uint64(11)) * 2.0**-53  # in [0, 1)
    return int(np.searchsorted(cumulative, unit * cumulative[-1], side="right"))
