"""Distributions, and that the same seed gives the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

import schuss
from schuss import Generator, random
from schuss.errors import ArgumentError, DTypeError

N = 100_000


@pytest.fixture(autouse=True)
def _fresh_default_generator():
    state = random.default_generator.state_dict()
    schuss.manual_seed(0)
    yield
    random.default_generator.load_state_dict(state)


def test_manual_seed_starts_anew() -> None:
    schuss.manual_seed(3)
    first = random.uniform((4,)).tolist()
    assert random.uniform((4,)).tolist() != first
    assert schuss.manual_seed(3) is random.default_generator
    assert random.uniform((4,)).tolist() == first


def test_a_generator_of_ones_own_leaves_the_default_alone() -> None:
    before = random.default_generator.state_dict()
    random.normal((4,), generator=Generator(1))
    assert random.default_generator.state_dict() == before


def test_numbers_are_fixed_when_recorded_not_when_computed() -> None:
    generator = Generator(1)
    a = random.uniform((4,), generator=generator)
    b = random.uniform((4,), generator=generator)
    later = b.tolist()
    generator = Generator(1)
    assert random.uniform((4,), generator=generator).tolist() == a.tolist()
    assert random.uniform((4,), generator=generator).tolist() == later


DIGITS = {"float64": 52, "float32": 24, "float16": 11, "bfloat16": 8}


@pytest.mark.parametrize("dtype", DIGITS)
def test_uniform(dtype: str) -> None:
    x = random.uniform((N,), dtype=dtype)
    assert x.dtype == schuss.dtypes.as_dtype(dtype)
    values = x.numpy().astype(np.float64)
    assert values.min() >= 0
    assert values.max() < 1, "half precisions do not round up to 1 either"
    assert abs(values.mean() - 0.5) < 5 / np.sqrt(12 * N) + 2.0 ** -DIGITS[dtype]
    assert abs(values.var() - 1 / 12) < 0.002
    steps = values * 2.0 ** DIGITS[dtype]
    np.testing.assert_array_equal(steps, np.floor(steps))
    assert (steps % 2).mean() == pytest.approx(0.5, abs=0.01), "the last bit is random too"


@pytest.mark.parametrize("dtype", DIGITS)
def test_uniform_stays_below_its_upper_end(dtype: str) -> None:
    values = random.uniform((N,), low=1.0, high=2.0, dtype=dtype).numpy().astype(np.float64)
    assert values.min() >= 1
    assert values.max() < 2
    assert random.uniform((3,), low=2.0, high=2.0, dtype=dtype).tolist() == [2, 2, 2]


def test_normal() -> None:
    for n in (N, N + 1):
        values = random.normal((n,), mean=2.0, std=3.0, dtype=schuss.float64).numpy()
        assert values.shape == (n,)
        standard = (values - 2) / 3
        assert abs(standard.mean()) < 5 / np.sqrt(n)
        assert abs(standard.var() - 1) < 5 * np.sqrt(2 / n)
        assert abs((standard**3).mean()) < 5 * np.sqrt(15 / n)
        assert abs((standard**4).mean() - 3) < 5 * np.sqrt(96 / n)
    halves = random.normal((N,), dtype=schuss.float64).numpy().reshape(2, -1)
    assert abs((halves[0] * halves[1]).mean()) < 5 / np.sqrt(N / 2), "sine and cosine of one angle"
    assert random.normal(()).shape == ()
    assert random.normal((2,), dtype=schuss.float16).dtype == schuss.float16
    assert np.isfinite(random.normal((N,)).numpy()).all()


def test_randint() -> None:
    values = random.randint(-2, 5, (N,)).numpy()
    assert values.dtype == np.int64
    counts = np.bincount(values + 2, minlength=7)
    assert len(counts) == 7
    assert np.abs(counts - N / 7).max() < 5 * np.sqrt(N / 7)
    wide = random.randint(0, 2**32, (1000,)).numpy()
    assert wide.max() > 2**31
    assert random.randint(7, 8).item() == 7


def test_bernoulli() -> None:
    values = random.bernoulli(0.3, (N,)).numpy()
    assert values.dtype == np.bool_
    assert abs(values.mean() - 0.3) < 5 * np.sqrt(0.21 / N)
    assert not random.bernoulli(0.0, (100,)).any()
    assert random.bernoulli(1.0, (100,)).all()


def test_permutation_and_bits() -> None:
    assert sorted(random.permutation(10).tolist()) == list(range(10))
    assert random.bits((2, 3)).dtype == schuss.uint32
    assert random.bits(3).shape == (3,)
    assert random.uniform((0, 3)).shape == (0, 3)


def test_dropout_keeps_the_mean() -> None:
    x = schuss.ones(N)
    y = schuss.functions.neural.dropout(x, 0.25)
    values = y.numpy()
    assert set(np.unique(values)) == {0, np.float32(1 / 0.75)}
    assert abs(values.mean() - 1) < 0.01
    assert schuss.functions.neural.dropout(x, 1.0).sum().item() == 0
    with pytest.raises(ArgumentError, match="dropout: p is a probability"):
        schuss.functions.neural.dropout(x, 1.5)


def test_dropout_gradient_uses_the_same_mask() -> None:
    x = schuss.ones(1000)
    x.requires_grad = True
    y = schuss.functions.neural.dropout(x, 0.5)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: random.uniform((2,), dtype=schuss.int8),
            DTypeError,
            "uniform: needs a floating dtype",
        ),
        (
            lambda: random.uniform((2,), low=1.0, high=0.0),
            ArgumentError,
            "low must not be above high",
        ),
        (lambda: random.uniform((-1,)), ArgumentError, "uniform: a shape is made of integers"),
        (lambda: random.normal((2,), dtype="int64"), DTypeError, "normal: needs a floating dtype"),
        (lambda: random.randint(3, 3), ArgumentError, "needs integers low < high"),
        (lambda: random.randint(0, 2.5), ArgumentError, "needs integers low < high"),
        (lambda: random.randint(0, 2**32 + 1), ArgumentError, r"at most 2\*\*32 apart"),
        (lambda: random.bernoulli(1.5), ArgumentError, "p is a probability"),
    ],
)
def test_errors(call, kind, message) -> None:
    with pytest.raises(kind, match=message):
        call()
