"""Sums over the rows of convolutions that their templates make on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.compiler.graphs import agree, numbers, recorded

import schuss
from schuss.compiler import partial_sums
from schuss.compiler.groups import Groups, NotInTemplateError
from schuss.compiler.program import compile_graph
from schuss.compiler.units import Convolution
from schuss.compiler.values import Graph
from schuss.compiler.verify import verify
from schuss.execution import tiers
from schuss.nn import functional as F  # noqa: N812

AXES = (0, 2, 3)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_sums, "_FEWEST", 1)


def compiled(*tensors: Any) -> Graph:
    made = compile_graph(recorded(*tensors))
    verify(made)
    return made.simplified


def partial(graph: Graph) -> list[str]:
    return [value.op for value in graph.values if value.op.startswith("partial_")]


def moments(y: Any) -> Any:
    """As a batch normalisation asks for them."""
    mean = y.mean(axis=AXES)
    return mean, ((y - mean.reshape((1, -1, 1, 1))) ** 2).mean(axis=AXES)


# name: images, channels, size, outputs, kernel, and how
CASES: dict[str, tuple[Any, ...]] = {
    "minimal": (3, 32, (12, 12), 32, 3, {"padding": 1}),
    "minimal, odd": (5, 32, (7, 9), 48, 3, {"padding": 1}),
    "minimal, few tiles": (1, 32, (13, 12), 64, 3, {"padding": 1}),
    "direct": (2, 3, (17, 19), 24, 3, {}),
    "in place": (2, 48, (11, 13), 70, 1, {}),
    "strided": (3, 8, (16, 15), 20, 3, {"stride": 2, "padding": 1}),
    "few channels": (2, 3, (40, 37), 64, 7, {"stride": 2, "padding": 3}),
    "small images": (20, 64, (4, 4), 32, 2, {}),
    "many images": (37, 96, (3, 3), 64, 3, {"padding": 1}),
    "groups": (2, 12, (9, 10), 30, 3, {"groups": 3}),
    "dilated": (2, 8, (21, 14), 9, 3, {"dilation": 2}),
    "long rows": (1, 4, (5, 300), 16, 3, {"padding": 1}),
    "depthwise": (3, 40, (15, 14), 40, 3, {"groups": 40, "padding": 1}),
    "depthwise, strided": (2, 32, (21, 30), 32, 3, {"groups": 32, "stride": 2, "padding": 1}),
    "small groups": (2, 21, (16, 11), 42, 3, {"groups": 7, "padding": 1}),
    "many taps": (2, 130, (9, 8), 17, 3, {"padding": 1}),
}


def convolution(case: str) -> tuple[Callable[..., Any], np.ndarray, np.ndarray]:
    images, channels, size, outputs, kernel, how = CASES[case]
    x = numbers(images, channels, *size)
    w = numbers(outputs, channels // how.get("groups", 1), kernel, kernel, seed=1)
    return lambda x, w: F.conv2d(x, w, **how), x, w


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_moments(case: str, dtype: str) -> None:
    f, x, w = convolution(case)
    x, w = x.astype(dtype), w.astype(dtype)
    graph = compiled(*moments(f(*map(schuss.tensor, (x, w)))))
    assert partial(graph) == ["partial_first", "partial_sum", "partial_sum", "partial_sum"]
    y = np.asarray(f(schuss.tensor(x.astype("f8")), schuss.tensor(w.astype("f8"))).numpy())
    with tiers.using("compiled"):
        mean, variance = moments(f(schuss.tensor(x), schuss.tensor(w)))
        exact = 1e-5 if dtype == "float32" else 1e-13
        np.testing.assert_allclose(mean.numpy(), y.mean(AXES), atol=exact * abs(y).max())
        np.testing.assert_allclose(variance.numpy(), y.var(AXES), rtol=10 * exact)


def normalised(y: Any) -> Any:
    mean, variance = moments(y)
    shape = (1, -1, 1, 1)
    return (y - mean.reshape(shape)) / (variance.reshape(shape) + 1e-5).sqrt()


def of_two_layers(f: Callable[..., Any]) -> Callable[..., Any]:
    """The gradients of two layers: of the first one behind a normalisation and a shortcut."""

    def loss(x: Any, w: Any, v: Any) -> Any:
        y = normalised(f(x, w)).relu()
        z = normalised(F.conv2d(y, v, padding=1)) + y
        return (z.tanh() * z).sum()

    return schuss.grad(loss, argnums=(0, 1, 2))


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_normalisations(case: str) -> None:
    f, x, w = convolution(case)
    v = numbers(w.shape[0], w.shape[0], 3, 3, seed=2)
    found = partial(compiled(*of_two_layers(f)(*map(schuss.tensor, (x, w, v)))))
    assert found.count("partial_first") == 2
    assert found.count("partial_sum") == 3 + 3 + 2 * (len(x) > 1)  # forward, and on the way back
    agree(of_two_layers(f), x, w, v, rtol=1e-2, atol=2e-3 * abs(w).max())


def test_what_is_computed_from_the_sums_is_summed_up_by_itself() -> None:
    """Its template has ended by then."""
    f, x, w = convolution("direct")

    def g(x: Any, w: Any) -> Any:
        y = f(x, w)
        return ((y - y.mean(axis=AXES, keepdims=True)).relu() ** 3).sum(axis=AXES)

    assert partial(compiled(g(schuss.tensor(x), schuss.tensor(w)))) == ["partial_sum"]
    agree(g, x, w, rtol=1e-4, atol=1e-2)


def test_sums_of_a_single_block_are_read_when_they_are_finished() -> None:
    x, w = numbers(1, 8, 6, 7), numbers(16, 8, 3, 3, seed=1)

    def g(x: Any, w: Any) -> Any:
        y = F.conv2d(x, w)
        return (y * y.sum(axis=AXES, keepdims=True)).tanh().sum(axis=1)

    assert partial(compiled(g(schuss.tensor(x), schuss.tensor(w)))) == ["partial_sum"]
    agree(g, x, w, rtol=1e-4, atol=1e-3)


def test_other_sums_of_convolutions() -> None:
    f, x, w = convolution("direct")
    other = numbers(2, 24, 15, 17, seed=3)

    def g(x: Any, w: Any, other: Any) -> Any:
        y = f(x, w)
        return y.sum(axis=AXES), (y * other).sum(axis=AXES), (y.exp() > 2).sum(axis=AXES), y.sum()

    graph = compiled(*g(*map(schuss.tensor, (x, w, other))))
    assert partial(graph) == ["partial_sum"] * 2  # integers are added up by themselves
    agree(g, x, w, other, rtol=1e-5, atol=1e-2)


def test_squares_about_any_centre() -> None:
    f, x, w = convolution("minimal")

    def g(x: Any, w: Any, centre: Any) -> Any:
        return ((f(x, w) - centre) ** 2).sum(axis=AXES), ((f(x, w) - 100.0) ** 2).sum(axis=AXES)

    graph = compiled(*g(*map(schuss.tensor, (x, w, numbers(1, 32, 1, 1)))))
    assert partial(graph).count("partial_first") == 1
    agree(g, x, w, numbers(1, 32, 1, 1), rtol=1e-5)


def far_from_zero(case: str) -> tuple[Callable[..., Any], np.ndarray, np.ndarray]:
    """Results of which the first digits are the same everywhere."""
    f, x, w = convolution(case)
    return lambda x, w: f(x, w) + 30_000.0, x / 100, w / 100


@pytest.mark.parametrize("case", ["minimal", "direct", "small images"])
def test_variances_of_numbers_with_large_means(case: str) -> None:
    f, x, w = far_from_zero(case)
    with tiers.using("compiled"):
        y = f(schuss.tensor(x), schuss.tensor(w))
        mean, variance = moments(y)
        schuss.evaluate(y, mean, variance)
    away = y.numpy().astype("f8") - mean.numpy().reshape((1, -1, 1, 1))
    np.testing.assert_allclose(variance.numpy(), (away**2).mean(axis=AXES), rtol=1e-5)


def test_equal_numbers_have_no_variance() -> None:
    x, w = np.ones((4, 32, 16, 16), "f4"), np.full((32, 32, 1, 1), 1e-3, "f4")
    with tiers.using("compiled"):
        mean, variance = moments(F.conv2d(schuss.tensor(x), schuss.tensor(w)))
        np.testing.assert_allclose(mean.numpy(), 0.032, rtol=1e-6)
        assert np.all(variance.numpy() < 1e-14)


@pytest.mark.parametrize("outlier", [1e6, np.inf, np.nan])
def test_outliers_spoil_their_channel_alone(outlier: float) -> None:
    f, x, w = convolution("in place")
    y = f(schuss.tensor(x), schuss.tensor(w)).numpy()
    bias = np.zeros(y.shape, "f4")
    bias[0, 3, 0, 0] = bias[1, 5, -1, -1] = outlier
    with tiers.using("compiled"):
        _, variance = moments(f(schuss.tensor(x), schuss.tensor(w)) + schuss.tensor(bias))
        found = variance.numpy()
    with np.errstate(invalid="ignore"):
        exact = (y.astype("f8") + bias).var(axis=AXES)
    np.testing.assert_allclose(found, exact, rtol=1e-4)


def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    f, x, w = convolution("minimal")
    found, before = [], schuss.get_num_threads()
    try:
        for threads in (1, 2, 5):
            schuss.set_num_threads(threads)
            with tiers.using("compiled"):
                made = moments(f(schuss.tensor(x), schuss.tensor(w)))
                found.append(np.stack([each.numpy() for each in made]))
    finally:
        schuss.set_num_threads(before)
    assert all(np.array_equal(each, found[0]) for each in found)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", ["minimal", "direct", "in place"])
def test_half_precision(case: str, dtype: str) -> None:
    """What is summed up is what is stored, rounded."""
    f, x, w = convolution(case)
    with tiers.using("compiled"):
        y = f(*[schuss.tensor(each).astype(getattr(schuss, dtype)) for each in (x, w)])
        made = moments(y.astype(schuss.float32))
        schuss.evaluate(y, *made)
    exact = y.astype(schuss.float64).numpy()
    np.testing.assert_allclose(made[0].numpy(), exact.mean(AXES), atol=1e-4 * abs(exact).max())
    np.testing.assert_allclose(made[1].numpy(), exact.var(AXES), rtol=1e-4)


def test_small_results_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_sums, "_FEWEST", 1 << 20)
    f, x, w = convolution("direct")
    assert not partial(compiled(*moments(f(schuss.tensor(x), schuss.tensor(w)))))


def test_sums_without_a_place_in_their_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made as all others are."""
    fits = Groups._fits
    asked = []

    def refuse(self: Any, group: Any, anchor: Any, *rest: Any) -> bool:
        if anchor.op != "partial_sum" or anchor.shape[1] != 24:
            return fits(self, group, anchor, *rest)
        asked.append(anchor)
        return False

    monkeypatch.setattr(Groups, "_fits", refuse)
    f, x, w = convolution("direct")
    g, *others = convolution("in place")

    def both(x: Any, w: Any, u: Any, v: Any) -> Any:
        return *moments(f(x, w)), *moments(g(u, v))

    graph = compiled(*both(*map(schuss.tensor, (x, w, *others))))
    assert asked
    assert {v.shape[1] for v in graph.values if v.op.startswith("partial_")} == {70, 1}
    agree(both, x, w, *others, rtol=1e-4, atol=1e-4)
    with pytest.raises(NotInTemplateError):
        raise NotInTemplateError(asked[0])


def test_convolutions_with_vectors_of_images_have_none() -> None:
    x, w = numbers(32, 64, 9, 9), numbers(3, 64, 3, 3)
    made = compile_graph(recorded(*moments(F.conv2d(schuss.tensor(x), schuss.tensor(w)))))
    assert not partial(made.simplified)
    assert any(isinstance(unit, Convolution) for unit in made.units)
