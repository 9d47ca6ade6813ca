"""Programs whose weights never change: what is made of constants alone is made once.

A constant is an input with an `array`. Everything that a unit reads is then either there when the
Program is made, or comes with each run; units that read constants only, packed weights among them,
run when the Program is made and never again. Nothing else has to know of constants: whoever wants
weights in another order says so in the graph, or as a unit that reads nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from schuss import dtypes
from schuss.compiler.units import Host, Pack, Product, Unit
from schuss.compiler.values import Graph, Value


def constant(array: np.ndarray) -> Value:
    """An input that is always the same."""
    made = Value("input", (), {}, array.shape, dtypes.as_dtype(array.dtype), array=array)
    made.strides = steps_of(array)
    return made


def steps_of(array: np.ndarray) -> tuple[int, ...] | None:
    """Strides in elements, as a Value has them; None for an array that is dense."""
    if array.flags.c_contiguous:
        return None
    return tuple(step // array.itemsize for step in array.strides)


def made_of_constants(graph: Graph) -> set[Value]:
    """The values that are the same in every run; plain numbers are part of the structure."""
    found: set[Value] = set()
    for value in graph.values:
        inputs = [each for each in value.inputs if each.op != "constant"]
        if value.array is not None or (inputs and all(each in found for each in inputs)):
            found.add(value)
    return found


def divided(
    units: list[Unit], wanted: set[Value], packed_bytes: Callable[[Product], int]
) -> tuple[list[Unit], list[Unit]]:
    """Units that run once, and those that run every time; the latter may read what those made.

    Args:
        wanted: what has to be made by a run.
        packed_bytes: how large the right operand of a product is once it is packed; 0 where
            products do not pack it, or not worth while.
    """
    once: list[Unit] = []
    always: list[Unit] = []
    settled: set[Value] = set()

    def is_settled(value: Value) -> bool:
        return value in settled or value.array is not None

    for unit in units:
        reads = [each for each in unit.reads() if each.op != "constant"]
        alone = not isinstance(unit, Host) and not wanted.intersection(unit.writes())
        if alone and reads and all(map(is_settled, reads)):
            once.append(unit)
            settled.update(unit.writes())
            continue
        if isinstance(unit, Product) and is_settled(unit.right[0]):
            size = packed_bytes(unit)
            if size:
                unit.packed = Value("packed", (), {}, (size,), dtypes.uint8)
                once.append(Pack(unit.packed, unit))
        always.append(unit)
    return once, always
