"""The reference tier: each op's NumPy meaning, one node at a time.

It is the oracle for everything faster.
"""

from __future__ import annotations

import numpy as np

from schuss.errors import BadValueError, fail
from schuss.graph import Node


def run(node: Node) -> np.ndarray:
    """Compute one node whose inputs have values."""
    op = node.op
    assert op is not None
    try:
        value = op.reference(*[each.value for each in node.inputs], **node.attributes)
    except BadValueError as problem:
        raise fail(
            problem.kind,
            node.name,
            problem.problem,
            hint=problem.hint,
            location=node.location,
            scope=node.scope.path() if node.scope else None,
            **{f"input {i}": each for i, each in enumerate(node.inputs)},
        ) from None
    if type(value) is not np.ndarray:
        value = np.asarray(value)
    assert value.shape == node.shape, (node, value.shape)
    assert value.dtype == node.dtype, (node, value.dtype)
    if not op.view and not value.flags.c_contiguous:
        value = np.ascontiguousarray(value)  # one layout for one structure
    return value
