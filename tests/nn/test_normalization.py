"""Batch and layer normalisation: values, gradients, running statistics, and what stays in
memory.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from schuss.graph import ancestors

F = nn.functional
Check = Callable[..., None]
Rng = np.random.Generator

BATCHES = [(nn.BatchNorm1d, (5, 3)), (nn.BatchNorm1d, (2, 3, 4)), (nn.BatchNorm2d, (2, 3, 2, 5)),
           (nn.BatchNorm2d, (1, 3, 1, 2)), (nn.BatchNorm3d, (2, 3, 1, 2, 2))]  # fmt: skip


def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean, variance and count of each channel."""
    axes = (0, *range(2, x.ndim))
    return x.mean(axes), x.var(axes), x.size // x.shape[1]


def normalized(x: np.ndarray, mean: np.ndarray, var: np.ndarray, layer: Any) -> np.ndarray:
    column = (1, -1) + (1,) * (x.ndim - 2)
    y = (x - mean.reshape(column)) / np.sqrt(var.reshape(column) + layer.eps)
    if layer.weight is None:
        return y
    return y * layer.weight.numpy().reshape(column) + layer.bias.numpy().reshape(column)


def random_layer(kind: type[nn.Module], rng: Rng, **options: Any) -> Any:
    layer: Any = kind(3, **options, dtype=schuss.float64)
    if layer.weight is not None:
        layer.weight.assign(rng.uniform(0.5, 2, 3))
        layer.bias.assign(rng.standard_normal(3))
    return layer


@pytest.mark.parametrize(("kind", "shape"), BATCHES)
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_in_training(kind: Any, shape: tuple[int, ...], affine: bool, rng: Rng) -> None:
    layer = random_layer(kind, rng, affine=affine, eps=1e-3)
    x = rng.standard_normal(shape)
    mean, var, count = statistics(x)
    y = layer(schuss.tensor(x))
    np.testing.assert_allclose(y.numpy(), normalized(x, mean, var, layer), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.1 * mean, rtol=1e-12)
    unbiased = var * count / (count - 1)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.9 + 0.1 * unbiased, rtol=1e-12)
    assert layer.num_batches_tracked.item() == 1


@pytest.mark.parametrize(("kind", "shape"), BATCHES)
def test_batch_norm_in_evaluation(kind: Any, shape: tuple[int, ...], rng: Rng) -> None:
    layer = random_layer(kind, rng).eval()
    layer.running_mean.assign(rng.standard_normal(3))
    layer.running_var.assign(rng.uniform(0.5, 2, 3))
    x = rng.standard_normal(shape)
    expected = normalized(x, layer.running_mean.numpy(), layer.running_var.numpy(), layer)
    np.testing.assert_allclose(layer(schuss.tensor(x)).numpy(), expected, rtol=1e-10, atol=1e-12)
    assert layer.num_batches_tracked.item() == 0


@pytest.mark.parametrize(("kind", "shape"), BATCHES[:3])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_gradients(kind: Any, shape: tuple[int, ...], training: bool, rng: Rng,
                              check_layer: Check) -> None:  # fmt: skip
    check_layer(random_layer(kind, rng).train(training), rng.standard_normal(shape))


def test_evaluation_of_single_samples_and_empty_batches() -> None:
    layer = nn.BatchNorm1d(3).eval()
    assert layer(schuss.ones((1, 3))).numpy().shape == (1, 3)
    assert layer(schuss.ones((0, 3))).numpy().shape == (0, 3)


def test_running_statistics_after_several_batches(rng: Rng) -> None:
    """They are right whenever one looks, however many batches were waiting."""
    layer: Any = nn.BatchNorm1d(3, momentum=0.3, dtype=schuss.float64)
    mean, var = np.zeros(3), np.ones(3)
    outputs = []
    for _ in range(4):
        x = rng.standard_normal((6, 3))
        outputs.append(layer(schuss.tensor(x)))
        mean = 0.7 * mean + 0.3 * x.mean(0)
        var = 0.7 * var + 0.3 * x.var(0, ddof=1)
    np.testing.assert_allclose(layer.running_var.numpy(), var, rtol=1e-12)
    outputs[0].numpy()
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-12)
    assert layer.num_batches_tracked.item() == 4


