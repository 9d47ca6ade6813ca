"""Weights of 3 x 3 convolutions for minimal filtering: G g G^T of each kernel g, in panels."""

from __future__ import annotations

from hashlib import sha256

from schuss.compiler.cpu import matmul_pack
from schuss.compiler.cpu.convolution_panels import Weights
from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.matmul import Lowered, this_machine
from schuss.compiler.cpu.matmul_plan import ELEMENTS, Machine, ceil_div
from schuss.compiler.cpu.matmul_stages import Stage
from schuss.compiler.cpu.matmul_text import Function
from schuss.compiler.cpu.winograd_filter import Filter, both_ways
from schuss.compiler.cpu.winograd_text import BYTES

_PART = 2048  # kernels of a part, about
_KERNEL = 9


def lower_weights(
    w: Weights, filter: Filter, backwards: bool, machine: Machine | None = None
) -> Lowered:
    """The launch that writes (1, panels, taps, channels, width); words are w and that.

    With `backwards`, kernels are turned around first. What lies behind the last output is not
    written.
    """
    lanes = (machine or this_machine()).vector_bytes // BYTES
    source, element = ELEMENTS[w.dtype]
    assert (element, w.outputs % lanes, w.taps) == ("float", 0, _KERNEL), w
    _, o_stride, c_stride, t_stride = w.strides
    pack = matmul_pack.choose(source, "float", lanes, o_stride, t_stride)
    panels = ceil_div(w.outputs, w.width)
    share = min(w.channels, max(1, _PART // w.width))
    pieces = ceil_div(w.channels, share)
    name = f"winograd_{sha256(f'{w}{filter}{lanes}{backwards}'.encode()).hexdigest()[:16]}"
    f = Function(f"define void @{name}(ptr noalias %args, i64 %part, ptr noalias %scratch)")
    panel, piece = f.divide("%part", pieces)
    first = f.mul(panel, w.width)
    count = f.smaller(f.sub(w.outputs, first), w.width)
    start = f.at(source, f.word(0), f.mul(first, o_stride))
    target = f.at("float", f.word(1), f.mul(panel, filter.taps * w.channels * w.width))
    channel0 = f.mul(piece, share)
    channel1 = f.smaller(f.add(channel0, share), w.channels)
    with f.loop(channel0, channel1) as c, f.loop(0, count, lanes) as o:
        here = f.at(source, start, f.add(f.mul(c, c_stride), f.mul(o, o_stride)))
        f.line(
            f"call void @{pack.name}(ptr {here}, i64 {o_stride}, i64 {t_stride}, i64 {lanes}, "
            f"i64 {_KERNEL}, ptr %scratch, i64 {lanes})"
        )
        g = [_load(f, lanes, t) for t in range(_KERNEL)]
        there = f.at("float", target, f.add(f.mul(c, w.width), o))
        turned = g[::-1] if backwards else g
        for tap, value in enumerate(both_ways(f, f"<{lanes} x float>", filter.g, turned)):
            place = f.at("float", there, tap * w.channels * w.width)
            f.line(f"store <{lanes} x float> {value}, ptr {place}, align {BYTES}")
    f.line("ret void")
    shared = (Source(matmul_pack.definition(pack), (pack.name,), shared=True),)
    text = f"{matmul_pack.declaration(pack)}\n{f}\n"
    scratch = _KERNEL * lanes * BYTES
    return Lowered(shared, (Stage(text, name, panels * pieces, scratch),), 0)


def _load(f: Function, lanes: int, tap: int) -> str:
    place = f.at("float", "%scratch", tap * lanes)
    return f.let(f"load <{lanes} x float>, ptr {place}, align {BYTES}")
