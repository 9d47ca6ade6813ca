"""The compiler: recorded graphs become machine code.

`show(f, *args)` prints every stage of it; docs/compiler.md walks through one line of Python.
"""

from __future__ import annotations

from typing import Any


def show(f: Any, *args: Any, **options: Any) -> str:
    """Every stage of compiling `f(*args)`, as text; see `schuss.compiler.stages.show`."""
    from schuss.compiler.stages import show as show_stages

    return show_stages(f, *args, **options)
