"""Every error that a user can cause, and the one helper that words them.

A message has one form:

    matmul: the last axis of x must be as long as the second-last axis of y
      x: (2, 3) float32
      y: (4, 5) float32
      in: LeNet.head (Linear)
      at: train.py:17
      hint: transpose y with y.mT
"""

from __future__ import annotations

import importlib
import os
import sys
from types import CodeType, FrameType
from typing import Any

from schuss.context import context


class SchussError(Exception):
    """The base of every error that this package raises on purpose."""


class ShapeError(SchussError, ValueError):
    """Shapes do not fit together, or do not fit the op or layer."""


class ArgumentError(SchussError, ValueError):
    """An argument has a value that is not allowed."""


class ArgumentTypeError(SchussError, TypeError):
    """An argument is of the wrong kind, or its name is unknown."""


class DTypeError(SchussError, TypeError):
    """The dtype does not fit the op, or two dtypes have no common one."""


class OutOfBoundsError(SchussError, IndexError):
    """An index points outside its axis."""


class GradientError(SchussError, RuntimeError):
    """A derivative was asked for that the recorded graph cannot give."""


class TransformError(SchussError, RuntimeError):
    """Inside `vmap`, a function looks at a value that is another for each example."""


class NumericsError(SchussError, FloatingPointError):
    """`debug.check_numerics()` met a NaN or an infinity."""


class AllocationError(SchussError, MemoryError):
    """A tensor does not fit into memory."""


class BufferExchangeError(SchussError, BufferError):
    """Memory cannot be handed to, or taken from, another library."""


class ModuleError(SchussError, AttributeError):
    """A layer was put together wrongly."""


class StateDictError(SchussError, ValueError):
    """Saved names or shapes are not those of the model."""


class FileFormatError(SchussError, ValueError):
    """A file is damaged, cut short, or not what it should be."""


class StorageError(SchussError, OSError):
    """A file cannot be written or read: no space, no permission, not there."""


class DataNotFoundError(SchussError, FileNotFoundError):
    """The files of a data set are not on this machine, and could not be fetched."""


class MissingDependencyError(SchussError, ImportError):
    """An optional package is needed and not installed."""


class BadValueError(Exception):
    """Raised by a reference for values that are wrong, which shapes could not show: an index, say.

    The tier turns it into the user's error, with the line where the op was recorded.
    """

    def __init__(self, kind: type[SchussError], problem: str, hint: str | None = None) -> None:
        super().__init__(problem)
        self.kind = kind
        self.problem = problem
        self.hint = hint


class CheckFailedError(Exception):
    """An index in a compiled program points outside; nothing has been overwritten.

    The reference tier then finds out what to tell the user.
    """


_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_RECIPES = os.path.join(_PACKAGE, "recipes") + os.sep  # recipes are programs of users
_STDLIB = os.path.dirname(os.__file__) + os.sep
_SITE = os.path.join(_STDLIB, "site-packages") + os.sep
_internal: dict[str, bool] = {}  # by the name of a file

Location = tuple[CodeType, int]


def _is_internal(name: str) -> bool:
    ours = name.startswith(_PACKAGE) and not name.startswith(_RECIPES)
    standard = name.startswith(_STDLIB) and not name.startswith(_SITE)
    internal = ours or standard or name.startswith("<frozen")
    _internal[name] = internal
    return internal


def user_location(depth: int = 1) -> Location | None:
    """Where in the user's code we are: the innermost frame outside this package.

    It is a code object and an offset, which costs next to nothing; `describe_location` decodes it.
    So many frames (`depth`), this one included, are known to be ours.
    """
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        code = frame.f_code
        internal = _internal.get(code.co_filename)
        if internal is None:
            internal = _is_internal(code.co_filename)
        if not internal:
            return code, frame.f_lasti
        frame = frame.f_back
    return None


def describe_location(location: Location | None) -> str:
    if location is None:
        return "unknown line"
    code, offset = location
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= offset < end and number is not None:
            line = number
            break
    return f"{code.co_filename}:{line}"


def describe(value: Any) -> str:
    """A tensor or array as its shape and dtype, anything else as itself."""
    shape = getattr(value, "shape", None)
    dtype = getattr(value, "dtype", None)
    if shape is None or dtype is None:
        return repr(value)
    return f"{tuple(shape)} {dtype}"


def fail(
    kind: type[SchussError],
    where: str,
    problem: str,
    *,
    hint: str | None = None,
    location: Location | None = None,
    scope: str | None = None,
    **arguments: Any,
) -> SchussError:
    """Word an error and return it: `raise fail(ShapeError, "matmul", "...", x=x, y=y)`.

    Args:
        kind: its class.
        where: the op, function or layer that found it.
        problem: what was expected, in lower case and without a full stop.
        hint: what to write instead.
        location: the user's line; by default the one that is running.
        scope: the layer; by default the one that is running.
        arguments: what is shown by name, tensors and arrays as shape and dtype.
    """
    lines = [f"{where}: {problem}"]
    lines += [f"  {name}: {describe(value)}" for name, value in arguments.items()]
    if scope is None and context.scope is not None:
        scope = context.scope.path()
    if scope:
        lines.append(f"  in: {scope}")
    location = location or user_location()
    if location is not None:
        lines.append(f"  at: {describe_location(location)}")
    if hint:
        lines.append(f"  hint: {hint}")
    return kind("\n".join(lines))


def require(package: str, extra: str, purpose: str) -> Any:
    """Import an optional package when it is first needed, or say how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as problem:
        raise fail(
            MissingDependencyError,
            purpose,
            f"needs the package {package.partition('.')[0]}, which is not installed",
            hint=f"pip install 'schuss[{extra}]'",
        ) from problem
