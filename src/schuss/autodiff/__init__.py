"""Derivatives of recorded graphs."""

from schuss.autodiff.backward import backward
from schuss.autodiff.batching import vmap
from schuss.autodiff.check import check_gradients
from schuss.autodiff.forward import jvp, linearize
from schuss.autodiff.jacobians import (
    gauss_newton_at,
    gnvp,
    hessian,
    hessian_at,
    hvp,
    jacfwd,
    jacobian,
    jacrev,
)
from schuss.autodiff.transforms import grad, value_and_grad, vjp

__all__ = [
    "backward",
    "check_gradients",
    "gauss_newton_at",
    "gnvp",
    "grad",
    "hessian",
    "hessian_at",
    "hvp",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jvp",
    "linearize",
    "value_and_grad",
    "vjp",
    "vmap",
]
