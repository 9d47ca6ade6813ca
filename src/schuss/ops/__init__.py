"""The primitives, a file a family. Importing this fills `graph.REGISTRY`."""

from schuss.ops import (
    attention,
    broadcast,
    contraction,
    elementwise,
    factorizations,
    fft,
    indexing,
    inverses,
    linalg,
    movement,
    order,
    random,
    random_rejection,
    reduction,
    special,
)

__all__ = [
    "attention",
    "broadcast",
    "contraction",
    "elementwise",
    "factorizations",
    "fft",
    "indexing",
    "inverses",
    "linalg",
    "movement",
    "order",
    "random",
    "random_rejection",
    "reduction",
    "special",
]
