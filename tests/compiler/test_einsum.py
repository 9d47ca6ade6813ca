"""Sums of products become contractions, and stay the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.compiler.graphs import ops, recorded

import schuss
from schuss.compiler.simplify import simplify
from schuss.compiler.verify import verify_graph
from schuss.execution.tiers import using

B, M, N = 16, 24, 40
rng = np.random.default_rng(0)
ARRAYS = [rng.uniform(0.5, 2.0, shape).astype(np.float32) for shape in ((B, M), (B, N), (B,))]

Tensor = schuss.Tensor
Function = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHUSS_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "kernels"))


def outer(x: Tensor, d: Tensor) -> Tensor:
    """The outer products of the rows, (B, M, N)."""
    return x.reshape(B, M, 1) * d.reshape(B, 1, N)


def wide(x: Tensor) -> Tensor:
    return x.reshape(B, 1, x.shape[1]).broadcast_to((B, M, x.shape[1]))


CONTRACTIONS: dict[str, Function] = {
    "mean": lambda x, d, s: outer(x, d).mean(axis=0),
    "turned": lambda x, d, s: outer(x, d).mT.sum(axis=0),
    "weighted": lambda x, d, s: (outer(x, d) * s.reshape(B, 1, 1)).sum(axis=0),
    "weights first": lambda x, d, s: (s.reshape(B, 1, 1) * 3.0 * outer(x, d)).sum(axis=0),
    "divided": lambda x, d, s: (outer(x, d) / s.reshape(B, 1, 1)).sum(axis=0),
    "divided twice": lambda x, d, s: (outer(x, d) / s.reshape(B, 1, 1) / 3.0).sum(axis=0),
    "norms": lambda x, d, s: (outer(x, d) ** 2).sum(axis=(1, 2)),
    "norms of flat ones": lambda x, d, s: (outer(x, d) ** 2).reshape(B, -1).sum(axis=1),
    "norms, flat first": lambda x, d, s: (outer(x, d).reshape(B, -1) ** 2).sum(axis=1),
    "flat and weighted": lambda x, d, s: (outer(x, d).reshape(B, -1) * s.expand_dims(1)).sum(0),
    "a stack": lambda x, d, s: outer(x, d).reshape(4, 4, M, N).sum(axis=1),
    "one axis": lambda x, d, s: outer(x, d).sum(axis=1),
    "all axes": lambda x, d, s: outer(x, d).sum(),
    "nothing in common": lambda x, d, s: (
        x.reshape(B, M, 1, 1) * d.reshape(1, 1, B, N)
    ).sum(axis=(0, 3)),
    "broadcast": lambda x, d, s: (x.expand_dims(2).broadcast_to((B, M, N)) * wide(d)).sum(axis=0),
    "merged again": lambda x, d, s: (
        outer(x, d).sum(axis=0, keepdims=True) * s.reshape(B, 1, 1) * outer(x, d)
    ).sum(axis=(1, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_outer_products_are_never_made(name: str) -> None:
    f = CONTRACTIONS[name]
    found = []
    for tier in ("reference", "compiled"):
        with using(tier):
            found.append(f(*[schuss.tensor(each) for each in ARRAYS]).numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    graph = simplify(recorded(f(*[schuss.tensor(each) for each in ARRAYS])))
    verify_graph(graph)
    if name != "merged again":  # its last product really varies along all axes
        assert max(value.size for value in graph.values) < B * M * N, str(graph)


def kinds(tensor: Tensor) -> list[str]:
    return ops(simplify(recorded(tensor)))


def test_a_sum_over_what_two_factors_share_is_a_matrix_product() -> None:
    x, d, s = [schuss.tensor(each) for each in ARRAYS]
    assert "matmul" in kinds(outer(x, d).sum(axis=0))
    assert "sum" not in kinds((outer(x, d) * s.reshape(B, 1, 1)).sum(axis=0))


def test_squares_of_outer_products_are_products_of_squares() -> None:
    x, d, _ = [schuss.tensor(each) for each in ARRAYS]
    made = kinds((outer(x, d) ** 2).sum(axis=(1, 2)))
    assert "matmul" not in made
    assert made.count("sum") == 2


narrow, long = schuss.tensor(rng.random((B * M, 2))), schuss.tensor(rng.random((B * M, N)))


@pytest.mark.parametrize(
    "unchanged",
    [
        lambda x, d: (wide(d) * wide(d)).sum(axis=0),  # all factors vary along all axes
        lambda x, d: (x[:2, :3].reshape(2, 3, 1) * d[:2, :4].reshape(2, 1, 4)).sum(axis=0),  # few
        lambda x, d: outer(x.astype("bfloat16"), d.astype("bfloat16")).sum(axis=0),  # overflow
        lambda x, d: (narrow.reshape(B * M, 2, 1) * long.expand_dims(1)).sum(axis=0),
    ],
)
def test_other_sums_stay(unchanged: Callable[..., Tensor]) -> None:
    x, d, _ = [schuss.tensor(each) for each in ARRAYS]
    assert "matmul" not in kinds(unchanged(x, d))


def test_a_letter_that_no_factor_has_counts() -> None:
    """The sum of what is the same along an axis is left alone: it is no contraction."""
    x, d, _ = [schuss.tensor(each) for each in ARRAYS]
    many = lambda x, d: outer(x, d).expand_dims(0).broadcast_to((3, B, M, N)).sum(axis=(0, 1))
    with using("compiled"):
        found = many(x, d).numpy()
    np.testing.assert_allclose(found, 3 * ARRAYS[0].T @ ARRAYS[1], rtol=1e-5)


def test_powers_of_powers_take_no_time() -> None:
    """As a tree, the product has 2 ** 40 factors."""
    x = schuss.tensor(np.ones((128, 128), np.float32))
    for _ in range(40):
        x = x * x
    assert kinds(x.sum(axis=0)) == ["multiply"] * 40 + ["sum"]
