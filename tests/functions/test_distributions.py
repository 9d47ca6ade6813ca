"""Distributions by their statistics, with fixed seeds. Bounds are five standard errors wide."""

from __future__ import annotations

import math

import numpy as np
import pytest

import schuss
from schuss import Generator, random
from schuss.errors import ArgumentError, DTypeError, ShapeError

N = 100_000
PI = math.pi

# name: draw, mean, variance, fourth central moment over the squared variance
CASES = {
    "exponential": (lambda g: random.exponential((N,), rate=2.0, generator=g), 0.5, 0.25, 9),
    "gumbel": (
        lambda g: random.gumbel((N,), loc=1.0, scale=2.0, generator=g),
        1 + 2 * 0.5772156649, 4 * PI**2 / 6, 5.4,
    ),
    "laplace": (lambda g: random.laplace((N,), loc=1.0, scale=2.0, generator=g), 1, 8, 6),
    "logistic": (lambda g: random.logistic((N,), scale=0.5, generator=g), 0, PI**2 / 12, 4.2),
    "gamma of a small shape": (lambda g: random.gamma(0.3, (N,), generator=g), 0.3, 0.3, 23),
    "gamma": (lambda g: random.gamma(4.0, (N,), rate=2.0, generator=g), 2, 1, 4.5),
    "beta": (lambda g: random.beta(2.0, 3.0, (N,), generator=g), 0.4, 0.04, 2.4),
    "poisson of a small rate": (lambda g: random.poisson(0.7, (N,), generator=g), 0.7, 0.7, 4.5),
    "poisson": (lambda g: random.poisson(30.0, (N,), generator=g), 30, 30, 3.1),
    "poisson of a large rate": (lambda g: random.poisson(1e4, (N,), generator=g), 1e4, 1e4, 3),
    "truncated normal": (
        lambda g: random.truncated_normal((N,), generator=g), 0, 0.7737413, 2.4,
    ),
    "bernoulli": (lambda g: random.bernoulli(0.3, (N,), generator=g), 0.3, 0.21, 1.8),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_mean_and_variance(name) -> None:
    draw, mean, variance, kurtosis = CASES[name]
    x = draw(Generator(1)).numpy().astype(np.float64)
    assert x.shape == (N,)
    assert abs(x.mean() - mean) < 5 * math.sqrt(variance / N)
    assert abs(x.var() - variance) < 5 * variance * math.sqrt((kurtosis - 1) / N)
    np.testing.assert_allclose(draw(Generator(1)).numpy(), x, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(draw(Generator(2)).numpy(), x)


def test_one_sided_truncation_far_out() -> None:
    x = random.truncated_normal((N,), mean=1.0, std=2.0, low=0.0, high=3.0, generator=Generator(1))
    values = x.numpy()
    assert values.min() >= 0
    assert values.max() <= 3
    z, below, above = 2.0, -0.5, 1.0
    density = [math.exp(-t * t / 2) / math.sqrt(2 * PI) for t in (below, above)]
    share = 0.5 * (math.erf(above / math.sqrt(2)) - math.erf(below / math.sqrt(2)))
    assert values.mean() == pytest.approx(1 + z * (density[0] - density[1]) / share, abs=0.02)


def test_cauchy_by_its_quartiles() -> None:
    x = random.cauchy((N,), loc=2.0, scale=3.0, generator=Generator(1)).numpy()
    np.testing.assert_allclose(np.quantile(x, [0.25, 0.5, 0.75]), [-1, 2, 5], atol=0.1)


def test_categorical() -> None:
    logits = np.log([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])
    drawn = random.categorical(logits, (N,), generator=Generator(1))
    assert drawn.shape == (N, 2)
    assert drawn.dtype == schuss.int64
    for i, row in enumerate(np.exp(logits)):
        counts = np.bincount(drawn.numpy()[:, i], minlength=3)
        assert (abs(counts / N - row) < 5 * np.sqrt(row / N)).all()
    assert random.categorical(logits, axis=0, generator=Generator(1)).shape == (3,)
    never = random.categorical([0.0, -math.inf], (1000,), generator=Generator(1))
    assert not never.numpy().any()


def test_dirichlet() -> None:
    x = random.dirichlet([1.0, 2.0, 5.0], (10_000,), generator=Generator(1)).numpy()
    np.testing.assert_allclose(x.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(x.mean(0), [1 / 8, 2 / 8, 5 / 8], atol=0.01)


def test_permutation() -> None:
    x = np.arange(12).reshape(3, 4)
    for axis in (0, 1):
        found = random.permutation(x, axis=axis, generator=Generator(3)).numpy()
        assert not np.array_equal(found, x)
        np.testing.assert_array_equal(np.sort(found, axis=axis), x)
    assert sorted(random.permutation(5).tolist()) == [0, 1, 2, 3, 4]


def test_choice() -> None:
    found = random.choice(4, (N,), generator=Generator(1)).numpy()
    assert (abs(np.bincount(found) / N - 0.25) < 5 * math.sqrt(0.25 / N)).all()
    p = np.array([0.5, 0.1, 0.4])
    found = random.choice(3, (N,), p=p, generator=Generator(1)).numpy()
    assert (abs(np.bincount(found) / N - p) < 5 * np.sqrt(p / N)).all()
    for shares in (None, p):
        once = random.choice(3, (3,), replace=False, p=shares, generator=Generator(1))
        assert sorted(once.tolist()) == [0, 1, 2]
    rows = random.choice(np.eye(3), (2, 2), generator=Generator(1))
    assert rows.shape == (2, 2, 3)
    assert (rows.numpy().sum(-1) == 1).all()


def test_parameters_broadcast_and_carry_gradients() -> None:
    scale = schuss.tensor([[1.0], [10.0]], dtype=schuss.float64)
    x = random.gumbel((2, 3), scale=scale, generator=Generator(1))
    assert x.dtype == schuss.float64
    slope = schuss.grad(lambda s: random.gumbel((2, 3), scale=s, generator=Generator(1)).sum())
    expected = (x / scale).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(slope(scale).numpy(), expected.numpy())
    rates = random.poisson([1.0, 1000.0], generator=Generator(1))
    assert rates.shape == (2,)
    assert random.exponential().shape == ()
    assert random.gamma([-1.0, 0.0], generator=Generator(1)).tolist() == [pytest.approx(
        math.nan, nan_ok=True), 0]  # fmt: skip


def test_errors() -> None:
    with pytest.raises(ShapeError, match=r"exponential: the parameters do not broadcast to \(2,\)"):
        random.exponential((2,), rate=schuss.ones((3, 2)))
    with pytest.raises(DTypeError, match="gumbel: needs a floating dtype"):
        random.gumbel((2,), dtype=schuss.int32)
    with pytest.raises(ArgumentError, match="p is a probability"):
        random.bernoulli(1.5)
    with pytest.raises(ArgumentError, match="choice: cannot draw 3 of 2"):
        random.choice(2, (3,), replace=False)
    with pytest.raises(ShapeError, match="needs 2 probabilities"):
        random.choice(2, (3,), p=[1.0])
