"""Training steps in Schuss: the plain loop's body, and the same as one call of `schuss.jit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import schuss
from common.networks import Library, network
from common.workloads import Arrays, Workload
from schuss import nn, optim


def unavailable(workload: Workload, variant: str) -> str | None:
    """Why this row cannot be measured, if so."""
    return None


LIBRARY = Library(
    nn,
    nn.ReLU,
    lambda q, k, v: nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True),
    schuss.arange,
)


def make(workload: Workload, variant: str, weights: Arrays, batch: Any) -> Callable[[], Any]:
    """A function that does one training step and returns the loss.

    Args:
        variant: "plain" or "jit".
    """
    model = network(workload.network, LIBRARY)
    model.load_state_dict(weights, strict=False)  # the rest are statistics of normalisation
    x, y = (schuss.tensor(each) for each in batch)
    y = y if workload.labels is None else y.reshape(-1)
    loss_function = nn.MSELoss() if workload.labels is None else nn.CrossEntropyLoss()
    optimizer = getattr(optim, workload.optimizer)(model.parameters(), **workload.settings)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        with schuss.autocast(enabled=workload.precision == "bfloat16"):
            loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    run = schuss.jit(step) if variant == "jit" else step
    return lambda: run(x, y)


def describe() -> str:
    """What computed the last step."""
    return str(schuss.last_run())
