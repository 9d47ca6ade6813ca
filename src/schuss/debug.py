"""Finding out where a number went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from schuss import dtypes
from schuss.errors import NumericsError, fail
from schuss.execution.evaluate import watchers
from schuss.graph import Node


@contextmanager
def check_numerics() -> Iterator[None]:
    """Stop at the first NaN or infinity that is computed inside, and say where it came from.

    with schuss.debug.check_numerics():
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()

    The error names the op, the layer, the user's line, and how many elements are affected; for a
    gradient, the line and the layer of the forward pass. Only what is computed inside the block is
    looked at, so include the `step()` or the first look at a value. Each result is read once more:
    expect some tens of per cent of extra time.

    Raises:
        NumericsError: at the first op with a NaN in its result, or an infinity that its inputs
            did not have.
    """
    watchers.append(_check)
    try:
        yield
    finally:
        watchers.remove(_check)


def _check(node: Node) -> None:
    """Raise for a NaN anywhere, for an infinity only where it arises.

    Some infinities are meant: max pooling pads with them.
    """
    nans, infinities = _count(node)
    if not nans and not infinities:
        return
    before = [_count(each) for each in node.inputs]
    if not nans and any(count for _, count in before):
        return
    found = any(count for count, _ in before)
    origin = "there were NaN in its input already" if found else "its inputs had none"
    ranges: dict[str, Any] = {f"input {i}": _summary(x) for i, x in enumerate(node.inputs)}
    raise fail(
        NumericsError,
        node.name,
        f"{nans} NaN and {infinities} infinities among {node.size} results; {origin}",
        location=node.location,
        scope=node.scope.path() if node.scope else None,
        result=node,
        **ranges,
    )


def _count(node: Node) -> tuple[int, int]:
    """How many NaN and how many infinities a node's value has."""
    value = node.value
    if value is None or not dtypes.is_inexact(node.dtype):
        return 0, 0
    if value.dtype == dtypes.bfloat16:
        value = value.astype(np.float32)
    if np.isfinite(value).all():
        return 0, 0
    return int(np.isnan(value).sum()), int(np.isinf(value).sum())


class _summary:  # noqa: N801  # a note that prints without quotes
    """Shape, dtype and range of an input."""

    def __init__(self, node: Node) -> None:
        self.text = f"{node.shape} {node.dtype}"
        if node.value is not None and node.value.size and node.value.dtype.kind in "iuf":
            self.text += f", from {node.value.min():.6g} to {node.value.max():.6g}"

    def __repr__(self) -> str:
        return self.text
