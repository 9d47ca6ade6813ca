"""Printing a kernel of loops as LLVM IR.

Every line of the kernel is printed once for each place where its value is needed: lines that vary
with nothing at the top of the function, lines of the outer loops once a row, all others as vectors
along the last axis, with a masked vector for what is left at the end. `printer.py` has what all
shapes of loops share; `rows.py`, `columns.py`, `tiles.py`, `running.py` and `epilogue.py` have a
shape each.
"""

from __future__ import annotations

from schuss.compiler.cpu.columns import Columns
from schuss.compiler.cpu.crossing import crossing_axis
from schuss.compiler.cpu.printer import Printed
from schuss.compiler.cpu.rows import Rows
from schuss.compiler.cpu.running import Running
from schuss.compiler.cpu.tiles import Tiles
from schuss.compiler.kernel import Kernel


def print_loops(kernel: Kernel, name: str, lanes: int) -> Printed:
    """The kernel as the LLVM function `name`."""
    if 0 in kernel.sizes and not kernel.reduced:
        return Printed("", 0)
    if any(line.op.startswith("running.") for line in kernel.lines):
        return Running(kernel, name, lanes).print()
    if kernel.inner:
        return Columns(kernel, name, lanes).print()
    down = crossing_axis(kernel)
    if down is not None and not kernel.reduced:
        return Tiles(kernel, name, lanes, down).print()
    return Rows(kernel, name, lanes).print()


__all__ = ["Printed", "print_loops"]
