"""The tree of layers: finding parameters by type, saving and loading, training mode, printing."""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from schuss import dtypes, trees
from schuss.context import Scope, context
from schuss.devices import as_device, is_device
from schuss.errors import (
    ArgumentTypeError,
    ModuleError,
    SchussError,
    StateDictError,
    fail,
    user_location,
)
from schuss.execution.evaluate import evaluate
from schuss.functions.arguments import ArrayLike, as_tensor, cast
from schuss.graph import Node
from schuss.pytorch_names import MODULE, missing
from schuss.tensor import Tensor

if TYPE_CHECKING:
    from schuss.nn.inference import InferenceModel


class Parameter(Tensor):
    """A tensor that a layer learns: found by its type, given new values by `optimizer.step()`.

    Args:
        data: the initial values, which are copied.
        requires_grad: False freezes it.
    """

    __slots__ = ()

    def __init__(self, data: ArrayLike, requires_grad: bool = True) -> None:
        value = as_tensor(data, "Parameter").detach()
        super().__init__(value._node)
        if requires_grad:
            self._become_leaf(value)

    def __repr__(self) -> str:
        return f"Parameter({super().__repr__()})"


class Buffer(Tensor):
    """A tensor of a layer's state that is not learned, running statistics say; found by its type.

    Args:
        data: the initial values.
        persistent: whether `state_dict()` contains it.
    """

    __slots__ = ("_settled", "persistent")

    def __init__(self, data: ArrayLike, persistent: bool = True) -> None:
        super().__init__(as_tensor(data, "Buffer").detach()._node)
        self.persistent = persistent
        self._settled = self._node

    def _point_at(self, node: Node) -> None:
        """Remember the last value that could be computed, for `_settle`.

        A new one that cannot (the batch held an index out of range, say) must not stay.
        """
        if node.dtype != self._node.dtype:  # `to` casts a good value: the old dtype must not return
            self._settled = node
        elif self._node.value is not None:
            self._settled = self._node
        context.unsettled.append(weakref.ref(self))
        super()._point_at(node)

    def _settle(self) -> None:
        try:
            evaluate([self._node])
        except SchussError:
            super()._point_at(self._settled)

    def __deepcopy__(self, memo: Any) -> Tensor:
        copy = super().__deepcopy__(memo)
        copy.persistent = self.persistent  # type: ignore[attr-defined]  # of our own type
        copy._settled = copy._node  # type: ignore[attr-defined]
        return copy


class Parameters(list[Parameter]):
    """Parameters with their names, so that an optimizer can key its state by them."""

    def __init__(self, named: Mapping[str, Parameter]) -> None:
        super().__init__(named.values())
        self.names = list(named)


class StateDictReport(NamedTuple):
    """What `load_state_dict(strict=False)` could not match."""

    missing: list[str]
    extra: list[str]


_OURS = "schuss.nn."  # where our layers are defined


class _Running:
    """The layer that is being called, inside those that called it. Messages print the path."""

    __slots__ = ("module", "outer")

    def __init__(self, module: Module, outer: Scope | None) -> None:
        self.module = module
        self.outer = outer

    def path(self) -> str:
        chain: list[Module] = []
        running: Any = self
        while isinstance(running, _Running):
            chain.append(running.module)
            running = running.outer
        chain.reverse()
        names = [type(chain[0]).__name__]
        for parent, child in itertools.pairwise(chain):
            names.append(
                next((name for name, each in parent.named_modules() if each is child), "?")
            )
        last = "" if len(chain) == 1 else f" ({type(chain[-1]).__name__})"
        return ".".join(names) + last


