"""What a recipe is: a function with typed settings, and a target for its figure."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import pkgutil
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schuss.errors import ArgumentError, fail
from schuss.files import make_folder
from schuss.training import Callback, JSONLines, LearningCurve


@dataclass(frozen=True)
class Target:
    """What a full run is to reach.

    Attributes:
        figure: what is measured, in words.
        bound: the number.
        at_least: whether more is better.
        show: the format of the figure.
    """

    figure: str
    bound: float
    at_least: bool = True
    show: str = ".4g"

    def is_reached(self, value: float) -> bool:
        """False for NaN as well."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{self.figure} {'>=' if self.at_least else '<='} {self.bound:{self.show}}"


@dataclass(frozen=True)
class Recipe:
    """A runnable example.

    Attributes:
        name: what `schuss train` calls it.
        function: runs it with keyword settings and returns the figure.
        target: for a full run.
    """

    name: str
    function: Callable[..., float]
    target: Target

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def settings(self) -> dict[str, inspect.Parameter]:
        """The settings by name, with their types resolved."""
        hints = typing.get_type_hints(self.function)
        parameters = inspect.signature(self.function).parameters
        return {name: each.replace(annotation=hints[name]) for name, each in parameters.items()}

    @property
    def meanings(self) -> dict[str, str]:
        """What each setting means: the `Args:` of the function's docstring."""
        _, _, section = (inspect.getdoc(self.function) or "").partition("Args:\n")
        return dict(re.findall(r"^ {4}(\w+): (.*)$", section, flags=re.MULTILINE))

    def parse(self, assignments: Sequence[str]) -> dict[str, Any]:
        """Settings from `key=value` words.

        Raises ArgumentError for unknown names and for values of the wrong type.
        """
        settings = self.settings
        values: dict[str, Any] = {}
        for word in assignments:
            name, equals, text = word.partition("=")
            if not equals:
                raise fail(
                    ArgumentError, self.name, f"settings are written key=value, got {word!r}"
                )
            if name not in settings:
                raise fail(
                    ArgumentError,
                    self.name,
                    f"has no setting {name!r}",
                    hint="it has " + ", ".join(settings),
                )
            values[name] = _convert(self.name, name, text, settings[name].annotation)
        return values

    def is_full(self, values: dict[str, Any]) -> bool:
        """Whether these settings leave the run at its full length, so that the target counts."""
        if values.get("limit") is not None:
            return False
        lengths = [each for name, each in self.settings.items() if name in ("epochs", "steps")]
        return all(values.get(each.name, each.default) >= each.default for each in lengths)


_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _convert(recipe: str, name: str, text: str, kind: Any) -> Any:
    options = typing.get_args(kind)
    if type(None) in options:
        if text.lower() == "none":
            return None
        kind = next(each for each in options if each is not type(None))
    try:
        value = _BOOLS[text.lower()] if kind is bool else kind(text)
        if kind is int and name != "seed" and value < 1:
            raise fail(ArgumentError, recipe, f"{name} must be positive, got {text}")
        return value
    except (KeyError, ValueError) as problem:
        if isinstance(problem, ArgumentError):
            raise
        raise fail(
            ArgumentError, recipe, f"{name} is of type {kind.__name__}, got {text!r}"
        ) from None


def recipe(target: Target) -> Callable[[Callable[..., float]], Recipe]:
    """Make a recipe of a function whose arguments all have types and defaults."""

    def make(function: Callable[..., float]) -> Recipe:
        return Recipe(function.__name__.replace("_", "-"), function, target)

    return make


def run_folder(out: Path, resume: bool) -> Path:
    """The folder of a run: a fresh one (`out`, else `out-2`, ...); to resume, the newest."""
    taken = list(itertools.takewhile(Path.exists, _numbered(out)))
    if resume and taken:
        folder = taken[-1]
        print(f"resuming the run in {folder}")
    else:
        folder = next(path for path in _numbered(out) if not path.exists())
        print(f"files of this run: {folder}" + ("; nothing to resume" if resume else ""))
    make_folder(folder)
    return folder


def records(out: Path) -> list[Callback]:
    """What keeps a run's history in its folder: a file, and curves where matplotlib is there."""
    callbacks: list[Callback] = [JSONLines(out / "history.jsonl")]
    if importlib.util.find_spec("matplotlib"):
        callbacks.append(LearningCurve(out / "curves.png"))
    return callbacks


def _numbered(out: Path) -> Iterator[Path]:
    yield out
    yield from (out.with_name(f"{out.name}-{number}") for number in itertools.count(2))


def all_recipes() -> dict[str, Recipe]:
    """All recipes of this package by name."""
    found: dict[str, Recipe] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        loaded = importlib.import_module(f"{__package__}.{module.name}")
        found |= {each.name: each for each in vars(loaded).values() if isinstance(each, Recipe)}
    return dict(sorted(found.items()))


def find_recipe(name: str) -> Recipe:
    """The recipe of a name. Raises ArgumentError with the names there are."""
    recipes = all_recipes()
    if name not in recipes:
        raise fail(
            ArgumentError,
            "recipes",
            f"there is no recipe {name!r}",
            hint="there are " + ", ".join(recipes),
        )
    return recipes[name]
