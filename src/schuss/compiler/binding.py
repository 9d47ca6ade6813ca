"""Addresses into slots: Python written for one program, because each run begins with it.

`address_of` reads the address of an array's data from the array object itself, where CPython keeps
it: `array.ctypes` makes two objects first.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

Entry = tuple[np.ndarray, int]  # an array and the address of its data


def _find_data_offset() -> int | None:
    """Where an ndarray object keeps the address of its data: behind the object's head."""
    probe = np.zeros(1)
    for offset in range(16, 65, 8):
        if ctypes.c_void_p.from_address(id(probe) + offset).value == probe.ctypes.data:
            return offset
    return None


def _all_memory() -> memoryview | None:
    """What this process can address, in words of 8 bytes. Only to look at what is known to exist.

    None where addresses have more or fewer than 47 bits.
    """
    if sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    return memoryview((ctypes.c_char * 2**47).from_address(0)).cast("B").cast("Q")


_DATA_AT = _find_data_offset() if sys.implementation.name == "cpython" else None
_memory = _all_memory()
_QUICK = _DATA_AT is not None and _memory is not None and id(_DATA_AT) < 2**47


def address_of(array: np.ndarray) -> int:
    """Where the data of an array are."""
    if not _QUICK:
        return array.ctypes.data
    return _memory[(id(array) + _DATA_AT) >> 3]  # type: ignore[index, operator]


def binder(
    slots: memoryview,
    inputs: Sequence[Sequence[tuple[int, int]]],
    memories: Sequence[Sequence[tuple[int, int]]],
    donors: Sequence[int],
    pools: Sequence[list[Entry]],
    free: Callable[[int], Entry],
    taken_over: Callable[[np.ndarray, int], np.ndarray],
    returned: Sequence[int] | None = None,
    reshaped: Collection[int] = (),
) -> Callable[[Sequence[np.ndarray], Sequence[bool] | None], list[np.ndarray]]:
    """A function of the inputs, and which of them may be overwritten, that fills in the slots.

    It returns the arrays of memories: those `returned`, or of all.

    Args:
        inputs, memories: the slots of each, with what is added to its address.
        donors: for each memory the input whose place it may take; -1 for none.
        pools: arrays for each memory.
        free: of a memory: an array that nobody holds.
        taken_over: the array of an input as a memory, whose pool is of no use then. It is called
            where the pool is not empty, and for memories that are `reshaped`.
    """
    space: dict[str, Any] = {
        "__name__": __name__,
        "s": (ctypes.c_int64 * len(slots)).from_buffer(slots),  # quicker to write to
        "w": _memory,
        "address_of": address_of,
        "count": sys.getrefcount,
        "free": free,
        "taken_over": taken_over,
    }
    lines = ["def bind(a, dying):"]
    if inputs:
        lines.append(f"    {', '.join(f'a{i}' for i in range(len(inputs)))}, = a")
    address = f"w[(id(%s) + {_DATA_AT}) >> 3]" if _QUICK else "address_of(%s)"
    for i, places in enumerate(inputs):
        lines += _fill(address % f"a{i}", places)
    for i, (places, donor) in enumerate(zip(memories, donors, strict=True)):
        space[f"q{i}"] = pools[i]
        take = f"m{i}, p = {_unused(f'q{i}', 0)} else {_unused(f'q{i}', 1)} else free({i})"
        if donor < 0:
            lines.append(f"    {take}")
        else:
            always = "True or " if i in reshaped else ""
            lines += [
                f"    if dying is not None and dying[{donor}]:",
                f"        m{i}, p = a{donor}, {address % f'a{donor}'}",
                f"        if {always}q{i}: m{i} = taken_over(m{i}, {i})",
                f"    else: {take}",
            ]
        lines += _fill("p", places)
    returned = range(len(memories)) if returned is None else returned
    lines.append(f"    return [{', '.join(f'm{i}' for i in returned)}]")
    exec(compile("\n".join(lines), "<binding of a program>", "exec"), space)
    return space["bind"]


def _unused(pool: str, k: int) -> str:
    """An entry that nobody holds: apart from the entry, the argument of getrefcount does."""
    return f"{pool}[{k}] if len({pool}) > {k} and count({pool}[{k}][0]) == 2"


def _fill(address: str, places: Sequence[tuple[int, int]]) -> list[str]:
    if len(places) < 2:
        return [f"    s[{slot}] = {_plus(address, offset)}" for slot, offset in places]
    rest = [f"    s[{slot}] = {_plus('p', offset)}" for slot, offset in places]
    return [f"    p = {address}", *rest]


def _plus(address: str, offset: int) -> str:
    return f"{address} + {offset}" if offset else address
