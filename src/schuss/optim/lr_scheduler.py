"""Learning-rate schedules: what the initial rate is multiplied by after a number of steps.

Call `schedule.step()` once an epoch or once a step, whichever the numbers are meant in. Every
schedule takes `warmup`: so many steps first, over which the rate grows linearly (Goyal et al.,
2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from schuss.errors import ArgumentError, fail
from schuss.optim.optimizer import Optimizer


class Schedule:
    """The base of schedules: a subclass defines `factor(t)` for t steps after the warm-up."""

    def __init__(self, optimizer: Optimizer, warmup: int = 0) -> None:
        if warmup < 0:
            raise fail(
                ArgumentError, type(self).__name__, "warmup must not be negative", warmup=warmup
            )
        self.optimizer = optimizer
        self.warmup = warmup
        self.last_step = 0
        self.base_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        self._set()

    def factor(self, t: int) -> float:
        """What the initial rate is multiplied by, t steps after the warm-up."""
        raise NotImplementedError

    def rate(self, lr: float, t: int) -> float:
        """The rate of a group that began with `lr`, t steps after the warm-up."""
        return lr * self.factor(t)

    def step(self) -> None:
        """Go on by one step and set the learning rates."""
        self.last_step += 1
        self._set()

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def _set(self) -> None:
        if len(self.base_lrs) != len(self.optimizer.param_groups):
            raise fail(
                ArgumentError,
                type(self).__name__,
                "has a rate for each group of the optimizer",
                rates=self.base_lrs,
                groups=len(self.optimizer.param_groups),
                hint="make the schedule after the last add_param_group",
            )
        t = self.last_step
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            warming = t < self.warmup
            group["lr"] = (
                lr * (t + 1) / (self.warmup + 1) if warming else self.rate(lr, t - self.warmup)
            )

    def state_dict(self) -> dict[str, Any]:
        return {"last_step": self.last_step, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.last_step = int(state["last_step"])
        self.base_lrs = [float(lr) for lr in state["base_lrs"]]
        self._set()


class ConstantLR(Schedule):
    """The initial rate throughout; with `warmup`, after it."""

    def factor(self, t: int) -> float:
        return 1.0


class StepLR(Schedule):
    """Multiplied by gamma every `step_size` steps."""

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, warmup: int = 0
    ) -> None:
        if step_size < 1:
            raise fail(ArgumentError, "StepLR", "step_size must be positive", step_size=step_size)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, warmup)

    def factor(self, t: int) -> float:
        return self.gamma ** (t // self.step_size)


class ExponentialLR(Schedule):
    """Multiplied by gamma every step; 0.98 an epoch is a common choice."""

    def __init__(self, optimizer: Optimizer, gamma: float = 0.98, warmup: int = 0) -> None:
        self.gamma = gamma
        super().__init__(optimizer, warmup)

    def factor(self, t: int) -> float:
        return self.gamma**t


class CosineAnnealingLR(Schedule):
    """From the initial rate to `eta_min` along half a cosine in `T_max` steps, and there it stays.

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017).
    """

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, warmup: int = 0
    ) -> None:
        if T_max < 1:
            raise fail(ArgumentError, "CosineAnnealingLR", "T_max must be positive", T_max=T_max)
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, warmup)

    def factor(self, t: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(t, self.T_max) / self.T_max))

    def rate(self, lr: float, t: int) -> float:
        return self.eta_min + (lr - self.eta_min) * self.factor(t)


class LambdaLR(Schedule):
    """Multiplied by `lr_lambda(t)`."""

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Callable[[int], float], warmup: int = 0
    ) -> None:
        self.lr_lambda = lr_lambda
        super().__init__(optimizer, warmup)

    def factor(self, t: int) -> float:
        return self.lr_lambda(t)
