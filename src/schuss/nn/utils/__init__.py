"""Parameters that are computed from others, with PyTorch's names."""

from typing import Any

from schuss.nn.utils import parametrizations, parametrize
from schuss.pytorch_names import UTILS, missing

__all__ = ["parametrizations", "parametrize"]


def __getattr__(name: str) -> Any:
    raise missing("schuss.nn.utils", name, UTILS)
