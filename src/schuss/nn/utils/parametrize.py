"""Parameters that are computed from others at each use: `layer.weight` becomes a function of what
is learned instead.

A parametrization is a Module: `forward` takes what is learned to the value, and `right_inverse`,
where there is one, takes a value to what has to be learned for it: one tensor or several. State has
PyTorch's names: `parametrizations.weight.original`, or `original0`, `original1`, ... for several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schuss.errors import ModuleError, ShapeError, fail
from schuss.nn.module import Module, Parameter
from schuss.tensor import Tensor


class Parametrized(Module):
    """What is learned in place of one parameter, and the steps that compute its value from it."""

    def __init__(self, value: Tensor, rule: Module) -> None:
        super().__init__()
        inverse = _inverse(rule, value.detach())
        several = isinstance(inverse, Sequence)
        self.count = len(inverse) if several else 0
        for name, part in zip(self._names(), inverse if several else [inverse], strict=True):
            setattr(self, name, Parameter(part, value.requires_grad))
        self.rules = [rule]

    def _names(self) -> list[str]:
        return [f"original{i}" for i in range(self.count)] if self.count else ["original"]

    def named_children(self) -> list[tuple[str, Module]]:
        return [(str(i), rule) for i, rule in enumerate(self.rules)]

    def forward(self) -> Tensor:
        first, *later = self.rules
        value = first(*[getattr(self, name) for name in self._names()])
        for rule in later:
            value = rule(value)
        return value

    def originals(self) -> list[Parameter]:
        """What is learned."""
        return [getattr(self, name) for name in self._names()]


def _inverse(rule: Module, value: Tensor) -> Any:
    """What `rule` makes the value of; the value itself where the rule does not say."""
    known = getattr(type(rule), "right_inverse", None)
    return value if known is None else known(rule, value)


def register_parametrization(module: Module, tensor_name: str, parametrization: Module) -> Module:
    """Let `parametrization` compute the attribute `tensor_name` of a layer; returns the layer.

    A second one on the same attribute is applied to the value of the first.

    Optimizers made before hold the parameter that is no longer used: register first.

    Raises:
        ModuleError: the attribute is no parameter.
        ShapeError: the parametrization gives the value another shape or dtype.
    """
    value = parameter_of("register_parametrization", module, tensor_name)
    present = vars(module).setdefault("parametrizations", {})
    if tensor_name in present:
        before = present[tensor_name]
        _check_same(value, parametrization(value))
        before.rules.append(parametrization)
        before.train(module.training)
        return module
    made = Parametrized(value, parametrization).train(module.training)
    _check_same(value, made())
    present[tensor_name] = made
    del vars(module)[tensor_name]
    return module


def parameter_of(where: str, module: Module, name: str) -> Tensor:
    """The parameter of this name, or the value that is computed in its place, or ModuleError."""
    if is_parametrized(module, name):
        return getattr(module, name)
    value = vars(module).get(name)
    if not isinstance(value, Parameter):
        raise fail(ModuleError, where, f"{type(module).__name__} has no parameter {name!r}")
    return value


def _check_same(old: Tensor, new: Tensor) -> None:
    if new.shape != old.shape or new.dtype != old.dtype:
        problem = "a parametrization must keep the shape and the dtype"
        raise fail(ShapeError, "register_parametrization", problem, before=old, after=new)


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether the attribute of this name is computed, or any is."""
    present = vars(module).get("parametrizations", {})
    return bool(present) if tensor_name is None else tensor_name in present


def remove_parametrizations(
    module: Module, tensor_name: str, leave_parametrized: bool = True
) -> Module:
    """Make a parameter of the computed attribute again; returns the layer.

    Args:
        leave_parametrized: True keeps the computed value, False what was there to compute it from,
            which must be one tensor.
    """
    if not is_parametrized(module, tensor_name):
        problem = f"{type(module).__name__} computes no {tensor_name!r}"
        raise fail(ModuleError, "remove_parametrizations", problem)
    present = vars(module)["parametrizations"]
    made = present[tensor_name]
    originals = made.originals()
    if not leave_parametrized and len(originals) > 1:
        problem = f"{tensor_name!r} is computed from {len(originals)} tensors, none of which it was"
        raise fail(ModuleError, "remove_parametrizations", problem,
                   hint="leave_parametrized=True keeps the computed value")  # fmt: skip
    value = made() if leave_parametrized else originals[0]
    del present[tensor_name]
    if not present:
        del vars(module)["parametrizations"]
    setattr(module, tensor_name, Parameter(value, originals[0].requires_grad))
    return module
