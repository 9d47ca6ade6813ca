"""Reductions that leave elements out, as `torch.masked` has them."""

from __future__ import annotations

from schuss.functions.masked import (
    argmax,
    argmin,
    log_softmax,
    logsumexp,
    max,
    mean,
    min,
    prod,
    softmax,
    std,
    sum,
    var,
)

__all__ = [
    "argmax", "argmin", "log_softmax", "logsumexp", "max", "mean", "min", "prod", "softmax", "std",
    "sum", "var",
]  # fmt: skip
