"""Kernels that go through the same elements, as one kernel.

Inside a loop each kernel costs the threads a meeting in every round. What one kernel stores and the
next one loads at the same place stays in registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schuss import dtypes
from schuss.compiler.index import Affine, bounds_of, sizes_between
from schuss.compiler.kernel import Kernel, collapse, position_of
from schuss.compiler.units import Assemble, Loops, Unit
from schuss.compiler.values import Value

_MOST_LINES = 96


def merge(units: Sequence[Unit], wanted: set[Value]) -> list[Unit]:
    """The units with neighbouring kernels merged; values that are not wanted need not be stored."""
    made: list[Unit] = []
    for unit in units:
        kernels = _kernels(unit)
        if kernels is None:
            made.append(unit)
            continue
        merged = joined(kernels)
        if merged is not None:
            unit = Loops(merged)
            kernels = [merged]
        place = _partner(made, unit)
        if place is not None and len(kernels) == 1:
            both = joined([made[place].kernel, kernels[0]])  # type: ignore[union-attr]
            if both is not None:
                del made[place]
                unit = Loops(both)
        made.append(unit)
    return [_without(unit, _unread(made, unit) - wanted) for unit in made]


def _kernels(unit: Unit) -> list[Kernel] | None:
    """The kernels of a unit that might be merged: they only go through elements."""
    if isinstance(unit, Loops):
        found = [unit.kernel]
    elif isinstance(unit, Assemble) and len(unit.kernels) == 1:
        found = unit.kernels[0]
    else:
        return None
    plain = all(k.outer == len(k.sizes) and 0 not in k.sizes for k in found)
    return found if plain else None


def _partner(made: Sequence[Unit], unit: Unit) -> int | None:
    """The last unit whose results this one reads, if it is a kernel that may run later."""
    reads = set(unit.reads())
    for place in reversed(range(len(made))):
        other = made[place]
        written = set(other.writes())
        if not written & reads:
            continue
        later = made[place + 1 :]
        if not isinstance(other, Loops) or _kernels(other) is None:
            return None
        return None if any(written & set(each.reads()) for each in later) else place
    return None


def _unread(units: Sequence[Unit], unit: Unit) -> set[Value]:
    if not isinstance(unit, Loops):
        return set()
    read = {value for each in units if each is not unit for value in each.reads()}
    return set(unit.writes()) - read - set(unit.reads())


def _without(unit: Unit, values: set[Value]) -> Unit:
    """The unit without stores of some values."""
    if not values or not isinstance(unit, Loops):
        return unit
    kept = joined([unit.kernel], values)
    return unit if kept is None or not kept.stores else Loops(kept)


def joined(kernels: Sequence[Kernel], left_out: set[Value] = frozenset()) -> Kernel | None:  # type: ignore[assignment]
    """One kernel that does what these do, one after the other; None where there is none.

    Values in `left_out` are not stored.
    """
    bounds = frozenset[int]().union(*[bounds_of(kernel.sizes) for kernel in kernels])
    sizes = sizes_between(bounds)
    if sizes is None or len({max(bounds_of(kernel.sizes)) for kernel in kernels}) != 1:
        return None
    if sum(len(kernel.lines) for kernel in kernels) > _MOST_LINES:
        return None
    made = Kernel(sizes, len(sizes))
    stored: dict[tuple[Value, Affine], int] = {}
    for kernel in kernels:
        if not _append(made, kernel, stored):
            return None
    used = {value for value, _ in stored} - left_out
    for (value, affine), line in stored.items():
        if value in used:
            made.store(value, affine, line, value.dtype)
    return collapse(_live(made))


def _append(made: Kernel, kernel: Kernel, stored: dict[tuple[Value, Affine], int]) -> bool:
    """Add the lines of a kernel; False where it reads what is stored elsewhere."""
    written = {value for value, _ in stored}
    number: list[int] = []
    for line in kernel.lines:
        affine, detail = position_of(line), line.detail
        if affine is not None:
            affine = _split(affine, kernel.sizes, made.sizes)
            detail = affine
        if line.op in ("load", "gather"):
            given: Any = line.detail
            buffer = kernel.buffers[given[0]]
            if buffer in written:
                known = stored.get((buffer, affine)) if line.op == "load" else None  # type: ignore[arg-type]
                if known is None or buffer.dtype in dtypes.HALF:
                    return False
                number.append(known)
                continue
            detail = (made.word(buffer), affine, *given[2:])
        inputs = tuple(number[i] for i in line.inputs)
        number.append(made.add(line.op, inputs, line.dtype, detail))
    for store in kernel.stores:
        place = _split(store.affine, kernel.sizes, made.sizes)
        stored[kernel.buffers[store.word], place] = number[store.line]
    return True


def _split(affine: Affine, sizes: Sequence[int], finer: Sequence[int]) -> Affine:
    """A position over loops that are cut into finer ones."""
    made: list[int] = []
    place = len(finer)
    for step, n in zip(reversed(affine[:-1]), reversed(sizes), strict=True):
        product = 1
        while product < n:
            place -= 1
            made.append(step * product)
            product *= finer[place]
    return (*reversed(made), affine[-1])


def _live(kernel: Kernel) -> Kernel:
    """The kernel without lines and buffers that nothing needs."""
    needed: set[int] = set()
    stack = [store.line for store in kernel.stores]
    while stack:
        i = stack.pop()
        if i not in needed:
            needed.add(i)
            stack += kernel.lines[i].inputs
    made = Kernel(kernel.sizes, kernel.outer)
    number: dict[int, int] = {}
    for i, line in enumerate(kernel.lines):
        if i in needed:
            detail: Any = line.detail
            if line.op in ("load", "gather"):
                detail = (made.word(kernel.buffers[detail[0]]), *detail[1:])
            inputs = tuple(number[each] for each in line.inputs)
            number[i] = made.add(line.op, inputs, line.dtype, detail)
    for store in kernel.stores:
        buffer = kernel.buffers[store.word]
        made.store(buffer, store.affine, number[store.line], store.dtype)
    return made


__all__ = ["joined", "merge"]
