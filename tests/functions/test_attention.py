"""scaled_dot_product_attention: values, masks, dropout, shared heads, gradients, errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.errors import ArgumentError, DTypeError, ShapeError
from schuss.graph import ancestors
from schuss.philox import Generator

attend = nn.functional.scaled_dot_product_attention
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def plain(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: Any = 0.0, scale: Any = None) -> Any:
    """The formula, without care for large numbers."""
    scores = np.einsum("...qd,...kd->...qk", q, k) * (scale or q.shape[-1] ** -0.5) + bias
    powers = np.exp(scores)
    return np.einsum("...qk,...kv->...qv", powers / powers.sum(-1, keepdims=True), v)


def close(found: schuss.Tensor, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-13)


def test_value() -> None:
    q, k, v = normal(2, 3, 5, 4), normal(2, 3, 7, 4), normal(2, 3, 7, 6)
    close(attend(q, k, v), plain(q, k, v))
    close(attend(q, k, v, scale=0.3), plain(q, k, v, scale=0.3))


def test_axes_before_the_last_two_broadcast() -> None:
    q, k, v = normal(3, 5, 4), normal(2, 1, 7, 4), normal(7, 6)
    wide = [np.broadcast_to(x, (2, 3, *x.shape[-2:])) for x in (q, k, v)]
    close(attend(q, k, v), plain(*wide))


@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (3, 6), (6, 3)])
def test_causal_counts_from_the_first_query_and_key(queries: int, keys: int) -> None:
    q, k, v = normal(queries, 4), normal(keys, 4), normal(keys, 2)
    bias = np.array([[0.0 if j <= i else -np.inf for j in range(keys)] for i in range(queries)])
    close(attend(q, k, v, is_causal=True), plain(q, k, v, bias))


def test_masks() -> None:
    q, k, v, bias = normal(2, 3, 4), normal(2, 5, 4), normal(2, 5, 2), normal(3, 5)
    close(attend(q, k, v, bias), plain(q, k, v, bias))
    seen = np.array([[1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    close(attend(q, k, v, seen), plain(q, k, v, np.where(seen, 0, -np.inf)))
    padded = np.array([True, True, False, True, False])
    close(attend(q, k, v, padded), plain(q, k, v, np.where(padded, 0, -np.inf)))
    both = np.where(np.tri(3, 5, dtype=bool), bias, -np.inf)
    close(attend(q, k, v, bias, is_causal=True), plain(q, k, v, both))


def test_a_query_without_keys_gets_zeros_and_gives_no_gradient() -> None:
    q, k, v = (schuss.tensor(normal(2, 4), requires_grad=True) for _ in range(3))
    y = attend(q, k, v, np.array([[True, True], [False, False]]))
    assert y.numpy()[1].tolist() == [0.0] * 4
    y.sum().backward()
    for x in (q, k, v):
        assert np.isfinite(x.grad.numpy()).all()
    assert q.grad.numpy()[1].tolist() == [0.0] * 4


def test_large_scores() -> None:
    q = np.array([[1000.0], [-1000.0]])
    k, v = np.array([[1.0], [2.0]]), np.array([[3.0], [5.0]])
    assert attend(q, k, v, scale=1.0).tolist() == [[5.0], [3.0]]


def test_half_precision_is_computed_in_float32() -> None:
    q, k, v = (normal(4, 64).astype(np.float16) for _ in range(3))
    y = attend(q, k, v)
    assert y.dtype == schuss.float16
    expected = plain(*[x.astype(np.float64) for x in (q, k, v)])
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_shared_heads() -> None:
    q, k, v = normal(2, 6, 5, 4), normal(2, 3, 7, 4), normal(2, 3, 7, 2)
    wide = [np.repeat(x, 2, axis=1) for x in (k, v)]
    close(attend(q, k, v, enable_gqa=True), plain(q, *wide))
    close(attend(q[0], k[0], v[0], enable_gqa=True), plain(q[0], wide[0][0], wide[1][0]))
    for mask in (normal(6, 1, 7), normal(2, 1, 5, 7), normal(5, 7)):
        close(attend(q, k, v, mask, enable_gqa=True), plain(q, *wide, mask))


def test_shared_heads_errors() -> None:
    q, k, v = normal(2, 6, 5, 4), normal(2, 3, 7, 4), normal(2, 2, 7, 2)
    with pytest.raises(ShapeError, match="as long in key as in value"):
        attend(q, k, v, enable_gqa=True)
    with pytest.raises(ShapeError, match="a head axis"):
        attend(q[0, 0], k[0, 0], v[0, 0], enable_gqa=True)
    four = normal(2, 4, 7, 4)
    with pytest.raises(ShapeError, match="the heads of key and value must divide those of query"):
        attend(q, four, four, enable_gqa=True)


def test_dropout() -> None:
    q, k, v = np.zeros((1, 2)), np.zeros((1000, 2)), np.eye(1000)
    weights = attend(q, k, v, dropout_p=0.25, generator=Generator(3)).numpy()
    kept = weights != 0
    assert 0.7 < kept.mean() < 0.8
    np.testing.assert_allclose(weights[kept], 1 / 1000 / 0.75)
    same = attend(q, k, v, dropout_p=0.25, generator=Generator(3)).numpy()
    np.testing.assert_array_equal(weights, same)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_with_masks(causal: bool) -> None:
    """The mask that is shared by the batch and by the queries gets a gradient too."""
    inputs = [normal(2, 3, 2), normal(2, 4, 2), normal(2, 4, 3), normal(2, 1, 4)]
    schuss.check_gradients(lambda *x: attend(*x, is_causal=causal), inputs, directions=1)


def test_gradients_with_dropout_and_broadcasting() -> None:
    def f(*x: Any) -> Any:
        return attend(*x, dropout_p=0.5, generator=Generator(1))

    schuss.check_gradients(f, [normal(3, 2), normal(2, 4, 2), normal(1, 4, 3)], directions=1)


def test_one_gradient_op_serves_all_inputs() -> None:
    q, k, v = (schuss.tensor(normal(2, 4), requires_grad=True) for _ in range(3))
    attend(q, k, v).sum().backward()
    walked = ancestors([x.grad._node for x in (q, k, v)], lambda node: True)
    assert [node.name.partition(" ")[0] for node in walked].count("attention_gradient") == 1


def test_errors() -> None:
    q, k, v = normal(3, 4), normal(5, 4), normal(5, 2)
    with pytest.raises(ShapeError, match="queries and keys must have the same number of features"):
        attend(q, k[:, :3], v)
    with pytest.raises(ShapeError, match="there must be as many keys as values"):
        attend(q, k, v[:4])
    with pytest.raises(ShapeError, match="need two axes at least"):
        attend(q, k, v[0])
    with pytest.raises(ShapeError, match=r"the mask must broadcast to the scores \(3, 5\)"):
        attend(q, k, v, normal(2, 3, 5))
    with pytest.raises(DTypeError, match="a mask is boolean or floating"):
        attend(q, k, v, np.ones((3, 5), np.int64))
    with pytest.raises(ArgumentError, match="dropout_p is a probability"):
        attend(q, k, v, dropout_p=1.5)


def test_scale_of_no_features() -> None:
    y = attend(np.zeros((1, 0)), np.zeros((2, 0)), np.array([[1.0], [2.0]]))
    assert y.item() == pytest.approx(1.5)
    assert math.isfinite(y.item())
