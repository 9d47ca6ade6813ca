"""The optimizers. Each `update` reads like its formula: p the parameter, g its gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from schuss.errors import ArgumentError, fail
from schuss.functions.creation import full_like
from schuss.functions.elementwise import maximum, sqrt
from schuss.optim.optimizer import Group, Optimizer
from schuss.tensor import Tensor


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak, 1964; Sutskever et al., 2013).

        v = momentum * v + (1 - dampening) * g,    p = p - lr * v

    Args:
        params: parameters or groups of them.
        lr: the learning rate.
        momentum: how much of the last step stays.
        dampening: see the formula; the first step is not dampened.
        weight_decay: adds weight_decay * p to the gradient (an L2 penalty).
        nesterov: look ahead: p = p - lr * (g + momentum * v).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "dampening": dampening,
                                  "weight_decay": weight_decay, "nesterov": nesterov})  # fmt: skip

    def check(self, settings: Mapping[str, Any]) -> None:
        super().check(settings)
        if not settings["momentum"] >= 0:
            raise fail(
                ArgumentError, "SGD", "momentum must not be negative", momentum=settings["momentum"]
            )
        if settings["nesterov"] and (settings["momentum"] == 0 or settings["dampening"] != 0):
            raise fail(ArgumentError, "SGD", "nesterov needs momentum and no dampening")

    def update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: Group) -> Tensor:
        momentum = group["momentum"]
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        if momentum:
            v = g
            if "momentum" in state:
                v = momentum * state["momentum"] + (1 - group["dampening"]) * g
            state["momentum"] = v
            g = g + momentum * v if group["nesterov"] else v
        return p - group["lr"] * g


class Adam(Optimizer):
    """Adaptive moments (Kingma and Ba, 2015).

        m = b1 m + (1 - b1) g,    v = b2 v + (1 - b2) g**2,    p = p - lr * m' / (sqrt(v') + eps)

    with m' = m / (1 - b1**t) and v' = v / (1 - b2**t) at step t.

    Args:
        params: parameters or groups of them.
        lr: the learning rate.
        betas: (b1, b2).
        eps: see the formula.
        weight_decay: adds weight_decay * p to the gradient; see AdamW for the other kind.
        amsgrad: divide by the largest v' so far (Reddi et al., 2018).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": tuple(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
            },
        )

    def check(self, settings: Mapping[str, Any]) -> None:
        super().check(settings)
        if len(settings["betas"]) != 2 or not all(0 <= b < 1 for b in settings["betas"]):
            raise fail(
                ArgumentError,
                type(self).__name__,
                "betas are two numbers of at least 0 and below 1",
                betas=settings["betas"],
            )

    def update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: Group) -> Tensor:
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        return self._adapted(p, g, state, group)

    def _adapted(self, p: Tensor, g: Tensor, state: dict[str, Any], group: Group) -> Tensor:
        (b1, b2), t = group["betas"], state.get("step", 0) + 1
        m = b1 * state["m"] + (1 - b1) * g if t > 1 else (1 - b1) * g
        v = b2 * state["v"] + (1 - b2) * (g * g) if t > 1 else (1 - b2) * (g * g)
        state.update(step=t, m=m, v=v)
        if group["amsgrad"]:
            v = state["largest_v"] = maximum(state.get("largest_v", v), v)
        size = sqrt(v) * (1 - b2**t) ** -0.5 + group["eps"]
        return p - (group["lr"] / (1 - b1**t)) * (m / size)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

    p shrinks by lr * weight_decay before the step.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)

    def update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: Group) -> Tensor:
        return self._adapted(p * (1 - group["lr"] * group["weight_decay"]), g, state, group)


class Adagrad(Optimizer):
    """Learning rates that shrink with the gradients seen (Duchi, Hazan and Singer, 2011).

        s = s + g**2,    p = p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)

    Args:
        params: parameters or groups of them.
        lr: the learning rate.
        lr_decay: see the formula.
        weight_decay: adds weight_decay * p to the gradient.
        initial_accumulator_value: where s starts.
        eps: see the formula.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "eps": eps,
            },
        )

    def update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: Group) -> Tensor:
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        t = state.get("step", 0) + 1
        start = state["sum"] if t > 1 else full_like(p, group["initial_accumulator_value"])
        s = start + g * g
        state.update(step=t, sum=s)
        return p - (group["lr"] / (1 + (t - 1) * group["lr_decay"])) * (
            g / (sqrt(s) + group["eps"])
        )
