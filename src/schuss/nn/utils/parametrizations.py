"""Parametrizations of weights: weight norm and spectral norm."""

from __future__ import annotations

import math

from schuss.context import no_grad
from schuss.errors import ArgumentError, ShapeError, fail
from schuss.functions.elementwise import maximum
from schuss.functions.matrices import vector_norm
from schuss.functions.random import normal
from schuss.nn.convolution import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from schuss.nn.module import Buffer, Module
from schuss.nn.utils.parametrize import parameter_of, register_parametrization
from schuss.tensor import Tensor


class _WeightNorm(Module):
    """g v / |v|, of g (original0) and v (original1)."""

    def __init__(self, dim: int | None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return v * (g / self._length(v))

    def right_inverse(self, value: Tensor) -> list[Tensor]:
        return [self._length(value), value]

    def _length(self, v: Tensor) -> Tensor:
        if self.dim is None:
            return vector_norm(v)
        kept = self.dim % v.ndim
        axes = tuple(axis for axis in range(v.ndim) if axis != kept)
        return vector_norm(v, axis=axes, keepdims=True) if axes else v.abs()


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Learn the length and the direction of a weight apart: weight = g v / |v|; returns the layer.

    Args:
        name: the parameter.
        dim: the axis along which each slice has a length of its own; None for one length.

    State: `parametrizations.weight.original0` (g) and `.original1` (v).
    Salimans and Kingma, "Weight normalization" (2016).
    Raises ModuleError where there is no such parameter.
    """
    _check_axis("weight_norm", module, name, dim)
    return register_parametrization(module, name, _WeightNorm(dim))


class _SpectralNorm(Module):
    """The weight divided by its largest singular value, which power iterations follow."""

    def __init__(self, weight: Tensor, steps: int, dim: int, eps: float) -> None:
        super().__init__()
        self.steps, self.dim, self.eps = steps, dim, eps
        if weight.ndim > 1:
            rows, columns = self._matrix(weight).shape
            self._u = Buffer(self._unit(normal((rows,), dtype=weight.dtype)))
            self._v = Buffer(self._unit(normal((columns,), dtype=weight.dtype)))
            self._iterate(weight, 15)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return self._unit(weight)
        if self.training:
            self._iterate(weight, self.steps)
        u, v = self._u.detach(), self._v.detach()
        return weight / (u @ (self._matrix(weight) @ v))

    def _iterate(self, weight: Tensor, steps: int) -> None:
        with no_grad():
            matrix = self._matrix(weight.detach())
            u, v = self._u.detach(), self._v.detach()
            for _ in range(steps):
                u = self._unit(matrix @ v)
                v = self._unit(matrix.mT @ u)
            self._u.assign(u)
            self._v.assign(v)

    def _matrix(self, weight: Tensor) -> Tensor:
        rest = [axis for axis in range(weight.ndim) if axis != self.dim % weight.ndim]
        front = weight.permute_dims((self.dim % weight.ndim, *rest))
        return front.reshape((front.shape[0], math.prod(front.shape[1:])))

    def _unit(self, x: Tensor) -> Tensor:
        return x / maximum(vector_norm(x), self.eps)


def spectral_norm(
    module: Module,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> Module:
    """Divide a weight by its largest singular value at each use; returns the layer.

    Args:
        name: the parameter, seen as a matrix of axis `dim` by all others.
        n_power_iterations: iterations at each use in training mode; the singular vectors are kept,
            so that few follow the weight.
        eps: the least length that is divided by.
        dim: the axis of the rows: by default 1 for transposed convolutions, else 0.

    State: `parametrizations.weight.original`, `.0._u` and `.0._v`.
    Miyato et al., "Spectral normalization for generative adversarial networks" (2018).
    Raises ModuleError where there is no such parameter.
    """
    if isinstance(n_power_iterations, bool) or n_power_iterations < 1:
        raise fail(ArgumentError, "spectral_norm", "n_power_iterations must be a positive integer",
                   n_power_iterations=n_power_iterations)  # fmt: skip
    if dim is None:
        transposed = (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)
        dim = 1 if isinstance(module, transposed) else 0
    value = _check_axis("spectral_norm", module, name, dim)
    return register_parametrization(
        module, name, _SpectralNorm(value, n_power_iterations, dim, eps)
    )


def _check_axis(where: str, module: Module, name: str, dim: int | None) -> Tensor:
    value = parameter_of(where, module, name)
    if dim is not None and not -value.ndim <= dim < value.ndim:
        raise fail(ShapeError, where, f"{name} has no axis {dim}", weight=value)
    return value
