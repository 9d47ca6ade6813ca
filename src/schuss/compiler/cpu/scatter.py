"""Adding rows at places that are data: the gradient of an embedding.

Parts are blocks of columns, and each goes through all rows in their order, so that rows for one
place are always added up in the same order.
"""

from __future__ import annotations

from schuss import dtypes
from schuss.compiler.cpu.elementwise import TABLE, rounded
from schuss.compiler.cpu.host import host
from schuss.compiler.cpu.text import Text, memory_type
from schuss.dtypes import DType

_FEWEST_COLUMNS = 64  # of a part


def print_scatter_add(
    name: str, dtype: DType, places: int, columns: int, rows: int
) -> tuple[str, int]:
    """The kernel, with the words target, rows, places; and its parts (0 where nothing is added)."""
    if not columns or not rows:
        return "", 0
    t, lanes = Text(), host().lanes(dtype)
    block = -(-min(columns, _FEWEST_COLUMNS) // lanes) * lanes
    pointers = []
    for number in range(3):
        word = t.new(f"getelementptr inbounds ptr, ptr %args, i64 {number}")
        pointers.append(t.new(f"load ptr, ptr {word}"))
    target, source, index = pointers
    element = memory_type(dtype)
    low = t.times("%part", block)
    high = t.smaller(t.plus(low, str(block)), str(columns))
    with t.loop("0", str(rows)) as i:
        place = t.load(t.address(index, i, "i64"), dtypes.int64, 1, None)
        below = t.new(f"icmp slt i64 {place}, 0")
        wrapped = t.new(f"add i64 {place}, {places}")
        place = t.new(f"select i1 {below}, i64 {wrapped}, i64 {place}")
        inside = t.new(f"icmp ult i64 {place}, {places}")
        with t.when(inside):  # the check reports what is outside
            to = t.address(target, t.times(place, columns), element)
            what = t.address(source, t.times(i, columns), element)
            with t.loop(low, high, lanes) as j:
                rest = t.new(f"sub i64 {high}, {j}")
                mask = None if columns % lanes == 0 else t.mask(rest, lanes)
                a = t.load(t.address(to, j, element), dtype, lanes, mask)
                b = t.load(t.address(what, j, element), dtype, lanes, mask)
                total = TABLE["add"](t, [a, b], [dtype, dtype], dtype, lanes)
                if dtype in dtypes.HALF:
                    total = rounded(t, total, dtypes.float32, dtype, lanes)
                t.store(t.address(to, j, element), total, dtype, lanes, mask)
    t.put("ret void")
    signature = f"define void @{name}(ptr noalias %args, i64 %part, ptr noalias %scratch)"
    return t.function(signature), -(-columns // block)
