"""Making graphs into values."""

from schuss.execution.evaluate import evaluate, evaluate_pending, last_run
from schuss.execution.report import Run

__all__ = ["Run", "evaluate", "evaluate_pending", "last_run"]
