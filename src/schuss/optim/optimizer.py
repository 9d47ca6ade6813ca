"""What all optimizers share: parameters in groups, state by parameter name, and the step."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from schuss import dtypes
from schuss.context import context, no_grad
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    DTypeError,
    ShapeError,
    StateDictError,
    fail,
    user_location,
)
from schuss.execution.evaluate import evaluate_pending
from schuss.functions.arguments import adopt, as_tensor, cast
from schuss.functions.precision import autocast
from schuss.optim.repeat import repeated
from schuss.tensor import Tensor

Group = dict[str, Any]


class Optimizer:
    """The base of optimizers: a subclass says in `update` how one parameter moves.

    Args:
        params: `model.parameters()`, or tensors that require gradients, or dicts `{"params": ...,
            "lr": ...}` with settings of their own for each group.
        defaults: the settings of groups that do not have their own.

    Attributes:
        param_groups: dicts with "params" (tensors), "names" and the settings, which may be changed
            at any time.
        state: for each parameter name the numbers and tensors that the method keeps.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.param_groups: list[Group] = []
        self.state: dict[str, dict[str, Any]] = {}
        self._warned = False
        for group in _as_groups(type(self).__name__, params):
            self.add_param_group(group)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with settings of their own."""
        where = type(self).__name__
        if not isinstance(group, Mapping):
            raise fail(ArgumentTypeError, where, f"a group is a dict, got {type(group).__name__}",
                       hint='{"params": [...], "lr": ...}')  # fmt: skip
        unknown = set(group) - {"params", "names"} - set(self.defaults)
        if unknown or "params" not in group:
            raise fail(
                ArgumentError,
                where,
                f"a group has 'params' and settings out of {sorted(self.defaults)}",
                group=sorted(group),
            )
        given = group["params"]
        tensors = [given] if isinstance(given, Tensor) else list(given)
        taken = {name for each in self.param_groups for name in each["names"]}
        names = list(group.get("names") or getattr(given, "names", None) or [])
        if not names:
            names = [f"param_{len(taken) + i}" for i in range(len(tensors))]
        elif "names" not in group and taken.intersection(names):
            names = [f"group{len(self.param_groups)}.{name}" for name in names]
        if len(names) != len(tensors):
            raise fail(
                ArgumentError,
                where,
                "a group needs as many names as parameters",
                names=names,
                params=len(tensors),
            )
        known = {id(p) for each in self.param_groups for p in each["params"]}
        for name, each in zip(names, tensors, strict=True):
            if not isinstance(each, Tensor):
                raise fail(
                    ArgumentTypeError, where, f"parameters are tensors, got {type(each).__name__}"
                )
            if not each.is_leaf:
                raise fail(
                    ArgumentError,
                    where,
                    f"{name} is computed from other tensors: optimize those",
                    tensor=each,
                )
            if id(each) in known or name in taken:
                raise fail(ArgumentError, where, f"{name} is given twice", tensor=each)
            if not dtypes.is_floating(each.dtype):
                raise fail(DTypeError, where, f"{name} has no floating dtype", tensor=each)
            known.add(id(each))
            taken.add(name)
        settings = {key: group.get(key, default) for key, default in self.defaults.items()}
        self.check(settings)
        self.param_groups.append({"params": tensors, "names": names, **settings})

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise ArgumentError for settings that make no sense."""
        for name in ("lr", "weight_decay", "eps"):
            if name in settings and not settings[name] >= 0:
                raise fail(
                    ArgumentError,
                    type(self).__name__,
                    f"{name} must not be negative",
                    **{name: settings[name]},
                )

    def update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: Group) -> Tensor:
        """The new value of parameter `p` with gradient `g`; `state` is kept for the next step."""
        raise NotImplementedError

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for each in group["params"]:
                each.grad = None

    def step(self) -> None:
        """Move every parameter that has a gradient, and compute all values that wait.

        Where that fails (a label was out of range, say), parameters and state are as before; so
        they are after Ctrl-C or a timeout by a signal, unless the step was complete.
        Warns once where no parameter has a gradient.
        """
        before: list[tuple[Tensor, Tensor]] = []  # parameters and what they were
        line, context.location = context.location, user_location()
        state = {name: dict(slots) for name, slots in self.state.items()}
        try:
            if not repeated(self, before):
                self._assign_all(before)
            former = [each for _, each in before] + _replaced(state)
            evaluate_pending([p._node for p, _ in before], former)
        except BaseException:
            moved = [p._node.value is not None and p._node is not was._node for p, was in before]
            if not before or not all(moved):  # or else new values lie where the old ones were
                for p, value in before:
                    p._point_at(value._node)
                restore(self.state, state)
            raise
        finally:
            context.location = line

    def _assign_all(self, before: list[tuple[Tensor, Tensor]]) -> None:
        """Assign new values, noting in `before` what the parameters pointed at."""
        numbers = context.recording.numbers_of(self) if context.recording else nullcontext()
        with no_grad(), autocast(enabled=False), numbers:
            for group in self.param_groups:
                for name, p in zip(group["names"], group["params"], strict=True):
                    if p.grad is None or not p.requires_grad:  # frozen since
                        continue
                    if p.grad.shape != p.shape:
                        raise fail(
                            ShapeError,
                            f"{type(self).__name__}.step",
                            f"the gradient of {name} has another shape",
                            parameter=p,
                            gradient=p.grad,
                        )
                    before.append((p, Tensor(p._node)))
                    g = cast(p.grad, p.dtype)
                    p.assign(self.update(p.detach(), g, self.state.setdefault(name, {}), group))
        learning = any(p.requires_grad for group in self.param_groups for p in group["params"])
        if learning and not before and not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self).__name__}.step: no parameter has a gradient; "
                "call loss.backward() first, on a loss of these parameters",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        """`{"state": {name: {slot: tensor}}, "groups": [...]}`.

        The groups are JSON: settings, "names", and the "method" that the state belongs to.
        """
        state = {
            name: {slot: _as_saved(value) for slot, value in slots.items()}
            for name, slots in self.state.items()
        }
        groups = [
            {"method": type(self).__name__}
            | {key: value for key, value in group.items() if key != "params"}
            for group in self.param_groups
        ]
        return {"state": state, "groups": [_plain(group) for group in groups]}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take on the state of `state_dict()`. Everything is checked first.

        Raises StateDictError where parameter names or shapes differ.
        """
        where = f"{type(self).__name__}.load_state_dict"
        for key in ("state", "groups"):
            if key not in saved:
                raise fail(
                    StateDictError, where, f"the saved state has no {key!r}", saved=list(saved)
                )
        own = [group["names"] for group in self.param_groups]
        theirs = [list(group.get("names", [])) for group in saved["groups"]]
        if own != theirs:
            raise fail(
                StateDictError,
                where,
                "the saved parameters are not this optimizer's",
                saved=theirs,
                here=own,
            )
        method = type(self).__name__
        methods = {group.get("method", method) for group in saved["groups"]}
        if methods != {method}:
            raise fail(StateDictError, where, f"the state was saved by {' and '.join(methods)}")
        settings = [
            {key: _tupled(value) for key, value in group.items() if key not in ("names", "method")}
            for group in saved["groups"]
        ]
        for each in settings:
            if set(each) != set(self.defaults):
                raise fail(StateDictError, where, "the saved settings are not this optimizer's",
                           saved=sorted(each), here=sorted(self.defaults))  # fmt: skip
            self.check(each)
        own_tensors = {
            name: p
            for group in self.param_groups
            for name, p in zip(group["names"], group["params"], strict=True)
        }
        state: dict[str, dict[str, Any]] = {}
        for name, slots in saved["state"].items():
            if name not in own_tensors:
                raise fail(StateDictError, where, f"there is no parameter {name!r}")
            p = own_tensors[name]
            state[name] = {slot: _from_saved(as_tensor(v), p) for slot, v in slots.items()}
            for slot, value in state[name].items():
                if isinstance(value, Tensor) and value.shape != p.shape:
                    raise fail(StateDictError, where, f"{slot} of {name} has another shape",
                               saved=value, parameter=p)  # fmt: skip
        for group, each in zip(self.param_groups, settings, strict=True):
            group.update(each)
        self.state = state

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={value!r}" for key, value in self.defaults.items())
        count = sum(len(group["params"]) for group in self.param_groups)
        return f"{type(self).__name__}({count} parameters, {shown})"


def restore(state: dict[str, dict[str, Any]], former: dict[str, dict[str, Any]]) -> None:
    """Put a state back to a copy of it. The dicts stay the same: `schuss.jit` knows them."""
    for name in [*state]:
        if name not in former:
            del state[name]
        else:
            state[name].clear()
            state[name].update(former[name])


def _replaced(former: dict[str, dict[str, Any]]) -> list[Tensor]:
    """The tensors of a state that nobody holds but this copy of it."""
    return [
        slots[name]
        for slots in former.values()
        for name in slots
        if isinstance(slots[name], Tensor) and sys.getrefcount(slots[name]) == _IN_COPY
    ]


_IN_COPY = 2  # the copy and the argument of getrefcount


def _as_groups(where: str, params: Any) -> list[Mapping[str, Any]]:
    if isinstance(params, Tensor):
        raise fail(
            ArgumentTypeError,
            where,
            "params must be a list of tensors",
            hint="wrap the tensor: [tensor]",
        )
    if not isinstance(params, Iterable):
        raise fail(ArgumentTypeError, where, f"params must be a list of tensors, got {params!r}",
                   hint="pass model.parameters()")  # fmt: skip
    if isinstance(params, Mapping):  # dict(model.named_parameters())
        params = list(params.items())
    listed = params if isinstance(params, list) else list(params)
    if not listed:
        raise fail(ArgumentError, where, "got no parameters to optimize")
    if isinstance(listed[0], Mapping):
        return listed
    if isinstance(listed[0], tuple):  # model.named_parameters()
        names, tensors = zip(*listed, strict=True)
        return [{"params": list(tensors), "names": list(names)}]
    return [{"params": listed, "names": getattr(listed, "names", None)}]


def _as_saved(value: Any) -> Tensor:
    """A slot as a tensor: counts become int64 scalars."""
    return value.detach() if isinstance(value, Tensor) else adopt(np.asarray(value, np.int64))


def _from_saved(value: Tensor, p: Tensor) -> Any:
    """A count as a number, else a tensor in the dtype of its parameter."""
    return value.item() if value.ndim == 0 and value.dtype == np.int64 else cast(value, p.dtype)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
