"""Training: the Trainer with its callbacks, metrics, checkpoints and files.

Progress bars, pictures and TensorBoard files need packages that are imported when they are used.
"""

from schuss.training.callbacks import Callback, Checkpoint, EarlyStopping, JSONLines, KeepState
from schuss.training.checkpoint import Checkpoints, load_checkpoint, save_checkpoint
from schuss.training.history import History
from schuss.training.metrics import (
    Accuracy,
    ConfusionMatrix,
    Mean,
    MeanAbsoluteError,
    MeanSquaredError,
    Metric,
)
from schuss.training.plots import LearningCurve, draw_learning_curve
from schuss.training.progress import ProgressBar
from schuss.training.tensorboard import TensorBoard
from schuss.training.trainer import Trainer

__all__ = [
    "Accuracy",
    "Callback",
    "Checkpoint",
    "Checkpoints",
    "ConfusionMatrix",
    "EarlyStopping",
    "History",
    "JSONLines",
    "KeepState",
    "LearningCurve",
    "Mean",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "ProgressBar",
    "TensorBoard",
    "Trainer",
    "draw_learning_curve",
    "load_checkpoint",
    "save_checkpoint",
]