def test_running_statistics_at_the_time_of_evaluation(rng: Rng) -> None:
    """An output of evaluation mode keeps the statistics it was recorded with."""
    layer: Any = nn.BatchNorm1d(3)
    x = schuss.tensor(rng.standard_normal((6, 3)).astype(np.float32))
    before = layer.eval()(x)
    layer.train()(x)
    np.testing.assert_allclose(before.numpy(), x.numpy() / np.sqrt(1 + 1e-5), rtol=1e-6)
    assert not np.array_equal(layer.eval()(x).numpy(), before.numpy())


def test_momentum_none_is_the_mean_of_all_batches(rng: Rng) -> None:
    layer: Any = nn.BatchNorm1d(3, momentum=None, dtype=schuss.float64)
    batches = rng.standard_normal((5, 6, 3))
    for x in batches:
        layer(schuss.tensor(x))
    np.testing.assert_allclose(layer.running_mean.numpy(), batches.mean((0, 1)), rtol=1e-12)
    mean_of_variances = batches.var(1, ddof=1).mean(0)
    np.testing.assert_allclose(layer.running_var.numpy(), mean_of_variances, rtol=1e-12)


def test_without_running_statistics(rng: Rng) -> None:
    layer: Any = nn.BatchNorm1d(3, track_running_stats=False, affine=False)
    assert layer.running_mean is None
    assert layer.buffers() == []
    assert layer.parameters() == []
    x = schuss.tensor(rng.standard_normal((6, 3)).astype(np.float32))
    np.testing.assert_array_equal(layer(x).numpy(), layer.eval()(x).numpy())


def test_statistics_are_no_business_of_gradients(rng: Rng) -> None:
    layer: Any = nn.BatchNorm1d(3)
    x = schuss.tensor(rng.standard_normal((6, 3)).astype(np.float32), requires_grad=True)
    y = layer(x)
    for each in layer.buffers():
        assert not each.requires_grad
    (y * x).sum().backward()
    assert x.grad is not None
    assert all(each.grad is None for each in layer.buffers())


def test_statistics_are_computed_with_the_step(rng: Rng) -> None:
    layer: Any = nn.BatchNorm1d(3)
    optimizer = schuss.optim.SGD(layer.parameters(), lr=0.1)
    layer(schuss.tensor(rng.standard_normal((6, 3)).astype(np.float32))).sum().backward()
    optimizer.step()
    assert all(each._node.value is not None for each in layer.buffers())
    assert all(each._node.inputs == () for each in layer.buffers())


def test_graphs_of_two_thousand_batches_do_not_pile_up() -> None:
    """Training mode without a step, the output looked at: old batches are let go."""
    layer: Any = nn.BatchNorm1d(2)
    nodes: list[weakref.ref[Any]] = []
    for i in range(2000):
        y = layer(schuss.tensor(np.full((4, 2), i, np.float32)))
        y.numpy()
        nodes.append(weakref.ref(y._node))
    del y
    gc.collect()
    assert sum(ref() is not None for ref in nodes) == 0
    waiting = ancestors([layer.running_mean._node], lambda node: node.value is None)
    assert len(waiting) < 6000
    assert layer.running_mean.numpy() == pytest.approx(1990, abs=1)


