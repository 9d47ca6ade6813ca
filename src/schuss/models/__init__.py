"""Networks that are known by their names, with random initial weights."""

from schuss.models.gpt import GPT

__all__ = ["GPT"]