class Module:
    """A layer, or a network of layers.

    Subclass it, make the parts in `__init__`, and define `forward`:

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.hidden = nn.Linear(784, 256)
                self.out = nn.Linear(256, 10)

            def forward(self, x):
                return self.out(self.hidden(x).relu())

    Parameters, buffers and layers are found by their type among the attributes, in the order of
    definition, through lists, tuples and dicts of any depth. A part used twice counts once.

    Attributes:
        training: what `train()` and `eval()` set for the whole tree; dropout and batch
            normalisation look at it.
    """

    training: bool
    _ours = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._ours = cls.__module__.startswith(_OURS)

    def __init__(self) -> None:
        object.__setattr__(self, "training", True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise fail(
            ModuleError,
            type(self).__name__,
            "has no forward method",
            hint="define forward(self, x)",
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if "training" not in self.__dict__:
            raise self._uninitialised()
        here = context.__dict__  # of this thread: one look instead of many
        outer, line = here["scope"], here["location"]
        here["scope"] = _Running(self, outer)
        # One line of the user for all that a layer of ours does.
        here["location"] = (line or user_location()) if self._ours else None
        try:
            return self.forward(*args, **kwargs)
        finally:
            here["scope"], here["location"] = outer, line

    def __setattr__(self, name: str, value: Any) -> None:
        if "training" not in self.__dict__:
            raise self._uninitialised(name)
        if name in self.__dict__.get("parametrizations", ()):
            raise fail(
                ModuleError,
                f"{type(self).__name__}.{name}",
                "is computed from its parametrization",
                hint="call nn.utils.parametrize.remove_parametrizations first",
            )
        present = self.__dict__.get(name)
        if (
            isinstance(present, (Parameter, Buffer))
            and value is not None
            and not isinstance(value, (Parameter, Buffer))
        ):
            kind = "a plain tensor" if isinstance(value, Tensor) else type(value).__name__
            raise fail(
                ModuleError,
                f"{type(self).__name__}.{name}",
                f"is a {type(present).__name__} and would be replaced by {kind}",
                hint=f"self.{name}.assign(value) changes its value; wrap the value to replace it",
            )
        object.__setattr__(self, name, value)

    def _uninitialised(self, name: str | None = None) -> Exception:
        before = f" before self.{name} = ..." if name else ""
        return fail(
            ModuleError,
            type(self).__name__,
            "super().__init__() was not called",
            hint=f"call super().__init__() first in __init__{before}",
        )

    def __getattr__(self, name: str) -> Any:
        parametrized = self.__dict__.get("parametrizations", ())
        if name in parametrized:  # see nn.utils.parametrize
            return parametrized[name]()
        raise missing(type(self).__name__, name, MODULE)

    # --- the tree ---

    def _parts(self, kinds: tuple[type, ...]) -> Iterator[tuple[str, Any]]:
        """Values of the given kinds among the attributes and containers in them, by name."""
        stack: list[tuple[str, Any]] = list(reversed(self.__dict__.items()))
        seen: set[int] = set()
        names: set[str] = set()
        while stack:
            name, value = stack.pop()
            if isinstance(value, kinds):
                if name in names:
                    raise self._misplaced(name, "names two parts", "rename a key of the dict")
                names.add(name)
                yield name, value
            elif isinstance(value, (set, frozenset)) and any(isinstance(v, kinds) for v in value):
                raise self._misplaced(name, "is a set, which has no order", "use a list or a dict")
            elif isinstance(value, (list, tuple, dict)) and id(value) not in seen:
                seen.add(id(value))
                items = value.items() if isinstance(value, dict) else enumerate(value)
                stack.extend((f"{name}.{key}", each) for key, each in reversed(list(items)))

    def _misplaced(self, name: str, problem: str, hint: str) -> Exception:
        return fail(ModuleError, f"{type(self).__name__}.{name}", problem, hint=hint)

    def named_children(self) -> list[tuple[str, Module]]:
        """The layers directly below this one, with their names."""
        return list(self._parts((Module,)))

    def children(self) -> list[Module]:
        """The layers directly below this one."""
        return [each for _, each in self.named_children()]

    def named_modules(self) -> list[tuple[str, Module]]:
        """All layers of the tree with their paths, this one first under the empty path."""
        return list(self._paths(shared=False))

    def _paths(self, shared: bool) -> Iterator[tuple[str, Module]]:
        """All layers with their paths: a shared one under its first path, or under all of them."""
        seen: set[int] = set()
        stack: list[tuple[str, Module, frozenset[int]]] = [("", self, frozenset())]
        while stack:
            path, module, above = stack.pop()
            if id(module) in seen and not shared:
                continue
            seen.add(id(module))
            yield path, module
            inside = above | {id(module)}
            below = [
                (f"{path}.{name}" if path else name, each, inside)
                for name, each in module.named_children()
                if id(each) not in inside
            ]
            stack.extend(reversed(below))

    def modules(self) -> list[Module]:
        """All layers of the tree, this one first."""
        return [each for _, each in self.named_modules()]

    def _named(self, kind: type, shared: bool = False) -> dict[str, Any]:
        """Tensors of a kind by path; with `shared`, under each of their names."""
        found: dict[str, Any] = {}
        seen: set[int] = set()
        for path, module in self._paths(shared):
            for name, value in module._parts((kind,)):
                if shared or id(value) not in seen:
                    seen.add(id(value))
                    found[f"{path}.{name}" if path else name] = value
        return found

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """All parameters with their paths, such as `features.0.weight`."""
        return list(self._named(Parameter).items())

    def parameters(self) -> Parameters:
        """All parameters: a list that also knows their names."""
        return Parameters(self._named(Parameter))

    def named_buffers(self) -> list[tuple[str, Buffer]]:
        """All buffers with their paths."""
        return list(self._named(Buffer).items())

    def buffers(self) -> list[Buffer]:
        """All buffers."""
        return list(self._named(Buffer).values())

    # --- state ---

    def _saved(self) -> dict[str, Tensor]:
        """What a state dict holds: parameters and persistent buffers by path."""
        buffers = {name: each for name, each in self.named_buffers() if each.persistent}
        return {**self._named(Parameter), **buffers}

    def state_dict(self) -> dict[str, Tensor]:
        """All parameters and persistent buffers by path. Later training does not change it."""
        return {name: each.detach() for name, each in self._saved().items()}

    def load_state_dict(
        self, state: Mapping[str, ArrayLike], strict: bool = True
    ) -> StateDictReport:
        """Take on the values of a state dict. After an error nothing has changed.

        Args:
            state: tensors or arrays by path.
            strict: whether missing and extra names are errors. Wrong shapes always are.

        Raises:
            StateDictError: lists all missing, extra and mis-shaped names.
        """
        own = self._saved()
        aliases = {**self._named(Parameter, shared=True), **self._named(Buffer, shared=True)}
        missing = [name for name in own if name not in state]
        extra = [name for name in state if name not in aliases]
        values = {name: as_tensor(each, name) for name, each in state.items() if name in aliases}
        unfit = [
            f"{name}: saved {value.shape} {value.dtype}, "
            f"here {aliases[name].shape} {aliases[name].dtype}"
            for name, value in values.items()
            if value.shape != aliases[name].shape or not _fits(value.dtype, aliases[name].dtype)
        ]
        if unfit or (strict and (missing or extra)):
            problems = []
            for label, names in (("missing", missing), ("extra", extra), ("mis-shaped", unfit)):
                if names:
                    problems.append(f"{label}: {', '.join(names)}")
            raise fail(
                StateDictError,
                f"{type(self).__name__}.load_state_dict",
                "the saved state is not this model's\n    " + "\n    ".join(problems),
                hint=None if unfit else "strict=False loads what matches",
            )
        for name, value in values.items():
            target = aliases[name]
            target.assign(cast(value.detach(), target.dtype))
        return StateDictReport(missing, extra)

    # --- modes ---

    def train(self, mode: bool = True) -> Any:
        """Set training mode for the whole tree; returns the module."""
        for each in self.modules():
            object.__setattr__(each, "training", mode)
        return self

    def eval(self) -> Any:
        """Set evaluation mode for the whole tree; returns the module."""
        return self.train(False)

    def requires_grad_(self, wanted: bool = True) -> Any:
        """Freeze (False) or thaw all parameters; returns the module."""
        for each in self.parameters():
            each.requires_grad = wanted
        return self

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for each in self.parameters():
            each.grad = None

    def to(self, target: Any) -> Any:
        """Cast all floating parameters and buffers to a dtype, or move to a device; returns it."""
        if is_device(target):
            as_device(target)
            return self
        wanted = dtypes.as_dtype(target)
        for each in [*self.parameters(), *self.buffers()]:
            if dtypes.is_floating(each.dtype):
                leaf = each._node.owner is not None
                value = cast(each.detach(), wanted)
                each._point_at(value._node)
                each.grad = None
                if leaf:
                    each._become_leaf(value)
        return self

    def apply(self, function: Callable[[Module], Any]) -> Any:
        """Call a function with every layer of the tree; returns the module."""
        for each in self.modules():
            function(each)
        return self

    def compile_for_inference(self, *example: Any, **named: Any) -> InferenceModel:
        """This model as it is now, for prediction only: see `InferenceModel`.

        Args:
            example: arguments of a call, for whose shapes and dtypes it is compiled at once; those
                of other calls follow when they come.
        """
        from schuss.nn.inference import InferenceModel

        made = InferenceModel(self)
        return made.prepare(*example, **named) if example or named else made

    # --- printing ---

    def describe(self) -> str:
        """The arguments to show in brackets; layers override it."""
        return ""

    def parameter_count(self) -> int:
        """How many numbers this module learns."""
        return sum(each.size for each in self.parameters())

    def __repr__(self) -> str:
        lines = []
        above: list[str] = []  # the paths of the layers that contain the next one
        for path, module in self.named_modules():
            while above and not path.startswith(above[-1]):
                above.pop()
            depth, inner = len(above), path.removeprefix(above[-1] if above else "")
            above.append(f"{path}." if path else "")
            name = f"{inner}: " if path else ""
            count = module.parameter_count()
            shown = f"  # {count:,} parameters" if count else ""
            lines.append(f"{'  ' * depth}{name}{type(module).__name__}({module.describe()}){shown}")
        return "\n".join(lines)

    def __reduce__(self) -> Any:
        raise fail(
            ArgumentTypeError,
            "pickle",
            "modules are not pickled, because unpickling runs code",
            hint="save model.state_dict() with schuss.save",
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Module:
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        for name, value in self.__dict__.items():
            object.__setattr__(twin, name, copy.deepcopy(value, memo))
        return twin


# --- as a tree of parameters, for the transforms ---


class _Mould:
    """A layer to copy: equal to every other of its type with parameters of the same names."""

    def __init__(self, module: Module, parameters: Mapping[str, Parameter]) -> None:
        self.module = module
        self.parameters = parameters

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Mould)
            and type(self.module) is type(other.module)
            and list(self.parameters) == list(other.parameters)
        )

    __hash__ = None  # type: ignore[assignment]

    def cast(self, parameters: Sequence[Any]) -> Module:
        """The layer with other parameters. All else is shared with it."""
        replaced: dict[int, Any] = {}
        for own, given in zip(self.parameters.values(), parameters, strict=True):
            if isinstance(given, Tensor):  # so that the copy finds its parameters by type
                twin = object.__new__(type(own))
                Tensor.__init__(twin, given._node)
                given = twin
            replaced[id(own)] = given
        return _with_replaced(self.module, replaced)


def _with_replaced(value: Any, replaced: dict[int, Any]) -> Any:
    if id(value) in replaced:
        return replaced[id(value)]
    if isinstance(value, Module):
        replaced[id(value)] = twin = object.__new__(type(value))
        for name, each in value.__dict__.items():
            object.__setattr__(twin, name, _with_replaced(each, replaced))
        return twin
    if isinstance(value, dict):
        return {key: _with_replaced(each, replaced) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_with_replaced(each, replaced) for each in value)
    return value


def replaced_layers(module: Module, others: Mapping[int, Module]) -> Any:
    """The module with other layers in place of some, by `id`. All else is shared with it."""
    return _with_replaced(module, dict(others))


def _take_apart(module: Module) -> tuple[list[Parameter], _Mould]:
    parameters = module._named(Parameter)
    return list(parameters.values()), _Mould(module, parameters)


trees.register(Module, _take_apart, _Mould.cast)


def _fits(saved: np.dtype[Any], own: np.dtype[Any]) -> bool:
    return saved == own or (dtypes.is_floating(saved) and dtypes.is_floating(own))