def test_batch_norm_of_wrong_shapes() -> None:
    with pytest.raises(ShapeError, match=r"BatchNorm1d: x must have the shape \(N, C\) or "
                       r"\(N, C, L\) with C = 3\n  x: \(2, 4\) float32"):  # fmt: skip
        nn.BatchNorm1d(3)(schuss.ones((2, 4)))
    with pytest.raises(ShapeError, match=r"BatchNorm2d: x must have the shape \(N, C, H, W\)"):
        nn.BatchNorm2d(3)(schuss.ones((2, 3, 4)))


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (1, 3, 1)])
def test_batch_norm_of_one_value(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ShapeError,
        match=r"needs more than one value for each channel in training"
        r"(.|\n)*hint: use a larger batch \(drop_last=True\), or model.eval\(\)",
    ):
        nn.BatchNorm1d(3)(schuss.ones(shape))


def test_batch_norm_of_integers() -> None:
    with pytest.raises(DTypeError, match="BatchNorm1d: needs floating input"):
        nn.BatchNorm1d(3)(schuss.ones((2, 3), dtype=schuss.int64))
    with pytest.raises(ArgumentError, match="BatchNorm2d: num_features must be a positive integer"):
        nn.BatchNorm2d(0)


# --- layer normalisation ---

SHAPES: list[tuple[Any, tuple[int, ...]]] = [(4, (3, 4)), (4, (4,)), ((2, 3), (2, 1, 2, 3)),
                                             ([3], (0, 3)), (1, (2, 1))]  # fmt: skip


@pytest.mark.parametrize(("normalized_shape", "shape"), SHAPES)
@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"elementwise_affine": False}, {"eps": 0.1}]
)
def test_layer_norm(normalized_shape: Any, shape: tuple[int, ...], options: dict[str, Any],
                    rng: Rng) -> None:  # fmt: skip
    layer = nn.LayerNorm(normalized_shape, **options, dtype=schuss.float64)
    x = rng.standard_normal(shape)
    axes = tuple(range(x.ndim - len(layer.normalized_shape), x.ndim))
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    expected = (x - mean) / np.sqrt(var + layer.eps)
    if layer.weight is not None:
        layer.weight.assign(rng.uniform(0.5, 2, layer.weight.shape))
        expected = expected * layer.weight.numpy()
    if layer.bias is not None:
        layer.bias.assign(rng.standard_normal(layer.bias.shape))
        expected = expected + layer.bias.numpy()
    y = layer(schuss.tensor(x))
    assert y.shape == shape
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("normalized_shape", "shape"), SHAPES[:3])
def test_layer_norm_gradients(normalized_shape: Any, shape: tuple[int, ...], rng: Rng,
                              check_layer: Check) -> None:  # fmt: skip
    check_layer(nn.LayerNorm(normalized_shape), rng.standard_normal(shape))


def test_layer_norm_errors() -> None:
    with pytest.raises(ShapeError, match=r"layer_norm: the last axes of x must have the shape "
                       r"\(2, 3\)\n  x: \(3, 2\) float32\n  in: LayerNorm"):  # fmt: skip
        nn.LayerNorm((2, 3))(schuss.ones((3, 2)))
    with pytest.raises(ShapeError, match=r"must have the shape \(2, 3\)"):
        nn.LayerNorm((2, 3))(schuss.ones(3))
    with pytest.raises(
        ArgumentError, match="LayerNorm: normalized_shape must be a positive integer"
    ):
        nn.LayerNorm((2, 0))
    with pytest.raises(DTypeError, match="LayerNorm: needs floating input"):
        nn.LayerNorm(2)(schuss.ones(2, dtype=schuss.int64))
    with pytest.raises(ArgumentTypeError, match="LayerNorm: needs a tensor"):
        nn.LayerNorm(2)(np.ones(2))


def test_printed_normalization() -> None:
    assert repr(nn.BatchNorm2d(3)) == "BatchNorm2d(3, eps=1e-05, momentum=0.1)  # 6 parameters"
    assert repr(nn.LayerNorm((2, 3))) == "LayerNorm((2, 3), eps=1e-05)  # 12 parameters"


# --- instances, groups, root mean squares ---

INSTANCES = [(nn.InstanceNorm1d, (2, 3, 4)), (nn.InstanceNorm2d, (2, 3, 2, 3)),
             (nn.InstanceNorm3d, (1, 3, 2, 1, 2))]  # fmt: skip


