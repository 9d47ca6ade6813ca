"""Copies that are not needed: what is only copied to another memory is written there at once.

The gradient of attention lays dq, dk and dv behind each other. Where q, k and v are parts of one
product, these become parts side by side of its gradient, and their template can write them there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from schuss.compiler.index import Affine
from schuss.compiler.kernel import Kernel
from schuss.compiler.units import Assemble, Attention, Unit
from schuss.compiler.values import Value, strides_of


def without_copies(units: Sequence[Unit], memories: set[Value]) -> list[Unit]:
    """The units without those that only move the gradients of attention.

    `memories` are the values whose memory is looked at from outside.
    """
    makers = {
        unit.value: unit
        for unit in units
        if isinstance(unit, Attention) and unit.value.op == "attention_gradient"
    }
    readers: dict[Value, int] = {}
    for unit in units if makers else ():
        for value in set(unit.reads()):
            readers[value] = readers.get(value, 0) + 1
    kept = []
    for unit in units:
        source = _copied(unit) if isinstance(unit, Assemble) and makers else None
        maker = None if source is None or source in memories else makers.get(source)
        if maker is not None and readers[maker.value] == 1:
            assert isinstance(unit, Assemble)
            places = _places(maker, unit.kernels[0])
            if places is not None:
                maker.into = unit.value, places
                continue
        kept.append(unit)
    return kept


def _copied(unit: Assemble) -> Value | None:
    """The only memory that a unit reads, where it does no more than to copy it."""
    sources = list(set(unit.reads()))
    plain = all([line.op for line in k.lines] == ["load"] for group in unit.kernels for k in group)
    return sources[0] if plain and len(sources) == 1 and len(unit.kernels) == 1 else None


def _places(maker: Attention, kernels: Sequence[Kernel]) -> tuple[Affine, ...] | None:
    """Strides and start of dq, dk and dv, in order, where these kernels copy them to.

    None where they do anything else, as copying one of them to two places.
    """
    if len(kernels) != 3:
        return None
    shapes = [each.shape for each in maker.value.inputs[1:4]]
    sizes = [math.prod(shape) for shape in shapes]
    starts = [0, sizes[0], sizes[0] + sizes[1]]
    found: dict[int, Affine] = {}
    for kernel in kernels:
        load: Affine = kernel.lines[0].detail[1]  # type: ignore[index]
        if load[-1] not in starts or math.prod(kernel.sizes) != sizes[starts.index(load[-1])]:
            return None
        which = starts.index(load[-1])
        loops = {pair: at for at, pair in enumerate(zip(load, kernel.sizes, strict=False))}
        to = kernel.stores[0].affine
        place = []
        for step, n in zip(strides_of(shapes[which]), shapes[which], strict=True):
            if n > 1 and (step, n) not in loops:
                return None
            place.append(to[loops[step, n]] if n > 1 else 0)
        found[which] = (*place, to[-1])
    return (found[0], found[1], found[2]) if len(found) == 3 else None
