"""Derivatives of recorded graphs."""

from schuss.autodiff.backward import backward
from schuss.autodiff.check import check_gradients
from schuss.autodiff.transforms import grad, value_and_grad

__all__ = ["backward", "check_gradients", "grad", "value_and_grad"]
