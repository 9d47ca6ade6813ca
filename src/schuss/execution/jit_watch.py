"""Watching a function run: which of the user's code it runs, and what it calls beside.

A replay repeats what was recorded on tensors and what changed at places that are known. It cannot
repeat printing, reading a clock or writing to a file: a function that does such things is not
replayed.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, ModuleType
from typing import Any

import numpy as np

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_JIT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jit.py")
_RECIPES = os.path.join(_OURS, "recipes") + os.sep  # programs of users
_NUMPY = os.path.dirname(os.path.abspath(np.__file__)) + os.sep
_STANDARD = tuple({sysconfig.get_path(each) + os.sep for each in ("stdlib", "platstdlib")})
_TOOLS = (f"{os.sep}llvmlite{os.sep}", f"{os.sep}ml_dtypes{os.sep}")  # what the package itself uses
_PACKAGES = ("site-packages", "dist-packages")

USER, OURS, LIBRARY = "user", "ours", "library"

# Modules of the standard library that compute and do nothing else.
_HARMLESS = frozenset((
    "abc", "bisect", "cmath", "collections", "contextlib", "copy", "dataclasses", "enum",
    "functools", "heapq", "itertools", "math", "numbers", "operator", "re", "statistics", "types",
    "typing", "string", "textwrap", "warnings", "weakref",
    "_abc", "_bisect", "_collections", "_collections_abc", "_functools", "_heapq", "_operator",
    "_weakref", "_weakrefset",
))  # fmt: skip
_EFFECTS = frozenset(("print", "open", "input", "exec", "eval", "__import__", "breakpoint",
                      "compile", "globals", "locals"))  # fmt: skip

_kinds: dict[str, str] = {}  # by the name of a file


def kind_of(filename: str) -> str:
    """Whose code a file holds."""
    known = _kinds.get(filename)
    if known is None:
        known = _kinds[filename] = _kind_of(filename)
    return known


def _kind_of(filename: str) -> str:
    if any(each in filename for each in _TOOLS):
        return OURS
    if filename.startswith(_OURS):
        return USER if filename.startswith(_RECIPES) else OURS
    standard = filename.startswith(_STANDARD) and not any(each in filename for each in _PACKAGES)
    if standard or filename.startswith((_NUMPY, "<frozen")):
        return LIBRARY
    return USER


def _is_generated(frame: FrameType) -> bool:
    """Whether this is text that we or the library compiled: methods of dataclasses, say."""
    module = frame.f_globals.get("__name__") or "?"
    ours = module == "schuss" or module.startswith(("schuss.", "namedtuple_"))
    return frame.f_code.co_filename.startswith("<") and (ours or is_library(module))


def _is_import(frame: FrameType) -> bool:
    """Whether this runs because a module is imported for the first time, inside the function."""
    caller = frame.f_back
    while caller is not None and caller.f_code.co_filename != _JIT:
        if caller.f_code.co_filename.startswith("<frozen importlib"):
            return True
        caller = caller.f_back
    return False


def is_library(module: str) -> bool:
    """Whether a module belongs to Python's standard library or to NumPy."""
    top = module.partition(".")[0]
    return top in sys.stdlib_module_names or top == "numpy"


class Watch:
    """What a function ran.

    Attributes:
        codes: the user's code, with the global names that it sees.
        problem: why this cannot be replayed; empty where it can.
    """

    def __init__(self) -> None:
        self.codes: dict[CodeType, dict[str, Any]] = {}
        self.problem = ""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what runs inside."""
        if sys.getprofile() is not None:
            self.problem = "a profiler is running"
            yield
            return
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)

    def missed(self, code: CodeType | None) -> bool:
        """Whether code of the user has run unseen."""
        return code is not None and kind_of(code.co_filename) == USER and code not in self.codes

    def _note(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        if event == "call":
            kind = kind_of(code.co_filename)
            if kind == USER:
                if code not in self.codes and not _is_generated(frame) and not _is_import(frame):
                    self.codes[code] = frame.f_globals
            elif kind == LIBRARY and not self.problem:
                caller = frame.f_back
                if caller is not None and caller.f_code in self.codes:
                    module = frame.f_globals.get("__name__", "?")
                    if not _is_harmless(module):
                        self._complain(caller, f"{module}.{code.co_name}")
        elif event == "c_call" and not self.problem and code in self.codes:
            name = _effect(arg)
            if name:
                self._complain(frame, name)

    def _complain(self, frame: FrameType, name: str) -> None:
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        self.problem = f"it calls {name} at {where}, which a replay would not do"


def _is_harmless(module: str) -> bool:
    return module.partition(".")[0] in _HARMLESS


def _effect(function: Callable[..., Any]) -> str:
    """The name of a built-in function that may do more than compute; empty for the others."""
    owner = getattr(function, "__self__", None)
    name = getattr(function, "__name__", "?")
    if owner is None or isinstance(owner, ModuleType):
        module = getattr(function, "__module__", None) or "builtins"
        if module == "builtins":
            return name if name in _EFFECTS else ""
        return "" if _is_harmless(module) else f"{module}.{name}"
    kind = owner if isinstance(owner, type) else type(owner)
    module = kind.__module__
    known = module == "builtins" or _is_harmless(module) or not is_library(module)
    return "" if known else f"{module}.{kind.__name__}.{name}"
