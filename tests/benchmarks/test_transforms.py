from __future__ import annotations

import numpy as np
import pytest

import schuss
import transforms

SIZES, BATCH = (6, 5, 3), 4


def test_the_functions_agree() -> None:
    """Means of per-example gradients are the gradient; clipping leaves norms of at most 1."""
    args, calls = transforms.network(SIZES, BATCH), transforms.functions(BATCH)
    gradient = calls["the gradient of the batch"](*args)
    mean = calls["mean of per-example gradients"](*args)
    every = calls["all per-example gradients, in memory"](*args)
    norms = calls["norms of per-example gradients"](*args).numpy()
    for name, g in gradient.items():
        np.testing.assert_allclose(mean[name].numpy(), g.numpy(), atol=1e-6)
        assert every[name].shape == (BATCH, *g.shape)
    squares = sum((g.numpy().reshape(BATCH, -1) ** 2).sum(axis=1) for g in every.values())
    np.testing.assert_allclose(norms, np.sqrt(squares), rtol=1e-5)
    clipped = calls["mean of clipped per-example gradients"](*args)
    factors = np.minimum(1 / norms, 1)
    for name, g in clipped.items():
        expected = np.tensordot(factors, every[name].numpy(), 1) / BATCH
        np.testing.assert_allclose(g.numpy(), expected, atol=1e-6)


def test_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "KNOWN", 1)
    args, calls = transforms.network(SIZES, BATCH), transforms.functions(BATCH)
    times = transforms.measured({name: schuss.jit(call) for name, call in calls.items()}, args, 2)
    assert all(len(each) == 2 and min(each) > 0 for each in times.values())
    rows = transforms.rows_of(times)
    assert rows[0][2] == "1.00"
    lines = transforms.lines_of({"jit": rows, "plain": rows}, 2, 1)
    assert "| jit | ms | gradients |" in lines
