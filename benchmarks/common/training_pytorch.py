"""Training steps in PyTorch: eager, compiled, and with channels last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its name everywhere

from common.networks import Library, network
from common.workloads import Arrays, Workload

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def unavailable(workload: Workload, variant: str) -> str | None:
    """Why this row cannot be measured, if so."""
    if variant == "compile" and shutil.which(os.environ.get("CXX", "g++")) is None:
        return "no C++ compiler"
    return None


LIBRARY = Library(
    nn,
    lambda: nn.ReLU(inplace=True),
    lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    torch.arange,
)


def make(workload: Workload, variant: str, weights: Arrays, batch: Any) -> Callable[[], Any]:
    """A function that does one training step and returns the loss.

    Args:
        variant: "eager", "compile" or "channels-last".
    """
    model = network(workload.network, LIBRARY)
    named = {name: torch.from_numpy(each) for name, each in weights.items()}
    model.load_state_dict(named, strict=False)  # the rest are statistics of normalisation
    x, y = (torch.from_numpy(each) for each in batch)
    if variant == "channels-last":
        model = model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    y = y if workload.labels is None else y.reshape(-1)
    loss_function = nn.MSELoss() if workload.labels is None else nn.CrossEntropyLoss()
    fused = workload.name != "linear"  # three parameters: fusing takes longer than it saves
    optimizer = getattr(torch.optim, workload.optimizer)(
        model.parameters(), fused=fused, **workload.settings
    )

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=workload.precision == "bfloat16"):
            return loss_function(model(x), y)

    if variant == "compile":
        loss_of = torch.compile(loss_of)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def describe() -> str:
    """What computed the last step."""
    return f"{torch.get_num_threads()} threads"
