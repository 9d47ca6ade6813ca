"""Making graphs into values."""

from schuss.execution.evaluate import Run, evaluate, evaluate_pending, last_run

__all__ = ["Run", "evaluate", "evaluate_pending", "last_run"]
