"""Units of work as launches of kernels on the CPU: the row of each unit in this target's table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any

from schuss import dtypes
from schuss.compiler.cpu import (
    attention,
    convolution,
    convolution_images,
    depthwise,
    matmul,
    winograd,
)
from schuss.compiler.cpu.convolution_panels import Weights, lower_panels
from schuss.compiler.cpu.convolution_plan import Convolution as Direct
from schuss.compiler.cpu.convolution_weight import lower_weight
from schuss.compiler.cpu.crossing import straightened, turned
from schuss.compiler.cpu.depthwise_weight import lower_weight as lower_depthwise_weight
from schuss.compiler.cpu.epilogue import Ahead, Epilogue, Prologue
from schuss.compiler.cpu.host import host
from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.loops import print_loops
from schuss.compiler.cpu.printer import rounded_up
from schuss.compiler.cpu.scatter import print_scatter_add
from schuss.compiler.cpu.winograd_filter import FILTERS
from schuss.compiler.cpu.winograd_gradient import lower_gradient as lower_minimal_gradient
from schuss.compiler.cpu.winograd_text import PrintPrologue
from schuss.compiler.cpu.winograd_weights import lower_weights as lower_minimal_weights
from schuss.compiler.index import Affine
from schuss.compiler.kernel import Kernel
from schuss.compiler.plan import Plan, plan
from schuss.compiler.units import (
    Assemble,
    Attention,
    Convolution,
    Loops,
    Pack,
    Panels,
    Product,
    Repeat,
    ScatterAdd,
    Unit,
)
from schuss.compiler.values import Value


@dataclass(frozen=True, slots=True)
class Place:
    """A word that is an address: of a value's memory, or (None) of the unit's workspace.

    In a loop, `even` and `odd` are added to it after even and after odd rounds. All in bytes.
    """

    value: Value | None
    offset: int = 0
    even: int = 0
    odd: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """A kernel and the words that it is launched with: places, or integers."""

    source: Source
    name: str
    parts: int
    scratch: int
    words: tuple[Place | int, ...]


@dataclass(frozen=True, slots=True)
class Calls:
    """The launches of a unit: lists run one after the other, those in one list side by side.

    With `rounds`, the groups from `inside[0]` up to, but not including, `inside[1]` are a loop.
    """

    groups: tuple[tuple[Call, ...], ...]
    workspace: int = 0
    shared: tuple[Source, ...] = ()
    rounds: int = 0
    inside: tuple[int, int] = (0, 0)
    packs: bool = False  # the first group packs the right operand of a product, and nothing else


def lower(unit: Unit) -> Calls:
    """The launches of a unit that is not left to the host."""
    return _TABLE[type(unit)](unit)


_FAR = 4 << 20  # bytes of a result that is in no cache when it is written
_BYTES = (dtypes.bool_, dtypes.int8, dtypes.uint8)


def lanes_for(kernel: Kernel) -> int:
    """How many elements are worked on at once: as many as fit a register of the widest float.

    Where all are bytes, as many of these.
    """
    if not kernel.reduced and all(line.dtype in _BYTES for line in kernel.lines):
        return host().lanes(dtypes.int8)
    wide = any(line.dtype == dtypes.float64 for line in kernel.lines)
    return host().lanes(dtypes.float64 if wide else dtypes.float32)


def _named(text: str, placeholder: str) -> tuple[Source, str]:
    """The text under a name made of its content, so that equal kernels are one."""
    name = f"loops_{sha256(text.encode()).hexdigest()[:16]}"
    return Source(text.replace(f"@{placeholder}(", f"@{name}("), (name,)), name


def _kernel(kernel: Kernel, places: dict[Value, Place] | None = None) -> tuple[Call, ...]:
    """The launch of a kernel; `places` are those of buffers that are not the memory of values."""
    printed = print_loops(kernel, "kernel", lanes_for(kernel))
    if not printed.parts:
        return ()
    source, name = _named(printed.text, "kernel")
    places = places or {}
    words: list[Place | int] = [places.get(each, Place(each)) for each in kernel.buffers]
    if printed.counted:
        words.append(kernel.sizes[-1])
    return (Call(source, name, printed.parts, printed.scratch, tuple(words)),)


def _loops(unit: Loops) -> Calls:
    copies, kernel = straightened(turned(unit.kernel))
    places, size = {}, 0
    for each in copies:
        (buffer,) = each.written()
        places[buffer] = Place(None, size)
        size += rounded_up(buffer.nbytes, 64)
    first = tuple(call for each in copies for call in _kernel(each, places))
    groups = (first, _kernel(kernel, places)) if copies else (_kernel(kernel),)
    return Calls(groups, size)


def _assemble(unit: Assemble) -> Calls:
    groups = (tuple(call for kernel in group for call in _kernel(kernel)) for group in unit.kernels)
    return Calls(tuple(groups))


def _specification(unit: Product) -> matmul.Product:
    shape, left, right = unit.value.shape, unit.left[1], unit.right[1]
    batch = len(shape) - 2
    return matmul.Product(
        str(unit.value.dtype),
        shape[:-2],
        shape[-2],
        shape[-1],
        unit.value.inputs[0].shape[-1],
        (*left[:batch], left[batch], left[batch + 2]),
        (*right[:batch], right[batch + 2], right[batch + 1]),
        unit.packed is not None,
    )


def packed_bytes(unit: Product) -> int:
    """How large the right operand is once it is packed; 0 where that does not pay."""
    return matmul.packed_bytes(_specification(unit))


def _pack(unit: Pack) -> Calls:
    lowered = matmul.lower_packing(_specification(unit.product))
    memory, affine = unit.product.right
    right = Place(memory, affine[-1] * memory.dtype.itemsize)
    return _staged(lowered, (Place(None), right, Place(unit.value)))


def _product(unit: Product, packed: bool = False) -> Calls:
    epilogue = _epilogue(unit.kernel, ahead=True)
    lowered = matmul.lower(_specification(unit), epilogue, packs_right=packed)
    left, right, *others = _product_words(unit.kernel, unit.left, unit.right)
    return _staged(lowered, (left, Place(unit.packed) if unit.packed else right, *others))


def _epilogue(
    kernel: Kernel, ahead: bool = False, writes: bool = False, in_lines: bool = True
) -> matmul.PrintEpilogue:
    """What a template does with its vectors; `ahead`, it can also ask for what that reads, and
    perhaps for what that `writes`. `in_lines`: see `Epilogue`.
    """

    def text(name: str, lanes: int, accumulator: str) -> str:
        wide = dtypes.as_dtype(accumulator)
        printed = Epilogue(kernel, name, lanes, 3, wide, in_lines).print()
        if ahead:
            printed += Ahead(kernel, f"{name}_ahead", lanes, words=3, writes=writes).print()
        return printed

    return text


def _product_words(
    kernel: Kernel, left: tuple[Value, Affine], right: tuple[Value, Affine]
) -> tuple[Place | int, ...]:
    return (
        Place(left[0], left[1][-1] * left[0].dtype.itemsize),
        Place(right[0], right[1][-1] * right[0].dtype.itemsize),
        Place(None),
        *[Place(buffer) for buffer in kernel.buffers],
    )


def blocks(value: Value) -> int:
    """Into how many blocks a template cuts the rows of a convolution to sum something up in its
    epilogue; 0 where it does not.
    """
    if value.op != "convolution":
        return 0
    spec = _spec(value, (0, 0, 0, 0, 1))
    form = _form(value, spec)
    if form == "minimal":
        return winograd.block_count(spec, FILTERS[value.attributes["minimal"]])
    rules = {"direct": convolution.block_count, "depthwise": depthwise.block_count}
    return rules[form](spec) if form in rules else 0


def _form(value: Value, spec: Direct) -> str:
    """Which template computes a convolution, or its gradient for the weights."""
    if "minimal" in value.attributes:
        return "minimal"
    channels = value.inputs[0].shape[-1] // spec.groups
    if depthwise.applies(value.dtype, spec.groups, channels, spec.outputs):
        return "depthwise"
    images = value.op == "convolution" and convolution_images.applies(spec)
    return "images" if images else "direct"


def _spec(value: Value, strides: tuple[int, int, int, int, int]) -> Direct:
    """What a template is told of a convolution, whose input has these strides."""
    x, named = value.inputs[0], value.attributes
    spec = Direct(
        dtype=str(value.dtype),
        images=x.shape[0],
        groups=named["groups"],
        channels=x.shape[-1] // named["groups"],
        outputs=named["outputs"],
        axes=named["axes"],
        x_strides=strides,
    )
    return spec.in_pairs() if "pairs" in named else spec


def _convolution(unit: Convolution) -> Calls:
    value = unit.value
    named, groups = value.attributes, value.attributes["groups"]
    spec = _spec(value, _image_strides(unit.operands[0][1]))
    form, minimal = _form(value, spec), FILTERS.get(named.get("minimal", 0))
    # A row has the outputs of all groups, each of which may end in the middle of a vector.
    epilogue = partial(_epilogue, unit.kernel, in_lines=groups == 1)
    is_far = value.nbytes > _FAR
    prologues = _prologues(unit)
    if value.op == "convolution_weight":
        g_strides = _image_strides(unit.operands[1][1])
        if minimal:
            lowered = lower_minimal_gradient(
                spec, minimal, g_strides, epilogue(), prologues=prologues
            )
        else:
            rule = lower_depthwise_weight if form == "depthwise" else lower_weight
            lowered = rule(spec, g_strides, epilogue())
    elif minimal:
        lowered = winograd.lower(
            spec, minimal, epilogue(ahead=True, writes=is_far), print_prologue=prologues[0]
        )
    elif form == "depthwise":
        lowered = depthwise.lower(spec, epilogue(ahead=is_far, writes=is_far))
    elif form == "images":
        lowered = convolution_images.lower(spec, epilogue())
    else:
        lowered = convolution.lower(spec, epilogue(ahead=True, writes=is_far))
    words = _product_words(unit.kernel, *unit.operands)
    for i, kernel in enumerate(unit.prologues):
        if kernel is not None:
            operand = unit.operands[i][0]
            words = (*words[:i], Place(None), *words[i + 1 :])
            words += tuple(Place(None if b is operand else b) for b in kernel.buffers)
    return _staged(lowered, words)


def _prologues(unit: Convolution) -> list[PrintPrologue | None]:
    """What computes the operands that are not in memory."""
    found: list[PrintPrologue | None] = []
    word = 3 + len(unit.kernel.buffers)
    for kernel in unit.prologues:
        found.append(partial(_prologue, kernel, word) if kernel else None)
        word += len(kernel.buffers) if kernel else 0
    return found


def _prologue(kernel: Kernel, word: int, name: str, lanes: int) -> str:
    return Prologue(kernel, name, lanes, word).print()


def _panels(unit: Panels) -> Calls:
    value, (memory, affine) = unit.value, unit.source
    groups, outputs, channels, taps = value.inputs[0].shape
    named = value.attributes
    spec = Weights(
        str(memory.dtype), groups, outputs, channels, taps, named["width"], affine[:-1],
        named.get("pairs", False),
    )  # fmt: skip
    words = (Place(memory, affine[-1] * memory.dtype.itemsize), Place(value))
    if "minimal" in named:
        filter = FILTERS[named["minimal"]]
        return _staged(lower_minimal_weights(spec, filter, named["turned"]), words)
    return _staged(lower_panels(spec), words)


def _image_strides(affine: Affine) -> tuple[int, int, int, int, int]:
    """Strides of images, three axes and channels, from those of as many axes as there are."""
    first, *sizes, last, _ = affine
    depth, height, width = [0, 0, *sizes][-3:]
    return first, depth, height, width, last


def _staged(lowered: Any, words: tuple[Place | int, ...]) -> Calls:
    groups = tuple(
        (Call(Source(s.text, (s.name,)), s.name, s.parts, s.scratch, words),)
        for s in lowered.stages
    )
    packs = getattr(lowered, "packs_right", False)
    return Calls(groups, lowered.workspace, getattr(lowered, "shared", ()), packs=packs)


def _attention(unit: Attention) -> Calls:
    value = unit.value
    backward = value.op == "attention_gradient"
    q, k, v = value.inputs[1:4] if backward else value.inputs[:3]
    masked = len(value.inputs) == (6 if backward else 4)

    def strides(i: int | None) -> tuple[int, ...] | None:
        return None if i is None else unit.operands[i][1][:-1]

    first = 1 if backward else 0
    spec = attention.Attention(
        str(value.dtype), q.shape[:-2], q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1],
        value.attributes["causal"], value.attributes["scale"],
        q=strides(first), k=strides(first + 1), v=strides(first + 2),
        g=strides(0) if backward else None, y=strides(4) if backward else value.strides,
        mask=strides(len(value.inputs) - 1) if masked else None,
    )  # fmt: skip
    target = value
    if unit.into is not None:
        target, (dq, dk, dv) = unit.into
        spec = replace(spec, dq=dq[:-1], dk=dk[:-1], dv_=dv[:-1], starts=(dq[-1], dk[-1], dv[-1]))
    size = value.dtype.itemsize

    def place(i: int) -> Place:
        memory, affine = unit.operands[i]
        return Place(memory, affine[-1] * size)

    words = [place(first + i) for i in range(3)]
    words.append(place(len(value.inputs) - 1) if masked else Place(None))
    words += [Place(target), Place(None)]
    if backward:
        words += [place(0), place(4)]
        return _staged(attention.lower_backward(spec), tuple(words))
    return _staged(attention.lower_forward(spec), tuple(words))


def _scatter_add(unit: ScatterAdd) -> Calls:
    value = unit.value
    columns = math.prod(value.shape[1:])
    rows = math.prod(value.inputs[2].shape)
    text, parts = print_scatter_add("kernel", value.dtype, value.shape[0], columns, rows)
    if not parts:
        return Calls((_kernel(unit.fill),))
    source, name = _named(text, "kernel")
    (part, first), (index, start) = unit.part, unit.index
    words = (
        Place(value),
        Place(part, first * part.dtype.itemsize),
        Place(index, start * index.dtype.itemsize),
    )
    return Calls((_kernel(unit.fill), (Call(source, name, parts, 0, words),)))


def _repeat(unit: Repeat) -> Calls:
    """The launches of a step, as a loop; what they share in all rounds is packed before."""
    lowered = [_in_loop(unit, each) for each in unit.units]
    measured = dict(zip(map(id, unit.units), lowered, strict=True))

    def measure(each: Any) -> tuple[int, int]:
        calls, packs = measured[id(each)]
        return max(1, len(calls.groups) - packs), 0 if packs else calls.workspace

    made = plan(unit.steps, unit.units, [*unit.steps.outputs, *unit.steps.checks], measure)
    before: list[tuple[Call, ...]] = [tuple(c for k in unit.before for c in _kernel(k))]
    inside: list[list[Call]] = [[] for _ in range(made.waves)]
    workspace = made.arena
    shared: list[Source] = []
    for number, (step, (calls, packs)) in enumerate(zip(made.steps, lowered, strict=True)):
        own = made.workspaces.get(number, 0)
        if packs:
            own, workspace = workspace, workspace + -(-calls.workspace // 64) * 64

        def at_home(call: Call, own: int = own) -> Call:
            words = tuple(_placed(unit, made, word, own) for word in call.words)
            return replace(call, words=words)

        before += [tuple(map(at_home, group)) for group in calls.groups[:packs]]
        for i, group in enumerate(calls.groups[packs:]):
            inside[step.waves[i]] += map(at_home, group)
        shared += calls.shared
    behind = tuple(c for k in unit.behind for c in _kernel(k))
    groups = (*before, *map(tuple, inside), behind)
    first = len(before)
    return Calls(groups, workspace, tuple(shared), unit.rounds, (first, first + made.waves))


def _in_loop(loop: Repeat, unit: Unit) -> tuple[Calls, int]:
    """The launches of a unit of a step, and how many of the first of them are for all rounds.

    A right operand that is the same in all rounds is packed once, in the order in which the
    product goes through it.
    """
    if isinstance(unit, Product) and loop.is_fixed(unit.right[0]):
        calls = _product(unit, packed=True)
        if calls.packs:
            return calls, 1
    return lower(unit), 0


def _placed(loop: Repeat, made: Plan, word: Place | int, workspace: int) -> Place | int:
    """A word of a step in terms of the memories around the loop."""
    if isinstance(word, int):
        return word
    if word.value is None:
        return Place(None, workspace + word.offset)
    moving = loop.places.get(word.value)
    if moving is not None:
        return Place(moving.memory, moving.offset + word.offset, moving.even, moving.odd)
    if word.value.op == "constant":
        return word
    return Place(None, made.offsets.get(word.value, 0) + word.offset)


_TABLE: dict[type, Callable[[Any], Calls]] = {
    Loops: _loops,
    Assemble: _assemble,
    Product: _product,
    Pack: _pack,
    Convolution: _convolution,
    Panels: _panels,
    Attention: _attention,
    ScatterAdd: _scatter_add,
    Repeat: _repeat,
}
