"""Derivatives of functions, in JAX's names: `grad(f)` and `value_and_grad(f)`.

They nest in any order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from schuss.autodiff.backward import is_leaf, propagate, tape
from schuss.context import grad_mode
from schuss.dtypes import is_complex, is_differentiable
from schuss.errors import ArgumentTypeError, DTypeError, GradientError, fail
from schuss.graph import Handle, apply, scalar
from schuss.ops.broadcast import broadcast_to
from schuss.ops.elementwise import alias


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, *, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns `f(*args)` and its gradient.

    Args:
        f: returns a scalar tensor; with `has_aux`, a pair of it and anything else.
        argnums: which positional arguments to differentiate for. Each is a tensor, or lists, tuples
            and dicts of tensors; the gradient has the same structure. Several argnums give a tuple
            of gradients.

    The result is `(value, gradient)`, or `((value, aux), gradient)`. Parameters of layers that f
    uses besides its arguments are constants here, but stay connected for an outer `backward()`.

    Raises:
        GradientError: f does not return a scalar.
        DTypeError: an argument is not of a floating or complex dtype.
    """

    if not callable(f):
        raise fail(
            ArgumentTypeError,
            "grad",
            f"needs a function, got {type(f).__name__}",
            hint="schuss.grad(f)(x), not schuss.grad(f(x)); or loss.backward() and x.grad",
        )

    @functools.wraps(f)
    def evaluated(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        chosen = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        inner = list(args)
        fresh: list[Any] = []
        for each in chosen:
            if not -len(args) <= each < len(args):
                raise fail(
                    ArgumentTypeError,
                    "grad",
                    f"argnums names argument {each}, there are {len(args)}",
                )
            inner[each] = _map(args[each], lambda t: _track(t, fresh))
        with grad_mode(True):
            result = f(*inner, **kwargs)
        value, aux = result if has_aux else (result, None)
        _check_scalar(value)
        nodes = [each._node for each in fresh]
        walked = tape(value._node) if value.requires_grad else []
        outer = _has_outer(walked, set(nodes))
        with grad_mode(outer):
            seed = apply(broadcast_to, scalar(1, value.dtype), shape=value.shape)
            found = propagate(walked, {value._node: seed}, frozenset(nodes)) if walked else {}
        gradients = iter(
            [_finish(found.get(node), each, outer) for node, each in zip(nodes, fresh, strict=True)]
        )
        structured = tuple(_map(inner[each], lambda _: next(gradients)) for each in chosen)
        value = value if outer else value.detach()
        shown = (value, aux if outer else _map_any(aux, _detach)) if has_aux else value
        return shown, structured[0] if isinstance(argnums, int) else structured

    return evaluated


def grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, *, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns the gradient of `f`, with `has_aux` `(gradient, aux)`.

    Arguments and errors are those of `value_and_grad`.
    """
    both = value_and_grad(f, argnums, has_aux=has_aux)

    @functools.wraps(f)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, found = both(*args, **kwargs)
        return (found, value[1]) if has_aux else found

    return gradient


def _track(t: Any, fresh: list[Any]) -> Any:
    """A stand-in for an argument: the same value, a node of its own that requires a gradient."""
    if not is_differentiable(t.dtype):
        problem = "gradients exist for floating and complex dtypes only"
        raise fail(DTypeError, "grad", problem, argument=t,
                   hint="cast with astype, or leave this argument out of argnums")  # fmt: skip
    with grad_mode(True):
        stand_in = apply(alias, t)
    stand_in._node.requires_grad = True
    fresh.append(stand_in)
    return stand_in


def _check_scalar(value: Any) -> None:
    if not isinstance(value, Handle):
        raise fail(
            GradientError, "grad", f"the function must return a tensor, not {type(value).__name__}"
        )
    if value.size != 1:  # type: ignore[attr-defined]
        raise fail(
            GradientError,
            "grad",
            "the function must return a scalar",
            value=value,
            hint="reduce it first",
        )
    if is_complex(value.dtype):  # type: ignore[attr-defined]
        raise fail(
            GradientError,
            "grad",
            "a complex number has no gradient: only a real one can descend",
            value=value,
            hint="return its abs(), real() or imag()",
        )


def _has_outer(walked: list[Any], own: set[Any]) -> bool:
    """Whether more than our own stand-ins requires a gradient, so that results stay connected."""
    for node in walked:
        if node in own:
            if node.inputs and node.inputs[0].requires_grad:
                return True
        elif is_leaf(node) or not any(each.requires_grad for each in node.inputs):
            return True
    return False


def _finish(gradient: Any, argument: Any, outer: bool) -> Any:
    if gradient is None:  # f does not depend on it
        zero = scalar(0, argument.dtype)
        return apply(broadcast_to, zero, shape=argument.shape)
    return gradient if outer else gradient.detach()


def _detach(value: Any) -> Any:
    return value.detach() if isinstance(value, Handle) else value  # type: ignore[attr-defined]


def _map(tree: Any, function: Callable[[Any], Any]) -> Any:
    """`function` of every tensor in nested lists, tuples and dicts."""
    if isinstance(tree, Handle):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _map(each, function) for key, each in tree.items()}
    if isinstance(tree, (list, tuple)):
        made: Iterator[Any] = (_map(each, function) for each in tree)
        return type(tree)(*made) if hasattr(tree, "_fields") else type(tree)(made)
    raise fail(
        ArgumentTypeError,
        "grad",
        f"can differentiate for tensors and lists, tuples and dicts of them, "
        f"got {type(tree).__name__}",
    )


def _map_any(tree: Any, function: Callable[[Any], Any]) -> Any:
    """As `_map`, leaving alone what is neither a tensor nor a container."""
    if isinstance(tree, (dict, list, tuple, Handle)):
        if isinstance(tree, dict):
            return {key: _map_any(each, function) for key, each in tree.items()}
        if isinstance(tree, Handle):
            return function(tree)
        made = [_map_any(each, function) for each in tree]
        return type(tree)(*made) if hasattr(tree, "_fields") else type(tree)(made)
    return tree


__all__ = ["grad", "value_and_grad"]
