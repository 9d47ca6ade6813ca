"""Where a function finds tensors and Python values: places that are read again on every call.

A place is an entry of a container: a name of a module, a variable of an enclosing function, an
attribute, an item of a list or dict. What a function can reach is walked before it is recorded, so
that rebinding a name, or changing a learning rate, is seen by the next call.
"""

from __future__ import annotations

import dis
import enum
import functools
import weakref
from collections.abc import Iterator, Sequence
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, NamedTuple

import numpy as np

from schuss.execution.jit_watch import Watch, is_library
from schuss.graph import Handle
from schuss.philox import Generator, default_generator
from schuss.tensor import Tensor

ITEM, ATTRIBUTE = "item", "attribute"
_MOST_PLACES = 50_000
_WALKED = (
    Tensor, dict, list, tuple, set, FunctionType, MethodType, ModuleType, functools.partial,
    staticmethod, classmethod, property, CellType,
)  # fmt: skip


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING: Any = _Missing()

_IMMUTABLE = (
    type(None), bool, int, float, complex, str, bytes, type, type(...), range, slice, np.dtype,
    np.generic, enum.Enum, BuiltinFunctionType, GetSetDescriptorType, MemberDescriptorType,
    weakref.ref, np.ufunc, type(NotImplemented),
)  # fmt: skip


class At(NamedTuple):
    """In a recording in place of a tensor that was found: its number."""

    number: int


class Place:
    """An entry of a container.

    Attributes:
        container: a dict, a list, a tuple (with `ITEM`), or an object, a cell among them.
        key: the key, index or name of the attribute.
        name: what messages call it.
    """

    __slots__ = ("container", "how", "key", "name")

    def __init__(self, container: Any, how: str, key: Any, name: str) -> None:
        self.container, self.how, self.key, self.name = container, how, key, name

    @property
    def identity(self) -> tuple[Any, str, Any]:
        """Equal for the same place, in other recordings too."""
        container = self.container
        return (container if isinstance(container, At) else id(container)), self.how, self.key

    def read(self) -> Any:
        """What is there; `MISSING` for nothing."""
        try:
            if self.how == ITEM:
                return self.container[self.key]
            return getattr(self.container, self.key)
        except (KeyError, IndexError, AttributeError, ValueError):
            return MISSING

    def write(self, value: Any) -> None:
        if self.how == ITEM:
            self.container[self.key] = value
        else:
            setattr(self.container, self.key, value)


def is_plain(value: Any) -> bool:
    """Whether a value never changes: a number, a string, None, and tuples of such."""
    if isinstance(value, (tuple, frozenset)):
        return all(is_plain(each) for each in value)
    return isinstance(value, _IMMUTABLE)


