"""Derivatives of recorded graphs."""

from schuss.autodiff.backward import backward
from schuss.autodiff.batching import vmap
from schuss.autodiff.branches import cond, while_loop
from schuss.autodiff.check import check_gradients
from schuss.autodiff.checkpoint import checkpoint
from schuss.autodiff.custom import custom_gradient, custom_jvp
from schuss.autodiff.forward import jvp, linearize
from schuss.autodiff.implicit import fixed_point, implicit_root
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
from schuss.autodiff.scan import scan
from schuss.autodiff.transforms import grad, value_and_grad, vjp

__all__ = [
    "backward",
    "check_gradients",
    "checkpoint",
    "cond",
    "custom_gradient",
    "custom_jvp",
    "fixed_point",
    "gauss_newton_at",
    "gnvp",
    "grad",
    "hessian",
    "hessian_at",
    "hvp",
    "implicit_root",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jvp",
    "linearize",
    "scan",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
]
