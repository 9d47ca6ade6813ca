"""K-FAC: natural gradient steps with a curvature that is a product of two small matrices a layer.

J. Martens and R. Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature"
(2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from schuss import trees
from schuss.autodiff.transforms import value_and_grad, vjp
from schuss.context import no_grad
from schuss.errors import ArgumentError, StateDictError, fail
from schuss.execution.evaluate import evaluate_pending
from schuss.functions.creation import eye, ones, zeros
from schuss.functions.linalg import solve
from schuss.functions.manipulation import concat
from schuss.functions.neural import softmax
from schuss.functions.random import normal, uniform
from schuss.functions.reduction import cumulative_sum, sum
from schuss.nn.layers import Linear
from schuss.nn.module import Module, replaced_layers
from schuss.philox import Generator
from schuss.tensor import Tensor

_SETTINGS = ("lr", "damping", "momentum", "decay", "likelihood", "limit")


class KFAC:
    """Steps in which the gradient of each linear layer is divided by its curvature.

    With the inputs a of a layer (and a 1 for the bias) and the gradients g at its outputs, the
    Fisher information of its weights is taken for the product of A = E[a a'] and G = E[g g']:

        step = (G + damping / pi)^-1  gradient  (A + pi damping)^-1

    A and G are running means over the batches. Parameters outside of linear layers take plain
    gradient steps.

    Args:
        model: a network with `nn.Linear` layers, each used once in a forward pass.
        loss: `loss(outputs, targets)`, the mean over the batch.
        lr: the learning rate.
        damping: the square of what is added to the diagonals.
        momentum: how much of the last step stays.
        decay: how much of the running means stays.
        likelihood: what the outputs mean: "categorical" for logits and a cross-entropy, "gaussian"
            for squared errors. Gradients for G are those of targets drawn from the model itself.
        limit: how far a step may go, as the Fisher information measures it (Ba et al., 2017).
        generator: draws those targets.
    """

    def __init__(
        self,
        model: Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        lr: float = 0.1,
        damping: float = 1e-2,
        momentum: float = 0.9,
        decay: float = 0.95,
        likelihood: str = "categorical",
        limit: float = 1e-2,
        generator: Generator | None = None,
    ) -> None:
        if likelihood not in ("categorical", "gaussian"):
            problem = "likelihood is 'categorical' or 'gaussian'"
            raise fail(ArgumentError, "KFAC", problem, likelihood=likelihood)
        for name, value in (("lr", lr), ("damping", damping), ("limit", limit)):
            if not value > 0:
                raise fail(ArgumentError, "KFAC", f"{name} must be positive", got=value)
        self.model, self.loss = model, loss
        self.lr, self.damping, self.momentum, self.decay = lr, damping, momentum, decay
        self.likelihood, self.limit, self.generator = likelihood, limit, generator
        self.layers = [each for each in model.modules() if isinstance(each, Linear)]
        if not self.layers:
            raise fail(ArgumentError, "KFAC", "the model has no linear layers")
        self.factors: list[tuple[Tensor, Tensor]] = []
        self.velocity: list[Tensor] | None = None
        self.steps = 0

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Move the parameters by one batch; returns its loss before."""
        with no_grad():
            value, gradients, entering, leaving = self._look(inputs, targets)
            self._update_factors(entering, leaving)
            parameters = self.model.parameters()
            found = dict(zip(map(id, parameters), gradients, strict=True))
            steps = self._divided(found)
            moved = [steps[id(p)] for p in parameters]
            size = math.fsum((s * g).sum().item() for s, g in zip(moved, gradients, strict=True))
            scale = min(1.0, math.sqrt(self.limit / max(self.lr**2 * size, 1e-30)))
            rate = self.lr * scale
            self.velocity = [
                -rate * s + self.momentum * v
                for s, v in zip(moved, self.velocity or [0.0 * p for p in moved], strict=True)
            ]
            for p, v in zip(parameters, self.velocity, strict=True):
                p.assign(p.detach() + v)
            factors = [t for pair in self.factors for t in pair]
            evaluate_pending([t._node for t in (*parameters, *self.velocity, *factors, value)])
        self.steps += 1
        return value

    # --- saving ---

    def state_dict(self) -> dict[str, Any]:
        """`{"state": {parameter: {slot: tensor}}, "groups": [settings]}`, as optimizers have it.

        Slots are "velocity", and at the weights of layers "inputs" and "outputs", the two factors.
        Loading it takes up where the run was left, with the generator's own state.
        """
        names = list(self.model.named_parameters())
        state: dict[str, dict[str, Tensor]] = {name: {} for name, _ in names}
        for (name, _), v in zip(names, self.velocity or [], strict=False):
            state[name]["velocity"] = v.detach()
        for name, (a, g) in zip(self._weights(), self.factors, strict=False):
            state[name] |= {"inputs": a.detach(), "outputs": g.detach()}
        group = {"method": "KFAC", "names": [name for name, _ in names], "steps": self.steps}
        return {"state": state, "groups": [group | {key: getattr(self, key) for key in _SETTINGS}]}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take on the state of `state_dict()`. Everything is checked first.

        Raises StateDictError where parameter names or shapes differ.
        """
        where = "KFAC.load_state_dict"
        here = dict(self.model.named_parameters())
        groups = saved.get("groups") or [{}]
        if groups[0].get("method") != "KFAC":
            raise fail(StateDictError, where, f"the state was saved by {groups[0].get('method')}")
        if list(groups[0]["names"]) != list(here) or set(saved["state"]) - set(here):
            raise fail(StateDictError, where, "the saved parameters are not this optimizer's",
                       saved=list(saved["state"]), here=list(here))  # fmt: skip
        started = groups[0]["steps"] > 0
        wanted = {name: {"velocity": p.shape} for name, p in here.items()} if started else {}
        for name, layer in zip(self._weights(), self.layers, strict=True) if started else ():
            outputs, inputs = layer.weight.shape
            inputs += layer.bias is not None
            wanted[name] |= {"inputs": (inputs, inputs), "outputs": (outputs, outputs)}
        slots = {name: saved["state"].get(name, {}) for name in wanted}
        for name, shapes in wanted.items():
            found = {slot: value.shape for slot, value in slots[name].items()}
            if found != shapes:
                problem = f"the slots of {name} have other shapes"
                raise fail(StateDictError, where, problem, saved=found, here=shapes)
        self.velocity = [slots[name]["velocity"] for name in here] if started else None
        self.factors = [
            (slots[name]["inputs"], slots[name]["outputs"]) for name in self._weights() if started
        ]
        self.steps = groups[0]["steps"]
        for key in _SETTINGS:
            setattr(self, key, groups[0][key])

    def _weights(self) -> list[str]:
        """The names of the layers' weights."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        return [names[id(layer.weight)] for layer in self.layers]

    # --- what a batch says ---

    def _look(
        self, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
        """Loss, gradients, and for each layer its inputs (N, in) and output gradients (N, out)."""
        probes = [zeros(*shape) for shape in self._output_shapes(inputs)]
        outputs, pull_back, entering = vjp(
            lambda model, probes: self._run(model, probes, inputs),
            self.model,
            probes,
            has_aux=True,
        )
        value, slope = value_and_grad(self.loss)(outputs, targets)
        gradients, _ = pull_back(slope)
        drawn = self._draw(outputs)
        _, leaving = pull_back(value_and_grad(self.loss)(outputs, drawn)[1])
        count = outputs.shape[0]
        return (
            value,
            trees.leaves(gradients),
            [a.reshape((-1, a.shape[-1])) for a in entering],
            [count * g.reshape((-1, g.shape[-1])) for g in leaving],  # of each example's own loss
        )

    def _run(self, model: Module, probes: list[Tensor], inputs: Tensor) -> tuple[Tensor, Any]:
        """The outputs with something added to those of each layer, and the inputs of the layers."""
        entering: list[Tensor] = [inputs] * len(self.layers)
        own = [each for each in model.modules() if isinstance(each, Linear)]
        probed = {
            id(layer): _Probed(layer, probe, entering, i)
            for i, (layer, probe) in enumerate(zip(own, probes, strict=True))
        }
        return replaced_layers(model, probed)(inputs), entering

    def _output_shapes(self, inputs: Tensor) -> list[tuple[int, ...]]:
        seen: list[Tensor] = [inputs] * len(self.layers)
        watched = {id(layer): _Probed(layer, None, seen, i) for i, layer in enumerate(self.layers)}
        replaced_layers(self.model, watched)(inputs)
        return [
            (*a.shape[:-1], layer.weight.shape[0])
            for a, layer in zip(seen, self.layers, strict=True)
        ]

    def _draw(self, outputs: Tensor) -> Tensor:
        """Targets as the model itself believes them to be."""
        if self.likelihood == "gaussian":
            return outputs + normal(outputs.shape, dtype=outputs.dtype, generator=self.generator)
        below = cumulative_sum(softmax(outputs, axis=-1), axis=-1)
        at = uniform((*outputs.shape[:-1], 1), dtype=outputs.dtype, generator=self.generator)
        return sum(below < at * below[..., -1:], axis=-1)

    # --- curvature ---

    def _update_factors(self, entering: list[Tensor], leaving: list[Tensor]) -> None:
        fresh = []
        for layer, a, g in zip(self.layers, entering, leaving, strict=True):
            if layer.bias is not None:
                a = concat([a, ones(a.shape[0], 1, dtype=a.dtype)], axis=1)
            fresh.append((a.T @ a / a.shape[0], g.T @ g / g.shape[0]))
        if not self.factors:
            self.factors = fresh
            return
        keep = min(self.decay, 1 - 1 / (self.steps + 1))
        self.factors = [
            (keep * old_a + (1 - keep) * a, keep * old_g + (1 - keep) * g)
            for (old_a, old_g), (a, g) in zip(self.factors, fresh, strict=True)
        ]

    def _divided(self, gradients: dict[int, Tensor]) -> dict[int, Tensor]:
        """The gradients divided by the curvature, by the identity of their parameters."""
        steps = dict(gradients)
        for layer, (a, g) in zip(self.layers, self.factors, strict=True):
            slope = gradients[id(layer.weight)]
            if layer.bias is not None:
                slope = concat([slope, gradients[id(layer.bias)].reshape((-1, 1))], axis=1)
            step = _kronecker_solve(a, g, slope, self.damping)
            steps[id(layer.weight)] = step[:, : layer.weight.shape[1]]
            if layer.bias is not None:
                steps[id(layer.bias)] = step[:, -1]
        return steps


def _kronecker_solve(a: Tensor, g: Tensor, slope: Tensor, damping: float) -> Tensor:
    """(G + ...)^-1 slope (A + ...)^-1, with the damping shared out by the mean sizes of both."""
    size_a, size_g = _mean_diagonal(a), _mean_diagonal(g)
    pi = (size_a / size_g) ** 0.5
    root = math.sqrt(damping)
    left = g + (root / pi) * eye(g.shape[0], dtype=g.dtype)
    right = a + (root * pi) * eye(a.shape[0], dtype=a.dtype)
    return solve(right, solve(left, slope).T).T


def _mean_diagonal(x: Tensor) -> Tensor:
    n = x.shape[0]
    return (x * eye(n, dtype=x.dtype)).sum() / n + 1e-12


class _Probed(Module):
    """A linear layer that notes its input, and adds a tensor to its output."""

    def __init__(
        self, layer: Module, probe: Tensor | None, entering: list[Tensor], place: int
    ) -> None:
        super().__init__()
        self.layer, self.probe, self.place = layer, probe, place
        object.__setattr__(self, "entering", entering)

    def forward(self, x: Tensor) -> Tensor:
        self.entering[self.place] = x
        y = self.layer(x)
        return y if self.probe is None else y + self.probe


__all__ = ["KFAC"]
