"""Special functions by other formulas, and random numbers drawn one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Oracle = Callable[..., Any]


def erfcx(x: float) -> float:
    return math.exp(x * x) * math.erfc(x)


def erfinv(x: float) -> float:
    """By halving."""
    low, high = -7.0, 7.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle) < x else (low, middle)
    return low


def polygamma(x: float, order: int) -> float:
    """The sum over k of (x + k)**-(order + 1), its tail by Euler and Maclaurin."""
    n, terms = order + 1, 400
    at = x + terms
    if order == 0:
        head = sum(1 / (k + 1) - 1 / (x + k) for k in range(terms))
        harmonic = math.fsum(1 / (k + 1) for k in range(terms))
        return head - harmonic + math.log(at) - 1 / (2 * at) - 1 / (12 * at**2) + 1 / (120 * at**4)
    head = math.fsum((x + k) ** -n for k in range(terms))
    tail = at ** (1 - n) / (n - 1) + at**-n / 2 + n * at ** (-n - 1) / 12
    return (-1) ** n * math.factorial(order) * (head + tail)


def bessel(order: int) -> Callable[[float], float]:
    """exp(-|x|) I(x) as the mean of exp(x cos t - |x|) cos(order t) around the circle."""

    def scaled(x: float) -> float:
        points = [2 * math.pi * k / 200 for k in range(200)]
        found = [math.exp(x * math.cos(t) - abs(x)) * math.cos(order * t) for t in points]
        return math.fsum(found) / 200

    return scaled


# --- by rejection ---

Numbers = Callable[[int, int, int, int], list[float]]


def gamma(alpha: float, draw: Callable[[int], list[float]]) -> float:
    raised = alpha + 1 if alpha < 1 else alpha
    d = raised - 1 / 3
    for number in range(1000):
        u = draw(number)
        x = math.sqrt(-2 * math.log(u[0])) * math.cos(2 * math.pi * u[1])
        v = (1 + x / math.sqrt(9 * d)) ** 3
        if v > 0 and math.log(u[2]) < 0.5 * x * x + d * (1 - v + math.log(v)):
            return d * v * (u[3] ** (1 / alpha) if alpha < 1 else 1)
    raise AssertionError("never accepted")


def poisson(mean: float, draw: Callable[[int], list[float]]) -> int:
    if mean < 10:
        u, k, total = draw(0)[0], 0, math.exp(-mean)
        while u > total:
            k += 1
            total += math.exp(-mean) * mean**k / math.factorial(k)
        return k
    b = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * b
    for number in range(1, 1000):
        u, v = draw(number)[:2]
        u -= 0.5
        us = 0.5 - abs(u)
        k = math.floor((2 * a / us + b) * u + mean + 0.43)
        if us >= 0.07 and v <= 0.9277 - 3.6224 / (b - 2):
            return k
        if k < 0 or (us < 0.013 and v > us):
            continue
        size = math.log(v) + math.log(1.1239 + 1.1328 / (b - 3.4)) - math.log(a / (us * us) + b)
        if size <= k * math.log(mean) - mean - math.lgamma(k + 1):
            return k
    raise AssertionError("never accepted")


def one_by_one(function: Callable[..., Any], philox: Callable[..., list[int]]) -> Oracle:
    """Each element from its own block of the stream of each round."""

    def oracle(state: np.ndarray, x: np.ndarray) -> np.ndarray:
        seed, stream, position = (int(part) for part in state)

        def fork(stream: int, key: int) -> int:
            mixed = philox(stream ^ 0x5EED5EED5EED5EED, seed, key)
            return mixed[0] | mixed[1] << 32

        found = []
        for place, parameter in enumerate(x.ravel().tolist()):

            def draw(number: int, place: int = place) -> list[float]:
                own = fork(fork(stream, position), number)
                return [(bits + 0.5) * 2.0**-32 for bits in philox(seed, own, place)]

            found.append(function(parameter, draw))
        return np.array(found).reshape(x.shape)

    return oracle


def special_oracles(each: Callable[..., Oracle], philox: Any) -> dict[str, Oracle]:
    return {
        "erfc": each(math.erfc),
        "erfcx": each(erfcx),
        "erfinv": each(erfinv),
        "i0e": each(bessel(0)),
        "i1e": each(bessel(1)),
        "lgamma": each(math.lgamma),
        "ndtri": each(lambda p: math.sqrt(2) * erfinv(2 * p - 1)),
        "polygamma": lambda x, order: each(lambda number: polygamma(number, order))(x),
        "random_gamma": one_by_one(gamma, philox),
        "random_poisson": one_by_one(poisson, philox),
    }