def same(a: Any, b: Any) -> bool:
    """Whether two plain values are the same, types and signs of zero included."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return a.hex() == b.hex()
    return bool(is_plain(a) and a == b)


class Walk:
    """What a function can reach.

    Attributes:
        places: each with what is there now.
        handles: the tensors, in the order in which they are met, and the nodes they point at.
        copies: the lists and dicts, and what they hold now.
        absent: names that are built in, as long as no module defines them.
        generators: the random generators, with their states.
        problem: what was met that cannot be read again; empty where there is no such thing.
    """

    def __init__(self, watch: Watch, roots: Sequence[Any], tensors: Sequence[Tensor]) -> None:
        self.places: list[tuple[Place, Any]] = []
        self.handles: dict[Tensor, Any] = {}
        self.copies: list[tuple[Any, Any, str]] = []
        self.absent: list[tuple[dict[str, Any], str]] = []
        self.generators = {default_generator: default_generator.state_dict()}
        self.problem = ""
        self._codes = watch.codes
        self._names = {name for code in watch.codes for name in code.co_names}
        self._all_names = bool({"__dict__", "vars", "getattr", "dir"} & self._names)
        self._found: set[CodeType] = set()  # whose function objects were met
        self._met: dict[int, Any] = {}
        self._entries: set[tuple[int, str]] = set()  # of classes
        self._todo: list[tuple[Any, str]] = []
        self.handles.update({each: each._node for each in tensors})  # they have the first numbers
        for i, each in enumerate(tensors):
            self._gradient(each, f"argument {i}")
        for each in roots:
            self._visit(each, _name_of(each))
        for code, names in list(watch.codes.items()):
            self._globals(code, names)
        self._work()
        self._find_closures()

    # --- what is met ---

    def _work(self) -> None:
        for value, name in self._todo:  # which grows meanwhile
            if len(self.places) > _MOST_PLACES:
                self.problem = self.problem or f"it can reach too much, {name} for example"
                return
            self._expand(value, name)

    def _visit(self, value: Any, name: str) -> None:
        """Note a value that was read; what it contains is looked at later."""
        if isinstance(value, Tensor):
            self._tensor(value, name)
        elif isinstance(value, type):
            self._classes(value, value, name)
        elif not is_plain(value) and value is not MISSING and id(value) not in self._met:
            self._met[id(value)] = value
            self._todo.append((value, name))

    def _tensor(self, tensor: Tensor, name: str) -> None:
        if tensor in self.handles:
            return
        self.handles[tensor] = tensor._node
        self._gradient(tensor, name)

    def _gradient(self, tensor: Tensor, name: str) -> None:
        place = Place(tensor, ATTRIBUTE, "grad", f"{name}.grad")
        self.places.append((place, tensor.grad))
        if tensor.grad is not None:
            self.handles.setdefault(tensor.grad, tensor.grad._node)

    def _place(self, container: Any, how: str, key: Any, name: str) -> None:
        place = Place(container, how, key, name)
        value = place.read()
        self.places.append((place, value))
        self._visit(value, name)

    def _expand(self, value: Any, name: str) -> None:
        """Look at what a value contains."""
        if isinstance(value, dict):
            self.copies.append((value, dict(value), name))
            for key in value:
                self._place(value, ITEM, key, f"{name}[{key!r}]")
        elif isinstance(value, list):
            self.copies.append((value, list(value), name))
            for i in range(len(value)):
                self._place(value, ITEM, i, f"{name}[{i}]")
        elif isinstance(value, tuple):
            for i in range(len(value)):
                self._place(value, ITEM, i, f"{name}[{i}]")
        elif isinstance(value, set):
            self.copies.append((value, set(value), name))
            if not all(is_plain(each) for each in value):
                self._complain(name, value)
        elif isinstance(value, FunctionType):
            self._function(value, name)
        elif isinstance(value, MethodType):
            self._visit(value.__func__, name)
            self._visit(value.__self__, name)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self._visit(part, name)
        elif isinstance(value, ModuleType):
            self._module(value, name)
        elif isinstance(value, Generator):
            self.generators[value] = value.state_dict()
        elif type(value).__module__ == "schuss.execution.jit":  # its function is part of this one
            self._visit(value.function, name)
        elif isinstance(value, (staticmethod, classmethod)):
            self._visit(value.__func__, name)
        elif isinstance(value, property):
            for accessor in (value.fget, value.fset):
                self._visit(accessor, name)
        elif _unknown(value):
            self._complain(name, value)
        else:
            self._object(value, name)

    def _function(self, function: FunctionType, name: str) -> None:
        code = function.__code__
        if code not in self._codes:
            return
        self._found.add(code)
        for cell_name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self._place(cell, ATTRIBUTE, "cell_contents", cell_name)
        for part in ("__code__", "__defaults__", "__kwdefaults__"):
            if part != "__code__" and getattr(function, part) is None:
                continue
            if part == "__code__":
                self.places.append((Place(function, ATTRIBUTE, part, name), code))
            else:
                self._place(function, ATTRIBUTE, part, f"a default of {name}")
        for key in vars(function):
            if key in self._names or key == "__wrapped__":
                self._place(function, ATTRIBUTE, key, f"{name}.{key}")

    def _globals(self, code: CodeType, names: dict[str, Any]) -> None:
        for name in _global_names(code):
            if name in names:
                self._place(names, ITEM, name, name)
            else:
                self.absent.append((names, name))

    def _module(self, module: ModuleType, name: str) -> None:
        top = module.__name__
        if is_library(top) or top == "schuss" or top.startswith("schuss."):
            return
        for key in sorted(self._names.intersection(vars(module))):
            self._place(vars(module), ITEM, key, f"{name}.{key}")

    def _object(self, value: Any, name: str) -> None:
        ours = type(value).__module__.startswith("schuss.") or self._all_names
        inherits = any(each.__module__.startswith("schuss.") for each in type(value).__mro__)
        attributes = getattr(value, "__dict__", {})
        for key, entry in list(attributes.items()):
            # Our code may read what the user's code does not name.
            if ours or key in self._names or (inherits and not _unknown(entry)):
                self._place(attributes, ITEM, key, f"{name}.{key}")
        if (ours or inherits) and isinstance(attributes, dict):
            self.copies.append((attributes, dict(attributes), name))
        self._classes(type(value), value, name)

    def _classes(self, kind: type, value: Any, name: str) -> None:
        """The user's classes among the bases of `kind`, which is the class of a value or itself."""
        for each in kind.__mro__:
            module = each.__module__
            if not module.startswith("schuss.") and not is_library(module):
                self._class(each, value, name)

    def _class(self, cls: type, value: Any, name: str) -> None:
        """Attributes of a user's class: its functions that ran, and what they name."""
        for key, entry in list(vars(cls).items()):
            if isinstance(entry, MemberDescriptorType):  # of __slots__
                if value is not cls:
                    self._place(value, ATTRIBUTE, key, f"{name}.{key}")
            elif (id(cls), key) not in self._entries and (
                _runs(entry, self._codes) or (key in self._names and not _is_code(entry))
            ):
                self._entries.add((id(cls), key))
                self._place(cls, ATTRIBUTE, key, f"{cls.__name__}.{key}")
                attributes = getattr(value, "__dict__", {})
                if value is not cls and key not in attributes:
                    self.absent.append((attributes, key))
                self._visit(entry, f"{cls.__name__}.{key}")

    def _find_closures(self) -> None:
        """Code with variables of an enclosing function whose values were not met."""
        inner = {each for code in self._codes for each in _nested(code)}
        for code in self._codes:
            if code.co_freevars and code not in self._found and code not in inner:
                self.problem = self.problem or (
                    f"the variables around {code.co_name} ({code.co_filename}:"
                    f"{code.co_firstlineno}) cannot be found again"
                )

    def _complain(self, name: str, value: Any) -> None:
        if not self.problem:
            kind = type(value)
            what = "a NumPy array" if kind is np.ndarray else f"a {kind.__module__}.{kind.__name__}"
            self.problem = f"it can reach {name}, {what}, which may change unseen"

    # --- undoing ---

    def restore(self) -> None:
        """Put everything back to what it was."""
        for tensor, node in self.handles.items():
            if tensor._node is not node:
                Handle._point_at(tensor, node)
        for container, copy, _ in self.copies:
            if isinstance(container, list):
                container[:] = copy
            else:
                container.clear()
                container.update(copy)
        for place, value in self.places:
            if value is not MISSING and place.read() is not value:
                place.write(value)
        for generator, state in self.generators.items():
            generator.load_state_dict(state)


