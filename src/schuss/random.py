"""Random numbers: generators with a small exact state, and the distributions drawn from them.

Every function takes `generator=`; without it the default generator is used, which starts from seed
0, so that a program gives the same numbers each time it runs.
"""

from __future__ import annotations

from schuss.functions.random import bernoulli, bits, normal, permutation, randint, uniform
from schuss.philox import Generator, default_generator


def manual_seed(seed: int) -> Generator:
    """Start the default generator anew from `seed`, and return it."""
    fresh = Generator(seed)
    default_generator.load_state_dict(fresh.state_dict())
    return default_generator


__all__ = [
    "Generator", "bernoulli", "bits", "default_generator", "manual_seed", "normal", "permutation",
    "randint", "uniform",
]  # fmt: skip
