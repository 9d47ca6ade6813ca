"""Optimizers, learning-rate schedules, gradient clipping. Names and arguments are PyTorch's."""

from typing import Any

from schuss.optim import lr_scheduler
from schuss.optim.clipping import clip_grad_norm, clip_grad_value
from schuss.optim.grad_scaler import GradScaler
from schuss.optim.kfac import KFAC
from schuss.optim.lbfgs import LBFGS
from schuss.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, ExponentialLR, LambdaLR, StepLR
from schuss.optim.methods import SGD, Adagrad, Adam, AdamW
from schuss.optim.optimizer import Optimizer
from schuss.optim.second_order import Fit, conjugate_gradient, gauss_newton, newton
from schuss.pytorch_names import OPTIM, missing

__all__ = [
    "KFAC",
    "LBFGS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "Fit",
    "GradScaler",
    "LambdaLR",
    "Optimizer",
    "StepLR",
    "clip_grad_norm",
    "clip_grad_value",
    "conjugate_gradient",
    "gauss_newton",
    "lr_scheduler",
    "newton",
]


def __getattr__(name: str) -> Any:
    raise missing("schuss.optim", name, OPTIM)
