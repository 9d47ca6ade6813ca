"""What the transforms share: running a function on stand-ins of its arguments.

A stand-in has the value of the argument and a node of its own, from which a derivative is taken.
What f records between the stand-ins and its results is the graph that a transform works on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from schuss import trees
from schuss.autodiff.backward import is_leaf, tape
from schuss.context import context, grad_mode
from schuss.dtypes import is_complex, is_differentiable
from schuss.errors import ArgumentError, ArgumentTypeError, DTypeError, GradientError, fail
from schuss.graph import OUTPUT, Handle, Node, apply, wrap
from schuss.ops.elementwise import alias, conj
from schuss.ops.structure import zeros_like

if TYPE_CHECKING:
    from schuss.tensor import Tensor


def require_function(where: str, f: Any) -> None:
    if not callable(f):
        raise fail(
            ArgumentTypeError,
            where,
            f"needs a function, got {type(f).__name__}",
            hint=f"schuss.{where}(f)(x), not schuss.{where}(f(x)); or loss.backward() and x.grad"
            if where in ("grad", "value_and_grad")
            else None,
        )


def differentiable_leaves(where: str, tree: Any) -> tuple[list[Tensor], trees.Structure]:
    """The tensors of an argument that is differentiated for, all of them of floating dtypes."""
    leaves, structure = trees.flatten(tree)
    stray = _stray(structure)
    if stray is not None or (not isinstance(tree, Handle) and structure.kind is None):
        raise fail(
            ArgumentTypeError,
            where,
            f"can differentiate for tensors and lists, tuples and dicts of them, "
            f"got {type(stray).__name__}",
        )
    for leaf in leaves:
        if not is_differentiable(leaf.dtype):
            raise fail(
                DTypeError,
                where,
                "gradients exist for floating and complex dtypes only",
                argument=leaf,
                hint="cast with astype, or leave this argument out of argnums",
            )
    return leaves, structure


def _stray(structure: trees.Structure) -> Any:
    """Something in a list, tuple or dict that is neither a tensor, a container nor None."""
    if structure.kind is None:
        return structure.rest
    if structure.kind in (list, tuple, dict):
        found = (_stray(part) for part in structure.parts)
        return next((each for each in found if each is not None), None)
    return None


def stand_in(x: Tensor) -> Tensor:
    """The same value, a node of its own that requires a gradient."""
    with grad_mode(True):
        made = apply(alias, x)
    made._node.requires_grad = True
    return made


class Recording:
    """What a function recorded on stand-ins.

    Attributes:
        inputs: the stand-ins.
        aux: what f returned besides.
        result, structure: the tensors that f returned, and how they hang together.
        walked: the tape of the results.
        outer: whether results stay connected to more than the stand-ins: this is a function
            that is differentiated itself, or uses parameters.
    """

    def __init__(
        self,
        where: str,
        f: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        chosen: Sequence[int],
        has_aux: bool,
    ) -> None:
        require_function(where, f)
        self.where = where
        self.inputs: list[Tensor] = []
        self.arguments: list[trees.Structure] = []
        inner = list(args)
        for each in chosen:
            leaves, structure = differentiable_leaves(where, args[each])
            fresh = [stand_in(leaf) for leaf in leaves]
            self.inputs += fresh
            self.arguments.append(structure)
            inner[each] = structure.unflatten(fresh)
        with grad_mode(True):
            returned = f(*inner, **kwargs)
        self.aux: Any
        value, self.aux = _pair(where, returned) if has_aux else (returned, None)
        self.result, self.structure = trees.flatten(value)
        self.walked = tape(*[each._node for each in self.result])
        own = {each._node for each in self.inputs}
        self.outer = context.grad_enabled and _has_outer(self.walked, own)

    def shown(self) -> Any:
        """What f returned, cut off from the stand-ins where nothing else requires a gradient."""
        return self.structure.unflatten([finished(each, self.outer) for each in self.result])

    def shown_aux(self) -> Any:
        leaves, structure = trees.flatten(self.aux)
        return structure.unflatten([finished(each, self.outer) for each in leaves])

    def by_argument(self, leaves: Sequence[Tensor]) -> tuple[Any, ...]:
        """One tree for each argument, of what belongs to the stand-ins."""
        made, start = [], 0
        for structure in self.arguments:
            made.append(structure.unflatten(leaves[start : start + structure.count]))
            start += structure.count
        return tuple(made)

    def saved(self) -> list[Tensor]:
        """Handles on what rules look at, so that it is computed once for several walks."""
        held: set[Node] = set()
        for node in self.walked:
            for index in node.op.saves if node.op is not None else ():
                if index < len(node.inputs):
                    held.add(node if index == OUTPUT else node.inputs[index])
        return [wrap(node) for node in held]


def _pair(where: str, returned: Any) -> tuple[Any, Any]:
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise fail(
            ArgumentTypeError,
            where,
            f"with has_aux the function returns a pair, not {type(returned).__name__}",
        )
    return returned


def conjugated(x: Tensor) -> Tensor:
    """What a backward walk does with complex numbers at its ends.

    Inside of it, rules multiply by derivatives as they stand. A rule that walks itself is between
    the one and the other.
    """
    return apply(conj, x) if is_complex(x.dtype) else x


def finished(x: Tensor, outer: bool) -> Tensor:
    return x if outer else x.detach()


def finished_or_zero(x: Tensor | None, like: Tensor, outer: bool) -> Tensor:
    """A derivative; zeros where there is none, because the one does not depend on the other."""
    return zeros_like(like) if x is None else finished(x, outer)


def _has_outer(walked: Sequence[Node], own: set[Node]) -> bool:
    """Whether more than our own stand-ins requires a gradient, so that results stay connected."""
    for node in walked:
        if node in own:
            if node.inputs and node.inputs[0].requires_grad:
                return True
        elif is_leaf(node) or not any(each.requires_grad for each in node.inputs):
            return True
    return False


def connects(outer: bool, given: Sequence[Tensor]) -> bool:
    """Whether what is recorded from `given` on is part of an outer derivative."""
    return context.grad_enabled and (outer or any(each.requires_grad for each in given))


def matching_leaves(
    where: str, what: str, structure: trees.Structure, likes: Sequence[Tensor], tree: Any
) -> list[Tensor]:
    """The leaves of a tree of tangents or cotangents, each like the tensor that it belongs to.

    Raises ArgumentError for another structure or shape.
    """
    leaves = trees.matching(where, structure, tree, what)
    for leaf, like in zip(leaves, likes, strict=True):
        if leaf.shape != like.shape:
            problem = f"the {what} must have the shape of the tensor that it belongs to"
            raise fail(ArgumentError, where, problem, tensor=like, given=leaf)
    return [leaf.astype(like.dtype) for leaf, like in zip(leaves, likes, strict=True)]


def require_tensors(where: str, structure: trees.Structure) -> None:
    """Raise GradientError where a function returned something that is no tree of tensors."""
    if structure.kind is None:
        name = type(structure.rest).__name__
        raise fail(GradientError, where, f"the function must return a tensor, not {name}")
    for part in structure.parts:
        if part.kind is not None or part.rest is not None:  # None may stand in a tree
            require_tensors(where, part)
