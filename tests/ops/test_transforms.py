"""What holds for every op in the registry: tangents, batches, and both mixed with gradients."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import grad, jvp, vjp, vmap
from schuss.autodiff.batching import one_by_one
from schuss.autodiff.forward import transposed
from schuss.dtypes import is_differentiable
from schuss.functions.arguments import adopt
from schuss.graph import REGISTRY, Sample, apply

from .test_registry import DIFFERENTIABLE, NAMES, samples_of, smooth_samples, wide

SIZE = 3
RANDOM = {"random_bits"}  # differs from example to example by design: tests/autodiff has its tests


def rng_of(sample: Sample) -> np.random.Generator:
    return np.random.default_rng(sum(x.size for x in sample.inputs))


def moving_part(name: str, sample: Sample) -> tuple[Any, list[np.ndarray]]:
    """The op as a function of its differentiable inputs, and those."""
    moving = [i for i, x in enumerate(sample.inputs) if is_differentiable(x.dtype)]
    held = [adopt(np.asarray(x)) for x in sample.inputs]

    def f(*tensors: schuss.Tensor) -> schuss.Tensor:
        inputs = list(held)
        for i, each in zip(moving, tensors, strict=True):
            inputs[i] = each
        return apply(REGISTRY[name], *inputs, **sample.attributes)

    return f, [np.asarray(sample.inputs[i]) for i in moving]


def tensors(arrays: list[np.ndarray]) -> tuple[schuss.Tensor, ...]:
    return tuple(adopt(x.copy()) for x in arrays)


def directions(rng: np.random.Generator, likes: Any) -> tuple[schuss.Tensor, ...]:
    """Random numbers of the shapes of arrays, complex ones where these are."""
    made = []
    for x in likes:
        drawn = rng.standard_normal(x.shape)
        if x.dtype.kind == "c":
            drawn = drawn + 1j * rng.standard_normal(x.shape)
        made.append(adopt(np.asarray(drawn)))
    return tuple(made)


def assert_close(a: Any, b: Any) -> None:
    a, b = np.asarray(a), np.asarray(b)
    scale = max(1.0, float(np.abs(b).max(initial=0.0)))
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10 * scale)


def dot(a: schuss.Tensor, b: schuss.Tensor) -> schuss.Tensor:
    """The inner product; complex numbers count as pairs of real ones."""
    if a.dtype.kind != "c":
        return (a * b).sum()
    return (schuss.real(a) * schuss.real(b) + schuss.imag(a) * schuss.imag(b)).sum()


def inner(xs: Any, ys: Any) -> float:
    return sum(float(dot(x, y)) for x, y in zip(xs, ys, strict=True))


# --- tangents ---


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_tangents_are_the_transpose_of_gradients(name: str) -> None:
    """u . (J v) = (J' u) . v, and the gradients are checked against differences."""
    for sample in smooth_samples(name):
        rng = rng_of(sample)
        f, arrays = moving_part(name, sample)
        xs, vs = tensors(arrays), directions(rng, arrays)
        y, t = jvp(f, xs, vs)
        (u,) = directions(rng, [y.numpy()])
        _, pull_back = vjp(f, *xs)
        assert (t.shape, t.dtype) == (y.shape, y.dtype)
        assert inner([t], [u]) == pytest.approx(inner(vs, pull_back(u)), rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("name", [name for name in DIFFERENTIABLE if REGISTRY[name].tangent])
def test_transposed_rules_are_the_tangent_too(name: str) -> None:
    for sample in smooth_samples(name):
        f, arrays = moving_part(name, sample)
        xs, vs = tensors(arrays), directions(rng_of(sample), arrays)
        y = f(*xs)
        places = [i for i, x in enumerate(sample.inputs) if is_differentiable(x.dtype)]
        ts: list[Any] = [None] * len(sample.inputs)
        for i, v in zip(places, vs, strict=True):
            ts[i] = v
        expected = transposed(y._node, ts)
        assert_close(np.zeros(y.shape) if expected is None else expected, jvp(f, xs, vs)[1])


OF_COMPLEX_MATRICES = [
    "cholesky", "cofactors", "det", "eig", "eigh", "eigvals", "eigvalsh", "lu", "matrix_exp",
    "pinv", "qr", "slogdet", "svd", "svdvals",
]  # fmt: skip


@pytest.mark.parametrize("name", OF_COMPLEX_MATRICES)
def test_tangents_of_complex_matrices(name: str) -> None:
    for sample in smooth_samples(name):
        rng = rng_of(sample)
        x = sample.inputs[0] + 0.2j * rng.standard_normal(sample.inputs[0].shape)
        f = lambda x, name=name, sample=sample: apply(REGISTRY[name], x, **sample.attributes)
        held, vs = adopt(x), directions(rng, [x])
        assert_close(transposed(f(held)._node, list(vs)), jvp(f, (held,), vs)[1])


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_an_input_that_does_not_move(name: str) -> None:
    for sample in smooth_samples(name)[:3]:
        f, arrays = moving_part(name, sample)
        if len(arrays) < 2:
            continue
        xs, vs = tensors(arrays), directions(rng_of(sample), arrays)
        parts = []
        for i in range(len(arrays)):

            def alone(x: schuss.Tensor, i: int = i) -> schuss.Tensor:
                return f(*xs[:i], x, *xs[i + 1 :])  # noqa: B023  # called at once

            parts.append(jvp(alone, (xs[i],), (vs[i],))[1].numpy())
        assert_close(sum(parts), jvp(f, xs, vs)[1])


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_second_order_in_every_mode(name: str) -> None:
    """The Hessian times v as jvp of grad, as grad of jvp and as grad of grad; and v . (H v)."""
    for sample in smooth_samples(name):
        rng = rng_of(sample)
        f, arrays = moving_part(name, sample)
        xs, vs = tensors(arrays), directions(rng, arrays)
        (c,) = directions(rng, [f(*xs).numpy()])
        every = tuple(range(len(xs)))

        def s(*xs: schuss.Tensor, f=f, c=c) -> schuss.Tensor:
            return dot(f(*xs), c)

        def slope(*xs: schuss.Tensor, s=s, vs=vs) -> schuss.Tensor:
            return jvp(s, xs, vs)[1]

        def along(*xs: schuss.Tensor, s=s, vs=vs, every=every) -> schuss.Tensor:
            total = schuss.tensor(0.0, dtype=schuss.float64)
            for g, v in zip(grad(s, every)(*xs), vs, strict=True):
                total = total + dot(g, v)
            return total

        reverse = grad(along, every)(*xs)
        for a, b, r in zip(
            jvp(grad(s, every), xs, vs)[1], grad(slope, every)(*xs), reverse, strict=True
        ):
            assert_close(a, r)
            assert_close(b, r)
        assert_close(jvp(slope, xs, vs)[1], inner(reverse, vs))


# --- batches ---


def examples_of(x: np.ndarray) -> np.ndarray:
    """Three arrays like x: its elements, moved along all axes."""
    axes = tuple(range(x.ndim))
    return np.stack([np.roll(x, (k,) * x.ndim, axes) if axes else x for k in range(SIZE)])


def patterns(count: int) -> list[tuple[bool, ...]]:
    """Which inputs are batched: all, each alone, and each not."""
    every = itertools.product((True, False), repeat=count)
    return [each for each in every if sum(each) in {1, count - 1, count} - {0}]


@pytest.mark.parametrize("rule", ["own", "one by one"])
@pytest.mark.parametrize("name", sorted(set(NAMES) - RANDOM))
def test_batches(name: str, rule: str) -> None:
    op = REGISTRY[name]
    samples = samples_of(name) if rule == "own" else samples_of(name)[:2]
    for sample in samples:
        examples = [examples_of(x) for x in sample.inputs]
        for flags in patterns(len(sample.inputs)):
            inputs = [
                e if flag else x for e, x, flag in zip(examples, sample.inputs, flags, strict=True)
            ]
            if rule == "own":
                f = lambda *xs, op=op, sample=sample: apply(op, *xs, **sample.attributes)
                axes = tuple(0 if flag else None for flag in flags)
                y = vmap(f, axes)(*tensors(inputs))
            else:
                one = apply(op, *tensors(sample.inputs), **sample.attributes)
                y = one_by_one(one._node, SIZE, tensors(inputs), flags)
            for k in range(SIZE):
                chosen = [x[k] if flag else x for x, flag in zip(inputs, flags, strict=True)]
                expected = op.reference(*[np.asarray(x) for x in chosen], **sample.attributes)
                np.testing.assert_allclose(
                    wide(y[k].numpy()), wide(np.asarray(expected)), rtol=1e-12, atol=1e-13
                )


@pytest.mark.parametrize("name", sorted(set(NAMES) - RANDOM))
def test_a_batch_of_nothing(name: str) -> None:
    sample = samples_of(name)[0]
    if not sample.inputs:
        return
    empty = [np.zeros((0, *x.shape), x.dtype) for x in sample.inputs]
    one = apply(REGISTRY[name], *tensors(sample.inputs), **sample.attributes)
    y = vmap(lambda *xs: apply(REGISTRY[name], *xs, **sample.attributes))(*tensors(empty))
    assert (y.numpy().shape, y.dtype) == ((0, *one.shape), one.dtype)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_batches_of_derivatives_and_derivatives_of_batches(name: str) -> None:
    smooth = [s for s in smooth_samples(name) if all(x.size for x in s.inputs)]
    for sample in smooth[-4:]:
        rng = rng_of(sample)
        f, arrays = moving_part(name, sample)
        batches, single = tensors([examples_of(x) for x in arrays]), tensors(arrays)
        vs = directions(rng, arrays)
        (c,) = directions(rng, [f(*single).numpy()])
        every = tuple(range(len(single)))

        def s(*xs: schuss.Tensor, f=f, c=c) -> schuss.Tensor:
            return dot(f(*xs), c)

        def total(*xs: schuss.Tensor, s=s) -> schuss.Tensor:
            return vmap(s)(*xs).sum()

        def curved(*xs: schuss.Tensor, s=s, vs=vs, every=every) -> Any:
            return jvp(grad(s, every), xs, vs)[1]

        many_vs = tuple(schuss.stack([v] * SIZE) for v in vs)
        gradients = [grad(s, every)(*[x[k] for x in batches]) for k in range(SIZE)]
        products = [curved(*[x[k] for x in batches]) for k in range(SIZE)]
        inside = vmap(grad(s, every))(*batches)
        outside = grad(total, every)(*batches)
        curved_inside = vmap(curved)(*batches)
        curved_outside = jvp(grad(total, every), batches, many_vs)[1]
        tangents = vmap(lambda *xs, s=s, vs=vs: jvp(s, xs, vs)[1])(*batches)
        tangents_outside = jvp(vmap(s), batches, many_vs)[1]
        for k in range(SIZE):
            slope = inner(gradients[k], vs)
            assert_close(tangents[k], slope)
            assert_close(tangents_outside[k], slope)
            for i in every:
                assert_close(inside[i][k], gradients[k][i])
                assert_close(outside[i][k], gradients[k][i])
                assert_close(curved_inside[i][k], products[k][i])
                assert_close(curved_outside[i][k], products[k][i])
