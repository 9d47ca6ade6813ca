"""PyTorch's CTC loss and ours, behind log_softmax: the same values and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.comparison

RNG = np.random.default_rng(2)
TARGETS = RNG.integers(1, 5, (6, 4))
TARGETS[1] = [2, 2, 3, 3]  # repeated labels
ENDS = [9, 9, 7, 9, 3, 9]  # the fifth is too short for its labels
LENGTHS = [4, 4, 3, 0, 4, 1]
JOINED = np.concatenate([row[:n] for row, n in zip(TARGETS, LENGTHS, strict=True)])


@pytest.mark.parametrize("targets", [TARGETS, JOINED], ids=["padded", "joined"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("blank", [0, 5])
def test_ctc(targets: Any, reduction: str, blank: int) -> None:
    options: Any = {"blank": blank, "reduction": reduction, "zero_infinity": True}
    input = RNG.standard_normal((9, 6, 6)) * 3
    x, a = schuss.tensor(input, requires_grad=True), torch.tensor(input, requires_grad=True)
    found = nn.CTCLoss(**options)(nn.functional.log_softmax(x), targets, ENDS, LENGTHS)
    lengths = (torch.tensor(ENDS), torch.tensor(LENGTHS))
    expected = torch.nn.CTCLoss(**options)(a.log_softmax(-1), torch.tensor(targets), *lengths)
    assert found.shape == tuple(expected.shape)
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), rtol=1e-10)
    gradient = np.random.default_rng(1).standard_normal(found.shape)
    found.backward(schuss.tensor(gradient))
    expected.backward(torch.tensor(gradient))
    np.testing.assert_allclose(x.grad.numpy(), a.grad.numpy(), rtol=1e-8, atol=1e-12)


def test_impossible_labels() -> None:
    logs = np.log(np.full((3, 1, 4), 0.25))
    found = nn.functional.ctc_loss(logs, [[1, 2, 3, 1]], [3], [4], reduction="none")
    lengths = (torch.tensor([3]), torch.tensor([4]))
    expected = torch.nn.functional.ctc_loss(
        torch.tensor(logs), torch.tensor([[1, 2, 3, 1]]), *lengths, reduction="none"
    )
    np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_one_sample() -> None:
    input = RNG.standard_normal((5, 4))
    found = nn.functional.ctc_loss(nn.functional.log_softmax(input), [1, 3], 5, 2)
    expected = torch.nn.functional.ctc_loss(
        torch.tensor(input).log_softmax(-1), torch.tensor([1, 3]), torch.tensor(5), torch.tensor(2)
    )
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-12)
