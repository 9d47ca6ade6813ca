"""What PyTorch's operators are called here: name -> function of the same arguments.

Most entries rename arguments. Some spell in a line what has no name of its own here.
"""

from __future__ import annotations

from opinfo_tables import composed, elementwise, matrices, networks, reductions, shapes
from opinfo_tables.base import TABLE, Unsupported
from opinfo_tables.composed import FORMULAS
from opinfo_tables.explained import EXPLAINED, INVARIANT

__all__ = [
    "EXPLAINED",
    "FORMULAS",
    "INVARIANT",
    "TABLE",
    "Unsupported",
    "composed",
    "elementwise",
    "matrices",
    "networks",
    "reductions",
    "shapes",
]
