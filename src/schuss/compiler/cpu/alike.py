"""Units that differ only in whose memory they work on, lowered once.

A network repeats its layers, and so its graph has many units of the same code. What the code of a
unit depends on is its description, in which memories are numbered as they appear; where two units
have the same one, the second has the launches of the first with its own memories in their words.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any

from schuss.compiler.cpu.lower import Call, Calls, Place, lower
from schuss.compiler.kernel import Kernel
from schuss.compiler.units import Host, Repeat, Unit
from schuss.compiler.values import Value, frozen


def lower_all(units: Iterable[Unit]) -> list[Calls | None]:
    """The launches of each unit; None for what is left to the host."""
    known: dict[Hashable, tuple[Calls, list[Value]]] = {}
    found: list[Calls | None] = []
    for unit in units:
        if isinstance(unit, Host):
            found.append(None)
        elif isinstance(unit, Repeat):  # a graph of its own: it is what it is
            found.append(lower(unit))
        else:
            key, values = _described(unit)
            if key not in known:
                known[key] = lower(unit), values
            calls, others = known[key]
            found.append(calls if others is values else _renamed(calls, others, values))
    return found


def _described(unit: Unit) -> tuple[Hashable, list[Value]]:
    """What the code of a unit depends on, and its memories in the order of their numbers."""
    numbers: dict[Value, int] = {}

    def describe(each: Any) -> Hashable:
        if isinstance(each, Value):
            return numbers.setdefault(each, len(numbers))
        if isinstance(each, Kernel):
            loops = each.sizes, each.outer, each.reduced
            return *loops, tuple(each.lines), tuple(each.stores), describe(each.buffers)
        if isinstance(each, (list, tuple)):
            return tuple([describe(part) for part in each])
        if is_dataclass(each):
            value = getattr(each, "value", None)
            template = value and (value.op, repr(frozen(value.attributes)), describe(value.inputs))
            parts = tuple([describe(getattr(each, field.name)) for field in fields(each)])
            return type(each), template, parts
        return each

    found = describe(unit)
    kinds = tuple([(v.dtype, v.shape, v.strides, v.is_streamed) for v in numbers])
    return (found, kinds), list(numbers)


def _renamed(calls: Calls, before: list[Value], after: list[Value]) -> Calls:
    """The launches with other memories in their words."""
    other = dict(zip(before, after, strict=True))

    def word(each: Place | int) -> Place | int:
        if isinstance(each, int) or each.value is None:
            return each
        return replace(each, value=other[each.value])

    def renamed(call: Call) -> Call:
        return replace(call, words=tuple([word(each) for each in call.words]))

    groups = tuple([tuple([renamed(call) for call in group]) for group in calls.groups])
    return replace(calls, groups=groups)
