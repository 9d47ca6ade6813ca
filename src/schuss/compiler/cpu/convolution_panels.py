"""Weights of direct convolutions, brought into the order in which kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from schuss.compiler.cpu import matmul_pack
from schuss.compiler.cpu.convolution_plan import lanes_for
from schuss.compiler.cpu.convolution_text import zeros
from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.matmul import Lowered, this_machine
from schuss.compiler.cpu.matmul_plan import ELEMENTS, Machine, ceil_div
from schuss.compiler.cpu.matmul_stages import Stage
from schuss.compiler.cpu.matmul_text import Function

_PART = 32_768  # elements of a part, about
_AHEAD = 8  # channels that are asked for before they are read


@dataclass(frozen=True)
class Weights:
    """w[group, output, channel, tap], with its strides in elements, and the width of a panel; with
    `pairs` those of channels are put together (convolution_plan.py).
    """

    dtype: str
    groups: int
    outputs: int
    channels: int
    taps: int
    width: int
    strides: tuple[int, ...]
    pairs: bool = False


def lower_panels(w: Weights, machine: Machine | None = None) -> Lowered:
    """The launch that writes (groups, panels, taps, channels, width); words are w and that."""
    if w.pairs:
        return _lower_pairs(w, machine or this_machine())
    source, element = ELEMENTS[w.dtype]
    lanes = min(w.width, lanes_for(machine or this_machine(), element, w.outputs))
    g_stride, o_stride, c_stride, t_stride = w.strides
    pack = matmul_pack.choose(source, element, lanes, o_stride, t_stride)
    panels = ceil_div(w.outputs, w.width)
    share = min(w.channels, max(1, _PART // (w.taps * w.width)))
    pieces = ceil_div(w.channels, share)
    name = f"panels_{sha256(f'{w}{lanes}'.encode()).hexdigest()[:16]}"
    f = Function(f"define void @{name}(ptr noalias %args, i64 %part, ptr noalias %scratch)")
    rest, piece = f.divide("%part", pieces)
    group, panel = f.divide(rest, panels)
    first = f.mul(panel, w.width)
    count = f.smaller(f.sub(w.outputs, first), w.width)
    start = f.add(f.mul(group, g_stride), f.mul(first, o_stride))
    start = f.at(source, f.word(0), start)
    index = f.add(f.mul(group, panels), panel)
    target = f.at(element, f.word(1), f.mul(index, w.taps * w.channels * w.width))
    channel0 = f.mul(piece, share)
    with f.loop(channel0, f.smaller(f.add(channel0, share), w.channels)) as c:
        here = f.at(source, start, f.mul(c, c_stride))
        there = f.at(element, target, f.mul(c, w.width))
        row = w.channels * w.width
        with f.loop(0, count) as o:  # outputs lie in more pages than the machine looks ahead in
            soon = f.at(source, here, f.add(f.mul(o, o_stride), _AHEAD * c_stride))
            f.line(f"call void @llvm.prefetch.p0(ptr {soon}, i32 0, i32 2, i32 1)")
        with f.loop(0, count, lanes) as o:
            f.line(
                f"call void @{pack.name}(ptr {f.at(source, here, f.mul(o, o_stride))}, "
                f"i64 {o_stride}, i64 {t_stride}, i64 {f.smaller(f.sub(count, o), lanes)}, "
                f"i64 {w.taps}, ptr {f.at(element, there, o)}, i64 {row})"
            )
        if w.outputs % w.width:
            with f.loop(0, w.taps) as t:
                end = f.at(element, there, f.add(f.mul(t, row), count))
                zeros(f, element, end, f.sub(w.width, count))
    f.line("ret void")
    shared = (Source(matmul_pack.definition(pack), (pack.name,), shared=True),)
    needs = "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"
    text = f"{needs}\n{matmul_pack.declaration(pack)}\n{f}\n"
    return Lowered(shared, (Stage(text, name, w.groups * panels * pieces, 0),), 0)


def _lower_pairs(w: Weights, machine: Machine) -> Lowered:
    """The same for pairs, a tap of a panel for each part."""
    source, element = ELEMENTS[w.dtype][0], "i32"
    lanes = min(w.width, lanes_for(machine, element, w.outputs))
    g_stride, o_stride, c_stride, t_stride = w.strides
    pack = matmul_pack.choose(source, element, lanes, o_stride, c_stride, pairs=True)
    panels = ceil_div(w.outputs, w.width)
    name = f"panels_{sha256(f'{w}{lanes}'.encode()).hexdigest()[:16]}"
    f = Function(f"define void @{name}(ptr noalias %args, i64 %part, ptr noalias %scratch)")
    index, t = f.divide("%part", w.taps)
    group, panel = f.divide(index, panels)
    first = f.mul(panel, w.width)
    count = f.smaller(f.sub(w.outputs, first), w.width)
    start = f.add(f.mul(group, g_stride), f.mul(first, o_stride))
    start = f.at(source, f.word(0), f.add(start, f.mul(t, t_stride)))
    pairs = ceil_div(w.channels, 2)
    target = f.at(element, f.word(1), f.mul("%part", pairs * w.width))
    with f.loop(0, count, lanes) as o:
        f.line(
            f"call void @{pack.name}(ptr {f.at(source, start, f.mul(o, o_stride))}, "
            f"i64 {o_stride}, i64 {c_stride}, i64 {f.smaller(f.sub(count, o), lanes)}, "
            f"i64 {w.channels}, ptr {f.at(element, target, o)}, i64 {w.width})"
        )
    if w.outputs % w.width:
        with f.loop(0, pairs) as c:
            end = f.at(element, target, f.add(f.mul(c, w.width), count))
            zeros(f, element, end, f.sub(w.width, count))
    f.line("ret void")
    shared = (Source(matmul_pack.definition(pack), (pack.name,), shared=True),)
    text = f"{matmul_pack.declaration(pack)}\n{f}\n"
    return Lowered(shared, (Stage(text, name, w.groups * panels * w.taps, 0),), 0)
