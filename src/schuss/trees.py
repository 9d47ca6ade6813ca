"""Trees of tensors: lists, tuples, named tuples, dicts, dataclasses and layers, in each other.

Whoever takes "a tree" takes a tensor too. A tree is taken apart into its tensors (the *leaves*, in
order) and its *structure*, which puts it together again around others:

    leaves, structure = flatten({"w": w, "b": [b, None]})
    structure.unflatten([2 * each for each in leaves])      # {"w": 2 w, "b": [2 b, None]}

None and what else is neither a tensor nor a container belongs to the structure. The leaves of a
layer are its parameters; the same layer around others is a copy that shares all the rest with it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from schuss.errors import ArgumentError, fail
from schuss.graph import Handle

if TYPE_CHECKING:
    from schuss.tensor import Tensor

TakeApart = Callable[[Any], tuple[Sequence[Any], Any]]
PutTogether = Callable[[Any, Sequence[Any]], Any]
_kinds: dict[type, tuple[TakeApart, PutTogether]] = {}


def register(kind: type, take_apart: TakeApart, put_together: PutTogether) -> None:
    """Make a type and its subclasses containers.

    Args:
        kind: the type.
        take_apart: `take_apart(value) -> (parts, rest)`, where `rest` is compared with `==`.
        put_together: `put_together(rest, parts) -> value`.
    """
    _kinds[kind] = take_apart, put_together


class Structure:
    """What remains of a tree without its leaves.

    Attributes:
        kind: the type of a container; Handle for a leaf, None for what is neither.
        rest: what besides its parts makes the container; the value where there are no parts.
        parts: the structures of the parts.
        count: the number of leaves.
    """

    __slots__ = ("count", "kind", "parts", "rest")

    def __init__(self, kind: type | None, rest: Any, parts: tuple[Structure, ...]) -> None:
        self.kind = kind
        self.rest = rest
        self.parts = parts
        self.count: int = 1 if kind is Handle else sum(part.count for part in parts)

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        """The tree around other leaves."""
        given = iter(leaves)
        tree = self._build(given)
        assert next(given, given) is given, "more leaves than the structure has places"
        return tree

    def _build(self, leaves: Iterator[Any]) -> Any:
        if self.kind is Handle:
            return next(leaves)
        if self.kind is None:
            return self.rest
        parts = [part._build(leaves) for part in self.parts]
        _, put_together = _container(self.kind)  # type: ignore[misc]
        return put_together(self.rest, parts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Structure) or (self.kind, self.parts) != (other.kind, other.parts):
            return False
        # What is no tensor may differ from tree to tree: a name, a step count.
        return self.kind is None or self.rest == other.rest

    def __hash__(self) -> int:
        return hash((self.kind, self.parts))

    def __repr__(self) -> str:
        if self.kind is Handle:
            return "*"
        if self.kind is None:
            return repr(self.rest)
        if self.kind is dict:
            named = zip(self.rest, self.parts, strict=True)
            return f"{{{', '.join(f'{key!r}: {part}' for key, part in named)}}}"
        inner = ", ".join(repr(part) for part in self.parts)
        if self.kind is list:
            return f"[{inner}]"
        return f"({inner})" if self.kind is tuple else f"{self.kind.__name__}({inner})"


_LEAF = Structure(Handle, None, ())


def flatten(tree: Any) -> tuple[list[Tensor], Structure]:
    """The leaves of a tree, and its structure."""
    leaves: list[Tensor] = []
    return leaves, _flatten(tree, leaves)


def _flatten(tree: Any, leaves: list[Tensor]) -> Structure:
    if isinstance(tree, Handle):
        leaves.append(tree)  # type: ignore[arg-type]  # Tensor is the only handle
        return _LEAF
    container = _container(type(tree))
    if container is None:
        return Structure(None, tree, ())
    parts, rest = container[0](tree)
    below = tuple(_flatten(part, leaves) for part in parts)
    return Structure(_plain_kind(tree, container), rest, below)


def _plain_kind(tree: Any, container: tuple[TakeApart, PutTogether]) -> type:
    """Subclasses of list, tuple and dict count as these, which they become."""
    return next((k for k in (list, tuple, dict) if _kinds[k] is container), type(tree))


def leaves(tree: Any) -> list[Tensor]:
    """All tensors of a tree, in order."""
    return flatten(tree)[0]


def map(f: Callable[..., Any], tree: Any, *more: Any) -> Any:
    """`f` of the leaves of trees of one structure: a tree of that structure.

    Raises ArgumentError where the structures differ.
    """
    first, structure = flatten(tree)
    others = [matching("trees.map", structure, each) for each in more]
    return structure.unflatten([f(*each) for each in zip(first, *others, strict=True)])


def matching(where: str, structure: Structure, tree: Any, what: str = "tree") -> list[Tensor]:
    """The leaves of a tree that must have the given structure. Raises ArgumentError if not."""
    found, its = flatten(tree)
    if its != structure:
        raise fail(
            ArgumentError, where, f"the {what} has another structure", expected=structure, got=its
        )
    return found


def broadcast_prefix(where: str, prefix: Any, structure: Structure, what: str) -> list[Any]:
    """One value for each leaf, from a tree that may end earlier: 0 stands for all leaves there.

    Raises ArgumentError where the prefix is not the beginning of the structure.
    """
    container = None if prefix is None else _container(type(prefix))
    if container is None:
        return [prefix] * structure.count
    parts, rest = container[0](prefix)
    alike = structure.kind is _plain_kind(prefix, container) and structure.rest == rest
    if not alike or len(parts) != len(structure.parts):
        problem = f"{what} does not fit the tree that it speaks of"
        raise fail(ArgumentError, where, problem, hint="one value stands for a whole subtree",
                   **{what: prefix, "tree": structure})  # fmt: skip
    made: list[Any] = []
    for part, below in zip(parts, structure.parts, strict=True):
        made += broadcast_prefix(where, part, below, what)
    return made


# --- the containers ---


def _container(kind: type) -> tuple[TakeApart, PutTogether] | None:
    found = _kinds.get(kind)
    if found is not None:
        return found
    base = next((each for each in kind.__mro__ if each in _kinds), None)
    if base is not None and not (base is tuple and hasattr(kind, "_fields")):
        found = _kinds[base]
    elif base is not None:
        found = _take_named_tuple, lambda rest, parts: kind(*parts)
    elif dataclasses.is_dataclass(kind):
        found = _take_dataclass, _put_dataclass
    else:
        return None
    _kinds[kind] = found
    return found


def _take_named_tuple(value: Any) -> tuple[Sequence[Any], Any]:
    return tuple(value), type(value)._fields


class _Template:
    """A dataclass to copy: equal to every other of its type."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Template) and type(self.value) is type(other.value)

    __hash__ = None  # type: ignore[assignment]


def _take_dataclass(value: Any) -> tuple[Sequence[Any], Any]:
    return [getattr(value, each.name) for each in dataclasses.fields(value)], _Template(value)


def _put_dataclass(rest: _Template, parts: Sequence[Any]) -> Any:
    made = copy.copy(rest.value)
    for each, part in zip(dataclasses.fields(made), parts, strict=True):
        object.__setattr__(made, each.name, part)  # frozen ones too
    return made


register(list, lambda value: (value, None), lambda rest, parts: list(parts))
register(tuple, lambda value: (value, None), lambda rest, parts: tuple(parts))
register(
    dict,
    lambda value: (list(value.values()), tuple(value)),
    lambda rest, parts: dict(zip(rest, parts, strict=True)),
)

__all__ = ["Structure", "flatten", "leaves", "map", "register"]
