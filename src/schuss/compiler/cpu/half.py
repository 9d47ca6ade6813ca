"""float16 to float32 and back, for x86-64 processors without instructions for it.

There LLVM calls functions that the compilers' own libraries have, under these names, if they are
new enough; so they are defined here. The arithmetic is Fabian Giesen's ("Half to float done quick",
2012): a multiplication by a power of two moves the exponent and makes subnormal numbers normal.
"""

from __future__ import annotations

from functools import cache

from schuss.compiler.cpu.host import Host
from schuss.compiler.cpu.translate import translate

_TEXT = """
define float @__extendhfsf2(half %x) {
  %short = bitcast half %x to i16
  %bits = zext i16 %short to i32
  %size = and i32 %bits, 32767
  %moved = shl i32 %size, 13
  %tiny = bitcast i32 %moved to float
  %scaled = fmul float %tiny, 0x46F0000000000000   ; 2^112
  %number = bitcast float %scaled to i32
  %special = or i32 %moved, 2139095040             ; infinity or NaN
  %is_special = icmp uge i32 %size, 31744
  %found = select i1 %is_special, i32 %special, i32 %number
  %sign = and i32 %bits, 32768
  %upper = shl i32 %sign, 16
  %signed = or i32 %found, %upper
  %result = bitcast i32 %signed to float
  ret float %result
}

; To the nearest, ties to even.
define half @__truncsfhf2(float %x) {
  %bits = bitcast float %x to i32
  %size = and i32 %bits, 2147483647
  %magnitude = bitcast i32 %size to float
  %added = fadd float %magnitude, 5.0e-01          ; rounds where subnormal numbers end
  %added_bits = bitcast float %added to i32
  %subnormal = sub i32 %added_bits, 1056964608
  %last = lshr i32 %size, 13
  %odd = and i32 %last, 1
  %moved = add i32 %size, 3355447295               ; the other bias, and half a unit less one
  %up = add i32 %moved, %odd
  %normal = lshr i32 %up, 13
  %is_subnormal = icmp ult i32 %size, 947912704    ; 2^-14
  %number = select i1 %is_subnormal, i32 %subnormal, i32 %normal
  %is_large = icmp uge i32 %size, 1199570944       ; 2^16
  %is_nan = icmp ugt i32 %size, 2139095040
  %special = select i1 %is_nan, i32 32256, i32 31744
  %found = select i1 %is_large, i32 %special, i32 %number
  %sign = lshr i32 %bits, 16
  %alone = and i32 %sign, 32768
  %signed = or i32 %found, %alone
  %short = trunc i32 %signed to i16
  %result = bitcast i16 %short to half
  ret half %result
}
"""


def object_for(host: Host) -> bytes | None:
    """The object with both functions, where kernels may call them."""
    return _object() if host.is_x86 and host.vector_bits == 128 else None


@cache
def _object() -> bytes:
    return translate(_TEXT)