def _unknown(value: Any) -> bool:
    """Whether something has a state that cannot be looked at: a file, an iterator, an array."""
    if isinstance(value, _WALKED):
        return False
    if is_plain(value) or value is MISSING or isinstance(value, Generator):
        return False
    module = type(value).__module__
    if module.startswith(("schuss.data", "schuss.training")):
        return True
    return is_library(module) and module != "__main__"


def _is_code(entry: Any) -> bool:
    return isinstance(entry, (FunctionType, staticmethod, classmethod, property))


def _runs(entry: Any, codes: dict[CodeType, dict[str, Any]]) -> bool:
    """Whether the function of an entry of a class is among those that ran."""
    if isinstance(entry, property):
        return any(_runs(each, codes) for each in (entry.fget, entry.fset) if each is not None)
    entry = getattr(entry, "__func__", entry)
    return isinstance(entry, FunctionType) and entry.__code__ in codes


def _name_of(value: Any) -> str:
    return getattr(value, "__name__", None) or type(value).__name__


@functools.lru_cache(512)
def _global_names(code: CodeType) -> tuple[str, ...]:
    names = [
        each.argval
        for each in dis.get_instructions(code)
        if each.opname in ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL")
    ]
    return tuple(dict.fromkeys(names))


def _nested(code: CodeType) -> Iterator[CodeType]:
    """Functions, comprehensions and classes written inside, at any depth."""
    todo = [code]
    while todo:
        for each in todo.pop().co_consts:
            if isinstance(each, CodeType):
                yield each
                todo.append(each)
