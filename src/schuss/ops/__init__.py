"""The primitives, a file a family. Importing this fills `graph.REGISTRY`."""

from schuss.ops import (
    attention,
    broadcast,
    contraction,
    elementwise,
    indexing,
    linalg,
    movement,
    random,
    reduction,
)

__all__ = [
    "attention",
    "broadcast",
    "contraction",
    "elementwise",
    "indexing",
    "linalg",
    "movement",
    "random",
    "reduction",
]
