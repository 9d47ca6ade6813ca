"""Copies that are not needed: what is only copied to another memory is written there at once.

What is joined along the channels, the windows' largest elements along the border and those inside,
parts of a gradient: each is the result of a kernel, or of a template with one, whose stores go to
the larger memory instead.

The gradient of attention lays dq, dk and dv behind each other. Where q, k and v are parts of one
product, these become parts side by side of its gradient, and their template can write them there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from schuss.compiler.index import Affine
from schuss.compiler.kernel import Kernel, Store, collapse, moved, position_of
from schuss.compiler.units import Assemble, Attention, Convolution, Loops, Product, Unit
from schuss.compiler.values import Value, strides_of


def without_copies(units: Sequence[Unit], memories: set[Value]) -> list[Unit]:
    """The units without those that only move what others have made.

    `memories` are the values whose memory is looked at from outside. Several units may write to
    one memory then, each to places of its own.
    """
    return _results_in_place(_gradients_in_place(units, memories), memories)


# --- results of kernels ---


def _results_in_place(units: Sequence[Unit], memories: set[Value]) -> list[Unit]:
    """Results that are copied once, as they are, are written where the copies would lie.

    What is copied from there again stays a copy.
    """
    makers = {
        value: unit
        for unit in units
        if isinstance(unit, (Loops, Product, Convolution))
        for value in unit.writes()
        if value not in memories
    }
    reads = Counter(value for unit in units for value in unit.reads())
    kept: list[Unit] = []
    for unit in units:
        kept.append(unit)
        if not isinstance(unit, Assemble) or len(unit.kernels) != 1:
            continue  # what is written over later has to come first
        left = [copy for copy in unit.kernels[0] if not _is_redirected(_way(copy), makers, reads)]
        unit.kernels = [left]
        if not left:
            kept.pop()
    return kept


def _is_redirected(
    way: _Way | None, makers: dict[Value, Loops | Product | Convolution], reads: Counter[Value]
) -> bool:
    """Let the maker of what is copied write it to where `way` leads; False if it must not."""
    if way is None or way.source not in makers or reads[way.source] > 1:
        return False
    maker = makers[way.source]
    kernel = _redirected(maker.kernel, way)
    if kernel is None:
        return False
    maker.kernel = collapse(kernel, keep_last=not isinstance(maker, Loops))
    return True


class _Digit(NamedTuple):
    """A factor of a place in a memory: `many` steps of `step` elements, each of which is `to`
    elements in another memory.
    """

    step: int
    many: int
    to: int


class _Way(NamedTuple):
    """Where the elements of a memory are copied to.

    Attributes:
        digits: what places in the source consist of.
        start: the place in the target of the first element.
    """

    source: Value
    target: Value
    digits: list[_Digit]
    start: int


def _way(copy: Kernel) -> _Way | None:
    """What a kernel does that copies a whole memory; None for any other one."""
    if [line.op for line in copy.lines] != ["load"] or len(copy.stores) != 1:
        return None
    (load,), (store,) = copy.lines, copy.stores
    detail: Any = load.detail
    word, affine = detail
    source = copy.buffers[word]
    axes = zip(affine[:-1], copy.sizes, store.affine[:-1], strict=True)
    digits = sorted((_Digit(*axis) for axis in axes), reverse=True)
    dense = strides_of([digit.many for digit in digits])
    whole = affine[-1] == 0 and math.prod(copy.sizes) == source.size > 0
    if not whole or source.strides is not None or dense != tuple(digit.step for digit in digits):
        return None
    return _Way(source, copy.buffers[store.word], digits, store.affine[-1])


def _redirected(kernel: Kernel, way: _Way) -> Kernel | None:
    """The kernel with stores to the end of `way`, and loops cut where that needs it."""
    stores = [store for store in kernel.stores if kernel.buffers[store.word] is way.source]
    if len(stores) != 1 or way.source in kernel.read() or not kernel.sizes:
        return None
    found = _places(stores[0].affine, kernel.sizes, way)
    if found is None or not _may_cut(kernel, found[0], stores[0].affine):
        return None
    pieces, start = found
    sizes = tuple(piece.many for axis in pieces for piece in axis)
    runs = [0, *accumulate(map(len, pieces))]
    outer, reduced = runs[kernel.outer], runs[kernel.outer + kernel.reduced]

    def finer(affine: Affine) -> Affine:
        steps = [
            step * math.prod(piece.many for piece in axis[i + 1 :])
            for step, axis in zip(affine[:-1], pieces, strict=True)
            for i in range(len(axis))
        ]
        return (*steps, affine[-1])

    def at(store: Store) -> Store:
        if store is not stores[0]:
            return store._replace(affine=finer(store.affine))
        return store._replace(affine=(*[piece.to for axis in pieces for piece in axis], start))

    lines = [
        line if position_of(line) is None else moved(line, finer(position_of(line)))  # type: ignore[arg-type]
        for line in kernel.lines
    ]
    buffers = [way.target if each is way.source else each for each in kernel.buffers]
    return Kernel(sizes, outer, reduced - outer, lines, list(map(at, kernel.stores)), buffers)


def _may_cut(kernel: Kernel, pieces: list[list[_Digit]], affine: Affine) -> bool:
    """Whether loops may become those `pieces`: vectors, which lie along the last one, stay as they
    are, and so does what is added up on the way.
    """
    (along, *others) = pieces[-1]
    whole = not others and along.to == affine[-2]
    in_turn = pieces[kernel.outer : kernel.outer + kernel.reduced]
    running = any(line.op.startswith("running.") for line in kernel.lines)
    return whole and not (running and any(len(axis) > 1 for axis in in_turn))


def _places(
    affine: Affine, sizes: Sequence[int], way: _Way
) -> tuple[list[list[_Digit]], int] | None:
    """Loops over places in the source, cut into such as stay within a digit, and where the first
    place goes to; None where they go over from one digit to the next in between.
    """
    start, room = way.start, {digit: digit.many - 1 for digit in way.digits}
    for digit in way.digits:
        first = affine[-1] // digit.step % digit.many
        start += first * digit.to
        room[digit] -= first
    pieces: list[list[_Digit]] = []
    for step, n in zip(affine[:-1], sizes, strict=True):
        axis: list[_Digit] = []
        while step and n > 1:
            inside = [d for d in way.digits if d.step <= step < d.step * d.many]
            if not inside or step % inside[0].step:
                return None
            (digit,) = inside
            times = step // digit.step
            part = n if times * (n - 1) < digit.many else digit.many // times
            if n % part or (part < n and digit.many % times):
                return None
            room[digit] -= times * (part - 1)
            axis.insert(0, _Digit(step, part, times * digit.to))
            step, n = digit.step * digit.many, n // part
        if n > 1 or not axis:
            axis.insert(0, _Digit(0, n, 0))
        pieces.append(axis)
    return None if min(room.values(), default=0) < 0 else (pieces, start)


# --- gradients of attention ---


def _gradients_in_place(units: Sequence[Unit], memories: set[Value]) -> list[Unit]:
    """The units without those that only move the gradients of attention."""
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
            places = _parts(maker, unit.kernels[0])
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


def _parts(maker: Attention, kernels: Sequence[Kernel]) -> tuple[Affine, ...] | None:
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
