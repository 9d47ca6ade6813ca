"""Random numbers that are drawn by rejection: tried until they are accepted.

Element i of round r takes block i of a stream of its own, so that what one element needs does not
depend on the others.
"""

from __future__ import annotations

import math

import numpy as np

from schuss import dtypes
from schuss.dtypes import DType
from schuss.graph import Node, Op, Sample, Shape, define
from schuss.ops.infer import Rng, require_dtype
from schuss.philox import Generator


def _round(state: np.ndarray, number: int, elements: np.ndarray) -> np.ndarray:
    """Four even numbers in (0, 1) for each of these elements: (count, 4)."""
    seed, stream, position = (int(part) for part in state)
    source = Generator(seed, stream).fork(position, number)
    blocks = source.bits(4 * (int(elements.max()) + 1)).reshape(-1, 4)[elements]
    return (blocks + 0.5) * 2.0**-32


def _infer(state: Node, x: Node) -> tuple[Shape, DType]:
    require_dtype("random", dtypes.FLOATING, "floating", parameter=x)
    return x.shape, x.dtype


def _gamma(state: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """G. Marsaglia and W. W. Tsang, "A simple method for generating gamma variables" (2000)."""
    alpha = np.asarray(shape, np.float64).reshape(-1)
    raised = alpha < 1  # gamma(a) is gamma(a + 1) u**(1 / a)
    d = np.where(raised, alpha + 1, alpha) - 1 / 3
    c = 1 / np.sqrt(9 * d)
    result = np.full(alpha.shape, np.nan)
    left = np.flatnonzero(alpha > 0)
    result[alpha == 0] = 0
    number = 0
    while left.size:
        u = _round(state, number, left)
        x = np.sqrt(-2 * np.log(u[:, 0])) * np.cos(2 * math.pi * u[:, 1])
        v = (1 + c[left] * x) ** 3
        safe = np.where(v > 0, v, 1)
        bound = 0.5 * x * x + d[left] * (1 - safe + np.log(safe))
        taken = (v > 0) & (np.log(u[:, 2]) < bound)
        chosen = left[taken]
        boost = np.where(raised[chosen], u[taken, 3] ** (1 / alpha[chosen]), 1)
        result[chosen] = d[chosen] * v[taken] * boost
        left, number = left[~taken], number + 1
    return result.reshape(shape.shape).astype(shape.dtype)


def _poisson(state: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """W. Hörmann, "The transformed rejection method" (1993), algorithm PTRS; below 10 by search."""
    mean = np.asarray(rate, np.float64).reshape(-1)
    result = np.full(mean.shape, np.nan)
    small = np.flatnonzero((mean >= 0) & (mean < 10))
    if small.size:
        result[small] = _poisson_by_search(_round(state, 0, small)[:, 0], mean[small])
    left = np.flatnonzero(mean >= 10)
    b = 0.931 + 2.53 * np.sqrt(mean)
    a = -0.059 + 0.02483 * b
    inverse_alpha, v_r = 1.1239 + 1.1328 / (b - 3.4), 0.9277 - 3.6224 / (b - 2)
    number = 1
    while left.size:
        drawn = _round(state, number, left)
        u, v = drawn[:, 0] - 0.5, drawn[:, 1]
        us = 0.5 - np.abs(u)
        k = np.floor((2 * a[left] / us + b[left]) * u + mean[left] + 0.43)
        quick = (us >= 0.07) & (v <= v_r[left])
        possible = (k >= 0) & ((us >= 0.013) | (v <= us))
        size = np.log(v * inverse_alpha[left] / (a[left] / (us * us) + b[left]))
        exact = size <= k * np.log(mean[left]) - mean[left] - _log_factorial(np.maximum(k, 0))
        taken = quick | (possible & exact)
        result[left[taken]] = k[taken]
        left, number = left[~taken], number + 1
    return result.reshape(rate.shape).astype(rate.dtype)


def _poisson_by_search(u: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """How many steps the distribution function takes to exceed u."""
    share = np.exp(-mean)
    total, count = share.copy(), np.zeros_like(mean)
    for k in range(1, 100):
        beyond = u > total
        if not beyond.any():
            break
        share = share * mean / k
        total += share
        count += beyond
    return count


def _log_factorial(k: np.ndarray) -> np.ndarray:
    """Stirling's series of log(k!)."""
    n = np.where(k < 10, k + 10, k) + 1
    series = (n - 0.5) * np.log(n) - n + 0.5 * math.log(2 * math.pi)
    series += 1 / (12 * n) - 1 / (360 * n**3) + 1 / (1260 * n**5)
    for step in range(1, 11):
        series = series - np.where(k < 10, np.log(k + step), 0)
    return series


def _samples(*rates: float):  # type: ignore[no-untyped-def]
    def samples(rng: Rng) -> list[Sample]:
        state = np.array([1, 2, 3], np.uint64)
        made = [np.array(rates), rng.choice(np.array(rates), (3, 7)), np.zeros((0, 2))]
        return [Sample([state, np.asarray(x)]) for x in made]

    return samples


random_gamma: Op = define(
    "random_gamma",
    "gamma-distributed numbers of the given shapes and scale 1",
    infer=_infer,
    reference=_gamma,
    gradient=None,
    samples=_samples(0.3, 1.0, 2.5, 40.0),
)
random_poisson: Op = define(
    "random_poisson",
    "Poisson-distributed counts of the given rates, in the dtype of the rates",
    infer=_infer,
    reference=_poisson,
    gradient=None,
    samples=_samples(0.0, 0.5, 9.0, 12.0, 300.0),
)
