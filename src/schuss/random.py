"""Random numbers: generators with a small exact state, and the distributions drawn from them.

Every function takes `generator=`; without it the default generator is used, which starts from seed
0, so that a program gives the same numbers each time it runs.
"""

from __future__ import annotations

from schuss.functions.distributions import (
    bernoulli,
    beta,
    categorical,
    cauchy,
    choice,
    dirichlet,
    exponential,
    gamma,
    gumbel,
    laplace,
    logistic,
    permutation,
    poisson,
    truncated_normal,
)
from schuss.functions.random import bits, normal, randint, uniform
from schuss.philox import Generator, default_generator


def manual_seed(seed: int) -> Generator:
    """Start the default generator anew from `seed`, and return it."""
    fresh = Generator(seed)
    default_generator.load_state_dict(fresh.state_dict())
    return default_generator


__all__ = [
    "Generator", "bernoulli", "beta", "bits", "categorical", "cauchy", "choice",
    "default_generator", "dirichlet", "exponential", "gamma", "gumbel", "laplace", "logistic",
    "manual_seed", "normal", "permutation", "poisson", "randint", "truncated_normal", "uniform",
]  # fmt: skip