@pytest.mark.parametrize(("kind", "shape"), INSTANCES)
def test_instance_norm(kind: Any, shape: tuple[int, ...], rng: Rng, check_layer: Check) -> None:
    x = rng.standard_normal(shape)
    axes = tuple(range(2, x.ndim))
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    y = kind(3)(schuss.tensor(x)).numpy()
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-8, atol=1e-10)
    assert kind(3).parameters() == []
    check_layer(random_layer(kind, rng, affine=True), x)


def test_statistics_of_instances(rng: Rng) -> None:
    layer = random_layer(nn.InstanceNorm1d, rng, track_running_stats=True, affine=True)
    x = rng.standard_normal((2, 3, 4))
    layer(schuss.tensor(x))
    mean, var = 0.1 * x.mean(2).mean(0), 0.9 + 0.1 * x.var(2, ddof=1).mean(0)
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_var.numpy(), var, rtol=1e-12)
    y = layer.eval()(schuss.tensor(x)).numpy()
    np.testing.assert_allclose(y, normalized(x, mean, var, layer), rtol=1e-10)
    with pytest.raises(ShapeError, match="needs more than one value for each channel of a sample"):
        layer.train()(schuss.ones((5, 3, 1)))


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 3), (1, 6, 2, 3)])
def test_group_norm(shape: tuple[int, ...], rng: Rng, check_layer: Check) -> None:
    x = rng.standard_normal(shape)
    parts = x.reshape(shape[0], 2, -1)
    expected = parts - parts.mean(2, keepdims=True)
    expected = (expected / np.sqrt(parts.var(2, keepdims=True) + 1e-5)).reshape(shape)
    layer = nn.GroupNorm(2, 6, dtype=schuss.float64)
    np.testing.assert_allclose(layer(schuss.tensor(x)).numpy(), expected, rtol=1e-9)
    check_layer(layer, x)


def test_rms_and_response_norm(rng: Rng, check_layer: Check) -> None:
    layer = nn.RMSNorm((2, 3), eps=0.25, dtype=schuss.float64)
    layer.weight.assign(rng.standard_normal((2, 3)))
    x = rng.standard_normal((4, 2, 3))
    expected = x / np.sqrt((x * x).mean((1, 2), keepdims=True) + 0.25) * layer.weight.numpy()
    np.testing.assert_allclose(layer(schuss.tensor(x)).numpy(), expected, rtol=1e-10)
    check_layer(layer, x)
    check_layer(nn.LocalResponseNorm(3, alpha=0.5), rng.standard_normal((2, 5, 3)))


def test_errors_of_groups() -> None:
    with pytest.raises(ArgumentError, match="GroupNorm: num_groups must divide num_channels"):
        nn.GroupNorm(4, 6)
    with pytest.raises(
        ShapeError, match=r"GroupNorm: x must have the shape \(N, C, ...\) with C = 6"
    ):
        nn.GroupNorm(2, 6)(schuss.ones((2, 4)))
    with pytest.raises(ShapeError, match=r"InstanceNorm2d: x must have the shape \(N, C, H, W\)"):
        nn.InstanceNorm2d(3)(schuss.ones((3, 4, 5)))
    with pytest.raises(ArgumentError, match="RMSNorm: normalized_shape must be a positive integer"):
        nn.RMSNorm((2, 0))
    with pytest.raises(ShapeError, match="in: RMSNorm"):
        nn.RMSNorm(3)(schuss.ones(2))


def test_printed_groups() -> None:
    assert repr(nn.GroupNorm(2, 4)) == "GroupNorm(2, 4, eps=1e-05)  # 8 parameters"
    assert repr(nn.RMSNorm(4)) == "RMSNorm((4,), eps=None)  # 4 parameters"
    assert repr(nn.InstanceNorm1d(4)) == "InstanceNorm1d(4, eps=1e-05, momentum=0.1)"
