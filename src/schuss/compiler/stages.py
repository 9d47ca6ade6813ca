"""Every stage of compiling a computation, as text for people to read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schuss.compiler.program import compile_graph
from schuss.compiler.verify import verify
from schuss.execution.capture import capture
from schuss.graph import Handle, ancestors

STAGES = ("recorded", "simplified", "units", "plan", "llvm", "assembly")


def show(f: Callable[..., Any], *args: Any, stages: tuple[str, ...] = STAGES) -> str:
    """What becomes of `f(*args)`: from the recorded graph down to assembly.

    Args:
        f: a function of tensors that returns a tensor, or a list, tuple or dict of tensors.
            Nothing is computed.
        stages: which of "recorded", "simplified", "units", "plan", "llvm" and "assembly".

    Returns a text; print it.
    """
    targets = [each._node for each in _tensors(f(*args))]
    order = ancestors(targets, lambda node: node.value is None)
    compiled = compile_graph(capture(order, set(targets)).graph())
    verify(compiled)
    made = {
        "recorded": lambda: str(compiled.recorded),
        "simplified": lambda: str(compiled.simplified),
        "units": lambda: "\n\n".join(str(unit) for unit in compiled.units),
        "plan": lambda: str(compiled.plan),
        "llvm": lambda: "\n".join(_texts(compiled)),
        "assembly": lambda: "\n".join(_assembly(text) for text in _texts(compiled)),
    }
    return "\n\n".join(f"--- {name} ---\n{made[name]()}" for name in stages)


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, Handle):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [each for part in parts for each in _tensors(part)]


def _texts(compiled: Any) -> list[str]:
    """The modules of all kernels, each once."""
    found: dict[str, None] = {}
    for calls in compiled.calls:
        if calls is not None:
            found |= dict.fromkeys(source.text for source in calls.shared)
            found |= dict.fromkeys(call.source.text for group in calls.groups for call in group)
    return list(found)


def _assembly(text: str) -> str:
    from schuss.compiler.cpu.library import disassemble

    return disassemble(text)
