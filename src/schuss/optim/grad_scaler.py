"""Dynamic loss scaling, without which float16 loses small gradients."""

from __future__ import annotations

from typing import Any

from schuss.context import no_grad
from schuss.errors import ArgumentError, fail
from schuss.functions.elementwise import isfinite
from schuss.functions.manipulation import stack
from schuss.functions.reduction import all
from schuss.tensor import Tensor


class GradScaler:
    """Multiplies losses by a factor, as large as gradients allow, and divides gradients by it.

    float16 ends at 6e-8, where gradients often lie: Micikevicius et al., "Mixed precision training"
    (2018). bfloat16 reaches as far down as float32 and needs none of this. Names are PyTorch's:

        scaler.scale(loss).backward()
        scaler.step(optimizer)  # not if a gradient overflowed
        scaler.update()

    To look at or clip gradients in between, call `unscale_` first.

    Args:
        init_scale: the first factor.
        growth_factor: what it is multiplied with after `growth_interval` steps without overflow.
        backoff_factor: what it is multiplied with after an overflow.
        growth_interval: see above.
        enabled: False does nothing, so that one program serves all precisions.
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if not (init_scale > 0 and growth_factor > 1 > backoff_factor > 0 and growth_interval > 0):
            problem = "needs init_scale > 0, growth_factor > 1 > backoff_factor > 0 and steps"
            raise fail(
                ArgumentError, "GradScaler", problem, init_scale=init_scale,
                growth_factor=growth_factor, backoff_factor=backoff_factor,
                growth_interval=growth_interval,
            )  # fmt: skip
        self.growth_factor, self.backoff_factor = growth_factor, backoff_factor
        self.growth_interval = growth_interval
        self.enabled = enabled
        self._scale = float(init_scale)
        self._since_change = 0
        self._finite: bool | None = None  # whether this step's gradients are; None: not unscaled

    def get_scale(self) -> float:
        """The factor; 1 where the scaler is not enabled."""
        return self._scale if self.enabled else 1.0

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the factor."""
        return loss * self._scale if self.enabled else loss

    def unscale_(self, optimizer: Any) -> None:
        """Divide the gradients of the optimizer's parameters by the factor, once in a step.

        Computes them, to see whether one overflowed.
        """
        if not self.enabled:
            return
        if self._finite is not None:
            problem = "the gradients have been divided in this step already"
            raise fail(ArgumentError, "GradScaler.unscale_", problem, hint="call update() after it")
        groups = optimizer.param_groups
        held = [p for group in groups for p in group["params"] if p.grad is not None]
        with no_grad():
            for p in held:
                p.grad = p.grad * (1 / self._scale)
            checks = [all(isfinite(p.grad)) for p in held]
            self._finite = bool(all(stack(checks))) if checks else True

    def step(self, optimizer: Any) -> None:
        """`optimizer.step()`, or nothing if a gradient is infinite or NaN."""
        if self.enabled and self._finite is None:
            self.unscale_(optimizer)
        if self._finite is not False:
            optimizer.step()

    def update(self) -> None:
        """Choose the factor of the next step."""
        if self._finite is False:
            self._scale *= self.backoff_factor
            self._since_change = 0
        elif self._finite:
            self._since_change += 1
            if self._since_change == self.growth_interval:
                self._scale *= self.growth_factor
                self._since_change = 0
        self._finite = None

    def state_dict(self) -> dict[str, Any]:
        """The factor, and for how many steps it has held."""
        return {"scale": self._scale, "since_change": self._since_change}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scale, self._since_change = float(state["scale"]), int(state["since_change"])
