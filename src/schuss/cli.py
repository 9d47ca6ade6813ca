"""The command line: `schuss train RECIPE [key=value ...]`, `schuss recipes`, `schuss cache`."""

from __future__ import annotations

import sys
import time
import typing
from typing import Annotated, Any

import typer

from schuss.errors import SchussError
from schuss.version import __version__

if typing.TYPE_CHECKING:
    from schuss.recipes import Recipe

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"schuss {__version__}")
        raise typer.Exit


@app.callback()
def schuss(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A deep-learning framework: arrays, automatic differentiation, layers, training."""


@app.command()
def recipes() -> None:
    """List the recipes, what each is to reach, and its settings."""
    from schuss.recipes import all_recipes

    for each in all_recipes().values():
        print(f"{each.name}\n    {each.summary}\n    target: {each.target}")
        print(
            "    settings: "
            + " ".join(f"{n}={_shown(p.default)}" for n, p in each.settings.items())
        )


@app.command(context_settings={"help_option_names": []})
def train(
    context: typer.Context,
    recipe: Annotated[
        str, typer.Argument(help="The name of a recipe; `schuss recipes` lists them.")
    ] = "",
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the recipe.")
    ] = None,
    wants_help: Annotated[
        bool, typer.Option("--help", "-h", help="Show this message, or the settings of RECIPE.")
    ] = False,
) -> None:
    """Run a recipe, and print the figure that it reached beside its target.

    Exits with 1 where a full run misses the target. Runs made shorter (limit=, fewer epochs) are
    not judged.

    Example: schuss train digits epochs=5 lr=0.001
    """
    from schuss.recipes import find_recipe

    if not recipe:
        print(context.get_help())
        raise typer.Exit(0 if wants_help else 2)
    found = find_recipe(recipe)
    if wants_help:
        print(_describe(found))
        return
    values = found.parse(settings or [])
    started = time.perf_counter()
    try:
        figure = found.function(**values)
    except KeyboardInterrupt:
        resumable = "resume" in found.settings and not values.get("plain")
        goes_on = f"; to go on: schuss train {found.name} ... resume=true" if resumable else ""
        print(f"\ninterrupted{goes_on}", file=sys.stderr)
        raise typer.Exit(130) from None
    seconds = time.perf_counter() - started
    full, target = found.is_full(values), found.target
    reached = target.is_reached(figure)
    verdict = "reached" if reached else "MISSED"
    if not full:
        verdict = "not judged: a shortened run"
    print(
        f"{found.name}: {target.figure} {figure:{target.show}} after {seconds:.1f} s; "
        f"target: {target} ({verdict})"
    )
    if full and not reached:
        raise typer.Exit(1)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all compiled kernels.")] = False,
) -> None:
    """Show where compiled kernels are kept, how many there are, and how large they are."""
    from schuss.compiler.cpu import cache as kernels

    found = kernels.statistics()
    if found.folder is None:
        print("compiled kernels are not kept")
        return
    print(f"{found.folder}: {found.entries} kernels, {found.nbytes / 2**20:.1f} MiB")
    if clear:
        print(f"removed {kernels.clear()}")


def _shown(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) or default is None else str(default)


def _describe(recipe: Recipe) -> str:
    lines = [f"Usage: schuss train {recipe.name} [KEY=VALUE]...", "", recipe.summary, ""]
    lines += [f"Target of a full run: {recipe.target}", "", "Settings:"]
    width = max(map(len, recipe.settings))
    for name, each in recipe.settings.items():
        kind = f"{_type_name(each.annotation)}, default {_shown(each.default)}"
        lines += [f"  {name:<{width}}  {recipe.meanings[name]} ({kind})"]
    return "\n".join(lines)


def _type_name(kind: Any) -> str:
    options = [each for each in typing.get_args(kind) if each is not type(None)]
    return " or ".join(_type_name(each) for each in options) if options else kind.__name__.lower()


def main() -> None:
    """The entry point: an error that a user can cause is a message and exit status 2."""
    try:
        app()
    except SchussError as problem:
        # The user's line is a command, not a line of Python.
        told = [line for line in str(problem).splitlines() if not line.startswith("  at: ")]
        print(f"{type(problem).__name__}: " + "\n".join(told), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
